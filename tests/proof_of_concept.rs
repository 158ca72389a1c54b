//! The five calls of the proof of concept with their null rules, and one test for each defect that it had.

#![cfg(target_os = "linux")]

mod common;

use std::collections::HashSet;
use std::ptr::NonNull;

use common::doors::{is_aligned, slots_of_slab};
use common::memory::{minor_faults, page_bytes};
use common::pattern;
use family_alloc::{Checks, Classes, Family, family};

const MIB: usize = 1 << 20;

fn slice(memory: *mut u8, bytes: usize) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(NonNull::new(memory).expect("memory"), bytes)
}

/// Frees an allocation that the caller holds.
fn free<F: Family>(memory: *mut u8, bytes: usize) {
    // SAFETY: the tests hold what they free, with the size they asked for.
    unsafe { F::free(memory, bytes) };
}

fn remalloc<F: Family>(memory: *mut u8, old: usize, new: usize) -> *mut u8 {
    // SAFETY: the tests hold what they resize, and give the old pointer up unless null comes back.
    unsafe { F::remalloc(memory, old, new) }
}

fn recalloc<F: Family>(memory: *mut u8, old: usize, new: usize) -> *mut u8 {
    // SAFETY: as in `remalloc`.
    unsafe { F::recalloc(memory, old, new) }
}

fn assert_empty<F: Family>() {
    let stats = F::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
}

/// Runs on a thread of its own, so that its cache goes back to the bins.
fn elsewhere<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

#[test]
fn null_goes_in_and_out_as_in_c() {
    family! { struct Null; }
    let null = std::ptr::null_mut();
    assert!(Null::malloc(0).is_null());
    assert!(Null::calloc(0).is_null());
    assert!(Null::memalign(64, 0).is_null());
    free::<Null>(null, 0);
    free::<Null>(null, 100);
    free::<Null>(null, 100 * MIB);
    assert!(remalloc::<Null>(null, 0, 0).is_null());
    assert!(remalloc::<Null>(null, 100, 0).is_null());
    assert!(recalloc::<Null>(null, 0, 0).is_null());
    assert_empty::<Null>();

    for bytes in [1, 100, 5000, 100_000, 3 * MIB] {
        let from_null = remalloc::<Null>(null, 0, bytes);
        pattern::fill(slice(from_null, bytes), 1);
        assert!(remalloc::<Null>(from_null, bytes, 0).is_null(), "a new size of 0 frees");
        assert_empty::<Null>();
        let from_null = recalloc::<Null>(null, 0, bytes);
        assert!(pattern::is_zero_from(slice(from_null, bytes), 0), "{bytes} bytes from null are zero");
        pattern::fill(slice(from_null, bytes), 1);
        assert!(recalloc::<Null>(from_null, bytes, 0).is_null(), "a new size of 0 frees");
        assert_empty::<Null>();
    }
}

#[test]
fn what_cannot_be_had_is_null_and_the_old_stays() {
    family! { struct Impossible; }
    for size in [isize::MAX as usize, isize::MAX as usize + 1, usize::MAX - 4095, usize::MAX] {
        assert!(Impossible::malloc(size).is_null());
        assert!(Impossible::calloc(size).is_null());
        assert!(Impossible::memalign(1, size).is_null());
        for old in [100, 3 * MIB] {
            let memory = Impossible::malloc(old);
            pattern::fill(slice(memory, old), 3);
            assert!(remalloc::<Impossible>(memory, old, size).is_null());
            assert!(recalloc::<Impossible>(memory, old, size).is_null());
            assert!(pattern::holds(slice(memory, old).cast(), old, 3), "the old allocation is as it was");
            free::<Impossible>(memory, old);
        }
    }
    for align in [0, 3, 48, 4097, usize::MAX, usize::MAX / 2 + 2] {
        assert!(Impossible::memalign(align, 8).is_null(), "{align} is no power of two");
    }
    assert!(Impossible::memalign(usize::MAX / 2 + 1, 8).is_null());
    // Where addresses are short that is a multiple of 1 GiB, of which there may be one.
    #[cfg(target_pointer_width = "64")]
    assert!(Impossible::memalign(usize::MAX / 4 + 1, 8).is_null());
    assert_empty::<Impossible>();
}

#[test]
fn malloc_and_calloc_are_aligned_and_free_takes_them_back() {
    family! { struct Calls; }
    for round in 0..2 {
        for bytes in (1..600).chain([4095, 4096, 4097, 100_000, MIB, MIB + 1, 5 * MIB]) {
            let memory = Calls::malloc(bytes);
            assert!(is_aligned(memory.addr(), bytes.next_power_of_two().min(4096)), "{bytes}: {memory:p}");
            pattern::fill(slice(memory, bytes), round);
            let zero = Calls::calloc(bytes);
            assert!(is_aligned(zero.addr(), bytes.next_power_of_two().min(4096)), "{bytes}: {zero:p}");
            assert!(pattern::is_zero_from(slice(zero, bytes), 0), "{bytes} zero bytes");
            pattern::fill(slice(zero, bytes), round + 1);
            assert!(pattern::holds(slice(memory, bytes).cast(), bytes, round));
            free::<Calls>(memory, bytes);
            free::<Calls>(zero, bytes);
        }
    }
    assert_empty::<Calls>();
}

#[test]
fn memalign_is_freed_with_the_greater_of_size_and_alignment() {
    family! { struct Memalign; }
    for align in (0..25).map(|shift| 1_usize << shift) {
        for size in [1, 100, 4096, 70_000, 2 * MIB] {
            let memory = Memalign::memalign(align, size);
            assert!(is_aligned(memory.addr(), align), "{size} bytes aligned to {align}: {memory:p}");
            pattern::fill(slice(memory, size), align);
            free::<Memalign>(memory, size.max(align));
        }
    }
    assert_empty::<Memalign>();
}

#[test]
fn remalloc_keeps_the_contents_and_recalloc_clears_the_rest() {
    family! { struct Resized; }
    let sizes = [1, 2, 3, 8, 100, 128, 1000, 4096, 8192, 8193, 100_000, MIB, MIB + 1, 3 * MIB, 9 * MIB];
    for (old, new) in sizes.into_iter().flat_map(|old| sizes.map(|new| (old, new))) {
        let memory = Resized::malloc(old);
        pattern::fill(slice(memory, old), old);
        let resized = remalloc::<Resized>(memory, old, new);
        assert!(pattern::holds(slice(resized, new).cast(), old.min(new), old), "{old} to {new}");
        pattern::fill(slice(resized, new), new);
        let again = recalloc::<Resized>(resized, new, old);
        assert!(pattern::holds(slice(again, old).cast(), old.min(new), new), "{new} to {old}");
        assert!(pattern::is_zero_from(slice(again, old), old.min(new)), "{new} to {old}: the tail is zero");
        free::<Resized>(again, old);
    }
    assert_empty::<Resized>();
}

/// Freeing a slot of a full block forgot the slot, and the next allocation ran past the end of the block.
#[test]
fn defect_a_full_slab_gets_its_freed_slot_back() {
    family! { struct FullSlab { slab_bytes: 64 * 1024 } }
    for bytes in (0..16).map(|shift| 1 << shift) {
        let count = slots_of_slab(Classes::Natural, Checks::Default, FullSlab::SLAB_BYTES, bytes);
        let slots: Vec<usize> = elsewhere(|| (0..count).map(|_| FullSlab::malloc(bytes).expose_provenance()).collect());
        let slab = slots[0]..slots[0] + FullSlab::SLAB_BYTES;
        assert!(slots.iter().all(|slot| slab.contains(slot)), "{bytes}: the slots fill one slab");
        for &slot in [slots[0], slots[count / 2], slots[count - 1]].iter() {
            elsewhere(|| free::<FullSlab>(std::ptr::with_exposed_provenance_mut(slot), bytes));
            let again = elsewhere(|| FullSlab::malloc(bytes).expose_provenance());
            assert_eq!(again, slot, "{bytes}: the one free slot of the slab is the next one allocated");
        }
        let stats = FullSlab::stats();
        let class = stats.classes[bytes.ilog2() as usize];
        assert_eq!((class.slab_count, class.live_slots, class.free_slots), (1, count, 0), "{stats}");
        slots.into_iter().for_each(|slot| free::<FullSlab>(std::ptr::with_exposed_provenance_mut(slot), bytes));
    }
    assert_empty::<FullSlab>();
}

/// Sizes above 8192 locked a mutex outside the array of mutexes.
#[test]
fn defect_sizes_above_8192_have_locks_of_their_own() {
    family! { struct Above8192; }
    std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|thread| {
            scope.spawn(move || {
                for round in 0..60 {
                    allocate_above_8192::<Above8192>(thread * 60 + round);
                }
            })
        });
        // Joined one by one: a scope may be left before the thread-locals of its threads are destroyed.
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    assert_empty::<Above8192>();
}

/// Allocates in every class above 8192 bytes at once, fills, verifies and frees.
fn allocate_above_8192<F: Family>(seed: usize) {
    let sizes = (13..=21).flat_map(|shift| [(1 << shift) + 1, 2 << shift]);
    let held: Vec<(*mut u8, usize)> = sizes.map(|bytes| (F::malloc(bytes), bytes)).collect();
    for &(memory, bytes) in &held {
        pattern::fill(slice(memory, bytes.min(20_000)), seed);
    }
    for (memory, bytes) in held {
        assert!(pattern::holds(slice(memory, bytes).cast(), bytes.min(20_000), seed), "{bytes} bytes");
        free::<F>(memory, bytes);
    }
}

/// Sizes above 2 GiB overflowed the class arithmetic.
#[test]
#[cfg_attr(not(target_pointer_width = "64"), ignore = "no allocation is so long there")]
fn defect_sizes_above_2_gib_are_themselves() {
    family! { struct Above2Gib; }
    const GIB: usize = 1 << 30;
    for bytes in [2 * GIB - 1, 2 * GIB, 2 * GIB + 1, 3 * GIB, (4_u64 << 30) as usize + 1] {
        let memory = Above2Gib::malloc(bytes);
        assert!(!memory.is_null(), "{bytes} bytes");
        for offset in [0, bytes / 2, bytes - 1] {
            // SAFETY: inside the allocation.
            let place = unsafe { memory.add(offset) };
            // SAFETY: as above.
            unsafe { place.write(1) };
        }
        let stats = Above2Gib::stats();
        assert_eq!((stats.large_allocations, stats.live_bytes), (1, bytes.next_multiple_of(page_bytes())), "{stats}");
        free::<Above2Gib>(memory, bytes);
        Above2Gib::trim();
    }
    assert_empty::<Above2Gib>();
}

/// Shrinking through `Recalloc` cleared memory with a negative length.
#[test]
fn defect_recalloc_to_a_lesser_size_clears_nothing() {
    family! { struct Shrinking; }
    for (old, new) in [(64, 40), (64, 1), (8192, 100), (3 * MIB, 2 * MIB), (3 * MIB, 100), (2 * MIB, 2 * MIB - 1)] {
        let memory = Shrinking::malloc(old);
        let neighbour = Shrinking::malloc(old);
        pattern::fill(slice(memory, old), 1);
        pattern::fill(slice(neighbour, old), 2);
        let shrunk = recalloc::<Shrinking>(memory, old, new);
        assert!(pattern::holds(slice(shrunk, new).cast(), new, 1), "{old} to {new}: contents");
        assert!(pattern::holds(slice(neighbour, old).cast(), old, 2), "{old} to {new}: the neighbour's contents");
        free::<Shrinking>(shrunk, new);
        free::<Shrinking>(neighbour, old);
    }
    assert_empty::<Shrinking>();
}

/// Page size 4096 was assumed.
#[test]
fn defect_pages_have_the_size_that_the_system_says() {
    family! { struct Pages; }
    let page = page_bytes();
    for bytes in [MIB + 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + page / 2, 2 * MIB + page, 2 * MIB + page + 1] {
        let memory = Pages::malloc(bytes);
        assert!(is_aligned(memory.addr(), page), "{bytes} bytes at {memory:p}");
        assert_eq!(Pages::stats().large_bytes, bytes.div_ceil(page) * page);
        free::<Pages>(memory, bytes);
    }
    assert_empty::<Pages>();
}

/// Large reallocation always copied.
#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend moves no pages")]
fn defect_large_reallocation_moves_pages_not_bytes() {
    family! { struct Moved; }
    // Below what is advised to use huge pages, so that every page is a fault of its own.
    let (small, large) = (12 * MIB, 24 * MIB);
    let memory = Moved::malloc(small);
    pattern::fill(slice(memory, small), 1);
    // What lies behind the first is in use, so it cannot grow where it is.
    let in_the_way: Vec<*mut u8> = (0..4).map(|_| Moved::malloc(small)).collect();
    let before = minor_faults();
    let grown = remalloc::<Moved>(memory, small, large);
    let shrunk = remalloc::<Moved>(grown, large, small + 1);
    let faults = minor_faults() - before;
    assert!(faults < small / page_bytes() / 10, "{faults} page faults: a copy of {} pages", small / page_bytes());
    assert!(pattern::holds(slice(shrunk, small).cast(), small, 1), "the contents came along");
    free::<Moved>(shrunk, small + 1);
    in_the_way.into_iter().for_each(|memory| free::<Moved>(memory, small));
    assert_empty::<Moved>();
}

#[test]
fn slots_handed_out_at_once_are_distinct() {
    family! { struct Distinct; }
    for bytes in [1, 2, 3, 16, 4096] {
        let slots: Vec<*mut u8> = (0..10_000).map(|_| Distinct::malloc(bytes)).collect();
        let distinct: HashSet<usize> = slots.iter().map(|slot| slot.addr()).collect();
        assert_eq!(distinct.len(), slots.len());
        slots.into_iter().for_each(|slot| free::<Distinct>(slot, bytes));
    }
    assert_empty::<Distinct>();
}
