//! What a file of weights holds: keys, shapes and numbers, whatever the format.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use burn::tensor::TensorData;
use burn_store::pytorch_reader::{self, PickleError, PickleValue, PytorchError, PytorchReader};
use netkin_architectures::Checkpoint;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use sha2::{Digest, Sha256};

use crate::precision::{Flaw, convert};
use crate::{Error, Precision, pickle};

/// The tensors of a file, by key.
pub(crate) struct WeightsFile {
    /// How messages call the file.
    pub label: String,
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
    /// What was chosen among several things in the file, or taken off, in sentences for people.
    pub notes: Vec<String>,
    /// Every tensor but those that no network needs.
    pub tensors: BTreeMap<String, StoredTensor>,
    /// The file itself, if the tensors are places in it.
    bytes: Cow<'static, [u8]>,
}

/// One tensor of a file.
pub(crate) struct StoredTensor {
    /// The format of its numbers, or the name of a type that is none of floating point numbers.
    pub kind: Result<Precision, String>,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    place: Place,
}

enum Place {
    Bytes(Range<usize>),
    Checkpoint(pytorch_reader::Tensor),
}

/// Under these keys a checkpoint of a training run keeps its weights; the averaged ones are better and come first, as in timm.
const CHECKPOINT_KEYS: [&str; 6] = ["state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net"];
/// What wrappers for parallel and compiled training, and modules of Lightning, put before every key.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "model.", "net."];
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 36;
/// What is wrapped more often than that was written to keep somebody busy.
const MOST_WRAPPERS: usize = 16;
/// Counts the batches that batch normalisation has seen; nothing computes with it.
const UNNEEDED: &str = "num_batches_tracked";

impl WeightsFile {
    /// Reads safetensors or a PyTorch checkpoint; its content decides which, not its name.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NoFile { path: path.into() },
            _ => Error::Io { action: "read", path: path.into(), error },
        };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(Error::Folder { path: path.into() });
        }
        // A device or a pipe may give bytes for ever.
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            let reason = if metadata.is_file() { "it is too large to be weights" } else { "it is not a regular file" };
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        let label = path.display().to_string();
        match format(&bytes) {
            Format::Empty => Err(Error::Empty { file: label }),
            Format::Other(what, advice) => Err(Error::NotWeights { file: label, what, advice }),
            Format::Safetensors => Self::from_safetensors(label, bytes.into()),
            Format::Checkpoint => Self::from_checkpoint(label, path, &bytes),
        }
    }

    /// Reads safetensors; `label` is how messages call them.
    pub fn from_safetensors(label: String, bytes: Cow<'static, [u8]>) -> Result<Self, Error> {
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| Error::Damaged {
            file: label.clone(),
            reason: match error {
                SafeTensorError::HeaderTooSmall
                | SafeTensorError::InvalidHeaderLength
                | SafeTensorError::MetadataIncompleteBuffer => "its length is not what its header announces".into(),
                error => error.to_string(),
            },
        })?;
        let start = bytes.as_ptr() as usize;
        let tensors = parsed
            .iter()
            .map(|(key, view)| {
                let offset = view.data().as_ptr() as usize - start;
                let tensor = StoredTensor {
                    kind: safetensors_kind(view.dtype()),
                    shape: view.shape().to_vec(),
                    place: Place::Bytes(offset..offset + view.data().len()),
                };
                (key.to_string(), tensor)
            })
            .collect();
        let mut notes = Vec::new();
        let tensors = needed(some(tensors, &label)?, &mut notes);
        Ok(Self { sha256: sha256(&bytes), tensors, label, notes, bytes })
    }

    fn from_checkpoint(label: String, path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::Unreadable { file: label.clone(), reason };
        pickle::check(bytes).map_err(unreadable)?;
        let reader = PytorchReader::new(path).map_err(|error| refused(&label, path, &error))?;
        // A tensor's numbers may all be one that is in the file.
        let taken =
            reader.tensors().values().fold(0u64, |taken, tensor| taken.saturating_add(tensor.byte_len() as u64));
        pickle::check_tensors(taken, bytes.len()).map_err(unreadable)?;
        let tensors = reader
            .into_tensors()
            .into_iter()
            .map(|(key, tensor)| {
                let stored = StoredTensor {
                    kind: checkpoint_kind(tensor.dtype()),
                    shape: tensor.shape().to_vec(),
                    place: Place::Checkpoint(tensor),
                };
                (key, stored)
            })
            .collect();
        let mut notes = Vec::new();
        let tensors = weights_of(some(tensors, &label)?, &mut notes);
        let tensors = needed(tensors, &mut notes);
        Ok(Self { sha256: sha256(bytes), tensors, label, notes, bytes: Cow::Borrowed(&[]) })
    }

    /// Names and shapes, on their way into a network.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.tensors.iter().map(|(key, tensor)| (key.clone(), tensor.shape.clone())))
    }

    /// The numbers of a checkpoint's tensor of floating point numbers, which is made of this file's.
    pub fn read(&self, checkpoint: &Checkpoint, key: &str, to: Precision) -> Result<TensorData, Error> {
        let shape = checkpoint.shape(key).expect("a tensor of the checkpoint");
        if let Some(origin) = checkpoint.unchanged(key) {
            return self.stored(origin, shape, to);
        }
        let values = checkpoint.values(key, |origin| {
            let data = self.stored(origin, &self.tensors[origin].shape, Precision::F64)?;
            Ok(data.try_into_vec::<f64>().expect("what was read as f64"))
        })?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f64::to_le_bytes).collect();
        convert(&bytes, Precision::F64, shape, to).map_err(|flaw| self.flawed(flaw, key, to))
    }

    /// The numbers of one of the file's tensors, in another shape of as many.
    fn stored(&self, key: &str, shape: &[usize], to: Precision) -> Result<TensorData, Error> {
        let tensor = &self.tensors[key];
        let damaged = |reason: String| Error::Damaged { file: self.label.clone(), reason };
        let from = tensor.kind.clone().map_err(damaged)?;
        let bytes = match &tensor.place {
            Place::Bytes(range) => Cow::Borrowed(&self.bytes[range.clone()]),
            Place::Checkpoint(tensor) => Cow::Owned(tensor.read().map_err(|error| damaged(error.to_string()))?),
        };
        convert(&bytes, from, shape, to).map_err(|flaw| self.flawed(flaw, key, to))
    }

    fn flawed(&self, flaw: Flaw, key: &str, precision: Precision) -> Error {
        let (file, tensor) = (self.label.clone(), key.to_owned());
        match flaw {
            Flaw::NotFinite => Error::NotFinite { file, tensor },
            Flaw::Overflow => Error::Overflow { file, tensor, precision },
        }
    }
}

/// In lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a checkpoint cannot be read: it is damaged, or holds something else.
fn refused(label: &str, path: &Path, error: &PytorchError) -> Error {
    let (file, reason) = (label.to_owned(), error.to_string());
    match error {
        PytorchError::Pickle(PickleError::UnsupportedType(_) | PickleError::UnsupportedOpCode(_)) => {
            Error::Unreadable { file, reason }
        }
        // Its reason may be that what was pickled is no dictionary.
        PytorchError::InvalidFormat(_) => match PytorchReader::read_pickle_data(path, None) {
            Ok(value) if !matches!(value, PickleValue::Dict(_)) => Error::NoTensors { file },
            _ => Error::Damaged { file, reason },
        },
        _ => Error::Damaged { file, reason },
    }
}

/// The tensors of a file that holds some.
fn some(tensors: Tensors, label: &str) -> Result<Tensors, Error> {
    if tensors.is_empty() { Err(Error::NoTensors { file: label.to_owned() }) } else { Ok(tensors) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    Checkpoint,
    Empty,
    /// What it is, and what to do.
    Other(&'static str, &'static str),
}

/// What to do with a file of another kind.
const GIVE: &str = "give the file of weights itself";
const UNPACK: &str = "unpack it, and give the file of weights inside";
const TAKE_TIMMS: &str = "take what timm made of such weights (`netkin weights list NAME`), or load them in PyTorch and save \
                          the state_dict by torch.save or as safetensors";
const SAVE_STATE: &str = "load it in PyTorch and save its state_dict by torch.save or as safetensors";
const EXPORT: &str = "save the network's weights where it came from, by torch.save or as safetensors";

/// Safetensors begin with the length of a JSON object and its brace; PyTorch writes a ZIP archive, before 1.6 a pickle, before
/// 0.1.10 a TAR archive, which is not read: of sparse entries in it Burn's reader would make any number of zeros.
fn format(bytes: &[u8]) -> Format {
    const OTHERS: [(&[u8], Format); 12] = [
        (b"version https://git-lfs", Format::Other("a Git LFS pointer (`git lfs pull` fetches the file)", GIVE)),
        (b"<", Format::Other("a web page", GIVE)),
        (b"{", Format::Other("JSON", GIVE)),
        (b"\x93NUMPY", Format::Other("a NumPy array", TAKE_TIMMS)),
        (b"\x89HDF", Format::Other("an HDF5 file, as Keras and TensorFlow write weights", TAKE_TIMMS)),
        (b"GGUF", Format::Other("a GGUF file", EXPORT)),
        // A SavedModel: the version of its layout, then a graph.
        (b"\x08\x01\x12", Format::Other("a graph of TensorFlow", TAKE_TIMMS)),
        (b"\x1f\x8b", Format::Other("compressed with gzip", UNPACK)),
        (b"BZh", Format::Other("compressed with bzip2", UNPACK)),
        (b"\xfd7zXZ", Format::Other("compressed with xz", UNPACK)),
        (b"7z\xbc\xaf", Format::Other("a 7-Zip archive", UNPACK)),
        (b"\x28\xb5\x2f\xfd", Format::Other("compressed with zstd", UNPACK)),
    ];
    if bytes.is_empty() {
        Format::Empty
    } else if bytes.get(8) == Some(&b'{') && bytes[4..8] == [0; 4] {
        Format::Safetensors
    } else if bytes.get(257..262) == Some(b"ustar") {
        tar_format(bytes)
    } else if bytes.starts_with(b"PK") {
        zip_format(&names_in_zip(bytes))
    } else if bytes[0] == 0x80 {
        Format::Checkpoint
    } else if matches!(bytes, [8, 3..=15, 0x12 | 0x1a | 0x3a | 0x42, ..]) {
        // Protocol Buffers: the version of the layout, then who made it, the graph, or what it is made of.
        Format::Other("an ONNX graph", EXPORT)
    } else {
        let other = OTHERS.iter().find(|(start, _)| bytes.starts_with(start));
        other.map_or(Format::Other("of an unknown kind", GIVE), |(_, format)| *format)
    }
}

/// The names in a ZIP archive's directory, which lies at its end.
fn names_in_zip(bytes: &[u8]) -> Vec<&[u8]> {
    const DIRECTORY: usize = 1 << 20;
    let tail = &bytes[bytes.len().saturating_sub(DIRECTORY)..];
    let name = |at: usize| {
        let length = u16::from_le_bytes(tail.get(at + 28..at + 30)?.try_into().ok()?);
        tail.get(at + 46..)?.get(..usize::from(length))
    };
    let entries = tail.windows(4).enumerate().filter(|(_, start)| *start == b"PK\x01\x02");
    entries.filter_map(|(at, _)| name(at)).collect()
}

/// PyTorch keeps what it pickled as `data.pkl`, and where that is a program (TorchScript), its code beside it. An archive whose
/// directory is missing is left to the reader, which says what is wrong.
fn zip_format(names: &[&[u8]]) -> Format {
    let any = |end: &[u8]| names.iter().any(|name| name.ends_with(end));
    if any(b"/constants.pkl") {
        Format::Other("a TorchScript archive, a program with its weights", SAVE_STATE)
    } else if names.is_empty() || any(b"data.pkl") {
        Format::Checkpoint
    } else if any(b".npy") {
        Format::Other("an archive of NumPy arrays (.npz), as Google publishes weights", TAKE_TIMMS)
    } else if any(b".h5") {
        Format::Other("an archive of Keras", TAKE_TIMMS)
    } else {
        Format::Other("a ZIP archive", UNPACK)
    }
}

/// PyTorch's own hold `sys_info` among others.
fn tar_format(bytes: &[u8]) -> Format {
    const BLOCK: usize = 512;
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + BLOCK) {
        let text = |field: &[u8]| String::from_utf8_lossy(field).trim_matches(['\0', ' ']).to_owned();
        if text(&header[..100]).trim_start_matches("./") == "sys_info" {
            return Format::Other("a checkpoint of PyTorch before 0.1.10", SAVE_STATE);
        }
        // In octal digits; the end is a block of zeros.
        let Ok(size) = usize::from_str_radix(&text(&header[124..136]), 8) else {
            break;
        };
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    Format::Other("a TAR archive", UNPACK)
}

fn safetensors_kind(dtype: Dtype) -> Result<Precision, String> {
    match dtype {
        Dtype::F32 => Ok(Precision::F32),
        Dtype::F64 => Ok(Precision::F64),
        Dtype::F16 => Ok(Precision::F16),
        Dtype::BF16 => Ok(Precision::BF16),
        other => Err(format!("{other:?}")),
    }
}

fn checkpoint_kind(dtype: pytorch_reader::DType) -> Result<Precision, String> {
    match dtype {
        pytorch_reader::DType::F32 => Ok(Precision::F32),
        pytorch_reader::DType::F64 => Ok(Precision::F64),
        pytorch_reader::DType::F16 => Ok(Precision::F16),
        pytorch_reader::DType::BF16 => Ok(Precision::BF16),
        other => Err(format!("{other:?}")),
    }
}

type Tensors = BTreeMap<String, StoredTensor>;

/// The weights alone, out of all that a checkpoint of a training run holds.
fn weights_of(tensors: Tensors, notes: &mut Vec<String>) -> Tensors {
    let is_there = |key: &&str| tensors.keys().any(|other| other.starts_with(&format!("{key}.")));
    let found: Vec<&str> = CHECKPOINT_KEYS.into_iter().filter(is_there).collect();
    let Some((taken, others)) = found.split_first() else {
        return tensors;
    };
    if !others.is_empty() {
        notes.push(format!("the weights under {taken} were taken, those under {} left out", others.join(", ")));
    }
    stripped(tensors, &format!("{taken}."))
}

/// Without what wrappers put before every key, and without what nothing computes with.
fn needed(mut tensors: Tensors, notes: &mut Vec<String>) -> Tensors {
    for _ in 0..MOST_WRAPPERS {
        let is_before_all = |wrapper: &&str| !tensors.is_empty() && tensors.keys().all(|key| key.starts_with(*wrapper));
        let Some(wrapper) = WRAPPERS.into_iter().find(is_before_all) else { break };
        notes.push(format!("{wrapper} before every key was taken off"));
        tensors = stripped(tensors, wrapper);
    }
    tensors.retain(|key, _| key.rsplit('.').next() != Some(UNNEEDED));
    tensors
}

/// The tensors under a prefix, under the rest of their keys.
fn stripped(tensors: Tensors, prefix: &str) -> Tensors {
    tensors.into_iter().filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?.to_string(), tensor))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(keys: &[&str]) -> Tensors {
        let tensor = || StoredTensor { kind: Ok(Precision::F32), shape: vec![], place: Place::Bytes(0..0) };
        keys.iter().map(|key| (key.to_string(), tensor())).collect()
    }

    fn keys(tensors: Tensors) -> Vec<String> {
        tensors.into_keys().collect()
    }

    #[test]
    fn averaged_weights_come_first() {
        let mut notes = Vec::new();
        let mut of = |these: &[&str]| keys(weights_of(tensors(these), &mut notes));
        assert_eq!(of(&["model.a", "lr"]), ["a"]);
        assert_eq!(of(&["net.a", "acc", "epoch"]), ["a"]);
        assert_eq!(of(&["a", "b.model.c"]), ["a", "b.model.c"]);
        assert_eq!(of(&["state_dict.a", "state_dict_ema.b", "optimizer.state.0.c"]), ["b"]);
        assert_eq!(notes, ["the weights under state_dict_ema were taken, those under state_dict left out"]);
    }

    #[test]
    fn wrappers_are_taken_off() {
        let wrapped = tensors(&["module._orig_mod.a", "module._orig_mod.bn.num_batches_tracked"]);
        let mut notes = Vec::new();
        assert_eq!(keys(needed(wrapped, &mut notes)), ["a"]);
        assert_eq!(notes.len(), 2);
        assert_eq!(keys(needed(tensors(&["model.a", "model.b.c"]), &mut notes)), ["a", "b.c"]);
        assert_eq!(notes[2], "model. before every key was taken off");
        assert_eq!(keys(needed(tensors(&["module.a", "b"]), &mut notes)), ["b", "module.a"]);
        assert_eq!(notes.len(), 3);
        // A key of a megabyte took minutes.
        let often = format!("{}a", "net.".repeat(250_000));
        assert_eq!(keys(needed(tensors(&[&often]), &mut notes))[0].len(), often.len() - 4 * MOST_WRAPPERS);
    }

    #[test]
    fn the_content_decides() {
        let mut safetensors = 0x280u64.to_le_bytes().to_vec();
        safetensors.push(b'{');
        assert_eq!(format(&safetensors), Format::Safetensors);
        assert_eq!(format(b"\x80\x02}q\x00."), Format::Checkpoint);
        assert_eq!(format(b""), Format::Empty);
        assert_eq!(format(b"<html>"), Format::Other("a web page", GIVE));
        assert_eq!(format(b"hello"), Format::Other("of an unknown kind", GIVE));
        // onnx.save and tf.saved_model.save
        assert_eq!(format(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:"), Format::Other("an ONNX graph", EXPORT));
        assert_eq!(format(b"\x08\x01\x12\xf4\xbc"), Format::Other("a graph of TensorFlow", TAKE_TIMMS));
    }

    /// The part of a ZIP archive that tells its entries.
    fn zip(names: &[&str]) -> Vec<u8> {
        let mut bytes = b"PK\x03\x04 and what is packed".to_vec();
        for name in names {
            bytes.extend(b"PK\x01\x02");
            bytes.extend([0; 24]);
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend([0; 16]);
            bytes.extend(name.bytes());
        }
        bytes
    }

    #[test]
    fn archives_are_told_apart() {
        let what = |names: &[&str]| match format(&zip(names)) {
            Format::Other(what, _) => what,
            format => panic!("{format:?}"),
        };
        assert_eq!(format(&zip(&[])), Format::Checkpoint);
        assert_eq!(format(&zip(&["w/data.pkl", "w/byteorder", "w/data/0", "w/version"])), Format::Checkpoint);
        let script = ["w/data.pkl", "w/code/__torch__.py", "w/constants.pkl", "w/data/0"];
        assert!(what(&script).starts_with("a TorchScript archive"));
        assert!(what(&["cls.npy", "embedding/kernel.npy"]).contains("(.npz)"));
        assert_eq!(what(&["config.json", "model.weights.h5"]), "an archive of Keras");
        assert_eq!(what(&["resnet18.pth", "readme.txt"]), "a ZIP archive");
    }

    /// An entry of a TAR archive.
    fn tar(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        bytes[257..262].copy_from_slice(b"ustar");
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn the_oldest_checkpoints_are_told_from_other_archives() {
        let checkpoint = [tar("pickle", &[1; 700]), tar("sys_info", &[2]), vec![0; 1024]].concat();
        assert_eq!(format(&checkpoint), Format::Other("a checkpoint of PyTorch before 0.1.10", SAVE_STATE));
        let other = [tar("weights/resnet18.pth", &[1; 700]), tar("readme", &[2]), vec![0; 1024]].concat();
        assert_eq!(format(&other), Format::Other("a TAR archive", UNPACK));
    }

    #[test]
    fn sha256_of_nist() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
