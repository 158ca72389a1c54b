//! The order of each access as the crate says, but for one line, whose orders are all weakened if the environment names it:
//! `WEAKENED=src/family/life.rs:95`. `check` does that with every line of `orders.txt`.

use core::panic::Location;
use core::sync::atomic::Ordering;
use std::sync::OnceLock;

/// The line whose orders are weakened.
fn weakened() -> Option<&'static (String, u32)> {
    static WEAKENED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    let read = || {
        let place = std::env::var("WEAKENED").ok()?;
        let (file, line) = place.rsplit_once(':').expect("a file and a line");
        Some((file.to_owned(), line.parse().expect("a line's number")))
    };
    WEAKENED.get_or_init(read).as_ref()
}

#[track_caller]
fn is_weakened() -> bool {
    let here = Location::caller();
    weakened().is_some_and(|(file, line)| here.line() == *line && here.file().ends_with(file.as_str()))
}

/// The order of an access that the caller makes.
#[track_caller]
pub(super) fn order(said: Ordering) -> Ordering {
    if is_weakened() { Ordering::Relaxed } else { said }
}

/// A fence; none where it is weakened.
#[track_caller]
pub(crate) fn fence(said: Ordering) {
    if !is_weakened() {
        loom::sync::atomic::fence(said);
    }
}
