//! Why a network could not be trained, in sentences.

use std::path::PathBuf;

use super::data::DataError;
use crate::runs::RunError;

/// Why a network could not be trained.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TrainingError {
    #[error("the training option {option} is {value}, but must be {range}")]
    Option { option: &'static str, value: String, range: &'static str },
    #[error(
        "the training option schedule.warmup_epochs is {warmup_epochs}, but must be below epochs, which is {epochs}; set \
         schedule.warmup_epochs to at most {}, or epochs to at least {}", epochs - 1, warmup_epochs + 1
    )]
    WarmUp { warmup_epochs: usize, epochs: usize },
    #[error("the recipe {label} cannot be used: {reason}")]
    Recipe { label: String, reason: String },
    #[error("the recipe {label} sets {key}, which is no option{hint}")]
    UnknownKey { label: String, key: String, hint: String },
    #[error("there is no network {name:?}{hint}")]
    UnknownNetwork { name: String, hint: String },
    #[error("{network} cannot be trained on images of {pixels} pixels: {reason}")]
    InputSize { network: &'static str, pixels: usize, reason: String },
    #[error(
        "{network} has neither stochastic depth nor dropout, so regularisation.drop_path is {drop_path} and regularisation.dropout {dropout} in vain; set both to 0"
    )]
    NotRegularised { network: &'static str, drop_path: f64, dropout: f64 },
    #[error(
        "the {set} set has {found} classes, but the network {classes}; set classes to at least {found}, or leave it out"
    )]
    TooManyClasses { set: &'static str, found: usize, classes: usize },
    #[error("the network to begin with tells {found} classes apart, but {classes} are learnt; give it as many outputs")]
    InitialClasses { found: usize, classes: usize },
    #[error(
        "a batch of {batch} images of {} × {} pixels and {parameters} parameters for {classes} classes take at least {} of memory, of which \
         {} are free; lower batch_size, input_size or classes, or take a machine with more memory",
        size[0], size[1], gigabytes(*needed), gigabytes(*available)
    )]
    Memory { batch: usize, size: [usize; 2], classes: usize, parameters: usize, needed: u64, available: u64 },
    #[error("{path} is a file, and a run is kept in a folder; give a folder as --run", path = path.display())]
    NotAFolder { path: PathBuf },
    #[error("another process trains in {folder}; wait until it has ended, or give another folder as --run", folder = folder.display())]
    Busy { folder: PathBuf },
    #[error("the {set} set has no images; give at least one")]
    Empty { set: &'static str },
    #[error(
        "all training images are of the class {class}, so there is nothing to tell apart; give images of two classes or more, in a study \
         also among the first --images"
    )]
    OneClass { class: usize },
    #[error("no image of the {set} set could be read; of the first: {first}{kept}")]
    Unreadable { set: &'static str, first: String, kept: String },
    #[error(
        "{images} {set} images in a row could not be read, as if their storage was gone, from {first} on ({reason}); see to the storage, \
         then run the same command again{kept}"
    )]
    Outage { set: &'static str, images: usize, first: String, reason: String, kept: String },
    #[error(
        "{}; lower the learning rate, warm up longer or clip gradients (optimizer.clip_norm){kept}", not_finite(*epoch, *batch, *loss)
    )]
    Diverged { epoch: usize, batch: usize, loss: Option<f64>, kept: String },
    #[error("the checkpoint {path} belongs to another run: {difference}; give the same settings, or another folder as --run", path = path.display())]
    OtherRun { path: PathBuf, difference: String },
    #[error(
        "the checkpoint {path} cannot be used: {reason}; a run keeps no earlier one, so put a copy of it in its place, remove it to train from \
         the beginning, or give another folder as --run", path = path.display()
    )]
    Checkpoint { path: PathBuf, reason: String },
    #[error(
        "a recipe has one of [distillation], [adversarial] and [diverge], and this one has [{first}] and [{second}]; leave one out"
    )]
    Objectives { first: &'static str, second: &'static str },
    #[error("[distillation] names no teacher; give one as distillation.teacher = \"NAME\" or \"NAME=FILE\"")]
    NoTeacher,
    #[error(
        "the teacher {teacher} tells {has} classes apart and the student {student}; give a teacher that was trained on the same classes"
    )]
    TeacherClasses { teacher: String, has: usize, student: usize },
    #[error(transparent)]
    Weights(#[from] netkin_weights::Error),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Data(#[from] DataError),
}

/// What is no longer finite, and where: the loss of a batch before its step or, without a loss, the weights after it.
fn not_finite(epoch: usize, batch: usize, loss: Option<f64>) -> String {
    match loss {
        Some(loss) => format!("the loss of epoch {epoch}, batch {batch} is {loss}"),
        None => format!("the step of epoch {epoch}, batch {batch} made weights that are no finite numbers"),
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}
