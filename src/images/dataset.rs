//! Which images there are, and which class each one shows.
//!
//! Two layouts are read. In a folder of class folders the folder's name is the class; folders without images are none:
//! - if every name is an ImageNet-1k id (`n01440764`), labels are ImageNet's, even when only some of its classes are there;
//! - if every name is a whole number, it is the label;
//! - otherwise labels count the folders in sorted order, as PyTorch's `ImageFolder` does. If that may go wrong, since a class
//!   is missing, [`Dataset::doubts`] says so.
//!
//! In a folder with a labels file, a table with the columns `file` and `label` says both, and its other columns are ignored.
//! It is read as people's tools write it: separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with any line ends.
//! A label is a whole number (also as `9.0`), an ImageNet id, or the name of a class folder.
//!
//! A file in place of a folder is a [`Stack`] of images, with labels in it or in another file.
//!
//! Nothing is decoded here: a corrupt image is found by the loader, which can skip it.

use std::collections::HashMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use thiserror::Error;

use super::decode::{MAX_FILE, decode, decode_file};
use super::stack::{Labels, Stack, StackError, StackedImage};
use super::{DecodeError, RgbImage};
use crate::files::read_regular;

/// What counts as an image in a folder of class folders, in any case of letters. Those at the end cannot be decoded: they
/// are listed, so that they are reported and not missed.
pub const EXTENSIONS: [&str; 18] = [
    "jpeg", "jpg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "heic", "heif",
    "jp2", "jxl", "ico",
];

/// The largest labels file that is read, in bytes.
const MAX_LABELS_FILE: u64 = 1 << 30;

/// The 1000 ids of ImageNet-1k in the order of its labels, which is also the sorted one.
static IMAGENET_WNIDS: &str = include_str!("imagenet_wnids.txt");

/// One image of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The path below the data set's folder, with `/` between its parts: the same wherever the folder lies. Of an image in a stack
    /// its position.
    pub id: String,
    /// Where the file is.
    pub path: PathBuf,
    /// The class, from 0.
    pub label: usize,
    /// The image in the file, where that holds a stack of them; otherwise the file is the image.
    pub stacked: Option<StackedImage>,
}

impl Sample {
    /// The image; of a stack's numbers the nearest 8-bit levels.
    ///
    /// # Errors
    /// [`DecodeError`], which names the file.
    pub fn decode(&self) -> Result<RgbImage, DecodeError> {
        match &self.stacked {
            None => decode_file(&self.path),
            Some(image) => image.image().map_err(|error| self.unread(error)),
        }
    }

    /// What its content is known by: the bytes of its file, or of an image of a stack its height, its width and its levels.
    ///
    /// # Errors
    /// As the file system says.
    pub(crate) fn content(&self) -> io::Result<Vec<u8>> {
        let Some(image) = &self.stacked else { return read_regular(&self.path, MAX_FILE) };
        let image = image.image().map_err(io::Error::other)?;
        let sides = [image.height(), image.width()].map(|side| (side as u32).to_le_bytes());
        Ok([&sides.concat()[..], image.data()].concat())
    }

    /// The image of what [`Self::content`] gave.
    ///
    /// # Errors
    /// [`DecodeError`], which names the file.
    pub(crate) fn decode_content(&self, content: &[u8]) -> Result<RgbImage, DecodeError> {
        let Some(image) = &self.stacked else { return decode(content, &self.path.display().to_string()) };
        let [height, width] = image.stack().size();
        match content.get(8..) {
            Some(levels) if levels.len() == 3 * height * width => Ok(RgbImage::new(width, height, levels.to_vec())),
            _ => Err(self.unread(io::Error::other("it is another file than before"))),
        }
    }

    fn unread(&self, error: impl std::error::Error + Send + Sync + 'static) -> DecodeError {
        DecodeError::Read { name: format!("{} of {}", self.id, self.path.display()), source: io::Error::other(error) }
    }
}

/// A list of labelled images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Sorted by class and path in a folder of class folders, as listed in a labels file.
    pub samples: Vec<Sample>,
    /// The names of the classes by label, where the layout gives them: folder names, or all 1000 ids of ImageNet.
    pub class_names: Option<Vec<String>>,
    /// How labels were found.
    labelling: Labelling,
    /// Whether something was added to every label.
    is_shifted: bool,
    /// What may be wrong whatever the network.
    doubts: Vec<String>,
    /// The folder, for messages.
    folder: PathBuf,
    /// The labels file and each sample's line in it, for messages.
    labels_file: Option<(PathBuf, Vec<u64>)>,
}

/// How labels were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Labelling {
    /// Somebody wrote numbers down.
    Numbers,
    /// From ImageNet's ids.
    ImageNet,
    /// By the order of the names of class folders.
    Names,
}

/// Why a data set cannot be used.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// A file gives no images, or no labels for them.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// There is nothing, or a file, at the path.
    #[error("The data folder `{}` does not exist, or is not a folder; check the path.", folder.display())]
    NoFolder {
        /// The path.
        folder: PathBuf,
    },
    /// A folder or file that is there cannot be read.
    #[error("Cannot read `{}` ({source}); check its permissions.", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Nothing below the folder has an image's extension, or the labels file has no row.
    #[error("The data folder `{}` gives no images; {hint}.", folder.display())]
    NoImages {
        /// The folder.
        folder: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A file's name is not Unicode, so no stable id can be made of it.
    #[error("The name of `{}` is not valid Unicode; rename it.", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// The labels file is not there or not readable.
    #[error("Cannot read the labels file `{}` ({reason}); check the path and that it is a CSV file.", file.display())]
    Labels {
        /// The labels file.
        file: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Class folders of two kinds, so that nobody can tell what their labels are.
    #[error("Of the class folders in `{}`, {ids} are named by ImageNet ids, and these are not: {others}; remove or rename them, or give a labels file (--labels).", folder.display())]
    MixedNames {
        /// The folder.
        folder: PathBuf,
        /// How many are ids.
        ids: usize,
        /// Some of the others.
        others: String,
    },
    /// Class folders that are numbers, and a few that are none.
    #[error("Of the class folders in `{}`, {numbers} are numbers, and these are not: {others}; remove or rename them, or give a labels file (--labels).", folder.display())]
    MixedNumbers {
        /// The folder.
        folder: PathBuf,
        /// How many are numbers.
        numbers: usize,
        /// Some of the others.
        others: String,
    },
    /// Two class folders with the same number.
    #[error("The class folders `{first}` and `{second}` in `{}` are both class {label}; put them together.", folder.display())]
    SameNumber {
        /// The folder.
        folder: PathBuf,
        /// One class folder.
        first: String,
        /// The other.
        second: String,
        /// Their label.
        label: usize,
    },
    /// The labels file's header names a column twice.
    #[error("The labels file `{}` has {count} columns `{column}`; remove or rename all but one.", file.display())]
    TwoColumns {
        /// The labels file.
        file: PathBuf,
        /// The column.
        column: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The labels file's header lacks a column.
    #[error("The labels file `{}` has no column `{column}`; its first line must name the columns file and label, and names {found}.", file.display())]
    NoColumn {
        /// The labels file.
        file: PathBuf,
        /// The missing column.
        column: &'static str,
        /// The columns that there are.
        found: String,
    },
    /// A row of the labels file is wrong.
    #[error("Line {line} of the labels file `{}` {problem}; correct or remove that line.", file.display())]
    Row {
        /// The labels file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it, and with which image.
        problem: String,
    },
    /// A label is beyond what the network can say.
    #[error("`{image}`{} has label {label}, but the network knows only {num_classes} classes (labels 0 to {}); use the data set that the weights were trained for, correct the label, or shift all of them by --label-offset.", at_line(line), num_classes.saturating_sub(1))]
    LabelRange {
        /// The image's id.
        image: String,
        /// Its line in the labels file, if there is one.
        line: Option<u64>,
        /// The label.
        label: usize,
        /// The network's classes.
        num_classes: usize,
    },
}

fn at_line(line: &Option<u64>) -> String {
    line.map_or(String::new(), |line| format!(" (line {line} of the labels file)"))
}

impl Dataset {
    /// Lists `folder`: with `labels` that file says what is in it, without it the class folders do. In place of a folder it may be a
    /// file of images.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn open(folder: &Path, labels: Option<&Path>) -> Result<Self, DatasetError> {
        match labels {
            _ if folder.is_file() => Self::from_stack(folder, labels),
            Some(labels) => Self::from_labels(folder, labels),
            None => Self::from_class_folders(folder),
        }
    }

    /// Lists a folder of class folders. Images may lie deeper in a class folder, also behind links; hidden files and folders,
    /// and files without an image's extension, are left out.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn from_class_folders(folder: &Path) -> Result<Self, DatasetError> {
        let classes = class_folders(folder)?;
        let (classes, empty): (Vec<_>, Vec<_>) = classes.into_iter().partition(|(_, images)| !images.is_empty());
        if classes.is_empty() {
            let hint = "it needs one folder per class with images in it, or a labels file (--labels)";
            return Err(DatasetError::NoImages { folder: folder.to_owned(), hint });
        }
        let names: Vec<&str> = classes.iter().map(|(name, _)| name.as_str()).collect();
        let (labelling, labels) = labels_of_names(folder, &names)?;
        let mut doubts = Vec::new();
        if labelling == Labelling::Names && !empty.is_empty() {
            let empty = listed(empty.iter().map(|(name, _)| name.as_str()));
            doubts.push(format!("there are no images in {empty}, so that the folders after count as earlier classes"));
        }
        if let ([only], Some(csv)) = (names.as_slice(), labels_file_beside(folder)) {
            let csv = csv.display();
            let images = folder.join(only);
            doubts.push(format!(
                "all images are of one class, since they are in the one folder `{only}`; if {csv} has their labels, give \
                 --data {} --labels {csv}",
                images.display()
            ));
        }
        let class_names = match labelling {
            Labelling::ImageNet => Some(IMAGENET_WNIDS.lines().map(str::to_owned).collect()),
            Labelling::Names => Some(names.iter().map(|&name| name.to_owned()).collect()),
            Labelling::Numbers => None,
        };
        let mut classes: Vec<_> = labels.into_iter().zip(classes.into_iter().map(|(_, images)| images)).collect();
        classes.sort_by_key(|(label, _)| *label);
        let samples = classes.into_iter().flat_map(|(label, images)| {
            images.into_iter().map(move |(id, path)| Sample { id, path, label, stacked: None })
        });
        let samples = samples.collect();
        Ok(Self {
            samples,
            class_names,
            labelling,
            is_shifted: false,
            doubts,
            folder: folder.to_owned(),
            labels_file: None,
        })
    }

    /// The images that lie in `folder` itself, by name, all of label 0: for those who need no labels.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn unlabelled(folder: &Path) -> Result<Vec<Sample>, DatasetError> {
        must_be_folder(folder)?;
        let entries = sorted_entries(folder)?.into_iter().filter(|(_, path)| is_image_name(path) && !path.is_dir());
        Ok(entries.map(|(id, path)| Sample { id, path, label: 0, stacked: None }).collect())
    }

    /// Lists the images that the table `labels` names by their paths below `folder`.
    ///
    /// # Errors
    /// [`DatasetError`]: a missing column, and any row with a missing or repeated file, a path that leaves the folder, or a
    /// label that is none.
    pub fn from_labels(folder: &Path, labels: &Path) -> Result<Self, DatasetError> {
        must_be_folder(folder)?;
        let unreadable = |reason: String| DatasetError::Labels { file: labels.to_owned(), reason };
        let bytes = read_regular(labels, MAX_LABELS_FILE).map_err(|error| unreadable(error.to_string()))?;
        let text = text_of(&bytes).ok_or_else(|| unreadable("it is neither UTF-8 nor UTF-16 text".to_owned()))?;
        let Table { mut reader, file, label } = Table::open(&text, labels)?;

        let mut rows = Vec::new();
        let mut seen = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| unreadable(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let wrong = |problem| DatasetError::Row { file: labels.to_owned(), line, problem };
            let file = record.get(file).unwrap_or_default();
            if file.is_empty() {
                return Err(wrong("names no file".to_owned()));
            }
            let id = inner_path(file)
                .ok_or_else(|| wrong(format!("names `{file}`, which is not a path below the data folder")))?;
            let path = folder.join(&id);
            if !path.is_file() {
                return Err(wrong(format!("names `{file}`, which does not exist in `{}`", folder.display())));
            }
            if let Some(first) = seen.insert(id.clone(), line) {
                return Err(wrong(format!("names `{file}` again, after line {first}")));
            }
            rows.push(Row { id, path, line, label: record.get(label).unwrap_or_default().to_owned() });
        }
        if rows.is_empty() {
            let hint = "its labels file has a header but no rows";
            return Err(DatasetError::NoImages { folder: folder.to_owned(), hint });
        }
        let (labelling, numbers) = labels_of_rows(folder, labels, &rows)?;
        let lines = rows.iter().map(|row| row.line).collect();
        let samples = rows.into_iter().zip(numbers).map(|(Row { id, path, .. }, label)| Sample {
            id,
            path,
            label,
            stacked: None,
        });
        Ok(Self {
            samples: samples.collect(),
            class_names: None,
            labelling,
            is_shifted: false,
            doubts: Vec::new(),
            folder: folder.to_owned(),
            labels_file: Some((labels.to_owned(), lines)),
        })
    }

    /// Lists the images that a file holds one behind the other, with the labels that are in it or, if that is given, in the file `labels`.
    ///
    /// # Errors
    /// [`DatasetError::Stack`].
    pub fn from_stack(file: &Path, labels: Option<&Path>) -> Result<Self, DatasetError> {
        let stack = Arc::new(Stack::open(file)?);
        let Labels { labels: numbers, lines } = stack.labels(labels)?;
        let sample = |(index, label)| Sample {
            id: format!("{index:06}"),
            path: file.to_owned(),
            label,
            stacked: Some(StackedImage::new(stack.clone(), index)),
        };
        Ok(Self {
            samples: numbers.into_iter().enumerate().map(sample).collect(),
            class_names: None,
            labelling: Labelling::Numbers,
            is_shifted: false,
            doubts: Vec::new(),
            folder: file.to_owned(),
            labels_file: labels.map(Path::to_owned).zip(lines),
        })
    }

    /// The stack that the images are of, if they are not files of their own.
    pub fn stack(&self) -> Option<&Arc<Stack>> {
        self.samples.first()?.stacked.as_ref().map(StackedImage::stack)
    }

    /// The data set's folder, or its file.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps the first `count` samples of the listing, or all if there are fewer.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Self {
        self.samples.truncate(count);
        if let Some((_, lines)) = &mut self.labels_file {
            lines.truncate(count);
        }
        self
    }

    /// Adds `offset` to every label: 1 for weights whose class 0 is a background that the labels do not count.
    #[must_use]
    pub fn shifted(mut self, offset: usize) -> Self {
        if offset > 0 {
            // A label beyond all networks' classes stays one.
            self.samples.iter_mut().for_each(|sample| sample.label = sample.label.saturating_add(offset));
            self.labelling = Labelling::Numbers;
            self.is_shifted = true;
        }
        self
    }

    /// As [`Self::shifted`], also downwards.
    ///
    /// # Errors
    /// Which image's label would be below 0.
    pub fn shifted_by(mut self, offset: i64) -> Result<Self, String> {
        let Some(down) = usize::try_from(offset.unsigned_abs()).ok().filter(|_| offset < 0) else {
            return Ok(self.shifted(offset.unsigned_abs() as usize));
        };
        if let Some(sample) = self.samples.iter().find(|sample| sample.label < down) {
            return Err(format!(
                "`{}` has label {}, which --label-offset {offset} would make less than 0; give one of at least -{}, or leave it out",
                sample.id, sample.label, sample.label
            ));
        }
        self.samples.iter_mut().for_each(|sample| sample.label -= down);
        self.labelling = Labelling::Numbers;
        self.is_shifted = true;
        Ok(self)
    }

    /// What may be wrong with the labels for a network with `num_classes` outputs, in sentences for people.
    pub fn doubts(&self, num_classes: usize) -> Vec<String> {
        let mut doubts = self.doubts.clone();
        let folders = self.class_names.as_ref().map_or(0, Vec::len);
        if self.labelling == Labelling::Names && folders < num_classes {
            doubts.push(format!(
                "the {folders} class folders in {} stand for the first {folders} of {num_classes} classes, in the order of \
                 their names; where that is wrong, name them by numbers or ImageNet ids, or give a labels file",
                self.folder.display()
            ));
        }
        let highest = self.samples.iter().map(|sample| sample.label).max().unwrap_or(0);
        if num_classes == 1001 && highest < 1000 && !self.is_shifted {
            doubts.push(
                "the weights know 1001 classes and the labels are of 1000; class 0 of such weights is usually a background, \
                 and --label-offset 1 leaves it out"
                    .to_owned(),
            );
        }
        if num_classes > 1001 && self.labelling == Labelling::ImageNet {
            doubts.push(format!(
                "the weights know {num_classes} classes and the labels are those of ImageNet-1k; unless the first 1000 of them are \
                 these, nothing will be right: take weights with 1000 classes, or number the labels as the weights do"
            ));
        }
        doubts
    }

    /// Checks that a network with `num_classes` outputs can be right about every sample.
    ///
    /// # Errors
    /// [`DatasetError::LabelRange`] with the first sample whose label is `num_classes` or more.
    pub fn check_labels(&self, num_classes: usize) -> Result<(), DatasetError> {
        match self.samples.iter().position(|sample| sample.label >= num_classes) {
            None => Ok(()),
            Some(index) => Err(DatasetError::LabelRange {
                image: self.samples[index].id.clone(),
                line: self.labels_file.as_ref().and_then(|(_, lines)| lines.get(index).copied()),
                label: self.samples[index].label,
                num_classes,
            }),
        }
    }

    /// 64 hexadecimal digits that change when a sample is added, removed, moved, relabelled or its file's content replaced, and
    /// not when the folder lies elsewhere. Reads every file once, in parallel.
    ///
    /// # Errors
    /// [`DatasetError::Read`] with the first file that cannot be read.
    pub fn fingerprint(&self) -> Result<String, DatasetError> {
        let hash = |sample: &Sample| {
            let bytes = sample.content().map_err(|source| DatasetError::Read { path: sample.path.clone(), source })?;
            Ok(blake3::hash(&bytes).to_hex())
        };
        let contents: Vec<_> = self.samples.par_iter().map(hash).collect::<Result<_, DatasetError>>()?;
        let samples = self.samples.iter().zip(&contents);
        Ok(Self::fingerprint_of(samples.map(|(sample, content)| (sample.id.as_str(), sample.label, content.as_str()))))
    }

    /// [`Self::fingerprint`] from the samples' ids, labels and hashes of content (BLAKE3, 64 hexadecimal digits).
    pub(crate) fn fingerprint_of<'s>(samples: impl IntoIterator<Item = (&'s str, usize, &'s str)>) -> String {
        let mut hasher = blake3::Hasher::new();
        for (id, label, content) in samples {
            // Every part has a known length, so that no two lists give the same bytes.
            hasher.update(&(id.len() as u64).to_le_bytes());
            hasher.update(id.as_bytes());
            hasher.update(&(label as u64).to_le_bytes());
            hasher.update(content.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn must_be_folder(folder: &Path) -> Result<(), DatasetError> {
    if folder.is_dir() { Ok(()) } else { Err(DatasetError::NoFolder { folder: folder.to_owned() }) }
}

/// What a folder holds, without hidden entries, sorted by name.
fn sorted_entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, DatasetError> {
    let unreadable = |source| DatasetError::Read { path: folder.to_owned(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(DatasetError::Name { path });
        };
        // What file systems put at their top, often unreadable, is no class.
        if !name.starts_with('.') && name != "lost+found" {
            entries.push((name.to_owned(), path));
        }
    }
    entries.sort();
    Ok(entries)
}

/// Ids and paths of images.
pub(crate) type Images = Vec<(String, PathBuf)>;

/// The folders in `folder`, sorted, each with the images in and below it.
fn class_folders(folder: &Path) -> Result<Vec<(String, Images)>, DatasetError> {
    let mut classes = Vec::new();
    visit_class_folders(folder, |name, images| classes.push((name, images)))?;
    Ok(classes)
}

/// The same one by one, so that no more than one folder's listing need be in memory.
pub(crate) fn visit_class_folders(folder: &Path, mut visit: impl FnMut(String, Images)) -> Result<(), DatasetError> {
    must_be_folder(folder)?;
    for (name, path) in sorted_entries(folder)? {
        if path.is_dir() {
            let mut images = Vec::new();
            list_images(&path, &name, &mut Vec::new(), &mut images)?;
            visit(name, images);
        }
    }
    Ok(())
}

/// Adds the images in and below `folder`, whose path below the data set's folder is `id`. `above` are the folders that
/// it is in, by their real paths: a link to one of them would never end.
fn list_images(folder: &Path, id: &str, above: &mut Vec<PathBuf>, images: &mut Images) -> Result<(), DatasetError> {
    let real = folder.canonicalize().map_err(|source| DatasetError::Read { path: folder.to_owned(), source })?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    for (name, path) in sorted_entries(folder)? {
        let id = format!("{id}/{name}");
        if path.is_dir() {
            list_images(&path, &id, above, images)?;
        } else if is_image_name(&path) {
            images.push((id, path));
        }
    }
    above.pop();
    Ok(())
}

/// Among so many times as many numbers, other names are there by mistake.
const FEW: usize = 4;

/// What class folders with these names, in sorted order, stand for.
pub(crate) fn labels_of_names(folder: &Path, names: &[&str]) -> Result<(Labelling, Vec<usize>), DatasetError> {
    let ids = wnids();
    let known: Vec<Option<usize>> = names.iter().map(|&name| ids.get(name).copied()).collect();
    let count = known.iter().flatten().count();
    if count == names.len() {
        return Ok((Labelling::ImageNet, known.into_iter().flatten().collect()));
    }
    if count > 0 {
        let others = names.iter().zip(&known).filter(|(_, label)| label.is_none()).map(|(&name, _)| name);
        return Err(DatasetError::MixedNames { folder: folder.to_owned(), ids: count, others: listed(others) });
    }
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let numbers: Vec<Option<usize>> = names.iter().map(|name| name.parse().ok().filter(|_| is_number(name))).collect();
    let count = numbers.iter().flatten().count();
    if count < names.len() {
        // Digits and letters may be classes beside each other; one folder more beside ten numbers would shift their labels.
        if count >= FEW * (names.len() - count) {
            let others = names.iter().zip(&numbers).filter(|(_, number)| number.is_none()).map(|(&name, _)| name);
            return Err(DatasetError::MixedNumbers {
                folder: folder.to_owned(),
                numbers: count,
                others: listed(others),
            });
        }
        return Ok((Labelling::Names, (0..names.len()).collect()));
    }
    let numbers: Vec<usize> = numbers.into_iter().flatten().collect();
    let mut seen = HashMap::new();
    for (&second, &label) in names.iter().zip(&numbers) {
        if let Some(first) = seen.insert(label, second) {
            let (first, second) = (first.to_owned(), second.to_owned());
            return Err(DatasetError::SameNumber { folder: folder.to_owned(), first, second, label });
        }
    }
    Ok((Labelling::Numbers, numbers))
}

pub(super) fn wnids() -> HashMap<&'static str, usize> {
    IMAGENET_WNIDS.lines().zip(0..).collect()
}

/// Some names for a message.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

/// A table that may be the labels of the images in `folder`.
fn labels_file_beside(folder: &Path) -> Option<PathBuf> {
    let is_table = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "csv" || extension == "tsv");
    let entries = std::fs::read_dir(folder).ok()?;
    let mut tables: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_table).collect();
    tables.sort();
    tables.into_iter().next()
}

/// A row of a labels file.
struct Row {
    id: String,
    path: PathBuf,
    line: u64,
    label: String,
}

/// The numbers that the labels of all rows stand for, which must be of one kind.
fn labels_of_rows(folder: &Path, file: &Path, rows: &[Row]) -> Result<(Labelling, Vec<usize>), DatasetError> {
    let read_as = |label: &dyn Fn(&str) -> Option<usize>| -> Result<Vec<usize>, &Row> {
        rows.iter().map(|row| label(&row.label).ok_or(row)).collect()
    };
    let unknown = match read_as(&number) {
        Ok(labels) => return Ok((Labelling::Numbers, labels)),
        Err(row) => row,
    };
    let ids = wnids();
    if let Ok(labels) = read_as(&|label| ids.get(label).copied()) {
        return Ok((Labelling::ImageNet, labels));
    }
    let classes = class_folders(folder)?;
    let names: Vec<&str> = classes.iter().map(|(name, _)| name.as_str()).collect();
    if let Ok(positions) = read_as(&|label| names.binary_search_by(|name| (*name).cmp(label)).ok()) {
        let (labelling, labels) = labels_of_names(folder, &names)?;
        return Ok((labelling, positions.into_iter().map(|position| labels[position]).collect()));
    }
    let Row { id, line, label, .. } = unknown;
    let problem = format!(
        "gives `{id}` the label `{label}`, which is not a whole number from 0; labels are all numbers, all ImageNet ids, or \
         all names of class folders"
    );
    Err(DatasetError::Row { file: file.to_owned(), line: *line, problem })
}

/// A whole number from 0, also as tables with gaps write it: `9.0`.
pub(super) fn number(text: &str) -> Option<usize> {
    let whole =
        text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0')).map_or(text, |parts| parts.0);
    whole.parse().ok()
}

/// A labels file's text with line ends of one kind; none if it is no text.
pub(super) fn text_of(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|two| two.try_into().ok().map(unit));
        String::from_utf16(&units.collect::<Option<Vec<u16>>>()?).ok()
    };
    let text = match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8(rest.to_vec()).ok()?,
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => String::from_utf8(bytes.to_vec()).ok()?,
    };
    (!text.contains('\0')).then(|| text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// A labels file whose header is understood.
struct Table<'t> {
    reader: csv::Reader<&'t [u8]>,
    /// The positions of the columns.
    file: usize,
    label: usize,
}

impl<'t> Table<'t> {
    /// With the first separator of which the header names both columns.
    fn open(text: &'t str, labels: &Path) -> Result<Self, DatasetError> {
        let mut refusal = None;
        for delimiter in [b',', b';', b'\t'] {
            let mut builder = csv::ReaderBuilder::new();
            let mut reader =
                builder.delimiter(delimiter).trim(csv::Trim::All).flexible(true).from_reader(text.as_bytes());
            let unreadable =
                |error: csv::Error| DatasetError::Labels { file: labels.to_owned(), reason: error.to_string() };
            let header = reader.headers().map_err(unreadable)?.clone();
            let column = |column: &'static str| {
                let mut found = (0..header.len()).filter(|&index| header[index].eq_ignore_ascii_case(column));
                match (found.next(), found.count()) {
                    (Some(index), 0) => Ok(index),
                    (Some(_), more) => {
                        Err(DatasetError::TwoColumns { file: labels.to_owned(), column, count: more + 1 })
                    }
                    (None, _) => {
                        let found = header.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ");
                        Err(DatasetError::NoColumn { file: labels.to_owned(), column, found })
                    }
                }
            };
            match column("file").and_then(|file| Ok((file, column("label")?))) {
                Ok((file, label)) => return Ok(Self { reader, file, label }),
                Err(error @ DatasetError::TwoColumns { .. }) => return Err(error),
                // What commas give is what people expect to read about.
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.expect("there is a separator"))
    }
}

fn is_image_name(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// A path of a labels file in one spelling, or `None` if it leaves the folder.
fn inner_path(file: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(file).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder with these files, each holding its own name.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }

    fn listing(dataset: &Dataset) -> Vec<(&str, usize)> {
        dataset.samples.iter().map(|sample| (sample.id.as_str(), sample.label)).collect()
    }

    fn labels_error(files: &[&str], csv: &str) -> String {
        let folder = folder(files);
        let labels = folder.path().join("labels.csv");
        fs::write(&labels, csv).unwrap();
        Dataset::open(folder.path(), Some(&labels)).unwrap_err().to_string()
    }

    #[test]
    fn class_folders_are_sorted_and_other_files_left_out() {
        let folder = folder(&[
            "dog/2.JPEG",
            "dog/1.png",
            "dog/notes.txt",
            "cat/deep/3.webp",
            "cat/.hidden.png",
            ".git/x.png",
            "top.png",
        ]);
        let dataset = Dataset::open(folder.path(), None).unwrap();
        assert_eq!(listing(&dataset), [("cat/deep/3.webp", 0), ("dog/1.png", 1), ("dog/2.JPEG", 1)]);
        assert_eq!(dataset.class_names.clone().unwrap(), ["cat", "dog"]);
        assert_eq!(listing(&dataset.limit(1)), [("cat/deep/3.webp", 0)]);
    }

    #[test]
    fn some_of_imagenets_ids_keep_imagenets_labels() {
        let there = folder(&["n15075141/a.png", "n01440764/b.png", "n01443537/c.png"]);
        let dataset = Dataset::open(there.path(), None).unwrap();
        assert_eq!(listing(&dataset), [("n01440764/b.png", 0), ("n01443537/c.png", 1), ("n15075141/a.png", 999)]);
        assert_eq!(dataset.class_names.unwrap().len(), 1000);
    }

    #[test]
    fn folders_without_images_are_no_classes_and_a_mixture_is_refused() {
        let there =
            folder(&["n15075141/a.png", "n01440764/b.png", "__MACOSX/._a.png", "lost+found/x", "notes/readme.txt"]);
        std::fs::create_dir(there.path().join("empty")).unwrap();
        let dataset = Dataset::open(there.path(), None).unwrap();
        assert_eq!(listing(&dataset), [("n01440764/b.png", 0), ("n15075141/a.png", 999)]);
        assert_eq!(dataset.doubts(1000), [""; 0]);
        let there = folder(&["n15075141/a.png", "zebra/b.png", "n01440764/c.png"]);
        let error = Dataset::open(there.path(), None).unwrap_err().to_string();
        assert!(error.contains("2 are named by ImageNet ids, and these are not: `zebra`"), "{error}");
    }

    #[test]
    fn numbered_folders_are_class_indices() {
        let there = folder(&["0/a.png", "1/b.png", "2/c.png", "10/d.png", "11/e.png"]);
        let dataset = Dataset::open(there.path(), None).unwrap();
        let expected = [("0/a.png", 0), ("1/b.png", 1), ("2/c.png", 2), ("10/d.png", 10), ("11/e.png", 11)];
        assert_eq!(listing(&dataset), expected);
        assert_eq!(dataset.doubts(1000), [""; 0]);
        let there = folder(&["1/a.png", "01/b.png"]);
        let error = Dataset::open(there.path(), None).unwrap_err().to_string();
        assert!(error.contains("`01` and `1`") && error.contains("class 1"), "{error}");
        let there = folder(&["0/a.png", "1/b.png", "3/c.png", "4/d.png", "old/e.png"]);
        let error = Dataset::open(there.path(), None).unwrap_err().to_string();
        assert!(error.contains("4 are numbers, and these are not: `old`"), "{error}");
        // Digits beside letters are names.
        let there = folder(&["10/a.png", "2/b.png", "A/c.png"]);
        assert_eq!(listing(&Dataset::open(there.path(), None).unwrap())[2], ("A/c.png", 2));
    }

    #[test]
    fn what_may_be_wrong_is_said() {
        let there = folder(&["cat/a.png", "dog/b.png"]);
        std::fs::create_dir(there.path().join("bird")).unwrap();
        let dataset = Dataset::open(there.path(), None).unwrap();
        assert!(dataset.doubts(2)[0].contains("no images in `bird`"));
        assert!(dataset.doubts(10)[1].contains("2 class folders") && dataset.doubts(10)[1].contains("2 of 10 classes"));
        let there = folder(&["images/a.png", "labels.csv"]);
        let doubt = &Dataset::open(there.path(), None).unwrap().doubts(1)[0];
        assert!(doubt.contains("--data") && doubt.contains("labels.csv"), "{doubt}");
        let there = folder(&["n01440764/a.png"]);
        let dataset = Dataset::open(there.path(), None).unwrap();
        assert!(dataset.doubts(1001)[0].contains("--label-offset 1"));
        assert!(dataset.doubts(21_843)[0].contains("21843 classes"));
        let shifted = dataset.shifted(1);
        assert_eq!(shifted.samples[0].label, 1);
        assert!(shifted.doubts(1001).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_are_followed_and_end() {
        use std::os::unix::fs::symlink;
        let there = folder(&["cat/a.png", "elsewhere/b.png"]);
        let data = there.path().join("data");
        std::fs::create_dir_all(data.join("cat")).unwrap();
        symlink(there.path().join("cat"), data.join("cat/link")).unwrap();
        symlink(there.path().join("elsewhere"), data.join("dog")).unwrap();
        // Around in a circle.
        symlink(&data, data.join("cat/up")).unwrap();
        symlink(data.join("cat"), there.path().join("cat/again")).unwrap();
        let dataset = Dataset::open(&data, None).unwrap();
        let listing = listing(&dataset);
        assert!(listing.contains(&("cat/link/a.png", 0)) && listing.contains(&("dog/b.png", 1)), "{listing:?}");
        assert!(listing.len() < 20, "{listing:?}");
    }

    #[test]
    fn labels_files_are_read_as_people_write_them() {
        let files = ["a.png", "b.png"];
        let bytes = |csv: &[u8]| {
            let folder = folder(&files);
            let labels = folder.path().join("labels.csv");
            fs::write(&labels, csv).unwrap();
            let dataset = Dataset::open(folder.path(), Some(&labels));
            dataset.map(|dataset| dataset.samples.iter().map(|sample| sample.label).collect::<Vec<_>>())
        };
        let utf16 = |text: &str, big: bool| {
            let unit = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
            std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(unit).collect::<Vec<u8>>()
        };
        let text = "File;Label\r\na.png;3\r\nb.png;4\r\n";
        for csv in [
            b"file,label\na.png,3\nb.png,4\n".to_vec(),
            b"File,Label\r\na.png,3\r\nb.png,4".to_vec(),
            b",FILE,LABEL\n0,a.png,3.0\n1,b.png,4.00\n".to_vec(),
            b"file\tlabel\na.png\t3\nb.png\t4\n".to_vec(),
            b"file,label\ra.png,3\rb.png,4\r".to_vec(),
            b"\"file\";\"label\"\n\"a.png\";\"3\"\n\"b.png\";\"4\"\n".to_vec(),
            text.into(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            utf16(text, false),
            utf16(text, true),
        ] {
            assert_eq!(bytes(&csv).unwrap(), [3, 4], "{:?}", String::from_utf8_lossy(&csv));
        }
        assert_eq!(bytes(b"file,label\na.png,n15075141\nb.png,n01440764\n").unwrap(), [999, 0]);
        let error = bytes(b"file,label\na.png,\xE4\n").unwrap_err().to_string();
        assert!(error.contains("neither UTF-8 nor UTF-16"), "{error}");
        let error = bytes(b"file,label,Label\na.png,1,2\n").unwrap_err().to_string();
        assert!(error.contains("2 columns `label`"), "{error}");
    }

    #[test]
    fn labels_may_name_class_folders() {
        let folder = folder(&["cat/a.png", "dog/b.png", "eel/c.png"]);
        let labels = folder.path().join("labels.csv");
        fs::write(&labels, "file,label\ncat/a.png,cat\neel/c.png,eel\n").unwrap();
        assert_eq!(
            listing(&Dataset::open(folder.path(), Some(&labels)).unwrap()),
            [("cat/a.png", 0), ("eel/c.png", 2)]
        );
        fs::write(&labels, "file,label\ncat/a.png,cat\neel/c.png,2\n").unwrap();
        let error = Dataset::open(folder.path(), Some(&labels)).unwrap_err().to_string();
        assert!(error.contains("Line 2") && error.contains("`cat`"), "{error}");
    }

    #[test]
    fn the_embedded_ids_are_imagenets() {
        let wnids: Vec<_> = IMAGENET_WNIDS.lines().collect();
        assert_eq!(wnids.len(), 1000);
        assert!(wnids.is_sorted());
        // n02123045, tabby cat, is class 281.
        assert_eq!(wnids[281], "n02123045");
    }

    #[test]
    fn a_labels_file_says_files_and_labels() {
        let folder = folder(&["a.png", "sub/b.png"]);
        let labels = folder.path().join("labels.csv");
        fs::write(&labels, "\u{feff}target,label,file\n9, 4 ,./a.png\n8,0,sub/b.png\n").unwrap();
        let dataset = Dataset::open(folder.path(), Some(&labels)).unwrap();
        assert_eq!(listing(&dataset), [("a.png", 4), ("sub/b.png", 0)]);
        assert!(dataset.check_labels(5).is_ok());
        let error = dataset.check_labels(4).unwrap_err().to_string();
        assert!(error.starts_with("`a.png` (line 2 of the labels file) has label 4"), "{error}");
        fs::write(&labels, format!("file,label\na.png,{}\n", usize::MAX)).unwrap();
        let largest = Dataset::open(folder.path(), Some(&labels)).unwrap().shifted(1);
        assert!(largest.check_labels(1000).is_err());
    }

    #[test]
    fn every_bad_row_is_named() {
        let files = ["a.png", "b.png"];
        for (csv, expected) in [
            ("file,class\na.png,1\n", "has no column `label`"),
            ("a.png,1\n", "has no column `file`"),
            ("file,label\na.png,1\nb.png,cat\n", "Line 3 of the labels file"),
            ("file,label\na.png,-1\n", "the label `-1`"),
            ("file,label\na.png\n", "the label ``"),
            ("file,label\na.png,1\nc.png,1\n", "names `c.png`, which does not exist"),
            ("file,label\na.png,1\nb.png,2\n./a.png,1\n", "names `./a.png` again, after line 2"),
            ("file,label\n../a.png,1\n", "not a path below the data folder"),
            ("file,label\n,1\n", "Line 2 of the labels file"),
            ("file,label\n", "no rows"),
            ("file,label\r\na.png,1\r\nb.png,cat\r\n", "Line 3 of the labels file"),
            ("file,label\r\na.png,1\r\nc.png,2\r\n", "Line 3 of the labels file"),
            ("file,label\na.png,1.5\n", "the label `1.5`"),
            ("", "has no column `file`"),
        ] {
            let error = labels_error(&files, csv);
            assert!(error.contains(expected), "{csv:?} gave {error:?}");
            assert!(error.ends_with('.') && !error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn missing_and_empty_folders_are_named() {
        let error = Dataset::open(Path::new("no/such/folder"), None).unwrap_err().to_string();
        assert!(error.contains("`no/such/folder` does not exist"), "{error}");
        let empty = folder(&["cat/notes.txt", "lost+found/a.png"]);
        let error = Dataset::open(empty.path(), None).unwrap_err().to_string();
        assert!(error.contains("gives no images"), "{error}");
        let error = Dataset::open(empty.path(), Some(Path::new("no.csv"))).unwrap_err().to_string();
        assert!(error.contains("labels file `no.csv`"), "{error}");
    }

    #[test]
    fn the_fingerprint_follows_content_and_labels_but_not_the_place() {
        let files = ["cat/1.png", "dog/2.png"];
        let (here, there) = (folder(&files), folder(&files));
        let fingerprint =
            |folder: &tempfile::TempDir| Dataset::open(folder.path(), None).unwrap().fingerprint().unwrap();
        let first = fingerprint(&here);
        assert_eq!(first.len(), 64);
        assert_eq!(first, fingerprint(&there));
        // The same length, another content.
        fs::write(there.path().join("dog/2.png"), "dog/3.png").unwrap();
        assert_ne!(first, fingerprint(&there));
        let mut relabelled = Dataset::open(here.path(), None).unwrap();
        relabelled.samples[0].label = 7;
        assert_ne!(first, relabelled.fingerprint().unwrap());
        assert_ne!(first, Dataset::open(here.path(), None).unwrap().limit(1).fingerprint().unwrap());
    }
}
