//! When memory comes from the system and when it goes back: fresh, dirty, kept, purged.

#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use common::child;
use common::doors::{Doors, layout};
use common::memory::{minor_faults, page_bytes, resident_bytes};
use common::pattern;
use family_alloc::{Family, family};

const MIB: usize = 1 << 20;

fn allocate(doors: Doors, size: usize) -> NonNull<[u8]> {
    (doors.allocate)(layout(size, 1)).expect("memory")
}

fn free(doors: Doors, memory: NonNull<[u8]>) {
    // SAFETY: the tests hold what they free, and its length fits.
    unsafe { (doors.deallocate)(memory.cast(), layout(memory.len(), 1)) };
}

/// Allocates `bytes` in slots of `size`, all written to.
fn allocate_dirty(doors: Doors, size: usize, bytes: usize) -> Vec<NonNull<[u8]>> {
    let slots: Vec<_> = (0..bytes / size).map(|_| allocate(doors, size)).collect();
    slots.iter().for_each(|&slot| pattern::fill(slot, 1));
    slots
}

fn free_all(doors: Doors, slots: Vec<NonNull<[u8]>>) {
    slots.into_iter().for_each(|slot| free(doors, slot));
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn trim_gives_emptied_slabs_back() {
    child::isolated("trim_gives_emptied_slabs_back", || {
        family! { struct Emptied; struct EmptiedSmall { slab_bytes: 64 * 1024 } }
        for doors in [Doors::of::<Emptied>(), Doors::of::<EmptiedSmall>()] {
            for size in [16, 256, 4096, 32 << 10] {
                let slots = allocate_dirty(doors, size, 40 * MIB);
                let full = resident_bytes();
                free_all(doors, slots);
                // Where that takes longer than a second, some has gone back by now.
                let (held, given_back, left) = (resident_bytes(), (doors.trim)(), resident_bytes());
                let less = full.saturating_sub(left);
                assert!(less >= 36 * MIB, "{}, {size}: {less} bytes of 40 MiB went back", doors.name);
                let went = held.saturating_sub(left);
                assert!(given_back + 4 * MIB >= went, "{}, {size}: trim says {given_back} bytes of {went}", doors.name);
                assert_eq!((doors.stats)().kept_bytes, 0);
                assert_eq!((doors.trim)(), 0, "a second trim finds nothing");
            }
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn trim_gives_kept_large_allocations_back() {
    child::isolated("trim_gives_kept_large_allocations_back", || {
        family! { struct Kept; }
        let doors = Doors::of::<Kept>();
        let slots = allocate_dirty(doors, 5 * MIB, 40 * MIB);
        let full = resident_bytes();
        free_all(doors, slots);
        assert_eq!((doors.stats)().kept_bytes, 40 * MIB, "freed mappings are kept for a while");
        assert_eq!((doors.trim)(), 40 * MIB);
        let less = full.saturating_sub(resident_bytes());
        assert!(less >= 39 * MIB, "{less} bytes of 40 MiB went back");
        assert_eq!((doors.stats)().kept_bytes, 0);
    });
}

/// Where there are guards, what a hardened family keeps holds no memory; elsewhere it keeps nothing that is large.
#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn what_is_guarded_is_not_counted_as_kept() {
    child::isolated("what_is_guarded_is_not_counted_as_kept", || {
        family! { struct Fenced { checks: Hardened } }
        let doors = Doors::of::<Fenced>();
        for size in [5 * MIB, MIB, 256 << 10, 64 << 10] {
            let empty = resident_bytes();
            let slots = allocate_dirty(doors, size, 40 * MIB);
            let full = resident_bytes();
            assert!(full - empty >= 39 * MIB);
            free_all(doors, slots);
            let given_back = (doors.trim)();
            let held = resident_bytes().saturating_sub(empty);
            assert!(held <= MIB, "{size}: {held} bytes of 40 MiB are still there");
            let kept = (doors.stats)().kept_bytes;
            assert_eq!((kept, given_back), (0, 0), "{size}: all had gone back when it was freed");
        }
        // Smaller slots are cleared, and their memory is kept.
        let slots = allocate_dirty(doors, 4096, 40 * MIB);
        free_all(doors, slots);
        let full = resident_bytes();
        let given_back = (doors.trim)();
        let less = full.saturating_sub(resident_bytes());
        assert!(given_back >= 36 * MIB && less >= 36 * MIB, "{given_back}, {less}");
    });
}

#[test]
fn what_is_kept_has_a_bound() {
    family! { struct Bounded; }
    let doors = Doors::of::<Bounded>();
    // Untouched, so all of this is address space.
    let slots: Vec<_> = (0..40).map(|_| allocate(doors, 20 * MIB)).collect();
    free_all(doors, slots);
    let kept = (doors.stats)().kept_bytes;
    assert!((1..=256 * MIB).contains(&kept), "{kept} bytes are kept of 800 MiB");
    let huge = allocate(doors, 300 * MIB);
    free(doors, huge);
    assert!((doors.stats)().kept_bytes <= kept, "what is larger than the bound is not kept");
    (doors.trim)();
    assert_eq!((doors.stats)().kept_bytes, 0);
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn what_has_been_free_for_long_goes_back_by_itself() {
    child::isolated("what_has_been_free_for_long_goes_back_by_itself", || {
        family! { struct Aging; }
        let doors = Doors::of::<Aging>();
        let slots = allocate_dirty(doors, 4096, 12 * MIB);
        let large = allocate_dirty(doors, 4 * MIB, 12 * MIB);
        free_all(doors, slots);
        free_all(doors, large);
        let full = resident_bytes();
        std::thread::sleep(Duration::from_millis(1100));
        // Nothing runs in the background: it takes a thread that exchanges slots with its bin.
        let slots = allocate_dirty(doors, 64, MIB);
        free_all(doors, slots);
        let less = full.saturating_sub(resident_bytes());
        assert!(less >= 18 * MIB, "{less} bytes of 24 MiB went back after a second");
    });
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_program_that_oscillates_keeps_its_slabs() {
    child::isolated("a_program_that_oscillates_keeps_its_slabs", || {
        family! { struct Oscillating { slab_bytes: 2 << 20 } }
        let doors = Doors::of::<Oscillating>();
        for size in [64, 4096, 64 << 10, MIB, 3 * MIB] {
            // Kept for all rounds, because `System` may take new pages for it each time.
            let mut slots = Vec::with_capacity(12 * MIB / size);
            let mut round = || {
                slots.extend((0..12 * MIB / size).map(|_| allocate(doors, size)));
                slots.iter().for_each(|&slot| pattern::fill(slot, 1));
                slots.drain(..).for_each(|slot| free(doors, slot));
            };
            round();
            round();
            let before = minor_faults();
            (0..10).for_each(|_| round());
            let faults = minor_faults() - before;
            // A new page for every page would be 30,720 faults.
            assert!(faults < 1000, "{size}: {faults} page faults in ten rounds of 12 MiB");
        }
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend clears what it commits")]
fn zeroed_memory_that_is_fresh_is_not_touched() {
    child::isolated("zeroed_memory_that_is_fresh_is_not_touched", || {
        family! { struct Fresh; struct FreshSmall { slab_bytes: 64 * 1024 } }
        for doors in [Doors::of::<Fresh>(), Doors::of::<FreshSmall>()] {
            for size in [4096, 32 << 10, 64 << 10, 3 * MIB] {
                let before = resident_bytes();
                let slots: Vec<_> =
                    (0..64 * MIB / size).map(|_| (doors.allocate_zeroed)(layout(size, 1)).expect("memory")).collect();
                let growth = resident_bytes().saturating_sub(before);
                assert!(growth < 2 * MIB, "{}, {size}: {growth} bytes of 64 MiB were touched", doors.name);
                assert!(slots.iter().all(|&slot| pattern::is_zero_from(slot, 0)));
                free_all(doors, slots);
                // What was only read is still as the system made it, but nobody knows: it must not stay for the next round.
                (doors.trim)();
            }
        }
    });
}

#[test]
fn zeroed_memory_that_was_used_is_cleared() {
    family! { struct Used; struct UsedSmall { slab_bytes: 64 * 1024 } }
    for doors in [Doors::of::<Used>(), Doors::of::<UsedSmall>()] {
        for size in [1, 2, 3, 16, 100, 1000, 4096, 5000, 64 << 10, MIB, 3 * MIB] {
            for round in 0..4 {
                let count = (2 * MIB / size).clamp(2, 5000);
                let slots: Vec<_> =
                    (0..count).map(|_| (doors.allocate_zeroed)(layout(size, 1)).expect("memory")).collect();
                let clear = slots.iter().all(|&slot| pattern::is_zero_from(slot, 0));
                assert!(clear, "{}, {size}, round {round}: not zero", doors.name);
                slots.iter().for_each(|&slot| pattern::fill(slot, 1));
                let (now, later): (Vec<_>, Vec<_>) =
                    slots.into_iter().enumerate().partition(|(index, _)| index % 3 == 0);
                now.into_iter().for_each(|(_, slot)| free(doors, slot));
                let again: Vec<_> =
                    (0..count / 4).map(|_| (doors.allocate_zeroed)(layout(size, 1)).expect("memory")).collect();
                let clear = again.iter().all(|&slot| pattern::is_zero_from(slot, 0));
                assert!(clear, "{}, {size}, round {round}: not zero in used slabs", doors.name);
                again.iter().for_each(|&slot| pattern::fill(slot, 2));
                free_all(doors, again);
                later.into_iter().for_each(|(_, slot)| free(doors, slot));
                if round % 2 == 1 {
                    (doors.trim)();
                }
            }
        }
        assert_eq!((doors.stats)().live_allocations, 0);
    }
}

#[test]
fn growing_zeroed_into_kept_memory_clears_it() {
    family! { struct Grown; }
    let doors = Doors::of::<Grown>();
    // An alignment that the smaller one doesn't have makes it move, and into the mapping that was kept.
    let (old, new) = (layout(3 * MIB, 1), layout(8 * MIB, 8 * MIB));
    let dirty = (doors.allocate)(new).expect("memory");
    pattern::fill(dirty, 1);
    let candidates: Vec<_> = (0..4).map(|_| (doors.allocate)(old).expect("memory")).collect();
    // SAFETY: allocated above with this layout.
    unsafe { (doors.deallocate)(dirty.cast(), new) };
    for memory in candidates {
        pattern::fill(memory, 2);
        // SAFETY: allocated above with `old`.
        let grown = unsafe { (doors.grow_zeroed)(memory.cast(), old, new) }.expect("memory");
        assert!(pattern::holds(grown.cast(), old.size(), 2), "the contents came along");
        assert!(pattern::is_zero_from(grown, old.size()), "the rest is zero");
        pattern::fill(grown, 3);
        // SAFETY: what the call above returned.
        unsafe { (doors.deallocate)(grown.cast(), new) };
    }
    assert_eq!((doors.stats)().live_allocations, 0);
}

#[test]
fn growing_zeroed_clears_from_the_old_size_to_the_end() {
    family! { struct Cleared; struct ClearedSmall { slab_bytes: 64 * 1024 } }
    let sizes = [1, 3, 64, 65, 1000, 4096, 9000, 70_000, MIB, MIB + 1, 2 * MIB + 5, 3 * MIB, 10 * MIB];
    for doors in [Doors::of::<Cleared>(), Doors::of::<ClearedSmall>()] {
        for (old, new) in sizes.into_iter().flat_map(|old| sizes.map(|new| (old, new))).filter(|(old, new)| old <= new)
        {
            let memory = allocate(doors, old);
            // All of the slot is dirty; only the first `old` bytes are promised to stay.
            pattern::fill(memory, 1);
            // SAFETY: allocated just now with this layout.
            let grown = unsafe { (doors.grow_zeroed)(memory.cast(), layout(old, 1), layout(new, 1)) }.expect("memory");
            assert!(pattern::holds(grown.cast(), old, 1), "{}: {old} to {new}: contents", doors.name);
            assert!(pattern::is_zero_from(grown, old), "{}: {old} to {new}: zero", doors.name);
            pattern::fill(grown, 2);
            free(doors, grown);
        }
    }
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend moves no pages")]
fn large_allocations_grow_without_copying_and_shrink_without_keeping() {
    child::isolated("large_allocations_grow_without_copying_and_shrink_without_keeping", || {
        family! { struct Resized; }
        let doors = Doors::of::<Resized>();
        let sizes = [8 * MIB, 16 * MIB, 24 * MIB, 31 * MIB];
        let mut memory = allocate(doors, sizes[0]);
        pattern::fill(memory, 1);
        let before = (minor_faults(), resident_bytes());
        for pair in sizes.windows(2) {
            // Something behind it, so that it has to move.
            let in_the_way = [(); 3].map(|()| allocate(doors, 8 * MIB));
            // SAFETY: allocated with the first size of the pair.
            memory = unsafe { (doors.grow)(memory.cast(), layout(pair[0], 1), layout(pair[1], 1)) }.expect("memory");
            in_the_way.into_iter().for_each(|memory| free(doors, memory));
        }
        let faults = minor_faults() - before.0;
        assert!(faults < 200, "{faults} page faults while 8 MiB grew to 31 MiB: it was copied");
        // What it has moved out of is free.
        (doors.trim)();
        assert!(resident_bytes() < before.1 + MIB, "growing touched memory");
        assert!(pattern::holds(memory.cast(), sizes[0], 1), "the contents came along");
        pattern::fill(memory, 2);
        let full = resident_bytes();
        // SAFETY: allocated with the last of the sizes.
        let shrunk = unsafe { (doors.shrink)(memory.cast(), layout(31 * MIB, 1), layout(2 * MIB, 1)) }.expect("memory");
        assert_eq!(shrunk.len(), 2 * MIB);
        let less = full.saturating_sub(resident_bytes());
        assert!(less >= 28 * MIB, "{less} bytes of 29 MiB went back");
        assert!(pattern::holds(shrunk.cast(), 2 * MIB, 2), "the contents stayed");
        free(doors, shrunk);
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend moves no pages")]
fn what_has_grown_into_a_mapping_grows_on_in_place_and_needs_no_more_pages() {
    child::isolated("what_has_grown_into_a_mapping_grows_on_in_place_and_needs_no_more_pages", || {
        family! { struct Growing { slab_bytes: 2 << 20 } }
        let doors = Doors::of::<Growing>();
        let sizes: Vec<usize> = (15..=23).map(|shift| 3 << (shift - 2)).collect();
        let climb = || {
            let mut memory = allocate(doors, sizes[0]);
            pattern::fill(memory, 1);
            let mut moves = 0;
            for pair in sizes.windows(2) {
                // SAFETY: allocated with the first size of the pair.
                let grown = unsafe { (doors.grow)(memory.cast(), layout(pair[0], 1), layout(pair[1], 1)) };
                let grown = grown.expect("memory");
                moves += usize::from(grown.cast::<u8>() != memory.cast::<u8>());
                assert!(pattern::holds(grown.cast(), pair[0], 1), "{} to {}: the contents", pair[0], pair[1]);
                pattern::fill(grown, 1);
                memory = grown;
            }
            (memory, moves)
        };
        let (memory, _) = climb();
        let faults = minor_faults();
        free(doors, memory);
        let (memory, moves) = climb();
        // Where addresses are short the first range has 4 MiB, which 6 MiB cannot grow in: it moves once more, into the second.
        let most = if usize::BITS < 64 { 2 } else { 1 };
        assert_eq!(moves, most, "out of its slot into what is kept, and no further");
        assert!(minor_faults() - faults < 20, "the pages of the first one serve the second");
        // Shorter again: in place, while a slot would be as long.
        let last = *sizes.last().expect("sizes");
        free(doors, memory);
        let small = allocate(doors, 40_000);
        pattern::fill(small, 2);
        // SAFETY: live, with its layout, and the sizes are in order.
        let grown = unsafe { (doors.grow)(small.cast(), layout(40_000, 1), layout(900_000, 1)) }.expect("memory");
        assert_eq!((doors.stats)().large_bytes, MIB);
        // SAFETY: as above.
        let shrunk = unsafe { (doors.shrink)(grown.cast(), layout(900_000, 1), layout(100_000, 1)) }.expect("memory");
        assert_eq!((shrunk.len(), (doors.stats)().large_bytes), (128 << 10, 128 << 10));
        // SAFETY: as above.
        let slot = unsafe { (doors.shrink)(shrunk.cast(), layout(100_000, 1), layout(10_000, 1)) }.expect("memory");
        assert!(pattern::holds(slot.cast(), 10_000, 2));
        assert_eq!((doors.stats)().large_allocations, 0, "a slot again");
        free(doors, slot);
        assert!((doors.stats)().kept_bytes >= last - MIB, "what it was shorter by went back at once");
    });
}

#[test]
fn many_that_grow_are_slots_but_for_a_few() {
    family! { struct Many { slab_bytes: 2 << 20 } }
    let doors = Doors::of::<Many>();
    let grow = |size: usize| {
        let memory = allocate(doors, 40_000);
        pattern::fill(memory, size);
        // SAFETY: allocated just now with this layout.
        let grown = unsafe { (doors.grow)(memory.cast(), layout(40_000, 1), layout(size, 1)) }.expect("memory");
        assert!(pattern::holds(grown.cast(), 40_000, size));
        grown
    };
    let grown: Vec<_> = (0..40).map(|count| grow(100_000 + count)).collect();
    assert!((doors.stats)().large_allocations <= 16, "{}", (doors.stats)());
    assert_eq!(((doors.stats)().live_allocations, (doors.stats)().live_bytes), (40, 40 << 17));
    // Threads without a cache of their own free them as well.
    std::thread::scope(|scope| {
        let addresses: Vec<_> = grown.iter().map(|memory| memory.cast::<u8>().as_ptr().expose_provenance()).collect();
        scope.spawn(move || {
            for address in addresses {
                let memory = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
                // SAFETY: live, of this class, and freed once.
                unsafe { (doors.deallocate)(memory, layout(100_000, 1)) };
            }
        });
    });
    assert_eq!(((doors.stats)().live_allocations, (doors.stats)().large_allocations), (0, 0));
}

#[test]
fn sizes_of_one_class_stay_where_they_are() {
    family! { struct InPlace; }
    let doors = Doors::of::<InPlace>();
    for class in 1..=20_u32 {
        let (least, most) = ((1 << (class - 1)) + 1, 1 << class);
        let memory = allocate(doors, least);
        // SAFETY: allocated with the least size of the class.
        let grown = unsafe { (doors.grow)(memory.cast(), layout(least, 1), layout(most, 1)) }.expect("memory");
        // SAFETY: what the call above returned.
        let shrunk = unsafe { (doors.shrink)(grown.cast(), layout(most, 1), layout(least, 1)) }.expect("memory");
        let [start, bigger, smaller] = [memory, grown, shrunk].map(|memory| memory.addr());
        assert!(start == bigger && start == smaller, "{least} to {most} and back");
        free(doors, shrunk);
    }
}

/// Slots follow one another within a region. It becomes longer while nobody has the space behind
/// it, which other tests' threads may have, and anybody whom the system puts there; then there is
/// another region.
#[test]
fn fresh_slots_are_consecutive_through_all_slabs_of_a_region() {
    family! { struct Linear { slab_bytes: 64 * 1024 } }
    const REGION_BYTES: usize = 64 * Linear::SLAB_BYTES;
    let doors = Doors::of::<Linear>();
    let start = Instant::now();
    let slots: Vec<_> = (0..63 * Linear::SLAB_BYTES / 64).map(|_| allocate(doors, 64)).collect();
    // A thread that is seen to call now and then gives some of its cache up, and gets it back in
    // another order.
    let is_busy = start.elapsed() < Duration::from_secs(1);
    for pair in slots.windows(2) {
        let (end, next) = (pair[0].addr().get() + 64, pair[1].addr().get());
        let begins_a_region = end % Linear::SLAB_BYTES == 0 && (end - 64) / REGION_BYTES != next / REGION_BYTES;
        assert!(next == end || begins_a_region || !is_busy, "{next:#x} behind {end:#x}");
    }
    let regions: BTreeSet<_> = slots.iter().map(|slot| slot.addr().get() / REGION_BYTES).collect();
    assert!(regions.len() <= 6, "each as long as all before: {} regions", regions.len());
    free_all(doors, slots);
}

#[test]
fn the_slot_freed_last_is_allocated_next() {
    family! { struct Last; }
    let doors = Doors::of::<Last>();
    // What is longer is not cached by threads, and this one has to earn its cache.
    for size in (0..=15).map(|shift| 1 << shift) {
        (0..100).for_each(|_| free(doors, allocate(doors, size)));
        let (first, second) = (allocate(doors, size), allocate(doors, size));
        free(doors, first);
        free(doors, second);
        let again = allocate(doors, size);
        assert_eq!(again.addr(), second.addr(), "{size}: what the processor's cache still has");
        free(doors, again);
    }
}

#[test]
#[cfg_attr(any(miri, target_family = "wasm"), ignore = "no process can be started there")]
fn an_emptied_slab_serves_any_class_of_its_family() {
    // Alone: other tests' threads may have some of its units on their way to the system just when others are wanted.
    child::isolated("an_emptied_slab_serves_any_class_of_its_family", || {
        family! { struct Reused { slab_bytes: 64 * 1024 } }
        let doors = Doors::of::<Reused>();
        for size in [1, 64, 2, 4096, 16, 32 << 10, 1, 512] {
            std::thread::spawn(move || free_all(doors, allocate_dirty(doors, size, 2 * MIB))).join().expect("no panic");
            (doors.trim)();
            assert_eq!((doors.stats)().slab_bytes, 0);
        }
        // One region of 64 units, or another behind the first 32, where somebody has the space: one
        // time in fifty the system puts the thread's caches there. Each class needs 32, and all of
        // them 256.
        let units = (doors.stats)().reserved_bytes / Reused::SLAB_BYTES;
        assert!(units < 128, "{units} units for what needs 32");
        assert!(page_bytes() <= Reused::SLAB_BYTES);
    });
}

/// What was live at once bounds what is live and kept together, and is forgotten when nothing is kept any more, for whatever reason.
#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "this backend gives whole mappings back only"
)]
fn what_was_live_long_ago_is_forgotten() {
    child::isolated("what_was_live_long_ago_is_forgotten", || {
        family! { struct Shrunk; }
        let doors = Doors::of::<Shrunk>();
        let [long, short] = [128 * MIB, 2 * MIB].map(|size| allocate(doors, size));
        // SAFETY: live, with its layout, and shorter.
        let long = unsafe { (doors.shrink)(long.cast(), layout(128 * MIB, 1), layout(2 * MIB, 1)) }.expect("memory");
        assert_eq!((doors.stats)().kept_bytes, 0, "what was cut off is not kept");
        free(doors, short);
        for size in (3..15).map(|count| count * MIB) {
            let memory = (doors.allocate_zeroed)(layout(size, 1)).expect("memory");
            free(doors, memory);
            let stats = (doors.stats)();
            let most = 2 * MIB + size + 4 * MIB;
            assert!(stats.large_bytes + stats.kept_bytes <= most, "{size}: {stats}");
        }
        free(doors, long);
    });
}

/// As above, where nothing is kept any more because it was too long.
#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "this backend gives whole mappings back only"
)]
fn what_was_too_long_to_be_kept_is_forgotten() {
    child::isolated("what_was_too_long_to_be_kept_is_forgotten", || {
        family! { struct Emptied; }
        let doors = Doors::of::<Emptied>();
        let [long, short] = [300 * MIB, 10 * MIB].map(|size| allocate(doors, size));
        free(doors, long);
        assert_eq!((doors.stats)().kept_bytes, 0, "more than is kept at most");
        free(doors, short);
        for _ in 0..12 {
            let memory = (doors.allocate_zeroed)(layout(20 * MIB, 1)).expect("memory");
            free(doors, memory);
            let stats = (doors.stats)();
            assert!(stats.large_bytes + stats.kept_bytes <= 24 * MIB, "{stats}");
        }
    });
}
