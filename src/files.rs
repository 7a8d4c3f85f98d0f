//! Files that people name: read whole, but only if they are files and of a size that makes sense.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest file of tensors that is read, in bytes.
pub(crate) const MAX_TENSORS: u64 = 1 << 36;

/// The largest table that is read whole, in bytes: a matrix of several thousand networks.
pub(crate) const MAX_TABLE: u64 = 1 << 30;

/// The bytes of a regular file of at most `largest` bytes.
///
/// # Errors
/// As the file system says; for a device, a pipe or a folder, which might give bytes for ever; for a file that is larger.
pub(crate) fn read_regular(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    // Asked by name first: to open a pipe is to wait for whoever writes into it.
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let too_large = || {
        let reason = format!("it is larger than {largest} bytes, which no such file should be");
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    };
    if metadata.len() > largest {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    File::open(path)?.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest { Err(too_large()) } else { Ok(bytes) }
}

/// The text of a regular file of at most `largest` bytes.
///
/// # Errors
/// As [`read_regular`]; for what is no UTF-8.
pub(crate) fn read_text(path: &Path, largest: u64) -> io::Result<String> {
    String::from_utf8(read_regular(path, largest)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_if_it_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_regular(&path, 5).unwrap(), b"12345");
        assert!(read_regular(&path, 4).unwrap_err().to_string().contains("larger than 4 bytes"));
        assert!(read_regular(folder.path(), 4).unwrap_err().to_string().contains("not a regular file"));
        assert_eq!(read_regular(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_never_ends_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero")] {
            assert!(read_regular(path, 1 << 40).unwrap_err().to_string().contains("not a regular file"));
        }
    }
}
