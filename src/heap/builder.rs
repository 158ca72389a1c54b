//! How a heap is to be, and why there is none.

#![forbid(unsafe_code)]

use core::fmt;

use super::Heap;
use crate::checks::Checks;
use crate::family::{FamilyCore, HeapOptions, Refusal};
use crate::huge_pages::HugePages;

/// The options of a heap, as those of [`family!`](macro@crate::family); from [`Heap::builder`].
#[derive(Clone, Debug)]
#[must_use = "a heap is made by `build`"]
pub struct HeapBuilder<'name> {
    name: &'name str,
    options: HeapOptions,
}

/// Why a heap could not be made.
///
/// ```
/// use family_alloc::{Heap, HeapError};
///
/// assert_eq!(Heap::builder("odd").slab_bytes(100_000).build(), Err(HeapError::BadOption("slab_bytes")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeapError {
    /// The option of this name has a value that is not allowed.
    BadOption(&'static str),
    /// So many families and heaps are alive that there are no numbers left: there are 134 million.
    TooManyHeaps,
    /// There is no address space for the table in which slabs of this size are looked up.
    NoAddressSpace,
    /// There is no memory for what is known of a heap.
    OutOfMemory,
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadOption(option) => write!(f, "the heap's `{option}` has a value that is not allowed"),
            Self::TooManyHeaps => f.write_str("there are too many heaps"),
            Self::NoAddressSpace => f.write_str("there is no address space for the heap"),
            Self::OutOfMemory => f.write_str("there is no memory for the heap"),
        }
    }
}

impl core::error::Error for HeapError {}

impl<'name> HeapBuilder<'name> {
    pub(super) const fn new(name: &'name str) -> Self {
        Self { name, options: HeapOptions::DEFAULT }
    }

    /// Bytes of a slab: a power of two from 64 KiB, the default, to 2 MiB. What is longer than half a slab is a large allocation, in
    /// whole pages. Longer slabs suit heaps that hold much.
    pub const fn slab_bytes(mut self, bytes: usize) -> Self {
        self.options.slab_bytes = bytes;
        self
    }

    /// Bytes of free slots that a thread may keep of the heap, at most, from 16 KiB to 64 MiB; 256 KiB by default.
    pub const fn cache_bytes(mut self, bytes: usize) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    /// What is verified when memory comes back. Heaps that keep states, with [`Checks::Checked`] and [`Checks::Hardened`], have
    /// regions of their own: 64 slabs of address space, of which the first eight hold states. Pairs are faster with
    /// [`Checks::Default`], the default.
    pub const fn checks(mut self, checks: Checks) -> Self {
        self.options.checks = checks;
        self
    }

    /// Whether slabs use huge pages; [`HugePages::Never`] by default.
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.options.huge_pages = huge_pages;
        self
    }

    /// Makes the heap.
    ///
    /// # Errors
    ///
    /// An option is not allowed, there are too many heaps, or no memory or address space for another.
    ///
    /// ```
    /// use family_alloc::{Checks, Heap, HugePages};
    ///
    /// let cache = Heap::builder("cache")
    ///     .slab_bytes(2 << 20)
    ///     .cache_bytes(1 << 20)
    ///     .checks(Checks::Default)
    ///     .huge_pages(HugePages::Adaptive)
    ///     .build()?;
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn build(&self) -> Result<Heap, HeapError> {
        let HeapOptions { slab_bytes, cache_bytes, .. } = self.options;
        if !slab_bytes.is_power_of_two() || !(64 << 10..=2 << 20).contains(&slab_bytes) {
            return Err(HeapError::BadOption("slab_bytes"));
        }
        if !(16 << 10..=64 << 20).contains(&cache_bytes) {
            return Err(HeapError::BadOption("cache_bytes"));
        }
        FamilyCore::begin_heap(self.name, &self.options).map(Heap).map_err(|refusal| match refusal {
            Refusal::TooMany => HeapError::TooManyHeaps,
            Refusal::NoAddressSpace => HeapError::NoAddressSpace,
            Refusal::NoMemory => HeapError::OutOfMemory,
        })
    }
}
