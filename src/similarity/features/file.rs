//! Features from files that other programs wrote: safetensors, and NumPy's `.npy`.
//!
//! The first axis is the images, everything else of an image is one row. Numbers of 16 bits and small integers become f32, which holds
//! them exactly, larger integers f64. Files are read straight into the features, so that there is no second copy of them but
//! where the first axis varies fastest (`fortran_order`) and rows must be gathered.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{bf16, f16};
use safetensors::tensor::Metadata;

use super::extract::similar;
use super::{FeatureError, Values, bytes_of, check_room};
use crate::memory;
use crate::npy::{self, Header, Number};

/// The longest header of a safetensors file that is read.
const MAX_HEADER: u64 = 100 << 20;

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Row by row.
    pub values: Values,
    /// How many rows.
    pub rows: usize,
}

/// Whether a file's name says that features may be in it.
pub fn is_of_features(path: &Path) -> bool {
    is_npy(path) || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

/// Whether a file's name says that it holds one matrix without a name.
pub fn is_npy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"))
}

/// Reads a matrix: of a safetensors file the tensor `name`; if there is none, the only tensor, unless the name `is_asked` for.
///
/// # Errors
/// [`FeatureError::Read`], [`FeatureError::Format`] or [`FeatureError::Memory`].
pub fn read(path: &Path, name: &str, is_asked: bool) -> Result<Stored, FeatureError> {
    let reader = FileOf { path, name, is_asked };
    let mut file = reader.open()?;
    let found = if is_npy(path) {
        npy::header(&mut file).map_err(|error| reader.unusable(error.to_string()))?
    } else {
        reader.find_in_safetensors(&mut file)?
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

    fn find_in_safetensors(&self, file: &mut BufReader<File>) -> Result<Header, FeatureError> {
        let length = u64::from_le_bytes(self.bytes(file)?);
        let header = self.header(file, length)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| self.unusable(format!("it is no safetensors file ({error})")))?;
        let names = metadata.offset_keys();
        let name = match names.as_slice() {
            names if names.iter().any(|name| name == self.name) => self.name,
            [only] if !self.is_asked => only,
            names => return Err(self.unusable(no_tensor(self.name, names))),
        };
        let info = metadata.info(name).expect("the name is one of the file's");
        let number = Number::of_safetensors(info.dtype)
            .ok_or_else(|| self.unusable(format!("its tensor {name:?} is {:?}; save it as f32 or f64", info.dtype)))?;
        let start = (8 + length).saturating_add(info.data_offsets.0 as u64);
        Ok(Header { shape: info.shape.clone(), number, is_fortran: false, start })
    }

    fn stored(&self, mut file: BufReader<File>, found: &Header) -> Result<Stored, FeatureError> {
        let &[rows, ref rest @ ..] = found.shape.as_slice() else {
            return Err(self.unusable("it holds a single number; its first axis must be the images"));
        };
        let count = rest.iter().try_fold(rows, |count, &axis| count.checked_mul(axis));
        let bytes = count.and_then(|count| (count as u64).checked_mul(found.number.size() as u64));
        let (Some(count), Some(bytes)) = (count, bytes) else {
            return Err(self.unusable(format!("its shape {:?} is beyond all memory", found.shape)));
        };
        let there = file.get_ref().metadata().map_err(|error| self.failed(error))?.len();
        if there < found.start.saturating_add(bytes) {
            return Err(self.unusable("it ends before its numbers do; it may be half written"));
        }
        let copies = if found.is_fortran { 2 } else { 1 };
        let held = bytes_of(count, copies, held_bytes(found.number));
        let advice = "save fewer rows or fewer columns, or take a machine with more memory";
        check_room(format!("the features of {}", self.path.display()), held, memory::available(), advice)?;
        file.seek(SeekFrom::Start(found.start)).map_err(|error| self.failed(error))?;
        let values = match found.number {
            Number::F64 => Values::F64(self.numbers(file, found, count, f64::from_le_bytes)?),
            Number::F32 => Values::F32(self.numbers(file, found, count, f32::from_le_bytes)?),
            Number::F16 => {
                Values::F32(self.numbers(file, found, count, |bytes: [u8; 2]| f16::from_le_bytes(bytes).to_f32())?)
            }
            Number::BF16 => {
                Values::F32(self.numbers(file, found, count, |bytes: [u8; 2]| bf16::from_le_bytes(bytes).to_f32())?)
            }
            Number::Bool | Number::U8 => {
                Values::F32(self.numbers(file, found, count, |bytes: [u8; 1]| f32::from(bytes[0]))?)
            }
            Number::I8 => {
                Values::F32(self.numbers(file, found, count, |bytes: [u8; 1]| f32::from(i8::from_le_bytes(bytes)))?)
            }
            Number::U16 => {
                Values::F32(self.numbers(file, found, count, |bytes: [u8; 2]| f32::from(u16::from_le_bytes(bytes)))?)
            }
            Number::I16 => {
                Values::F32(self.numbers(file, found, count, |bytes: [u8; 2]| f32::from(i16::from_le_bytes(bytes)))?)
            }
            Number::U32 => {
                Values::F64(self.numbers(file, found, count, |bytes: [u8; 4]| f64::from(u32::from_le_bytes(bytes)))?)
            }
            Number::I32 => {
                Values::F64(self.numbers(file, found, count, |bytes: [u8; 4]| f64::from(i32::from_le_bytes(bytes)))?)
            }
            // Beyond 2^53 they are rounded.
            Number::U64 => {
                Values::F64(self.numbers(file, found, count, |bytes: [u8; 8]| u64::from_le_bytes(bytes) as f64)?)
            }
            Number::I64 => {
                Values::F64(self.numbers(file, found, count, |bytes: [u8; 8]| i64::from_le_bytes(bytes) as f64)?)
            }
        };
        Ok(Stored { values, rows })
    }

    /// All `count` numbers, row by row.
    fn numbers<T: Copy, const N: usize>(
        &self,
        mut file: impl Read,
        found: &Header,
        count: usize,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, FeatureError> {
        const AT_ONCE: usize = 1 << 16;
        let mut numbers = Vec::new();
        let no_room =
            |_| self.unusable("its numbers are more than there is memory for; save fewer rows or fewer columns");
        numbers.try_reserve_exact(count).map_err(no_room)?;
        let mut bytes = vec![0; AT_ONCE * N];
        while numbers.len() < count {
            let part = &mut bytes[..AT_ONCE.min(count - numbers.len()) * N];
            file.read_exact(part).map_err(|error| self.failed(error))?;
            numbers
                .extend(part.chunks_exact(N).map(|bytes| number(bytes.try_into().expect("chunks are of that size"))));
        }
        // A shape may have any number of rows of nothing.
        Ok(if found.is_fortran && count > 0 { by_rows(&numbers, &found.shape) } else { numbers })
    }
}

/// That a file has other tensors than one: all of a few, those that are most like it of many.
fn no_tensor(name: &str, names: &[String]) -> String {
    const FEW: usize = 5;
    match names.len() {
        0 => "it has no tensors; save one of the features".to_owned(),
        1..=FEW => format!("it has no tensor {name:?}, but {}; name one by --layer or --layer-b", names.join(", ")),
        many => format!(
            "it has no tensor {name:?} among its {many}; did you mean {}? Name one by --layer or --layer-b",
            similar(name, names)
        ),
    }
}

/// Bytes of a number once it is read.
fn held_bytes(number: Number) -> usize {
    match number {
        Number::F64 | Number::U32 | Number::I32 | Number::U64 | Number::I64 => 8,
        _ => 4,
    }
}

/// Numbers whose first axis varies fastest, in the order in which the last one does.
fn by_rows<T: Copy>(numbers: &[T], shape: &[usize]) -> Vec<T> {
    let (rows, axes) = (shape[0], &shape[1..]);
    let width: usize = axes.iter().product();
    let columns: Vec<usize> = (0..width).map(|column| place(column, axes)).collect();
    (0..rows).flat_map(|row| columns.iter().map(move |&column| numbers[row + rows * column])).collect()
}

/// Where the number at `column` of a row lies among the row's numbers if the first of its axes varies fastest.
fn place(column: usize, axes: &[usize]) -> usize {
    let (mut rest, mut place, mut stride) = (column, 0, axes.iter().product::<usize>());
    for &axis in axes.iter().rev() {
        stride /= axis;
        place += rest % axis * stride;
        rest /= axis;
    }
    place
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::npy::tests::npy;

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

    fn header(kind: &str, order: &str, shape: &str) -> String {
        format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
    }

    #[test]
    fn npy_files_of_every_version() {
        let data = f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for version in [1, 2, 3] {
            let matrix = of("x.npy", &npy(version, &header("<f4", "False", "(2, 3)"), &data)).unwrap();
            assert_eq!(matrix, Stored { values: Values::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), rows: 2 });
        }
    }

    /// The same numbers in every format, of which those of up to 16 bits are held in 32.
    #[test]
    fn npy_files_of_every_number() {
        let values = [0.0f64, 1.0, 3.0];
        macro_rules! bytes {
            ($kind:ty) => {
                values.iter().flat_map(|&value| (value as $kind).to_le_bytes()).collect::<Vec<u8>>()
            };
        }
        let half: Vec<u8> = values.iter().flat_map(|&value| f16::from_f64(value).to_le_bytes()).collect();
        for (kind, data) in [
            ("|u1", bytes!(u8)),
            ("|i1", bytes!(i8)),
            ("<u2", bytes!(u16)),
            ("<i2", bytes!(i16)),
            ("<f2", half),
            ("<f4", bytes!(f32)),
        ] {
            let found = of("x.npy", &npy(1, &header(kind, "False", "(3,)"), &data)).unwrap();
            assert_eq!(found.values, Values::F32(vec![0.0, 1.0, 3.0]), "{kind}");
        }
        let double: Vec<u8> = values.iter().flat_map(|value: &f64| value.to_le_bytes()).collect();
        for (kind, data) in
            [("<u4", bytes!(u32)), ("<i4", bytes!(i32)), ("<u8", bytes!(u64)), ("<i8", bytes!(i64)), ("<f8", double)]
        {
            let found = of("x.npy", &npy(1, &header(kind, "False", "(3,)"), &data)).unwrap();
            assert_eq!(found.values, Values::F64(values.to_vec()), "{kind}");
        }
        let truth = of("x.npy", &npy(1, &header("|b1", "False", "(2,)"), &[0, 1])).unwrap();
        assert_eq!(truth.values, Values::F32(vec![0.0, 1.0]));
    }

    /// As NumPy writes `numpy.asfortranarray` of the numbers from 0 on in the shape 2 × 3 × 2.
    #[test]
    fn npy_files_column_by_column() {
        let by_columns: Vec<f32> = [0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11].map(|value| value as f32).into();
        let found = of("x.npy", &npy(1, &header("<f4", "True", "(2, 3, 2)"), &f32s(&by_columns))).unwrap();
        assert_eq!(found, Stored { values: Values::F32((0..12).map(|value| value as f32).collect()), rows: 2 });
        assert!(of("x.npy", &npy(1, &header("<f4", "True", "(0, 3)"), &[])).unwrap().values.is_empty());
    }

    #[test]
    fn npy_files_that_cannot_be_used() {
        let data = f32s(&[1.0; 6]);
        let with = |kind: &str, shape: &str| npy(1, &header(kind, "False", shape), &data);
        refused("x.npy", &with("<c8", "(2, 3)"), "float32, float64");
        refused("x.npy", &with(">f4", "(2, 3)"), "big-endian");
        refused("x.npy", &with("<f4", "(2, 4)"), "half written");
        refused("x.npy", &with("<f4", "()"), "single number");
        refused("x.npy", &with("<f4", "(4611686018427387904, 4)"), "beyond all memory");
        refused("x.npy", &with("<f4", "(-1, 4)"), "numpy.save");
        refused("x.npy", b"PK\x03\x04 and so on", "numpy.save");
        refused("x.npy", b"\x93NU", "ends before");
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
        let names = ["blocks.0", "blocks.1", "blocks.2", "head", "norm", "penultimate"];
        let many = file(names.map(|name| (name, view(Dtype::F32, &[4]))).into());
        refused("x.safetensors", &many, "no tensor \"features\" among its 6; did you mean ");
        let none = serde_json::to_vec(&serde_json::json!({})).unwrap();
        refused("x.safetensors", &[&(none.len() as u64).to_le_bytes()[..], &none].concat(), "no tensors");
        assert!(no_tensor("penultimat", &names.map(String::from)).contains("did you mean penultimate or"));
        let eighth = file(vec![("features", view(Dtype::F8_E4M3, &[16]))]);
        refused("x.safetensors", &eighth, "f32 or f64");
        let ones = [(Dtype::F16, f16::ONE.to_le_bytes()), (Dtype::BF16, bf16::ONE.to_le_bytes())];
        for (dtype, one) in &ones {
            let half = TensorView::new(*dtype, vec![1], one).unwrap();
            assert_eq!(of("x.safetensors", &file(vec![("x", half)])).unwrap().values, Values::F32(vec![1.0]));
        }
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
        // What limits the images of a data set is no help here.
        let text = error.to_string();
        assert!(text.contains("x.npy") && text.contains("save fewer rows") && !text.contains("--limit"), "{text}");
    }
}
