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

#![forbid(unsafe_code)]

use super::FamilyCore;
use super::heaps::shared_pools;
use super::registry::families;
use crate::checks::Checks;
use crate::os;
use crate::purge::{self, Effort};
use crate::sync::{AtomicU32, Relaxed};
use crate::thread_pages;
use crate::waiting;

/// Between two looks, in milliseconds.
pub(crate) const LOOK_MILLISECONDS: u32 = 250;

/// What a call makes its family, and how many looks it then takes to be quiet again if nothing is left to do: what the
/// call does comes after it is said, so a look in between sees nothing of it; and a bin knows after two seconds what nobody
/// has needed.
const RESTLESS: u8 = 12;

/// When somebody last looked, in milliseconds modulo 2³².
static LOOKED: AtomicU32 = AtomicU32::new(0);

/// What is left to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Left {
    Nothing,
    /// Something that has not been free for long enough yet.
    Waiting,
    /// Something that is due: the next call goes on with it.
    Due,
}

impl FamilyCore {
    /// Something happens in this family: somebody is to look after it.
    #[inline]
    fn stir(&self) {
        // Relaxed, here and below: these only say that somebody should look; what is looked at is under its locks.
        if self.restless.load(Relaxed) != RESTLESS {
            self.restless.store(RESTLESS, Relaxed);
        }
    }

    /// Something was freed that may have to go back some time. To be said where that is no call that [`visited`](Self::visited)
    /// knows of, or comes after it.
    pub(crate) fn stir_to_give_back(&self) {
        self.stir();
        waiting::add();
    }

    /// A call of this family came further than a thread's cache. No lock may be held.
    #[inline]
    pub(crate) fn visited(&self, now: u64) {
        self.stir();
        let last = LOOKED.load(Relaxed);
        if (now as u32).wrapping_sub(last) >= LOOK_MILLISECONDS {
            look(now, last);
        }
    }

    /// Gives memory back that has been free for long. Large allocations that others are busy with are left to the next look.
    fn keep_house(&self, now: u64) -> Left {
        let is_due = purge::purge_aged_units(self.pool(), self.unit_shift, self.checks, now);
        let large_waits = self.large.is_busy() || {
            self.large.release_kept(Some(now));
            self.large.figures().kept_bytes > 0
        };
        if self.purge_unneeded(now) || is_due {
            Left::Due
        } else if large_waits || self.pool().lock().dirty_count > 0 {
            Left::Waiting
        } else {
            Left::Nothing
        }
    }

    /// Gives pages of slots back that nobody has needed for a second, a few slabs at a time; whether there may be more at once.
    fn purge_unneeded(&self, now: u64) -> bool {
        let mut effort = Effort::new(self.unit_shift, now);
        for class in self.all_classes() {
            let (bin, geometry, depot) = self.bin(class);
            let purged = purge::purge_unneeded(bin, &geometry, depot, now, &mut effort);
            purged.unwrap_or_else(|twice| self.report_twice(twice, class));
        }
        effort.is_used_up()
    }

    /// Gives all free memory that no thread cache holds back to the system; returns its bytes.
    pub(crate) fn trim(&self) -> usize {
        if !self.is_registered() {
            return 0;
        }
        let trim_bin = |class| {
            let (bin, geometry, depot) = self.bin(class);
            purge::trim_bin(bin, &geometry, depot).unwrap_or_else(|twice| self.report_twice(twice, class))
        };
        let pages: usize = self.all_classes().map(trim_bin).sum();
        let units = purge::trim_units(self.pool(), self.unit_shift, self.checks, os::milliseconds());
        thread_pages::release_warm(None);
        pages + units + self.large.release_kept(None)
    }
}

/// Whether it is time that somebody looked after all families.
pub(crate) fn is_look_due() -> bool {
    (os::milliseconds() as u32).wrapping_sub(LOOKED.load(Relaxed)) >= LOOK_MILLISECONDS
}

/// Looks after all families if it is time; returns what is left to do.
#[cfg(feature = "std")]
pub(crate) fn look_after_all() -> Left {
    let (now, last) = (os::milliseconds(), LOOKED.load(Relaxed));
    if (now as u32).wrapping_sub(last) >= LOOK_MILLISECONDS { look(now, last) } else { Left::Waiting }
}

/// Whoever is first looks after all families; returns what is left to do.
#[cold]
#[inline(never)]
fn look(now: u64, last: u32) -> Left {
    if LOOKED.compare_exchange(last, now as u32, Relaxed, Relaxed).is_err() {
        return Left::Waiting;
    }
    let mut left = Left::Nothing;
    for family in families().filter(|family| family.core.restless.load(Relaxed) != 0) {
        let Some(family) = family.hold_to_look() else {
            // Another thread has not ended with a heap: what it then sees may wait.
            left = left.max(if family.core.is_looked_after() { Left::Waiting } else { Left::Nothing });
            continue;
        };
        let restless = family.restless.load(Relaxed);
        let here = family.keep_house(now);
        let still = if here == Left::Nothing { restless.saturating_sub(1) } else { RESTLESS };
        // Should another thread have said meanwhile that something happens, it is looked after next time.
        let is_noted = family.restless.compare_exchange(restless, still, Relaxed, Relaxed).is_ok();
        left = left.max(here).max(if still > 0 || !is_noted { Left::Waiting } else { Left::Nothing });
    }
    for (unit_shift, pool) in shared_pools() {
        // What heaps have left that ended.
        if pool.lock().dirty_count > 0 {
            let is_due = purge::purge_aged_units(pool, unit_shift, Checks::Default, now);
            left = left.max(if is_due { Left::Due } else { Left::Waiting });
        }
    }
    thread_pages::release_warm(Some(now));
    waiting::set(left > Left::Nothing);
    if left == Left::Due {
        LOOKED.store((now as u32).wrapping_sub(LOOK_MILLISECONDS), Relaxed);
    }
    left
}
