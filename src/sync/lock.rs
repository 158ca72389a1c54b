//! A mutual exclusion lock in one word, which never allocates and makes no system call unless two threads want it at once.
//!
//! | state | meaning | who changes it |
//! | --- | --- | --- |
//! | 0 | free | anyone takes it to 1 |
//! | 1 | held, nobody sleeps | the holder frees it to 0; a sleeper-to-be takes it to 2 |
//! | 2 | held, somebody may sleep | the holder frees it to 0 and wakes one |

use core::ops::{Deref, DerefMut};

use super::{Acquire, AtomicU32, Relaxed, Release, UnsafeCell, wait};

#[cfg(test)]
std::thread_local! {
    /// How often this thread has taken a lock.
    pub(crate) static TAKEN: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

/// How long locks are held, by the line that takes them: for a test that shows it.
#[cfg(all(test, unix, not(any(miri, loom))))]
pub(crate) mod held {
    use core::panic::Location;
    use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Whether somebody wants to know. Reading a clock takes longer than most of what is done under a lock.
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    static LONGEST: Mutex<BTreeMap<(&str, u32), Held>> = Mutex::new(BTreeMap::new());

    std::thread_local! {
        /// The longest that this thread has held a lock since somebody asked, in nanoseconds of processor time, and where.
        static OWN_LONGEST: core::cell::Cell<(u64, Option<&'static Location<'static>>)> = const { core::cell::Cell::new((0, None)) };
    }

    /// The longest that this thread has held a lock since the last such question.
    pub(crate) fn take_own_longest() -> (u64, Option<&'static Location<'static>>) {
        OWN_LONGEST.take()
    }

    /// So many nanoseconds are as long as a lock is to be held.
    pub(crate) const LIMIT: u64 = 100_000;

    /// What is known of the guards that one line has made.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Held {
        pub(crate) times: usize,
        /// The most processor time of the holder, in nanoseconds: without what other threads took meanwhile. What interrupts
        /// and a busy host take is in it.
        pub(crate) busy: u64,
        /// All of it.
        pub(crate) busy_sum: u64,
        /// How often it was more than [`LIMIT`], and how often without a page that the system had to find meanwhile.
        pub(crate) over: usize,
        pub(crate) over_by_itself: usize,
        /// The longest time on the clock, in nanoseconds.
        pub(crate) whole: u64,
    }

    /// The moment at which a guard was made, and where, if anybody wants to know.
    pub(super) struct Since(Option<(u64, u64, u64, &'static Location<'static>)>);

    /// Page faults of this thread, where the system tells them.
    fn faults() -> u64 {
        #[cfg(target_os = "linux")]
        {
            let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: `getrusage` writes one `rusage` to a live one.
            assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) }, 0);
            // SAFETY: numbers, all initialised above.
            u64::try_from(unsafe { usage.assume_init() }.ru_minflt).expect("a count")
        }
        #[cfg(not(target_os = "linux"))]
        0
    }

    fn nanoseconds(clock: libc::clockid_t) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `clock_gettime` writes one `timespec` to a live one.
        assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
        let number = |part: libc::c_long| u64::try_from(part).expect("a clock that counts up");
        number(time.tv_sec as libc::c_long) * 1_000_000_000 + number(time.tv_nsec as libc::c_long)
    }

    impl Since {
        #[track_caller]
        pub(super) fn now(has_value: bool) -> Self {
            // What has no value is held during calls to the system.
            // Relaxed: the flag publishes nothing; the watcher starts its threads after it has set it.
            let is_watched = has_value && IS_WATCHED.load(Relaxed);
            let now = || (faults(), nanoseconds(libc::CLOCK_MONOTONIC), nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID));
            let caller = Location::caller();
            Self(is_watched.then(now).map(|(faults, whole, busy)| (faults, whole, busy, caller)))
        }

        /// Notes a guard that has just freed its lock.
        pub(super) fn note(&self) {
            let Some((found, whole, busy, place)) = self.0 else { return };
            let busy = nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID) - busy;
            let whole = nanoseconds(libc::CLOCK_MONOTONIC) - whole;
            if busy > OWN_LONGEST.get().0 {
                OWN_LONGEST.set((busy, Some(place)));
            }
            let is_over = busy > LIMIT;
            let mut longest = LONGEST.lock().unwrap();
            let held = longest.entry((place.file(), place.line())).or_default();
            *held = Held {
                times: held.times + 1,
                busy: held.busy.max(busy),
                busy_sum: held.busy_sum + busy,
                over: held.over + usize::from(is_over),
                over_by_itself: held.over_by_itself + usize::from(is_over && faults() == found),
                whole: held.whole.max(whole),
            };
        }
    }

    /// Notes all guards that are made while `body` runs; those held longest first.
    pub(crate) fn watch(body: impl FnOnce()) -> Vec<((&'static str, u32), Held)> {
        // Relaxed: as in `now`.
        IS_WATCHED.store(true, Relaxed);
        body();
        IS_WATCHED.store(false, Relaxed);
        let mut places: Vec<_> = std::mem::take(&mut *LONGEST.lock().unwrap()).into_iter().collect();
        places.sort_by_key(|(_, held)| core::cmp::Reverse(held.busy));
        places
    }
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// A mutual exclusion lock around a value. Not re-entrant, no poisoning: nothing in this crate unwinds.
pub(crate) struct Lock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a `Guard`, and at most one exists (state 1 or 2), so sharing the lock
// only ever sends the value from one thread to another.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    #[inline]
    #[cfg_attr(test, track_caller)]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        #[cfg(test)]
        TAKEN.set(TAKEN.get() + 1);
        // Acquire: observes what the last holder published when it freed the lock (`Guard::drop`).
        if self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).is_err() {
            self.lock_contended();
        }
        Guard::new(self)
    }

    /// Whether somebody holds the lock at this moment: then work that needs it may be left for another time.
    pub(crate) fn is_held(&self) -> bool {
        // Relaxed: a hint.
        self.state.load(Relaxed) != FREE
    }

    /// Takes the lock and keeps it without a guard: for the time of a `fork`.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn hold(&self) {
        core::mem::forget(self.lock());
    }

    /// Frees the lock after [`hold`](Self::hold).
    ///
    /// # Safety
    /// This thread, or the one it is a fork of, holds the lock by `hold` and has no guard of it.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) unsafe fn release(&self) {
        drop(Guard::new(self));
    }

    #[cold]
    fn lock_contended(&self) {
        for _ in 0..wait::SPINS {
            // Acquire: as in `lock`.
            if self.state.load(Relaxed) == FREE && self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok() {
                return;
            }
            core::hint::spin_loop();
        }
        // Acquire: as in `lock`. From here on the lock is taken as contended, so that its holder wakes the next sleeper.
        while self.state.swap(CONTENDED, Acquire) != FREE {
            wait::sleep_while(&self.state, CONTENDED);
        }
    }
}

/// Proof that the lock is held; gives it back when dropped.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    #[cfg(all(test, unix, not(any(miri, loom))))]
    since: held::Since,
}

impl<'a, T> Guard<'a, T> {
    /// The guard of a lock that this thread has taken.
    #[inline]
    #[cfg_attr(test, track_caller)]
    fn new(lock: &'a Lock<T>) -> Self {
        Self {
            lock,
            #[cfg(all(test, unix, not(any(miri, loom))))]
            since: held::Since::now(size_of::<T>() > 0),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: one guard at most exists per lock, and it borrows itself here, so no other reference to the value is live.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes this borrow of the one guard exclusive.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: publishes everything done under the lock to the next holder's Acquire.
        if self.lock.state.swap(FREE, Release) == CONTENDED {
            wait::wake_one(&self.lock.state);
        }
        #[cfg(all(test, unix, not(any(miri, loom))))]
        self.since.note();
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn lock_excludes_and_wakes_every_waiter() {
        const ROUNDS: u64 = if cfg!(miri) { 50 } else { 20_000 };
        static COUNT: Lock<u64> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        let mut count = COUNT.lock();
                        *count += 1;
                        if round % 1000 == 0 || cfg!(miri) {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(*COUNT.lock(), 8 * ROUNDS);
    }
}
