//! The four IDX files of MNIST, Fashion-MNIST and their relatives: gray images of one size, and a label for each.
//!
//! Of a plain file, images are read one by one. A gzipped one can only be read whole, so its pixels stay in memory, a byte each.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{DataError, Source, Split, classes_of, read_part};
use crate::images::idx::{self, IdxError};
use crate::images::{DecodeError, RgbImage};

/// Gray images, repeated for red, green and blue.
pub(super) struct IdxImages {
    path: PathBuf,
    pixels: Pixels,
    /// Rows and columns of each.
    size: [usize; 2],
    labels: Vec<u32>,
    classes: usize,
}

enum Pixels {
    /// `[image, row, column]`.
    Memory(Vec<u8>),
    /// In the plain file, from this byte on.
    File(u64),
}

/// The files of images and labels, if one of the two is there.
pub(super) fn files_in(folder: &Path, split: Split) -> Option<(PathBuf, PathBuf)> {
    let split = split.idx_name();
    let file = |kind: &str| {
        let plain = folder.join(format!("{split}-{kind}-ubyte"));
        if plain.exists() { plain } else { folder.join(format!("{split}-{kind}-ubyte.gz")) }
    };
    let (images, labels) = (file("images-idx3"), file("labels-idx1"));
    (images.exists() || labels.exists()).then_some((images, labels))
}

impl IdxImages {
    /// The images of one file with the labels of the other.
    pub fn open(images: &Path, labels: &Path) -> Result<Self, DataError> {
        let (dimensions, pixels) = open_images(images)?;
        let wrong = |path: &Path, dimensions: Vec<usize>, expected| DataError::Dimensions {
            path: path.to_owned(),
            dimensions,
            expected,
        };
        let [count, height, width] = dimensions[..] else {
            return Err(wrong(images, dimensions, "(image, row, column)"));
        };
        if height == 0 || width == 0 {
            return Err(wrong(images, dimensions, "images with pixels"));
        }
        let read = idx::read(labels)?;
        let [found] = read.dimensions[..] else {
            return Err(wrong(labels, read.dimensions, "(image)"));
        };
        if found != count {
            return Err(DataError::Count { images: count, labels: found });
        }
        let labels: Vec<u32> = read.elements.into_iter().map(u32::from).collect();
        let classes = classes_of(&labels, |index| index.to_string())?;
        Ok(Self { path: images.to_owned(), pixels, size: [height, width], labels, classes })
    }

    /// One image's bytes, `[row, column]`.
    fn gray(&self, index: usize) -> io::Result<Vec<u8>> {
        let area = self.size[0] * self.size[1];
        match &self.pixels {
            Pixels::Memory(pixels) => Ok(pixels[index * area..][..area].to_vec()),
            Pixels::File(start) => read_part(&self.path, start + (index * area) as u64, area),
        }
    }
}

/// The dimensions of a file of images and where its pixels are.
fn open_images(path: &Path) -> Result<(Vec<usize>, Pixels), DataError> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let failed = |source| IdxError::Read { path: path.to_owned(), source };
    let metadata = path.metadata().map_err(failed)?;
    let mut start = [0; 2];
    // What is no file, or has no beginning, `idx::read` refuses.
    let begins = metadata.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
    if !begins || start == GZIP {
        let idx = idx::read(path)?;
        return Ok((idx.dimensions, Pixels::Memory(idx.elements)));
    }
    let dimensions = idx::parse_header(&mut BufReader::new(File::open(path).map_err(failed)?), path)?;
    let header = 4 + 4 * dimensions.len() as u64;
    let promised = dimensions.iter().product::<usize>();
    let held = metadata.len().saturating_sub(header);
    if held != promised as u64 {
        return Err(IdxError::Size { path: path.to_owned(), promised, held: held.to_string() }.into());
    }
    Ok((dimensions, Pixels::File(header)))
}

impl Source for IdxImages {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index] as usize
    }

    fn id(&self, index: usize) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}/{index}")
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        let gray = self.gray(index).map_err(|source| DecodeError::Read { name: self.id(index), source })?;
        let [height, width] = self.size;
        Ok(RgbImage::new(width, height, gray.into_iter().flat_map(|level| [level; 3]).collect()))
    }

    /// By every byte: a file of images changes without a change of its size.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for number in
            [self.size[0] as u64, self.size[1] as u64].into_iter().chain(self.labels.iter().copied().map(u64::from))
        {
            hasher.update(&number.to_le_bytes());
        }
        for index in 0..self.len() {
            match self.gray(index) {
                Ok(gray) => hasher.update(&gray),
                Err(error) => hasher.update(error.to_string().as_bytes()),
            };
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn images(count: u8) -> Vec<u8> {
        let header = [0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 3];
        header.into_iter().chain((0..6 * count).map(|value| 10 + value)).collect()
    }

    fn labels(labels: &[u8]) -> Vec<u8> {
        [0, 0, 8, 1, 0, 0, 0, labels.len() as u8].into_iter().chain(labels.iter().copied()).collect()
    }

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Opens files of this content, which last as long as their folder.
    fn open(images: &[u8], labels: &[u8]) -> (tempfile::TempDir, Result<IdxImages, DataError>) {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["images", "labels"].map(|name| folder.path().join(name));
        std::fs::write(&paths[0], images).unwrap();
        std::fs::write(&paths[1], labels).unwrap();
        let opened = IdxImages::open(&paths[0], &paths[1]);
        (folder, opened)
    }

    #[test]
    fn plain_and_zipped_files_hold_the_same_images() {
        let (_plain, plain) = open(&images(3), &labels(&[1, 0, 4]));
        let (_zipped, zipped) = open(&zipped(&images(3)), &zipped(&labels(&[1, 0, 4])));
        let (plain, zipped) = (plain.unwrap(), zipped.unwrap());
        assert!(matches!(plain.pixels, Pixels::File(16)) && matches!(zipped.pixels, Pixels::Memory(_)));
        for source in [&plain, &zipped] {
            assert_eq!((source.len(), source.classes(), source.label(2)), (3, 5, 4));
            let image = source.read(1).unwrap();
            assert_eq!((image.width(), image.height()), (3, 2));
            assert_eq!(image.data()[..6], [16, 16, 16, 17, 17, 17]);
        }
        assert_eq!(plain.fingerprint(), zipped.fingerprint());
        let (_other, other) = open(&images(3), &labels(&[1, 0, 3]));
        assert_ne!(plain.fingerprint(), other.unwrap().fingerprint());
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let message = |images: &[u8], labels: &[u8]| open(images, labels).1.err().unwrap().to_string();
        assert!(message(&images(2), &labels(&[0])).contains("2 images and 1 labels"));
        assert!(message(&labels(&[0]), &labels(&[0])).contains("(image, row, column)"));
        assert!(message(&images(2), &images(2)).contains("(image)"));
        assert!(message(&images(2)[..20], &labels(&[0, 0])).contains("promises 12 elements but holds 4"));
        assert!(message(&[&images(2)[..], &[1]].concat(), &labels(&[0, 0])).contains("holds 13"));
        assert!(message(&[], &labels(&[0])).contains("cannot read"));
        assert!(message(b"PK", &labels(&[0])).contains("cannot read"));
    }

    #[test]
    fn the_names_of_the_files_tell_the_split() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files_in(folder.path(), Split::Train).is_none());
        std::fs::write(folder.path().join("train-images-idx3-ubyte"), images(1)).unwrap();
        std::fs::write(folder.path().join("train-labels-idx1-ubyte.gz"), zipped(&labels(&[3]))).unwrap();
        let (images, labels) = files_in(folder.path(), Split::Train).unwrap();
        let opened = IdxImages::open(&images, &labels).unwrap();
        assert_eq!((opened.label(0), opened.id(0).as_str()), (3, "train-images-idx3-ubyte/0"));
        assert!(files_in(folder.path(), Split::Test).is_none());
    }
}
