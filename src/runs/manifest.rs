//! The images of a run, listed once with the hashes of their files, so that a start reads none of them.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{RunError, create_atomically};
use crate::files::read_regular;
use crate::images::{Dataset, DatasetError, Sample};

/// Of each image its id, label, size, time of change and content's hash, in the order of the data set.
///
/// It is `images.csv` in the run folder, whose columns `file` and `label` make it a labels file, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    images: Vec<Listed>,
}

/// One image of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// [`Sample::id`].
    #[serde(rename = "file")]
    pub id: String,
    /// [`Sample::label`].
    pub label: usize,
    /// The size of its file.
    bytes: u64,
    /// Nanoseconds since 1970; 0 where the system does not tell.
    modified: u64,
    /// BLAKE3 of its file, or of its height, width and levels where the file holds many; 64 hexadecimal digits.
    blake3: String,
}

/// How far the files of a listed data set are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Every file whose size or time of change is another than the list's is read again.
    Files,
    /// Not at all: whoever decodes an image sees whether it is the one of the list ([`Manifest::is_content`]).
    List,
}

pub(super) const FILE: &str = "images.csv";

impl Listed {
    /// All that a prediction depends on: id, label, hash of the content.
    pub fn identity(&self) -> (&str, usize, &str) {
        (&self.id, self.label, &self.blake3)
    }
}

/// The largest list that is read, in bytes: some hundred million images.
const MAX_LIST: u64 = 1 << 34;

impl Manifest {
    /// The list of a run folder, which must be of that data set; none if there is no list yet.
    ///
    /// # Errors
    /// If the list cannot be read, or is of other images.
    pub fn of_run(folder: &Path, dataset: &Dataset, trust: Trust) -> Result<Option<Self>, ManifestError> {
        let Some(there) = Self::read(folder)? else {
            return Ok(None);
        };
        let other = |what: String| ManifestError::OtherImages { folder: folder.to_owned(), what };
        let (listed, found) = (there.images.len(), dataset.samples.len());
        if listed != found {
            return Err(other(format!("of {listed} images, and now there are {found}")));
        }
        let differs = |(listed, sample): &(&Listed, &Sample)| (&listed.id, listed.label) != (&sample.id, sample.label);
        if let Some((listed, sample)) = there.images.iter().zip(&dataset.samples).find(differs) {
            return Err(other(format!(
                "with {} of class {}, where there is now {} of class {}",
                listed.id, listed.label, sample.id, sample.label
            )));
        }
        if trust == Trust::Files {
            there.images.par_iter().zip(&dataset.samples).try_for_each(|(listed, sample)| {
                let (bytes, modified) = size_and_time(&sample.path)?;
                let is_same = (bytes, modified) == (listed.bytes, listed.modified)
                    || (bytes == listed.bytes && content_hash(sample)?.to_hex().as_str() == listed.blake3);
                match is_same {
                    true => Ok(()),
                    false => Err(other(format!("with another content of {}", sample.id))),
                }
            })?;
        }
        Ok(Some(there))
    }

    /// The list in a run folder; none if there is none yet.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, RunError> {
        let path = folder.join(FILE);
        let bytes = match read_regular(&path, MAX_LIST) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RunError::Read { path, source }),
        };
        let images = csv::Reader::from_reader(bytes.as_slice()).into_deserialize().collect::<Result<_, _>>();
        let damaged = |error: csv::Error| RunError::Damaged { path, reason: error.to_string() };
        Ok(Some(Self { images: images.map_err(damaged)? }))
    }

    /// Lists a data set, reading every file once, in parallel.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn new(dataset: &Dataset) -> Result<Self, ManifestError> {
        let listed = dataset.samples.par_iter().map(|sample| {
            let (bytes, modified) = size_and_time(&sample.path)?;
            let blake3 = content_hash(sample)?.to_hex().to_string();
            Ok(Listed { id: sample.id.clone(), label: sample.label, bytes, modified, blake3 })
        });
        Ok(Self { images: listed.collect::<Result<_, ManifestError>>()? })
    }

    /// Keeps the list in a run folder, unless another process has done so.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<(), RunError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for image in &self.images {
            writer.serialize(image).expect("memory takes every record");
        }
        let bytes = writer.into_inner().expect("memory takes every record");
        create_atomically(&folder.join(FILE), &bytes)?;
        Ok(())
    }

    /// The images.
    pub fn images(&self) -> &[Listed] {
        &self.images
    }

    /// [`Dataset::fingerprint`].
    pub fn fingerprint(&self) -> String {
        Dataset::fingerprint_of(self.images.iter().map(Listed::identity))
    }

    /// Whether `bytes` are what the list says of the image at `index`.
    pub fn is_content(&self, index: usize, bytes: &[u8]) -> bool {
        blake3::hash(bytes).to_hex().as_str() == self.images[index].blake3
    }
}

/// Why the images of a run cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file of the data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The list cannot be read or written.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The run was made with other images.
    #[error("the run folder {} was made {what}; give the same --data, --labels and --limit, or another folder as --run", folder.display())]
    OtherImages {
        /// The run folder.
        folder: PathBuf,
        /// What differs.
        what: String,
    },
}

fn content_hash(sample: &Sample) -> Result<blake3::Hash, DatasetError> {
    let read = sample.content().map_err(|source| DatasetError::Read { path: sample.path.clone(), source })?;
    Ok(blake3::hash(&read))
}

fn size_and_time(path: &Path) -> Result<(u64, u64), DatasetError> {
    let metadata = path.metadata().map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), modified.map_or(0, |time| time.as_nanos() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(folder: &Path, files: &[&str]) -> Dataset {
        for file in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        Dataset::open(folder, None).unwrap()
    }

    #[test]
    fn a_list_is_made_once_and_says_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        let run = folder.path().join("run");
        let data = dataset(&images, &["cat/1.png", "dog/2.png"]);
        assert_eq!(Manifest::of_run(&run, &data, Trust::Files).unwrap(), None);
        let list = Manifest::new(&data).unwrap();
        list.keep(&run).unwrap();
        assert_eq!(list.fingerprint(), data.fingerprint().unwrap());
        assert_eq!(Manifest::of_run(&run, &data, Trust::Files).unwrap(), Some(list.clone()));
        assert!(list.is_content(0, b"cat/1.png") && !list.is_content(0, b"cat/2.png"));
        let as_labels = Dataset::open(&images, Some(&run.join(FILE))).unwrap();
        assert_eq!(as_labels.samples, data.samples);

        let refusal = |data: &Dataset, trust| Manifest::of_run(&run, data, trust).unwrap_err().to_string();
        assert!(refusal(&data.clone().limit(1), Trust::List).contains("of 2 images, and now there are 1"));
        let mut relabelled = data.clone();
        relabelled.samples[1].label = 7;
        assert!(
            refusal(&relabelled, Trust::List).contains("dog/2.png of class 1, where there is now dog/2.png of class 7")
        );
        // The same content at another time is the same; another content of the same size is not.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(images.join("dog/2.png"), "dog/2.png").unwrap();
        assert!(Manifest::of_run(&run, &data, Trust::Files).is_ok());
        std::fs::write(images.join("dog/2.png"), "dog/3.png").unwrap();
        assert!(refusal(&data, Trust::Files).contains("another content of dog/2.png"));
        assert!(Manifest::of_run(&run, &data, Trust::List).is_ok());
    }
}
