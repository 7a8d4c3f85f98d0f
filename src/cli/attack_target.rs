//! What an attack is to reach and where: wanted classes, and masks of the pixels that may change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

use super::Failure;
use crate::attacks::loss::order;
use crate::images::{RgbImage, decode_file};
use crate::noise;

/// What images are to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All for one class.
    Class(usize),
    /// Each for a class of its own, drawn from (seed, image).
    Random,
    /// Each for the class that the network holds least likely (Kurakin et al., arXiv 1611.01236).
    LeastLikely,
    /// Each for the class that the network holds most likely after its label.
    SecondBest,
}

impl Target {
    /// A class's index, `random`, `least-likely` or `second-best`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "least-likely" => Ok(Self::LeastLikely),
            "second-best" => Ok(Self::SecondBest),
            class => class
                .parse()
                .map(Self::Class)
                .map_err(|_| "give a class's index, random, least-likely or second-best".to_owned()),
        }
    }

    /// The wanted class of each image, from the logits `[batch, class]` of the clean images.
    pub fn classes(self, logits: &Tensor<2>, labels: &[usize], ids: &[&str], seed: u64) -> Vec<usize> {
        let [_, classes] = logits.dims();
        match self {
            Self::Class(class) => vec![class; labels.len()],
            Self::Random => {
                let of_image = |(&id, &label): (&&str, &usize)| {
                    let mut random = noise::stream("netkin attack target", seed, id);
                    (label + 1 + random.below(classes.saturating_sub(1).max(1))) % classes
                };
                ids.iter().zip(labels).map(of_image).collect()
            }
            Self::LeastLikely | Self::SecondBest => {
                let of_image = |(order, label): (Vec<usize>, &usize)| {
                    let mut others = order.into_iter().filter(|class| class != label);
                    let other = if self == Self::SecondBest { others.next() } else { others.next_back() };
                    other.unwrap_or(*label)
                };
                order(logits, classes).into_iter().zip(labels).map(of_image).collect()
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Class(class) => write!(f, "{class}"),
            Self::Random => f.write_str("random"),
            Self::LeastLikely => f.write_str("least-likely"),
            Self::SecondBest => f.write_str("second-best"),
        }
    }
}

/// Which pixels may change: those that are white, by one image for all or one for each.
#[derive(Debug)]
pub enum MaskFile {
    /// For all images.
    One(PathBuf, RgbImage),
    /// A folder in which each image's mask has its path.
    Folder(PathBuf),
}

impl MaskFile {
    /// An image, or a folder of images.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        match path.is_dir() {
            true => Ok(Self::Folder(path.to_owned())),
            false => Ok(Self::One(path.to_owned(), decode_file(path)?)),
        }
    }

    /// 1 where the images may change and else 0, `[batch, 1, height, width]`, on the device of `pixels`.
    ///
    /// # Errors
    /// If a mask cannot be read, or has another size than the images.
    pub fn of(&self, ids: &[&str], pixels: &Tensor<4>) -> Result<Tensor<4>, Failure> {
        let [batch, _, height, width] = pixels.dims();
        let mut values = Vec::with_capacity(batch * height * width);
        let mut read = HashMap::new();
        for id in ids {
            let (path, mask) = match self {
                Self::One(path, mask) => (path.clone(), mask),
                Self::Folder(folder) => {
                    let exact = folder.join(id);
                    let path = if exact.exists() { exact } else { folder.join(id).with_extension("png") };
                    if !read.contains_key(id) {
                        read.insert(*id, decode_file(&path)?);
                    }
                    (path, &read[id])
                }
            };
            if (mask.height(), mask.width()) != (height, width) {
                let (rows, columns, path) = (mask.height(), mask.width(), path.display());
                return Err(format!(
                    "the mask {path} has {rows} × {columns} pixels, and the network sees {height} × {width}; resize the mask"
                )
                .into());
            }
            // White has all three channels at 255.
            values.extend(
                mask.data().chunks_exact(3).map(|pixel| f64::from(u8::from(pixel.iter().all(|&level| level >= 128)))),
            );
        }
        Ok(Tensor::from_data(TensorData::new(values, [batch, 1, height, width]), (&pixels.device(), pixels.dtype())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn targets_are_other_classes() {
        let logits = Tensor::<2>::from_data([[3.0, 1.0, 0.0, 2.0], [0.5, 2.0, 1.0, -2.0]], &Device::flex());
        let classes = |target: Target| target.classes(&logits, &[0, 3], &["a", "b"], 0);
        assert_eq!(classes(Target::SecondBest), [3, 1]);
        assert_eq!(classes(Target::LeastLikely), [2, 0]);
        assert_eq!(classes(Target::Class(2)), [2, 2]);
        assert!((0..50).all(|seed| Target::Random.classes(&logits, &[0, 3], &["a", "b"], seed)[1] != 3));
        assert_eq!(Target::parse("7"), Ok(Target::Class(7)));
        assert!(Target::parse("-1").is_err() && Target::parse("cat").is_err());
        for word in ["7", "random", "least-likely", "second-best"] {
            assert_eq!(Target::parse(word).unwrap().to_string(), word);
        }
    }
}
