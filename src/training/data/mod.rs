//! Labelled images, read one by one from wherever they lie, and the batches that training takes from them.
//!
//! | part | what it reads |
//! |---|---|
//! | `files` | class folders, or a folder with labels.csv ([`crate::images::Dataset`]'s layouts) |
//! | `shards` | tar files in webdataset's layout |
//! | `idx` | the four files of MNIST and its relatives |
//! | `cifar` | CIFAR-10's binary batches |
//! | `memory` | images that a program has made |
//! | `stream` | batches of any of them, read, augmented and mixed by threads ahead of the network |
//!
//! What is in memory of a set is a label and a name or a place for each image, some tens of bytes, whatever its pixels are;
//! only of gzipped IDX files, which cannot be read in part, are the pixels kept.

mod cifar;
mod files;
mod idx;
mod memory;
mod names;
mod shards;
mod stream;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TrainingError;
use crate::images::dataset::EXTENSIONS;
use crate::images::idx::IdxError;
use crate::images::{DatasetError, DecodeError, RgbImage};

pub use memory::Images;
pub use stream::{Ahead, Batch, Outage, Stream, StreamPlan, evaluation, stream};

pub(super) use stream::batches;

/// Labels are below this, the most classes that a set may have: larger numbers are no classes, but something else of the images.
pub(crate) const MAX_CLASSES: usize = 1 << 20;

/// Labelled images that are read one by one, by any number of threads.
pub trait Source: Send + Sync {
    /// How many images.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many classes; labels are below it.
    fn classes(&self) -> usize;

    /// The class of the image `index`, which is below [`Self::len`] here and below.
    fn label(&self, index: usize) -> usize;

    /// What the image is called, the same wherever the set lies.
    fn id(&self, index: usize) -> String;

    /// The decoded image.
    ///
    /// # Errors
    /// [`DecodeError`], which names the image.
    fn read(&self, index: usize) -> Result<RgbImage, DecodeError>;

    /// A hash, in hexadecimal, that changes with the images, their order and their labels: of files by their names and sizes,
    /// since to read them all takes as long as an epoch; of IDX files, CIFAR-10 and images in memory by every byte.
    fn fingerprint(&self) -> String;

    /// Names of what would be classes, but has no images; they are not counted in [`Self::classes`].
    fn empty_classes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Which images of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Those to learn from.
    Train,
    /// Those to test on.
    Test,
}

impl Split {
    /// What folders of it are called, the first of which counts, and a word in the names of its shards.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::Test => &["test", "val", "validation"],
        }
    }

    /// How the names of its IDX files begin.
    fn idx_name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }

    /// The name of its first batch in CIFAR-10.
    fn cifar_name(self) -> &'static str {
        match self {
            Self::Train => "data_batch_1.bin",
            Self::Test => "test_batch.bin",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Train => "training",
            Self::Test => "test",
        })
    }
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DataError {
    #[error(
        "`{}` has no {split} images: it has no folder {}, with one folder per class, labels.csv or *.tar in it, no shards such \
         as {}-0000.tar, and neither IDX files ({}-images-idx3-ubyte) nor CIFAR-10's batches ({}); check the path",
        folder.display(), split.names().join(" or "), split.names()[0], split.idx_name(), split.cifar_name()
    )]
    NoSplit { folder: PathBuf, split: Split },
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Idx(#[from] IdxError),
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the shard {} cannot be used: {problem}", path.display())]
    Shard { path: PathBuf, problem: String },
    #[error("{} is no batch of CIFAR-10: {problem}; fetch it again", path.display())]
    Cifar { path: PathBuf, problem: String },
    #[error("{} has the dimensions {dimensions:?} where {expected} are needed; give the other file of the pair", path.display())]
    Dimensions { path: PathBuf, dimensions: Vec<usize>, expected: &'static str },
    #[error("there are {images} images and {labels} labels; give one label for each image")]
    Count { images: usize, labels: usize },
    #[error(
        "the image {image} has the label {label}, but there are only {classes} classes, numbered from 0; correct the label"
    )]
    Label { image: String, label: usize, classes: usize },
    #[error(
        "the class folder `{class}` of {} is not in {}, so that it is no class of the network; remove it, or put training images \
         into a folder of the same name", folder.display(), training.display()
    )]
    OtherClass { class: String, folder: PathBuf, training: PathBuf },
}

/// The images of `split` in the folder `data`, which holds one of these:
///
/// * `train` and `test` (or `val`, `validation`), each with class folders, with `labels.csv` and what it names, or with shards;
/// * `*.tar` with `train` and `test`, `val` or `validation` as a word in their names, in webdataset's layout: `KEY.jpg` (any
///   format) with the class as text in `KEY.cls`, or as `label` in `KEY.json`;
/// * `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, each also `.gz`;
/// * CIFAR-10's `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, also in `cifar-10-batches-bin`.
///
/// Class folders that are neither numbers nor ImageNet's ids are numbered in the order of their names, of those in `train` for
/// the test images, too.
///
/// # Errors
/// [`TrainingError::Data`]: nothing of this is there, or it is damaged.
pub fn open(data: &Path, split: Split) -> Result<Arc<dyn Source>, TrainingError> {
    Ok(find(data, split)?)
}

fn find(data: &Path, split: Split) -> Result<Arc<dyn Source>, DataError> {
    if !data.is_dir() {
        return Err(DatasetError::NoFolder { folder: data.to_owned() }.into());
    }
    if let Some(folder) = folder_of(data, split) {
        if let Some(labels) = files::labels_in(&folder) {
            return Ok(Arc::new(files::Files::from_labels(&folder, &labels)?));
        }
        let shards = shards::list(&folder, None)?;
        if !shards.is_empty() {
            return Ok(Arc::new(shards::Shards::open(shards)?));
        }
        let training = match split {
            Split::Train => None,
            Split::Test => folder_of(data, Split::Train).filter(|training| files::labels_in(training).is_none()),
        };
        return Ok(Arc::new(files::Files::from_class_folders(&folder, training.as_deref())?));
    }
    let shards = shards::list(data, Some(split))?;
    if !shards.is_empty() {
        return Ok(Arc::new(shards::Shards::open(shards)?));
    }
    if let Some((images, labels)) = idx::files_in(data, split) {
        return Ok(Arc::new(idx::IdxImages::open(&images, &labels)?));
    }
    match cifar::files_in(data, split) {
        Some(batches) => Ok(Arc::new(cifar::Cifar::open(batches)?)),
        None => Err(DataError::NoSplit { folder: data.to_owned(), split }),
    }
}

/// What lies in `data` as if it belonged to the images, but is not taken by [`open`], in sentences: packed shards, shards of neither split,
/// and images beside class folders or shards. What cannot be listed is not told; [`open`] says why.
pub fn ignored(data: &Path) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |folder: &Path, names: Vec<String>, what: &str, why: &str| {
        /// So many are named.
        const NAMED: usize = 3;
        if !names.is_empty() {
            let (count, first) = (names.len(), names[..names.len().min(NAMED)].join(", "));
            let more = if count > NAMED { ", …" } else { "" };
            told.push(format!("{count} {what} in {} are not read, since {why}: {first}{more}", folder.display()));
        }
    };
    let packed_why = "shards are plain .tar files; unpack them by gunzip or its like";
    let mut root = Vec::new();
    for split in [Split::Train, Split::Test] {
        let Some(folder) = folder_of(data, split) else {
            if shards::list(data, Some(split)).is_ok_and(|shards| !shards.is_empty()) {
                root.push(split);
            }
            continue;
        };
        if files::labels_in(&folder).is_some() {
            continue;
        }
        let names = files_of(&folder);
        let has_shards = names.iter().any(|name| name.ends_with(".tar"));
        let loose = names.iter().filter(|name| is_image(name)).cloned().collect();
        let why = if has_shards { "the shards there are" } else { "an image belongs into the folder of its class" };
        tell(&folder, loose, "images", why);
        tell(&folder, names.into_iter().filter(|name| is_packed(name)).collect(), "packed files", packed_why);
    }
    if !root.is_empty() {
        let names = files_of(data);
        let taken: Vec<PathBuf> =
            root.iter().flat_map(|&split| shards::list(data, Some(split)).unwrap_or_default()).collect();
        let is_other = |name: &&String| name.ends_with(".tar") && !taken.contains(&data.join(name));
        let others = names.iter().filter(is_other).cloned().collect();
        tell(data, others, "shards", "their names have neither train nor test (or val, validation) as a word");
        tell(data, names.into_iter().filter(|name| is_packed(name)).collect(), "packed files", packed_why);
    }
    told
}

/// The names of the files in a folder that are not hidden, sorted.
fn files_of(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

fn is_image(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()))
}

/// Whether that is the name of a compressed tar file.
fn is_packed(name: &str) -> bool {
    const ENDS: [&str; 6] = [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4"];
    let name = name.to_ascii_lowercase();
    ENDS.iter().any(|end| name.ends_with(end))
}

fn folder_of(data: &Path, split: Split) -> Option<PathBuf> {
    split.names().iter().map(|name| data.join(name)).find(|folder| folder.is_dir())
}

/// The first `count` images, or all if there are fewer, with as many classes as before.
pub fn limit(source: Arc<dyn Source>, count: usize) -> Arc<dyn Source> {
    if count >= source.len() { source } else { Arc::new(Limited { source, count }) }
}

struct Limited {
    source: Arc<dyn Source>,
    count: usize,
}

impl Source for Limited {
    fn len(&self) -> usize {
        self.count
    }

    fn classes(&self) -> usize {
        self.source.classes()
    }

    fn label(&self, index: usize) -> usize {
        self.source.label(index)
    }

    fn id(&self, index: usize) -> String {
        self.source.id(index)
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        self.source.read(index)
    }

    fn fingerprint(&self) -> String {
        let whole = self.source.fingerprint();
        blake3::hash(format!("the first {} of {whole}", self.count).as_bytes()).to_hex().to_string()
    }
}

/// A set's fingerprint by its images' ids, labels and sizes in bytes.
fn fingerprint_of_listing(source: &dyn Source, size: impl Fn(usize) -> u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(source.classes() as u64).to_le_bytes());
    for index in 0..source.len() {
        let id = source.id(index);
        // Every part has a known length, so that no two lists give the same bytes.
        for number in [id.len() as u64, source.label(index) as u64, size(index)] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(id.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// `length` bytes of a file, from `start` on.
fn read_part(path: &Path, start: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"))
    }
}

/// How many classes labels are of, the image `index` having one of them.
///
/// # Errors
/// If a label is [`MAX_CLASSES`] or more.
fn classes_of(labels: &[u32], id: impl Fn(usize) -> String) -> Result<usize, DataError> {
    match labels.iter().position(|&label| label as usize >= MAX_CLASSES) {
        Some(index) => Err(DataError::Label { image: id(index), label: labels[index] as usize, classes: MAX_CLASSES }),
        None => Ok(labels.iter().max().map_or(0, |&label| label as usize + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::save_png;

    fn save(path: &Path, gray: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        save_png(path, &RgbImage::new(2, 2, vec![gray; 12])).unwrap();
    }

    #[test]
    fn a_folder_without_the_split_is_refused_with_what_could_be_there() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("train/0/a.png"), 1);
        assert_eq!(open(folder.path(), Split::Train).map(|source| source.len()).ok(), Some(1));
        let message = open(folder.path(), Split::Test).err().unwrap().to_string();
        assert!(message.contains("has no test images: it has no folder test or val or validation"), "{message}");
        assert!(message.contains("t10k-images-idx3-ubyte") && message.contains("test_batch.bin"), "{message}");
        let message = open(&folder.path().join("none"), Split::Train).err().unwrap().to_string();
        assert!(message.contains("does not exist"), "{message}");
    }

    #[test]
    fn what_looks_like_images_and_is_not_taken_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["train/a/1.png", "train/b/2.png", "test/a/3.png"] {
            save(&folder.path().join(name), 1);
        }
        assert_eq!(ignored(folder.path()), Vec::<String>::new());
        for name in ["train/4.PNG", "train/5.png", "test/notes.txt", "backup.tar"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let told = ignored(folder.path());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("2 images in ") && told[0].contains("the folder of its class"), "{told:?}");
        assert!(told[0].ends_with(": 4.PNG, 5.png"), "{told:?}");

        let shards = tempfile::tempdir().unwrap();
        for name in ["fm-train-0.tar", "fm-test-0.tar", "fm-0.tar", "fm-train-1.tar.gz", "fm-train-0.tar.idx"] {
            std::fs::write(shards.path().join(name), "").unwrap();
        }
        let told = ignored(shards.path());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("1 shards in ") && told[0].ends_with(": fm-0.tar"), "{told:?}");
        assert!(told[1].starts_with("1 packed files in ") && told[1].ends_with(": fm-train-1.tar.gz"), "{told:?}");
    }

    #[test]
    fn the_first_images_are_a_set_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        for (name, gray) in [("train/a/1.png", 1), ("train/a/2.png", 2), ("train/b/3.png", 3)] {
            save(&folder.path().join(name), gray);
        }
        let whole = open(folder.path(), Split::Train).unwrap();
        let first = limit(Arc::clone(&whole), 2);
        assert_eq!((first.len(), first.classes(), first.label(1)), (2, 2, 0));
        assert_eq!(first.id(1), "a/2.png");
        assert_eq!(first.read(1).unwrap().data(), [2; 12]);
        assert_ne!(first.fingerprint(), whole.fingerprint());
        assert_eq!(limit(Arc::clone(&whole), 9).fingerprint(), whole.fingerprint());
    }
}
