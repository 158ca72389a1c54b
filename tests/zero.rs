//! What is promised to read zero does, whatever the memory held before and whether or not the system took it back.

mod common;

#[cfg(unix)]
use std::alloc::Layout;
#[cfg(unix)]
use std::ptr::NonNull;

use common::doors::{Doors, layout};
#[cfg(unix)]
use common::memory::page_bytes;
use common::pattern;
#[cfg(unix)]
use family_alloc::Family;
use family_alloc::family;

const MIB: usize = 1 << 20;

#[test]
fn growing_with_zeroes_to_where_another_allocation_was_clears_that() {
    family! { struct Grown; }
    growing_clears(Doors::of::<Grown>());
    family! { struct GrownSpaced { classes: Spaced } }
    growing_clears(Doors::of::<GrownSpaced>());
}

fn growing_clears(doors: Doors) {
    // The second alignment cannot be had by moving pages, so the contents are copied to a mapping that was used before.
    for (old, new) in [(layout(3 * MIB, 1), layout(6 * MIB, 8 * MIB)), (layout(3 * MIB, 1), layout(6 * MIB, 1))] {
        let memory = (doors.allocate)(old).expect("memory");
        pattern::fill(memory, 1);
        let used_before: Vec<_> = (0..4).map(|_| (doors.allocate)(new).expect("memory")).collect();
        for memory in used_before {
            pattern::fill(memory, 2);
            // SAFETY: allocated above with this layout.
            unsafe { (doors.deallocate)(memory.cast(), new) };
        }
        // SAFETY: allocated above with `old`, and `new` is larger.
        let grown = unsafe { (doors.grow_zeroed)(memory.cast(), old, new) }.expect("memory");
        assert!(pattern::holds(grown.cast(), old.size(), 1), "{old:?} to {new:?}: the contents came along");
        assert!(pattern::is_zero_from(grown, old.size()), "{old:?} to {new:?}: the rest is zero");
        // SAFETY: grown to this layout.
        unsafe { (doors.deallocate)(grown.cast(), new) };
    }
}

#[cfg(unix)]
family! { struct Locked { slab_bytes: 64 * 1024 } }

/// Fills slabs, keeps the system from taking their pages by `mlock`, frees all and asks for zero in the same place.
#[test]
#[cfg(unix)]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn pages_that_the_system_did_not_take_back_are_not_taken_for_zero() {
    let doors = Doors::of::<Locked>();
    for bytes in [1, 2, 64, 4096, 32 << 10] {
        let slot = layout(bytes, 1);
        let slots = 3 * Locked::SLAB_BYTES / bytes;
        // Elsewhere, so that the cache goes back as well.
        let locks = std::thread::spawn(move || fill_lock_and_free(doors, slot, slots)).join().expect("no panic");
        (doors.trim)();
        let locked = locks.iter().filter(|&&(_, _, done)| done).count();
        let kept = (doors.stats)().kept_bytes;
        assert_eq!(kept, locked * Locked::SLAB_BYTES, "slots of {bytes} bytes: a locked slab is kept, no other");
        let again: Vec<_> = (0..slots).map(|_| (doors.allocate_zeroed)(slot).expect("memory")).collect();
        assert!(again.iter().all(|&memory| pattern::is_zero_from(memory, 0)), "slots of {bytes} bytes are not zero");
        for (start, bytes, done) in locks {
            // SAFETY: the contents stay.
            assert!(!done || unsafe { libc::munlock(std::ptr::with_exposed_provenance(start), bytes) } == 0);
        }
        free_all(doors, slot, again);
        (doors.trim)();
        println!("slots of {bytes} bytes: {locked} slabs locked");
    }
    assert_eq!(Locked::stats().live_allocations, 0);
}

/// Fills slabs and locks the first of them and one page of the next: what comes before it is given back, then the call fails.
#[cfg(unix)]
fn fill_lock_and_free(doors: Doors, slot: Layout, slots: usize) -> [(usize, usize, bool); 2] {
    let slots: Vec<_> = (0..slots).map(|_| (doors.allocate)(slot).expect("memory")).collect();
    slots.iter().for_each(|&memory| pattern::fill(memory, 3));
    let first = slots[0].cast::<u8>().as_ptr().expose_provenance();
    let locks = [(first, Locked::SLAB_BYTES), (first + Locked::SLAB_BYTES + 4 * page_bytes(), page_bytes())].map(
        // SAFETY: the contents stay.
        |(start, bytes)| (start, bytes, unsafe { libc::mlock(std::ptr::with_exposed_provenance(start), bytes) } == 0),
    );
    free_all(doors, slot, slots);
    locks
}

#[cfg(unix)]
fn free_all(doors: Doors, slot: Layout, slots: Vec<NonNull<[u8]>>) {
    for memory in slots {
        // SAFETY: each was allocated with this layout and is freed once.
        unsafe { (doors.deallocate)(memory.cast(), slot) };
    }
}

/// Slots that lie across the ends of pages: what was on the pages that went back reads zero, and so does what was beside.
#[test]
fn slots_of_pages_that_went_back_read_zero_to_their_ends() {
    family! { struct Spaced { classes: Spaced } }
    let doors = Doors::of::<Spaced>();
    for bytes in [24, 48, 112, 1280, 3584, 5120, 6656, 14_336] {
        let slot = layout(bytes, 1);
        let slots: Vec<_> = (0..4 * MIB / bytes).map(|_| (doors.allocate)(slot).expect("memory")).collect();
        slots.iter().for_each(|&memory| pattern::fill(memory, 3));
        // Runs of free slots of all lengths, with one that stays between them.
        let mut run = 0;
        let (stay, go): (Vec<_>, Vec<_>) = slots.iter().enumerate().partition(|&(index, _)| {
            let stays = index == run * (run + 1) / 2 % (slots.len() + 1);
            run += usize::from(stays);
            stays
        });
        for &(_, &memory) in &go {
            // SAFETY: allocated above with this layout.
            unsafe { (doors.deallocate)(memory.cast(), slot) };
        }
        (doors.trim)();
        for _ in 0..go.len() {
            let memory = (doors.allocate_zeroed)(slot).expect("memory");
            assert!(pattern::is_zero_from(memory, 0), "{bytes} bytes: {memory:p}");
            pattern::fill(memory, 5);
        }
        assert!(stay.iter().all(|&(_, &memory)| pattern::holds(memory.cast(), bytes, 3)), "{bytes} bytes");
    }
}
