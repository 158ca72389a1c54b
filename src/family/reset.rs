//! All of a family freed at once, whoever has it.
//!
//! ```text
//!   each thread's cache ──emptied in place──► bins ──forget their slabs──► units, dirty, in the pool
//!                                    large allocations ──freed one by one──► kept, as after a free
//! ```
//!
//! The caller promises that no thread is inside a call of the family or ends meanwhile. So other threads' caches may be changed as if
//! they were one's own: they stay their threads', and hold nothing. Who looks after all families takes no part in that
//! promise; what such a thread has claimed is waited for.

use super::FamilyCore;
use crate::magazine::Cache;
use crate::os;
use crate::size_class::SizeClass;
use crate::sync::{Relaxed, let_others_work};

impl FamilyCore {
    /// Frees all that is live.
    ///
    /// # Safety
    /// Nothing that the family has allocated is used any more. Every call of the family by another thread, and the end of every thread that
    /// has made one, happens before this call or after it.
    pub(crate) unsafe fn reset(&'static self) {
        if !self.is_registered() {
            return;
        }
        self.empty_caches();
        for class in self.all_classes() {
            // SAFETY: the same contract; caches hold nothing any more.
            unsafe { self.reset_class(class) };
        }
        // In others some may be guarded still.
        if !self.checks.is_hardened() {
            self.used.forget();
        }
        // SAFETY: the same contract.
        let bytes = unsafe { self.large.reset(os::milliseconds()) };
        self.refund(bytes);
        self.count_as_freed();
        self.stir_to_give_back();
    }

    /// Empties all caches, whichever threads have them, where none of these calls the family meanwhile. They stay where they are.
    fn empty_caches(&'static self) {
        let mut caches = self.caches.lock();
        for cache in caches.iter() {
            if cache.is_of_this_process() {
                self.forget_all(cache.cache);
            } else {
                // Its thread stayed behind a fork.
                caches.unlink(cache);
            }
        }
    }

    /// Lets a cache forget what it holds. The bins, which count that as out, forget it as well.
    fn forget_all(&'static self, cache: &Cache) {
        if self.checks.keeps_states() {
            // Their slabs know what each slot is.
            return self.flush_all(cache);
        }
        self.all_classes().for_each(|class| self.forget_class(cache, class));
    }

    /// Lets a cache forget what it holds of a class. Where the family keeps no states.
    pub(super) fn forget_class(&self, cache: &Cache, class: SizeClass) {
        let magazine = cache.magazine(class);
        if !magazine.is_as_begun() {
            self.note_live(cache, class);
            magazine.flush(cache.tally(), usize::MAX, |_| {});
            magazine.take_fresh(cache.tally(), class);
            magazine.note(class);
        }
    }

    /// # Safety
    /// As for [`reset`](Self::reset), and no cache holds slots of the class.
    unsafe fn reset_class(&'static self, class: SizeClass) {
        if !self.used.may_have(class) {
            return;
        }
        let (bin, geometry, _) = self.bin(class);
        let slab_count = bin.slab_count();
        let out_slots = loop {
            // SAFETY: the same contract; the slabs are closed below.
            match unsafe { bin.forget_slabs() } {
                Some(out_slots) => break out_slots,
                None => let_others_work(),
            }
        };
        // SAFETY: forgotten just now, and the same contract.
        unsafe { geometry.close_all(slab_count) };
        self.refund(out_slots * class.slot_bytes());
    }

    /// Counts as freed what was allocated and will not be freed any more.
    fn count_as_freed(&self) {
        let (allocations, frees) = self.caches.lock().counts().plus(self.counts_beside()).as_pair();
        // Relaxed: a counter that publishes nothing.
        self.freed_beside.fetch_add(allocations.wrapping_sub(frees) as crate::sync::Count, Relaxed);
        self.live_seen.now.store(0, Relaxed);
        self.live_bytes_seen.now.store(0, Relaxed);
    }
}
