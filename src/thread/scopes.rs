//! The family that a thread's global allocations go to: the scope that it has entered last.
//!
//! | thread-local | outside of all scopes | in a scope |
//! | --- | --- | --- |
//! | a [`CacheSlot`]'s `current` of each home | the thread's cache of the home | the thread's cache of the scope's family |
//! | `CORE` | none | the family |
//! | `DEPTH` | 0 | how many scopes are open |
//! | `ENTRIES` | – | which entry opened the scope at each depth, the first of all being 1; `COUNT` counts them |
//! | `HOMES` | the homes that the thread has allocated from | the same |
//! | `OWNERS` | the thread's caches of families, by number | the same |
//! | `LAST` | that of which the thread last freed something that was not the scope's or the home's | the same |
//!
//! A call looks at the first alone; a free of another family's block at the last two. There are only caches
//! whose slots need nothing else, *plain* ones; the empty one stands for all others, and for one that the thread does not
//! have or has not come to yet. **V1** A `current` is set only by [`set_home`], which notes the home in `HOMES`; and from then on
//! whenever another family becomes current. **V2** Who enters a scope holds its family, so the cache is one of a heap that
//! lives; and whoever gives a cache up takes it out of here.

use crate::checks::Checks;
use crate::family::{FamilyCore, ThreadCache};
use crate::magazine::{Cache, EMPTY, Magazine, empty};
use crate::size_class::{Classes, NATURAL_COUNT};
use crate::sync::{Cell, thread_local};

use super::heaps;

/// Down to this depth a scope is told from others that were open at the same one.
const TOLD_APART: usize = 32;

/// A cache of natural classes, of which it has as many as any family.
type Start = *const Cache<[Magazine; 0]>;

/// Places of `OWNERS`; families whose numbers differ by a multiple of this share one.
const PLACES: usize = 32;

/// Homes that a thread may have a `current` of: more than programs have.
const HOMES_MOST: usize = 4;

thread_local! {
    static CORE: Cell<Option<&'static FamilyCore>> = const { Cell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static COUNT: Cell<u32> = const { Cell::new(0) };
    static ENTRIES: [Cell<u32>; TOLD_APART] = const { [const { Cell::new(0) }; TOLD_APART] };
    static HOMES: [Cell<Option<&'static FamilyCore>>; HOMES_MOST] = const { [const { Cell::new(None) }; HOMES_MOST] };
    static OWNERS: [Cell<Start>; PLACES] = const { [const { Cell::new(NONE) }; PLACES] };
    static LAST: Cell<Start> = const { Cell::new(NONE) };
}

/// The empty cache.
const NONE: Start = (&raw const EMPTY).cast();

fn start(cache: &'static Cache) -> Start {
    core::ptr::from_ref(cache).cast()
}

/// # Safety
/// The empty cache, or one of the calling thread's with the natural classes that stays where it is.
#[inline(always)]
unsafe fn whole(cache: Start) -> &'static Cache {
    // SAFETY: the same contract.
    unsafe { &*Cache::of_classes(cache, NATURAL_COUNT) }
}

/// Whether the calling thread is in a scope.
#[inline(always)]
pub(crate) fn is_inside() -> bool {
    core().is_some()
}

/// The calling thread's plain cache of the family with a number, of another, or the empty one: its tags tell.
#[inline(always)]
pub(crate) fn owner(number: u32) -> &'static Cache {
    // SAFETY: V2.
    unsafe { whole(OWNERS.with(|owners| owners[number as usize % PLACES].get())) }
}

/// What was last given to [`set_last`], if the thread still has it; or the empty cache.
#[inline(always)]
pub(crate) fn last() -> &'static Cache {
    // SAFETY: V2.
    unsafe { whole(LAST.with(Cell::get)) }
}

/// Notes that a plain cache of the thread's took a slot of another family than the current one.
#[inline(always)]
pub(crate) fn set_last(cache: &'static Cache) {
    LAST.with(|place| place.set(start(cache)));
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
    let before = CORE.with(|place| place.replace(core));
    let cache = core.map(noted_cache_of);
    for_each_home(|home| home.slot().set_current(cache.unwrap_or_else(|| cache_of(home))));
    before
}

/// The calling thread's cache of a family if it stands in `OWNERS`; or the empty one.
#[inline(always)]
fn noted_cache_of(core: &'static FamilyCore) -> &'static Cache {
    let cache = owner(core.number());
    let is_of = ThreadCache::of(cache).is_some_and(|of| core::ptr::eq(of.family, core));
    if is_of && cache.heap() == core.heap_id() { cache } else { empty() }
}

#[inline(always)]
fn for_each_home(visit: impl Fn(&'static FamilyCore)) {
    HOMES.with(|homes| homes.iter().map_while(Cell::get).for_each(visit));
}

/// Lets the thread's calls whose home this is be served by the plain cache that they go to, if there is one.
#[cold]
pub(crate) fn set_home(home: &'static FamilyCore) {
    let is_noted = HOMES.with(|homes| {
        let is_for = |place: &&Cell<Option<&'static FamilyCore>>| place.get().is_none_or(|of| core::ptr::eq(of, home));
        homes.iter().find(is_for).map(|place| place.set(Some(home))).is_some()
    });
    if is_noted {
        home.slot().set_current(core().map_or_else(|| cache_of(home), note_owner));
    }
}

/// Notes the thread's cache of a family, which may share its place in `OWNERS`; returns it, or the empty one where it is not plain.
pub(crate) fn note_owner(core: &'static FamilyCore) -> &'static Cache {
    let cache = cache_of(core);
    if start(cache) != NONE {
        OWNERS.with(|owners| owners[core.number() as usize % PLACES].set(start(cache)));
    }
    cache
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
    if is_plain(family) {
        OWNERS.with(|owners| owners[family.number() as usize % PLACES].set(start(cache)));
    }
}

/// Notes that the calling thread gives a cache up.
pub(super) fn forget_cache(cache: &'static Cache) {
    let forget = |place: &Cell<Start>| {
        if place.get() == start(cache) {
            place.set(NONE);
        }
    };
    LAST.with(forget);
    OWNERS.with(|owners| owners.iter().for_each(forget));
    for_each_home(|home| {
        let slot = home.slot();
        if core::ptr::addr_eq(slot.current(), cache) {
            slot.set_current(empty());
        }
    });
}
