//! Limits that are crossed and left again by several threads at once.

use super::heaps::begin_within;
use crate::family::{FamilyCore, forget_all, softly};
use crate::sync::Sleep;
use crate::world::{HALF, explore, spawn};

fn take(heap: &'static FamilyCore) -> usize {
    softly(|| heap.take_one(HALF)).expect("there is memory").0
}

fn give(heap: &'static FamilyCore, slot: usize) {
    // SAFETY: taken above, and given back once.
    unsafe { heap.give_one(HALF, slot) };
}

/// One thread comes below a limit while another crosses it: what is said in the end is true.
pub fn who_settles_last_is_right() {
    explore(Sleep::Lightly, || {
        forget_all();
        let heap = begin_within("one", HALF.slot_bytes());
        let slots = [take(heap), take(heap)];
        assert!(heap.is_over_limit());
        let other = spawn(move || give(heap, slots[0]));
        let third = take(heap);
        other.join();
        assert!(heap.is_over_limit(), "two slots are live where one may be");
        give(heap, slots[1]);
        give(heap, third);
        assert!(!heap.is_over_limit());
        heap.let_go();
    });
}
