//! The three-state lock: mutual exclusion, publication, and no wake that is lost.

use crate::sync::{Lock, Sleep};
use crate::world::{explore, place, spawn};

/// Everything done under the lock is seen by the next holder, and nothing but the lock's word brings it there.
pub fn excludes_and_publishes() {
    explore(Sleep::Lightly, || {
        let count = place(Lock::new(0_u32));
        let increment_twice = || {
            *count.lock() += 1;
            *count.lock() += 1;
        };
        let other = spawn(increment_twice);
        increment_twice();
        other.join();
        assert_eq!(*count.lock(), 4);
    });
}

/// Whoever sleeps is woken, also where two sleep at once.
pub fn wakes_every_sleeper() {
    explore(Sleep::UntilWoken, || {
        let count = place(Lock::new(0_u32));
        let increment = || *count.lock() += 1;
        let (one, two) = (spawn(increment), spawn(increment));
        increment();
        one.join();
        two.join();
        assert_eq!(*count.lock(), 3);
    });
}
