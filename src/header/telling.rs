//! [`Telling`]: whose an address is that may be any family's, by its tag alone.
//!
//! **H4** A directory's telling gives tags from its first region on, and only as long as all memory
//! lies in the stretches of all directories in use (`apart`). Both are noted under one lock. Where
//! that has ended, each address has the tag of the table's first unit, which is a region's first and
//! no slab: 0, as where no slab is.

use super::{Directory, NO_TAG, TAG_SHIFT, UNIT_SHIFTS};
use crate::sync::{Acquire, AtomicU32, AtomicUsize, Cell, Relaxed, Release};

/// A directory's tags, for who knows of an address only that it is in some family's memory.
pub(crate) struct Telling {
    /// Where the table begins; settled when the directory is opened.
    base: Cell<*const u8>,
    /// The table's, or 0.
    mask: AtomicUsize,
    /// How far an address is shifted to be an offset into the table.
    shift: u32,
}

// SAFETY: the cell is written once, before anyone has a cache that refers to this, and before the mask is published.
unsafe impl Sync for Telling {}

/// No directory's: every address has the tag 0.
pub(crate) static CLOSED: Telling = Telling::new(*UNIT_SHIFTS.start());

impl Telling {
    pub(super) const fn new(unit_shift: u32) -> Self {
        Self { base: Cell::new((&raw const NO_TAG).cast()), mask: AtomicUsize::new(0), shift: unit_shift - TAG_SHIFT }
    }

    /// Whether it tells of units of so many bytes.
    pub(crate) fn is_for(&self, unit_shift: u32) -> bool {
        self.shift == unit_shift - TAG_SHIFT
    }

    /// Notes where the table begins, before anyone has a cache that looks into it.
    pub(super) fn set_table(&self, table: *const u8) {
        self.base.set(table);
    }

    /// Begins to tell. The directory is open, and the caller has the lock of what is noted.
    pub(super) fn begin(&self, mask: usize) {
        // Release: pairs with the Acquire in `tag_of_any`.
        self.mask.store(mask, Release);
    }

    /// Ends to tell, for good. The caller has the lock of what is noted.
    pub(super) fn end(&self) {
        // Relaxed: who asks for an address that lies outside of a stretch has got it after this; see `IS_OUTSIDE` in `apart`.
        self.mask.store(0, Relaxed);
    }

    /// The tag of an address, for who has a cache of a family with slabs of this length: 0 where no such slab is.
    #[inline(always)]
    pub(crate) fn tag(&self, address: usize) -> u32 {
        // Relaxed: who frees a slot of such a family got it after `begin`; for any other address 0 will do as well.
        self.entry(self.masked(address >> self.shift))
    }

    /// The same, where the length of the slabs is known when the program is compiled.
    #[inline(always)]
    pub(crate) fn tag_by(&self, unit_shift: u32, address: usize) -> u32 {
        debug_assert!(self.is_for(unit_shift) || core::ptr::eq(self, &raw const CLOSED));
        self.entry(self.masked(address >> (unit_shift - TAG_SHIFT)))
    }

    /// The tag of an address, for anybody.
    #[inline(always)]
    pub(crate) fn tag_of_any(&self, address: usize) -> u32 {
        // Acquire: pairs with the Release in `begin`, so that the base is seen.
        match self.mask.load(Acquire) {
            0 => 0,
            mask => self.entry((address >> self.shift) & mask),
        }
    }

    /// The tag at a multiple of four, modulo the mask that was seen.
    #[inline(always)]
    fn entry(&self, offset: usize) -> u32 {
        // Relaxed: as said of the mask.
        let entry = self.base.get().wrapping_add(offset).cast::<AtomicU32>();
        // SAFETY: the one closed tag, or with the table's mask inside the table, as in `View::tag`.
        let tag = unsafe { &*entry };
        // Relaxed: as in `View::tag`.
        tag.load(Relaxed)
    }

    /// What the mask leaves of a number. An `and` with memory loads as any load does, but compilers
    /// make none of an atomic.
    #[inline(always)]
    fn masked(&self, number: usize) -> usize {
        #[cfg(counts_in_one)]
        {
            let mut masked = number;
            // SAFETY: one aligned load of what is borrowed, which others store to as a whole.
            unsafe {
                core::arch::asm!(
                    "and {masked}, qword ptr [{telling} + {mask}]",
                    masked = inout(reg) masked,
                    telling = in(reg) core::ptr::from_ref(self),
                    mask = const core::mem::offset_of!(Self, mask),
                    options(pure, readonly, nostack),
                );
            }
            masked
        }
        #[cfg(not(counts_in_one))]
        {
            // Relaxed: as in `tag`.
            number & self.mask.load(Relaxed)
        }
    }
}

impl Directory {
    /// Its tags, as long as they tell whose any address is.
    #[inline(always)]
    pub(crate) fn telling(&self) -> &Telling {
        &self.telling
    }
}
