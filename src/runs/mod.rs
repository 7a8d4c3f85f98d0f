//! The run folder: finished work as content-addressed units, so that nothing is computed twice.
//!
//! ```text
//! RUN/run.json              what the folder was made with; other settings are refused
//! RUN/images.csv            the images, with the hashes of their files
//! RUN/models/NAME-KEY.json  the networks that took part
//! RUN/units/SHELF/…         finished work: small units, such as predictions
//! RUN/large/SHELF/…         units that are kept on request, such as adversarial images; without them nothing is wrong
//! ```
//!
//! Nothing in here knows what is computed. Work is a [`Layout`]: shelves with rows of units, each under a [`Key`] that is a
//! hash of everything that the unit depends on. A [`Plan`] says what is missing of a [`Shard`]; whoever does it keeps the
//! units in a [`Store`]. Files are written under random names, synced and renamed: they are there whole or not at all,
//! whenever the program is stopped and however many others write into the same folder. Nothing is locked. Two processes at
//! the same work waste time, and are never wrong.

mod atomic;
mod key;
mod manifest;
mod merge;
mod plan;
mod shard;
mod store;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use atomic::{create_atomically, is_temporary, write_atomically};
pub use key::{Key, NotAKey};
pub use manifest::{Listed, Manifest, ManifestError, Trust};
pub use merge::{Conflict, Merged, merge};
pub use plan::{Layout, Plan, ShelfPlan};
pub use shard::{Shard, ShardError};
pub use store::{Bundle, Damage, Provenance, Reading, Shelf, Store};

use atomic::once_more;

use crate::files::read_regular;

/// Changes when the files of a run folder do.
const FORMAT: u32 = 2;

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder or a file in it cannot be written.
    #[error("cannot write {} ({source}); nothing that was finished is lost: make room or give another folder, then run the same command again", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file in the folder cannot be read.
    #[error("cannot read {} ({source}); check that the folder is a run folder and that you may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder holds something else.
    #[error("{} has no run.json but other files; give an empty or a new folder as --run", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder was made by a version of netkin that kept its work differently.
    #[error("the run folder {} was made by another version of netkin, whose files this one does not read; give another folder as --run", folder.display())]
    OtherFormat {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no run.
    #[error("{} is no run folder, it has no run.json; check the path", folder.display())]
    NoRun {
        /// The folder.
        folder: PathBuf,
    },
    /// A file that describes the run cannot be understood.
    #[error("{} is damaged ({reason}); give another folder as --run, or restore that file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of what was kept beside the run's units cannot be understood.
    #[error(
        "{} is damaged ({reason}); delete it and run what made it again, {}",
        path.display(),
        maker(path)
    )]
    DamagedRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder was made with other settings.
    #[error("the run folder {} was made with {setting} = {there}, and now it is {asked}; give the same setting, or another folder as --run", folder.display())]
    OtherSettings {
        /// The folder.
        folder: PathBuf,
        /// Which setting differs.
        setting: String,
        /// Its value in the folder.
        there: String,
        /// Its value now.
        asked: String,
    },
}

/// Which command keeps records beside that one.
fn maker(path: &Path) -> &'static str {
    let kind = path.parent().and_then(Path::file_name);
    if kind.is_some_and(|kind| kind == "models") {
        "`netkin sat` with the same networks, images and settings and this folder as --run"
    } else {
        "`netkin matrix fill` or `netkin layers --run`"
    }
}

/// A run folder that fits the settings.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    settings: Value,
}

impl RunFolder {
    /// Opens or makes the folder. `settings` is a JSON object of everything that all units of the run share.
    ///
    /// # Errors
    /// If the folder cannot be written, holds other files, or was made with other settings.
    pub fn open(path: &Path, settings: &Value) -> Result<Self, RunError> {
        let asked = written(settings);
        let manifest = path.join(RUN);
        if !manifest.exists() {
            let is_foreign = |entry: std::fs::DirEntry| !is_unfinished(&entry.path());
            if std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_foreign)) && !manifest.exists() {
                return Err(RunError::Foreign { folder: path.to_owned() });
            }
            let document = json!({"format": FORMAT, "settings": asked, "checksum": Key::of(&asked)});
            let text = serde_json::to_vec_pretty(&document).expect("JSON values print");
            create_atomically(&manifest, &text)?;
        }
        // Also if it was made just now: another process may have been the first.
        let folder = Self::existing(path)?;
        match first_difference("", &folder.settings, &asked) {
            None => Ok(folder),
            Some((setting, there, asked)) => {
                Err(RunError::OtherSettings { folder: path.to_owned(), setting, there, asked })
            }
        }
    }

    /// Opens a folder that is there.
    ///
    /// # Errors
    /// If it is no run folder, of another version, or the settings in `run.json` are not those that were written.
    pub fn existing(path: &Path) -> Result<Self, RunError> {
        let manifest = path.join(RUN);
        let bytes = match once_more(|| read_regular(&manifest, MAX_RECORD)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(RunError::NoRun { folder: path.to_owned() });
            }
            Err(source) => return Err(RunError::Read { path: manifest, source }),
        };
        let mut there: Value = serde_json::from_slice(&bytes)
            .map_err(|error| RunError::Damaged { path: manifest.clone(), reason: error.to_string() })?;
        if there.get("format") != Some(&FORMAT.into()) {
            return Err(RunError::OtherFormat { folder: path.to_owned() });
        }
        let settings = there["settings"].take();
        // Earlier versions wrote no checksum.
        if there.get("checksum").is_some_and(|checksum| *checksum != json!(Key::of(&settings))) {
            return Err(RunError::Damaged { path: manifest, reason: "its settings have another checksum".into() });
        }
        Ok(Self { path: path.to_owned(), settings })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was made with.
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// Small units, which are checked whenever a shelf is looked at.
    pub fn units(&self) -> Store {
        Store::new(self.path.join("units"), Reading::WithShelf)
    }

    /// Large units, which are checked when they are read.
    pub fn large(&self) -> Store {
        Store::new(self.path.join("large"), Reading::OnDemand)
    }

    /// [Packs](Store::pack) what lies about on a shelf.
    ///
    /// # Errors
    /// If it cannot be read, or a pack cannot be written.
    pub fn tidy(&self, shelf: Key) -> Result<(), RunError> {
        self.units().pack(shelf)?;
        self.large().pack(shelf)
    }

    /// Keeps a record of something that takes part in the run, such as a network, under a folder for its kind; what is there
    /// stays as it is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_record(&self, kind: &str, name: &str, key: Key, record: &impl Serialize) -> Result<(), RunError> {
        let path = self.path.join(kind).join(format!("{}-{key}.json", file_name(name)));
        if !path.exists() {
            let text = serde_json::to_vec_pretty(record).expect("records are made of strings and numbers");
            create_atomically(&path, &text)?;
        }
        Ok(())
    }

    /// All records of a kind, by the order of their names.
    ///
    /// # Errors
    /// If one is there and cannot be read.
    pub fn records<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>, RunError> {
        let folder = self.path.join(kind);
        let mut names = store::names_in(&folder)?;
        names.retain(|name| name.ends_with(".json"));
        names.sort();
        let read = |name: &String| {
            let path = folder.join(name);
            let bytes = once_more(|| read_regular(&path, MAX_RECORD));
            let bytes = bytes.map_err(|source| RunError::Read { path: path.clone(), source })?;
            serde_json::from_slice(&bytes).map_err(|error| RunError::DamagedRecord { path, reason: error.to_string() })
        };
        names.iter().map(read).collect()
    }
}

const RUN: &str = "run.json";

/// The largest file that describes a run or what took part in it, in bytes.
const MAX_RECORD: u64 = 1 << 26;

/// A value as it is after it was written and read, which may change the last digit of a number.
pub(crate) fn written(value: &impl Serialize) -> Value {
    let text = serde_json::to_vec(value).expect("JSON values print");
    serde_json::from_slice(&text).expect("what was printed can be read")
}

/// A name with nothing that means something in a path.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().map(plain).take(100).collect()
}

fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == netkin_weights::files::TEMPORARY)
}

/// The first setting that differs, with its two values as text.
pub(crate) fn first_difference(prefix: &str, there: &Value, asked: &Value) -> Option<(String, String, String)> {
    match (there, asked) {
        (Value::Object(a), Value::Object(b)) => {
            a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).find_map(|key| {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                let value = |object: &serde_json::Map<_, _>| object.get(key).cloned().unwrap_or(Value::Null);
                first_difference(&name, &value(a), &value(b))
            })
        }
        (a, b) if a == b => None,
        (a, b) => Some((prefix.to_owned(), a.to_string(), b.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_folder_opens_again_with_the_same_settings_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let settings = json!({"attack": {"eps": 0.1, "steps": 5}, "data": "x"});
        RunFolder::open(&path, &settings).unwrap();
        RunFolder::open(&path, &settings).unwrap();
        let other = json!({"attack": {"eps": 0.1, "steps": 6}, "data": "x"});
        let error = RunFolder::open(&path, &other).unwrap_err().to_string();
        assert!(error.contains("attack.steps = 5, and now it is 6"), "{error}");
    }

    #[test]
    fn a_folder_of_other_things_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let error = RunFolder::open(folder.path(), &json!({})).unwrap_err();
        assert!(matches!(error, RunError::Foreign { .. }));
    }

    #[test]
    fn a_folder_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(RunFolder::existing(folder.path()), Err(RunError::NoRun { .. })));
        std::fs::write(folder.path().join(RUN), "{\"protocol\": 1}").unwrap();
        let error = RunFolder::open(folder.path(), &json!({})).unwrap_err();
        assert!(error.to_string().contains("another version of netkin"), "{error}");
        std::fs::write(folder.path().join(RUN), "{").unwrap();
        assert!(matches!(RunFolder::open(folder.path(), &json!({})), Err(RunError::Damaged { .. })));
    }

    #[test]
    fn settings_that_were_changed_by_hand_or_by_a_disk_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        RunFolder::open(folder.path(), &json!({"steps": 20, "eps": 0.1})).unwrap();
        let path = folder.path().join(RUN);
        let text = std::fs::read_to_string(&path).unwrap();
        for (old, new) in [("20", "21"), ("eps", "epz"), ("0.1", "0.3")] {
            std::fs::write(&path, text.replace(old, new)).unwrap();
            let said = RunFolder::existing(folder.path()).unwrap_err().to_string();
            assert!(said.contains("run.json is damaged (its settings have another checksum)"), "{said}");
        }
        std::fs::write(&path, r#"{"format": 2, "settings": {"steps": 20}}"#).unwrap();
        assert!(RunFolder::existing(folder.path()).is_ok(), "those of earlier versions have none");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_waits_for_a_pipe_in_a_run_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run"), &json!({})).unwrap();
        let (key, made_by) = (Key::of(&1), Provenance { netkin: "1".into(), device: "flex".into() });
        let pipe = |path: &Path| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = std::fs::remove_file(path);
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        };
        for store in [run.units(), run.large()] {
            pipe(&store.shelf_folder(key).join("0.pack"));
            assert_eq!(store.shelf(key).unwrap().damaged().len(), 1);
            store.put(key, &made_by, &Bundle::from([(key, vec![1])])).unwrap();
            assert_eq!(store.get(key, key).unwrap(), Some(vec![1]));
        }
        pipe(&run.path().join("models/a.json"));
        assert!(run.records::<String>("models").unwrap_err().to_string().contains("not a regular file"));
        pipe(&run.path().join(RUN));
        assert!(RunFolder::existing(run.path()).unwrap_err().to_string().contains("not a regular file"));
        pipe(&run.path().join("images.csv"));
        assert!(Manifest::read(run.path()).unwrap_err().to_string().contains("not a regular file"));
    }

    /// Whatever the number, the folder it was given to takes it again.
    #[test]
    fn numbers_are_the_same_once_written() {
        let folder = tempfile::tempdir().unwrap();
        for (index, eps) in (1..200).map(|index| (index, f64::from(index) / 255.0 / 7.0)) {
            let path = folder.path().join(index.to_string());
            RunFolder::open(&path, &json!({"eps": eps})).unwrap();
            RunFolder::open(&path, &json!({"eps": eps})).unwrap();
        }
    }

    #[test]
    fn records_come_back_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run"), &json!({})).unwrap();
        assert!(run.records::<String>("models").unwrap().is_empty());
        for name in ["resnet50", "../b", "resnet50"] {
            run.keep_record("models", name, Key::of(&name), &name).unwrap();
        }
        assert_eq!(run.records::<String>("models").unwrap(), ["../b", "resnet50"]);
        run.keep_record("layers", "a", Key::of(&"a"), &"a").unwrap();
        for (kind, command) in [("models", "`netkin sat`"), ("layers", "`netkin layers --run`")] {
            for file in std::fs::read_dir(run.path().join(kind)).unwrap() {
                std::fs::write(file.unwrap().path(), "{").unwrap();
            }
            let said = run.records::<String>(kind).unwrap_err().to_string();
            assert!(said.contains(command), "{said}");
        }
    }
}
