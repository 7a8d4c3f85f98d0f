//! Weights for the networks of [`netkin_architectures`]: from a name to a network that is ready to run.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use netkin_weights::{HubConfig, ModelSpec, Precision, load};
//!
//! let spec: ModelSpec = "resnet50.a1_in1k".parse()?;
//! let hub = HubConfig::from_env();
//! let loaded = load(&spec, Precision::F32, &Device::flex(), &hub, &mut |_| {})?;
//! println!("{}: {} parameters", loaded.name, loaded.parameters);
//! # Ok::<(), netkin_weights::Error>(())
//! ```
//!
//! * [`ModelSpec`]: what a person writes where a model is expected: `NAME`, `NAME.TAG`, `NAME=PATH`, `NAME.TAG=PATH`.
//! * [`ModelSet`]: several at once: `@paper69`, `@demo`, `@FILE`, whose lines may name sets, too.
//! * [`load()`]: a file of safetensors or a PyTorch checkpoint, taken strictly, into a network.
//! * [`check`]: how such a file fits, without loading it; [`preprocessing()`]: how images are prepared for it.
//! * [`locate`] and [`fetch`]: where weights are on this machine, and how they come there.
//! * [`save()`]: a network's parameters as safetensors under timm's keys.
//! * [`files`]: files that are there whole or not at all.
//! * [`hub`]: the Hugging Face hub and its cache folder.
//! * [`catalogue`]: which weights timm publishes, and how images are prepared for them.
//! * [`embedded`]: the weights inside the program.
//!
//! This crate knows files and nothing of what is done with a network; it prints nothing.

#![warn(missing_docs)]

pub mod catalogue;
pub mod embedded;
mod error;
mod file;
pub mod files;
pub mod hub;
mod layout;
mod load;
mod pickle;
mod precision;
mod preprocessing;
mod save;
mod sets;
mod spec;

pub use error::{Error, Misfit};
pub use hub::{HubConfig, Progress};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use load::remap;
pub use load::{Check, Loaded, Source, check, fetch, finetune, load, locate, preprocessing};
pub use precision::Precision;
pub use preprocessing::{CropMode, Interpolation, Preprocessing};
pub use save::{save, to_safetensors};
pub use sets::{ModelSet, paper69};
pub use spec::ModelSpec;
