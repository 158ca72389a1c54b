//! What threads have cached of a heap that ends: forgotten with the slabs that it lies in, where nothing else is out of these, and
//! not given back slot by slot.
//!
//! ```text
//!   doors shut ──► each class: as many out as cached? ──yes──► its slabs are closed as they are
//!                                     │ no: something is live or in the depot, or there is much to look through
//!                                     └──► caches ──emptied──► bins, which then know what is live
//! ```
//!
//! Everything is counted and done under the lock of the caches, so that no thread gives its cache to another heap meanwhile. If it
//! was so in all classes, the caches leave the list as they are, and still refer to slots. Nobody looks at them: their doors are
//! shut (M6 in `magazine`), they are found by a generation that has ended (E2 in `heaps`), and a thread that has one
//! lets it go, or makes it another heap's, without a look at what it holds.

use super::FamilyCore;
use super::caches::Caches;
use crate::size_class::{COUNT_MAX, SizeClass};

/// So many slabs are closed, and so many slots looked through, under one lock.
const SLABS_AT_ONCE: usize = 128;
const SLOTS_AT_ONCE: usize = 16 << 10;

/// A bit for each class.
type ClassSet = u128;
const _: () = assert!(COUNT_MAX <= ClassSet::BITS as usize, "each class has a bit");

fn bit(class: SizeClass) -> ClassSet {
    1 << class.index()
}

impl FamilyCore {
    /// Forgets what is cached of classes of which nothing else is out: of a heap that the caller has to itself, and whose caches are
    /// shut. Whether that was everything, and with `may_end` the caches are forgotten as well; else those that are left are still to
    /// be taken back.
    pub(super) fn forget_what_is_cached(&'static self, may_end: bool) -> bool {
        let mut caches = self.caches.lock();
        // Where states are kept, slots that were freed twice are found when they go back.
        if caches.in_use == 0 || self.checks.keeps_states() || !caches.iter().all(|cache| cache.is_of_this_process()) {
            return false;
        }
        let (cached, is_all) = self.cached_classes(&caches);
        for class in self.used_classes().filter(|&class| cached & bit(class) != 0) {
            let (bin, geometry, _) = self.bin(class);
            let held = caches.iter().flat_map(|cache| cache.cache.magazine(class).held_slots());
            let out_slots = bin.out().slots;
            // SAFETY: what is out is in caches that nobody uses any more, and nobody works on slots of a heap without a handle.
            unsafe { bin.close_slabs(&geometry, held) };
            self.refund(out_slots * class.slot_bytes());
            if !(is_all && may_end) {
                caches.iter().for_each(|cache| self.forget_class(cache.cache, class));
            }
        }
        if is_all && may_end {
            caches.forget_all();
        }
        is_all && may_end
    }

    /// The classes of which nothing is live and nothing in the depot, as long as little enough is cached of them; and whether these are
    /// all that have slabs.
    fn cached_classes(&self, caches: &Caches) -> (ClassSet, bool) {
        let (mut cached, mut is_all, mut slots, mut slabs) = (0, true, 0, 0);
        for class in self.used_classes() {
            let held: usize = caches.iter().map(|cache| cache.cache.magazine(class).held(class)).sum();
            let out = self.bin(class).0.out();
            let (more_slots, more_slabs) = (slots + held, slabs + out.slab_count);
            let is_cached = held == out.slots && out.depot_slots + out.claimed_slots == 0;
            if is_cached && more_slots <= SLOTS_AT_ONCE && more_slabs <= SLABS_AT_ONCE {
                (cached, slots, slabs) = (cached | bit(class), more_slots, more_slabs);
            } else {
                is_all = false;
            }
        }
        (cached, is_all)
    }
}

#[cfg(all(test, unix, not(any(miri, loom))))]
mod tests {
    use core::alloc::Layout;
    use core::ptr::NonNull;
    use std::sync::Barrier;

    use super::*;
    use crate::checks::Checks;
    use crate::front::Engine;
    use crate::heap::{Heap, Parent};
    use crate::size_class::Classes;

    const SIZES: [usize; 9] = [1, 2, 8, 24, 64, 100, 640, 5000, 20_000];

    fn core_of(heap: &impl Parent) -> &'static FamilyCore {
        heap.core()
    }

    /// So many allocations of each size, all of which are freed but the first `kept` of each.
    fn churn(heap: &Heap, count: usize, kept: usize) -> Vec<(NonNull<u8>, Layout)> {
        let layouts = SIZES.map(|size| Layout::from_size_align(size, 1).unwrap());
        let all = layouts.map(|layout| {
            (0..count).map(|_| (heap.allocate(layout).unwrap().cast::<u8>(), layout)).collect::<Vec<_>>()
        });
        let mut live = Vec::new();
        for mut of_size in all {
            for (memory, layout) in of_size.split_off(kept) {
                // SAFETY: allocated above with this layout, and not used.
                unsafe { heap.deallocate(memory, layout) };
            }
            live.extend(of_size);
        }
        live
    }

    fn assert_nothing_is_left(core: &FamilyCore) {
        assert_eq!((core.caches.lock().in_use, core.charged_bytes()), (0, 0));
        for class in core.all_classes() {
            let (bin, geometry, _) = core.bin(class);
            let (out, mut slabs) = (bin.out(), 0);
            geometry.each_slab(usize::MAX, |_| slabs += 1);
            assert_eq!((out.slots, out.depot_slots, out.slab_count, slabs), (0, 0, 0, 0), "{class:?}");
        }
    }

    /// Caches of several threads, which go on to the next heap of the core.
    #[test]
    fn what_is_cached_is_forgotten_with_its_slabs() {
        for (checks, classes) in [Checks::Default, Checks::Unchecked]
            .into_iter()
            .flat_map(|checks| [Classes::Natural, Classes::Spaced].map(|classes| (checks, classes)))
        {
            let begin = |name| Heap::builder(name).checks(checks).classes(classes).build().unwrap();
            let (first, next) = (begin("forgotten"), std::sync::Mutex::new(None));
            let (core, barrier) = (core_of(&first), Barrier::new(3));
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..2)
                    .map(|_| {
                        let (own, next, barrier) = (first.clone(), &next, &barrier);
                        scope.spawn(move || {
                            (0..4).for_each(|_| assert!(churn(&own, 300, 0).is_empty()));
                            drop(own);
                            barrier.wait();
                            barrier.wait();
                            let heap: Heap = next.lock().unwrap().clone().unwrap();
                            assert!(churn(&heap, 300, 0).is_empty());
                        })
                    })
                    .collect();
                barrier.wait();
                assert_eq!(core.caches.lock().in_use, 2);
                core.shut_caches();
                // What is in the depots is between the threads.
                core.all_classes().map(|class| (class, core.bin(class))).for_each(|(class, (bin, geometry, depot))| {
                    bin.trim(&geometry, depot).unwrap_or_else(|twice| core.report_twice(twice, class));
                });
                let live = first.allocate(Layout::new::<u64>()).unwrap().cast::<u8>();
                let out = |class| core.bin(class).0.out().slots;
                let before: Vec<usize> = core.all_classes().map(out).collect();
                let of_live = core.class_of(Layout::new::<u64>()).index();
                assert!(!core.forget_what_is_cached(true), "something is live");
                // Of its class what was cached is still out, and of all others nothing is.
                let after: Vec<usize> = core.all_classes().map(out).collect();
                assert!(before[of_live] > 1 && before.iter().sum::<usize>() > 1000);
                let is_right =
                    |(class, &left): (usize, &usize)| left == if class == of_live { before[class] } else { 0 };
                assert!(after.iter().enumerate().all(is_right), "{before:?} {after:?}");
                assert_eq!(first.stats().live_allocations, 1);
                // SAFETY: allocated above with this layout.
                unsafe { first.deallocate(live, Layout::new::<u64>()) };
                assert!(core.forget_what_is_cached(true));
                assert_nothing_is_left(core);
                drop(first);
                assert_nothing_is_left(core);
                *next.lock().unwrap() = Some(begin("next"));
                barrier.wait();
                // Joined one by one: a scope may end while its threads still give their caches back.
                threads.into_iter().for_each(|thread| thread.join().unwrap());
            });
            let next = next.into_inner().unwrap().unwrap();
            let live = churn(&next, 500, 100);
            let mut ranges: Vec<_> = live.iter().map(|(memory, layout)| (memory.addr().get(), layout.size())).collect();
            ranges.sort_unstable();
            ranges.windows(2).for_each(|two| assert!(two[0].0 + two[0].1 <= two[1].0, "{two:x?}"));
            assert_eq!(next.stats().live_allocations, live.len());
            for (memory, layout) in live {
                // SAFETY: allocated by `churn` with this layout.
                unsafe { next.deallocate(memory, layout) };
            }
            let core = core_of(&next);
            drop(next);
            assert_nothing_is_left(core);
        }
    }
}
