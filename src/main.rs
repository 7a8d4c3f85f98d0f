//! `netkin`: parse, dispatch, exit code; and how it ends where memory does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

fn main() -> std::process::ExitCode {
    end_well_without_memory();
    netkin::cli::main()
}

/// The system's allocator, and whether it ever had nothing to give.
struct Watched;

static REFUSED: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static ALLOCATOR: Watched = Watched;

impl Watched {
    fn given(&self, memory: *mut u8) -> *mut u8 {
        if memory.is_null() {
            REFUSED.store(true, Ordering::Relaxed);
        }
        memory
    }
}

// SAFETY: each method is the system's.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.given(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.given(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.given(unsafe { System.realloc(memory, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Rust ends a program that gets no memory by abort(), after one line that says how much was asked for. Schedulers would take that for
/// a crash; so what to do follows that line, and the exit code is that of what may succeed at another time.
#[cfg(unix)]
fn end_well_without_memory() {
    const ADVICE: &str = "this process may have no more memory: take a smaller --batch, fewer --threads or a smaller network, \
                          or allow it more; what was written before is kept\n";
    extern "C" fn aborted(_: libc::c_int) {
        if REFUSED.load(Ordering::Relaxed) {
            // SAFETY: both are allowed in a signal handler, and the text lives as long as the program.
            unsafe {
                libc::write(2, ADVICE.as_ptr().cast(), ADVICE.len());
                libc::_exit(75);
            }
        }
    }
    // SAFETY: a zeroed sigaction is a valid one, without flags and mask. When the handler returns, abort() goes on as always.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = aborted as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGABRT, &action, std::ptr::null_mut());
    }
}

/// Here it ends by abort() alone.
#[cfg(not(unix))]
fn end_well_without_memory() {}
