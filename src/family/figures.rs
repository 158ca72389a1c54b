//! The figures of a family: what is noted of its calls, and what `stats` makes of it.

#![forbid(unsafe_code)]

use super::FamilyCore;
#[cfg(feature = "_faults")]
use super::{heaps::shared_pools, registry::cores};
use crate::magazine::{Cache, Counts};
use crate::size_class::SizeClass;
use crate::stats::{ClassStats, Stats};
use crate::sync::{AtomicUsize, Relaxed};

/// A number and the largest value it has had.
pub(super) struct Gauge {
    pub(super) now: AtomicUsize,
    pub(super) peak: AtomicUsize,
}

impl Gauge {
    pub(super) const fn new() -> Self {
        Self { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    pub(super) fn add(&self, difference: isize) {
        // Relaxed: a counter that publishes nothing.
        let now = self.now.fetch_add(difference as usize, Relaxed).wrapping_add(difference as usize);
        if difference > 0 {
            self.raise(now);
        }
    }

    pub(super) fn raise(&self, value: usize) {
        // A negative sum, for a moment while threads note one after another, is no peak.
        if value as isize > 0 && value > self.peak.load(Relaxed) {
            self.peak.fetch_max(value, Relaxed);
        }
    }

    /// Begins anew, for who has the family to itself.
    pub(super) fn reset(&self) {
        // Relaxed: as above.
        self.now.store(0, Relaxed);
        self.peak.store(0, Relaxed);
    }
}

impl FamilyCore {
    /// Notes what the owner of `cache` has allocated or freed of a class since its last exchange.
    pub(super) fn note_live(&self, cache: &Cache, class: SizeClass) {
        self.note(cache.magazine(class).allocated_since_noted(class), class.slot_bytes());
    }

    pub(super) fn note(&self, slots: isize, slot_bytes: usize) {
        self.live_seen.add(slots);
        self.live_bytes_seen.add(slots * slot_bytes as isize);
    }

    /// Notes an allocation that no cache counts.
    pub(super) fn note_allocation(&self, bytes: usize) {
        // Relaxed, here and below: a counter that publishes nothing.
        self.allocated_beside.fetch_add(1, Relaxed);
        self.note(1, bytes);
    }

    /// Notes a free that no cache counts.
    pub(super) fn note_free(&self, bytes: usize) {
        self.freed_beside.fetch_add(1, Relaxed);
        self.note(-1, bytes);
    }

    /// Counts from nothing, for the next heap of a core that nobody uses.
    pub(super) fn forget_totals(&self) {
        // Relaxed: the heap's first handle publishes it.
        self.allocated_beside.store(0, Relaxed);
        self.freed_beside.store(0, Relaxed);
        self.caches.lock().forget_counts();
    }

    /// What was allocated and freed, and no cache counts.
    pub(super) fn counts_beside(&self) -> Counts {
        // Relaxed: as where they are counted.
        Counts { allocations: self.allocated_beside.load(Relaxed), frees: self.freed_beside.load(Relaxed) }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (name, path) = (self.lasting_name(), self.lasting_path());
        let mut stats = Stats::new(name, path, self.number.load(Relaxed), self.classes, self.all_classes());
        if !self.is_registered() {
            return stats;
        }
        stats.is_orphan = self.is_orphan();
        let caches = self.caches.lock();
        stats.thread_caches = caches.in_use;
        (stats.total_allocations, stats.total_frees) = caches.counts().plus(self.counts_beside()).in_order().as_pair();
        for class in self.all_classes() {
            let (bin, geometry, _) = self.bin(class);
            let counts = bin.counts(&geometry);
            let held: usize = caches.iter().map(|cache| cache.cache.magazine(class).held(class)).sum();
            // While other threads are in the middle of a call, a slot may be seen twice or not at all.
            let held = held.min(counts.out_slots);
            let live = counts.out_slots - held;
            stats.live_allocations += live;
            stats.live_bytes += live * class.slot_bytes();
            stats.slab_bytes += counts.slab_count << self.unit_shift;
            stats.cached_slots += held;
            stats.cached_bytes += held * class.slot_bytes();
            stats.depot_bytes += counts.depot_slots * class.slot_bytes();
            stats.free_bytes += counts.free_slots * class.slot_bytes();
            let of_class = ClassStats {
                slot_bytes: class.slot_bytes(),
                slab_count: counts.slab_count,
                live_slots: live,
                cached_slots: held,
                depot_slots: counts.depot_slots,
                free_slots: counts.free_slots,
                idle_slots: counts.idle_slots,
                purged_slots: counts.purged_slots,
            };
            stats.classes.set(class, of_class);
        }
        drop(caches);
        if self.shares_units() {
            stats.reserved_bytes = stats.slab_bytes;
        } else {
            let pool = self.pool.lock();
            stats.reserved_bytes = pool.reserved_bytes;
            stats.kept_bytes = pool.dirty_count << self.unit_shift;
            stats.huge_bytes = pool.huge_bytes();
        }
        let large = self.large.figures();
        stats.large_allocations = large.count;
        stats.large_bytes = large.bytes;
        stats.kept_bytes += large.kept_bytes;
        stats.live_allocations += stats.large_allocations;
        stats.live_bytes += stats.large_bytes;
        self.live_seen.raise(stats.live_allocations);
        self.live_bytes_seen.raise(stats.live_bytes);
        stats.peak_live_allocations = self.live_seen.peak.load(Relaxed);
        stats.peak_live_bytes = self.live_bytes_seen.peak.load(Relaxed);
        stats
    }
}

/// Address space that is reserved for slabs of all families and heaps, those that have ended included: for the test in which
/// calls of the system fail.
#[cfg(feature = "_faults")]
#[must_use]
pub fn reserved_bytes_of_all() -> usize {
    let own = cores().map(|core| core.pool.lock().reserved_bytes).sum::<usize>();
    own + shared_pools().map(|(_, pool)| pool.lock().reserved_bytes).sum::<usize>()
}
