//! How a thread waits: asleep until it is woken, or by letting another go on, which the contract allows as well.

use std::cell::Cell;

use super::objects::queue_at;
use super::{AtomicU32, Relaxed};

/// One look more, so that there is one.
pub(super) const SPINS: u32 = 1;

/// What a sleeping thread does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Sleeps until it is woken: a wake that is lost is a deadlock, which loom finds. The queue's own lock synchronises
    /// more than the futex does.
    UntilWoken,
    /// Wakes by itself: nothing but the word synchronises.
    Lightly,
}

std::thread_local! {
    static SLEEP: Cell<Sleep> = const { Cell::new(Sleep::Lightly) };
}

pub(crate) fn set_sleep(sleep: Sleep) {
    SLEEP.set(sleep);
}

/// Lets another thread go on, which has something to finish.
pub(crate) fn give_way(_times: u32) {
    loom::thread::yield_now();
}

#[track_caller]
pub(super) fn sleep_while(word: &AtomicU32, value: u32) {
    if SLEEP.get() == Sleep::Lightly {
        return loom::thread::yield_now();
    }
    let queue = queue_at(core::ptr::from_ref(word).addr());
    let locked = queue.lock.lock().expect("loom's locks are not poisoned");
    if word.load(Relaxed) == value {
        drop(queue.wake.wait(locked));
    }
}

#[track_caller]
pub(super) fn wake_one(word: &AtomicU32) {
    if SLEEP.get() == Sleep::UntilWoken {
        let queue = queue_at(core::ptr::from_ref(word).addr());
        let _locked = queue.lock.lock();
        queue.wake.notify_one();
    }
}
