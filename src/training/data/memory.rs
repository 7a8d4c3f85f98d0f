//! Images that a program has made, in memory: for small sets and for tests.

use super::{DataError, MAX_CLASSES, Source};
use crate::images::{DecodeError, RgbImage};
use crate::training::TrainingError;

/// Labelled images in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    images: Vec<RgbImage>,
    labels: Vec<usize>,
    classes: usize,
}

impl Images {
    /// One label for each image, below `classes`.
    ///
    /// # Errors
    /// [`TrainingError::Data`]: as many labels as images are needed, and labels that are classes.
    pub fn new(images: Vec<RgbImage>, labels: Vec<usize>, classes: usize) -> Result<Self, TrainingError> {
        if images.len() != labels.len() {
            return Err(DataError::Count { images: images.len(), labels: labels.len() }.into());
        }
        let classes = classes.min(MAX_CLASSES);
        if let Some(index) = labels.iter().position(|&label| label >= classes) {
            return Err(DataError::Label { image: index.to_string(), label: labels[index], classes }.into());
        }
        Ok(Self { images, labels, classes })
    }
}

impl Source for Images {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index]
    }

    fn id(&self, index: usize) -> String {
        index.to_string()
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        Ok(self.images[index].clone())
    }

    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.classes as u64).to_le_bytes());
        for (image, &label) in self.images.iter().zip(&self.labels) {
            for number in [label, image.width(), image.height()] {
                hasher.update(&(number as u64).to_le_bytes());
            }
            hasher.update(image.data());
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(gray: u8) -> RgbImage {
        RgbImage::new(1, 2, vec![gray; 6])
    }

    #[test]
    fn images_come_back_with_their_labels() {
        let images = Images::new(vec![image(3), image(4)], vec![1, 0], 2).unwrap();
        assert_eq!((images.len(), images.classes(), images.label(0)), (2, 2, 1));
        assert_eq!(images.read(1).unwrap(), image(4));
        assert_eq!(images.id(1), "1");
    }

    #[test]
    fn every_part_counts_for_the_fingerprint() {
        let fingerprint = |grays: [u8; 2], labels: [usize; 2], classes| {
            Images::new(grays.map(image).to_vec(), labels.to_vec(), classes).unwrap().fingerprint()
        };
        let first = fingerprint([1, 2], [0, 1], 2);
        assert_eq!(first, fingerprint([1, 2], [0, 1], 2));
        for other in [fingerprint([1, 3], [0, 1], 2), fingerprint([1, 2], [1, 0], 2), fingerprint([1, 2], [0, 1], 3)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn sets_that_do_not_fit_together_are_refused() {
        let message = |labels, classes| Images::new(vec![image(0)], labels, classes).unwrap_err().to_string();
        assert_eq!(message(vec![], 1), "there are 1 images and 0 labels; give one label for each image");
        assert!(message(vec![2], 2).starts_with("the image 0 has the label 2, but there are only 2 classes"));
    }
}
