//! The networks of netkin, written natively on [Burn](burn).
//!
//! A network takes normalised images `[batch, 3, height, width]` and gives its pooled features and its logits
//! ([`Outputs`]). Names and parameter keys are those of timm (PyTorch Image Models), so timm's weights load without
//! renaming. This crate knows tensors and nothing of files.
//!
//! * [`layers`]: the shared parts, written once.
//! * [`families`]: one file per family: a configuration, its variants as pure data, the blocks, the forward pass.
//! * [`registry`]: name → family, configuration, input size.
//! * [`Network`]: any network of any family.

#![warn(missing_docs)]

pub mod families;
pub mod layers;
mod network;
pub mod registry;
mod taps;

pub use network::{Architecture, Network, Outputs};
pub use registry::{Entry, find, matching};
pub use taps::Taps;
