//! Free units on their way to the system: a batch is out of its pool while the system is asked for its pages.

use super::{Batch, UnitPool, forget_behind, lowest, unit_memory};
use crate::header::Directory;
use crate::os;
use crate::sync::Lock;

/// What goes back at one look of units that have been free for long, however long they are: a millisecond or two.
const AGED_BYTES: usize = 16 << 20;

/// Gives the pages of some units back to the system that have been free for long, [`AGED_BYTES`] or a few more; returns whether
/// it did. `also` gets the address of each.
pub(crate) fn purge_aged(pool: &Lock<UnitPool>, now: u64, also: impl Fn(usize)) -> bool {
    let mut bytes = 0;
    while bytes < AGED_BYTES {
        let mut units = pool.lock();
        // What the system refuses begins to wait anew, so this ends.
        let Some(batch) = units.aged(now).and_then(|region| units.take_dirty(region, u64::MAX)) else { break };
        bytes += (batch.units.count_ones() as usize) << units.unit_shift;
        drop(units);
        purge(pool, &batch, now, &also);
    }
    bytes > 0
}

/// Gives the pages of all free units back to the system; returns the bytes of those units. `also` gets the address of each.
pub(crate) fn purge_all(pool: &Lock<UnitPool>, now: u64, also: impl Fn(usize)) -> usize {
    let mut bytes = 0;
    // Each unit once: what the system refuses is dirty again.
    let mut left = pool.lock().dirty_count;
    while left > 0 {
        let mut units = pool.lock();
        let Some(batch) = units.dirty().and_then(|region| units.take_dirty(region, u64::MAX)) else { break };
        drop(units);
        left = left.saturating_sub(batch.units.count_ones() as usize);
        bytes += purge(pool, &batch, now, &also);
    }
    bytes
}

/// Gives the pages of a batch back to the system, without the pool's lock; returns the bytes of the units that it has taken.
fn purge(pool: &Lock<UnitPool>, batch: &Batch, now: u64, also: impl Fn(usize)) -> usize {
    let unit_shift = pool.lock().unit_shift;
    let (mut left, mut purged) = (batch.units, 0);
    while left != 0 {
        let bit = lowest(left);
        left &= !bit;
        // The region's memory stays where it is.
        let memory = unit_memory(batch.region, bit, unit_shift);
        // SAFETY: a unit that holds nobody's slots and that nobody can take; it was committed when it was a slab.
        if unsafe { os::purge(memory, 1 << unit_shift) } {
            purged |= bit;
            // SAFETY: a unit of the region, and nobody else's meanwhile.
            forget_behind(unsafe { Directory::of(unit_shift).header(memory.addr().get()) }, 0);
        }
        also(memory.addr().get());
    }
    pool.lock().put_back(batch, purged, now);
    (purged.count_ones() as usize) << unit_shift
}
