//! Features from files that other programs wrote: safetensors, and NumPy's `.npy`.
//!
//! The first axis is the images, everything else of an image is one row. Numbers are f32 or f64 and little-endian. Files are
//! read straight into the features, so that there is never a second copy of them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

use super::extract::check_room;
use super::{FeatureError, Values};
use crate::memory;

/// The longest header that is read.
const MAX_HEADER: u64 = 100 << 20;

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Row by row.
    pub values: Values,
    /// How many rows.
    pub rows: usize,
}

/// Where the numbers of a tensor are.
struct Found {
    shape: Vec<usize>,
    is_f64: bool,
    /// The first byte in the file.
    start: u64,
}

/// Whether a file's name says that features may be in it.
pub fn is_of_features(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors" || extension == "npy")
}

/// Reads a matrix: of a safetensors file the tensor `name`, or the only one if it is not asked for by name (`is_asked`) and there is no such
/// tensor.
///
/// # Errors
/// [`FeatureError::Read`], [`FeatureError::Format`] or [`FeatureError::Memory`].
pub fn read(path: &Path, name: &str, is_asked: bool) -> Result<Stored, FeatureError> {
    let reader = FileOf { path, name, is_asked };
    let mut file = reader.open()?;
    let found = match path.extension().is_some_and(|extension| extension == "npy") {
        true => reader.find_in_npy(&mut file)?,
        false => reader.find_in_safetensors(&mut file)?,
    };
    reader.stored(file, &found)
}

struct FileOf<'a> {
    path: &'a Path,
    name: &'a str,
    is_asked: bool,
}

impl FileOf<'_> {
    fn failed(&self, source: io::Error) -> FeatureError {
        FeatureError::Read { path: PathBuf::from(self.path), source }
    }

    fn unusable(&self, reason: impl Into<String>) -> FeatureError {
        FeatureError::Format { path: PathBuf::from(self.path), reason: reason.into() }
    }

    fn open(&self) -> Result<BufReader<File>, FeatureError> {
        // Asked by name first: to open a pipe is to wait for whoever writes into it.
        let metadata = self.path.metadata().map_err(|error| self.failed(error))?;
        if !metadata.is_file() {
            return Err(self.failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        Ok(BufReader::new(File::open(self.path).map_err(|error| self.failed(error))?))
    }

    fn bytes<const N: usize>(&self, file: &mut impl Read) -> Result<[u8; N], FeatureError> {
        let mut bytes = [0; N];
        file.read_exact(&mut bytes).map_err(|_| self.unusable("it ends before its header does"))?;
        Ok(bytes)
    }

    fn header(&self, file: &mut impl Read, length: u64) -> Result<Vec<u8>, FeatureError> {
        if length > MAX_HEADER {
            return Err(self.unusable("its header is longer than any such file's; check what kind of file it is"));
        }
        let mut header = Vec::new();
        let read = file.take(length).read_to_end(&mut header).map_err(|error| self.failed(error))?;
        if read as u64 == length { Ok(header) } else { Err(self.unusable("it ends before its header does")) }
    }

    fn find_in_safetensors(&self, file: &mut BufReader<File>) -> Result<Found, FeatureError> {
        let length = u64::from_le_bytes(self.bytes(file)?);
        let header = self.header(file, length)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| self.unusable(format!("it is no safetensors file ({error})")))?;
        let names = metadata.offset_keys();
        let name = match names.as_slice() {
            names if names.iter().any(|name| name == self.name) => self.name,
            [only] if !self.is_asked => only,
            names => {
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let hint = if self.is_asked { "" } else { "; name one by --layer or --layer-b" };
                return Err(self.unusable(format!("it has no tensor {:?}, but {names}{hint}", self.name)));
            }
        };
        let info = metadata.info(name).expect("the name is one of the file's");
        let is_f64 = match info.dtype {
            Dtype::F32 => false,
            Dtype::F64 => true,
            other => return Err(self.unusable(format!("its tensor {name:?} is {other:?}; save it as f32 or f64"))),
        };
        Ok(Found { shape: info.shape.clone(), is_f64, start: 8 + length + info.data_offsets.0 as u64 })
    }

    fn find_in_npy(&self, file: &mut BufReader<File>) -> Result<Found, FeatureError> {
        let magic: [u8; 8] = self.bytes(file)?;
        let (prefix, length) = match (&magic[..6], magic[6]) {
            (b"\x93NUMPY", 1) => (10, u64::from(u16::from_le_bytes(self.bytes(file)?))),
            (b"\x93NUMPY", 2 | 3) => (12, u64::from(u32::from_le_bytes(self.bytes(file)?))),
            _ => return Err(self.unusable("it is no .npy file of version 1, 2 or 3; save it by numpy.save")),
        };
        let header = self.header(file, length)?;
        let header = String::from_utf8_lossy(&header);
        // A literal of Python, with keys in any order: {'descr': '<f4', 'fortran_order': False, 'shape': (500, 64), }
        let after = |key: &str| {
            let rest = &header[header.find(&format!("'{key}'"))? + key.len() + 2..];
            rest.trim_start().strip_prefix(':').map(str::trim_start)
        };
        let missing = || self.unusable("its header does not say what is in it; save it by numpy.save");
        let kind = after("descr").ok_or_else(missing)?;
        let is_f64 = match kind.trim_start_matches(['\'', '"']).get(..3) {
            Some("<f4") => false,
            Some("<f8") => true,
            _ => {
                let kind = kind.split(',').next().unwrap_or(kind).trim();
                return Err(self.unusable(format!("its numbers are {kind}; save them as float32 or float64")));
            }
        };
        if !after("fortran_order").ok_or_else(missing)?.starts_with("False") {
            return Err(self.unusable("it is column by column; save numpy.ascontiguousarray of it"));
        }
        let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).ok_or_else(missing)?;
        let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
        let shape: Vec<usize> = axes.map(str::parse).collect::<Result<_, _>>().map_err(|_| missing())?;
        Ok(Found { shape, is_f64, start: prefix + length })
    }

    fn stored(&self, mut file: BufReader<File>, found: &Found) -> Result<Stored, FeatureError> {
        let &[rows, ref rest @ ..] = found.shape.as_slice() else {
            return Err(self.unusable("it holds a single number; its first axis must be the images"));
        };
        let count = rest.iter().try_fold(rows, |count, &axis| count.checked_mul(axis));
        let each = if found.is_f64 { 8 } else { 4 };
        let bytes = count.and_then(|count| (count as u64).checked_mul(each));
        let bytes = bytes.ok_or_else(|| self.unusable(format!("its shape {:?} is beyond all memory", found.shape)))?;
        let there = file.get_ref().metadata().map_err(|error| self.failed(error))?.len();
        if there < found.start.saturating_add(bytes) {
            return Err(self.unusable("it ends before its numbers do; it may be half written"));
        }
        check_room(&self.path.display().to_string(), bytes, memory::available())?;
        file.seek(SeekFrom::Start(found.start)).map_err(|error| self.failed(error))?;
        let values = match found.is_f64 {
            true => Values::F64(self.numbers(file, bytes / 8, f64::from_le_bytes)?),
            false => Values::F32(self.numbers(file, bytes / 4, f32::from_le_bytes)?),
        };
        Ok(Stored { values, rows })
    }

    fn numbers<T, const N: usize>(
        &self,
        mut file: impl Read,
        count: u64,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, FeatureError> {
        const AT_ONCE: usize = 1 << 16;
        let count = usize::try_from(count).map_err(|_| self.unusable("it holds more than fits into memory"))?;
        let mut numbers = Vec::with_capacity(count);
        let mut bytes = vec![0; AT_ONCE * N];
        while numbers.len() < count {
            let part = &mut bytes[..AT_ONCE.min(count - numbers.len()) * N];
            file.read_exact(part).map_err(|error| self.failed(error))?;
            numbers
                .extend(part.chunks_exact(N).map(|bytes| number(bytes.try_into().expect("chunks are of that size"))));
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::TensorView;

    use super::*;

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn of(name: &str, bytes: &[u8]) -> Result<Stored, FeatureError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        read(&path, "features", false)
    }

    #[track_caller]
    fn refused(name: &str, bytes: &[u8], part: &str) {
        let text = of(name, bytes).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains(name), "{text}");
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn npy_files_of_every_version() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n";
        let data = f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for version in [1, 2, 3] {
            let matrix = of("x.npy", &npy(version, header, &data)).unwrap();
            assert_eq!(matrix, Stored { values: Values::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), rows: 2 });
        }
        let header = "{'shape': (2,), 'fortran_order': False, 'descr': '<f8'}\n";
        let data: Vec<u8> = [0.5f64, -1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(of("x.npy", &npy(1, header, &data)).unwrap().values, Values::F64(vec![0.5, -1.0]));
    }

    #[test]
    fn npy_files_that_cannot_be_used() {
        let data = f32s(&[1.0; 6]);
        let with = |kind: &str, order: &str, shape: &str| {
            npy(1, &format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n"), &data)
        };
        refused("x.npy", &with("<i8", "False", "(2, 3)"), "float32 or float64");
        refused("x.npy", &with(">f4", "False", "(2, 3)"), "float32 or float64");
        refused("x.npy", &with("<f4", "True", "(2, 3)"), "ascontiguousarray");
        refused("x.npy", &with("<f4", "False", "(2, 4)"), "half written");
        refused("x.npy", &with("<f4", "False", "()"), "single number");
        refused("x.npy", &with("<f4", "False", "(4611686018427387904, 4)"), "beyond all memory");
        refused("x.npy", &with("<f4", "False", "(-1, 4)"), "numpy.save");
        refused("x.npy", &npy(1, "{}", &data), "numpy.save");
        refused("x.npy", b"PK\x03\x04 and so on", "numpy.save");
        refused("x.npy", b"\x93NU", "ends before");
        refused("x.npy", &npy(2, "{}", &[])[..13], "ends before");
    }

    #[test]
    fn tensors_by_name_or_alone() {
        let data = f32s(&[1.0, 2.0, 3.0, 4.0]);
        let view = |dtype, shape: &[usize]| TensorView::new(dtype, shape.to_vec(), &data).unwrap();
        let file = |tensors: Vec<(&str, TensorView)>| {
            safetensors::serialize(tensors, None::<HashMap<String, String>>).unwrap()
        };
        let one = file(vec![("penultimate", view(Dtype::F32, &[2, 2]))]);
        assert_eq!(of("x.safetensors", &one).unwrap().rows, 2);
        let two = file(vec![("features", view(Dtype::F32, &[4])), ("logits", view(Dtype::F32, &[2, 2]))]);
        assert_eq!(of("x.safetensors", &two).unwrap().rows, 4);
        let other = file(vec![("a", view(Dtype::F32, &[4])), ("b", view(Dtype::F32, &[4]))]);
        refused("x.safetensors", &other, "no tensor \"features\", but a, b; name one");
        let half = file(vec![("features", view(Dtype::F16, &[8]))]);
        refused("x.safetensors", &half, "f32 or f64");
        refused("x.safetensors", &one[..one.len() - 1], "half written");
        refused("x.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "header is longer");
        refused("x.safetensors", b"\x02\0\0\0\0\0\0\0[]", "no safetensors file");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, &one).unwrap();
        let error = read(&path, "layer1", true).unwrap_err();
        assert!(error.to_string().contains("no tensor \"layer1\", but penultimate"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let error = read(Path::new("/nonexistent/x.npy"), "features", false).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.npy"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), "features", false).unwrap_err().to_string().contains("not a regular file"));
    }

    /// Of a file of four million million bytes, all of them a hole, not one is read.
    #[test]
    #[cfg(target_os = "linux")]
    fn features_larger_than_memory_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (500000000, 2048), }\n";
        std::fs::write(&path, npy(1, header, &[])).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        if file.set_len(10 + header.len() as u64 + 4 * 500_000_000 * 2048).is_err() {
            eprintln!("this file system has no files of that size");
            return;
        }
        let error = read(&path, "features", false).unwrap_err();
        assert!(matches!(error, FeatureError::Memory { bytes: 4_096_000_000_000, .. }), "{error}");
    }
}
