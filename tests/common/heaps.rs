//! Heaps by their names: whether they live, and come to their end.

use std::time::{Duration, Instant};

use family_alloc::{FamilyRef, families};

/// The family of that name, or heap, if it lives.
pub(crate) fn listed(name: &str) -> Option<FamilyRef> {
    families().find(|family| family.name() == name)
}

/// Whether something comes true soon: other tests look at all families now and then, and hold each for that moment.
pub(crate) fn soon(is_so: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if is_so() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Whether a heap of that name comes to its end.
pub(crate) fn ends(name: &str) -> bool {
    soon(|| listed(name).is_none())
}
