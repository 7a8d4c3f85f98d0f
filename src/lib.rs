//! **netkin** tells how alike neural networks are.
//!
//! It attacks one network and looks whether the others fall for the same images ([`similarity::sat`]). The networks are
//! written natively on [Burn](burn) (crate `netkin-architectures`), timm's weights load by crate `netkin-weights`.
//!
//! ```no_run
//! use netkin::{Model, images::Dataset, similarity::sat};
//! use netkin_weights::{HubConfig, Precision, load};
//!
//! let device = burn::tensor::Device::flex();
//! let hub = HubConfig::from_env();
//! let mut models = Vec::new();
//! for name in ["resnet50.a1_in1k", "vit_small_patch16_224"] {
//!     let loaded = load(&name.parse()?, Precision::F32, &device, &hub, &mut |_| {})?;
//!     models.push(Model::new(loaded, Precision::F32, device.clone()));
//! }
//! let images = Dataset::open("images".as_ref(), Some("labels.csv".as_ref()))?;
//! let run = sat::run(&models, &images, &sat::SatConfig::default(), "run".as_ref(), |_| {})?;
//! print!("{}", run.matrix().to_table());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

pub mod analysis;
mod arrays;
pub mod attacks;
#[doc(hidden)]
pub mod cli;
pub mod device;
pub mod doctor;
mod files;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod images;
pub mod memory;
pub mod model;
mod noise;
mod npy;
mod random;
pub mod report;
pub mod runs;
pub mod runtime;
pub mod similarity;
pub mod speed;
pub mod training;

pub use model::Model;
