//! The family that a thread's global allocations go to: the scope that it has entered last.
//!
//! | thread-local | outside of all scopes | in a scope |
//! | --- | --- | --- |
//! | `IS_INSIDE` | no | yes |
//! | `UNIT_SHIFT` | 0 | the logarithm of the bytes of the family's slabs |
//! | `CACHE` | the empty one | the thread's cache of the family; the empty one where there is none, where slots have states or spaced classes, and until the first call that it cannot serve |
//! | `CORE` | none | the family |
//! | `DEPTH` | 0 | how many scopes are open |
//! | `ENTRIES` | – | which entry opened the scope at each depth, the first of all being 1; `COUNT` counts them |
//!
//! An allocation looks at the first, and in a scope at the others. **V1** `IS_INSIDE` says whether `CORE` is any. **V2** Who
//! enters a scope holds its family, so the cache is one of a heap that lives; and whoever gives a cache up takes it out of here.

use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::magazine::{Cache, EMPTY, Magazine, empty};
use crate::size_class::{Classes, NATURAL_COUNT};
use crate::sync::{Cell, thread_local};

use super::heaps;

/// Down to this depth a scope is told from others that were open at the same one.
const TOLD_APART: usize = 32;

/// A cache of natural classes, of which it has as many as any family.
type Start = *const Cache<[Magazine; 0]>;

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    static UNIT_SHIFT: Cell<u32> = const { Cell::new(0) };
    static CACHE: Cell<Start> = const { Cell::new((&raw const EMPTY).cast()) };
    static CORE: Cell<Option<&'static FamilyCore>> = const { Cell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static COUNT: Cell<u32> = const { Cell::new(0) };
    static ENTRIES: [Cell<u32>; TOLD_APART] = const { [const { Cell::new(0) }; TOLD_APART] };
}

fn start(cache: &'static Cache) -> Start {
    core::ptr::from_ref(cache).cast()
}

/// Whether the calling thread is in a scope.
#[inline(always)]
pub(crate) fn is_inside() -> bool {
    let is_inside = IS_INSIDE.with(Cell::get);
    if is_inside {
        hardly_ever();
    }
    is_inside
}

/// Lets the compiler put what follows aside: there is more to do in a scope anyhow, and most programs are in none.
#[cold]
#[inline]
fn hardly_ever() {}

/// The calling thread's cache of the family whose scope it is in, or the empty one.
#[inline(always)]
pub(crate) fn cache() -> &'static Cache {
    // SAFETY: V2: the empty cache, or a cache of the calling thread's that has the natural classes.
    unsafe { &*Cache::of_classes(CACHE.with(Cell::get), NATURAL_COUNT) }
}

/// Slabs of the family whose scope the thread is in have two to this power bytes.
#[inline(always)]
pub(crate) fn unit_shift() -> u32 {
    UNIT_SHIFT.with(Cell::get)
}

/// The family whose scope the calling thread is in.
pub(crate) fn core() -> Option<&'static FamilyCore> {
    CORE.with(Cell::get)
}

/// How many scopes are open.
pub(crate) fn depth() -> u32 {
    DEPTH.with(Cell::get)
}

/// Counts an entry into a scope at a depth; returns its number.
pub(crate) fn note_entry(depth: u32) -> u32 {
    let entry = COUNT.with(Cell::get).wrapping_add(1);
    COUNT.with(|count| count.set(entry));
    ENTRIES.with(|entries| {
        if let Some(place) = entries.get(depth as usize) {
            place.set(entry);
        }
    });
    entry
}

/// Whether the scope at a depth that an entry opened is still open.
pub(crate) fn is_open(depth: u32, entry: u32) -> bool {
    let is_other =
        |entries: &[Cell<u32>; TOLD_APART]| entries.get(depth as usize).is_some_and(|last| last.get() != entry);
    depth <= self::depth() && !ENTRIES.with(is_other)
}

/// Makes a family the one that the thread's allocations go to, or none; so many scopes are open then. Whoever calls this holds the family
/// until it is another; returns the one before.
pub(crate) fn set(core: Option<&'static FamilyCore>, depth: u32) -> Option<&'static FamilyCore> {
    DEPTH.with(|open| open.set(depth));
    IS_INSIDE.with(|is_inside| is_inside.set(core.is_some()));
    UNIT_SHIFT.with(|shift| shift.set(core.map_or(0, FamilyCore::unit_shift)));
    CACHE.with(|place| place.set(start(empty())));
    CORE.with(|place| place.replace(core))
}

/// Whether the scope's calls are served by a cache.
#[inline(always)]
pub(crate) fn has_cache() -> bool {
    CACHE.with(|place| place.get() != start(empty()))
}

/// Lets the scope's allocations be served by the thread's cache of its family from now on, if there is one.
pub(crate) fn use_cache() {
    if let Some(core) = core() {
        CACHE.with(|place| place.set(start(cache_of(core))));
    }
}

/// Whether a family's slots can be served and taken back with nothing but their cache.
fn is_plain(core: &FamilyCore) -> bool {
    core.classes() == Classes::Natural && matches!(core.checks(), Checks::Default | Checks::Unchecked)
}

/// The calling thread's cache of a family, if its slots need nothing else; or the empty one.
fn cache_of(core: &'static FamilyCore) -> &'static Cache {
    match is_plain(core) {
        true if core.is_heap() => heaps::cache_of(core),
        true => core.slot().get(core.class_count()),
        false => empty(),
    }
}

/// Notes that the calling thread has a cache of a family from now on.
pub(super) fn note_cache(family: &'static FamilyCore, cache: &'static Cache) {
    if is_plain(family) && core().is_some_and(|core| core::ptr::eq(core, family)) {
        CACHE.with(|place| place.set(start(cache)));
    }
}

/// Notes that the calling thread gives a cache up.
pub(super) fn forget_cache(cache: &'static Cache) {
    CACHE.with(|place| {
        if place.get() == start(cache) {
            place.set(start(empty()));
        }
    });
}
