//! Ctrl-C: the first asks the work to stop cleanly, the second ends the program at once (exit status 130 both times).

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Exit status after a Ctrl-C, as shells have it: 128 + SIGINT.
pub const EXIT: u8 = 130;

/// The flag that a Ctrl-C sets.
pub fn flag() -> Arc<AtomicBool> {
    Arc::clone(STOP.get_or_init(Arc::default))
}

/// Starts listening.
pub fn listen() {
    let stop = flag();
    // Without a handler Ctrl-C ends the program, which is no worse than what follows.
    let _ = ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(EXIT));
        }
    });
}

/// Whether a Ctrl-C has come since [`clear`].
pub fn stopped() -> bool {
    STOP.get().is_some_and(|s| s.load(Ordering::SeqCst))
}

/// Forgets it: the work it was for has ended.
pub fn clear() {
    if let Some(stop) = STOP.get() {
        stop.store(false, Ordering::SeqCst);
    }
}
