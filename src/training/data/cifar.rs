//! CIFAR-10's binary batches (<https://www.cs.toronto.edu/~kriz/cifar.html>): records of a label and an image of 32 × 32, red,
//! green, blue. Images are read one by one.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::{DataError, Source, Split, read_part};
use crate::images::{DecodeError, RgbImage};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const RECORD: usize = 1 + PIXELS;
const CLASSES: usize = 10;

/// The images of some batches in order.
pub(super) struct Cifar {
    batches: Vec<PathBuf>,
    /// Behind the last image of each batch.
    ends: Vec<usize>,
    labels: Vec<u8>,
}

/// The split's batches, if the first of them is there.
pub(super) fn files_in(folder: &Path, split: Split) -> Option<Vec<PathBuf>> {
    let names: &[&str] = match split {
        Split::Train => {
            &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
        }
        Split::Test => &["test_batch.bin"],
    };
    let folders = [folder.to_owned(), folder.join("cifar-10-batches-bin")];
    let folder = folders.into_iter().find(|folder| folder.join(names[0]).is_file())?;
    Some(names.iter().map(|name| folder.join(name)).collect())
}

impl Cifar {
    /// Reads the labels of all batches.
    pub fn open(batches: Vec<PathBuf>) -> Result<Self, DataError> {
        let (mut ends, mut labels) = (Vec::new(), Vec::new());
        for batch in &batches {
            read_labels(batch, &mut labels)?;
            ends.push(labels.len());
        }
        Ok(Self { batches, ends, labels })
    }

    /// The batch of an image and its position there.
    fn place(&self, index: usize) -> (&Path, usize) {
        let batch = self.ends.partition_point(|&end| end <= index);
        let start = batch.checked_sub(1).map_or(0, |before| self.ends[before]);
        (&self.batches[batch], index - start)
    }

    /// The image's bytes, `[channel, row, column]`.
    fn planes(&self, index: usize) -> std::io::Result<Vec<u8>> {
        let (batch, position) = self.place(index);
        read_part(batch, (position * RECORD + 1) as u64, PIXELS)
    }
}

/// Adds the labels of a batch.
fn read_labels(batch: &Path, labels: &mut Vec<u8>) -> Result<(), DataError> {
    let failed = |source| DataError::Read { path: batch.to_owned(), source };
    let damaged = |problem: String| DataError::Cifar { path: batch.to_owned(), problem };
    // Asked before it is opened: to open a pipe is to wait for whoever writes into it.
    let metadata = batch.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() == 0 || !metadata.len().is_multiple_of(RECORD as u64) {
        return Err(damaged(format!("it should be a file of some times {RECORD} bytes and has {}", metadata.len())));
    }
    let mut file = BufReader::new(File::open(batch).map_err(failed)?);
    let mut record = [0; RECORD];
    for position in 0..metadata.len() / RECORD as u64 {
        file.read_exact(&mut record).map_err(failed)?;
        if usize::from(record[0]) >= CLASSES {
            return Err(damaged(format!("its image {position} has the label {}, and there are {CLASSES}", record[0])));
        }
        labels.push(record[0]);
    }
    Ok(())
}

impl Source for Cifar {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> usize {
        CLASSES
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index].into()
    }

    fn id(&self, index: usize) -> String {
        let (batch, position) = self.place(index);
        format!("{}/{position}", batch.file_name().unwrap_or_default().to_string_lossy())
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        let planes = self.planes(index).map_err(|source| DecodeError::Read { name: self.id(index), source })?;
        let (red, rest) = planes.split_at(SIDE * SIDE);
        let (green, blue) = rest.split_at(SIDE * SIDE);
        let pixels = red.iter().zip(green).zip(blue).flat_map(|((&red, &green), &blue)| [red, green, blue]);
        Ok(RgbImage::new(SIDE, SIDE, pixels.collect()))
    }

    /// By every byte: batches are all of one size.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.labels);
        for index in 0..self.len() {
            match self.planes(index) {
                Ok(planes) => hasher.update(&planes),
                Err(error) => hasher.update(error.to_string().as_bytes()),
            };
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records whose red is the label, green the position and blue 7.
    fn batch(labels: &[u8]) -> Vec<u8> {
        let planes = |label, position| [label, position, 7].into_iter().flat_map(|level| [level; SIDE * SIDE]);
        let records = labels.iter().zip(0..);
        records.flat_map(|(&label, position)| std::iter::once(label).chain(planes(label, position))).collect()
    }

    #[test]
    fn images_of_all_batches_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files_in(folder.path(), Split::Train).is_none());
        let inner = folder.path().join("cifar-10-batches-bin");
        std::fs::create_dir(&inner).unwrap();
        for (number, labels) in [[3, 1].as_slice(), &[4], &[5], &[9, 0, 2], &[6]].into_iter().enumerate() {
            std::fs::write(inner.join(format!("data_batch_{}.bin", number + 1)), batch(labels)).unwrap();
        }
        let cifar = Cifar::open(files_in(folder.path(), Split::Train).unwrap()).unwrap();
        assert_eq!((cifar.len(), cifar.classes()), (8, 10));
        assert_eq!((0..8).map(|index| cifar.label(index)).collect::<Vec<_>>(), [3, 1, 4, 5, 9, 0, 2, 6]);
        assert_eq!(cifar.id(6), "data_batch_4.bin/2");
        let image = cifar.read(6).unwrap();
        assert_eq!((image.width(), image.height()), (32, 32));
        assert!(image.data().chunks(3).all(|pixel| pixel == [2, 2, 7]));
        let before = cifar.fingerprint();
        std::fs::write(inner.join("data_batch_2.bin"), batch(&[3])).unwrap();
        assert_ne!(cifar.fingerprint(), before);
        assert!(files_in(folder.path(), Split::Test).is_none());
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        let message = || Cifar::open(vec![path.clone()]).err().unwrap().to_string();
        assert!(message().contains("cannot read"));
        for bytes in [&batch(&[1])[1..], &[], [batch(&[1, 2]), vec![0]].concat().as_slice()] {
            std::fs::write(&path, bytes).unwrap();
            assert!(message().contains("some times 3073 bytes"), "{}", message());
        }
        std::fs::write(&path, batch(&[1, 10])).unwrap();
        assert!(message().contains("its image 1 has the label 10"), "{}", message());
    }
}
