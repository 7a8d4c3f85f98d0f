//! IDX files, the format of MNIST and its relatives: bytes in a box of one or more dimensions, plain or gzipped.
//!
//! Layout (<http://yann.lecun.com/exdb/mnist/>): two zero bytes, the element type (8: unsigned bytes, the only one read
//! here), the number of dimensions, each dimension as a big-endian u32, then the elements. A file is taken to be
//! hostile: sizes are multiplied with checks, and memory grows with what the file holds, never with what it promises.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::files::read_regular;

/// Larger files are refused: a fifth more elements than the largest known relative of MNIST has (EMNIST), since a gzipped file
/// of a megabyte may hold a gigabyte.
pub const MAXIMUM_ELEMENTS: usize = 640 << 20;

const UNSIGNED_BYTES: u8 = 8;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The content of an IDX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// The size along each dimension: `[image, row, column]` for images, `[image]` for labels.
    pub dimensions: Vec<usize>,
    /// The elements, the last dimension running fastest; as many as the product of the dimensions.
    pub elements: Vec<u8>,
}

/// Why an IDX file was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum IdxError {
    #[error("cannot read {}: {source}; check the path and that the file is complete", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no IDX file of unsigned bytes: {found}; give a file such as train-images-idx3-ubyte.gz", path.display())]
    Format { path: PathBuf, found: String },
    #[error("{} promises {promised} elements but holds {held}; it is damaged, fetch it again", path.display())]
    Size { path: PathBuf, promised: usize, held: String },
    #[error("{} promises more than {MAXIMUM_ELEMENTS} elements, the most that an IDX file may have here; split it", path.display())]
    TooLarge { path: PathBuf },
}

/// Reads a file, gzipped or not (its first bytes tell).
///
/// # Errors
/// If the file cannot be read, is no IDX file of unsigned bytes, is larger than [`MAXIMUM_ELEMENTS`], or holds another
/// number of elements than it promises.
pub fn read(path: &Path) -> Result<Idx, IdxError> {
    let bytes = read_regular(path, 2 * MAXIMUM_ELEMENTS as u64)
        .map_err(|source| IdxError::Read { path: path.into(), source })?;
    parse(bytes.as_slice(), path)
}

/// Parses the content of a file, gzipped or not; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn parse(mut file: impl BufRead, path: &Path) -> Result<Idx, IdxError> {
    let start = file.fill_buf().map_err(|source| IdxError::Read { path: path.into(), source })?;
    if start.starts_with(&GZIP) { parse_plain(MultiGzDecoder::new(file), path) } else { parse_plain(file, path) }
}

fn parse_plain(mut source: impl Read, path: &Path) -> Result<Idx, IdxError> {
    let dimensions = parse_header(&mut source, path)?;
    let promised = dimensions.iter().product::<usize>();
    let mut elements = Vec::new();
    let limit = promised + 1; // one more than promised shows that there is more
    // Twice as many each time, but never more than promised.
    loop {
        let more = (limit - elements.len()).min(elements.len().max(1 << 20));
        elements.reserve_exact(more);
        let mut part = source.by_ref().take(more as u64);
        let read = part.read_to_end(&mut elements).map_err(|source| IdxError::Read { path: path.into(), source })?;
        if read < more || elements.len() == limit {
            break;
        }
    }
    if elements.len() != promised {
        return Err(IdxError::Size {
            path: path.into(),
            promised,
            held: if elements.len() > promised { "more".into() } else { elements.len().to_string() },
        });
    }
    Ok(Idx { dimensions, elements })
}

/// The dimensions, whose product is at most [`MAXIMUM_ELEMENTS`], from the beginning of a plain file.
pub(crate) fn parse_header(source: &mut impl Read, path: &Path) -> Result<Vec<usize>, IdxError> {
    let failed = |source| IdxError::Read { path: path.into(), source };
    let mut magic = [0; 4];
    source.read_exact(&mut magic).map_err(failed)?;
    let [0, 0, UNSIGNED_BYTES, rank @ 1..=4] = magic else {
        return Err(IdxError::Format { path: path.into(), found: format!("it begins with the bytes {magic:02x?}") });
    };

    let mut dimensions = Vec::with_capacity(rank.into());
    for _ in 0..rank {
        let mut size = [0; 4];
        source.read_exact(&mut size).map_err(failed)?;
        dimensions.push(u32::from_be_bytes(size) as usize);
    }
    let promised = dimensions.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if promised.is_some_and(|promised| promised <= MAXIMUM_ELEMENTS) {
        Ok(dimensions)
    } else {
        Err(IdxError::TooLarge { path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_bytes(bytes: &[u8]) -> Result<Idx, IdxError> {
        parse(bytes, Path::new("some-idx"))
    }

    #[test]
    fn two_images() {
        let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3];
        bytes.extend(1..=6);
        let idx = parse_bytes(&bytes).unwrap();
        assert_eq!(idx.dimensions, [2, 1, 3]);
        assert_eq!(idx.elements, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_test_images_in_the_repository() {
        let folder = Path::new("weights/embedded/fashion_mnist_500");
        let images = read(&folder.join("t10k-images-idx3-ubyte.gz")).unwrap();
        assert_eq!(images.dimensions, [500, 28, 28]);
        let labels = read(&folder.join("t10k-labels-idx1-ubyte.gz")).unwrap();
        assert_eq!(labels.dimensions, [500]);
        assert_eq!(labels.elements[..3], [9, 2, 1]);
    }

    #[test]
    fn gzip_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        io::Write::write_all(&mut encoder, &[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]).unwrap();
        let compressed = encoder.finish().unwrap();
        std::fs::write(&path, &compressed).unwrap();
        assert_eq!(read(&path).unwrap().elements, [7, 9]);
        std::fs::write(&path, &compressed[..compressed.len() - 9]).unwrap();
        assert!(matches!(read(&path), Err(IdxError::Read { .. })));
    }

    #[test]
    fn a_file_that_is_cut_off_or_too_long_is_refused() {
        let whole = [0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3];
        assert!(parse_bytes(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(parse_bytes(&whole[..end]).is_err());
        }
        let message = parse_bytes(&[&whole[..], &[4]].concat()).unwrap_err().to_string();
        assert!(message.contains("promises 3 elements but holds more"), "{message}");
    }

    /// Three stretches of reading, of which memory has no more than the file.
    #[test]
    fn long_files_are_read_in_parts() {
        for length in [1 << 20, (1 << 20) + 1, 3_000_000] {
            let mut bytes = [&[0, 0, 8, 1][..], &(length as u32).to_be_bytes()].concat();
            bytes.resize(8 + length, 7);
            let elements = parse_bytes(&bytes).unwrap().elements;
            assert!(elements.len() == length && elements.capacity() <= length + 64, "{}", elements.capacity());
            assert!(parse_bytes(&bytes[..bytes.len() - 1]).is_err());
            bytes.push(7);
            assert!(parse_bytes(&bytes).is_err());
        }
    }

    #[test]
    fn a_promise_too_large_is_refused_before_reading() {
        let mut bytes = vec![0, 0, 8, 4];
        bytes.extend([0xff; 16]);
        assert!(matches!(parse_bytes(&bytes), Err(IdxError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), rank in 0u8..6) {
            let headed = [&[0, 0, 8, rank], &bytes[..]].concat();
            for input in [&bytes, &headed] {
                if let Ok(idx) = parse_bytes(input) {
                    prop_assert_eq!(idx.elements.len(), idx.dimensions.iter().product::<usize>());
                }
            }
        }
    }
}
