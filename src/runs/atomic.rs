//! Files that are there whole or not at all, on one disk or on a shared one.
//!
//! Temporary names are random and created exclusively: process ids are no names, since two containers on one shared folder
//! may both be process 1. There are no locks, which shared file systems keep badly or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::RunError;

/// The extension of files that are still being written; one that stays behind is what a stopped program left.
pub(super) const TEMPORARY: &str = "partial";

/// Writes under a temporary name in the same folder (which is made if need be), syncs, and renames.
///
/// # Errors
/// If any of that fails; a file of that name that was there before is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let write = || -> io::Result<()> {
        temporary(path, bytes)?.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    once_more(write).map_err(|source| RunError::Write { path: path.to_owned(), source })
}

/// As [`write_atomically`], but leaves a file that is there already as it is; whether the file is now ours. Of several
/// processes that do so at once, one gets to write.
///
/// # Errors
/// If the file is not there already and cannot be written.
pub fn create_atomically(path: &Path, bytes: &[u8]) -> Result<bool, RunError> {
    let create = || match temporary(path, bytes)?.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    };
    once_more(create).map_err(|source| RunError::Write { path: path.to_owned(), source })
}

/// What was half written is removed when this fails: it is of no use, and on a full disk in the way.
fn temporary(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let suffix = format!(".{TEMPORARY}");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(&suffix).rand_bytes(16);
    // Others who share the folder read it, too, as far as the umask lets them.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes sure that the names in a folder survive a loss of power; where a folder cannot be synced, there is nothing to do.
pub(super) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Tries once more, after a moment, what a shared file system may refuse for a moment.
pub(super) fn once_more<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const A_MOMENT: Duration = Duration::from_millis(300);
    match operation() {
        Err(error) if may_pass(&error) => {
            std::thread::sleep(A_MOMENT);
            operation()
        }
        result => result,
    }
}

/// Whether an error is of those with which a server says that it, or the file, was away for a moment.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{
        HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, StaleNetworkFileHandle, TimedOut,
    };
    matches!(
        error.kind(),
        StaleNetworkFileHandle | Interrupted | TimedOut | NetworkDown | NetworkUnreachable | HostUnreachable
    )
}

/// Whether the same may succeed at another time or on another machine: a disk was full, a quota used up, a device or a server
/// failed; not: something is not there or not allowed.
pub fn is_temporary(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, OutOfMemory, QuotaExceeded, ResourceBusy, StorageFull};
    // What the standard library has no kinds for: input/output error, too many open files (here, and in all), remote
    // input/output error.
    const OTHERS: [i32; 4] = [5, 23, 24, 121];
    may_pass(error)
        || matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | OutOfMemory | ResourceBusy)
        || (cfg!(unix) && error.raw_os_error().is_some_and(|code| OTHERS.contains(&code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/file");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["file"]);
    }

    #[test]
    fn of_many_who_create_a_file_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("file");
        let created: Vec<bool> = std::thread::scope(|scope| {
            let each = |name: u8| scope.spawn(move || create_atomically(path, &[name; 1000]).unwrap());
            let threads: Vec<_> = (0..8).map(each).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(created.iter().filter(|&&created| created).count(), 1);
        let winner = created.iter().position(|&created| created).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), [winner as u8; 1000]);
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn what_fails_for_a_moment_is_tried_once_more() {
        let mut calls = 0;
        let result = once_more(|| {
            calls += 1;
            if calls == 1 { Err(io::ErrorKind::StaleNetworkFileHandle.into()) } else { Ok(calls) }
        });
        assert_eq!(result.unwrap(), 2);
        let mut calls = 0;
        let full = once_more(|| {
            calls += 1;
            Err::<(), _>(io::ErrorKind::StorageFull.into())
        });
        assert!(full.is_err() && calls == 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_temporary_and_a_missing_file_is_not() {
        for code in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EIO, libc::ESTALE, libc::EMFILE] {
            assert!(is_temporary(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::ENOENT, libc::EACCES, libc::EROFS, libc::ENOTDIR] {
            assert!(!is_temporary(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_umask_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, b"").unwrap();
        std::fs::write(&plain, b"").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
