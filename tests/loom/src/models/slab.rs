//! A slab becomes empty and its unit another's, while threads take from the same family and look its address up.

use super::exit::free_as;
use crate::Family;
use crate::size_class::SizeClass;
use crate::sync::Sleep;
use crate::world::{HALF, One, QUARTER, Two, disown, explore, line_of, own, spawn};

fn take(class: SizeClass) -> usize {
    let (slot, _) = One::__core().take_one(class).expect("there is memory");
    own(slot);
    slot
}

fn give(class: SizeClass, slot: usize) {
    assert!(One::__core().owns(slot, class), "a live slot's slab has its tag");
    disown(slot);
    // SAFETY: taken from this class and given up.
    unsafe { One::__core().give_one(class, slot) };
}

/// The last slot of a slab comes back, and its unit serves another class at once.
pub fn a_unit_changes_its_class() {
    explore(Sleep::Lightly, || {
        let last = take(HALF);
        let other = spawn(|| {
            let slot = take(QUARTER);
            give(QUARTER, slot);
        });
        give(HALF, last);
        let next = take(HALF);
        give(HALF, next);
        other.join();
        let stats = One::stats();
        assert_eq!((stats.live_allocations, stats.slab_bytes), (0, stats.classes[QUARTER.index()].slab_count << 16));
    });
}

/// A wrong free is found whatever happens to the slab meanwhile: another family's, and one with a wrong class.
pub fn wrong_frees_are_found_meanwhile() {
    explore(Sleep::Lightly, || {
        let slot = take(HALF);
        let foreign = spawn(move || line_of(move || free_as::<Two>(slot, HALF)).expect("no slot of this family"));
        give(HALF, slot);
        let next = take(QUARTER);
        let line = foreign.join();
        assert!(line.contains("invalid free") && line.contains("family Two"), "{line}");
        give(QUARTER, next);
    });
}
