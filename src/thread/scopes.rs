//! The family that a thread's global allocations go to: the scope that it has entered last.
//!
//! | thread-local | outside of all scopes | in a scope |
//! | --- | --- | --- |
//! | `CACHE` | null | the thread's cache of the scope's family; the empty one where there is none, or where slots have states or spaced classes |
//! | `CORE` | none | the family |
//! | `UNIT_SHIFT` | 0 | the logarithm of its slabs' bytes |
//! | `DEPTH` | 0 | how many scopes are open |
//!
//! `CACHE` is all that an allocation looks at. **V1** It is null if and only if `CORE` is none. **V2** Who enters a scope holds
//! its family, so the cache is one of a heap that lives; and whoever gives a cache up takes it out of here.

use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::magazine::{Cache, Magazine, empty};
use crate::size_class::{Classes, NATURAL_COUNT};
use crate::sync::{Cell, thread_local};

use super::heaps;

/// A cache of natural classes, of which it has as many as any family.
type Start = *const Cache<[Magazine; 0]>;

thread_local! {
    static CACHE: Cell<Start> = const { Cell::new(core::ptr::null()) };
    static CORE: Cell<Option<&'static FamilyCore>> = const { Cell::new(None) };
    static UNIT_SHIFT: Cell<u32> = const { Cell::new(0) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn start(cache: &'static Cache) -> Start {
    core::ptr::from_ref(cache).cast()
}

/// The calling thread's cache of the family whose scope it is in, or the empty one; `None` outside of all scopes.
#[inline(always)]
pub(crate) fn cache() -> Option<&'static Cache> {
    let cache = CACHE.with(Cell::get);
    // SAFETY: V2: null, the empty cache, or a cache of the calling thread's that has the natural classes.
    if cache.is_null() { None } else { Some(unsafe { &*Cache::of_classes(cache, NATURAL_COUNT) }) }
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

/// Makes a family the one that the thread's allocations go to, or none; so many scopes are open then. Whoever calls this holds the family
/// until it is another; returns the one before.
pub(crate) fn set(core: Option<&'static FamilyCore>, depth: u32) -> Option<&'static FamilyCore> {
    DEPTH.with(|open| open.set(depth));
    let (cache, unit_shift) = core.map_or((core::ptr::null(), 0), |core| (start(cache_of(core)), core.unit_shift()));
    UNIT_SHIFT.with(|shift| shift.set(unit_shift));
    CACHE.with(|place| place.set(cache));
    CORE.with(|place| place.replace(core))
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
