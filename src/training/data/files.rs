//! Image files in class folders or named by a labels file, in the layouts of [`Dataset`] but with less in memory.

use std::path::{Path, PathBuf};

use super::names::Names;
use super::{DataError, MAX_CLASSES, Source, classes_of, fingerprint_of_listing};
use crate::images::dataset::{Labelling, labels_of_names, visit_class_folders};
use crate::images::{Dataset, DatasetError, DecodeError, RgbImage, decode_file};

/// ImageNet's labels stand for so many classes even where only some of them are there.
const IMAGENET_CLASSES: usize = 1000;

/// Image files, each with a label.
pub(super) struct Files {
    folder: PathBuf,
    /// The paths below the folder.
    names: Names,
    labels: Vec<u32>,
    classes: usize,
    /// Class folders without images, where classes are numbered by names.
    empty: Vec<String>,
}

/// The labels file in a folder.
pub(super) fn labels_in(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("labels.csv")).filter(|labels| labels.is_file())
}

impl Files {
    /// Lists a folder of class folders. Where classes are the folders in the order of their names, and there are class
    /// folders of `training` images, those decide.
    pub fn from_class_folders(folder: &Path, training: Option<&Path>) -> Result<Self, DataError> {
        let mut names = Names::default();
        let mut classes: Vec<(String, usize)> = Vec::new();
        let mut empty = Vec::new();
        visit_class_folders(folder, |class, images| {
            if images.is_empty() {
                empty.push(class);
            } else {
                images.iter().for_each(|(id, _)| names.push(id));
                classes.push((class, images.len()));
            }
        })?;
        if classes.is_empty() {
            let hint = "it needs one folder per class with images in it, or a labels file (labels.csv)";
            return Err(DatasetError::NoImages { folder: folder.to_owned(), hint }.into());
        }
        let class_names: Vec<&str> = classes.iter().map(|(name, _)| name.as_str()).collect();
        let (labelling, numbers) = labels_of_names(folder, &class_names)?;
        if !matches!(labelling, Labelling::Names) {
            empty.clear();
        }
        let (numbers, count) = match (labelling, training) {
            (Labelling::Names, Some(training)) => numbered_as_in(training, folder, &class_names)?,
            (Labelling::Names, None) => (numbers, class_names.len()),
            (Labelling::ImageNet, _) => (numbers, IMAGENET_CLASSES),
            (Labelling::Numbers, _) => {
                let highest = numbers.iter().max().copied().unwrap_or(0);
                (numbers, highest.saturating_add(1))
            }
        };
        if let Some(class) = numbers.iter().position(|&number| number >= MAX_CLASSES) {
            let image = class_names[class].to_owned();
            return Err(DataError::Label { image, label: numbers[class], classes: MAX_CLASSES });
        }
        let mut labels = Vec::with_capacity(names.len());
        for ((_, images), number) in classes.iter().zip(numbers) {
            labels.resize(labels.len() + images, number as u32);
        }
        Ok(Self { folder: folder.to_owned(), names, labels, classes: count, empty })
    }

    /// Lists what the table `labels` names below `folder`.
    pub fn from_labels(folder: &Path, labels: &Path) -> Result<Self, DataError> {
        let dataset = Dataset::from_labels(folder, labels)?;
        let mut names = Names::default();
        let mut labels = Vec::with_capacity(dataset.samples.len());
        for sample in dataset.samples {
            names.push(&sample.id);
            labels.push(u32::try_from(sample.label).unwrap_or(u32::MAX));
        }
        let classes = classes_of(&labels, |index| names.get(index).to_owned())?;
        Ok(Self { folder: folder.to_owned(), names, labels, classes, empty: Vec::new() })
    }

    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(self.names.get(index))
    }
}

/// The labels of `classes`, folders of test images in `folder`, and how many classes there are, by the class folders of the
/// training images.
fn numbered_as_in(training: &Path, folder: &Path, classes: &[&str]) -> Result<(Vec<usize>, usize), DataError> {
    let mut known = Vec::new();
    visit_class_folders(training, |class, images| {
        if !images.is_empty() {
            known.push(class);
        }
    })?;
    let number = |&class: &&str| {
        let unknown = |_| DataError::OtherClass {
            class: class.to_owned(),
            folder: folder.to_owned(),
            training: training.to_owned(),
        };
        known.binary_search_by(|known| known.as_str().cmp(class)).map_err(unknown)
    };
    let numbers = classes.iter().map(number).collect::<Result<_, _>>()?;
    Ok((numbers, known.len()))
}

impl Source for Files {
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
        self.names.get(index).to_owned()
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        decode_file(&self.path(index))
    }

    fn fingerprint(&self) -> String {
        // What cannot be asked for its size is of none.
        fingerprint_of_listing(self, |index| self.path(index).metadata().map_or(u64::MAX, |metadata| metadata.len()))
    }

    fn empty_classes(&self) -> Vec<String> {
        self.empty.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::save_png;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (gray, file) in files.iter().enumerate() {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            save_png(&path, &RgbImage::new(1, 1, vec![gray as u8; 3])).unwrap();
        }
        folder
    }

    fn listed(files: &Files) -> Vec<(String, usize)> {
        (0..files.len()).map(|index| (files.id(index), files.label(index))).collect()
    }

    fn owned(list: &[(&str, usize)]) -> Vec<(String, usize)> {
        list.iter().map(|&(id, label)| (id.to_owned(), label)).collect()
    }

    #[test]
    fn class_folders_are_listed_as_by_the_data_set() {
        let folder = folder(&["cat/1.png", "cat/deep/2.png", "dog/3.png"]);
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        let files = Files::from_class_folders(folder.path(), None).unwrap();
        assert_eq!(listed(&files), owned(&[("cat/1.png", 0), ("cat/deep/2.png", 0), ("dog/3.png", 1)]));
        assert_eq!(files.classes(), 2);
        assert_eq!(files.read(2).unwrap().data(), [2; 3]);
        let dataset = Dataset::from_class_folders(folder.path()).unwrap();
        let samples = dataset.samples.into_iter().map(|sample| (sample.id, sample.label));
        assert!(samples.eq(listed(&files)));
    }

    #[test]
    fn numbers_and_imagenets_ids_are_labels() {
        let numbers = folder(&["2/a.png", "10/b.png"]);
        let files = Files::from_class_folders(numbers.path(), None).unwrap();
        assert_eq!(listed(&files), owned(&[("10/b.png", 10), ("2/a.png", 2)]));
        assert_eq!(files.classes(), 11);
        let ids = folder(&["n01443537/a.png"]);
        let files = Files::from_class_folders(ids.path(), None).unwrap();
        assert_eq!((files.label(0), files.classes()), (1, 1000));
        let far = folder(&["99999999/a.png"]);
        assert!(Files::from_class_folders(far.path(), None).err().unwrap().to_string().contains("99999999"));
    }

    #[test]
    fn test_images_have_the_training_images_classes() {
        let training = folder(&["ant/1.png", "bee/2.png", "cat/3.png"]);
        let test = folder(&["cat/4.png"]);
        let files = Files::from_class_folders(test.path(), Some(training.path())).unwrap();
        assert_eq!((files.label(0), files.classes()), (2, 3));
        let other = folder(&["dog/5.png"]);
        let message = Files::from_class_folders(other.path(), Some(training.path())).err().unwrap().to_string();
        assert!(message.starts_with("the class folder `dog` of "), "{message}");
    }

    #[test]
    fn a_labels_file_says_what_is_there() {
        let folder = folder(&["x/1.png", "y/2.png"]);
        assert!(labels_in(folder.path()).is_none());
        std::fs::write(folder.path().join("labels.csv"), "file,label\ny/2.png,7\nx/1.png,3\n").unwrap();
        let files = Files::from_labels(folder.path(), &labels_in(folder.path()).unwrap()).unwrap();
        assert_eq!(listed(&files), owned(&[("y/2.png", 7), ("x/1.png", 3)]));
        assert_eq!(files.classes(), 8);
        assert_eq!(files.read(0).unwrap().data(), [1; 3]);
    }

    #[test]
    fn names_labels_and_sizes_count_for_the_fingerprint() {
        let fingerprint = |folder: &Path| Files::from_class_folders(folder, None).unwrap().fingerprint();
        let first = folder(&["a/1.png", "b/2.png"]);
        assert_eq!(fingerprint(first.path()), fingerprint(folder(&["a/1.png", "b/2.png"]).path()));
        assert_ne!(fingerprint(first.path()), fingerprint(folder(&["a/1.png", "a/2.png"]).path()));
        let before = fingerprint(first.path());
        std::fs::write(first.path().join("a/1.png"), [0; 1000]).unwrap();
        assert_ne!(fingerprint(first.path()), before);
    }

    #[cfg(unix)]
    #[test]
    fn links_that_go_round_end() {
        let folder = folder(&["a/1.png"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/round")).unwrap();
        let files = Files::from_class_folders(folder.path(), None).unwrap();
        assert!(listed(&files).contains(&("a/1.png".to_owned(), 0)) && files.len() < 10);
    }

    #[test]
    fn folders_without_images_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let message = Files::from_class_folders(folder.path(), None).err().unwrap().to_string();
        assert!(message.contains("one folder per class"), "{message}");
    }
}
