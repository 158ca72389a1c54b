//! What families count, and how it is told: `stats()`, `families()` and the printed table.

mod common;

use std::collections::BTreeMap;
use std::ptr::NonNull;

use allocator_api2::vec::Vec as FamilyVec;
use common::doors::{Doors, layout, longest_slot, slot_bytes, slots_of_slab};
use family_alloc::{Checks, Classes, Family, FamilyAlloc, Stats, families, family};

const MIB: usize = 1 << 20;

fn allocate(doors: Doors, size: usize) -> NonNull<[u8]> {
    (doors.allocate)(layout(size, 1)).expect("memory")
}

fn free(doors: Doors, memory: NonNull<[u8]>) {
    // SAFETY: the tests hold what they free, and its length fits.
    unsafe { (doors.deallocate)(memory.cast(), layout(memory.len(), 1)) };
}

/// What holds between the figures at any time.
#[track_caller]
fn assert_adds_up(stats: &Stats, checks: Checks, slab_bytes: usize) {
    let sum = |figure: fn(&family_alloc::ClassStats) -> usize| stats.classes.iter().map(figure).sum::<usize>();
    assert_eq!(stats.live_allocations, sum(|class| class.live_slots) + stats.large_allocations, "{stats}");
    assert_eq!(stats.live_bytes, sum(|class| class.live_slots * class.slot_bytes) + stats.large_bytes, "{stats}");
    assert_eq!(stats.cached_slots, sum(|class| class.cached_slots), "{stats}");
    assert_eq!(stats.cached_bytes, sum(|class| class.cached_slots * class.slot_bytes), "{stats}");
    assert_eq!(stats.slab_bytes, sum(|class| class.slab_count) * slab_bytes, "{stats}");
    assert_eq!(stats.depot_bytes, sum(|class| class.depot_slots * class.slot_bytes), "{stats}");
    assert_eq!(stats.free_bytes, sum(|class| class.free_slots * class.slot_bytes), "{stats}");
    let in_slabs = stats.live_bytes - stats.large_bytes + stats.cached_bytes + stats.depot_bytes + stats.free_bytes;
    // Spaced slots leave something over at a slab's end.
    let slots_of =
        |class: &family_alloc::ClassStats| slots_of_slab(stats.spacing, checks, slab_bytes, class.slot_bytes);
    let whole: usize = stats.classes.iter().map(|class| class.slab_count * slots_of(class) * class.slot_bytes).sum();
    assert_eq!(in_slabs, whole, "every slot of the slabs is somewhere: {stats}");
    assert!(stats.slab_bytes <= stats.reserved_bytes, "{stats}");
    assert!(stats.peak_live_allocations >= stats.live_allocations, "{stats}");
    assert!(stats.peak_live_bytes >= stats.live_bytes, "{stats}");
    for (index, class) in stats.classes.iter().enumerate() {
        match stats.spacing {
            Classes::Spaced => {
                assert_eq!(class.slot_bytes, slot_bytes(Classes::Spaced, layout(class.slot_bytes, 1), 1))
            }
            _ => assert_eq!(class.slot_bytes, 1 << index),
        }
        let slots = class.live_slots + class.cached_slots + class.depot_slots + class.free_slots;
        assert_eq!(slots, class.slab_count * slots_of(class), "{index}: {stats}");
    }
}

#[test]
fn a_family_that_was_never_used_holds_nothing() {
    family! { struct Unused; }
    let stats = Unused::stats();
    assert_adds_up(&stats, Unused::CHECKS, Unused::SLAB_BYTES);
    assert_eq!(stats.name, "Unused");
    assert_eq!((stats.reserved_bytes, stats.thread_caches, stats.peak_live_allocations), (0, 0, 0), "{stats}");
    assert_eq!(Unused::trim(), 0);
    assert!(families().all(|family| family.name() != "Unused"));
}

#[test]
fn live_figures_are_exact_after_every_call() {
    family! { struct Exact; struct ExactSmall { slab_bytes: 64 * 1024 } struct ExactSpaced { classes: Spaced } }
    for doors in [Doors::of::<Exact>(), Doors::of::<ExactSmall>(), Doors::of::<ExactSpaced>()] {
        let mut live = Vec::new();
        let mut bytes = 0;
        let sizes = [1, 2, 3, 5, 64, 64, 100, 4096, 5000, 40_000, 100_000, MIB, MIB + 1, 3 * MIB];
        for _ in 0..30 {
            for size in sizes {
                let memory = allocate(doors, size);
                assert_eq!(memory.len(), doors.occupied(layout(size, 1)), "{size}");
                bytes += memory.len();
                live.push(memory);
                let stats = (doors.stats)();
                assert_eq!((stats.live_allocations, stats.live_bytes), (live.len(), bytes), "{stats}");
            }
        }
        assert_adds_up(&(doors.stats)(), doors.checks, doors.slab_bytes);
        let mut by_size = BTreeMap::<usize, usize>::new();
        live.iter().for_each(|memory| *by_size.entry(memory.len()).or_default() += 1);
        for class in (doors.stats)()
            .classes
            .iter()
            .filter(|class| class.slot_bytes <= longest_slot(doors.classes, doors.slab_bytes))
        {
            assert_eq!(class.live_slots, by_size.get(&class.slot_bytes).copied().unwrap_or(0), "{}", class.slot_bytes);
        }
        while let Some(memory) = live.pop() {
            bytes -= memory.len();
            free(doors, memory);
            let stats = (doors.stats)();
            assert_eq!((stats.live_allocations, stats.live_bytes), (live.len(), bytes), "{stats}");
        }
        assert_adds_up(&(doors.stats)(), doors.checks, doors.slab_bytes);
    }
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", not(any(unix, windows))),
    ignore = "this backend copies to grow, so that both are live for a moment"
)]
fn large_allocations_are_counted_in_whole_pages() {
    family! { struct Large; }
    let doors = Doors::of::<Large>();
    let page = common::memory::page_bytes();
    let memory = allocate(doors, 2 * MIB + 1);
    let stats = Large::stats();
    assert_eq!((stats.large_allocations, stats.large_bytes, stats.live_bytes), (1, 2 * MIB + page, 2 * MIB + page));
    // SAFETY: allocated just now.
    let memory = unsafe { (doors.grow)(memory.cast(), layout(memory.len(), 1), layout(9 * MIB, 1)) }.expect("memory");
    let stats = Large::stats();
    assert_eq!((stats.large_bytes, stats.live_bytes, stats.peak_live_bytes), (9 * MIB, 9 * MIB, 9 * MIB), "{stats}");
    // SAFETY: what the call above returned.
    let memory = unsafe { (doors.shrink)(memory.cast(), layout(9 * MIB, 1), layout(100, 1)) }.expect("memory");
    let stats = Large::stats();
    assert_eq!((stats.large_allocations, stats.large_bytes, stats.live_bytes), (0, 0, 128), "{stats}");
    free(doors, memory);
    assert_adds_up(&Large::stats(), Large::CHECKS, Large::SLAB_BYTES);
}

#[test]
fn figures_are_exact_when_many_threads_have_ended() {
    family! { struct Many; }
    let doors = Doors::of::<Many>();
    let kept: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn(move || {
                    let mut kept = 0;
                    for step in 0..3000 {
                        let memory = allocate(doors, 1 << (step % 13));
                        if step % 10 == thread {
                            kept += memory.len();
                        } else {
                            free(doors, memory);
                        }
                    }
                    kept
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let stats = Many::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes), (4 * 300, kept), "{stats}");
    assert_adds_up(&stats, Many::CHECKS, Many::SLAB_BYTES);
}

#[test]
fn figures_may_be_read_while_others_allocate() {
    family! { struct Busy; }
    let doors = Doors::of::<Busy>();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..300 {
                        let slots: Vec<_> = (0..200).map(|step| allocate(doors, 1 << (step % 12))).collect();
                        slots.into_iter().for_each(|slot| free(doors, slot));
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let stats = Busy::stats();
            // Recent values, not exact ones: but never more than the two threads can have, caches included.
            assert!(stats.live_allocations <= 10_000 && stats.live_bytes <= 64 * MIB, "{stats}");
            assert!(stats.peak_live_allocations >= stats.live_allocations, "{stats}");
            assert!(stats.peak_live_bytes >= stats.live_bytes, "{stats}");
            Busy::trim();
        }
        // Joined one by one: a scope may be left before the thread-locals of its threads are destroyed.
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    });
    let stats = Busy::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
}

#[test]
fn the_peak_is_the_most_that_was_seen() {
    family! { struct Peak; }
    let doors = Doors::of::<Peak>();
    let slots: Vec<_> = (0..10_000).map(|_| allocate(doors, 64)).collect();
    slots.into_iter().for_each(|slot| free(doors, slot));
    let stats = Peak::stats();
    // Seen whenever a cache exchanged slots with its bin: a batch or so below the truth.
    assert!((9_000..=10_000).contains(&stats.peak_live_allocations), "{stats}");
    assert!((9_000 * 64..=10_000 * 64).contains(&stats.peak_live_bytes), "{stats}");

    let slots: Vec<_> = (0..20_000).map(|_| allocate(doors, 64)).collect();
    assert_eq!(Peak::stats().peak_live_allocations, 20_000, "exact when it is read at the peak");
    slots.into_iter().for_each(|slot| free(doors, slot));
    let memory = allocate(doors, 5 * MIB);
    free(doors, memory);
    let stats = Peak::stats();
    assert_eq!(stats.peak_live_allocations, 20_000, "each figure has its own peak: {stats}");
    // What was freed since the last exchange is not known to be free.
    assert!((5 * MIB..=5 * MIB + 128 * 64).contains(&stats.peak_live_bytes), "{stats}");
    assert_eq!(stats.live_allocations, 0, "{stats}");
}

#[test]
fn the_peak_is_never_below_what_is_live() {
    family! { struct Never; }
    // Nothing is exchanged after the first of these.
    let slots: Vec<_> = (0..10).map(|_| allocate(Doors::of::<Never>(), 64)).collect();
    let stats = Never::stats();
    assert_eq!((stats.live_allocations, stats.peak_live_allocations), (10, 10), "{stats}");
    assert_eq!((stats.live_bytes, stats.peak_live_bytes), (640, 640), "{stats}");
    slots.into_iter().for_each(|slot| free(Doors::of::<Never>(), slot));
    let stats = Never::stats();
    assert_eq!((stats.live_allocations, stats.peak_live_allocations, stats.peak_live_bytes), (0, 10, 640), "{stats}");
}

#[test]
fn a_family_found_by_walking_is_trimmed_as_by_name() {
    family! { struct Named; struct Walked; }
    let trimmed = [Doors::of::<Named>(), Doors::of::<Walked>()].map(|doors| {
        // Two slabs, whatever part of them is left out before the first slot.
        let slots: Vec<_> = (0..700).map(|_| allocate(doors, 4096)).collect();
        slots.into_iter().for_each(|slot| free(doors, slot));
        assert!((doors.stats)().cached_slots > 0);
        let found = families().find(|family| family.name() == doors.name).expect("it has been used");
        let trimmed = if doors.name == "Named" { (doors.trim)() } else { found.trim() };
        let stats = found.stats();
        assert_eq!((stats.cached_slots, stats.slab_bytes), (0, 0), "{stats}");
        trimmed
    });
    assert!(
        trimmed[0] == trimmed[1] && (trimmed[0] > 0) != cfg!(any(miri, feature = "portable", not(any(unix, windows)))),
        "{trimmed:?}"
    );
}

#[test]
fn the_peak_of_threads_in_turn_is_not_their_sum() {
    family! { struct InTurn; }
    let doors = Doors::of::<InTurn>();
    for _ in 0..50 {
        let thread = std::thread::spawn(move || {
            let slots: Vec<_> = (0..100).map(|_| allocate(doors, 64)).collect();
            slots.into_iter().for_each(|slot| free(doors, slot));
        });
        thread.join().expect("no panic");
    }
    let stats = InTurn::stats();
    assert!(stats.peak_live_allocations <= 100, "{stats}");
}

#[test]
fn families_count_for_themselves() {
    family! { struct Left; struct Right; }
    let left: FamilyVec<u64, Left> = (0..1000).fold(FamilyVec::new_in(Left), |mut numbers, number| {
        numbers.push(number);
        numbers
    });
    assert_eq!((Left::stats().live_allocations, Right::stats().live_allocations), (1, 0));
    let right: FamilyVec<u8, Right> = FamilyVec::with_capacity_in(100, Right);
    assert_eq!((Left::stats().live_bytes, Right::stats().live_bytes), (8192, 128));
    drop(left);
    assert_eq!((Left::stats().live_bytes, Right::stats().live_bytes), (0, 128));
    drop(right);
    assert_eq!((Left::stats().live_bytes, Right::stats().live_bytes), (0, 0));
}

#[test]
fn caches_are_counted_with_what_they_hold() {
    family! { struct Cached; }
    let doors = Doors::of::<Cached>();
    free(doors, allocate(doors, 64));
    assert_eq!(Cached::stats().thread_caches, 0, "a cache has to be earned");
    for _ in 0..100 {
        free(doors, allocate(doors, 64));
    }
    let memory = allocate(doors, 64);
    let stats = Cached::stats();
    assert_eq!(stats.thread_caches, 1);
    assert_eq!(stats.cached_bytes, stats.cached_slots * 64, "{stats}");
    free(doors, memory);
    assert_eq!(Cached::stats().cached_slots, stats.cached_slots + 1, "a freed slot stays with its thread");
    assert_eq!(Cached::stats().live_allocations, 0);
}

#[test]
fn used_families_are_found_once_each() {
    family! { struct FoundA; struct FoundB; struct NotFound; }
    let (a, b) = (allocate(Doors::of::<FoundA>(), 100), allocate(Doors::of::<FoundB>(), 3 * MIB));
    let named = |name: &str| families().filter(|family| family.name() == name).collect::<Vec<_>>();
    assert_eq!((named("FoundA").len(), named("FoundB").len(), named("NotFound").len()), (1, 1, 0));
    let (found_a, found_b) = (named("FoundA")[0], named("FoundB")[0]);
    assert_eq!((found_a.stats().live_bytes, found_b.stats().live_bytes), (128, 3 * MIB));
    let shown = format!("FamilyRef({} {}::FoundB)", found_b.id(), module_path!());
    assert_eq!((found_a.stats().name, format!("{found_b:?}")), ("FoundA", shown));
    assert_eq!((found_b.path(), found_b.stats().path, found_b.stats().id), (FoundB::PATH, FoundB::PATH, found_b.id()));
    assert!(found_a.id() < found_b.id(), "numbers are given in the order of first uses");
    assert!(found_a == named("FoundA")[0] && found_a != found_b);
    free(Doors::of::<FoundA>(), a);
    free(Doors::of::<FoundB>(), b);
    let kept_bytes = if cfg!(any(miri, target_family = "wasm")) { 0 } else { 3 * MIB };
    assert_eq!(found_b.trim(), kept_bytes, "the mapping was kept, where any is");
    assert_eq!(found_a.stats().live_bytes + found_b.stats().live_bytes, 0);
    // A walk may go on while families join.
    let mut walk = families();
    let first = walk.next().expect("there are families");
    family! { struct Joined; }
    free(Doors::of::<Joined>(), allocate(Doors::of::<Joined>(), 1));
    assert!(walk.all(|family| family != first && family.path() != Joined::PATH));
    assert_eq!(named("Joined").len(), 1);
}

#[test]
fn two_types_of_one_name_are_two_families() {
    mod one {
        family_alloc::family! { pub(crate) struct Twin; }
    }
    mod two {
        family_alloc::family! { pub(crate) struct Twin; }
    }
    let memory = allocate(Doors::of::<one::Twin>(), 64);
    assert_eq!((one::Twin::stats().live_allocations, two::Twin::stats().live_allocations), (1, 0));
    free(Doors::of::<one::Twin>(), memory);
    free(Doors::of::<two::Twin>(), allocate(Doors::of::<two::Twin>(), 64));
    let twins: Vec<_> = families().filter(|family| family.name() == "Twin").collect();
    assert_eq!(twins.len(), 2);
    assert_eq!([twins[1].path(), twins[0].path()], [one::Twin::PATH, two::Twin::PATH], "first used last comes first");
    assert!(one::Twin::PATH.ends_with("::one::Twin") && two::Twin::PATH.ends_with("::two::Twin"));
    assert_ne!(twins[0].id(), twins[1].id());
    assert_ne!(format!("{:?}", twins[0]), format!("{:?}", twins[1]));
}

#[test]
fn families_are_walked_in_the_order_of_their_first_uses() {
    family! { struct OrderA; struct OrderB; struct OrderC; }
    let all = [Doors::of::<OrderA>(), Doors::of::<OrderB>(), Doors::of::<OrderC>()];
    for place in [0, 1, 0, 2, 1, 0] {
        free(all[place], allocate(all[place], 10));
    }
    let names: Vec<_> = families().map(|family| family.name()).filter(|name| name.starts_with("Order")).collect();
    assert_eq!(names, ["OrderC", "OrderB", "OrderA"], "that of the latest first use comes first");
}

/// Without other threads the cheap figure is the exact one, at any moment.
#[test]
fn live_bytes_are_those_of_the_statistics() {
    family! { struct Cheap; struct CheapChecked { checks: Checked } struct CheapHardened { checks: Hardened } }
    fn check<F: Family>() {
        let doors = Doors::of::<F>();
        let found = || families().find(|family| family.name() == F::NAME).map_or(0, |family| family.live_bytes());
        assert_eq!(F::live_bytes(), 0);
        let mut live = Vec::new();
        for step in 0..2000 {
            live.push(allocate(doors, 1 << (step % 15)));
            if step % 400 == 0 {
                live.push(allocate(doors, 3 * MIB));
            }
            if step % 3 == 0 {
                free(doors, live.swap_remove(step % live.len()));
            }
            let expected = F::stats().live_bytes;
            assert_eq!((F::live_bytes(), found()), (expected, expected), "step {step}");
        }
        // What another thread frees is seen once it has ended.
        let rest: Vec<_> =
            live.into_iter().map(|memory| (memory.cast::<u8>().as_ptr().expose_provenance(), memory.len())).collect();
        let thread = std::thread::spawn(move || {
            for (address, length) in rest {
                let start = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(address)).expect("not null");
                free(doors, NonNull::slice_from_raw_parts(start, length));
            }
        });
        thread.join().expect("no panic");
        assert_eq!((F::live_bytes(), found(), F::stats().live_bytes), (0, 0, 0));
    }
    check::<Cheap>();
    check::<CheapChecked>();
    check::<CheapHardened>();
}

/// Without an exchange, the cheap figure knows what the calling thread did.
#[test]
fn live_bytes_know_the_calling_thread_without_statistics() {
    family! { struct Own; }
    let doors = Doors::of::<Own>();
    let slots: Vec<_> =
        (1..=300).map(|count| (allocate(doors, 64), assert_eq!(Own::live_bytes(), 64 * count)).0).collect();
    for (count, slot) in slots.into_iter().enumerate() {
        assert_eq!(Own::live_bytes(), 64 * (300 - count));
        free(doors, slot);
    }
    assert_eq!(Own::live_bytes(), 0);
}

#[test]
fn statistics_are_compared_and_subtracted() {
    family! { struct Later; }
    let doors = Doors::of::<Later>();
    let unused = Later::stats();
    assert_eq!((unused.id, unused.path), (0, Later::PATH));
    let (slot, large) = (allocate(doors, 100), allocate(doors, 3 * MIB));
    let used = Later::stats();
    assert_ne!(used, unused);
    assert_eq!(used, Later::stats(), "nothing has happened");
    let change = used.since(&unused);
    assert_eq!((change.live_allocations, change.live_bytes), (2, 128 + 3 * MIB as isize));
    assert_eq!((change.large_allocations, change.large_bytes), (1, 3 * MIB as isize));
    assert_eq!(change.slab_bytes, used.slab_bytes as isize);
    assert_eq!((change.free_bytes, change.cached_bytes), (used.free_bytes as isize, used.cached_bytes as isize));
    assert_eq!(unused.since(&used).live_bytes, -change.live_bytes);
    free(doors, slot);
    free(doors, large);
    let freed = Later::stats().since(&used);
    assert_eq!(
        (freed.live_allocations, freed.free_bytes),
        (-2, 128),
        "a thread without a cache gives its slab the slot"
    );
    assert_eq!(freed.reserved_bytes, 0);
}

#[test]
fn the_table_can_be_read() {
    family! { struct Shown; }
    let doors = Doors::of::<Shown>();
    let slots: Vec<_> = (0..3).map(|_| allocate(doors, 100)).collect();
    let large = allocate(doors, 3 * MIB);
    let table = Shown::stats().to_string();
    let head = table.lines().next().expect("a headline");
    assert!(head.starts_with("family Shown: 3.0 MiB live in 4 allocations"), "{table}");
    let row = |name: &str| table.lines().find(|line| line.trim_start().starts_with(name)).map(str::to_owned);
    let row_128 = row("128 B").unwrap_or_else(|| panic!("no row for the class:\n{table}"));
    assert!(row_128.contains("384 B"), "three slots of 128 bytes: {row_128}");
    let row_large = row("large").unwrap_or_else(|| panic!("no row for large allocations:\n{table}"));
    assert!(row_large.contains("3.0 MiB"), "{row_large}");
    assert!(row("64 B").is_none(), "classes without slabs are left out:\n{table}");
    let widths: Vec<usize> = table.lines().skip(1).map(|line| line.trim_end().chars().count()).collect();
    assert!(widths.iter().all(|&width| width <= 100), "the table fits a terminal:\n{table}");
    slots.into_iter().for_each(|slot| free(doors, slot));
    free(doors, large);
}

#[test]
fn a_family_is_a_type_without_size() {
    family! {
        /// Documented.
        #[must_use]
        pub(crate) struct Bare;
    }
    fn assert_traits<F: Family + Plain>() {}
    trait Plain {}
    impl<T: Copy + Clone + Default + std::fmt::Debug + Eq + std::hash::Hash + Send + Sync + 'static> Plain for T {}
    assert_traits::<Bare>();
    assert_traits::<FamilyAlloc>();
    assert_eq!((size_of::<Bare>(), Bare::NAME, format!("{Bare:?}")), (0, "Bare", "Bare".to_owned()));
    assert_eq!(size_of::<FamilyVec<u64, Bare>>(), 3 * size_of::<usize>());
    assert_eq!(FamilyAlloc::NAME, "FamilyAlloc");
}

/// What a busy thread keeps of slots of every class is bounded, by default and where the family says so.
#[test]
fn what_a_busy_thread_keeps_is_bounded() {
    family! { struct Usual; struct Little { cache_bytes: 16 * 1024 } }
    fn keep<F: Family>() -> usize {
        for _ in 0..300 {
            for size in (0..=20).map(|shift| 1 << shift) {
                let slots: Vec<*mut u8> = (0..200.min(MIB / size)).map(|_| F::malloc(size)).collect();
                // SAFETY: allocated above with this size.
                slots.into_iter().for_each(|slot| unsafe { F::free(slot, size) });
            }
        }
        F::trim();
        for size in (0..=20).map(|shift| 1 << shift) {
            let slots: Vec<*mut u8> = (0..200.min(MIB / size)).map(|_| F::malloc(size)).collect();
            // SAFETY: allocated above with this size.
            slots.into_iter().for_each(|slot| unsafe { F::free(slot, size) });
        }
        let stats = F::stats();
        let long: usize = stats.classes[16..].iter().map(|class| class.cached_slots).sum();
        assert_eq!((stats.live_allocations, long), (0, 0), "slots from 64 KiB up are not cached");
        // Beside what its magazines hold a thread may have the rest of a fresh range of each class, which nobody has touched.
        stats.cached_bytes
    }
    let (usual, little) = (keep::<Usual>(), keep::<Little>());
    assert!(usual > 0 && usual <= 2 * (256 << 10), "{usual} bytes");
    assert!(little > 0 && little < usual, "{little} bytes");
}

/// Two classes that have all that a thread may keep leave some to a third, also where none of them
/// is idle between two looks.
#[test]
fn a_third_class_finds_room_in_a_cache_that_two_have_filled() {
    family! { struct Shared; struct SharedSpaced { classes: Spaced, cache_bytes: 256 << 10 } }
    type Slots = Vec<(*mut u8, usize)>;
    /// One of each in turn, so many times.
    fn in_turn<F: Family>(sizes: &[usize], rounds: usize) -> Slots {
        (0..rounds).flat_map(|_| sizes).map(|&size| (F::malloc(size), size)).collect()
    }
    fn free<F: Family>(slots: Slots) {
        // SAFETY: allocated above with this size.
        slots.into_iter().for_each(|(slot, size)| unsafe { F::free(slot, size) });
    }
    fn cached<F: Family>(size: usize) -> usize {
        F::stats().classes.iter().filter(|class| class.slot_bytes == size).map(|class| class.cached_slots).sum()
    }
    fn check<F: Family>() {
        (0..40).for_each(|_| free::<F>(in_turn::<F>(&[1024, 2048], 2000)));
        assert!(cached::<F>(1024) > 0 && cached::<F>(2048) > 0);
        let first = in_turn::<F>(&[1024, 2048, 4096], 1000);
        let then: Vec<(Slots, usize)> =
            (0..100).map(|_| (in_turn::<F>(&[1024, 2048, 4096], 10), cached::<F>(4096))).collect();
        assert!(then.iter().any(|&(_, cached)| cached > 0), "{}", F::stats());
        then.into_iter().for_each(|(slots, _)| free::<F>(slots));
        free::<F>(first);
    }
    check::<Shared>();
    check::<SharedSpaced>();
}
