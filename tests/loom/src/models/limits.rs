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

/// A thread allocates while the limit that it would cross is set: it is refused, or whoever set the
/// limit knows.
fn set_meanwhile(first_limit: Option<usize>) {
    explore(Sleep::Lightly, move || {
        forget_all();
        let heap = begin_within("one", first_limit.unwrap_or(usize::MAX));
        // The bin's slab is open.
        let slot = take(heap);
        give(heap, slot);
        let other = spawn(move || heap.take_one(HALF).map(|(slot, _)| slot));
        heap.set_limit(0);
        let was_over = heap.is_over_limit();
        let slot = other.join();
        assert_eq!(heap.is_over_limit(), slot.is_some(), "what is said in the end is true");
        assert!(was_over || slot.is_none(), "nothing is allocated above a limit that was set");
        if let Some(slot) = slot {
            give(heap, slot);
        }
        assert!(!heap.is_over_limit());
        heap.let_go();
    });
}

pub fn a_limit_is_set_while_there_is_none() {
    set_meanwhile(None);
}

pub fn a_lower_limit_is_set() {
    set_meanwhile(Some(HALF.slot_bytes()));
}
