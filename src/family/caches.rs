//! The thread caches of one family: what a cache may hold, how it earns more, and how it goes back.
//!
//! ```text
//!   slow calls ──earned──► cache without arrays ──exchanges──► magazines double, within `granted_bytes`
//!                                                                │            │ doubles with the exchanges
//!       bins ◄──────── calm for a second, or the thread ends ────┘            ▼ `cache_bytes` at most
//! ```
//!
//! **F2** A thread cache is its thread's from [`FamilyCore::acquire_cache`] to
//! [`FamilyCore::retire_cache`]; it stands in the family's list for exactly as long, and others look
//! at it only there, under the lock of the caches. `used_bytes` is the sum of what the magazines have
//! room for; it is above `granted_bytes` only until the thread's next exchange.

mod lengths;

use core::ptr::NonNull;

use super::FamilyCore;
use crate::capacity::{CALM_BYTES, CALM_EXCHANGES, CALM_MILLISECONDS, FIRST_BYTES, MAGAZINE_SLOTS};
use crate::header::{Directory, UNIT_SHIFTS};
use crate::magazine::{Cache, CacheSlot, Counts, Magazine};
use crate::os;
use crate::size_class::SizeClass;
use crate::sync::{AtomicU32, Cell, Relaxed};
use crate::thread_pages::ThreadPages;

/// The longest slabs have the most classes.
const LONGEST_SLAB_BYTES: usize = 1 << *UNIT_SHIFTS.end();

/// So many exchanges, or so many slots that it was filled with, make a cache worth what it takes to make and to empty it.
const PAYING_EXCHANGES: u32 = 8;
const PAYING_SLOTS: usize = 32;

/// Places of the arrays that a magazine gets one after another.
const ARRAYS: [usize; 5] = [8, 32, 128, 256, MAGAZINE_SLOTS];

/// Counts the forks that led to this process.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// In the child of a fork: caches that were made before are those of threads that are not here.
#[cfg(all(unix, not(any(miri, loom))))]
pub(super) fn begin_child() {
    // Relaxed: the child has one thread.
    PROCESS.fetch_add(1, Relaxed);
}

/// The number of forks that led to this process, of those since the first family was used.
#[cfg(all(feature = "std", unix, not(any(miri, loom))))]
pub(super) fn process() -> u32 {
    PROCESS.load(Relaxed)
}

/// A thread's cache with what connects it to its family and its thread.
pub(crate) struct ThreadCache {
    /// Knows the whole, to which a slot refers by this.
    pub(crate) cache: &'static Cache,
    pub(crate) family: &'static FamilyCore,
    pages: &'static ThreadPages,
    /// Neighbours in the family's list.
    previous: Cell<Option<&'static ThreadCache>>,
    next: Cell<Option<&'static ThreadCache>>,
    /// Whether it stands in the list; under the lock of the caches.
    is_linked: Cell<bool>,
    /// In which process it was made: counted by forks.
    process: Cell<u32>,
    /// Whose it is: the address of a thread-local.
    #[cfg_attr(not(all(unix, not(any(miri, loom)))), allow(dead_code, reason = "forks ask"))]
    owner: usize,
    /// The thread's cache of another family: see `thread`.
    pub(crate) next_in_thread: Cell<Option<&'static ThreadCache>>,
    /// Bytes of slots that the magazines may have room for, and those that they have room for.
    granted_bytes: Cell<usize>,
    used_bytes: Cell<usize>,
    /// Exchanges since `granted_bytes` last changed.
    exchanges: Cell<u32>,
    /// How often a magazine could not become longer, modulo 2³².
    refused: Cell<u32>,
    /// Exchanges since `since`, in milliseconds modulo 2³².
    lately: Cell<u32>,
    since: Cell<u32>,
    /// All exchanges, modulo 2³², and how many there were when [`is_left`](Self::is_left) was last asked.
    exchange_count: Cell<u32>,
    exchanges_seen: Cell<u32>,
    /// Slots that it was filled with, modulo 2³² or 2⁶⁴.
    filled: Cell<usize>,
    /// What has surely been allocated and freed with it, when somebody last looked.
    seen: Cell<Counts>,
}

/// The list of a family's caches.
pub(super) struct Caches {
    first: Option<&'static ThreadCache>,
    pub(super) in_use: usize,
    /// What was allocated and freed with those that have gone back.
    ended: Counts,
}

// SAFETY: F2: the links of the list are only used under the lock around this.
unsafe impl Send for Caches {}

impl Caches {
    pub(super) const fn new() -> Self {
        Self { first: None, in_use: 0, ended: Counts::NONE }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'static ThreadCache> + use<> {
        core::iter::successors(self.first, |cache| cache.next.get())
    }

    /// What was allocated and freed with all of them.
    pub(super) fn counts(&self) -> Counts {
        self.iter().map(ThreadCache::counts).fold(self.ended, Counts::plus)
    }

    /// Forgets what was counted with those that have gone back.
    pub(super) fn forget_counts(&mut self) {
        self.ended = Counts::NONE;
    }

    fn link(&mut self, cache: &'static ThreadCache) {
        if let Some(first) = self.first {
            first.previous.set(Some(cache));
        }
        cache.next.set(self.first.replace(cache));
        cache.is_linked.set(true);
        self.in_use += 1;
    }

    /// Forgets all caches and what they counted, for who ends the heap: their threads may still have them, and nothing to do with them.
    pub(super) fn forget_all(&mut self) {
        for cache in self.iter() {
            cache.is_linked.set(false);
        }
        *self = Self::new();
    }

    /// Forgets a cache, but not what it counted.
    pub(super) fn unlink(&mut self, cache: &ThreadCache) {
        self.ended = self.ended.plus(cache.counts());
        let (previous, next) = (cache.previous.take(), cache.next.take());
        match previous {
            Some(previous) => previous.next.set(next),
            None => self.first = next,
        }
        if let Some(next) = next {
            next.previous.set(previous);
        }
        cache.is_linked.set(false);
        self.in_use -= 1;
    }
}

/// Where the `Cache` begins in the place of a `ThreadCache`: both are allocated at once, so that none of them is left where memory
/// is short.
const fn offset_in_place() -> usize {
    size_of::<ThreadCache>().next_multiple_of(align_of::<Cache<[Magazine; 0]>>())
}

/// Where the `Cache` stands in a place.
///
/// # Safety
/// There is room for both in the place, a `ThreadCache` and behind it a `Cache`.
unsafe fn cache_in(place: NonNull<ThreadCache>) -> NonNull<u8> {
    // SAFETY: the same contract; behind the first a cache line begins.
    unsafe { place.cast::<u8>().add(offset_in_place()) }
}

impl ThreadCache {
    /// The whole that a thread's slot refers to, if the thread has a cache.
    pub(crate) fn in_slot(slot: &CacheSlot) -> Option<&'static Self> {
        // SAFETY: what a slot refers to, if it is not the empty cache, is a part of a `ThreadCache`, as `acquire_cache` has noted, that
        // stays until it is taken out of the slot (F2).
        slot.whole().map(|whole| unsafe { whole.cast::<Self>().as_ref() })
    }

    /// The whole that a cache is a part of; `None` for the empty one.
    #[inline]
    pub(crate) fn of(cache: &'static Cache) -> Option<&'static Self> {
        // SAFETY: as above.
        NonNull::new(cache.whole().cast_mut()).map(|whole| unsafe { whole.cast::<Self>().as_ref() })
    }

    /// What its thread has allocated and freed with it by now. Only under the lock of the caches.
    fn counts(&self) -> Counts {
        // The lock keeps the owner out of nothing: where it is found in the middle of a change, what was seen last has to do.
        let seen = self.seen.get();
        let counts = self.cache.counts(self.family.all_classes()).map_or(seen, |now| now.at_least(seen));
        self.seen.set(counts.surely());
        counts
    }

    /// Notes an exchange of slots of a class, which lets its magazine hold more if that is earned. `false`: slots of the class
    /// are not cached.
    pub(crate) fn exchanges(&self, class: SizeClass, now: u64) -> bool {
        self.exchanges.set(self.exchanges.get().saturating_add(1));
        self.exchange_count.set(self.exchange_count.get().wrapping_add(1));
        self.calm_down(now as u32);
        let magazine = self.cache.magazine(class);
        magazine.note_exchange();
        self.lengthen(magazine, class);
        magazine.capacity() > 0
    }

    /// Gives up what a thread that now only calls now and then has no use for; looks once a second.
    fn calm_down(&self, now: u32) {
        self.lately.set(self.lately.get().saturating_add(1));
        if now.wrapping_sub(self.since.get()) < CALM_MILLISECONDS {
            return;
        }
        self.since.set(now);
        if self.lately.replace(0) < CALM_EXCHANGES && !self.family.checks.is_hardened() {
            self.rest();
        }
    }

    /// Whether it is of a thread of this process: what other threads had before a fork may be in the middle of a change.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.process.get() == PROCESS.load(Relaxed)
    }

    /// Whether the heap has been worth a cache.
    pub(crate) fn has_paid(&self) -> bool {
        self.exchange_count.get() >= PAYING_EXCHANGES || self.filled.get() >= PAYING_SLOTS
    }

    /// Notes that a magazine was filled with so many slots.
    pub(super) fn note_refill(&self, slots: usize) {
        self.filled.set(self.filled.get().wrapping_add(slots));
    }

    /// Whether no slots have been exchanged since this was last asked.
    pub(crate) fn is_left(&self) -> bool {
        let seen = self.exchanges_seen.replace(self.exchange_count.get());
        seen == self.exchange_count.get()
    }

    #[cold]
    fn rest(&self) {
        for class in self.family.all_classes().filter(|class| self.cache.magazine(*class).capacity() > 0) {
            if !self.cache.magazine(class).take_exchanged() {
                self.family.flush_class(self.cache, class);
                self.shorten(class, 0);
            }
        }
        self.granted_bytes.set(self.granted_bytes.get().min(CALM_BYTES));
        self.exchanges.set(0);
        while self.used_bytes.get() > CALM_BYTES {
            let bytes = |class: &SizeClass| self.cache.magazine(*class).capacity() * class.slot_bytes();
            let Some(class) = self.family.all_classes().max_by_key(bytes) else { return };
            self.shorten(class, self.cache.magazine(class).capacity() / 2);
        }
    }

    /// Sees to it that a magazine's array has so many places. `false`: out of memory.
    fn has_array(&self, class: SizeClass, places: usize) -> bool {
        let magazine = self.cache.magazine(class);
        if magazine.has_places(places) {
            return true;
        }
        let Some(&count) = ARRAYS.iter().find(|&&count| count >= places) else { return false };
        let Some(array) = self.pages.allocate(count * size_of::<usize>()) else { return false };
        // SAFETY: initialised memory of that length (P2), longer than the array before, and this magazine's alone (P1).
        unsafe { magazine.move_to(self.cache.tally(), array.cast::<usize>().as_ptr(), count) };
        true
    }
}

impl FamilyCore {
    /// Whether a thread need not earn a cache: without one nothing waits in quarantine.
    pub(crate) fn gives_caches_at_once(&self) -> bool {
        self.checks.is_hardened()
    }

    /// The calling thread's slot.
    pub(crate) fn slot(&self) -> &CacheSlot {
        // SAFETY: `Family` promises the calling thread's slot, and the reference does not leave the call.
        unsafe { &*(self.slot)() }
    }

    /// A cache for the calling thread, all empty, in pages of its own. `None`: out of memory.
    pub(crate) fn acquire_cache(&'static self, pages: &'static ThreadPages) -> Option<NonNull<ThreadCache>> {
        self.register()?;
        let count = self.magazine_places();
        let bytes = offset_in_place() + Cache::bytes(count);
        let place = self.with_what_is_kept(|| pages.allocate(bytes))?.cast::<ThreadCache>();
        // SAFETY: P1: room for both at a cache line, which nobody else has; here and below.
        let cache = unsafe { cache_in(place) };
        // SAFETY: as above.
        unsafe { Cache::make(cache, count) };
        // SAFETY: as above.
        unsafe { self.make_cache(place, pages, FIRST_BYTES, 0) };
        Some(place)
    }

    /// Magazines in the place of a cache. That of a spaced heap has one for every class that the longest slabs have, because it
    /// serves one heap after another, and their slabs need not be of one length.
    fn magazine_places(&self) -> usize {
        if self.is_heap() { self.classes.count(LONGEST_SLAB_BYTES) } else { self.class_count() }
    }

    /// As [`acquire_cache`](Self::acquire_cache), in the place of a cache that is not used any more, with its arrays. Both are heaps'
    /// with the same classes.
    ///
    /// # Safety
    /// [`dismiss_cache`](Self::dismiss_cache) has taken the cache back, which is the calling thread's, and nobody refers to it.
    pub(crate) unsafe fn renew_cache(&'static self, place: NonNull<ThreadCache>) {
        // SAFETY: the same contract: a cache that stands as it was.
        let old = unsafe { place.as_ref() };
        let (pages, granted, exchanges) = (old.pages, old.granted_bytes.get(), old.exchanges.get());
        // SAFETY: the same contract, here and below.
        let cache = unsafe { cache_in(place) };
        // SAFETY: as above.
        unsafe { Cache::make_head(cache) };
        // SAFETY: as above; there are as many magazines as any heap with these classes has.
        unsafe { self.make_cache(place, pages, granted, exchanges) };
    }

    /// Equips a cache for the calling thread, which may have so many bytes of slots, and has made so many exchanges towards more.
    ///
    /// # Safety
    /// There is room for a `ThreadCache` and, behind it, a `Cache` of at least the family's classes, which nobody else has or uses.
    unsafe fn make_cache(
        &'static self,
        place: NonNull<ThreadCache>,
        pages: &'static ThreadPages,
        granted: usize,
        exchanges: u32,
    ) {
        // SAFETY: the same contract.
        let cache = unsafe { cache_in(place) };
        // SAFETY: the same contract; it stays until the thread gives its pages back, after `retire_cache` (F2).
        let cache = unsafe { &*Cache::of_classes(cache.as_ptr().cast(), self.class_count()) };
        let new = ThreadCache {
            cache,
            family: self,
            pages,
            previous: Cell::new(None),
            next: Cell::new(None),
            is_linked: Cell::new(false),
            process: Cell::new(PROCESS.load(Relaxed)),
            owner: super::slot_of_none().addr(),
            next_in_thread: Cell::new(None),
            granted_bytes: Cell::new(granted.min(self.cache_bytes())),
            used_bytes: Cell::new(0),
            exchanges: Cell::new(exchanges),
            refused: Cell::new(0),
            lately: Cell::new(CALM_EXCHANGES),
            since: Cell::new(os::milliseconds() as u32),
            exchange_count: Cell::new(0),
            exchanges_seen: Cell::new(u32::MAX),
            filled: Cell::new(0),
            seen: Cell::new(Counts::NONE),
        };
        // SAFETY: the same contract.
        unsafe { place.write(new) };
        // SAFETY: written just now; it stays until the thread gives its pages back, after `retire_cache` (F2).
        let cache: &'static ThreadCache = unsafe { place.as_ref() };
        let directory = Directory::of(self.unit_shift);
        cache
            .cache
            .equip(directory.view(), directory.telling(), self.heap_id(), |index| self.tag(self.classes.class(index)));
        cache.cache.set_whole(place.as_ptr().cast());
        if self.checks.is_hardened() {
            cache.cache.seed(os::random());
        }
        let mut caches = self.caches.lock();
        caches.link(cache);
        let is_shared = caches.in_use > 1;
        drop(caches);
        if is_shared {
            self.map_depots();
        }
    }

    /// Takes a cache of a heap back, which may have ended meanwhile and have its slots already. The place may be given to another
    /// cache then.
    pub(crate) fn dismiss_cache(&'static self, cache: &'static ThreadCache) {
        // Under the lock, because whoever ends the heap goes through its caches; there is another heap in it at most when
        // this one has left the list.
        let mut caches = self.caches.lock();
        if cache.is_linked.get() {
            self.flush_all(cache.cache);
            caches.unlink(cache);
        }
    }

    /// Shuts the doors of all caches of a heap that ends: their threads may be freeing without a handle (M6). What is in the middle
    /// of a change for good stays out there.
    pub(super) fn shut_caches(&self) {
        let caches = self.caches.lock();
        caches.iter().filter(|cache| cache.is_of_this_process()).for_each(|cache| cache.cache.shut());
    }

    /// Takes all caches of a heap that ends back, whichever threads have them, once they are shut: none uses its own any more (E2 in
    /// `heaps`).
    pub(super) fn drain_caches(&'static self) {
        loop {
            let mut caches = self.caches.lock();
            let Some(cache) = caches.first else { return };
            // What is in the middle of a change stays out there.
            if cache.is_of_this_process() {
                self.flush_all(cache.cache);
            }
            caches.unlink(cache);
        }
    }

    /// In the child of a fork: the cache of the thread that forked is here.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(super) fn adopt_caches(&self) {
        let own = super::slot_of_none().addr();
        let caches = self.caches.lock();
        caches.iter().filter(|cache| cache.owner == own).for_each(|cache| cache.process.set(PROCESS.load(Relaxed)));
    }

    /// Takes a cache back whose thread ends: what it holds goes to the bins, and nobody looks at it any more.
    pub(crate) fn retire_cache(&'static self, cache: &'static ThreadCache) {
        self.flush_all(cache.cache);
        self.caches.lock().unlink(cache);
    }
}

#[cfg(all(test, unix, not(any(miri, loom))))]
mod tests {
    use core::alloc::Layout;

    use super::*;
    use crate::capacity::magazine_slots;
    use crate::front::{Handle, allocate, deallocate};

    crate::family! { struct Crowded { classes: Spaced, cache_bytes: 64 * 1024 } }

    fn in_turn(bytes: usize, count: usize) {
        let layout = Layout::from_size_align(bytes, 1).unwrap();
        let slots: Vec<_> = (0..count).map(|_| allocate(Crowded, layout).unwrap().cast::<u8>()).collect();
        for slot in slots {
            // SAFETY: allocated above with this layout, and not used.
            unsafe { deallocate(Crowded, slot, layout) };
        }
    }

    /// All that a cache may hold is with classes that were used once; the one that is used now gets what it needs of that.
    #[test]
    fn what_idle_classes_hold_goes_to_the_one_that_is_used() {
        std::thread::spawn(|| {
            (0..8).for_each(|_| (64..4096).step_by(64).for_each(|bytes| in_turn(bytes, 100)));
            let cache = ThreadCache::in_slot(Crowded.core().slot()).expect("a cache was earned");
            let (used, granted) = (cache.used_bytes.get(), cache.granted_bytes.get());
            assert!(granted == 64 << 10 && used > granted / 2, "{used} of {granted} bytes");
            let class = Crowded.core().class_of(Layout::from_size_align(100, 1).unwrap());
            let most = magazine_slots(class, Crowded.core().checks, Crowded.core().cache_bytes());
            let rounds = (1..100).find(|_| {
                in_turn(100, 1000);
                cache.cache.magazine(class).capacity() == most
            });
            assert!(rounds.is_some_and(|rounds| rounds <= 20), "{rounds:?} rounds to {most} slots");
            assert!(cache.used_bytes.get() <= cache.granted_bytes.get());
        })
        .join()
        .unwrap();
    }
}
