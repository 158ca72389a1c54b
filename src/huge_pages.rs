//! Whether a family's slabs use huge pages: a property of the family, known at compile time.

#![forbid(unsafe_code)]

/// Slabs of a class from which on new ones use huge pages: the last slab wastes little then, and small families stay small.
const HUGE_FROM_SLABS: usize = 4;
/// Longer slots may be touched sparsely: a stack, a buffer, a small object with a large alignment.
const DENSE_BYTES: usize = 32 << 10;
/// A slab this long is a huge page of its own.
const WHOLE_BYTES: usize = 2 << 20;
/// What is left behind a slab's last slot is memory in a huge page, and none where it is whole small pages.
const REST_BYTES: usize = 4 << 10;

/// Whether a family uses huge pages of the system, chosen in [`family!`](macro@crate::family) with `huge_pages: …`.
///
/// A huge page (2 MiB) spares page faults and translation, and costs 2 MiB at the first touch. This is advice to the system, which
/// may have been told to ignore it. [`Stats::huge_bytes`](crate::Stats::huge_bytes) says what is advised.
///
/// ```
/// use family_alloc::{Family, HugePages, family};
///
/// family! { struct Sparse { huge_pages: Never } }
///
/// assert_eq!(Sparse::HUGE_PAGES, HugePages::Never);
/// let memory = Sparse::malloc(100);
/// assert_eq!(Sparse::stats().huge_bytes, 0);
/// // SAFETY: allocated above with this size.
/// unsafe { Sparse::free(memory, 100) };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// None, also where the system uses them for whoever does not object (`always`), and none for large allocations either.
    Never,
    /// For classes that have several slabs: the first three slabs of a class use small pages, so that a slot of it costs a page,
    /// and those that come then use huge ones. Slots above 32 KiB, which may be touched sparsely, use small pages,
    /// as do those of which a page or more would be left over at the end of a slab, and slabs shorter than 2 MiB are left to the
    /// system. Large allocations use huge pages once they have grown to 2 MiB, and from 8 MiB on unless they have to read zero.
    #[default]
    Adaptive,
    /// From the first slab on; large allocations as with `Adaptive`.
    Always,
}

/// What the system is told of a slab's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    AsTheSystemLikes = 0,
    Small = 1,
    Huge = 2,
}

impl HugePages {
    /// The pages of a bin's slab, if it is the bin's first, second, … one, and so many bytes are left over at its end.
    pub(crate) const fn of_slab(self, number: usize, slab_bytes: usize, slot_bytes: usize, rest: usize) -> Pages {
        match self {
            Self::Never => Pages::Small,
            Self::Always => Pages::Huge,
            Self::Adaptive if slab_bytes < WHOLE_BYTES => Pages::AsTheSystemLikes,
            Self::Adaptive if number < HUGE_FROM_SLABS || slot_bytes > DENSE_BYTES => Pages::Small,
            Self::Adaptive if rest >= REST_BYTES => Pages::Small,
            Self::Adaptive => Pages::Huge,
        }
    }
}
