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
//!
//! Thread-locals are destroyed before the values of `pthread` keys. A thread that first uses a family in the destructor of such a value
//! would never see its guard destroyed, so the guard has a key as well ([`late`]), whose own destructor then runs.

use crate::family::{FamilyCore, FamilyRef, ThreadCache};
use crate::magazine::{Cache, EMPTY};
use crate::sync::{Cell, thread_local};

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
        late::disarm();
        self.give_back();
    }
}

impl Guard {
    fn give_back(&self) {
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
            let registered = GUARD.try_with(|_| late::arm()).is_ok();
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

/// Calls `visit` with the calling thread's cache of a family, if it has one.
fn with_cache(family: &'static FamilyCore, visit: impl Fn(&Cache)) {
    // A thread without caches has nothing to give, and one that is ending has given everything back.
    if PHASE.get() != Phase::Live {
        return;
    }
    let _ = GUARD.try_with(|guard| {
        let caches = core::iter::successors(guard.first.get(), |cache| cache.next_in_thread.get());
        for cache in caches.filter(|cache| core::ptr::eq(cache.family, family)) {
            visit(&cache.cache);
        }
    });
}

/// Gives back what the calling thread's cache of a family holds; the cache stays.
fn flush(family: &'static FamilyCore) {
    with_cache(family, |cache| family.flush_all(cache));
}

/// Gives back what the calling thread has cached of a family, and all that is free then; returns the bytes of the slabs and mappings.
pub(crate) fn trim(family: &'static FamilyCore) -> usize {
    flush(family);
    family.trim()
}

impl FamilyRef {
    /// Bytes of the slots and mappings that clients hold now; as [`Family::live_bytes`](crate::Family::live_bytes).
    ///
    /// ```
    /// use family_alloc::{Box, FamilyAlloc, families};
    ///
    /// let boxed = Box::new_in([0_u8; 100], FamilyAlloc);
    /// assert_eq!(families().map(|family| family.live_bytes()).sum::<usize>(), 128);
    /// # drop(boxed);
    /// ```
    #[must_use]
    pub fn live_bytes(self) -> usize {
        let family = self.core();
        with_cache(family, |cache| _ = family.live_bytes(cache));
        family.noted_live_bytes()
    }

    /// Gives free memory back to the system at once; as [`Family::trim`](crate::Family::trim).
    ///
    /// ```
    /// use family_alloc::{FamilyAlloc, Vec, families};
    ///
    /// drop(Vec::<u8, _>::with_capacity_in(8 << 20, FamilyAlloc));
    /// let given_back: usize = families().map(|family| family.trim()).sum();
    /// println!("{given_back} bytes of slabs and mappings given back");
    /// ```
    pub fn trim(self) -> usize {
        trim(self.core())
    }
}

/// The second way to see a thread end, for threads whose thread-locals have been destroyed already.
#[cfg(all(unix, not(loom)))]
mod late {
    use super::GUARD;
    use crate::sync::{AtomicUsize, Relaxed};

    /// The key plus 1; 0 until there is one.
    static KEY: AtomicUsize = AtomicUsize::new(0);

    fn key() -> Option<libc::pthread_key_t> {
        let known = KEY.load(Relaxed);
        if known != 0 {
            return libc::pthread_key_t::try_from(known - 1).ok();
        }
        let mut new: libc::pthread_key_t = 0;
        // SAFETY: writes one key to a live one; the destructor is a function of this module.
        if unsafe { libc::pthread_key_create(&raw mut new, Some(run)) } != 0 {
            return None;
        }
        // Relaxed: a key is a number, and nothing else is published with it.
        match KEY.compare_exchange(0, new as usize + 1, Relaxed, Relaxed) {
            Ok(_) => Some(new),
            Err(first) => {
                // SAFETY: created above and used by nobody.
                unsafe { libc::pthread_key_delete(new) };
                libc::pthread_key_t::try_from(first - 1).ok()
            }
        }
    }

    fn set(value: *const libc::c_void) {
        if let Some(key) = key() {
            // SAFETY: a key that was created and is never deleted. Should there be no memory for the value, the thread does
            // without this second way.
            unsafe { libc::pthread_setspecific(key, value) };
        }
    }

    /// Lets [`run`] be called when the thread ends.
    pub(super) fn arm() {
        set((&raw const KEY).cast());
    }

    /// The thread-local guard runs, so nothing is left to do: a library may be unloaded once its thread-locals are gone.
    pub(super) fn disarm() {
        set(core::ptr::null());
    }

    extern "C" fn run(_: *mut libc::c_void) {
        // Should the guard be gone, it has given everything back itself.
        let _ = GUARD.try_with(super::Guard::give_back);
    }
}

/// Other systems destroy thread-locals last.
#[cfg(not(all(unix, not(loom))))]
mod late {
    pub(super) fn arm() {}

    pub(super) fn disarm() {}
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;
    use core::ptr::NonNull;
    use std::sync::mpsc;

    use crate::heap::{allocate, deallocate};
    use crate::sync::TAKEN;

    crate::family! { struct Passed; }

    /// Slots that one thread allocates and another frees cost at most one lock for 32 of them, both threads' together.
    #[test]
    fn passing_slots_on_takes_few_locks() {
        const COUNT: usize = 100_000;
        let layout = Layout::new::<[u64; 8]>();
        let (sender, receiver) = mpsc::sync_channel::<usize>(1000);
        let consumer = std::thread::spawn(move || {
            for slot in receiver {
                let slot = NonNull::new(core::ptr::with_exposed_provenance_mut(slot)).unwrap();
                // SAFETY: allocated by the producer with this layout, and passed on once.
                unsafe { deallocate::<Passed>(slot, layout) };
            }
            TAKEN.get()
        });
        let before = TAKEN.get();
        for _ in 0..COUNT {
            let slot = allocate::<Passed>(layout).unwrap().cast::<u8>();
            sender.send(slot.as_ptr().expose_provenance()).unwrap();
        }
        let taken = TAKEN.get() - before;
        drop(sender);
        let taken = taken + consumer.join().unwrap();
        println!("{taken} locks for {COUNT} slots: one for {}", COUNT / taken);
        // A few more for the caches, the slabs and what is given back at the end.
        assert!(taken <= COUNT / 32 + 100, "{taken} locks for {COUNT} slots");
    }
}
