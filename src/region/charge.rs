//! How much of a unit is committed where the system counts that ([`os::DECOMMITS`]): what has been handed out, in steps.
//!
//! ```text
//!   unit taken ──► 16 KiB ──more is carved──► 32 KiB ──► 64 KiB ──► … ──► all of it
//!                     ▲                            └──── purged ────┴──► nothing ────┐
//!                     └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! The header notes how far that goes, from the unit's start. Pages below may have been purged: these are committed again when a slot
//! on them is handed out, or with the step that they are in. Committing what is committed changes nothing.

use core::ptr::NonNull;

use super::{UnitPool, unit_memory};
use crate::header::{RegionHeader, SlabHeader};
use crate::os;

/// What is noted is a multiple of this.
const STEP_BYTES: usize = 16 << 10;

impl UnitPool {
    /// Makes a unit usable that is to be a slab: as a whole, or where that is counted, a first part of it.
    pub(super) fn commit_slab(&self, region: &RegionHeader, bit: u64) -> Option<NonNull<u8>> {
        if !os::DECOMMITS {
            return self.commit(region, bit);
        }
        let memory = unit_memory(region, bit, self.unit_shift);
        // SAFETY: a unit of the region.
        let header = unsafe { self.directory().header(memory.addr().get()) };
        if !commit_up_to(header, memory, 1, self.unit_bytes()) {
            return None;
        }
        region.committed.set(region.committed.get() | bit);
        Some(memory)
    }
}

/// Bytes of a unit that are committed, but for purged pages.
pub(crate) fn committed_bytes(header: &SlabHeader) -> usize {
    usize::from(header.extent.get()) * STEP_BYTES
}

/// Commits a unit's first bytes, and where the system grants that, as many again: twice what is used at most. `false`: it refuses.
#[cold]
#[inline(never)]
pub(crate) fn commit_up_to(header: &SlabHeader, memory: NonNull<u8>, bytes: usize, unit_bytes: usize) -> bool {
    let have = committed_bytes(header);
    let need = bytes.next_multiple_of(STEP_BYTES).min(unit_bytes);
    let good = bytes.next_power_of_two().clamp(need, unit_bytes);
    if need <= have {
        return true;
    }
    // SAFETY: inside the unit.
    let start = unsafe { memory.add(have) };
    // SAFETY: a part of a unit of the family's, which is never released.
    let end = [good, need].into_iter().find(|end| unsafe { os::recommit(start, end - have) });
    if let Some(end) = end {
        header.extent.set((end / STEP_BYTES) as u8);
    }
    end.is_some()
}

/// Notes that of a unit only the first bytes are committed still, where that is counted.
pub(crate) fn forget_behind(header: &SlabHeader, bytes: usize) {
    if os::DECOMMITS {
        let steps = (bytes / STEP_BYTES) as u8;
        header.extent.set(header.extent.get().min(steps));
    }
}
