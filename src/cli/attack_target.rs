//! Where an attack may change images: masks of their pixels.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

use super::Failure;
use crate::images::decode_file;

/// The levels up to which a channel of a mask counts as black, and from which as white: JPEG has no other black and white.
const BLACK: u8 = 15;
const WHITE: u8 = 240;

/// Which pixels of an image may change.
#[derive(Debug, Clone)]
pub struct Mask {
    path: PathBuf,
    size: [usize; 2],
    /// Row by row.
    is_free: Vec<bool>,
}

impl Mask {
    /// Of an image that is white where pixels may change, and black elsewhere.
    fn read(path: &Path) -> Result<Self, Failure> {
        let image = decode_file(path)?;
        let (width, place) = (image.width(), path.display());
        let pixels = || image.data().chunks_exact(3);
        let is_free: Vec<bool> = pixels().map(|pixel| pixel.iter().all(|&level| level >= WHITE)).collect();
        let is_grey =
            |pixel: &[u8]| pixel.iter().any(|&level| level > BLACK) && pixel.iter().any(|&level| level < WHITE);
        if let Some(first) = pixels().position(is_grey) {
            let (count, row, column) = (pixels().filter(|pixel| is_grey(pixel)).count(), first / width, first % width);
            return Err(format!(
                "the mask {place} has {count} pixel(s) that are neither black nor white, the first in row {row} and column {column} (from 0); make it white where pixels may change, and black elsewhere"
            )
            .into());
        }
        if !is_free.contains(&true) {
            return Err(format!(
                "the mask {place} is all black, so that no pixel may change; make it white where pixels may"
            )
            .into());
        }
        Ok(Self { path: path.to_owned(), size: [image.height(), width], is_free })
    }

    fn check_size(&self, size: [usize; 2]) -> Result<(), Failure> {
        let ([rows, columns], [height, width], path) = (self.size, size, self.path.display());
        match self.size == size {
            true => Ok(()),
            false => Err(format!(
                "the mask {path} has {rows} × {columns} pixels, and the network sees {height} × {width}; resize the mask"
            )
            .into()),
        }
    }
}

/// Which pixels may change: those that are white, by one image for all or one for each.
#[derive(Debug)]
pub enum MaskFile {
    /// For all images.
    One(Mask),
    /// A folder in which each image's mask has its path.
    Folder(PathBuf),
}

impl MaskFile {
    /// An image, or a folder of images.
    ///
    /// # Errors
    /// If the image cannot be read, is neither black nor white somewhere, or black everywhere.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        match path.is_dir() {
            true => Ok(Self::Folder(path.to_owned())),
            false => Ok(Self::One(Mask::read(path)?)),
        }
    }

    /// The mask of an image that the network sees at this height and width.
    fn mask_of(&self, id: &str, size: [usize; 2]) -> Result<Cow<'_, Mask>, Failure> {
        let mask = match self {
            Self::One(mask) => Cow::Borrowed(mask),
            Self::Folder(folder) => {
                let exact = folder.join(id);
                Cow::Owned(Mask::read(&if exact.exists() { exact } else { exact.with_extension("png") })?)
            }
        };
        mask.check_size(size)?;
        Ok(mask)
    }

    /// Checks all masks, before anything is attacked.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn check<'i>(&self, mut ids: impl Iterator<Item = &'i str>, size: [usize; 2]) -> Result<(), Failure> {
        match self {
            Self::One(mask) => mask.check_size(size),
            Self::Folder(_) => ids.try_for_each(|id| self.mask_of(id, size).map(drop)),
        }
    }

    /// 1 where the images may change and else 0, `[batch, 1, height, width]`, on the device of `pixels`.
    ///
    /// # Errors
    /// If a mask cannot be read, has another size than the images, is neither black nor white somewhere, or black everywhere.
    pub fn of(&self, ids: &[&str], pixels: &Tensor<4>) -> Result<Tensor<4>, Failure> {
        let [batch, _, height, width] = pixels.dims();
        let mut values = Vec::with_capacity(batch * height * width);
        for id in ids {
            let mask = self.mask_of(id, [height, width])?;
            values.extend(mask.is_free.iter().map(|&is_free| f64::from(u8::from(is_free))));
        }
        Ok(Tensor::from_data(TensorData::new(values, [batch, 1, height, width]), (&pixels.device(), pixels.dtype())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{RgbImage, save_png};
    use burn::tensor::Device;

    #[test]
    fn masks_are_black_and_white_and_leave_something_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        let open = |levels: [u8; 4]| {
            save_png(&path, &RgbImage::new(2, 2, levels.iter().flat_map(|&level| [level; 3]).collect())).unwrap();
            MaskFile::open(&path)
        };
        let refused = |levels: [u8; 4], parts: &[&str]| {
            let said = open(levels).err().unwrap().to_string();
            assert!(said.contains("mask.png") && parts.iter().all(|part| said.contains(part)), "{said}");
        };
        refused([0, 0, 5, 0], &["all black", "no pixel may change"]);
        refused([255, 128, 0, 100], &["2 pixel(s)", "row 0 and column 1", "neither black nor white"]);
        let mask = open([255, 2, 0, 250]).unwrap();
        let pixels = Tensor::<4>::zeros([2, 3, 2, 2], &Device::flex());
        let free: Vec<f32> = mask.of(&["a", "b"], &pixels).unwrap().into_data().iter().collect();
        assert_eq!(free, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
        let said = mask.check(["a"].into_iter(), [3, 2]).err().unwrap().to_string();
        assert!(said.contains("2 × 2 pixels, and the network sees 3 × 2"), "{said}");
        // One for each image, under its path; all are looked at before the first is used.
        let each = MaskFile::open(folder.path()).unwrap();
        assert!(each.check(["mask.png", "mask.jpg"].into_iter(), [2, 2]).is_ok());
        let said = each.check(["mask.png", "other.jpg"].into_iter(), [2, 2]).err().unwrap().to_string();
        assert!(said.contains("other.png"), "{said}");
    }
}
