//! Heaps: families that begin and end while the program runs, in memory that serves one after another.
//!
//! ```text
//!            begin                    last handle dropped, nothing live
//!   dead ───────────► alive ─────────────────────────────────────────────► dead, behind those that died before
//!     ▲                 │ last handle dropped, something live                ▲
//!     │ carved          └──────────────────────────────────────► orphan ─────┘ its last block freed
//!   page of cores
//! ```
//!
//! A core is never unmapped and keeps its number, its slabs' options and its place in the registry; so
//! references to it are `'static`, and its locks may be taken at any time. Heaps that keep no states
//! share regions: their units come from one pool for each unit size, and no region belongs to any of
//! them. A unit has the tag of its heap, as ever.
//!
//! **E1** Who works on a heap holds a handle, its own or another's, or has a live block of an orphan
//! (G3 in `life`); so between two lives nobody works on
//! a core, but for a thread that takes its cache out of the list, under the lock of the caches. Then it has no
//! large allocations, no caches in its list, and no slabs but those whose guards the system keeps. **E2** A cache
//! is found by number and generation, of which none comes twice (G2): a thread that still has one of
//! a dead heap, with slots in it or without, can do nothing but give its place to another heap's; its door is shut (M6 in `magazine`). **E3** An orphan has no caches,
//! and allocates nothing: what comes back goes to its bins, which then know what is live.

use super::cores::Cores;
use super::crossings::LimitHandler;
use super::life::{Life, Settled, Standing};
use super::names::NamePlace;
use super::{CLASS_BITS, FamilyCore, depot_memory};
use crate::bin::Bin;
use crate::capacity::CACHE_BYTES;
use crate::checks::Checks;
use crate::header::{Directory, UNIT_SHIFTS};
use crate::huge_pages::HugePages;
use crate::magazine::CacheSlot;
use crate::os;
use crate::purge;
use crate::region::UnitPool;
use crate::size_class::Classes;
#[cfg(any(feature = "std", loom))]
use crate::sync::thread_local;
use crate::sync::{Cell, Lock, Relaxed, Release};
use crate::waiting;

/// Bytes of units of a size that may hold memory after a heap has ended: the next ones get them.
const WARM_BYTES: usize = 2 << 20;
pub(super) const UNIT_SIZES: usize = (*UNIT_SHIFTS.end() - *UNIT_SHIFTS.start() + 1) as usize;
/// What only a heap has.
pub(super) struct HeapPart {
    pub(super) life: Life,
    name: NamePlace,
    /// Who is told that the heap's limit was crossed, if not the one that is told for all.
    pub(super) limit_handler: Settled<Option<LimitHandler>>,
    /// The next of the dead ones.
    pub(super) next: Cell<Option<&'static FamilyCore>>,
}

// SAFETY: the cell `next` belongs to the lock of the cores.
unsafe impl Sync for HeapPart {}

/// The options of a heap.
#[derive(Clone, Copy)]
pub(crate) struct HeapOptions {
    pub(crate) slab_bytes: usize,
    pub(crate) checks: Checks,
    pub(crate) classes: Classes,
    pub(crate) cache_bytes: usize,
    pub(crate) huge_pages: HugePages,
    /// Bytes, and who is charged as well.
    pub(crate) limit: usize,
    pub(crate) parent: Option<&'static FamilyCore>,
    pub(crate) limit_handler: Option<LimitHandler>,
}

impl HeapOptions {
    /// Small slabs, so that a heap with a few objects is small, and small pages.
    pub(crate) const DEFAULT: Self = Self {
        slab_bytes: 64 << 10,
        checks: Checks::Default,
        classes: Classes::Natural,
        cache_bytes: CACHE_BYTES,
        huge_pages: HugePages::Never,
        limit: usize::MAX,
        parent: None,
        limit_handler: None,
    };

    /// Below [`KINDS`](super::cores::KINDS).
    pub(super) fn kind(&self) -> usize {
        let size = (self.slab_bytes.trailing_zeros() - UNIT_SHIFTS.start()) as usize;
        ((size * 4 + self.checks as usize) * 3 + self.huge_pages as usize) * 2 + self.classes as usize
    }
}

/// Why a heap could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    OverParent,
    TooMany,
    NoAddressSpace,
    NoMemory,
}

static CORES: Lock<Cores> = Lock::new(Cores::new());

/// The units of all heaps that keep no states, by size.
static SHARED: [Lock<UnitPool>; UNIT_SIZES] = {
    let mut pools = [const { Lock::new(UnitPool::new(16).named("heaps")) }; UNIT_SIZES];
    let mut index = 0;
    while index < UNIT_SIZES {
        pools[index] = Lock::new(UnitPool::new(*UNIT_SHIFTS.start() + index as u32).named("heaps"));
        index += 1;
    }
    pools
};

/// The pools that heaps share.
pub(super) fn shared_pools() -> impl Iterator<Item = (u32, &'static Lock<UnitPool>)> {
    UNIT_SHIFTS.zip(&SHARED)
}

/// The lock of the cores that no heap uses, for the time of a `fork`; no other is taken while it is held.
#[cfg(all(unix, not(any(miri, loom))))]
pub(super) fn lock() -> &'static Lock<impl Sized> {
    &CORES
}

#[cfg(any(feature = "std", loom))]
thread_local! {
    // Where a thread counts its calls of heaps that it has no cache of.
    static NOWHERE: CacheSlot = const { CacheSlot::new() };
}

/// A slot without a cache, of the calling thread.
#[cfg(any(feature = "std", loom))]
pub(crate) fn slot_of_none() -> *const CacheSlot {
    NOWHERE.with(core::ptr::from_ref)
}

/// The slot of everybody where no thread is known: it never has a cache, and nothing is counted in it.
#[cfg(not(any(feature = "std", loom)))]
pub fn slot_of_none() -> *const CacheSlot {
    struct Nowhere(CacheSlot);
    // SAFETY: without threads that are known nobody stores to a slot (`thread::cache_for`).
    unsafe impl Sync for Nowhere {}
    static NOWHERE: Nowhere = Nowhere(CacheSlot::new());
    &raw const NOWHERE.0
}

/// Forgets all heaps, in models: statics outlive an execution, and memory does not.
#[cfg(loom)]
pub(crate) fn forget_all() {
    *CORES.lock() = Cores::new();
    super::names::forget_all();
    for (unit_shift, pool) in shared_pools() {
        *pool.lock() = UnitPool::new(unit_shift);
    }
}

impl HeapPart {
    /// The pool that the heap shares with others; only where no states are kept: these stand at the
    /// region's begin, and are found without a look at the tag.
    pub(super) fn shared_pool(&self, unit_shift: u32, checks: Checks) -> Option<&'static Lock<UnitPool>> {
        (!checks.keeps_states()).then(|| &SHARED[(unit_shift - UNIT_SHIFTS.start()) as usize])
    }
}

impl FamilyCore {
    /// A core for one heap after another.
    pub(super) const fn for_heaps(self) -> Self {
        let heap = HeapPart {
            life: Life::new(),
            name: NamePlace::new(),
            limit_handler: Settled::new(None),
            next: Cell::new(None),
        };
        Self { heap: Some(heap), ..self }
    }

    /// Whether this is a heap's core.
    pub(crate) fn is_heap(&self) -> bool {
        self.heap.is_some()
    }

    /// Whether the heap shares regions with others.
    pub(super) fn shares_units(&self) -> bool {
        self.is_heap() && !self.checks.keeps_states()
    }

    /// The name of a heap, for who holds a handle.
    pub(crate) fn heap_name(&self) -> &str {
        self.name.get()
    }

    /// What is verified when memory comes back.
    #[inline(always)]
    pub(crate) fn checks(&self) -> Checks {
        self.checks
    }

    /// The logarithm of a slab's bytes.
    #[inline(always)]
    pub(crate) fn unit_shift(&self) -> u32 {
        self.unit_shift
    }

    /// Number and generation of a heap, for whoever holds a handle; no cache of another heap has it.
    #[inline(always)]
    pub(crate) fn heap_id(&self) -> u64 {
        self.id.get()
    }

    /// Begins a heap, with one handle.
    pub(crate) fn begin_heap(name: &str, options: &HeapOptions) -> Result<&'static Self, Refusal> {
        let mut cores = CORES.lock();
        let core = cores.take(options.kind()).or_else(|| cores.carve(options)).ok_or(Refusal::NoMemory)?;
        drop(cores);
        let begun = core.begin(name, options);
        if begun.is_err() {
            CORES.lock().put(options.kind(), core);
        }
        begun.map(|()| core)
    }

    /// Begins the next life of a core that the caller has to itself.
    fn begin(&'static self, name: &str, options: &HeapOptions) -> Result<(), Refusal> {
        let Some(heap) = &self.heap else { return Err(Refusal::TooMany) };
        if options.parent.is_some_and(|parent| {
            parent.limit() < usize::MAX && parent.limit() < options.limit && options.limit < usize::MAX
        }) {
            return Err(Refusal::OverParent);
        }
        Directory::of(self.unit_shift).open().ok_or(Refusal::NoAddressSpace)?;
        self.register().ok_or(Refusal::TooMany)?;
        if let Some(parent) = options.parent {
            parent.register().ok_or(Refusal::NoAddressSpace)?;
        }
        let generation = heap.life.next_generation().ok_or(Refusal::TooMany)?;
        // SAFETY: E1: nobody else has the core, and its last name was forgotten.
        unsafe { heap.name.store(&self.name, name) }.ok_or(Refusal::NoMemory)?;
        // SAFETY: as above, here and below.
        unsafe { self.cache_bytes.set(options.cache_bytes) };
        // SAFETY: as above.
        unsafe { heap.limit_handler.set(options.limit_handler) };
        self.set_limit(options.limit);
        self.forget_crossings();
        if let Some(parent) = options.parent {
            parent.hold();
        }
        // SAFETY: as above; what was charged to the last heap was refunded when it ended.
        unsafe { self.set_parent(options.parent) };
        self.forget_totals();
        self.live_seen.reset();
        self.live_bytes_seen.reset();
        let number = self.number.load(Relaxed);
        // SAFETY: as above.
        unsafe { self.id.set(u64::from(generation) << u32::BITS | u64::from(number)) };
        heap.life.begin();
        Ok(())
    }

    /// One handle more, for who holds one.
    #[inline]
    pub(crate) fn hold(&self) {
        if let Some(heap) = &self.heap {
            heap.life.hold();
        }
    }

    /// One handle more, if the heap of this generation lives. A static family always does.
    pub(super) fn hold_if(&'static self, generation: u32) -> bool {
        self.is_held(|life| life.hold_if(generation))
    }

    /// The same for who looks after the house, until [`end_look`](Self::end_look); `false` also if
    /// another does.
    pub(super) fn hold_to_look(&'static self, generation: u32) -> bool {
        self.is_held(|life| life.hold_to_look(generation))
    }

    fn is_held(&'static self, hold: impl FnOnce(&Life) -> Result<(), bool>) -> bool {
        let Some(heap) = &self.heap else { return true };
        match hold(&heap.life) {
            Ok(()) => true,
            Err(is_last) => {
                if is_last {
                    self.end().into_iter().for_each(Self::let_go);
                }
                false
            }
        }
    }

    /// Whether a thread looks after a heap here.
    pub(super) fn is_looked_after(&self) -> bool {
        self.heap.as_ref().is_some_and(|heap| heap.life.is_looked_after())
    }

    /// Ends what [`hold_to_look`](Self::hold_to_look) has begun; in the child of a fork also what a
    /// thread has that is not here.
    pub(super) fn end_look(&'static self) {
        if self.heap.as_ref().is_some_and(|heap| heap.life.end_look()) {
            self.end_lineage();
        }
    }

    /// Which heap lives in this core, if one does; 0 for a static family. A hint for who holds no handle.
    pub(super) fn living_generation(&self) -> Option<u32> {
        self.heap.as_ref().map_or(Some(0), |heap| heap.life.is_alive().then(|| heap.life.generation()))
    }

    /// Ends a handle.
    #[inline]
    pub(crate) fn let_go(&'static self) {
        if self.heap.as_ref().is_some_and(|heap| heap.life.end_one()) {
            self.end_lineage();
        }
    }

    /// The last handle is gone, and so may be that of the parent, which this heap has held.
    #[cold]
    #[inline(never)]
    fn end_lineage(&'static self) {
        let mut next = self.end();
        while let Some(core) = next {
            let is_last = core.heap.as_ref().is_some_and(|heap| heap.life.end_one());
            next = if is_last { core.end() } else { None };
        }
    }

    /// What the heap is to the caller, who has a live block of it and perhaps no handle: alive, and held until
    /// [`let_go`](Self::let_go), or an orphan. A static family is alive.
    #[inline]
    pub(crate) fn hold_by_block(&self) -> Standing {
        self.heap.as_ref().map_or(Standing::Alive, |heap| heap.life.hold_by_block())
    }

    /// Whether this is a heap without handles that others hold.
    pub(crate) fn is_orphan(&self) -> bool {
        self.heap.as_ref().is_some_and(|heap| heap.life.is_orphan())
    }

    /// Counts a block of an orphan off, which the caller has freed and has no other of.
    pub(crate) fn count_off(&'static self) {
        if self.heap.as_ref().is_some_and(|heap| heap.life.count_off()) {
            self.let_go();
        }
    }

    /// In the child of a fork: a heap that another thread was ending ends no more, because that thread is not here.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(super) fn survive_fork(&self) {
        if let Some(heap) = self.heap.as_ref().filter(|heap| heap.life.is_ending()) {
            heap.life.orphan(usize::MAX);
        }
    }

    /// The last handle is gone: gives all memory back, if nothing is live. Else the heap is an orphan, until the last of that is
    /// freed.
    #[cold]
    #[inline(never)]
    fn end(&'static self) -> Option<&'static Self> {
        let heap = self.heap.as_ref()?;
        self.shut_caches();
        let has_large = self.large.was_used();
        let mut live = if has_large { self.large.figures().count } else { 0 };
        let mut slabs = 0;
        if !self.forget_what_is_cached(live == 0) {
            self.drain_caches();
            for class in self.used_classes() {
                let (bin, geometry, depot) = self.bin(class);
                bin.trim(&geometry, depot).unwrap_or_else(|twice| self.report_twice(twice, class));
                let out = bin.out();
                (live, slabs) = (live + out.slots, slabs + out.slab_count);
            }
        }
        if live > 0 {
            heap.life.orphan(live);
            return None;
        }
        // Else some are guarded still.
        if slabs == 0 {
            self.used.forget();
        }
        if has_large {
            self.large.release_spare();
        }
        if !self.shares_units() || self.pool().lock().dirty_count << self.unit_shift > WARM_BYTES {
            purge::trim_units(self.pool(), self.unit_shift, self.checks, os::milliseconds());
        }
        self.give_depots_back();
        waiting::add();
        // SAFETY: nobody holds the heap, and who looks at its name holds it.
        unsafe { heap.name.forget(&self.name) };
        debug_assert_eq!(self.charged_bytes(), 0, "C1: nothing is out");
        let parent = self.parent();
        let options = HeapOptions {
            slab_bytes: 1 << self.unit_shift,
            checks: self.checks,
            classes: self.classes,
            huge_pages: self.huge_pages,
            ..HeapOptions::DEFAULT
        };
        heap.life.end();
        CORES.lock().put(options.kind(), self);
        parent
    }

    /// Maps the depots of a heap of which several threads have caches, if there is memory for them.
    pub(super) fn map_depots(&self) {
        if !self.is_heap() || !self.depots.load(Relaxed).is_null() {
            return;
        }
        let bytes = self.depot_bytes();
        let Some(depots) = bytes.and_then(depot_memory) else { return };
        // Whoever is second gives his back.
        // Release: publishes memory that was mapped before to the Acquire in `bin`. What is in a depot
        // is written and read under its bin's lock.
        let first = self.depots.compare_exchange(core::ptr::null_mut(), depots.cast().as_ptr(), Release, Relaxed);
        if first.is_err() {
            // SAFETY: mapped above with this length, and known to nobody.
            _ = unsafe { os::release(depots, bytes.unwrap_or(0)) };
        }
    }

    /// Gives the depots back, which are empty.
    fn give_depots_back(&self) {
        let depots = self.depots.swap(core::ptr::null_mut(), Relaxed);
        let bytes = self.depot_bytes();
        if let (Some(depots), Some(bytes)) = (core::ptr::NonNull::new(depots), bytes) {
            // SAFETY: the whole mapping of `map_depots`. Refused, it serves the next heap.
            if !unsafe { os::release(depots.cast(), bytes) } {
                self.depots.store(depots.as_ptr(), Relaxed);
            }
            if os::DECOMMITS {
                // They are not there any more, and not even written to.
                self.all_classes()
                    .map(|class| self.bin(class).0)
                    .filter(|bin| bin.take_depot(false))
                    .for_each(Bin::return_depot);
            }
        }
    }
}

const _: () = assert!(u32::BITS - CLASS_BITS < u32::BITS, "a number is half of an id at most");
