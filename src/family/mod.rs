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
mod cores;
mod crossings;
mod ending;
mod figures;
#[cfg(all(unix, not(any(miri, loom))))]
mod fork;
mod hardened;
mod heaps;
mod house;
mod large;
mod life;
mod limits;
mod live;
mod names;
mod owners;
mod registry;
mod report;
mod reset;
mod sanitizer;
mod used;

use core::alloc::Layout;
use core::ptr::NonNull;

use caches::Caches;
use figures::Gauge;
use heaps::HeapPart;
use life::Settled;
use limits::{Crossing, Limits};
use used::UsedClasses;

use crate::bin::{Bin, DepotMemory, Taken};
use crate::capacity::{CACHE_BYTES, batch_slots, depot_slots, depot_start, fresh_slots, magazine_slots};
use crate::checks::Checks;
use crate::header::{Directory, UNIT_COUNT};
use crate::huge_pages::HugePages;
use crate::large::Larges;
use crate::magazine::{Cache, CacheSlot};
use crate::os;
use crate::region::UnitPool;
use crate::size_class::{COUNT_MAX, Classes, NATURAL_COUNT, SizeClass};
use crate::slab::Geometry;
use crate::sync::{Acquire, AtomicCount, AtomicPtr, AtomicU8, AtomicU32, Count, Lock, Relaxed};

pub(crate) use caches::ThreadCache;
pub use crossings::{LimitCrossing, LimitHandler, set_limit_handler};
#[cfg(feature = "_faults")]
pub use figures::reserved_bytes_of_all;
#[cfg(all(feature = "std", unix, not(any(miri, loom))))]
pub(crate) use fork::process;
#[cfg(loom)]
pub(crate) use heaps::forget_all;
#[cfg(any(feature = "std", loom))]
pub(crate) use heaps::slot_of_none;
#[cfg(not(any(feature = "std", loom)))]
pub use heaps::slot_of_none;
pub(crate) use heaps::{HeapOptions, Refusal};
pub(crate) use house::is_look_due;
#[cfg(feature = "std")]
pub(crate) use house::{LOOK_MILLISECONDS, Left, look_after_all};
pub(crate) use life::Standing;
pub(crate) use limits::softly;
pub use limits::{LimitRefusal, last_refusal};
pub(crate) use owners::{note_large, owner_of_large, owner_of_slab};
#[cfg(loom)]
pub(crate) use owners::{put as note_owner, with_number as owner_with_number};
pub(crate) use registry::Held;
pub use registry::{Families, FamilyRef, families};

/// A number that a child of a fork does not share with its parent: here there are none.
#[cfg(all(feature = "std", not(all(unix, not(any(miri, loom))))))]
pub(crate) fn process() -> u32 {
    0
}

/// Bits of a tag that hold the class; the family's number stands above.
const CLASS_BITS: u32 = 7;
/// Slots that go to their bin at once where a cache is emptied, also if the thread exchanges fewer.
const FLUSHED_AT_ONCE: usize = 128;
const _: () = assert!(COUNT_MAX <= 1 << CLASS_BITS, "a class fits into its part of the tag");

/// The number of the family that a tag is of.
#[inline(always)]
pub(crate) const fn number_of(tag: u32) -> u32 {
    tag >> CLASS_BITS
}

/// The shared state of one family; declared by [`family!`](macro@crate::family).
pub struct FamilyCore {
    name: Settled<&'static str>,
    /// Where it is declared, and its name; only the name where that is not known.
    path: &'static str,
    unit_shift: u32,
    checks: Checks,
    /// Bytes of slots that a thread's cache may hold, at most.
    cache_bytes: Settled<usize>,
    /// Finds the calling thread's slot: no pointer to a thread-local outlives the thread-local.
    slot: fn() -> *const CacheSlot,
    huge_pages: HugePages,
    /// 0 until the family is first used.
    number: AtomicU32,
    /// The next family in the registry.
    next: AtomicPtr<FamilyCore>,
    /// 1 once the loader has been asked to keep what holds this family.
    pinned: AtomicU8,
    /// The depots of all bins, one after another.
    depots: AtomicPtr<usize>,
    classes: Classes,
    bins: [Bin; NATURAL_COUNT],
    /// The bins of further classes.
    more_bins: &'static [Bin],
    pool: Lock<UnitPool>,
    large: Larges,
    used: UsedClasses,
    caches: Lock<Caches>,
    /// Allocations and frees that no cache counts: of threads without one, and large ones.
    allocated_beside: AtomicCount,
    freed_beside: AtomicCount,
    live_seen: Gauge,
    live_bytes_seen: Gauge,
    /// Whether anything has happened since the house was last kept, or something is left to do: see `house`.
    restless: AtomicU8,
    limits: Limits,
    crossing: Crossing,
    /// Number and generation of a heap, of which none comes twice; 0 for a static family.
    id: Settled<u64>,
    /// What only a heap has.
    heap: Option<HeapPart>,
}

/// Memory for depots. Where the system counts what is committed it is space only: each bin makes its own usable.
fn depot_memory(bytes: usize) -> Option<NonNull<u8>> {
    if os::DECOMMITS { os::reserve(bytes, os::page_bytes()) } else { os::map(bytes, os::page_bytes()) }
}

impl FamilyCore {
    /// A family that has not been used yet.
    #[must_use]
    pub const fn new(name: &'static str, slab_bytes: usize, checks: Checks, slot: fn() -> *const CacheSlot) -> Self {
        Self {
            name: Settled::new(name),
            path: name,
            unit_shift: slab_bytes.trailing_zeros(),
            checks,
            cache_bytes: Settled::new(CACHE_BYTES),
            slot,
            huge_pages: HugePages::Adaptive,
            number: AtomicU32::new(0),
            next: AtomicPtr::new(core::ptr::null_mut()),
            pinned: AtomicU8::new(0),
            depots: AtomicPtr::new(core::ptr::null_mut()),
            classes: Classes::Natural,
            bins: Bin::several(),
            more_bins: &[],
            pool: Lock::new(UnitPool::new(slab_bytes.trailing_zeros()).with_states(checks.keeps_states()).named(name)),
            large: Larges::new(checks.is_hardened(), Self::longest_slot(Classes::Natural, slab_bytes)).named(name),
            used: UsedClasses::new(),
            caches: Lock::new(Caches::new()),
            allocated_beside: AtomicCount::new(0),
            freed_beside: AtomicCount::new(0),
            live_seen: Gauge::new(),
            live_bytes_seen: Gauge::new(),
            restless: AtomicU8::new(0),
            limits: Limits::new(),
            crossing: Crossing::new(),
            id: Settled::new(0),
            heap: None,
        }
    }

    /// The same, with another bound for what a thread's cache may hold, in bytes of slots.
    #[must_use]
    pub const fn with_cache_bytes(self, cache_bytes: usize) -> Self {
        Self { cache_bytes: Settled::new(cache_bytes), ..self }
    }

    /// The same family, with another rule for huge pages.
    #[must_use]
    pub const fn with_huge_pages(self, huge_pages: HugePages) -> Self {
        let large = self.large.with_huge_pages(!matches!(huge_pages, HugePages::Never));
        Self { huge_pages, large, ..self }
    }

    /// The same family, with other classes. `more_bins` are at least [`more_bins`](Self::more_bins).
    #[must_use]
    pub const fn with_classes(self, classes: Classes, more_bins: &'static [Bin]) -> Self {
        let slab_bytes = 1 << self.unit_shift;
        assert!(more_bins.len() >= Self::more_bins(classes, slab_bytes), "each class has a bin");
        let large = self.large.with_slots_up_to(Self::longest_slot(classes, slab_bytes));
        Self { classes, more_bins, large, ..self }
    }

    /// How many bins a family needs beside those that all have.
    #[must_use]
    pub const fn more_bins(classes: Classes, slab_bytes: usize) -> usize {
        classes.count(slab_bytes).saturating_sub(NATURAL_COUNT)
    }

    const fn longest_slot(classes: Classes, slab_bytes: usize) -> usize {
        classes.class(classes.largest(slab_bytes)).slot_bytes()
    }

    #[cfg(all(unix, not(any(miri, loom))))]
    fn all_bins(&self) -> impl Iterator<Item = &Bin> {
        self.bins.iter().chain(self.more_bins)
    }

    /// How the lengths of slots are spaced.
    pub(crate) const fn classes(&self) -> Classes {
        self.classes
    }

    /// How many classes the family has.
    pub(crate) const fn class_count(&self) -> usize {
        self.classes.count(1 << self.unit_shift)
    }

    /// The number that the family's tags have; 0 until it is first used.
    #[inline(always)]
    pub(crate) fn number(&self) -> u32 {
        // Relaxed: as in `tag`.
        self.number.load(Relaxed)
    }

    /// Whether slabs serve a class.
    fn serves(&self, class: SizeClass) -> bool {
        class.index() <= self.classes.largest(1 << self.unit_shift)
    }

    fn tag(&self, class: SizeClass) -> u32 {
        // Relaxed: a thread that frees a slot of this family got it from a thread that saw the number.
        (self.number.load(Relaxed) << CLASS_BITS) | class.index() as u32
    }

    #[inline(always)]
    fn geometry(&self, class: SizeClass) -> Geometry<'_> {
        let (unit_shift, tag, pool, family) = (self.unit_shift, self.tag(class), self.pool(), self.name.get());
        Geometry { class, unit_shift, tag, checks: self.checks, huge_pages: self.huge_pages, pool, family }
    }

    /// Where the family's units come from.
    fn pool(&self) -> &Lock<UnitPool> {
        self.heap.as_ref().and_then(|heap| heap.shared_pool(self.unit_shift, self.checks)).unwrap_or(&self.pool)
    }

    /// Bytes of slots that a thread's cache may hold, at most.
    fn cache_bytes(&self) -> usize {
        self.cache_bytes.get()
    }

    #[inline(always)]
    fn bin(&self, class: SizeClass) -> (&Bin, Geometry<'_>, DepotMemory) {
        // Acquire: pairs with the Release in `map_depots`: a heap's depots come while others use it.
        let depots = self.depots.load(Acquire);
        let depot = if depots.is_null() { depots } else { depots.wrapping_add(depot_start(class)) };
        (self.bin_of(class), self.geometry(class), DepotMemory(depot))
    }

    #[inline(always)]
    fn bin_of(&self, class: SizeClass) -> &Bin {
        let index = class.index();
        if index < NATURAL_COUNT { &self.bins[index] } else { &self.more_bins[index - NATURAL_COUNT] }
    }

    /// Bytes of the depots of all bins, in whole pages.
    fn depot_bytes(&self) -> Option<usize> {
        let last = self.classes.class(self.class_count() - 1);
        os::round_to_pages((depot_start(last) + depot_slots(last)) * size_of::<usize>())
    }

    /// Fills an exhausted magazine from the bin; `false`: out of memory.
    pub(crate) fn refill(&'static self, whole: &ThreadCache, class: SizeClass) -> bool {
        let cache = whole.cache;
        let magazine = cache.magazine(class);
        self.note_live(cache, class);
        let refill = || {
            magazine.refill(cache.tally(), batch_slots(magazine.capacity()), |places| self.take(cache, class, places));
            magazine.note(class);
            magazine.stored_slots() > 0 || magazine.has_fresh()
        };
        // What the thread holds of other classes may be what a limit has no room for.
        let is_filled = refill()
            || self.is_limited() && {
                self.flush_all(cache);
                refill()
            };
        whole.note_refill(magazine.held(class));
        is_filled
    }

    /// Takes recycled slots from the bin and returns how many, or gives the magazine a new fresh range.
    fn take(&'static self, cache: &Cache, class: SizeClass, places: &mut [usize]) -> usize {
        let magazine = cache.magazine(class);
        self.used.note(class);
        let (bin, geometry, depot) = self.bin(class);
        let fresh = fresh_slots(class, magazine.capacity(), magazine_slots(class, self.checks, self.cache_bytes()));
        let slot_bytes = class.slot_bytes();
        let Some(charge) = self.charge(places.len().max(fresh) * slot_bytes, slot_bytes) else { return 0 };
        let most = class.slots_in(charge.bytes());
        let (count, fresh) = (places.len().min(most), fresh.min(most));
        let taken = self.with_what_is_kept(|| {
            bin.take(&geometry, depot, &mut places[..count], fresh)
                .unwrap_or_else(|twice| self.report_twice(twice, class))
        });
        self.tell_of_roots();
        match taken {
            Some(Taken::Recycled(count)) => {
                charge.keep(count * slot_bytes);
                return count;
            }
            Some(Taken::Fresh(range)) => {
                charge.keep(range.range.len());
                magazine.set_fresh(cache.tally(), class, range);
            }
            None => {}
        }
        0
    }

    /// Tries again where memory is refused, if the family keeps freed large allocations: they may be what is missing. No lock may be held.
    #[inline(always)]
    fn with_what_is_kept<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        attempt().or_else(|| {
            let give_up = |class| self.bin(class).0.give_up_empty(&self.geometry(class));
            let slabs = self.all_classes().filter(|&class| give_up(class)).count();
            if self.large.release_spare() || slabs > 0 { attempt() } else { None }
        })
    }

    /// Makes room in a full magazine.
    pub(crate) fn flush(&'static self, cache: &ThreadCache, class: SizeClass) {
        let cache = cache.cache;
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
            self.refund(slots.len() * class.slot_bytes());
        });
    }

    /// Gives everything that a cache holds back to the bins.
    pub(crate) fn flush_all(&'static self, cache: &Cache) {
        self.all_classes().for_each(|class| self.flush_class(cache, class));
        self.stir_to_give_back();
    }

    /// Gives all that a cache holds of a class back to its bin.
    fn flush_class(&'static self, cache: &Cache, class: SizeClass) {
        let magazine = cache.magazine(class);
        if magazine.is_as_begun() {
            return;
        }
        self.note_live(cache, class);
        while magazine.stored_slots() > 0 {
            self.flush_stored(cache, class, batch_slots(magazine.capacity()).max(FLUSHED_AT_ONCE));
        }
        let fresh = magazine.take_fresh(cache.tally(), class);
        if !fresh.is_empty() {
            let ((bin, geometry, _), bytes) = (self.bin(class), fresh.len());
            // SAFETY: the rest of a range that this magazine's thread took, and gives up.
            let given = unsafe { bin.give_fresh(&geometry, fresh) };
            given.unwrap_or_else(|twice| self.report_twice(twice, class));
            self.refund(bytes);
        }
        magazine.note(class);
    }

    /// Takes one slot for a thread without a cache, and whether it is known to read zero.
    pub(crate) fn take_one(&'static self, class: SizeClass) -> Option<(usize, bool)> {
        self.register()?;
        let (bin, geometry, depot) = self.bin(class);
        let charge = self.charge(class.slot_bytes(), class.slot_bytes())?;
        self.used.note(class);
        let taken = self.with_what_is_kept(|| {
            bin.take_one(&geometry, depot).unwrap_or_else(|twice| self.report_twice(twice, class))
        })?;
        charge.keep(class.slot_bytes());
        self.tell_of_roots();
        self.tell_if_free(taken.0, class, false);
        self.note_allocation(class.slot_bytes());
        Some(taken)
    }

    /// Takes one slot back from a thread without a cache.
    ///
    /// # Safety
    /// `address` is a live slot of this family and class that nobody uses any more.
    pub(crate) unsafe fn give_one(&'static self, class: SizeClass, address: usize) {
        self.tell_if_free(address, class, true);
        let (bin, geometry, depot) = self.bin(class);
        // SAFETY: a live slot is a used slot of this bin, and the caller gives it up.
        let given = unsafe { bin.give(&geometry, depot, &[address]) };
        given.unwrap_or_else(|twice| self.report_twice(twice, class));
        self.refund(class.slot_bytes());
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
        self.classes.of(layout, self.checks.least_slot_bytes())
    }

    /// Whether a slab of this family and class holds the address.
    pub(crate) fn owns(&self, address: usize, class: SizeClass) -> bool {
        let number = self.number.load(Relaxed);
        number != 0 && Directory::of(self.unit_shift).view().tag(address, self.unit_shift) == self.tag(class)
    }

    /// Whether a slab of this family holds the address, of whatever class.
    #[cfg(debug_assertions)]
    pub(crate) fn has_slab_at(&self, address: usize) -> bool {
        let tag = Directory::of(self.unit_shift).view().tag(address, self.unit_shift);
        // Relaxed: as in `tag`.
        tag != 0 && tag >> CLASS_BITS == self.number.load(Relaxed)
    }

    /// Those of its classes that may have slabs.
    fn used_classes(&self) -> impl Iterator<Item = SizeClass> {
        self.all_classes().filter(|&class| self.used.may_have(class))
    }

    /// All classes of the family, shortest slots first.
    fn all_classes(&self) -> impl Iterator<Item = SizeClass> + Clone + use<> {
        self.classes.all(1 << self.unit_shift)
    }
}

const _: () = assert!(UNIT_COUNT == 64, "documented as 64 in `family!`");
