//! How hardened families refill: fresh and recycled slots alike, mixed.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{FamilyCore, ThreadCache};
use crate::capacity::batch_slots;
use crate::large::mapped_bytes;
use crate::marks::{self, Generation, MARK_BYTES};
use crate::size_class::SizeClass;
use crate::sync::Relaxed;

impl FamilyCore {
    /// Adds a batch of slots to a magazine that is down to its quarantine, in no order; `prepare` gets the address of each that was not
    /// used before, and whether no slab ever had it. Without memory nothing is added.
    pub(crate) fn refill_mixed(&'static self, cache: &ThreadCache, class: SizeClass, prepare: impl Fn(usize, bool)) {
        let cache = cache.cache;
        let magazine = cache.magazine(class);
        self.note_live(cache, class);
        let (first, batch) = (magazine.stored_slots(), batch_slots(magazine.capacity()));
        if !magazine.has_fresh() {
            magazine.append(cache.tally(), batch, |places| self.take(cache, class, places));
        }
        let (_, geometry, _) = self.bin(class);
        for _ in magazine.stored_slots() - first..batch {
            let Some((address, is_new)) = magazine.first_fresh() else { break };
            // SAFETY: a slot of the fresh range, which is this thread's.
            let noted = unsafe { geometry.note_fresh(address..address + 1) };
            noted.unwrap_or_else(|twice| self.report_freed_twice(twice, class));
            prepare(address, is_new);
            magazine.adopt_fresh(cache.tally(), class);
        }
        magazine.shuffle_from(first, || cache.random());
        magazine.note(class);
    }

    /// What stands behind an allocation at `address` that is marked in this generation.
    pub(crate) fn mark(&self, address: usize, generation: Generation) -> [u8; MARK_BYTES] {
        // Relaxed: as in `tag`.
        marks::mark(address, self.number.load(Relaxed), generation)
    }

    /// Notes that a mark stands behind what the client asked for in a live large allocation.
    pub(crate) fn mark_large(&self, memory: NonNull<u8>, generation: Generation) {
        self.large.mark(memory, generation);
    }

    /// The generation of its mark, if `memory` is a live large allocation that has one, which the
    /// layout fits.
    pub(crate) fn mark_of_large(&self, memory: NonNull<u8>, layout: Layout) -> Option<Generation> {
        if !self.is_registered() {
            return None;
        }
        mapped_bytes(layout).and_then(|bytes| self.large.mark_of(memory, bytes))
    }

    /// New random numbers for all thread caches, so that a child process does not do as its parent does.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(super) fn reseed(&self) {
        if self.checks.is_hardened() {
            // The child of a fork has one thread, and this is it: nobody else uses the caches.
            self.caches.lock().iter().for_each(|cache| cache.cache.seed(crate::os::random()));
        }
    }
}
