//! When memory that nobody needs goes back to the system: one due time for all families.
//!
//! ```text
//!   a call of any family leaves its thread's cache ──► is a look due? ──► every restless family keeps its house
//!                          │
//!                          └──► its own family is restless from now on, until there is nothing left to give back
//! ```
//!
//! So a family that has fallen silent is served by the others. A family that nothing has happened to since the last
//! look, and that has nothing to give back, costs one load.

use super::FamilyCore;
use super::registry::families;
use crate::os;
use crate::sync::{AtomicU32, Relaxed};
use crate::thread_pages;
use crate::waiting;

/// Between two looks, in milliseconds.
const LOOK_MILLISECONDS: u32 = 250;

/// What a call makes its family, and how many looks it then takes to be quiet again if nothing is left to do: what
/// the call does comes after it is said, so a look in between sees nothing of it.
const RESTLESS: u32 = 2;

/// When somebody last looked, in milliseconds modulo 2³².
static LOOKED: AtomicU32 = AtomicU32::new(0);

/// What is left to do in a house.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// Something that has not been free for long enough yet.
    Waiting,
    /// Something that is due: the next call goes on with it.
    Due,
}

impl FamilyCore {
    /// A call of this family came further than a thread's cache. No lock may be held.
    #[inline]
    pub(crate) fn visited(&self, now: u64) {
        // Relaxed, here and below: these only say that somebody should look; what is looked at is under its locks.
        if self.restless.load(Relaxed) != RESTLESS {
            self.restless.store(RESTLESS, Relaxed);
        }
        let last = LOOKED.load(Relaxed);
        if (now as u32).wrapping_sub(last) >= LOOK_MILLISECONDS {
            look(now, last);
        }
    }

    /// Gives memory back that has been free for long. What others are busy with is left to the next look.
    fn keep_house(&self, now: u64) -> Left {
        let units = self.pool.try_lock().map_or(Left::Waiting, |mut pool| {
            if pool.purge_aged(now) {
                Left::Due
            } else if pool.dirty_count > 0 {
                Left::Waiting
            } else {
                Left::Nothing
            }
        });
        let large = match self.large.try_lock() {
            Some(mut large) => {
                large.release_kept(Some(now));
                if large.kept_bytes() > 0 { Left::Waiting } else { Left::Nothing }
            }
            None => Left::Waiting,
        };
        units.max(large)
    }

    /// Gives all free memory that no thread cache holds back to the system; returns its bytes.
    pub(crate) fn trim(&self) -> usize {
        if !self.is_registered() {
            return 0;
        }
        self.classes().for_each(|class| self.trim_bin(class));
        let units = self.pool.lock().purge_all(os::milliseconds());
        thread_pages::release_warm(None);
        units + self.large.lock().release_kept(None)
    }
}

/// Whoever is first looks after all families.
#[cold]
#[inline(never)]
fn look(now: u64, last: u32) {
    if LOOKED.compare_exchange(last, now as u32, Relaxed, Relaxed).is_err() {
        return;
    }
    let mut left = Left::Nothing;
    for family in families().map(super::FamilyRef::core) {
        let restless = family.restless.load(Relaxed);
        if restless == 0 {
            continue;
        }
        let here = family.keep_house(now);
        // Should another thread have said meanwhile that it comes, it is looked after next time.
        let still = if here == Left::Nothing { restless - 1 } else { RESTLESS };
        let _ = family.restless.compare_exchange(restless, still, Relaxed, Relaxed);
        left = left.max(here);
    }
    thread_pages::release_warm(Some(now));
    waiting::set(left > Left::Nothing);
    if left == Left::Due {
        LOOKED.store((now as u32).wrapping_sub(LOOK_MILLISECONDS), Relaxed);
    }
}
