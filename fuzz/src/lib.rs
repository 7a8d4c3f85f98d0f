//! What all targets share: the bound on memory, and files for what reads files.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// No input of up to a megabyte may take more than a gigabyte.
const MOST_MEMORY: usize = 1 << 30;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's, counted: libFuzzer's own limit of a single allocation wants a sanitizer, and that of the process is looked at
/// once a second only.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match size.checked_sub(layout.size()) {
            Some(added) => more(added),
            None => {
                LIVE.fetch_sub(layout.size() - size, Relaxed);
            }
        }
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn more(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes);
    if live > PEAK.fetch_max(live, Relaxed) && live > MOST_MEMORY {
        let _ = writeln!(
            std::io::stderr(),
            "an allocation of {bytes} bytes makes it {live} in all, more than {MOST_MEMORY}"
        );
        std::process::abort();
    }
}

/// Before the first input: at the end the most memory that an input took is told.
pub fn begin() {
    extern "C" fn end() {
        eprintln!("peak memory: {} bytes", PEAK.load(Relaxed));
        let _ = std::fs::remove_dir_all(&*FOLDER);
    }
    // SAFETY: the function touches nothing that is gone by then.
    unsafe { libc::atexit(end) };
}

/// The same for what catches panics of others itself, which libFuzzer's hook would not let it.
pub fn begin_with_panics_caught() {
    begin();
    drop(std::panic::take_hook());
}

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("netkin-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("there is room for temporary files");
    folder
});

/// A folder of this process, which its end removes.
pub fn folder() -> PathBuf {
    FOLDER.clone()
}

/// The path of a file of these bytes; the next one of that name takes its place.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("there is room for temporary files");
    }
    std::fs::write(&path, bytes).expect("there is room for temporary files");
    path
}

/// A ZIP archive as `torch.save` writes it: uncompressed, and without checksums, which a change of a byte would make wrong.
pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let start = (bytes.len() as u32).to_le_bytes();
        let (length, name_length) = ((content.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        // Version, flags, method, time, date, checksum, both sizes, lengths of the name and of what follows it.
        let common =
            [&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0], &length[..], &length, &name_length, &[0; 2]].concat();
        bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10], &start, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (start, length) = ((bytes.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &length, &start, &[0; 2]].concat();
    [bytes, directory, end].concat()
}

/// Text of any bytes.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A target: what is done with each input.
#[macro_export]
macro_rules! target {
    ($begin:expr, |$bytes:ident| $body:block) => {
        libfuzzer_sys::fuzz_target!(init: $begin, |$bytes: &[u8]| { $body });
    };
    (|$bytes:ident| $body:block) => {
        $crate::target!($crate::begin(), |$bytes| $body);
    };
}
