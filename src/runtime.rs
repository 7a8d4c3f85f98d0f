//! What a program does once at the start of `main` so that networks run fast on the CPU.

/// Why the threads could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The system refuses, or they are prepared already.
    #[error(
        "cannot start {threads} threads: {source}; prepare once, before anything is computed, and ask for fewer threads"
    )]
    Refused {
        /// How many.
        threads: usize,
        /// What was said.
        source: rayon::ThreadPoolBuildError,
    },
    /// So many that they would only wait for each other.
    #[error(
        "{threads} threads are more than {most} (8 for each of the {processors} processors here, and no fewer than 64), and would wait for each other most of the time; ask for fewer, best one for each processor"
    )]
    TooMany {
        /// How many were asked for.
        threads: usize,
        /// How many may be.
        most: usize,
        /// How many processors there are.
        processors: usize,
    },
}

/// Makes the calling thread one of `threads` that compute (`None`: one per core), and lets the C library's allocator
/// keep freed memory instead of giving it back to the system after every operation.
///
/// Call it first in `main`. Without it the calling thread waits while the others compute, which leaves one core idle
/// (up to 2×), and every large tensor is mapped and unmapped, page by page (elementwise operations: up to 10×).
/// On Linux it also asks for pages of 2 MiB (4 to 9 % of a step of a ViT).
///
/// # Errors
/// If rayon's global pool exists already, the system gives no more threads, or there are too many to be of use.
pub fn prepare(threads: Option<usize>) -> Result<(), RuntimeError> {
    keep_freed_memory();
    ask_for_huge_pages();
    let threads = threads.unwrap_or(0); // rayon: one per core
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // A container may say that there are fewer processors than there are.
    let most = (8 * processors).max(64);
    if threads > most {
        return Err(RuntimeError::TooMany { threads, most, processors });
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .build_global()
        .map_err(|source| RuntimeError::Refused { threads, source })
}

/// glibc gives blocks above a threshold a mapping of their own and unmaps them when freed, and trims the top of its
/// heap. Each new mapping costs a page fault per 4 KiB, which is slower than most of what a network does to the page.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const NO_MAPPINGS: libc::c_int = 0;
    const NEVER_TRIM: libc::c_int = -1;
    const GROW_BY: libc::c_int = 64 << 20;
    // SAFETY: mallopt changes settings of the allocator under its own lock; it takes and leaves no pointers.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, NO_MAPPINGS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER_TRIM);
        libc::mallopt(libc::M_TOP_PAD, GROW_BY);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

/// Asks the system for pages of 2 MiB where it gives them on request, as most do: a product walks through many matrices at
/// once, and finds them with a 512th of the page faults and of the addresses to look up, which in a virtual machine cost
/// twice as much.
///
/// The C library can ask only by an environment variable that is set before the program starts. So its heap is made to grow
/// once by what half of the machine's memory would take, the request is left on those addresses, and the block is freed. It
/// is never touched: addresses cost nothing, and become memory only when the heap comes to use them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn ask_for_huge_pages() {
    const HUGE: usize = 2 << 20;
    // SAFETY: sysconf only answers; the block is ours until it is freed, and advice on whole pages within it changes neither
    // their content nor who owns them.
    unsafe {
        let [pages, page] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| libc::sysconf(name));
        let (Ok(pages), Ok(page)) = (usize::try_from(pages), usize::try_from(page)) else { return };
        let size = pages / 2 * page;
        let block = libc::malloc(size);
        // Where addresses are limited, too, it goes without.
        if block.is_null() {
            return;
        }
        let skipped = block.align_offset(HUGE);
        if let Some(length) = size.checked_sub(skipped) {
            libc::madvise(block.byte_add(skipped), length / HUGE * HUGE, libc::MADV_HUGEPAGE);
        }
        libc::free(block);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn ask_for_huge_pages() {}

/// Gives back to the system what the allocator keeps of freed memory, so that what a process holds says what it uses.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn release_freed_memory() {
    // SAFETY: malloc_trim works under the allocator's own locks on memory that nobody uses; it takes and leaves no pointers.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back to the system what the allocator keeps of freed memory; here there is no way to.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_freed_memory() {}
