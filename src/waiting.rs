//! Whether any family has memory that may have to go back to the system: a hint, which costs one load.
//!
//! Threads that are served by their caches alone look at it now and then, and look closer while it is
//! set (`family::house`).

#![forbid(unsafe_code)]

use crate::sync::{AtomicU32, Relaxed};

static ANYTHING: AtomicU32 = AtomicU32::new(0);

/// Whether anything may wait to be given back.
#[inline(always)]
pub(crate) fn is_anything() -> bool {
    // Relaxed, here and below: it only says that somebody should look; what is looked at is under its locks.
    ANYTHING.load(Relaxed) != 0
}

/// Says that something was freed that may have to go back some time.
pub(crate) fn add() {
    if ANYTHING.load(Relaxed) == 0 {
        ANYTHING.store(1, Relaxed);
    }
}

/// Says what a look at all families has found.
pub(crate) fn set(is_anything: bool) {
    ANYTHING.store(u32::from(is_anything), Relaxed);
}
