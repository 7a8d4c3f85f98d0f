//! Labelled images in memory, and what an epoch makes of them: an order, moved and mirrored copies, batches.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::{TrainConfig, TrainingError};
use crate::images::idx::{self, Idx};
use crate::images::{Dataset, Filter, RgbImage, Transform, decode_file};
use crate::random::Random;

/// RGB images of one size with a class each, decoded, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledImages {
    /// `[image, channel, row, column]`.
    pixels: Vec<u8>,
    labels: Vec<usize>,
    size: [usize; 2],
    classes: usize,
}

/// Which files of an MNIST-like folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// `train-…`.
    Train,
    /// `t10k-…`.
    Test,
}

impl LabelledImages {
    /// From `[image, channel, row, column]` with the channels red, green and blue, one label per image, the size as
    /// (height, width), and the number of classes.
    ///
    /// # Errors
    /// If the pixels are not as many as labels and size demand, or a label is not below `classes`.
    pub fn new(pixels: Vec<u8>, labels: Vec<usize>, size: [usize; 2], classes: usize) -> Result<Self, TrainingError> {
        let [height, width] = size;
        let expected = [3, height, width].iter().try_fold(labels.len(), |product, &size| product.checked_mul(size));
        if expected != Some(pixels.len()) {
            return Err(TrainingError::Pixels { labels: labels.len(), height, width, found: pixels.len() });
        }
        if let Some(index) = labels.iter().position(|&label| label >= classes) {
            return Err(TrainingError::Label { index, label: labels[index], classes });
        }
        Ok(Self { pixels, labels, size, classes })
    }

    /// From a folder with the files of MNIST, Fashion-MNIST or a relative, `train-images-idx3-ubyte`,
    /// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, gzipped (`.gz`) or not.
    /// Gray becomes red, green and blue; there are as many classes as the highest label demands.
    ///
    /// # Errors
    /// If a file is missing, damaged or the other one of a pair, or if images and labels are not equally many.
    pub fn from_idx_folder(folder: &Path, split: Split) -> Result<Self, TrainingError> {
        let split = match split {
            Split::Train => "train",
            Split::Test => "t10k",
        };
        let file = |kind: &str| -> PathBuf {
            let plain = folder.join(format!("{split}-{kind}-ubyte"));
            let zipped = folder.join(format!("{split}-{kind}-ubyte.gz"));
            if plain.exists() { plain } else { zipped }
        };
        Self::from_idx_files(&file("images-idx3"), &file("labels-idx1"))
    }

    /// From one pair of files; see [`LabelledImages::from_idx_folder`].
    ///
    /// # Errors
    /// As [`LabelledImages::from_idx_folder`].
    pub fn from_idx_files(images: &Path, labels: &Path) -> Result<Self, TrainingError> {
        let wrong = |path: &Path, idx: Idx, expected| TrainingError::Dimensions {
            path: path.into(),
            dimensions: idx.dimensions,
            expected,
        };
        let gray = idx::read(images)?;
        let [_, height, width] = gray.dimensions[..] else {
            return Err(wrong(images, gray, "(image, row, column)"));
        };
        let read_labels = idx::read(labels)?;
        let [_] = read_labels.dimensions[..] else {
            return Err(wrong(labels, read_labels, "(image)"));
        };
        let labels: Vec<usize> = read_labels.elements.into_iter().map(usize::from).collect();
        let classes = labels.iter().max().map_or(0, |label| label + 1);
        let area = (height * width).max(1);
        let mut pixels = Vec::with_capacity(3 * gray.elements.len());
        for image in gray.elements.chunks_exact(area) {
            for _channel in 0..3 {
                pixels.extend_from_slice(image);
            }
        }
        Self::new(pixels, labels, [height, width], classes)
    }

    /// A whole data set, each image resized so that its short side is that of `size` (height, width), its centre cropped.
    ///
    /// # Errors
    /// If an image cannot be decoded.
    pub fn from_dataset(dataset: &Dataset, size: [usize; 2]) -> Result<Self, TrainingError> {
        let [height, width] = size;
        let transform = Transform::center((height, width), 1.0, Filter::Bicubic);
        let mut pixels = vec![0; dataset.samples.len() * 3 * height * width];
        dataset.samples.par_iter().zip(pixels.par_chunks_mut(3 * height * width)).try_for_each(
            |(sample, pixels)| {
                let image = transform.apply(&decode_file(&sample.path)?);
                for (channel, plane) in pixels.chunks_exact_mut(height * width).enumerate() {
                    let bytes = image.data().iter().skip(channel).step_by(3);
                    plane.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                }
                Ok::<(), TrainingError>(())
            },
        )?;
        let labels: Vec<usize> = dataset.samples.iter().map(|sample| sample.label).collect();
        let classes = labels.iter().max().map_or(0, |label| label + 1);
        Self::new(pixels, labels, size, classes)
    }

    /// The first images, at most `count`, with as many classes as before.
    pub fn limit(mut self, count: usize) -> Self {
        let [height, width] = self.size;
        self.labels.truncate(count);
        self.pixels.truncate(3 * height * width * self.labels.len());
        self
    }

    /// One image.
    ///
    /// # Panics
    /// If there are not so many, or they have no pixels.
    pub fn image(&self, index: usize) -> RgbImage {
        let [height, width] = self.size;
        let area = height * width;
        let planes = &self.pixels[index * 3 * area..][..3 * area];
        let pixels = (0..area).flat_map(|place| [0, 1, 2].map(|channel| planes[channel * area + place]));
        RgbImage::new(width, height, pixels.collect())
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is not a single pixel.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The number of classes; labels are below it.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class of each image.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// A BLAKE3 hash of everything, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let [height, width] = self.size;
        let mut hasher = blake3::Hasher::new();
        for number in [self.classes, height, width].iter().chain(&self.labels) {
            hasher.update(&(*number as u64).to_le_bytes());
        }
        hasher.update(&self.pixels).finalize().to_string()
    }

    /// The images of these indices, normalised, on `device`.
    pub(super) fn batch(
        &self,
        indices: &[usize],
        augmentation: Option<Augmentation>,
        normalization: Normalization,
        device: &Device,
    ) -> Batch {
        let [height, width] = self.size;
        let tables = normalization.tables();
        let mut values = vec![0.0; indices.len() * 3 * height * width];
        values
            .par_chunks_exact_mut(3 * height * width)
            .zip(indices)
            .for_each(|(output, &index)| self.normalise(index, augmentation, &tables, output));
        let labels = indices.iter().map(|&index| self.labels[index] as i64).collect();
        Batch {
            images: Tensor::from_data(TensorData::new(values, [indices.len(), 3, height, width]), device),
            labels: Tensor::from_data(TensorData::new::<i64, _>(labels, [indices.len(), 1]), device),
        }
    }

    /// Writes one image to `output`, `[channel, row, column]`.
    fn normalise(
        &self,
        index: usize,
        augmentation: Option<Augmentation>,
        tables: &[[f32; 256]; 3],
        output: &mut [f32],
    ) {
        let [height, width] = self.size;
        let area = height * width;
        let pixels = &self.pixels[index * 3 * area..][..3 * area];
        let placement = augmentation.map_or(Placement::ORIGINAL, |augmentation| augmentation.draw(index, self.size));
        for (channel, table) in tables.iter().enumerate() {
            let input = &pixels[channel * area..][..area];
            let output = &mut output[channel * area..][..area];
            for (y, row) in output.chunks_exact_mut(width).enumerate() {
                let source = y.checked_add_signed(placement.down).filter(|&y| y < height);
                let Some(source) = source else {
                    row.fill(table[0]);
                    continue;
                };
                let source = &input[source * width..][..width];
                for (x, value) in row.iter_mut().enumerate() {
                    let x = if placement.mirrored { width - 1 - x } else { x };
                    let x = x.checked_add_signed(placement.right);
                    let pixel = x.and_then(|x| source.get(x)).copied().unwrap_or(0);
                    *value = table[usize::from(pixel)];
                }
            }
        }
    }
}

/// Images and labels of one step.
pub struct Batch {
    /// `[batch, 3, height, width]`, normalised.
    pub images: Tensor<4>,
    /// `[batch, 1]`.
    pub labels: Tensor<2, Int>,
}

/// What becomes of a pixel in [0, 1]: (pixel − mean) / std, for each channel.
#[derive(Debug, Clone, Copy)]
pub struct Normalization {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

impl Normalization {
    /// For each channel, what each of the 256 bytes becomes.
    fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            std::array::from_fn(|byte| ((byte as f64 / 255.0 - mean) / std) as f32)
        })
    }
}

/// Random crops and mirror images of one epoch.
#[derive(Debug, Clone, Copy)]
pub struct Augmentation {
    seed: u64,
    epoch: u64,
}

impl Augmentation {
    /// `None` if the configuration wants none.
    pub fn new(config: &TrainConfig, epoch: usize) -> Option<Self> {
        config.augment.then_some(Self { seed: config.seed, epoch: epoch as u64 })
    }

    /// Where the image of this index lies in its crop.
    fn draw(&self, index: usize, [height, width]: [usize; 2]) -> Placement {
        let mut random = Random::of(&[self.seed, self.epoch, index as u64]);
        let mut shift = |size: usize| {
            let most = size / 8;
            random.below(2 * most + 1) as isize - most as isize
        };
        Placement { down: shift(height), right: shift(width), mirrored: random.below(2) == 1 }
    }
}

/// Which part of the image, beyond whose border all is black, is seen, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placement {
    down: isize,
    right: isize,
    mirrored: bool,
}

impl Placement {
    const ORIGINAL: Self = Self { down: 0, right: 0, mirrored: false };
}

/// The order in which an epoch takes the images: all indices below `count`, shuffled (Fisher & Yates).
pub fn order(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut random = Random::of(&[seed, epoch as u64]);
    let mut indices: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        indices.swap(last, random.below(last + 1));
    }
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Normalization = Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] };

    /// One image of 3 × 8 × 8 whose bytes count up from 1.
    fn counting() -> LabelledImages {
        LabelledImages::new((1..=192).collect(), vec![0], [8, 8], 1).unwrap()
    }

    fn placed(placement: Placement) -> Vec<f32> {
        let augmentation = (0..)
            .map(|seed| Augmentation { seed, epoch: 1 })
            .find(|augmentation| augmentation.draw(0, [8, 8]) == placement);
        let batch = counting().batch(&[0], augmentation, PLAIN, &Device::flex());
        rounded(batch)
    }

    fn rounded(batch: Batch) -> Vec<f32> {
        let values: Vec<f32> = batch.images.try_into_vec_as().unwrap();
        values.into_iter().map(f32::round).collect()
    }

    #[test]
    fn a_batch_without_augmentation_is_the_images() {
        let batch = counting().batch(&[0], None, PLAIN, &Device::flex());
        assert_eq!(batch.images.dims(), [1, 3, 8, 8]);
        assert_eq!(rounded(batch), (1..=192).map(|value| value as f32).collect::<Vec<_>>());
    }

    #[test]
    fn crops_bring_black_in_and_mirror_images_are_mirrored() {
        let moved = placed(Placement { down: 1, right: -1, mirrored: false });
        assert_eq!(moved[..9], [0.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 0.0]);
        assert_eq!(moved[56..64], [0.0; 8]);
        assert_eq!(moved[65], 73.0); // green, second column: that of the row below
        let mirrored = placed(Placement { down: 0, right: 0, mirrored: true });
        assert_eq!(mirrored[..8], [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn order_and_augmentation_depend_on_seed_and_epoch() {
        let first = order(100, 7, 1);
        assert_eq!(first, order(100, 7, 1));
        assert_ne!(first, order(100, 7, 2));
        assert_ne!(first, order(100, 8, 1));
        let mut sorted = first;
        sorted.sort();
        assert!(sorted.into_iter().eq(0..100));
    }

    #[test]
    fn the_first_images_are_kept_and_given_back() {
        let pixels: Vec<u8> = (0..24).collect();
        let images = LabelledImages::new(pixels, vec![1, 0], [2, 2], 2).unwrap();
        assert_eq!(images.image(1).data(), [12, 16, 20, 13, 17, 21, 14, 18, 22, 15, 19, 23]);
        let first = images.clone().limit(1);
        assert_eq!((first.len(), first.classes(), first.image(0)), (1, 2, images.image(0)));
        assert_eq!(images.clone().limit(5), images);
    }

    #[test]
    fn sets_that_do_not_fit_together_are_refused() {
        let message = |result: Result<LabelledImages, TrainingError>| result.unwrap_err().to_string();
        assert_eq!(
            message(LabelledImages::new(vec![0; 12], vec![0], [2, 3], 1)),
            "12 bytes of pixels are not 1 RGB images of 2 × 3; give one label for each image"
        );
        assert_eq!(
            message(LabelledImages::new(vec![0; 6], vec![0, 2], [1, 1], 2)),
            "image 1 has the label 2, but there are only 2 classes, numbered from 0; correct the label"
        );
    }
}
