//! How much of what comes back to a family is verified: a property of the family, known at compile time.

#![forbid(unsafe_code)]

/// Shorter slots are cleared faster than the system is called.
const GUARDED_FROM_BYTES: usize = 64 << 10;

/// What a family verifies, chosen in [`family!`](macro@crate::family) with `checks: …`. Each variant includes those before it.
///
/// ```
/// use family_alloc::{Checks, Family, family};
///
/// family! {
///     struct Requests;
///     struct Plugins { checks: Checked }
///     struct Secrets { checks: Hardened }
/// }
///
/// assert_eq!(Requests::CHECKS, Checks::Default);
/// assert_eq!(Secrets::CHECKS, Checks::Hardened);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checks {
    /// Nothing is verified at a free of what is no longer than the largest slot (half a slab, or an eighth where
    /// classes are spaced): for code that has been measured to need the last fraction of a nanosecond. A wrong free is then undefined behaviour, as it is with most allocators. Frees of larger allocations are verified all the same.
    Unchecked,
    /// One load and one compare at every free: a wrong size class, a wrong family or a pointer that no family
    /// allocated ends the process with one line. Double frees are not found.
    #[default]
    Default,
    /// One byte per slot, kept outside of the slots, says whether the slot is live: a second free, a pointer into the middle
    /// of a slot and a slot that was never allocated end the process with one line, whichever thread frees, and no live
    /// slot is handed out again. The smallest slot is 16 bytes.
    Checked,
    /// The slots themselves are defended: a free slot reads zero, and a write to it is found when it is handed out again; slots come
    /// in an order that cannot be foreseen, and freed ones wait; behind what [`GlobalAlloc`](core::alloc::GlobalAlloc)
    /// allocates stand bytes that an overflow changes, found at the free; around allocations above the largest slot lie pages
    /// that may not be touched.
    Hardened,
}

impl Checks {
    /// Whether the slab's tag is compared at every free.
    #[inline(always)]
    pub(crate) const fn compares_tags(self) -> bool {
        !matches!(self, Self::Unchecked)
    }

    /// Whether every slot has a byte that says what it is.
    #[inline(always)]
    pub(crate) const fn keeps_states(self) -> bool {
        matches!(self, Self::Checked | Self::Hardened)
    }

    /// Whether the slots themselves are defended.
    #[inline(always)]
    pub(crate) const fn is_hardened(self) -> bool {
        matches!(self, Self::Hardened)
    }

    /// Whether slots of this length are guarded against any access while they are free, instead of being cleared, if they are whole
    /// pages.
    #[inline(always)]
    pub(crate) const fn guards_slots_of(self, slot_bytes: usize) -> bool {
        self.is_hardened() && slot_bytes >= GUARDED_FROM_BYTES
    }

    /// The length of the smallest slot: 16 bytes where slots have states, so that those take 1/16 of the memory at most.
    #[inline(always)]
    pub(crate) const fn least_slot_bytes(self) -> usize {
        if self.keeps_states() { 16 } else { 1 }
    }
}
