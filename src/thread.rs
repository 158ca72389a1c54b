//! A thread's caches: made when it first needs one, given back when it ends.
//!
//! | thread-local | destructor | what it is |
//! | --- | --- | --- |
//! | a `CacheSlot` per family | none | where the fast path looks; the empty cache at first and after the end |
//! | `PHASE` | none | whether this thread may have caches |
//! | `GUARD` | gives all caches back | registered with the first cache |
//!
//! Calls after the guard has run, from other destructors, find the empty cache and phase `Ended`: they go to the bins directly.
//! So do calls that the registration of the guard itself may make.

use core::cell::Cell;

use crate::family::{FamilyCore, ThreadCache};
use crate::magazine::{Cache, EMPTY};

/// The thread-local of one family: the calling thread's cache of it, or the empty one.
pub struct CacheSlot(Cell<*const Cache>);

impl CacheSlot {
    /// No cache yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Cell::new(&raw const EMPTY))
    }

    /// The thread's cache of the family, or the empty one.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> &'static Cache {
        // SAFETY: the slot holds the static empty cache or one that is never unmapped (F2 in `family`).
        unsafe { &*self.0.get() }
    }
}

impl Default for CacheSlot {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// No cache has been asked for.
    New,
    /// The guard is being registered, which may allocate.
    Registering,
    Live,
    /// The guard has run, or could not be registered.
    Ended,
}

/// Gives the thread's caches back when the thread ends.
struct Guard {
    first: Cell<Option<&'static ThreadCache>>,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::New) };
    static GUARD: Guard = const { Guard { first: Cell::new(None) } };
}

impl Drop for Guard {
    fn drop(&mut self) {
        PHASE.set(Phase::Ended);
        let mut next = self.first.take();
        while let Some(cache) = next {
            next = cache.next_in_thread.take();
            // SAFETY: the slot is a thread-local of this thread without a destructor, so it lives as long as the thread.
            let slot = unsafe { &*cache.slot.get() };
            slot.set(&raw const EMPTY);
            cache.family.retire_cache(cache);
        }
    }
}

/// Gives the calling thread a cache of a family and stores it in `slot`. `None`: the thread is ending, or out of memory.
pub(crate) fn attach(family: &'static FamilyCore, slot: &CacheSlot) -> Option<&'static Cache> {
    match PHASE.get() {
        Phase::Live => {}
        Phase::New => {
            PHASE.set(Phase::Registering);
            let registered = GUARD.try_with(|_| ()).is_ok();
            PHASE.set(if registered { Phase::Live } else { Phase::Ended });
            registered.then_some(())?;
        }
        Phase::Registering | Phase::Ended => return None,
    }
    let cache = family.acquire_cache()?;
    cache.slot.set(&raw const slot.0);
    let linked = GUARD.try_with(|guard| cache.next_in_thread.set(guard.first.replace(Some(cache))));
    if linked.is_err() {
        family.retire_cache(cache);
        return None;
    }
    slot.0.set(&raw const cache.cache);
    Some(&cache.cache)
}
