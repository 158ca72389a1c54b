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

/// How long locks with a value in them are held, where a test wants to know: the longest, as the processor's time, which does not
/// count what the system gives to others. What has no value is held during calls to the system.
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod held {
    use std::cell::Cell;
    use std::time::Duration;

    std::thread_local! {
        static LONGEST: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    /// Whether this thread measures from now on; returns the longest time until now.
    pub(crate) fn measure(is_measured: bool) -> Duration {
        LONGEST.replace(is_measured.then_some(Duration::ZERO)).unwrap_or_default()
    }

    pub(super) fn start() -> Option<Duration> {
        LONGEST.get().map(|_| now())
    }

    pub(super) fn end(start: Option<Duration>) {
        if let (Some(start), Some(longest)) = (start, LONGEST.get()) {
            LONGEST.set(Some(longest.max(now().saturating_sub(start))));
        }
    }

    fn now() -> Duration {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `clock_gettime` writes one `timespec` to a live one.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
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
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        #[cfg(test)]
        TAKEN.set(TAKEN.get() + 1);
        // Acquire: observes what the last holder published when it freed the lock (`Guard::drop`).
        if self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).is_err() {
            self.lock_contended();
        }
        self.guard()
    }

    fn guard(&self) -> Guard<'_, T> {
        Guard {
            lock: self,
            #[cfg(all(test, target_os = "linux"))]
            start: if size_of::<T>() == 0 { None } else { held::start() },
        }
    }

    /// Whether somebody holds the lock at this moment: then work that needs it may be left for another time.
    pub(crate) fn is_held(&self) -> bool {
        // Relaxed: a hint.
        self.state.load(Relaxed) != FREE
    }

    /// Takes the lock and keeps it without a guard: for the time of a `fork`.
    pub(crate) fn hold(&self) {
        core::mem::forget(self.lock());
    }

    /// Frees the lock after [`hold`](Self::hold).
    ///
    /// # Safety
    /// This thread, or the one it is a fork of, holds the lock by `hold` and has no guard of it.
    pub(crate) unsafe fn release(&self) {
        drop(self.guard());
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
    #[cfg(all(test, target_os = "linux"))]
    start: Option<core::time::Duration>,
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
        #[cfg(all(test, target_os = "linux"))]
        held::end(self.start);
        // Release: publishes everything done under the lock to the next holder's Acquire.
        if self.lock.state.swap(FREE, Release) == CONTENDED {
            wait::wake_one(&self.lock.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn lock_excludes_and_wakes_every_waiter() {
        static COUNT: Lock<u64> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let mut count = COUNT.lock();
                        *count += 1;
                        if round % 1000 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(*COUNT.lock(), 160_000);
    }
}
