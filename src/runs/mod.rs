//! The run folder: finished work as content-addressed units, so that nothing is computed twice.
//!
//! ```text
//! RUN/run.json                what the folder was made with; another setting is refused
//! RUN/units/KIND/KEY          one finished piece of work; the key is a hash of everything that it depends on
//! ```
//!
//! A unit is written under a temporary name, synced and renamed: it is there whole or not at all, whenever the program is
//! stopped. A run that is started again computes the units that are missing.

mod atomic;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use atomic::write_atomically;

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
    /// run.json cannot be understood.
    #[error("{} is not readable as JSON ({reason}); give another folder as --run", path.display())]
    Damaged {
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

/// A run folder that fits the settings.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Opens or makes the folder. `settings` is a JSON object of everything that all units of the run share.
    ///
    /// # Errors
    /// If the folder cannot be written, holds other files, or was made with other settings.
    pub fn open(path: &Path, settings: &Value) -> Result<Self, RunError> {
        let manifest = path.join("run.json");
        let folder = Self { path: path.to_owned() };
        match std::fs::read(&manifest) {
            Ok(bytes) => {
                let there: Value = serde_json::from_slice(&bytes)
                    .map_err(|error| RunError::Damaged { path: manifest, reason: error.to_string() })?;
                match first_difference("", &there, settings) {
                    None => Ok(folder),
                    Some((setting, there, asked)) => {
                        Err(RunError::OtherSettings { folder: path.to_owned(), setting, there, asked })
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let holds_other_files = std::fs::read_dir(path)
                    .is_ok_and(|entries| entries.flatten().any(|entry| !is_temporary(&entry.path())));
                if holds_other_files {
                    return Err(RunError::Foreign { folder: path.to_owned() });
                }
                let text = serde_json::to_vec_pretty(settings).expect("JSON values print");
                write_atomically(&manifest, &text)?;
                Ok(folder)
            }
            Err(source) => Err(RunError::Read { path: manifest, source }),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a finished unit, or `None` if it is yet to be done.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn read(&self, kind: &str, key: &str) -> Result<Option<Vec<u8>>, RunError> {
        let path = self.unit(kind, key);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RunError::Read { path, source }),
        }
    }

    /// A finished unit of JSON; one that cannot be understood counts as not done.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn read_json<T: DeserializeOwned>(&self, kind: &str, key: &str) -> Result<Option<T>, RunError> {
        let bytes = self.read(kind, key)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// All finished units of JSON of one kind, by their keys' order.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub fn read_all_json<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>, RunError> {
        let path = self.path.join("units").join(kind);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(RunError::Read { path, source }),
        };
        let mut keys: Vec<String> = entries
            .flatten()
            .filter(|entry| !is_temporary(&entry.path()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        keys.sort();
        let units = keys.iter().map(|key| self.read_json(kind, key));
        Ok(units.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Keeps a finished unit.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, kind: &str, key: &str, bytes: &[u8]) -> Result<(), RunError> {
        write_atomically(&self.unit(kind, key), bytes)
    }

    /// Keeps a finished unit as JSON.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_json(&self, kind: &str, key: &str, unit: &impl Serialize) -> Result<(), RunError> {
        let bytes = serde_json::to_vec(unit).expect("units are made of strings and numbers");
        self.write(kind, key, &bytes)
    }

    fn unit(&self, kind: &str, key: &str) -> PathBuf {
        self.path.join("units").join(kind).join(key)
    }
}

/// The key of a unit: 32 hexadecimal digits of the BLAKE3 of all that it depends on.
pub fn unit_key(depends_on: &impl Serialize) -> String {
    let bytes = serde_json::to_vec(depends_on).expect("keys are made of strings and numbers");
    blake3::hash(&bytes).to_hex()[..32].to_owned()
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == atomic::TEMPORARY)
}

/// The first setting that differs, with its two values as text.
fn first_difference(prefix: &str, there: &Value, asked: &Value) -> Option<(String, String, String)> {
    match (there, asked) {
        (Value::Object(a), Value::Object(b)) => {
            a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).find_map(|key| {
                let name = match prefix.is_empty() {
                    true => key.clone(),
                    false => format!("{prefix}.{key}"),
                };
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
    fn units_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path(), &json!({})).unwrap();
        assert!(run.read("clean", "k").unwrap().is_none());
        run.write_json("clean", "k", &[1, 2]).unwrap();
        assert_eq!(run.read_json::<Vec<u8>>("clean", "k").unwrap(), Some(vec![1, 2]));
        run.write("clean", "k", b"[1,").unwrap();
        assert_eq!(run.read_json::<Vec<u8>>("clean", "k").unwrap(), None);
    }
}
