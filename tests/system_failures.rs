//! Every call to the system fails once: a child process forbids itself one of them and goes on.

#![cfg(target_os = "linux")]

mod common;

use common::child;
use common::doors::{Doors, layout, slots_of_slab};
use common::forbid;
use common::memory::page_bytes;
use common::pattern;
use family_alloc::{Checks, Classes, Family, family};

const MIB: usize = 1 << 20;

/// Allocates until there is no more.
fn fill(doors: Doors, size: usize) -> Vec<std::ptr::NonNull<[u8]>> {
    std::iter::from_fn(|| (doors.allocate)(layout(size, 1))).collect()
}

fn free(doors: Doors, memory: std::ptr::NonNull<[u8]>) {
    // SAFETY: the tests hold what they free; its length fits.
    unsafe { (doors.deallocate)(memory.cast(), layout(memory.len(), 1)) };
}

fn assert_empty(doors: Doors) {
    let stats = (doors.stats)();
    assert_eq!((stats.live_allocations, stats.live_bytes, stats.large_bytes), (0, 0, 0), "{stats}");
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend makes other calls")]
#[cfg_attr(target_env = "musl", ignore = "`System` has all memory from `mmap` there, also the test runner's")]
fn without_mmap_there_is_what_there_was() {
    child::isolated("without_mmap_there_is_what_there_was", || {
        family! { struct Before; struct After; }
        let (before, after) = (Doors::of::<Before>(), Doors::of::<After>());
        // Slots that leave nothing out before them.
        let slot = page_bytes();
        let first = (before.allocate)(layout(slot, 1)).expect("memory");
        // Where `System` gets memory by `mmap` only, a list cannot grow from here on.
        let mut rest = Vec::with_capacity(64 * Before::SLAB_BYTES / slot);
        forbid::call(forbid::MMAP);
        assert!((before.allocate)(layout(3 * MIB, 1)).is_none(), "large");
        assert!((after.allocate)(layout(64, 1)).is_none(), "a new family");
        assert!((after.allocate)(layout(3 * MIB, 1)).is_none(), "a new family, large");
        rest.extend(std::iter::from_fn(|| (before.allocate)(layout(slot, 1))));
        let reserved = (before.stats)().reserved_bytes - Before::SLAB_BYTES;
        assert_eq!((rest.len() + 1) * slot, reserved, "all slabs that were reserved are used to their end");
        free(before, first);
        let again = (before.allocate)(layout(slot, 1)).expect("a slot was freed");
        free(before, again);
        rest.into_iter().for_each(|slot| free(before, slot));
        assert_empty(before);
        assert_empty(after);
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend makes other calls")]
fn without_mprotect_there_is_what_was_committed() {
    child::isolated("without_mprotect_there_is_what_was_committed", || {
        family! { struct Committed { slab_bytes: 64 * 1024 } }
        let doors = Doors::of::<Committed>();
        let first = (doors.allocate)(layout(64, 1)).expect("memory");
        forbid::call(libc::SYS_mprotect);
        for _ in 0..3 {
            assert!((doors.allocate)(layout(128, 1)).is_none(), "a second slab");
            let rest = fill(doors, 64);
            let slots = slots_of_slab(Classes::Natural, Checks::Default, Committed::SLAB_BYTES, 64);
            assert_eq!(rest.len() + 1, slots, "the slab is used to its end");
            rest.into_iter().for_each(|slot| free(doors, slot));
        }
        free(doors, first);
        assert_empty(doors);
    });
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn without_mremap_large_allocations_are_copied() {
    child::isolated("without_mremap_large_allocations_are_copied", || {
        family! { struct Copied; }
        let doors = Doors::of::<Copied>();
        forbid::call(libc::SYS_mremap);
        // Dirty memory to be reused, so that what a copy leaves uncleared would show.
        for megabytes in [4, 6, 8] {
            let dirty = (doors.allocate)(layout(megabytes * MIB, 1)).expect("memory");
            pattern::fill(dirty, 1);
            free(doors, dirty);
        }
        let sizes = [3 * MIB, 4 * MIB, 6 * MIB, 8 * MIB].map(|size| layout(size, 1));
        let mut memory = (doors.allocate)(sizes[0]).expect("memory");
        for pair in sizes.windows(2) {
            pattern::fill(memory, 2);
            // SAFETY: allocated with the first of the pair.
            memory = unsafe { (doors.grow_zeroed)(memory.cast(), pair[0], pair[1]) }.expect("memory");
            assert!(pattern::holds(memory.cast(), pair[0].size(), 2), "the contents came along");
            assert!(pattern::is_zero_from(memory, pair[0].size()), "the rest is zero");
        }
        pattern::fill(memory, 3);
        // SAFETY: allocated with the last of the sizes.
        memory = unsafe { (doors.shrink)(memory.cast(), sizes[3], sizes[0]) }.expect("memory");
        assert!(pattern::holds(memory.cast(), sizes[0].size(), 3), "the contents came along");
        free(doors, memory);
        assert_empty(doors);
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend makes other calls")]
fn without_munmap_memory_goes_back_all_the_same() {
    child::isolated("without_munmap_memory_goes_back_all_the_same", || {
        family! { struct Unmapped; }
        let doors = Doors::of::<Unmapped>();
        let all: Vec<_> = (0..20).map(|_| (doors.allocate)(layout(3 * MIB, 1)).expect("memory")).collect();
        all.iter().for_each(|&memory| pattern::fill(memory, 1));
        forbid::call(libc::SYS_munmap);
        let before = common::memory::resident_bytes();
        all.into_iter().for_each(|memory| free(doors, memory));
        (doors.trim)();
        let given_back = before.saturating_sub(common::memory::resident_bytes());
        assert!(given_back >= 59 * MIB, "{given_back} bytes of 60 MiB went back");
        assert_empty(doors);
        let again = (doors.allocate_zeroed)(layout(3 * MIB, 1)).expect("memory");
        assert!(pattern::is_zero_from(again, 0));
        free(doors, again);
        assert_empty(doors);
    });
}

/// As in a process that guards memory and then lets itself make few calls only.
#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend has no guards")]
fn without_madvise_what_was_guarded_can_be_used_again() {
    child::isolated("without_madvise_what_was_guarded_can_be_used_again", || {
        family! { struct Sandboxed { checks: Hardened } }
        let doors = Doors::of::<Sandboxed>();
        let allocate = |size| (0..40).map(|_| (doors.allocate_zeroed)(layout(size, 1)).expect("memory")).collect();
        let sizes = [64 << 10, 256 << 10, MIB];
        let dirty: Vec<Vec<_>> = sizes.into_iter().map(allocate).collect();
        dirty.iter().flatten().for_each(|&memory| pattern::fill(memory, 1));
        dirty.into_iter().flatten().for_each(|memory| free(doors, memory));
        forbid::call(libc::SYS_madvise);
        for round in 2..4 {
            let zero: Vec<Vec<_>> = sizes.into_iter().map(allocate).collect();
            assert!(zero.iter().flatten().all(|&memory| pattern::is_zero_from(memory, 0)), "round {round}");
            zero.iter().flatten().for_each(|&memory| pattern::fill(memory, round));
            zero.into_iter().flatten().for_each(|memory| free(doors, memory));
        }
        (doors.trim)();
        let small: Vec<_> = (0..10_000).map(|_| (doors.allocate)(layout(4096, 1)).expect("memory")).collect();
        small.iter().for_each(|&memory| pattern::fill(memory, 5));
        small.into_iter().for_each(|memory| free(doors, memory));
        assert_empty(doors);
    });
}

/// Where guards cannot be taken away memory is replaced: not that in which free slots of other slabs are noted.
#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "this backend has no guards")]
fn without_madvise_free_slots_stay_known() {
    child::isolated("without_madvise_free_slots_stay_known", || {
        family! { struct Narrow { slab_bytes: 64 * 1024 } struct Middle { slab_bytes: 256 * 1024 } }
        let all = [Doors::of::<Narrow>(), Doors::of::<Middle>()];
        let fill = |doors: Doors, size: usize| {
            let all: Vec<_> = (0..4000).map(|_| (doors.allocate)(layout(size, 1)).expect("memory")).collect();
            all.iter().for_each(|&memory| pattern::fill(memory, 1));
            all
        };
        let mut kept = Vec::new();
        for doors in all {
            let (freed, others): (Vec<_>, Vec<_>) =
                fill(doors, 64).into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
            freed.into_iter().for_each(|(_, memory)| free(doors, memory));
            // From the caches to the slabs.
            (doors.trim)();
            kept.push((doors, others));
        }
        forbid::call(libc::SYS_madvise);
        for (doors, others) in kept {
            // Of other classes, in units beside those.
            let more: Vec<_> = [16, 32, 128].into_iter().flat_map(|size| fill(doors, size)).collect();
            let again = fill(doors, 64);
            let live = || more.iter().chain(&again).chain(others.iter().map(|(_, memory)| memory));
            let addresses: std::collections::HashSet<_> = live().map(|memory| memory.cast::<u8>()).collect();
            assert_eq!(addresses.len(), live().count(), "each slot once");
            more.iter().chain(&again).for_each(|&memory| free(doors, memory));
            others.into_iter().for_each(|(_, memory)| free(doors, memory));
            assert_empty(doors);
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn without_madvise_nothing_is_taken_for_zero() {
    child::isolated("without_madvise_nothing_is_taken_for_zero", || {
        family! { struct Advised { slab_bytes: 64 * 1024 } }
        let doors = Doors::of::<Advised>();
        forbid::call(libc::SYS_madvise);
        for size in [64, 4096, 32 << 10] {
            let dirty: Vec<_> = (0..64).map(|_| (doors.allocate)(layout(size, 1)).expect("memory")).collect();
            dirty.iter().for_each(|&memory| pattern::fill(memory, 1));
            dirty.into_iter().for_each(|memory| free(doors, memory));
            assert_eq!((doors.trim)(), 0, "no memory could be given back");
            let zero: Vec<_> = (0..64).map(|_| (doors.allocate_zeroed)(layout(size, 1)).expect("memory")).collect();
            assert!(zero.iter().all(|&memory| pattern::is_zero_from(memory, 0)), "{size} bytes are zero");
            zero.into_iter().for_each(|memory| free(doors, memory));
        }
        assert_empty(doors);
    });
}

#[test]
#[cfg(target_os = "linux")]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend makes other calls")]
fn a_free_leaves_errno_alone() {
    child::isolated("a_free_leaves_errno_alone", || {
        family! { struct Plain; struct Guarded { checks: Hardened } }
        let doors = [Doors::of::<Plain>(), Doors::of::<Guarded>()];
        let sizes = [64, 64 << 10, 3 * MIB, 64 * MIB];
        let slots: Vec<_> = doors.iter().flat_map(|&doors| sizes.map(|size| (doors, fill_one(doors, size)))).collect();
        forbid::call(libc::SYS_madvise);
        forbid::call(libc::SYS_munmap);
        // SAFETY: no preconditions.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the thread's own.
        unsafe { errno.write(7654) };
        for (doors, memory) in slots {
            free(doors, memory);
            (doors.trim)();
        }
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(7654));
    });
}

/// An allocation whose first and last bytes are written.
#[cfg(target_os = "linux")]
fn fill_one(doors: Doors, size: usize) -> std::ptr::NonNull<[u8]> {
    let memory = (doors.allocate)(layout(size, 1)).expect("memory");
    pattern::fill(memory, 1);
    memory
}
