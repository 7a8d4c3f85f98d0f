//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// The extension of files that are still being written; one that stays behind is what a stopped program left.
pub const TEMPORARY: &str = "partial";

/// Writes a file under a temporary name in the same folder (which is made if need be), syncs, and renames.
///
/// Only files are replaced: into what is none (a pipe, a device as `/dev/null`) the bytes are written as it is, and a
/// link is followed.
///
/// # Errors
/// As the file system says; a file of that name that was there before is then still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if stays(path) {
        return File::options().write(true).open(path)?.write_all(bytes);
    }
    let linked = path.is_symlink().then(|| path.canonicalize()).and_then(Result::ok);
    let path = linked.unwrap_or_else(|| path.to_owned());
    unfinished(&path, bytes)?.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

/// Writes a file as [`write_whole`] does, but leaves what is there already as it is; whether the file is now ours. Of
/// several processes that do so at once, one gets to write.
///
/// # Errors
/// As the file system says, if there is none of that name.
pub fn create_whole(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match unfinished(path, bytes)?.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Whether a name stands for something that a rename would destroy. Links in `/dev` and `/proc` do even where they lead to
/// a file: `/dev/stdout` is what the shell has opened.
fn stays(path: &Path) -> bool {
    path.metadata().is_ok_and(|there| {
        let of_the_system = ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder)) && path.is_symlink();
        !there.is_dir() && (!there.is_file() || of_the_system)
    })
}

/// What was half written is removed when this fails: it is of no use, and on a full disk in the way. The temporary name is
/// random and created exclusively: two containers on one shared folder may both be process 1.
fn unfinished(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
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
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["file"]);
    }

    #[test]
    fn of_many_who_create_a_file_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("file");
        let created: Vec<bool> = std::thread::scope(|scope| {
            let each = |name: u8| scope.spawn(move || create_whole(path, &[name; 1000]).unwrap());
            let threads: Vec<_> = (0..8).map(each).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(created.iter().filter(|&&created| created).count(), 1);
        let winner = created.iter().position(|&created| created).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), [winner as u8; 1000]);
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_stays_a_pipe_and_a_link_a_link() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let [pipe, file, link] = ["pipe", "file", "link"].map(|name| folder.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(|| std::fs::read(&pipe).unwrap());
            write_whole(&pipe, b"bytes").unwrap();
            reader.join().unwrap()
        });
        assert_eq!(read, b"bytes");
        assert!(pipe.metadata().unwrap().file_type().is_fifo());

        write_whole(&file, b"old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(stays(Path::new("/dev/null")) && !stays(folder.path()) && !stays(&file));
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_umask_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_whole(&ours, b"").unwrap();
        std::fs::write(&plain, b"").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
