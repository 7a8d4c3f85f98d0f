//! Training: from a recipe, an objective and images to a network, reproducible from a seed, stopped and continued at any step.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//!
//! use netkin::training::{Recipe, Run, data, objective::CrossEntropy, train};
//!
//! let recipe = Recipe::open("deit-tiny", &["batch_size=256".into()])?;
//! let (training, testing) =
//!     (data::open("imagenet".as_ref(), data::Split::Train)?, data::open("imagenet".as_ref(), data::Split::Test)?);
//! let run = Run {
//!     recipe: &recipe,
//!     objective: &CrossEntropy,
//!     training,
//!     testing,
//!     folder: Some("my-run".as_ref()),
//!     device: &burn::tensor::Device::flex(),
//!     stop: &AtomicBool::new(false),
//!     initial: None,
//! };
//! let trained = train(&run, &mut |event| println!("{event:?}"))?;
//! netkin_weights::save(&trained.network, "my-run/model.safetensors".as_ref(), recipe.precision)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | [`Recipe`] | how a network is trained, as TOML |
//! | [`data`] | labelled images, read one by one, and the batches that threads make of them ahead of the network |
//! | [`augment`] | what becomes of an image in training, as timm and torchvision define it |
//! | [`objective`] | what is learnt: labels, a teacher, to withstand attacks, to differ from other networks |
//! | [`optimizer`], [`schedule`], [`ema`] | steps, learning rates, the moving average of weights |
//! | [`train`] | the loop, with tests, checkpoints, a log |
//! | [`diversity`], [`study`], [`transfer`] | studies that train many networks |
//! | [`report`] | a page of what a run folder, or that of a study, holds |
//!
//! Nothing is printed: a callback gets every [`Event`].

pub mod augment;
mod checkpoint;
pub mod data;
pub mod diversity;
pub mod ema;
mod error;
mod lock;
mod log;
pub mod objective;
pub mod optimizer;
mod recipe;
pub mod report;
pub mod schedule;
mod sets;
pub mod study;
mod trainer;
pub mod transfer;

pub use error::TrainingError;
pub use log::{EpochReport, Event, StepReport};
pub use recipe::{Configured, Evaluation, Normalisation, Recipe, Regularisation};
pub use sets::{check, without_images};
pub use trainer::{Ended, Run, Trained, accuracy, draw, initial_network, save, train};
