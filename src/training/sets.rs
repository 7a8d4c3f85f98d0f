//! The two sets of a run, and what can be said of them before anything is computed or written.

use std::sync::Arc;

use burn::tensor::Device;
use netkin_architectures::registry;

use super::data::{Source, batches};
use super::{Recipe, TrainingError};
use crate::images::{DecodeError, RgbImage};
use crate::{device, memory};

/// Checks all that can be checked before anything is computed or written: the recipe's options, that the classes of both sets are the
/// network's, that an epoch has a batch, and that the memory holds what a step takes at the least (on the CPU, where the system tells).
///
/// # Errors
/// If one of that is not so.
pub fn check(
    recipe: &Recipe,
    training: &Arc<dyn Source>,
    testing: &Arc<dyn Source>,
    device: &Device,
) -> Result<(), TrainingError> {
    recipe.check()?;
    let [training, _] = widened(recipe, training, testing)?;
    check_classes(&*training)?;
    let batch_size = recipe.batch_size.min(training.len());
    if batches(training.len(), recipe.augmentation.repeats, batch_size) == 0 {
        let (option, value) = ("batch_size", recipe.batch_size.to_string());
        let range = "at most the images of an epoch, which with augmentation.repeats is a multiple of 256";
        return Err(TrainingError::Option { option, value, range });
    }
    match memory::available().filter(|_| device::is_cpu(device)) {
        Some(available) => check_memory(recipe, batch_size, training.classes(), available),
        None => Ok(()),
    }
}

/// A sentence if there are classes without training images, of which nothing can be learnt; none otherwise.
pub fn without_images(training: &dyn Source) -> Option<String> {
    /// So many are named.
    const NAMED: usize = 5;
    let mut has_images = vec![false; training.classes()];
    (0..training.len()).for_each(|index| has_images[training.label(index)] = true);
    let mut missing = training.empty_classes();
    let classes = has_images.len() + missing.len();
    missing.extend((0..has_images.len()).filter(|&class| !has_images[class]).map(|class| class.to_string()));
    if missing.is_empty() {
        return None;
    }
    let (count, names) = (missing.len(), missing[..missing.len().min(NAMED)].join(", "));
    let more = if count > NAMED { ", …" } else { "" };
    Some(format!("{count} of {classes} classes without training images, of which nothing is learnt: {names}{more}"))
}

/// Checks that there are two classes to tell apart.
fn check_classes(training: &dyn Source) -> Result<(), TrainingError> {
    let first = training.label(0);
    if (1..training.len()).any(|index| training.label(index) != first) {
        return Ok(());
    }
    Err(TrainingError::OneClass { class: first })
}

/// Checks that so many bytes hold the weights, their gradients, what the optimiser keeps of each, and a batch's pixels and answers.
/// What a step takes beyond that depends on the network.
fn check_memory(recipe: &Recipe, batch: usize, classes: usize, available: u64) -> Result<(), TrainingError> {
    let configured = recipe.configuration()?;
    let [height, width] = configured.input_size();
    // Parameters are numbers in memory only once they are used.
    let parameters = registry::parameters(&configured.config().build(classes, &Device::flex()));
    let number = recipe.precision.dtype().size() as u64;
    let image = (3 * height * width + classes) as u64 * (4 + number);
    let needed = parameters as u64 * 3 * number + batch as u64 * image;
    if needed <= available {
        return Ok(());
    }
    Err(TrainingError::Memory { batch, size: [height, width], classes, parameters, needed, available })
}

/// Both sets, with the classes that the network is to tell apart.
pub(super) fn widened(
    recipe: &Recipe,
    training: &Arc<dyn Source>,
    testing: &Arc<dyn Source>,
) -> Result<[Arc<dyn Source>; 2], TrainingError> {
    let classes = recipe.classes.unwrap_or_else(|| training.classes());
    let widened = |set: &'static str, images: &Arc<dyn Source>| -> Result<Arc<dyn Source>, TrainingError> {
        let found = images.classes();
        if images.is_empty() {
            Err(TrainingError::Empty { set })
        } else if found > classes {
            Err(TrainingError::TooManyClasses { set, found, classes })
        } else if found < classes {
            Ok(Arc::new(Widened { images: Arc::clone(images), classes }))
        } else {
            Ok(Arc::clone(images))
        }
    };
    Ok([widened("training", training)?, widened("test", testing)?])
}

/// Images of which some classes have none.
struct Widened {
    images: Arc<dyn Source>,
    classes: usize,
}

impl Source for Widened {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.images.label(index)
    }

    fn id(&self, index: usize) -> String {
        self.images.id(index)
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        self.images.read(index)
    }

    fn fingerprint(&self) -> String {
        self.images.fingerprint()
    }

    fn empty_classes(&self) -> Vec<String> {
        self.images.empty_classes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::data::Images;

    fn images(labels: &[usize], classes: usize) -> Arc<dyn Source> {
        let images = labels.iter().map(|_| RgbImage::new(1, 1, vec![0; 3])).collect();
        Arc::new(Images::new(images, labels.to_vec(), classes).unwrap())
    }

    #[test]
    fn classes_without_images_are_told_and_one_class_alone_is_refused() {
        assert_eq!(without_images(&*images(&[0, 1, 1], 2)), None);
        let said = without_images(&*images(&[3, 1], 5)).unwrap();
        assert_eq!(said, "3 of 5 classes without training images, of which nothing is learnt: 0, 2, 4");
        assert!(without_images(&*images(&[7, 1], 8)).unwrap().ends_with(": 0, 2, 3, 4, 5, …"));
        assert!(check_classes(&*images(&[3, 3, 1], 5)).is_ok());
        let said = check_classes(&*images(&[3, 3], 5)).unwrap_err().to_string();
        assert!(
            said.starts_with("all training images are of the class 3, so there is nothing to tell apart"),
            "{said}"
        );
    }

    #[test]
    fn what_the_memory_does_not_hold_is_refused_with_both_numbers() {
        let recipe = Recipe { model: "demo_resnet".into(), ..Recipe::default() };
        check_memory(&recipe, 8, 10, 1 << 30).unwrap();
        let said = check_memory(&recipe, 8, 1 << 20, 1 << 28).unwrap_err().to_string();
        assert!(said.contains("of which 0.27 GB are free") && said.contains("lower batch_size"), "{said}");
        assert!(check_memory(&recipe, 1 << 20, 10, 1 << 30).is_err());
    }
}
