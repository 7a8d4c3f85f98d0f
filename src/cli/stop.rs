//! SIGTERM, as schedulers send it, and SIGINT (Ctrl-C) ask long work to end at the next place where nothing is lost.

use std::sync::Once;
use std::sync::atomic::AtomicBool;

static STOP: AtomicBool = AtomicBool::new(false);

/// Set once the process is asked to end. The first signal of each kind sets it; the next ends the process at once, as always.
///
/// From the first call on, signals no longer end the process by themselves: who calls it looks at the flag.
pub fn flag() -> &'static AtomicBool {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(listen);
    &STOP
}

#[cfg(unix)]
fn listen() {
    extern "C" fn ask(_: libc::c_int) {
        STOP.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: a zeroed sigaction is a valid one, without flags and mask; the handler does nothing but store into an atomic,
        // which is allowed in a signal handler, and lives as long as the program.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ask as *const () as libc::sighandler_t;
            // Reads that it interrupts go on.
            action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Here a signal ends the process, as always.
#[cfg(not(unix))]
fn listen() {}
