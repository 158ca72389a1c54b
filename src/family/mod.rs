//! What all threads share of one family: its bins, units, large allocations, thread caches and counters.
//!
//! **F1** A family's number is given once, when it is first used, and never again to another; the tag of a slab is number and
//! class. **F2** is said in [`caches`].
//! **F3** `Σ bins' out − Σ caches' held + large` is what clients hold, when no thread is in the middle of a call.
//! **F4** The locks of a family are taken only once it is in the registry: only then does a `fork`
//! hold them.
//! **F5** Every allocation and every free is counted once: by the cache that served it (M5), else
//! beside the caches. A resize is both where another allocation takes the place of the first, else
//! neither.

mod caches;
mod checked;
#[cfg(all(unix, not(any(miri, loom))))]
mod fork;
mod hardened;
mod house;
mod live;
mod registry;
mod report;

use core::alloc::Layout;
use core::ptr::NonNull;

use caches::Caches;

use crate::bin::{Bin, DepotMemory, Taken};
use crate::capacity::{CACHE_BYTES, DEPOT_STARTS, batch_slots, fresh_slots, magazine_slots};
use crate::checks::Checks;
use crate::header::{Directory, UNIT_COUNT};
use crate::huge_pages::HugePages;
use crate::large::{Large, Larges, Mismatch, mapped_bytes};
use crate::magazine::{Cache, CacheSlot, Counts};
use crate::os;
use crate::region::UnitPool;
use crate::size_class::{CLASS_COUNT, SizeClass};
use crate::slab::Geometry;
use crate::stats::{ClassStats, Stats};
use crate::sync::{AtomicCount, AtomicPtr, AtomicU32, AtomicUsize, Count, Lock, Relaxed};
use crate::waiting;

pub(crate) use caches::ThreadCache;
pub(crate) use house::is_look_due;
pub use registry::{Families, FamilyRef, families};

/// Bits of a tag that hold the class; the family's number stands above.
const CLASS_BITS: u32 = 5;
const _: () = assert!(CLASS_COUNT <= 1 << CLASS_BITS, "a class fits into its part of the tag");

/// The shared state of one family; declared by [`family!`](macro@crate::family).
pub struct FamilyCore {
    name: &'static str,
    /// Where it is declared, and its name; only the name where that is not known.
    path: &'static str,
    unit_shift: u32,
    checks: Checks,
    /// Bytes of slots that a thread's cache may hold, at most.
    cache_bytes: usize,
    /// Finds the calling thread's slot: no pointer to a thread-local outlives the thread-local.
    slot: fn() -> *const CacheSlot,
    huge_pages: HugePages,
    /// 0 until the family is first used.
    number: AtomicU32,
    /// The next family in the registry.
    next: AtomicPtr<FamilyCore>,
    /// 1 once the loader has been asked to keep what holds this family.
    pinned: AtomicU32,
    /// The depots of all bins, one after another.
    depots: AtomicPtr<usize>,
    bins: [Bin; CLASS_COUNT],
    pool: Lock<UnitPool>,
    large: Larges,
    caches: Lock<Caches>,
    /// Allocations and frees that no cache counts: of threads without one, and large ones.
    allocated_beside: AtomicCount,
    freed_beside: AtomicCount,
    live_seen: Gauge,
    live_bytes_seen: Gauge,
    /// Whether anything has happened since the house was last kept, or something is left to do: see `house`.
    restless: AtomicU32,
}

/// A number and the largest value it has had.
struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    const fn new() -> Self {
        Self { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    fn add(&self, difference: isize) {
        // Relaxed: a counter that publishes nothing.
        let now = self.now.fetch_add(difference as usize, Relaxed).wrapping_add(difference as usize);
        if difference > 0 {
            self.raise(now);
        }
    }

    fn raise(&self, value: usize) {
        // A negative sum, for a moment while threads note one after another, is no peak.
        if value as isize > 0 && value > self.peak.load(Relaxed) {
            self.peak.fetch_max(value, Relaxed);
        }
    }
}

impl FamilyCore {
    /// A family that has not been used yet.
    #[must_use]
    pub const fn new(name: &'static str, slab_bytes: usize, checks: Checks, slot: fn() -> *const CacheSlot) -> Self {
        Self {
            name,
            path: name,
            unit_shift: slab_bytes.trailing_zeros(),
            checks,
            cache_bytes: CACHE_BYTES,
            slot,
            huge_pages: HugePages::Adaptive,
            number: AtomicU32::new(0),
            next: AtomicPtr::new(core::ptr::null_mut()),
            pinned: AtomicU32::new(0),
            depots: AtomicPtr::new(core::ptr::null_mut()),
            bins: [const { Bin::new() }; CLASS_COUNT],
            pool: Lock::new(UnitPool::new(slab_bytes.trailing_zeros()).with_states(checks.keeps_states()).named(name)),
            large: Larges::new(checks.is_hardened(), 1 << Self::largest_class(slab_bytes)),
            caches: Lock::new(Caches::new()),
            allocated_beside: AtomicCount::new(0),
            freed_beside: AtomicCount::new(0),
            live_seen: Gauge::new(),
            live_bytes_seen: Gauge::new(),
            restless: AtomicU32::new(0),
        }
    }

    /// The same, with another bound for what a thread's cache may hold, in bytes of slots.
    #[must_use]
    pub const fn with_cache_bytes(self, cache_bytes: usize) -> Self {
        Self { cache_bytes, ..self }
    }

    /// The same family, with another rule for huge pages.
    #[must_use]
    pub const fn with_huge_pages(self, huge_pages: HugePages) -> Self {
        Self { huge_pages, ..self }
    }

    fn tag(&self, class: SizeClass) -> u32 {
        // Relaxed: a thread that frees a slot of this family got it from a thread that saw the number.
        (self.number.load(Relaxed) << CLASS_BITS) | class.index() as u32
    }

    fn geometry(&self, class: SizeClass) -> Geometry<'_> {
        let (unit_shift, tag, pool) = (self.unit_shift, self.tag(class), &self.pool);
        Geometry { class, unit_shift, tag, checks: self.checks, huge_pages: self.huge_pages, pool, family: self.name }
    }

    fn bin(&self, class: SizeClass) -> (&Bin, Geometry<'_>, DepotMemory) {
        let depots = self.depots.load(Relaxed);
        let depot = if depots.is_null() { depots } else { depots.wrapping_add(DEPOT_STARTS[class.index()]) };
        (&self.bins[class.index()], self.geometry(class), DepotMemory(depot))
    }

    /// Notes what the owner of `cache` has allocated or freed of a class since its last exchange.
    fn note_live(&self, cache: &Cache, class: SizeClass) {
        self.note(cache.magazine(class).allocated_since_noted(class), class.slot_bytes());
    }

    fn note(&self, slots: isize, slot_bytes: usize) {
        self.live_seen.add(slots);
        self.live_bytes_seen.add(slots * slot_bytes as isize);
    }

    /// Notes an allocation that no cache counts.
    fn note_allocation(&self, bytes: usize) {
        // Relaxed, here and below: a counter that publishes nothing.
        self.allocated_beside.fetch_add(1, Relaxed);
        self.note(1, bytes);
    }

    /// Notes a free that no cache counts.
    fn note_free(&self, bytes: usize) {
        self.freed_beside.fetch_add(1, Relaxed);
        self.note(-1, bytes);
    }

    /// Fills an exhausted magazine from the bin; `false`: out of memory.
    pub(crate) fn refill(&'static self, cache: &ThreadCache, class: SizeClass) -> bool {
        let cache = &cache.cache;
        let magazine = cache.magazine(class);
        self.note_live(cache, class);
        magazine.refill(cache.tally(), batch_slots(magazine.capacity()), |places| self.take(cache, class, places));
        magazine.note(class);
        magazine.held(class) > 0
    }

    /// Takes recycled slots from the bin and returns how many, or gives the magazine a new fresh range.
    fn take(&self, cache: &Cache, class: SizeClass, places: &mut [usize]) -> usize {
        let magazine = cache.magazine(class);
        let (bin, geometry, depot) = self.bin(class);
        let fresh = fresh_slots(class, magazine.capacity(), magazine_slots(class, self.checks, self.cache_bytes));
        let taken = self.with_what_is_kept(|| {
            bin.take(&geometry, depot, places, fresh).unwrap_or_else(|twice| self.report_twice(twice, class))
        });
        match taken {
            Some(Taken::Recycled(count)) => return count,
            Some(Taken::Fresh(range)) => magazine.set_fresh(cache.tally(), class, range),
            None => {}
        }
        0
    }

    /// Tries again where memory is refused, if the family keeps freed large allocations: they may be what is missing. No lock may be held.
    #[inline(always)]
    fn with_what_is_kept<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        attempt().or_else(|| {
            let give_up = |class| self.bins[SizeClass::index(class)].give_up_empty(&self.geometry(class));
            let slabs = self.classes().filter(|&class| give_up(class)).count();
            if self.large.release_spare() || slabs > 0 { attempt() } else { None }
        })
    }

    /// Makes room in a full magazine.
    pub(crate) fn flush(&'static self, cache: &ThreadCache, class: SizeClass) {
        let cache = &cache.cache;
        self.note_live(cache, class);
        self.flush_stored(cache, class, batch_slots(cache.magazine(class).capacity()));
        cache.magazine(class).note(class);
    }

    fn flush_stored(&'static self, cache: &Cache, class: SizeClass, count: usize) {
        let (bin, geometry, depot) = self.bin(class);
        cache.magazine(class).flush(cache.tally(), count, |slots| {
            // SAFETY: the slots in a magazine are used slots of its bin that its thread alone has (M1), and it gives them up.
            let given = unsafe { bin.give(&geometry, depot, slots) };
            given.unwrap_or_else(|twice| self.report_twice(twice, class));
        });
    }

    /// Gives everything that a cache holds back to the bins.
    pub(crate) fn flush_all(&'static self, cache: &Cache) {
        (0..CLASS_COUNT).map(SizeClass::from_index).for_each(|class| self.flush_class(cache, class));
    }

    /// Gives all that a cache holds of a class back to its bin.
    fn flush_class(&'static self, cache: &Cache, class: SizeClass) {
        let magazine = cache.magazine(class);
        if magazine.held(class) == 0 && magazine.allocated_since_noted(class) == 0 {
            return;
        }
        self.note_live(cache, class);
        while magazine.stored_slots() > 0 {
            self.flush_stored(cache, class, batch_slots(magazine.capacity()));
        }
        let fresh = magazine.take_fresh(cache.tally(), class);
        if !fresh.is_empty() {
            let (bin, geometry, _) = self.bin(class);
            // SAFETY: the rest of a range that this magazine's thread took, and gives up.
            let given = unsafe { bin.give_fresh(&geometry, fresh) };
            given.unwrap_or_else(|twice| self.report_twice(twice, class));
        }
        magazine.note(class);
    }

    /// Takes one slot for a thread without a cache, and whether it is known to read zero.
    pub(crate) fn take_one(&'static self, class: SizeClass) -> Option<(usize, bool)> {
        self.register()?;
        let (bin, geometry, depot) = self.bin(class);
        let taken = self.with_what_is_kept(|| {
            bin.take_one(&geometry, depot).unwrap_or_else(|twice| self.report_twice(twice, class))
        })?;
        self.note_allocation(class.slot_bytes());
        Some(taken)
    }

    /// Takes one slot back from a thread without a cache.
    ///
    /// # Safety
    /// `address` is a live slot of this family and class that nobody uses any more.
    pub(crate) unsafe fn give_one(&'static self, class: SizeClass, address: usize) {
        let (bin, geometry, depot) = self.bin(class);
        // SAFETY: a live slot is a used slot of this bin, and the caller gives it up.
        let given = unsafe { bin.give(&geometry, depot, &[address]) };
        given.unwrap_or_else(|twice| self.report_twice(twice, class));
        self.note_free(class.slot_bytes());
    }

    /// Takes one slot back that [`take_one`](Self::take_one) gave and that cannot be handed out.
    ///
    /// # Safety
    /// As for [`give_one`](Self::give_one).
    pub(crate) unsafe fn take_back_one(&'static self, class: SizeClass, address: usize) {
        // SAFETY: the same contract.
        unsafe { self.give_one(class, address) };
        // It was neither allocated nor freed: one less of both. Relaxed: counters that publish nothing.
        self.freed_beside.fetch_add(Count::MAX, Relaxed);
        self.allocated_beside.fetch_add(Count::MAX, Relaxed);
    }

    /// The class of a layout of at least one byte: none below the family's least.
    pub(crate) fn class_of(&self, layout: Layout) -> SizeClass {
        SizeClass::of_at_least(layout, self.checks.least_class())
    }

    /// Whether a slab of this family and class holds the address.
    pub(crate) fn owns(&self, address: usize, class: SizeClass) -> bool {
        let number = self.number.load(Relaxed);
        number != 0 && Directory::of(self.unit_shift).view().tag(address, self.unit_shift) == self.tag(class)
    }

    /// Bytes of the large allocation for a layout: a slot's where the allocation grew out of one. No mapping is `usize::MAX` bytes long.
    fn mapping_bytes(&self, layout: Layout) -> usize {
        match self.class_of(layout) {
            class if class.index() <= Self::largest_class(1 << self.unit_shift) => class.slot_bytes(),
            _ => mapped_bytes(layout).unwrap_or(usize::MAX),
        }
    }

    /// A large allocation for what has outgrown its slot and will be of this class. `None`: a slot has to serve.
    pub(crate) fn allocate_grown(&'static self, class: SizeClass) -> Option<Large> {
        self.register()?;
        let large = self.large.allocate_grown(class.slot_bytes(), os::milliseconds())?;
        // It is freed by the way of a slot, and must never be taken for one.
        if !Directory::of(self.unit_shift).tells_apart(large.memory.addr().get()) {
            // SAFETY: allocated just now and given to nobody.
            let freed = unsafe { self.large.deallocate(large.memory, large.bytes, os::milliseconds()) };
            debug_assert!(freed.is_ok(), "what was allocated can be freed");
            return None;
        }
        self.note_allocation(large.bytes);
        Some(large)
    }

    pub(crate) fn allocate_large(&'static self, layout: Layout, want_zero: bool) -> Option<Large> {
        self.register()?;
        let now = os::milliseconds();
        self.visited(now);
        let large = self.large.allocate(layout, want_zero, now)?;
        self.note_allocation(large.bytes);
        Some(large)
    }

    /// # Safety
    /// If `memory` is a live large allocation of this family that `layout` fits, nobody uses it any more.
    pub(crate) unsafe fn deallocate_large(&'static self, memory: NonNull<u8>, layout: Layout) {
        let now = os::milliseconds();
        self.visited(now);
        let bytes = self.mapping_bytes(layout);
        if !self.is_registered() {
            self.report_invalid_free(memory.addr().get(), layout);
        }
        // SAFETY: the caller gives it up.
        let freed = unsafe { self.large.deallocate(memory, bytes, now) };
        waiting::add();
        match freed {
            Ok(()) => self.note_free(bytes),
            Err(mismatch) => self.report_invalid_large(memory.addr().get(), layout, mismatch),
        }
    }

    /// Ends the process if `memory` is no live large allocation of this family that `layout` fits.
    #[cold]
    #[inline(never)]
    pub(crate) fn verify_large(&self, memory: NonNull<u8>, layout: Layout) {
        if !self.is_registered() {
            self.report_invalid_free(memory.addr().get(), layout);
        }
        let verified = self.large.verify(memory, self.mapping_bytes(layout));
        if let Err(mismatch) = verified {
            self.report_invalid_large(memory.addr().get(), layout, mismatch);
        }
    }

    /// Changes the length of a large allocation without copying; with `want_zero` what is new reads zero. `None`: not possible,
    /// nothing has changed.
    ///
    /// # Safety
    /// As for [`deallocate_large`](Self::deallocate_large), if it returns another address.
    pub(crate) unsafe fn resize_large(
        &'static self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
        want_zero: bool,
    ) -> Option<Large> {
        let (old_bytes, bytes) = (self.mapping_bytes(old), self.mapping_bytes(new));
        if !self.is_registered() {
            self.report_invalid_free(memory.addr().get(), old);
        }
        // SAFETY: the caller gives the old range up if it is moved.
        let resized =
            unsafe { self.large.resize(memory, old_bytes, (bytes, new.align(), want_zero), os::milliseconds()) };
        match resized {
            Ok(resized) => {
                let large = resized?;
                self.live_bytes_seen.add(large.bytes.wrapping_sub(old_bytes) as isize);
                Some(large)
            }
            Err(mismatch) => self.report_invalid_large(memory.addr().get(), old, mismatch),
        }
    }

    fn report_invalid_large(&self, address: usize, layout: Layout, mismatch: Mismatch) -> ! {
        match mismatch {
            Mismatch::Unknown => self.report_invalid_free(address, layout),
            Mismatch::Freed => self.report_freed_large(address, layout),
            // What is longer than its layout's slot did not come from one.
            Mismatch::Length(_) if self.class_of(layout).index() <= Self::largest_class(1 << self.unit_shift) => {
                self.report_invalid_free(address, layout)
            }
            Mismatch::Length(bytes) => self.report_wrong_length(address, layout, bytes),
        }
    }

    fn classes(&self) -> impl Iterator<Item = SizeClass> + use<> {
        (0..CLASS_COUNT).map(SizeClass::from_index)
    }

    /// What was allocated and freed, and no cache counts.
    fn counts_beside(&self) -> Counts {
        // Relaxed: as where they are counted.
        Counts { allocations: self.allocated_beside.load(Relaxed), frees: self.freed_beside.load(Relaxed) }
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::new(self.name, self.path, self.number.load(Relaxed));
        if !self.is_registered() {
            return stats;
        }
        let caches = self.caches.lock();
        stats.thread_caches = caches.in_use;
        (stats.total_allocations, stats.total_frees) = caches.counts().plus(self.counts_beside()).as_pair();
        for class in (0..CLASS_COUNT).map(SizeClass::from_index) {
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
            stats.classes[class.index()] = ClassStats {
                slot_bytes: class.slot_bytes(),
                slab_count: counts.slab_count,
                live_slots: live,
                cached_slots: held,
                depot_slots: counts.depot_slots,
                free_slots: counts.free_slots,
                idle_slots: counts.idle_slots,
                purged_slots: counts.purged_slots,
            };
        }
        drop(caches);
        let pool = self.pool.lock();
        stats.reserved_bytes = pool.reserved_bytes;
        stats.kept_bytes = pool.dirty_count << self.unit_shift;
        stats.huge_bytes = pool.huge_bytes();
        drop(pool);
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

    /// The largest class that is served from slabs: a slab holds at least two slots.
    pub(crate) const fn largest_class(slab_bytes: usize) -> usize {
        slab_bytes.trailing_zeros() as usize - 1
    }
}

const _: () =
    assert!(FamilyCore::largest_class(2 << 20) == CLASS_COUNT - 1, "the largest class is half of the largest slab");
const _: () = assert!(UNIT_COUNT == 64, "documented as 64 in `family!`");
