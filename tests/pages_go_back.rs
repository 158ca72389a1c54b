//! Memory that is not live goes back to the system down to the page, also inside slabs that are partly used, and everything can be
//! allocated again afterwards.

mod common;

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::time::Duration;

use common::child;
use common::doors::{Doors, layout};
use common::memory::{page_bytes, resident_bytes};
use common::pattern;
use common::random::Random;
use common::shadow::{Slot, check_counters};
use family_alloc::{Checks, Classes, family};

const MIB: usize = 1 << 20;

family! {
    struct Plain { slab_bytes: 2 << 20 }
    struct PlainSmall { slab_bytes: 64 * 1024 }
    struct Checked { checks: Checked, slab_bytes: 2 << 20 }
    struct CheckedSmall { checks: Checked, slab_bytes: 64 * 1024 }
    struct Hardened { checks: Hardened }
    struct Unchecked { checks: Unchecked }
    struct Alone;
    struct AloneSpaced { classes: Spaced }
    struct Spaced { classes: Spaced, slab_bytes: 2 << 20 }
    struct CheckedSpaced { classes: Spaced, checks: Checked, slab_bytes: 2 << 20 }
    struct HardenedSpaced { classes: Spaced, checks: Hardened, slab_bytes: 512 * 1024 }
}

/// Families of every kind.
fn all() -> [Doors; 9] {
    [
        Doors::of::<Plain>(),
        Doors::of::<PlainSmall>(),
        Doors::of::<Checked>(),
        Doors::of::<CheckedSmall>(),
        Doors::of::<Hardened>(),
        Doors::of::<Unchecked>(),
        Doors::of::<Spaced>(),
        Doors::of::<CheckedSpaced>(),
        Doors::of::<HardenedSpaced>(),
    ]
}

fn allocate(doors: Doors, size: usize) -> NonNull<[u8]> {
    let memory = (doors.allocate)(layout(size, 1)).expect("memory");
    pattern::fill(memory, memory.len());
    memory
}

fn free(doors: Doors, memory: NonNull<[u8]>) {
    // SAFETY: the tests hold what they free, and its length fits.
    unsafe { (doors.deallocate)(memory.cast(), layout(memory.len(), 1)) };
}

/// Bytes of the pages that slots lie on.
fn pages_of(slots: &[NonNull<[u8]>]) -> usize {
    let page = page_bytes();
    let pages = |slot: &NonNull<[u8]>| slot.addr().get() / page..=(slot.addr().get() + slot.len() - 1) / page;
    slots.iter().flat_map(pages).collect::<BTreeSet<_>>().len() * page
}

/// Bytes of what a family keeps beside `bytes` in slots of `size`: their states, and their bits.
fn states_of(doors: Doors, bytes: usize, size: usize) -> usize {
    if matches!(doors.checks, Checks::Checked | Checks::Hardened) { bytes / size.max(16) + bytes / 128 } else { 0 }
}

/// Every slot that is left holds what was written, and all that is needed again is there and reads zero where that was asked for.
fn verify_and_fill_again(doors: Doors, kept: Vec<NonNull<[u8]>>, size: usize, bytes: usize) {
    assert!(kept.iter().all(|&slot| pattern::holds_part(slot, 0..slot.len(), slot.len())), "{}", doors.name);
    let live = (doors.stats)().live_allocations;
    assert_eq!(live, kept.len(), "{}", doors.name);
    let again: Vec<_> = (0..bytes / size)
        .map(|round| {
            let zeroed = round % 2 == 0;
            let call = if zeroed { doors.allocate_zeroed } else { doors.allocate };
            let memory = call(layout(size, 1)).expect("memory");
            assert!(!zeroed || pattern::is_zero_from(memory, 0), "{}: not zero", doors.name);
            pattern::fill(memory, memory.len());
            memory
        })
        .collect();
    let slots: BTreeSet<_> = kept.iter().chain(&again).collect();
    assert_eq!(slots.len(), kept.len() + again.len(), "{}: a slot was handed out twice", doors.name);
    for slot in kept.into_iter().chain(again) {
        assert!(pattern::holds_part(slot, 0..slot.len(), slot.len()), "{}", doors.name);
        free(doors, slot);
    }
    assert_eq!((doors.stats)().live_allocations, 0, "{}", doors.name);
}

/// A list that has its memory before anything is measured.
fn list(length: usize) -> Vec<NonNull<[u8]>> {
    vec![NonNull::slice_from_raw_parts(NonNull::dangling(), 0); length]
}

/// Frees all but those that `stays` says, in random order, and trims; returns those that stay and what `trim` told.
fn free_most(doors: Doors, slots: &mut Vec<NonNull<[u8]>>, mut stays: impl FnMut(usize, usize) -> bool) -> usize {
    let mut random = Random::new(slots.len() as u64);
    let mut kept = 0;
    for place in 0..slots.len() {
        if stays(place, slots[place].addr().get()) {
            slots.swap(place, kept);
            kept += 1;
        }
    }
    for place in (kept + 1..slots.len()).rev() {
        slots.swap(place, kept + random.below(place + 1 - kept));
    }
    slots.drain(kept..).for_each(|slot| free(doors, slot));
    (doors.trim)()
}

/// Of `bytes` in slots of `size` stay those that `stays` says; the pages of all others go back on `trim`.
fn part_stays(doors: Doors, size: usize, bytes: usize, stays: impl FnMut(usize, usize) -> bool) {
    let mut slots = list(bytes / size);
    (doors.trim)();
    let before = resident_bytes();
    slots.iter_mut().for_each(|slot| *slot = allocate(doors, size));
    let full = resident_bytes().saturating_sub(before);
    let told = free_most(doors, &mut slots, stays);
    let (left, needed) = (resident_bytes().saturating_sub(before), pages_of(&slots));
    println!("{}, {size}: {} KiB, then {} KiB, {} KiB needed", doors.name, full >> 10, left >> 10, needed >> 10);
    // A thread's cache, a depot's place, headers and states.
    let room = 2 * MIB + states_of(doors, bytes, size);
    assert!(left <= needed + needed / 20 + room, "{}, {size}: {left} resident, {needed} needed", doors.name);
    assert!(told + room >= bytes.saturating_sub(needed), "{}, {size}: {told} told", doors.name);
    verify_and_fill_again(doors, slots, size, bytes);
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn a_random_part_of_small_slots_goes_back() {
    child::isolated("a_random_part_of_small_slots_goes_back", || {
        for doors in all() {
            let mut random = Random::new(64);
            part_stays(doors, 64, 200_000 * 64, |_, _| random.below(10) == 0);
            part_stays(doors, 64, 200_000 * 64, |_, _| random.below(200) == 0);
        }
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn a_random_part_of_slots_of_every_size_goes_back() {
    child::isolated("a_random_part_of_slots_of_every_size_goes_back", || {
        for doors in all() {
            // Those of spaced classes lie across the ends of pages.
            let spaced = [24, 112, 176, 1280, 3584, 5120, 18_432, 32 << 10];
            let natural = [8, 16, 256, 1024, 4096, 8192, 32 << 10];
            let is_spaced = doors.classes == Classes::Spaced;
            for size in if is_spaced { &spaced[..] } else { &natural }.iter().copied() {
                let mut random = Random::new(size as u64);
                part_stays(doors, size, 10 * MIB, |_, _| random.below(16) == 0);
            }
        }
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn nothing_is_lost_where_no_page_is_free() {
    child::isolated("nothing_is_lost_where_no_page_is_free", || {
        for doors in all() {
            part_stays(doors, 64, 16 * MIB, |_, address| address % page_bytes() == 0);
        }
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn what_survivors_leave_goes_back() {
    child::isolated("what_survivors_leave_goes_back", || {
        let spaced = [Doors::of::<Spaced>(), Doors::of::<CheckedSpaced>()];
        for doors in [Doors::of::<Plain>(), Doors::of::<Checked>()].into_iter().chain(spaced) {
            let mut random = Random::new(7);
            let mut slots = list(500_000);
            let before = resident_bytes();
            slots.iter_mut().for_each(|slot| *slot = allocate(doors, random.between(16, 1000)));
            free_most(doors, &mut slots, |_, _| random.below(1000) == 0);
            let (left, needed) = (resident_bytes().saturating_sub(before), pages_of(&slots));
            println!("{}: {} KiB resident, {} KiB needed", doors.name, left >> 10, needed >> 10);
            let room = 2 * MIB + states_of(doors, 300 * MIB, 256);
            assert!(left <= needed * 13 / 10 + room, "{}: {left} resident, {needed} needed", doors.name);
            slots.into_iter().for_each(|slot| free(doors, slot));
            assert_eq!((doors.stats)().live_allocations, 0);
        }
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn states_of_closed_slabs_go_back() {
    child::isolated("states_of_closed_slabs_go_back", || {
        for doors in all() {
            let mut slots = list(24 * MIB / 16);
            let before = resident_bytes();
            slots.iter_mut().for_each(|slot| *slot = allocate(doors, 16));
            free_most(doors, &mut slots, |_, _| false);
            let left = resident_bytes().saturating_sub(before);
            // Where a page is longer than a slab's states they share it with others', and stay.
            let shared = if page_bytes() > 4096 { states_of(doors, 24 * MIB, 16) } else { 0 };
            assert!(left <= MIB + shared, "{}: {left} bytes stay of 24 MiB", doors.name);
            assert_eq!((doors.stats)().live_allocations, 0);
        }
    });
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn what_nobody_needs_goes_back_by_itself() {
    child::isolated("what_nobody_needs_goes_back_by_itself", || {
        for doors in [Doors::of::<Plain>(), Doors::of::<Checked>()] {
            let mut slots = list(64 * MIB / 256);
            let before = resident_bytes();
            slots.iter_mut().for_each(|slot| *slot = allocate(doors, 256));
            // One slot of 1600 pins its slab.
            let (kept, freed): (Vec<_>, Vec<_>) = slots.iter().enumerate().partition(|(index, _)| index % 1600 == 0);
            freed.iter().for_each(|&(_, &slot)| free(doors, slot));
            let lists = (kept.capacity() + freed.capacity()) * size_of::<(usize, &NonNull<[u8]>)>();
            // As a program that now and then frees a few hundred.
            for _ in 0..200 {
                let some: Vec<_> = (0..300).map(|_| allocate(doors, 64)).collect();
                some.into_iter().for_each(|slot| free(doors, slot));
                std::thread::sleep(Duration::from_millis(20));
            }
            let left = resident_bytes().saturating_sub(before);
            println!("{}: {} KiB left", doors.name, (left - lists) >> 10);
            let pinned = pages_of(&kept.iter().map(|&(_, &slot)| slot).collect::<Vec<_>>());
            assert!(left <= lists + pinned + 3 * MIB, "{}: {left} bytes stay of 64 MiB", doors.name);
            kept.into_iter().for_each(|(_, &slot)| free(doors, slot));
        }
    });
}

/// As Linux counts page faults.
#[test]
#[cfg(target_os = "linux")]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn what_comes_and_goes_within_a_second_stays() {
    child::isolated("what_comes_and_goes_within_a_second_stays", || {
        for doors in [Doors::of::<Plain>(), Doors::of::<Checked>()] {
            let pins: Vec<_> = (0..64).map(|_| allocate(doors, 256)).collect();
            let faults = || {
                let slots: Vec<_> = (0..16 * MIB / 256).map(|_| allocate(doors, 256)).collect();
                slots.into_iter().for_each(|slot| free(doors, slot));
                std::thread::sleep(Duration::from_millis(100));
                common::memory::minor_faults()
            };
            let warm = faults();
            let mut last = warm;
            (0..40).for_each(|_| last = faults());
            // 16 MiB are 4096 pages. On a busy machine a round may take a second: then they may go back, but not in most rounds.
            let paid = (last - warm) / 4096;
            assert!(paid < 20, "{}: every page came again {paid} times in 40 rounds", doors.name);
            pins.into_iter().for_each(|slot| free(doors, slot));
        }
    });
}

/// Several threads allocate, free, ask for zeros and trim at random, in all modes at once.
#[test]
fn random_calls_and_trims_in_all_modes() {
    let rounds = if cfg!(miri) { 40 } else { 6000 };
    for doors in all() {
        let doors: &'static Doors = Box::leak(Box::new(doors));
        let left: Vec<Vec<Slot>> = std::thread::scope(|scope| {
            let run = |seed: u64| {
                move || {
                    let mut random = Random::new(seed);
                    let mut slots: Vec<Slot> = Vec::new();
                    for round in 0..rounds {
                        let grows = (round / 500) % 2 == 0;
                        if random.below(8) < if grows { 5 } else { 3 } || slots.is_empty() {
                            let most = if random.below(20) == 0 { 40_000 } else { 1500 };
                            let size = random.size(most);
                            let zeroed = random.below(3) == 0;
                            let contents = (round + seed as usize, usize::MAX);
                            let wanted = Layout::from_size_align(size, 8).expect("a layout");
                            slots.push(Slot::allocate(doors, wanted, zeroed, contents));
                        } else {
                            slots.swap_remove(random.below(slots.len())).deallocate(random.below(256) as u8);
                        }
                        if random.below(150) == 0 {
                            (doors.trim)();
                        }
                    }
                    slots
                }
            };
            let threads: Vec<_> = (1..5).map(|seed| scope.spawn(run(seed))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread fails")).collect()
        });
        let mut left = left.concat();
        check_counters(doors, &left);
        (doors.trim)();
        check_counters(doors, &left);
        left.drain(..).for_each(|slot| slot.deallocate(0));
        (doors.trim)();
        check_counters(doors, &[]);
    }
}

/// Of a class that comes late among all of its family as well: the house is kept for every bin.
#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend gives no pages back")]
fn pages_of_every_class_go_back_by_themselves() {
    const SIZES: [usize; 4] = [100, 1000, 10_000, 100_000];
    for doors in [Doors::of::<Alone>(), Doors::of::<AloneSpaced>()] {
        let kept: Vec<_> = SIZES
            .into_iter()
            .flat_map(|size| {
                let slots: Vec<_> = (0..(16 * MIB) / size).map(|_| allocate(doors, size)).collect();
                // One in a quarter of a MiB stays.
                let stays = |at: usize| (at * size) % (256 << 10) < size;
                let (kept, gone): (Vec<_>, Vec<_>) = slots.into_iter().enumerate().partition(|(at, _)| stays(*at));
                gone.into_iter().for_each(|(_, slot)| free(doors, slot));
                kept.into_iter().map(|(_, slot)| slot)
            })
            .collect();
        let idle = || {
            let stats = (doors.stats)();
            stats.classes.iter().map(|class| class.idle_slots * class.slot_bytes).sum::<usize>()
        };
        let begin = std::time::Instant::now();
        while idle() > 4 * MIB && begin.elapsed() < Duration::from_secs(60) {
            (0..20).for_each(|_| free(doors, allocate(doors, 64)));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(idle() <= 4 * MIB, "{} KiB are idle still: {}", idle() >> 10, (doors.stats)());
        kept.into_iter().for_each(|slot| free(doors, slot));
    }
}
