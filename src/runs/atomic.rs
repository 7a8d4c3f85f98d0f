//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::RunError;

/// The extension of files that are still being written; one that stays behind is what a stopped program left.
pub(super) const TEMPORARY: &str = "partial";

/// Writes under a temporary name in the same folder (which is made if need be), syncs, and renames.
///
/// # Errors
/// If any of that fails; a file of that name that was there before is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let failed = |source| RunError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{TEMPORARY}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // What was half written is of no use, and on a full disk in the way.
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}
