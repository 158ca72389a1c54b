//! How much of what comes back to a family is verified: a property of the family, known at compile time.

#![forbid(unsafe_code)]

/// What a family verifies when memory comes back, chosen in [`family!`](macro@crate::family) with `checks: …`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checks {
    /// Nothing is verified at a free of up to 1 MiB: for code that has been measured to need the last fraction of a nanosecond.
    /// A wrong free is then undefined behaviour, as it is with most allocators. Frees of larger allocations are verified all the same.
    Unchecked,
    /// One load and one compare at every free: a wrong size class, a wrong family or a pointer that no family
    /// allocated ends the process with one line. Double frees are not found.
    #[default]
    Default,
}

impl Checks {
    /// Whether the slab's tag is compared at every free.
    #[inline(always)]
    pub(crate) const fn compares_tags(self) -> bool {
        matches!(self, Self::Default)
    }
}
