//! What is done where memory lies outside of a stretch, so that tags alone do not tell whose a slot is.

use core::alloc::{GlobalAlloc, Layout};

use super::{Enter, Entered, Scoped};
use crate::front::Family;
use crate::header::{note_memory, tags_suffice};
use crate::heap::Heap;
use crate::size_class::Classes;
use crate::sync::TAKEN;

crate::family! {
    struct Home;
    struct Narrow { slab_bytes: 64 * 1024 }
}

const SCOPED: Scoped<Home> = Scoped::new();

fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 11) as usize
}

/// Allocates, resizes and frees in scopes and outside; what is written to each block says which it is.
fn make_calls(heaps: &[Heap], seed: u64) {
    let mut random = seed;
    let mut live: Vec<(usize, Layout, u8)> = Vec::new();
    let is_intact = |&(address, layout, byte): &(usize, Layout, u8)| {
        let memory = core::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: a live block of that length, all of which was written.
        unsafe { core::slice::from_raw_parts(memory, layout.size()) }.iter().all(|&there| there == byte)
    };
    for step in 0..20_000 {
        let _entered = match next(&mut random) % (heaps.len() + 2) {
            0 => None,
            1 => Some(Narrow.enter()),
            index => Some(heaps[index - 2].enter()),
        };
        let size =
            1 + next(&mut random) % [64, 1000, 100_000][usize::from(step % 8 == 0) + usize::from(step % 64 == 0)];
        let layout = Layout::from_size_align(size, 1 << (next(&mut random) % 7)).unwrap();
        let index = next(&mut random) % live.len().max(1);
        match next(&mut random) % 4 {
            0 if !live.is_empty() => {
                let block = live.swap_remove(index);
                assert!(is_intact(&block));
                // SAFETY: live, with this layout.
                unsafe { SCOPED.dealloc(core::ptr::with_exposed_provenance_mut(block.0), block.1) };
            }
            1 if !live.is_empty() => {
                let (address, old, byte) = live[index];
                // SAFETY: live, with this layout, and the new size is not 0.
                let memory = unsafe { SCOPED.realloc(core::ptr::with_exposed_provenance_mut(address), old, size) };
                // SAFETY: as long as the new size says.
                let kept = unsafe { core::slice::from_raw_parts(memory, size.min(old.size())) };
                assert!(kept.iter().all(|&there| there == byte));
                // SAFETY: as above.
                unsafe { memory.write_bytes(byte, size) };
                let layout = Layout::from_size_align(size, old.align()).unwrap();
                live[index] = (memory.expose_provenance(), layout, byte);
            }
            _ => {
                // SAFETY: the size is not 0.
                let memory = unsafe { SCOPED.alloc(layout) };
                assert!(!memory.is_null() && memory.addr() % layout.align() == 0);
                // SAFETY: a new block of that length.
                unsafe { memory.write_bytes(step as u8, size) };
                live.push((memory.expose_provenance(), layout, step as u8));
            }
        }
        if live.len() > 500 {
            let block = live.swap_remove(0);
            assert!(is_intact(&block));
            // SAFETY: live, with this layout.
            unsafe { SCOPED.dealloc(core::ptr::with_exposed_provenance_mut(block.0), block.1) };
        }
    }
    for block in live {
        assert!(is_intact(&block));
        // SAFETY: live, with this layout.
        unsafe { SCOPED.dealloc(core::ptr::with_exposed_provenance_mut(block.0), block.1) };
    }
}

/// The same calls before and after; what was noted stays so for the rest of the process, which is one of its own.
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
#[cfg_attr(target_pointer_width = "32", ignore = "a table covers all of so short an address space")]
fn scopes_are_right_where_tags_do_not_suffice() {
    const NAME: &str = "scope::tests::scopes_are_right_where_tags_do_not_suffice";
    if let Some(output) = crate::child::run(NAME) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let spaced = Heap::builder("spaced").classes(Classes::Spaced).build().unwrap();
    let heaps = [Heap::new("one").unwrap(), Heap::builder("wide").slab_bytes(2 << 20).build().unwrap(), spaced];
    make_calls(&heaps, 0x1234_5678_9abc_def1);
    // A page at each end of what there is.
    note_memory(1 << 12, 1 << 12);
    note_memory((usize::MAX >> 1) & !0xffff, 1 << 12);
    assert!(!tags_suffice());
    std::thread::scope(|scope| {
        let heaps = &heaps;
        // Joined one by one: a scope may end while its threads still give their caches back.
        let threads = [7, 8, 9].map(|seed| scope.spawn(move || make_calls(heaps, seed << 40 | 1)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(heaps.iter().all(|heap| heap.stats().live_allocations == 0));
    assert_eq!((Home::stats().live_allocations, Narrow::stats().live_allocations), (0, 0));
}

crate::family! { struct Spacious { classes: Spaced } }

/// Calls of a family with spaced classes, in its scope and from elsewhere, which its cache serves: no lock is taken. Of sizes whose
/// natural class is longer, shorter and of the same index.
#[test]
fn a_cache_with_spaced_classes_serves_its_scope() {
    const SIZES: [usize; 8] = [1, 24, 40, 56, 100, 640, 1000, 4000];
    const ROUNDS: usize = 1000;
    let alloc = |size: usize| {
        // SAFETY: the size is not 0.
        let memory = unsafe { SCOPED.alloc(Layout::from_size_align(size, 1).unwrap()) };
        assert!(!memory.is_null());
        memory
    };
    // SAFETY: each block is freed once, with the size that it was allocated with.
    let free =
        |memory: *mut u8, size: usize| unsafe { SCOPED.dealloc(memory, Layout::from_size_align(size, 1).unwrap()) };
    std::thread::spawn(move || {
        let builder = Heap::builder("spacious").classes(Classes::Spaced);
        let (heap, natural) = (builder.build().unwrap(), Heap::new("beside").unwrap());
        let enter: [(&str, &dyn Fn() -> Entered); 2] =
            [("a heap", &|| heap.enter()), ("a family", &|| Spacious.enter())];
        for (kind, enter) in enter {
            for size in SIZES {
                let layout = Layout::from_size_align(size, 1).unwrap();
                let pair_inside = || {
                    let _entered = enter();
                    free(alloc(size), size);
                };
                let from_elsewhere = |elsewhere: &dyn Fn(*mut u8)| {
                    let _entered = enter();
                    elsewhere(alloc(size));
                };
                let outside = |memory| Heap::outside(|| free(memory, size));
                let in_another = |memory| natural.scope(|| free(memory, size));
                let resized = || {
                    let _entered = enter();
                    // SAFETY: live, with this layout; and a size within the class, or of another.
                    let longer = unsafe { SCOPED.realloc(alloc(size), layout, 2 * size) };
                    free(longer, 2 * size);
                };
                let ways: [(&str, &dyn Fn()); 4] = [
                    ("inside", &pair_inside),
                    ("freed outside", &|| from_elsewhere(&outside)),
                    ("freed in another scope", &|| from_elsewhere(&in_another)),
                    ("resized", &resized),
                ];
                for (way, pair) in ways {
                    // The caches are earned, and as long as they get.
                    (0..ROUNDS).for_each(|_| pair());
                    let locks = || {
                        let before = TAKEN.get();
                        (0..ROUNDS).for_each(|_| pair());
                        TAKEN.get() - before
                    };
                    // Now and then it is looked whether something may go back, in all families that other tests have.
                    let taken = (0..5).map(|_| locks()).min().unwrap();
                    assert!(taken <= ROUNDS / 50, "{taken} locks for {ROUNDS} pairs of {size} bytes of {kind}, {way}");
                }
            }
        }
        let stats = [heap.stats(), Spacious::stats()];
        for stats in stats {
            assert_eq!((stats.live_allocations, stats.thread_caches), (0, 1), "{stats}");
            // A resize across classes is an allocation and a free more.
            assert_eq!(stats.total_allocations, stats.total_frees);
            assert!(stats.total_allocations >= (2 * 4 * ROUNDS * SIZES.len()) as u64, "{stats}");
        }
    })
    .join()
    .unwrap();
}

/// A scope that is entered before the thread has a cache of its heap, a cache that goes to another heap while its scope is open, and
/// scopes of both kinds of classes in turn: each block is whose it should be.
#[test]
fn what_is_current_changes_with_scopes_and_caches() {
    let size_of_class = |heap: &Heap| heap.live_bytes();
    let alloc = || {
        // SAFETY: the size is not 0.
        let memory = unsafe { SCOPED.alloc(Layout::from_size_align(40, 8).unwrap()) };
        assert!(!memory.is_null());
        memory
    };
    // SAFETY: each block is freed once, with the layout that it was allocated with.
    let free = |memory: *mut u8| unsafe { SCOPED.dealloc(memory, Layout::from_size_align(40, 8).unwrap()) };
    std::thread::spawn(move || {
        // As many as have places in a thread's table, twice, so that each takes the place of another.
        let kinds = [Classes::Spaced, Classes::Natural];
        let heaps: Vec<Heap> =
            (0..64).map(|index| Heap::builder("in turn").classes(kinds[index / 8 % 2]).build().unwrap()).collect();
        let slot_bytes = |index: usize| [40, 64][index / 8 % 2];
        for round in 0..6 {
            for (index, heap) in heaps.iter().enumerate() {
                let _outer = heap.enter();
                let kept: Vec<*mut u8> = (0..100).map(|_| alloc()).collect();
                assert_eq!(size_of_class(heap), 100 * slot_bytes(index), "round {round}, heap {index}");
                for step in [1, 8, 9, 31, 32, 33] {
                    let other = (index + step) % heaps.len();
                    // In the other's scope the cache of the outer one may go.
                    let block = heaps[other].scope(|| {
                        (0..100).for_each(|_| free(alloc()));
                        alloc()
                    });
                    assert_eq!(size_of_class(&heaps[other]), slot_bytes(other), "round {round}, heap {other}");
                    let own = alloc();
                    assert_eq!(size_of_class(heap), 101 * slot_bytes(index), "round {round}, heap {index}");
                    Heap::outside(|| free(own));
                    free(block);
                    assert_eq!(size_of_class(&heaps[other]), 0, "round {round}, heap {other}");
                }
                kept.into_iter().for_each(free);
                assert_eq!(size_of_class(heap), 0, "round {round}, heap {index}");
            }
        }
    })
    .join()
    .unwrap();
}

/// What heaps hold under the home may have used its limit up before it is first used itself.
#[test]
fn a_home_that_is_over_its_limit_is_begun() {
    crate::family! { struct Tight { slab_bytes: 512 * 1024, limit: 64 } }
    const OVER: Scoped<Tight> = Scoped::new();
    let heap = Heap::builder("all of it").parent(&Tight).build().unwrap();
    let layout = Layout::from_size_align(64, 8).unwrap();
    fn core_of(heap: &impl Enter) -> &'static crate::family::FamilyCore {
        heap.core()
    }
    let (core, class) = (core_of(&heap), crate::size_class::SizeClass::natural(6));
    let (first, _) = core.take_one(class).unwrap();
    let second = heap.scope(|| {
        // SAFETY: the size is not 0.
        unsafe { OVER.alloc(layout) }
    });
    assert!(!second.is_null());
    // SAFETY: allocated above with this layout.
    unsafe { OVER.dealloc(second, layout) };
    // SAFETY: taken above, and not used.
    unsafe { core.give_one(class, first) };
}
