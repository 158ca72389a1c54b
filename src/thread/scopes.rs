//! The family that a thread's global allocations go to: the scope that it has entered last.
//!
//! | of each thread | outside of all scopes | in a scope |
//! | --- | --- | --- |
//! | a [`CacheSlot`]'s `current` of each home | the thread's cache of the home | the thread's cache of the scope's family, if it has natural classes |
//! | `spaced` | – | the thread's cache of the scope's family, if it has spaced classes; or what it was in another scope |
//! | `core` | none | the family |
//! | `depth` | 0 | how many scopes are open |
//! | `entries` | – | which entry opened the scope at each depth, the first of all being 1; `count` counts them |
//! | `homes` | the homes that the thread has allocated from | the same |
//! | `owners`, `spaced_owners` | the thread's caches of families, by number: those with natural classes, those with spaced ones | the same |
//! | `last`, and a [`CacheSlot`]'s `other` of each home | the cache that last took back something that was not the scope's or the home's; `other` only if its slabs are as long as the home's, or most heaps' | the same |
//!
//! A call looks at the first, and at the second where that is the empty cache; a free of another
//! family's block at the last two rows. There are only caches whose slots need nothing else,
//! *plain* ones; the empty one stands for all others, and for one that the thread does not have or
//! has not come to yet. Caches of the two kinds stand apart: one with spaced classes that was asked
//! with natural ones would hand out slots that are too short. **V1** A `current` is set only by
//! [`set_home`], which notes the home in `homes`; and from then on, as `spaced`, whenever another
//! family becomes current. **V2** Who enters a scope holds its family, so the cache is one of a
//! heap that lives; and whoever gives a cache up takes it out of here.

use crate::checks::Checks;
use crate::family::{FamilyCore, ThreadCache};
use crate::magazine::{Cache, CacheSlot, EMPTY, Magazine, empty};
use crate::size_class::{Classes, NATURAL_COUNT};
use crate::sync::{Cell, thread_local};

use super::heaps;

/// Down to this depth a scope is told from others that were open at the same one.
const TOLD_APART: usize = 32;

/// A cache of natural classes, of which it has as many as any family.
type Start = *const Cache<[Magazine; 0]>;

/// Places of `owners`; families whose numbers differ by a multiple of this share one.
const PLACES: usize = 32;
/// The same, of `spaced_owners`: few families have spaced classes, and none in the models, which have little room.
const SPACED_PLACES: usize = if cfg!(loom) { 1 } else { 16 };

/// Homes that a thread may have a `current` of: more than programs have.
const HOMES_MOST: usize = 4;

/// What a thread knows of scopes.
struct Here {
    core: Cell<Option<&'static FamilyCore>>,
    depth: Cell<u32>,
    count: Cell<u32>,
    entries: [Cell<u32>; TOLD_APART],
    homes: [Cell<Option<&'static FamilyCore>>; HOMES_MOST],
    owners: [Cell<Start>; PLACES],
    last: Cell<Start>,
    /// Whose cache it is that `spaced` was set to. It counts only while that family is the current one.
    spaced_core: Cell<Option<&'static FamilyCore>>,
    // Pointers, because a constant of Rust 1.85 must not hold a reference to what changes.
    spaced: Cell<*const Cache>,
    spaced_owners: [Cell<*const Cache>; SPACED_PLACES],
}

thread_local! {
    static HERE: Here = const { Here::new() };
}

/// Calls a function with what the calling thread knows.
#[inline(always)]
fn here<T>(use_it: impl FnOnce(&Here) -> T) -> T {
    // Only the address is asked of `with`, which is not inlined with all that is done with it.
    let here = HERE.with(core::ptr::from_ref);
    // SAFETY: the calling thread's, which has no destructor; the reference does not leave the call.
    use_it(unsafe { &*here })
}

/// The empty cache.
const NONE: Start = (&raw const EMPTY).cast();

#[inline(always)]
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

/// A scope that was entered: what was current before it, how many are open, and which entry it is of the thread's.
pub(crate) struct Entry {
    pub(crate) before: Option<&'static FamilyCore>,
    pub(crate) depth: u32,
    pub(crate) number: u32,
}

impl Here {
    const fn new() -> Self {
        Self {
            core: Cell::new(None),
            depth: Cell::new(0),
            count: Cell::new(0),
            entries: [const { Cell::new(0) }; TOLD_APART],
            homes: [const { Cell::new(None) }; HOMES_MOST],
            owners: [const { Cell::new(NONE) }; PLACES],
            last: Cell::new(NONE),
            spaced_core: Cell::new(None),
            spaced: Cell::new(core::ptr::from_ref(empty())),
            spaced_owners: [const { Cell::new(core::ptr::from_ref(empty())) }; SPACED_PLACES],
        }
    }

    /// Where the thread's cache of the family with a number stands, if it does and has natural classes.
    #[inline(always)]
    fn place(&self, number: u32) -> &Cell<Start> {
        &self.owners[number as usize % PLACES]
    }

    /// The same, if it has spaced classes.
    #[inline(always)]
    fn spaced_place(&self, number: u32) -> &Cell<*const Cache> {
        &self.spaced_owners[number as usize % SPACED_PLACES]
    }

    /// The homes, and the thread's slots of them.
    #[inline(always)]
    fn slots(&self) -> impl Iterator<Item = (&'static FamilyCore, &CacheSlot)> {
        self.homes.iter().map_while(Cell::get).map(|home| (home, home.slot()))
    }

    /// Makes a family current, or none; returns the one before.
    #[inline(always)]
    fn set(&self, core: Option<&'static FamilyCore>) -> Option<&'static FamilyCore> {
        match core {
            None => self.slots().for_each(|(home, slot)| slot.set_current(own_cache(home, slot))),
            Some(core) => {
                // SAFETY: V2.
                let cache = unsafe { whole(self.place(core.number()).get()) };
                if is_of(core, cache) {
                    self.slots().for_each(|(_, slot)| slot.set_current(cache));
                } else {
                    self.set_other(core);
                }
            }
        }
        self.core.replace(core)
    }

    /// Lets calls go to the thread's cache of a family with spaced classes, if it stands in `spaced_owners`; or to none.
    #[cold]
    #[inline(never)]
    fn set_other(&self, core: &'static FamilyCore) {
        self.slots().for_each(|(_, slot)| slot.set_current(empty()));
        // SAFETY: V2.
        let cache = unsafe { &*self.spaced_place(core.number()).get() };
        self.set_spaced(core, if is_of(core, cache) { cache } else { empty() });
    }

    fn set_spaced(&self, core: &'static FamilyCore, cache: &'static Cache) {
        self.spaced_core.set(Some(core));
        self.spaced.set(core::ptr::from_ref(cache));
    }

    /// The cache with spaced classes that calls go to, if the scope's family has such. Outside of all scopes it may be the empty one.
    #[inline(always)]
    fn spaced(&self) -> Option<*const Cache> {
        let address = |core: Option<&'static FamilyCore>| core.map_or(core::ptr::null(), core::ptr::from_ref);
        (address(self.core.get()) == address(self.spaced_core.get())).then(|| self.spaced.get())
    }

    /// Notes the thread's cache of a family, which may share its place; returns it, or the empty one where it is not plain.
    fn note(&self, core: &'static FamilyCore) -> &'static Cache {
        let cache = cache_of(core);
        if start(cache) != NONE {
            self.put(core, cache);
        }
        cache
    }

    fn put(&self, core: &'static FamilyCore, cache: &'static Cache) {
        match core.classes() {
            Classes::Natural => self.place(core.number()).set(start(cache)),
            Classes::Spaced => self.spaced_place(core.number()).set(core::ptr::from_ref(cache)),
        }
    }

    fn set_home(&self, home: &'static FamilyCore) {
        let is_for = |place: &&Cell<Option<&'static FamilyCore>>| place.get().is_none_or(|of| core::ptr::eq(of, home));
        if let Some(place) = self.homes.iter().find(is_for) {
            place.set(Some(home));
            home.slot().set_current(match self.core.get() {
                None => own_cache(home, home.slot()),
                Some(core) if core.classes() == Classes::Spaced => {
                    self.set_spaced(core, self.note(core));
                    empty()
                }
                Some(core) => self.note(core),
            });
        }
    }

    fn forget(&self, cache: &'static Cache) {
        let is_of = |place: &&Cell<Start>| place.get() == start(cache);
        let places = self.owners.iter().chain([&self.last]);
        places.filter(is_of).for_each(|place| place.set(NONE));
        let places = self.spaced_owners.iter().chain([&self.spaced]);
        let is_of = |place: &&Cell<*const Cache>| core::ptr::addr_eq(place.get(), cache);
        places.filter(is_of).for_each(|place| place.set(core::ptr::from_ref(empty())));
        for (_, slot) in self.slots() {
            if core::ptr::addr_eq(slot.current(), cache) {
                slot.set_current(empty());
            }
            if core::ptr::addr_eq(slot.other(), cache) {
                slot.set_other(empty());
            }
        }
    }
}

/// Whether a cache is the thread's of a family.
#[inline(always)]
fn is_of(core: &'static FamilyCore, cache: &'static Cache) -> bool {
    let heap = core.heap_id();
    // A heap's number and generation are enough, and no other cache has them; static families are told apart by what they are.
    cache.heap() == heap && (heap != 0 || ThreadCache::of(cache).is_some_and(|of| core::ptr::eq(of.family, core)))
}

/// Whether the calling thread is in a scope.
#[inline(always)]
pub(crate) fn is_inside() -> bool {
    core().is_some()
}

/// The calling thread's plain cache of the family with a number, of another, or the empty one: its tags tell. With natural
/// classes.
#[inline(always)]
pub(crate) fn owner(number: u32) -> &'static Cache {
    // SAFETY: V2.
    unsafe { whole(here(|here| here.place(number).get())) }
}

/// The same, with spaced classes.
#[inline(always)]
pub(crate) fn spaced_owner(number: u32) -> &'static Cache {
    // SAFETY: V2.
    unsafe { &*here(|here| here.spaced_place(number).get()) }
}

/// The plain cache, or the empty one, that the calling thread's allocations go to, if it is in the scope of a family with spaced
/// classes. Outside of all scopes it may be the empty one.
#[inline(always)]
pub(crate) fn spaced() -> Option<&'static Cache> {
    // SAFETY: V2.
    here(Here::spaced).map(|cache| unsafe { &*cache })
}

/// What was last given to [`set_last`], if the thread still has it; or the empty cache.
#[inline(always)]
pub(crate) fn last() -> &'static Cache {
    // SAFETY: V2.
    unsafe { whole(here(|here| here.last.get())) }
}

/// Notes that a plain cache of the thread's took a slot of another family than the current one.
/// Calls that have this home look there first from now on.
pub(crate) fn set_last(cache: &'static Cache, home: Option<&'static FamilyCore>) {
    here(|here| {
        here.last.set(start(cache));
        // Only of a home that is noted: V1.
        let slots = here.slots().filter(|(of, _)| home.is_some_and(|home| core::ptr::eq(*of, home)));
        slots.for_each(|(_, slot)| slot.set_other(cache));
    });
}

/// The family whose scope the calling thread is in.
#[inline]
pub(crate) fn core() -> Option<&'static FamilyCore> {
    here(|here| here.core.get())
}

/// Makes a family the one that the thread's allocations go to, or none. Whoever calls this holds the family until it is another.
pub(crate) fn enter(core: Option<&'static FamilyCore>) -> Entry {
    here(|here| {
        let (depth, number) = (here.depth.get().saturating_add(1), here.count.get().wrapping_add(1));
        here.depth.set(depth);
        here.count.set(number);
        if let Some(place) = here.entries.get(depth as usize) {
            place.set(number);
        }
        Entry { before: here.set(core), depth, number }
    })
}

/// Whether a scope is still open. It is not if it was left with one that it was entered in.
pub(crate) fn is_open(depth: u32, number: u32) -> bool {
    here(|here| depth <= here.depth.get() && here.entries.get(depth as usize).is_none_or(|last| last.get() == number))
}

/// Leaves a scope that is open, and all that were entered in it; what was current before is so again, and the caller gives up to
/// hold it. Returns the family that was current, which the caller holds from now on.
pub(crate) fn leave(before: Option<&'static FamilyCore>, depth: u32) -> Option<&'static FamilyCore> {
    here(|here| {
        here.depth.set(depth - 1);
        here.set(before)
    })
}

/// Lets the thread's calls whose home this is be served by the plain cache that they go to, if there is one.
#[cold]
pub(crate) fn set_home(home: &'static FamilyCore) {
    here(|here| here.set_home(home));
}

/// Notes the thread's cache of a family, which another family may have had the place of.
pub(crate) fn note_owner(core: &'static FamilyCore) {
    here(|here| _ = here.note(core));
}

/// Whether a family's slots can be served and taken back with nothing but their cache.
fn is_plain(core: &FamilyCore) -> bool {
    matches!(core.checks(), Checks::Default | Checks::Unchecked)
}

/// The calling thread's cache of a family, if its slots need nothing else; or the empty one.
fn cache_of(core: &'static FamilyCore) -> &'static Cache {
    match (is_plain(core), core.is_heap()) {
        (false, _) => empty(),
        (true, true) => heaps::cache_of(core),
        (true, false) => core.slot().get(core.class_count()),
    }
}

/// A home's cache, if calls with natural classes may go to it; or the empty one.
#[inline(always)]
fn own_cache(core: &'static FamilyCore, slot: &CacheSlot) -> &'static Cache {
    if is_plain(core) && core.classes() == Classes::Natural { slot.get(NATURAL_COUNT) } else { empty() }
}

/// Notes that the calling thread has a cache of a family from now on.
pub(super) fn note_cache(family: &'static FamilyCore, cache: &'static Cache) {
    if is_plain(family) {
        here(|here| here.put(family, cache));
    }
}

/// Notes that the calling thread gives a cache up.
pub(super) fn forget_cache(cache: &'static Cache) {
    here(|here| here.forget(cache));
}
