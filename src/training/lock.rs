//! One process trains in a run folder: two would write each other's checkpoints.
//!
//! The shares of a `sat` run need no lock, since each unit of work is a file that any of them may write. A training is one chain of
//! steps. The lock is advisory, and the system lifts it when the process ends, however it ends; where a file system keeps no locks,
//! nobody is refused.

use std::fs::{File, OpenOptions, TryLockError, create_dir_all};
use std::path::Path;

use super::TrainingError;
use crate::runs::RunError;

const LOCK: &str = "lock";

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    /// The system lifts the lock when it is closed.
    _file: File,
}

impl Lock {
    /// Makes the folder if need be, and locks it.
    ///
    /// # Errors
    /// If it is a file, cannot be written to, or another process has it.
    pub fn of(folder: &Path) -> Result<Self, TrainingError> {
        if folder.exists() && !folder.is_dir() {
            return Err(TrainingError::NotAFolder { path: folder.to_owned() });
        }
        let path = folder.join(LOCK);
        let opened = create_dir_all(folder)
            .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(&path));
        let file = opened.map_err(|source| RunError::Write { path, source })?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(TrainingError::Busy { folder: folder.to_owned() }),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { _file: file }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_until_the_lock_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("deep/run");
        let first = Lock::of(&run).unwrap();
        let said = Lock::of(&run).unwrap_err().to_string();
        assert!(said.starts_with("another process trains in ") && said.contains("--run"), "{said}");
        drop(first);
        let _second = Lock::of(&run).unwrap();
        let said = Lock::of(&run.join(LOCK)).unwrap_err().to_string();
        assert!(said.contains("is a file, and a run is kept in a folder"), "{said}");
    }
}
