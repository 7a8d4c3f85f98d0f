//! The networks of netkin, written natively on [Burn](burn).
//!
//! A network takes normalised images `[batch, 3, height, width]` and gives its pooled features and its logits
//! ([`Outputs`]). Names and parameter keys are those of timm (PyTorch Image Models), so timm's weights load without
//! renaming. This crate knows tensors and nothing of files.
//!
//! * [`layers`]: the shared parts, written once.
//! * [`mobile`]: the blocks of EfficientNet and MobileNet, and the tables that describe them.
//! * [`family`]: what every family offers.
//! * [`families`]: one file per family: a configuration, its variants as pure data, the blocks, the forward pass; and
//!   [`Network`], any network of any of them.
//! * [`registry`]: name → family, configuration.
//! * [`names`]: a network's tensors by timm's names.
//! * [`stochastic`]: what networks do in training only.
//! * [`Checkpoint`]: the tensors of a weights file on their way into a network.

#![warn(missing_docs)]
#![allow(clippy::large_enum_variant, reason = "a network has few parts, most of which are its weights on the heap")]

mod checkpoint;
mod components;
pub mod families;
pub mod family;
mod initial;
mod interpolation;
pub mod layers;
pub mod mobile;
pub mod names;
mod random;
pub mod registry;
mod taps;

pub use checkpoint::Checkpoint;
pub use components::Components;
pub use families::{AnyConfiguration, Network};
pub use family::{Architecture, Configuration, InputRule, Outputs};
pub use layers::{Regularisation, stochastic};
pub use random::Random;
pub use registry::{Entry, find, matching};
pub use taps::Taps;
