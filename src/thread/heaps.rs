//! A thread's caches of heaps: a table of as many heaps as the thread uses often.
//!
//! ```text
//!   LAST, LAST_SPACED ──► the caches that were used last: the heap's number and generation stand in them
//!   table ──► place (number modulo 32): the heap that has it, its cache │ a rival, and how often it came
//! ```
//!
//! A heap that is used now and then is served from its bins and has no part of the thread. One that earns a
//! cache takes its place in the table, from whichever heap has it. What nobody has exchanged slots with for a second
//! goes back when the thread next comes here.
//!
//! **T1** A cache is found by number and generation only (E2 in `family::heaps`). **T2** What stands in a place that has
//! no cache was dismissed, and nothing refers to it: neither what was used last, nor the slot, nor what `scopes` knows.

use core::ptr::NonNull;

use super::{PHASE, Phase, THREAD, Thread, scopes};
use crate::capacity::CALM_MILLISECONDS;
use crate::checks::Checks;
use crate::family::{FamilyCore, ThreadCache, slot_of_none};
use crate::magazine::{Cache, CacheSlot, EMPTY, Magazine, empty};
use crate::size_class::{Classes, NATURAL_COUNT};
use crate::sync::{Cell, thread_local};

/// Heaps that a thread has caches of, at most.
const PLACES: usize = 32;

thread_local! {
    // The cache that was used last of a heap with default checks and natural classes, or the empty one. A pointer, because a constant of Rust 1.85
    // must not hold a reference to what changes.
    static LAST: Cell<*const Cache<[Magazine; 0]>> = const { Cell::new((&raw const EMPTY).cast()) };
    // The same, of a heap with spaced classes.
    static LAST_SPACED: Cell<*const Cache> = const { Cell::new(core::ptr::from_ref(empty())) };
}

/// What a thread has of heaps.
pub(super) struct Heaps {
    table: Cell<Option<&'static [Place; PLACES]>>,
    /// When it was last looked for caches that are not used, in milliseconds modulo 2³².
    looked: Cell<u32>,
}

struct Place {
    heap: Cell<u64>,
    slot: CacheSlot,
    /// Where its caches stand, one after another: those with natural classes and those with spaced ones.
    memory: [Cell<Option<NonNull<ThreadCache>>>; 2],
    rival: Cell<u64>,
    /// Never has a cache: it counts.
    rival_slot: CacheSlot,
}

/// The calling thread's cache of the heap with default checks and these classes that it used last, or the empty one.
#[inline(always)]
pub(crate) fn last(classes: Classes) -> &'static Cache {
    let last = match classes {
        // As many classes as the compiler knows of: no index is looked at.
        Classes::Natural => Cache::of_classes(LAST.with(Cell::get), NATURAL_COUNT),
        Classes::Spaced => LAST_SPACED.with(Cell::get),
    };
    // SAFETY: a reference to a cache that this thread has, or to the empty one: T2.
    unsafe { &*last }
}

/// Makes a cache the one that was used last of the heaps with these classes.
fn set_last(classes: Classes, cache: &'static Cache) {
    match classes {
        Classes::Natural => LAST.set(core::ptr::from_ref(cache).cast()),
        Classes::Spaced => LAST_SPACED.set(core::ptr::from_ref(cache)),
    }
}

/// The calling thread's cache of a heap, or the empty one; it is the last one from now on.
pub(crate) fn cache_of(heap: &'static FamilyCore) -> &'static Cache {
    match heap.classes() {
        Classes::Natural => cache_of_classes::<false>(heap),
        Classes::Spaced => cache_of_classes::<true>(heap),
    }
}

/// The same, of a heap whose classes are known.
#[cold]
#[inline(never)]
pub(crate) fn cache_of_classes<const SPACED: bool>(heap: &'static FamilyCore) -> &'static Cache {
    let place = place_of(heap).filter(|place| place.heap.get() == heap.heap_id());
    let count = if SPACED { heap.class_count() } else { NATURAL_COUNT };
    let cache = place.map_or(empty(), |place| place.slot.get(count));
    if cache.heap() != 0 && heap.checks() == Checks::Default {
        set_last(if SPACED { Classes::Spaced } else { Classes::Natural }, cache);
    }
    cache
}

/// Makes a cache the one that was used last, if the fast path may use it: it knows default checks only.
fn note_last(heap: &FamilyCore, cache: &'static Cache) {
    if heap.checks() == Checks::Default {
        set_last(heap.classes(), cache);
    }
}

/// Where the calling thread's cache of a heap is, or where it is counted whether it earns one.
pub(crate) fn slot_of(heap: &'static FamilyCore) -> *const CacheSlot {
    let Some(place) = place_of(heap) else { return slot_of_none() };
    let id = heap.heap_id();
    if place.heap.get() == id {
        return &raw const place.slot;
    }
    if place.rival.replace(id) != id {
        place.rival_slot.clear();
    }
    &raw const place.rival_slot
}

/// Whether the thread has had a cache that was worth it of the heap that lived in this core before: the next one is likely to be
/// used alike.
pub(super) fn was_earned(heap: &'static FamilyCore) -> bool {
    place_of(heap).is_some_and(|place| {
        let (there, id) = (place.heap.get(), heap.heap_id());
        there != id && there as u32 == id as u32 && ThreadCache::in_slot(&place.slot).is_some_and(ThreadCache::has_paid)
    })
}

fn place_of(heap: &FamilyCore) -> Option<&'static Place> {
    if PHASE.get() != Phase::Live {
        return None;
    }
    let table = THREAD.get()?.heaps.table.get()?;
    Some(&table[heap.heap_id() as usize % PLACES])
}

impl Heaps {
    pub(super) const fn new() -> Self {
        Self { table: Cell::new(None), looked: Cell::new(0) }
    }

    fn places(&self) -> impl Iterator<Item = &'static Place> {
        self.table.get().into_iter().flatten()
    }

    /// Gives up all caches of a thread that ends.
    pub(super) fn leave(&self) {
        [Classes::Natural, Classes::Spaced].into_iter().for_each(|classes| set_last(classes, empty()));
        self.places().for_each(Self::dismiss);
        self.table.set(None);
    }

    /// Gives up the cache that a place has, if it has one.
    fn dismiss(place: &Place) {
        let Some(cache) = ThreadCache::in_slot(&place.slot) else { return };
        place.slot.clear();
        place.heap.set(0);
        scopes::forget_cache(cache.cache);
        let classes = cache.family.classes();
        if core::ptr::addr_eq(last(classes), cache.cache) {
            set_last(classes, empty());
        }
        cache.family.dismiss_cache(cache);
    }

    /// Gives up what nobody has exchanged slots with for a second, unless it was looked for within that time.
    fn look(&self, now: u32, but: &FamilyCore) {
        if now.wrapping_sub(self.looked.get()) < CALM_MILLISECONDS {
            return;
        }
        self.looked.set(now);
        let is_left = |place: &&Place| {
            ThreadCache::in_slot(&place.slot).is_some_and(|cache| !core::ptr::eq(cache.family, but) && cache.is_left())
        };
        self.places().filter(is_left).for_each(Self::dismiss);
    }
}

/// Gives up the calling thread's caches that are not used, now and then.
pub(super) fn look(now: u64, but: &FamilyCore) {
    if PHASE.get() == Phase::Live {
        if let Some(thread) = THREAD.get() {
            thread.heaps.look(now as u32, but);
        }
    }
}

impl Thread {
    /// A cache of a heap, in its place of the table. `None`: out of memory.
    pub(super) fn attach_heap(&'static self, heap: &'static FamilyCore) -> Option<&'static ThreadCache> {
        let heaps = &self.heaps;
        let table = match heaps.table.get() {
            Some(table) => table,
            None => {
                let table = self.new_table()?;
                heaps.table.set(Some(table));
                table
            }
        };
        let place = &table[heap.heap_id() as usize % PLACES];
        Heaps::dismiss(place);
        let memory = &place.memory[heap.classes() as usize];
        let cache = match memory.get() {
            Some(cache) => {
                // SAFETY: T2; it was of a heap with the same classes.
                unsafe { heap.renew_cache(cache) };
                cache
            }
            None => heap.acquire_cache(&self.pages)?,
        };
        memory.set(Some(cache));
        place.heap.set(heap.heap_id());
        place.rival.set(0);
        // SAFETY: just made, and this thread's until it is dismissed.
        let cache: &'static ThreadCache = unsafe { cache.as_ref() };
        place.slot.set(cache.cache);
        note_last(heap, cache.cache);
        scopes::note_cache(heap, cache.cache);
        Some(cache)
    }

    fn new_table(&self) -> Option<&'static [Place; PLACES]> {
        let memory = self.pages.allocate(size_of::<[Place; PLACES]>())?.cast::<[Place; PLACES]>();
        let new = || Place {
            heap: Cell::new(0),
            slot: CacheSlot::new(),
            memory: [const { Cell::new(None) }; 2],
            rival: Cell::new(0),
            rival_slot: CacheSlot::new(),
        };
        // SAFETY: P1: room for it, at a cache line, which nobody else has.
        unsafe { memory.write(core::array::from_fn(|_| new())) };
        // SAFETY: written just now; it stays until the thread's pages go back, which nobody comes after.
        Some(unsafe { memory.as_ref() })
    }
}
