//! Files that are there whole or not at all, on one disk or on a shared one.
//!
//! There are no locks, which shared file systems keep badly or not at all.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use netkin_weights::files::{create_whole, write_whole};

use super::RunError;

/// [`write_whole`], tried once more where that may help.
///
/// # Errors
/// If it fails; a file of that name that was there before is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    once_more(|| write_whole(path, bytes)).map_err(|source| RunError::Write { path: path.to_owned(), source })
}

/// [`create_whole`], tried once more where that may help: a file that is there already is left as it is. Whether the file is
/// now ours.
///
/// # Errors
/// If the file is not there already and cannot be written.
pub fn create_atomically(path: &Path, bytes: &[u8]) -> Result<bool, RunError> {
    once_more(|| create_whole(path, bytes)).map_err(|source| RunError::Write { path: path.to_owned(), source })
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
}
