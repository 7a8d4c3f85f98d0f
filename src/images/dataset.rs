//! Which images there are, and which class each one shows.
//!
//! Two layouts are read. In a folder of class folders the folder's name is the class: if every name is an ImageNet-1k id
//! (`n01440764`), labels are ImageNet's, even when only some of its classes are there; otherwise they count the folders in
//! sorted order, empty ones included. In a folder with a labels file, a CSV with the columns `file` and `label` says both,
//! and its other columns are ignored.
//!
//! Nothing is decoded here: a corrupt image is found by the loader, which can skip it.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use thiserror::Error;

/// What counts as an image in a folder of class folders, in any case of letters.
pub const EXTENSIONS: [&str; 4] = ["jpeg", "jpg", "png", "webp"];

/// The 1000 ids of ImageNet-1k in the order of its labels, which is also the sorted one.
static IMAGENET_WNIDS: &str = include_str!("imagenet_wnids.txt");

/// One image of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The path below the data set's folder, with `/` between its parts: the same wherever the folder lies.
    pub id: String,
    /// Where the file is.
    pub path: PathBuf,
    /// The class, from 0.
    pub label: usize,
}

/// A list of labelled images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Sorted by class and path in a folder of class folders, as listed in a labels file.
    pub samples: Vec<Sample>,
    /// The names of the classes by label, where the layout gives them: folder names, or all 1000 ids of ImageNet.
    pub class_names: Option<Vec<String>>,
    /// The folder, for messages.
    folder: PathBuf,
    /// The labels file and each sample's line in it, for messages.
    labels_file: Option<(PathBuf, Vec<u64>)>,
}

/// Why a data set cannot be used.
#[derive(Debug, Error)]
pub enum DatasetError {
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
    #[error("`{image}`{} has label {label}, but the network knows only {num_classes} classes (labels 0 to {}); use the data set that the weights were trained for, or correct the label.", at_line(line), num_classes.saturating_sub(1))]
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
    /// Lists `folder`: with `labels` that file says what is in it, without it the class folders do.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn open(folder: &Path, labels: Option<&Path>) -> Result<Self, DatasetError> {
        match labels {
            Some(labels) => Self::from_labels(folder, labels),
            None => Self::from_class_folders(folder),
        }
    }

    /// Lists a folder of class folders. Images may lie deeper in a class folder; hidden files and folders, and files
    /// without an image's extension, are left out.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn from_class_folders(folder: &Path) -> Result<Self, DatasetError> {
        must_be_folder(folder)?;
        let mut classes = Vec::new();
        for (name, path) in sorted_entries(folder)? {
            if path.is_dir() {
                classes.push((name, path));
            }
        }
        let wnids: HashMap<&str, usize> = IMAGENET_WNIDS.lines().zip(0..).collect();
        let is_imagenet = classes.iter().all(|(name, _)| wnids.contains_key(name.as_str()));
        let mut samples = Vec::new();
        for (index, (name, path)) in classes.iter().enumerate() {
            let label = if is_imagenet { wnids[name.as_str()] } else { index };
            list_images(path, name, label, &mut samples)?;
        }
        if samples.is_empty() {
            let hint = "it needs one folder per class with PNG, JPEG or WebP files in it, or a labels file (--labels)";
            return Err(DatasetError::NoImages { folder: folder.to_owned(), hint });
        }
        let class_names = if is_imagenet {
            IMAGENET_WNIDS.lines().map(str::to_owned).collect()
        } else {
            classes.into_iter().map(|(name, _)| name).collect()
        };
        Ok(Self { samples, class_names: Some(class_names), folder: folder.to_owned(), labels_file: None })
    }

    /// Lists the images that the CSV `labels` names by their paths below `folder`.
    ///
    /// # Errors
    /// [`DatasetError`]: a missing column, and any row with a missing or repeated file, a path that leaves the folder, or a
    /// label that is no number.
    pub fn from_labels(folder: &Path, labels: &Path) -> Result<Self, DatasetError> {
        must_be_folder(folder)?;
        let unreadable =
            |error: csv::Error| DatasetError::Labels { file: labels.to_owned(), reason: error.to_string() };
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_path(labels).map_err(unreadable)?;
        let header = reader.headers().map_err(unreadable)?.clone();
        let column = |name: &'static str| {
            header.iter().position(|column| column == name).ok_or_else(|| DatasetError::NoColumn {
                file: labels.to_owned(),
                column: name,
                found: header.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", "),
            })
        };
        let (file_column, label_column) = (column("file")?, column("label")?);

        let (mut samples, mut lines) = (Vec::new(), Vec::new());
        let mut seen = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(unreadable)?;
            let line = record.position().map_or(0, csv::Position::line);
            let wrong = |problem| DatasetError::Row { file: labels.to_owned(), line, problem };
            let file = record.get(file_column).unwrap_or_default();
            if file.is_empty() {
                return Err(wrong("names no file".to_owned()));
            }
            let label = record.get(label_column).unwrap_or_default();
            let label = label.parse().map_err(|_| {
                wrong(format!("gives `{file}` the label `{label}`, which is not a whole number from 0"))
            })?;
            let id = inner_path(file)
                .ok_or_else(|| wrong(format!("names `{file}`, which is not a path below the data folder")))?;
            let path = folder.join(&id);
            if !path.is_file() {
                return Err(wrong(format!("names `{file}`, which does not exist in `{}`", folder.display())));
            }
            if let Some(first) = seen.insert(id.clone(), line) {
                return Err(wrong(format!("names `{file}` again, after line {first}")));
            }
            samples.push(Sample { id, path, label });
            lines.push(line);
        }
        if samples.is_empty() {
            let hint = "its labels file has a header but no rows";
            return Err(DatasetError::NoImages { folder: folder.to_owned(), hint });
        }
        let labels_file = Some((labels.to_owned(), lines));
        Ok(Self { samples, class_names: None, folder: folder.to_owned(), labels_file })
    }

    /// The data set's folder.
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
            let bytes = std::fs::read(&sample.path)
                .map_err(|source| DatasetError::Read { path: sample.path.clone(), source })?;
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
        if !name.starts_with('.') {
            entries.push((name.to_owned(), path));
        }
    }
    entries.sort();
    Ok(entries)
}

/// Adds the images in and below `folder`, whose path below the data set's folder is `id`.
fn list_images(folder: &Path, id: &str, label: usize, samples: &mut Vec<Sample>) -> Result<(), DatasetError> {
    for (name, path) in sorted_entries(folder)? {
        let id = format!("{id}/{name}");
        if path.is_dir() {
            // A link to a folder further up would never end.
            if !path.is_symlink() {
                list_images(&path, &id, label, samples)?;
            }
        } else if is_image_name(&path) {
            samples.push(Sample { id, path, label });
        }
    }
    Ok(())
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
        // One foreign name, and they are names like any other.
        let there = folder(&["n15075141/a.png", "zebra/b.png"]);
        assert_eq!(listing(&Dataset::open(there.path(), None).unwrap())[0], ("n15075141/a.png", 0));
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
        let empty = folder(&["cat/notes.txt"]);
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
