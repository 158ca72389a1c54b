//! Whether all memory of families lies in the stretches of all directories in use (H3).
//!
//! It does on any system that places mappings side by side. Then a tag alone says whose a slot is,
//! whichever directory it is of, and no address of a slab or a large allocation shares one with a slab
//! elsewhere. Where that has ended, it has for good.

#![forbid(unsafe_code)]

use super::{DIRECTORIES, Directory, Headers};
use crate::sync::{Acquire, AtomicU32, Lock, Relaxed, Release};

/// All memory that was ever noted: from the first byte to the last, as its distances from the ends of address space; nothing while both
/// are 0.
static NOTED: Lock<(usize, usize)> = Lock::new((0, 0));

/// 1 once memory lies outside of a stretch.
static IS_OUTSIDE: AtomicU32 = AtomicU32::new(0);

/// The lock of what is noted, for the time of a `fork`; no other is taken while it is held.
#[cfg(all(unix, not(any(miri, loom))))]
pub(crate) fn lock_of_noted() -> &'static Lock<impl Sized> {
    &NOTED
}

/// Notes memory of a family's, before anybody has an address in it, and after the first region of a directory has decided where the
/// stretch is.
pub(crate) fn note_memory(start: usize, bytes: usize) {
    note(start, bytes, None);
}

/// Notes memory, which may be a region of a directory's; that is in use from then on.
fn note(start: usize, bytes: usize, of: Option<&Directory>) {
    let mut noted = NOTED.lock();
    let (below, above) = *noted;
    *noted = (below.max(!start), above.max(last_of(start, bytes)));
    let (first, last) = (!noted.0, noted.1);
    let is_in_use = |directory: &Directory| directory.is_in_use() || of.is_some_and(|of| core::ptr::eq(of, directory));
    let is_inside =
        |directory: &Directory| !is_in_use(directory) || directory.tells_apart(first) && directory.tells_apart(last);
    if !DIRECTORIES.iter().all(is_inside) {
        // Relaxed: who frees a block of a directory's has had one of it, and has the one it frees: what was noted
        // for both comes before, and the later of the two has seen the earlier, under the lock.
        IS_OUTSIDE.store(1, Relaxed);
        DIRECTORIES.iter().for_each(|directory| directory.telling.end());
    }
    if let Some(directory) = of {
        if tags_suffice() {
            directory.telling.begin(directory.mask.load(Relaxed));
        }
        // Release: pairs with the Acquire in `is_in_use`. Under the lock, so that whoever notes memory later sees it.
        directory.last.store(start, Release);
    }
}

/// The last byte. The last region of 32-bit address space ends where addresses do, and not before.
const fn last_of(start: usize, bytes: usize) -> usize {
    start + (bytes - 1)
}

const _: () = assert!(last_of(usize::MAX - 4095, 4096) == usize::MAX, "no address is behind it");

impl Directory {
    /// Forgets all memory that was noted, for the next execution of a model.
    #[cfg(loom)]
    pub(crate) fn forget_noted() {
        *NOTED.lock() = (0, 0);
    }

    /// The locks of all directories, for the time of a `fork`.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn locks() -> impl Iterator<Item = &'static Lock<()>> {
        DIRECTORIES.iter().map(|directory| &directory.claims)
    }

    /// Whether an address lies in the stretch: then it shares its tag with no unit (H3), unless it lies in one.
    pub(crate) fn tells_apart(&self, address: usize) -> bool {
        let Headers { low, mask, .. } = self.headers();
        address.wrapping_sub(low) <= mask
    }

    /// Notes a region of this directory's, the last one that was claimed.
    pub(super) fn note_region(&self, start: usize, bytes: usize) {
        note(start, bytes, Some(self));
    }

    /// Whether there is a region, which has decided where the stretch is.
    pub(crate) fn is_in_use(&self) -> bool {
        // Acquire: pairs with the Release in `note`, so that the stretch is seen, and whether memory lies outside of it.
        self.last.load(Acquire) != 0
    }
}

/// Whether a tag alone says whose a slot is, in whatever directory it stands.
#[inline(always)]
pub(crate) fn tags_suffice() -> bool {
    IS_OUTSIDE.load(Relaxed) == 0
}
