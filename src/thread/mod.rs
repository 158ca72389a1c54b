//! A thread's caches: made when it has earned one, given back when it ends.
//!
//! | thread-local | what it is |
//! | --- | --- |
//! | a `CacheSlot` per family | where the fast path looks; the empty cache at first and after the end |
//! | `PHASE` | whether this thread may have caches |
//! | `THREAD` | the thread's pages, and its caches that stand in them |
//! | `LAST` and another | the caches of heaps that were used last: see [`heaps`] |
//! | `CACHE` and others | the scope that the thread is in: see [`scopes`] |
//!
//! None of them has a destructor. That a thread ends is told by the value of a `pthread` key, whose
//! destructor runs after those of thread-locals: they still find the caches. Registering a destructor
//! of a thread-local would take memory that glibc ends the process without; a key's value is refused,
//! and the thread then does without caches. Calls after the end, from destructors of other keys, find
//! the empty cache and phase `Ended`: they go to the bins directly. So do calls that the registration
//! itself may make.
//!
//! Where thread-locals are values of `pthread` keys themselves, they may be gone before the end is
//! told, and made anew by later calls. So nothing refers to one: a slot is found by its family's
//! function, and the thread's pages by the key.

pub(crate) mod heaps;
pub(crate) mod scopes;

use heaps::Heaps;

use crate::capacity::{CALM_MILLISECONDS, EARNING_CALLS};
use crate::family::{FamilyCore, FamilyRef, ThreadCache};
use crate::magazine::{Cache, CacheSlot};
use crate::os;
use crate::size_class::SizeClass;
use crate::sync::{Cell, thread_local};
use crate::thread_pages::ThreadPages;

/// What a thread has of all families. Stands in the first of its pages.
pub(crate) struct Thread {
    pages: ThreadPages,
    /// The list of its caches of static families.
    first: Cell<Option<&'static ThreadCache>>,
    /// Its caches of heaps.
    heaps: Heaps,
    /// Whether the system has asked once already to end it.
    #[cfg_attr(not(all(unix, not(loom))), allow(dead_code, reason = "only keys ask twice"))]
    was_asked: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// No cache has been earned.
    New,
    /// The end is being registered, which may allocate.
    Registering,
    Live,
    /// The thread has ended.
    Ended,
}

/// Whether threads are known: without `std` none is, and none ever has a cache.
const ARE_KNOWN: bool = cfg!(any(feature = "std", loom));

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(if ARE_KNOWN { Phase::New } else { Phase::Ended }) };
    static THREAD: Cell<Option<&'static Thread>> = const { Cell::new(None) };
}

impl Thread {
    /// A thread without caches, in pages of its own. `None`: out of memory.
    fn new() -> Option<&'static Self> {
        let pages = ThreadPages::new();
        let place = pages.allocate(size_of::<Self>())?.cast::<Self>();
        // SAFETY: P1: room for it, at a cache line, which nobody else has.
        unsafe {
            place.write(Self { pages, first: Cell::new(None), heaps: Heaps::new(), was_asked: Cell::new(false) })
        };
        // SAFETY: written just now; it stays until `end`, which nobody comes after.
        Some(unsafe { place.as_ref() })
    }

    fn caches(&self) -> impl Iterator<Item = &'static ThreadCache> + use<> {
        core::iter::successors(self.first.get(), |cache| cache.next_in_thread.get())
    }

    /// Gives the thread's caches back; returns the pages that they stood in, and in which the thread itself stands.
    fn leave(&self) -> ThreadPages {
        PHASE.set(Phase::Ended);
        THREAD.set(None);
        let mut next = self.first.take();
        while let Some(cache) = next {
            next = cache.next_in_thread.take();
            cache.family.slot().clear();
            scopes::forget_cache(cache.cache);
            cache.family.retire_cache(cache);
        }
        self.heaps.leave();
        self.pages.take()
    }

    /// Gives the thread's caches back, and then their pages. By a pointer, because no reference may outlive the pages.
    ///
    /// # Safety
    /// The calling thread's own, made by [`new`](Self::new), and not used any more.
    unsafe fn end(thread: *const Self) {
        // SAFETY: the same contract: it stands until its pages go back.
        let pages = unsafe { &*thread }.leave();
        // SAFETY: the caches are gone (F2), and that was the last use of the thread's own place.
        unsafe { pages.give_back() };
    }
}

/// The calling thread's cache, if it has one or has earned one, and slots of the class are cached. Every
/// call that is not served by the cache alone comes here first, with no lock held: so this is where the
/// house is kept.
pub(crate) fn cache_for(
    family: &'static FamilyCore,
    slot: &CacheSlot,
    class: SizeClass,
) -> Option<&'static ThreadCache> {
    let now = os::milliseconds();
    family.visited(now);
    if family.is_heap() {
        heaps::look(now, family);
        // What comes back to an orphan goes to its bins (E3 in `family::heaps`).
        if family.is_orphan() {
            return None;
        }
    }
    let cache = match ThreadCache::in_slot(slot) {
        Some(cache) => cache,
        None if !ARE_KNOWN => return None,
        // What is poisoned goes back one by one, so that the fast path knows nothing of it.
        None if os::poisons() => return None,
        None if family.gives_caches_at_once()
            || family.is_heap() && heaps::was_earned(family)
            || slot.earns(EARNING_CALLS, CALM_MILLISECONDS, now) =>
        {
            attach(family, slot)?
        }
        None => return None,
    };
    cache.exchanges(class, now).then_some(cache)
}

/// Gives the calling thread a cache of a family. `None`: the thread is ending, or out of memory.
fn attach(family: &'static FamilyCore, slot: &CacheSlot) -> Option<&'static ThreadCache> {
    match PHASE.get() {
        Phase::Live => {}
        Phase::New => {
            PHASE.set(Phase::Registering);
            let thread = ending::begin();
            THREAD.set(thread);
            // Short of memory now, the thread may have better luck at its next call.
            PHASE.set(if thread.is_some() { Phase::Live } else { Phase::New });
        }
        Phase::Registering | Phase::Ended => return None,
    }
    let thread = THREAD.get()?;
    if family.is_heap() {
        return thread.attach_heap(family);
    }
    let place = family.acquire_cache(&thread.pages)?;
    // SAFETY: just made, and this thread's until it ends (F2).
    let cache: &'static ThreadCache = unsafe { place.as_ref() };
    cache.next_in_thread.set(thread.first.replace(Some(cache)));
    slot.set(cache.cache);
    scopes::note_cache(family, cache.cache);
    Some(cache)
}

/// Calls `visit` with the calling thread's cache of a family, if it has one.
fn with_cache(family: &'static FamilyCore, visit: impl Fn(&Cache)) {
    // A thread without caches has nothing to give, and one that is ending has given everything back.
    if PHASE.get() != Phase::Live {
        return;
    }
    if family.is_heap() {
        return visit(heaps::cache_of(family));
    }
    let caches = THREAD.get().into_iter().flat_map(Thread::caches);
    for cache in caches.filter(|cache| core::ptr::eq(cache.family, family)) {
        visit(cache.cache);
    }
}

/// Gives back what the calling thread's cache of a family holds; the cache stays.
fn flush(family: &'static FamilyCore) {
    with_cache(family, |cache| family.flush_all(cache));
}

/// Gives back what the calling thread has cached of a family that a limit may have refused something; whether that may help.
pub(crate) fn make_room(family: &'static FamilyCore) -> bool {
    let is_limited = family.is_limited();
    if is_limited {
        flush(family);
    }
    is_limited
}

/// Gives back what the calling thread has cached of a family, and all that is free then; returns the bytes of the slabs and mappings.
pub(crate) fn trim(family: &'static FamilyCore) -> usize {
    flush(family);
    family.trim()
}

/// Bytes that clients hold, as far as the threads have noted it, and all that the calling thread did.
pub(crate) fn live_bytes(family: &'static FamilyCore) -> usize {
    with_cache(family, |cache| _ = family.live_bytes(cache));
    family.noted_live_bytes()
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
        self.hold().map_or(0, |family| live_bytes(&family))
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
        self.hold().map_or(0, |family| trim(&family))
    }
}

/// Sees a thread end by the value of a `pthread` key.
#[cfg(all(feature = "std", unix, not(loom)))]
mod ending {
    use super::Thread;
    use crate::sync::{Acquire, AtomicUsize, Release};

    /// The key plus 1; 0 until there is one.
    static KEY: AtomicUsize = AtomicUsize::new(0);

    fn key() -> Option<libc::pthread_key_t> {
        // Acquire: pairs with the Release below, so that what the C library noted of the key is seen.
        let known = KEY.load(Acquire);
        if known != 0 {
            return libc::pthread_key_t::try_from(known - 1).ok();
        }
        let mut new: libc::pthread_key_t = 0;
        // SAFETY: writes one key to a live one; the destructor is a function of this module.
        if unsafe { libc::pthread_key_create(&raw mut new, Some(run)) } != 0 {
            return None;
        }
        // Release: publishes the key with its destructor, which the C library may have stored plainly. Acquire: as above.
        match KEY.compare_exchange(0, new as usize + 1, Release, Acquire) {
            Ok(_) => Some(new),
            Err(first) => {
                // SAFETY: created above and used by nobody.
                unsafe { libc::pthread_key_delete(new) };
                libc::pthread_key_t::try_from(first - 1).ok()
            }
        }
    }

    /// The calling thread's `Thread`, whose end will be told. `None`: out of memory, or of keys.
    pub(super) fn begin() -> Option<&'static Thread> {
        let key = key()?;
        // SAFETY: a key that was created and is never deleted.
        let known = unsafe { libc::pthread_getspecific(key) }.cast::<Thread>();
        // SAFETY: the key's values are set below, and gone when `run` is called with them.
        if let Some(thread) = unsafe { known.as_ref() } {
            return Some(thread);
        }
        let thread = Thread::new()?;
        if !set(thread) {
            // SAFETY: made above, and known to nobody.
            unsafe { Thread::end(thread) };
            return None;
        }
        Some(thread)
    }

    /// Whether the destructors of thread-locals have run when those of keys begin. Elsewhere they are such, in any order.
    const KEYS_COME_LAST: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

    extern "C" fn run(thread: *mut libc::c_void) {
        // SAFETY: the value that `begin` set on this thread; the system forgets it before it calls this.
        let Some(thread) = (unsafe { thread.cast::<Thread>().as_ref() }) else { return };
        // The system asks again for as long as there are values, four times at least.
        if KEYS_COME_LAST || thread.was_asked.replace(true) || !set(thread) {
            // SAFETY: the thread's own, of which the system has forgotten the value.
            unsafe { Thread::end(thread) };
        }
    }

    fn set(thread: &'static Thread) -> bool {
        // SAFETY: a key that was created and is never deleted.
        key().is_some_and(|key| unsafe { libc::pthread_setspecific(key, core::ptr::from_ref(thread).cast()) } == 0)
    }
}

/// Nothing tells that a thread ends.
#[cfg(not(any(feature = "std", loom)))]
mod ending {
    use super::Thread;

    pub(super) fn begin() -> Option<&'static Thread> {
        None
    }
}

/// Sees a thread end by the destructor of a thread-local. Windows calls those as the last of a thread, and where `std` has a key for
/// each it asks again for what was made anew meanwhile.
#[cfg(all(any(feature = "std", loom), not(all(unix, not(loom)))))]
mod ending {
    use super::Thread;
    use crate::os;
    use crate::sync::{Cell, thread_local};

    struct Guard(Cell<Option<&'static Thread>>);

    thread_local! {
        static GUARD: Guard = const { Guard(Cell::new(None)) };
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            // Where the whole process ends nobody needs what this thread has, and locks may be held by threads that are no more.
            if let Some(thread) = self.0.take().filter(|_| !os::is_ending()) {
                // SAFETY: the thread's own, and the guard was the last to know it.
                unsafe { Thread::end(thread) };
            }
        }
    }

    /// The calling thread's `Thread`, whose end will be told. `None`: out of memory, or the thread is ending.
    pub(super) fn begin() -> Option<&'static Thread> {
        let begin = |guard: &Guard| {
            // Where thread-locals are destroyed one after another, `THREAD` may be gone and made anew while this is still here.
            if guard.0.get().is_none() {
                guard.0.set(Thread::new());
            }
            guard.0.get()
        };
        GUARD.try_with(begin).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;
    use core::ptr::NonNull;
    use std::sync::mpsc;

    use crate::front::{allocate, deallocate};
    use crate::sync::TAKEN;

    crate::family! { struct Passed; }

    /// Slots that one thread allocates and another frees cost at most one lock for 64 of them, both threads' together. In a process
    /// of its own, because whoever looks after all families takes locks for those of other tests.
    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn passing_slots_on_takes_few_locks() {
        const COUNT: usize = 100_000;
        const NAME: &str = "thread::tests::passing_slots_on_takes_few_locks";
        if let Some(output) = crate::child::run(NAME) {
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{printed}");
            print!("{printed}");
            return;
        }
        let layout = Layout::new::<[u64; 8]>();
        let (sender, receiver) = mpsc::sync_channel::<usize>(1000);
        let consumer = std::thread::spawn(move || {
            for slot in receiver {
                let slot = NonNull::new(core::ptr::with_exposed_provenance_mut(slot)).unwrap();
                // SAFETY: allocated by the producer with this layout, and passed on once.
                unsafe { deallocate(Passed, slot, layout) };
            }
            TAKEN.get()
        });
        let before = TAKEN.get();
        for _ in 0..COUNT {
            let slot = allocate(Passed, layout).unwrap().cast::<u8>();
            sender.send(slot.as_ptr().expose_provenance()).unwrap();
        }
        let taken = TAKEN.get() - before;
        drop(sender);
        let taken = taken + consumer.join().unwrap();
        println!("{taken} locks for {COUNT} slots: one for {}", COUNT / taken);
        // A few more for the caches, the slabs and what is given back at the end.
        assert!(taken <= COUNT / 64 + 100, "{taken} locks for {COUNT} slots");
    }
}
