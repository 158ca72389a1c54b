//! How much of a slab is in dumps of the process: what has been handed out, in steps, so that a program with few objects has a small
//! core file. Some tools write all that can be read, whether it was ever touched or not.
//!
//! ```text
//!   new unit ──first slot──► 64 KiB ──more is carved──► 512 KiB ──► all of it, for good
//! ```
//!
//! A unit that is there in part is up to two mappings more, of which a process may have 65 530. So that is for so many units of the
//! process at once; the others are there as a whole from the start.

use core::ptr::NonNull;

use crate::header::SlabHeader;
use crate::os;
use crate::sync::{AtomicUsize, Relaxed};

/// How much of a unit is in dumps of the process: as a step, because what is left out costs the system a mapping or two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dumped {
    Nothing,
    First,
    Second,
    All,
}

impl Dumped {
    const FIRST_BYTES: usize = 64 << 10;
    const SECOND_BYTES: usize = 512 << 10;

    /// The step that a unit with so many bytes in use needs.
    pub(crate) const fn of(used_bytes: usize) -> Self {
        if used_bytes > Self::SECOND_BYTES {
            Self::All
        } else if used_bytes > Self::FIRST_BYTES {
            Self::Second
        } else if used_bytes > 0 {
            Self::First
        } else {
            Self::Nothing
        }
    }

    /// Bytes that are in dumps.
    pub(crate) fn bytes(self, unit_bytes: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::First => Self::FIRST_BYTES.min(unit_bytes),
            Self::Second => Self::SECOND_BYTES.min(unit_bytes),
            Self::All => unit_bytes,
        }
    }
}

/// Units of a process that may be there in part.
const PARTIAL_COUNT: usize = 500;
/// Shorter ones are there as a whole.
const PARTIAL_FROM_BYTES: usize = 1 << 20;

static PARTIAL: AtomicUsize = AtomicUsize::new(0);

/// Whether a new unit of this length may be there in part, and now counts as such.
pub(super) fn may_be_partial(unit_bytes: usize) -> bool {
    if unit_bytes < PARTIAL_FROM_BYTES {
        return false;
    }
    // Relaxed, here and below: a number that publishes nothing; one more or less does not matter.
    let is_one = PARTIAL.load(Relaxed) < PARTIAL_COUNT;
    if is_one {
        PARTIAL.fetch_add(1, Relaxed);
    }
    is_one
}

/// Puts as much of a new slab into dumps from `first` on as was in dumps of the one before.
#[cold]
pub(crate) fn dump_again(slab: &SlabHeader, first: usize, unit_bytes: usize) {
    let step = [Dumped::First, Dumped::Second].into_iter().find(|&step| step as u8 == slab.extent.get());
    let (Some(step), Some(memory)) = (step, NonNull::new(slab.memory())) else { return };
    // SAFETY: the first bytes of a slab, which is committed.
    unsafe { os::put_into_dumps(memory, unit_bytes.min(first + step.bytes(unit_bytes))) };
}

/// Puts as much of a slab into dumps as `used_bytes` of it need, from `first` on.
#[cold]
#[inline(never)]
pub(crate) fn dump_more(slab: &SlabHeader, first: usize, used_bytes: usize, unit_bytes: usize) {
    let wanted = Dumped::of(used_bytes);
    let Some(memory) = NonNull::new(slab.memory()) else { return };
    // SAFETY: the first bytes of a slab, which is committed.
    unsafe { os::put_into_dumps(memory, unit_bytes.min(first + wanted.bytes(unit_bytes))) };
    slab.extent.set(wanted as u8);
    if wanted == Dumped::All {
        // One less, in arithmetic that wraps.
        PARTIAL.fetch_add(usize::MAX, Relaxed);
    }
}
