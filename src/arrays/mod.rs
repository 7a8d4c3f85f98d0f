//! Arrays of numbers in files that other programs wrote: NumPy's `.npy`, safetensors, and what `torch.save` writes.
//!
//! Opening a file reads what is in it and where: the numbers of an array lie one after another, little-endian, the last axis
//! varying fastest, or, of a view that PyTorch saved, as its strides say, and are read a stretch at a time in the order of the array. The content decides what kind of file it is, not its name. Files are
//! taken to be hostile: every length is checked against the file's before anything is read by it.

mod pytorch;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{bf16, f16};
use safetensors::tensor::Metadata;

use crate::npy::{self, Number};

/// The longest header of a safetensors file that is read.
const MAX_HEADER: u64 = 100 << 20;

/// An array of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Array {
    /// The names that lead to it, joined by dots; empty for the one of a file without names.
    pub name: String,
    pub number: Number,
    pub shape: Vec<usize>,
    /// The first byte of its numbers in the file.
    start: u64,
    /// How many numbers apart neighbours along each axis lie in the file; without it, all lie one after another in order.
    strides: Option<Vec<usize>>,
}

/// So many numbers at most are read at once to pick a few of them.
const MAX_SPAN: u64 = 1 << 20;

/// A file of arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayFile {
    pub path: PathBuf,
    /// In the order of the file.
    pub arrays: Vec<Array>,
}

/// Why arrays cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// The system says so.
    #[error("Cannot read `{}` ({source}); check the path and its permissions.", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is another kind of file.
    #[error("`{}` is no .npy, .safetensors, .pt or .pth file.", path.display())]
    OtherKind {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged, or holds what is not read.
    #[error("`{}` gives no arrays: {reason}.", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}

impl ArrayFile {
    /// Finds the arrays of a file.
    ///
    /// # Errors
    /// [`ArrayError`].
    pub fn open(path: &Path) -> Result<Self, ArrayError> {
        let unread = |source| ArrayError::Read { path: path.to_owned(), source };
        let unusable = |reason: String| ArrayError::Format { path: path.to_owned(), reason };
        // Asked by name first: to open a pipe is to wait for whoever writes into it.
        let metadata = path.metadata().map_err(unread)?;
        if !metadata.is_file() {
            return Err(unread(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let mut file = File::open(path).map_err(unread)?;
        let length = metadata.len();
        let mut start = Vec::new();
        file.by_ref().take(9).read_to_end(&mut start).map_err(unread)?;
        file.rewind().map_err(unread)?;
        let arrays = if start.starts_with(b"\x93NUMPY") {
            of_npy(&mut file)
        } else if start.starts_with(b"PK\x03\x04") {
            pytorch::arrays(&mut file, length)
        } else if start.get(8) == Some(&b'{') {
            of_safetensors(&mut file)
        } else if start.first() == Some(&0x80) {
            Err("it is in a form of before PyTorch 1.6, or no more than a pickle; save it again by torch.save"
                .to_owned())
        } else {
            return Err(ArrayError::OtherKind { path: path.to_owned() });
        };
        let arrays = arrays.map_err(unusable)?;
        for array in &arrays {
            let end = array.extent().and_then(|extent| extent.checked_mul(array.number.size() as u64));
            let end = end.and_then(|bytes| array.start.checked_add(bytes));
            if end.is_none_or(|end| end > length) {
                let name = if array.name.is_empty() { String::new() } else { format!("{} of ", array.name) };
                return Err(unusable(format!(
                    "it ends before the numbers {name}{:?} do; it may be half written",
                    array.shape
                )));
            }
        }
        Ok(Self { path: path.to_owned(), arrays })
    }
}

impl Array {
    /// How many numbers; none if there are more than can be counted.
    fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |count, &axis| count.checked_mul(axis))
    }

    /// How many numbers there are in the file from the first of the array to its last; none if there are more than can be counted.
    fn extent(&self) -> Option<u64> {
        match &self.strides {
            None => u64::try_from(self.count()?).ok(),
            Some(strides) => extent(&self.shape, strides),
        }
    }

    /// The bytes of `count` numbers from the one at `first` on, in the order of the array.
    ///
    /// # Errors
    /// As the file system says.
    pub fn read(&self, file: &mut (impl Read + Seek), first: usize, count: usize) -> io::Result<Vec<u8>> {
        let Some(strides) = &self.strides else { return self.stretch(file, first as u64, count as u64) };
        let places = self.places(strides, first, count);
        let (Some(&least), Some(&most)) = (places.iter().min(), places.iter().max()) else { return Ok(Vec::new()) };
        let size = self.number.size();
        // An image whose colours vary fastest is one stretch; numbers far apart are read one by one.
        if most - least < MAX_SPAN.max(4 * count as u64) {
            let stretch = self.stretch(file, least, most - least + 1)?;
            let number = |place: &u64| &stretch[(place - least) as usize * size..][..size];
            return Ok(places.iter().flat_map(number).copied().collect());
        }
        let numbers = places.into_iter().map(|place| self.stretch(file, place, 1));
        Ok(numbers.collect::<io::Result<Vec<_>>>()?.concat())
    }

    /// The bytes of numbers that lie one after another in the file, the array's first being number 0.
    fn stretch(&self, file: &mut (impl Read + Seek), first: u64, count: u64) -> io::Result<Vec<u8>> {
        let size = self.number.size() as u64;
        file.seek(SeekFrom::Start(self.start + first * size))?;
        let mut bytes = vec![0; (count * size) as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Where the numbers lie that have the positions from `first` on in the order of the array.
    fn places(&self, strides: &[usize], first: usize, count: usize) -> Vec<u64> {
        let mut index = vec![0; self.shape.len()];
        let mut rest = first;
        for (index, &axis) in index.iter_mut().zip(&self.shape).rev() {
            (*index, rest) = (rest % axis.max(1), rest / axis.max(1));
        }
        let mut place: usize = index.iter().zip(strides).map(|(index, stride)| index * stride).sum();
        let mut places = Vec::with_capacity(count);
        for _ in 0..count {
            places.push(place as u64);
            for (index, (&axis, stride)) in index.iter_mut().zip(self.shape.iter().zip(strides)).rev() {
                if *index + 1 < axis {
                    *index += 1;
                    place += stride;
                    break;
                }
                place -= *index * stride;
                *index = 0;
            }
        }
        places
    }

    /// All numbers as whole ones; none if one is negative or not whole, or if it is an array of half precision.
    ///
    /// # Errors
    /// As the file system says.
    pub fn whole(&self, path: &Path) -> io::Result<Option<Vec<usize>>> {
        let count = self.count().unwrap_or(0);
        let bytes = self.read(&mut File::open(path)?, 0, count)?;
        Ok(self.number.whole(&bytes))
    }
}

/// How many numbers lie from the first of an array to its last, if neighbours along each axis are so far apart; none if there are more
/// than can be counted.
fn extent(shape: &[usize], strides: &[usize]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |last, (&axis, &stride)| last.checked_add((axis - 1).checked_mul(stride)?));
    u64::try_from(last?).ok()?.checked_add(1)
}

impl Number {
    /// Numbers as f32.
    pub(crate) fn floats(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.chunks_exact(N).map(|bytes| number(bytes.try_into().expect("chunks are of that size"))).collect()
        }
        match self {
            Self::Bool | Self::U8 => bytes.iter().map(|&byte| f32::from(byte)).collect(),
            Self::I8 => each(bytes, |bytes: [u8; 1]| f32::from(i8::from_le_bytes(bytes))),
            Self::U16 => each(bytes, |bytes: [u8; 2]| f32::from(u16::from_le_bytes(bytes))),
            Self::I16 => each(bytes, |bytes: [u8; 2]| f32::from(i16::from_le_bytes(bytes))),
            Self::U32 => each(bytes, |bytes: [u8; 4]| u32::from_le_bytes(bytes) as f32),
            Self::I32 => each(bytes, |bytes: [u8; 4]| i32::from_le_bytes(bytes) as f32),
            Self::U64 => each(bytes, |bytes: [u8; 8]| u64::from_le_bytes(bytes) as f32),
            Self::I64 => each(bytes, |bytes: [u8; 8]| i64::from_le_bytes(bytes) as f32),
            Self::F16 => each(bytes, |bytes: [u8; 2]| f16::from_le_bytes(bytes).to_f32()),
            Self::BF16 => each(bytes, |bytes: [u8; 2]| bf16::from_le_bytes(bytes).to_f32()),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |bytes: [u8; 8]| f64::from_le_bytes(bytes) as f32),
        }
    }

    /// Numbers as whole ones from 0 on.
    fn whole(self, bytes: &[u8]) -> Option<Vec<usize>> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> Option<usize>) -> Option<Vec<usize>> {
            bytes.chunks_exact(N).map(|bytes| number(bytes.try_into().expect("chunks are of that size"))).collect()
        }
        // Beyond 2^53 not every whole number is an f64.
        let float = |value: f64| {
            (value >= 0.0 && value.fract() == 0.0 && value < 9_007_199_254_740_992.0).then_some(value as usize)
        };
        match self {
            Self::Bool | Self::U8 => Some(bytes.iter().map(|&byte| byte.into()).collect()),
            Self::I8 => each(bytes, |bytes: [u8; 1]| i8::from_le_bytes(bytes).try_into().ok()),
            Self::U16 => each(bytes, |bytes: [u8; 2]| Some(u16::from_le_bytes(bytes).into())),
            Self::I16 => each(bytes, |bytes: [u8; 2]| i16::from_le_bytes(bytes).try_into().ok()),
            Self::U32 => each(bytes, |bytes: [u8; 4]| u32::from_le_bytes(bytes).try_into().ok()),
            Self::I32 => each(bytes, |bytes: [u8; 4]| i32::from_le_bytes(bytes).try_into().ok()),
            Self::U64 => each(bytes, |bytes: [u8; 8]| u64::from_le_bytes(bytes).try_into().ok()),
            Self::I64 => each(bytes, |bytes: [u8; 8]| i64::from_le_bytes(bytes).try_into().ok()),
            Self::F32 => each(bytes, |bytes: [u8; 4]| float(f32::from_le_bytes(bytes).into())),
            Self::F64 => each(bytes, |bytes: [u8; 8]| float(f64::from_le_bytes(bytes))),
            Self::F16 | Self::BF16 => None,
        }
    }

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }
}

/// The arrays of a file, or what is wrong with it.
type Found = Result<Vec<Array>, String>;

fn of_npy(file: &mut impl Read) -> Found {
    let header = npy::header(file).map_err(|error| error.to_string())?;
    // The order of a single axis is no matter.
    if header.is_fortran && header.shape.len() > 1 {
        return Err("its first axis varies fastest; save numpy.ascontiguousarray of it".to_owned());
    }
    Ok(vec![Array {
        name: String::new(),
        number: header.number,
        shape: header.shape,
        start: header.start,
        strides: None,
    }])
}

fn of_safetensors(file: &mut impl Read) -> Found {
    const SHORT: &str = "it ends before its header does";
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| SHORT)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err("its header is longer than any such file's; check what kind of file it is".to_owned());
    }
    let mut header = Vec::new();
    let read = file.take(length).read_to_end(&mut header).map_err(|error| error.to_string())?;
    if read as u64 != length {
        return Err(SHORT.to_owned());
    }
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| format!("it is no safetensors file ({error})"))?;
    let array = |name: String| {
        let info = metadata.info(&name)?;
        let number = Number::of_safetensors(info.dtype)?;
        let (shape, start) = (info.shape.clone(), (8 + length).saturating_add(info.data_offsets.0 as u64));
        Some(Array { name, number, shape, start, strides: None })
    };
    Ok(metadata.offset_keys().into_iter().filter_map(array).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    fn open(bytes: &[u8]) -> Result<ArrayFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        ArrayFile::open(&path).map_err(|error| error.to_string())
    }

    fn safetensors(dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let view = TensorView::new(dtype, shape.to_vec(), data).unwrap();
        safetensors::serialize([("x", view)], None::<HashMap<String, String>>).unwrap()
    }

    #[test]
    fn the_content_decides_and_half_files_are_refused() {
        let bytes = safetensors(Dtype::F32, &[2, 1], &[0; 8]);
        let file = open(&bytes).unwrap();
        assert_eq!((file.arrays[0].name.as_str(), &file.arrays[0].shape[..]), ("x", &[2, 1][..]));
        assert_eq!(file.arrays[0].start, bytes.len() as u64 - 8);
        for end in 0..bytes.len() {
            assert!(open(&bytes[..end]).is_err(), "{end}");
        }
        let npy = npy::tests::npy(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }", &[0; 32]);
        assert_eq!(open(&npy).unwrap().arrays[0].number, Number::F64);
        assert!(open(&npy[..npy.len() - 1]).unwrap_err().contains("half written"));
        let turned = npy::tests::npy(1, "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2), }", &[0; 32]);
        assert!(open(&turned).unwrap_err().contains("ascontiguousarray"));
        assert!(open(b"\x80\x02.").unwrap_err().contains("torch.save"));
        assert!(open(b"hello").unwrap_err().contains("is no .npy"));
        assert!(open(b"").unwrap_err().contains("is no .npy"));
        let error = ArrayFile::open(Path::new("/nonexistent/x.npy")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x.npy"), "{error}");
    }

    #[test]
    fn whole_numbers_of_every_kind() {
        assert_eq!(Number::I64.whole(&[7i64, 0].map(i64::to_le_bytes).concat()), Some(vec![7, 0]));
        assert_eq!(Number::I64.whole(&(-1i64).to_le_bytes()), None);
        assert_eq!(Number::I8.whole(&[3, 255]), None);
        assert_eq!(Number::U8.whole(&[3, 255]), Some(vec![3, 255]));
        assert_eq!(Number::F32.whole(&2.0f32.to_le_bytes()), Some(vec![2]));
        assert_eq!(Number::F32.whole(&2.5f32.to_le_bytes()), None);
        assert_eq!(Number::F64.whole(&f64::NAN.to_le_bytes()), None);
        assert_eq!(Number::F16.floats(&f16::from_f32(0.5).to_le_bytes()), [0.5]);
        assert_eq!(Number::F64.floats(&0.25f64.to_le_bytes()), [0.25]);
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            start in prop::sample::select(vec![&b""[..], b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{"]),
        ) {
            let _ = open(&[start, &bytes[..]].concat());
        }
    }
}
