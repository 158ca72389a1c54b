//! How a heap is to be, and why there is none.

#![forbid(unsafe_code)]

use core::fmt;

use super::Heap;
use crate::checks::Checks;
use crate::family::{FamilyCore, HeapOptions, LimitHandler, Refusal};
use crate::front::Family;
use crate::huge_pages::HugePages;
use crate::size_class::Classes;

/// The options of a heap, as those of [`family!`](macro@crate::family); from [`Heap::builder`].
#[derive(Clone)]
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
    /// The limit is above that of the heap's parent.
    OverParent,
    /// So many families and heaps are alive that there are no numbers left: there are 33 million.
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
            Self::OverParent => f.write_str("the heap's limit is above its parent's"),
            Self::TooManyHeaps => f.write_str("there are too many heaps"),
            Self::NoAddressSpace => f.write_str("there is no address space for the heap"),
            Self::OutOfMemory => f.write_str("there is no memory for the heap"),
        }
    }
}

impl core::error::Error for HeapError {}

impl fmt::Debug for HeapBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What can be the [parent](HeapBuilder::parent) of a heap: a [`Heap`] or a [`Family`].
pub trait Parent: Sealed {}

impl Parent for Heap {}
impl<F: Family> Parent for F {}

/// Nobody else implements [`Parent`].
pub trait Sealed {
    #[doc(hidden)]
    fn core(&self) -> &'static FamilyCore;
}

impl Sealed for Heap {
    fn core(&self) -> &'static FamilyCore {
        self.0
    }
}

impl<F: Family> Sealed for F {
    fn core(&self) -> &'static FamilyCore {
        F::__core()
    }
}

impl<'name> HeapBuilder<'name> {
    pub(super) const fn new(name: &'name str) -> Self {
        Self { name, options: HeapOptions::DEFAULT }
    }

    /// Bytes of a slab: a power of two from 64 KiB, the default, to 2 MiB. What is longer than half a slab is a large allocation, in
    /// whole pages; where [`classes`](Self::classes) are spaced, what is longer than an eighth. Longer slabs suit heaps that hold much.
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

    /// How the lengths of slots are spaced; [`Classes::Natural`] by default. With [`Classes::Spaced`] less is left over in slots: for
    /// maps, nodes and text. What is known of such a heap takes 5.5 KiB more (13 KiB with slabs of 2 MiB), and a pair of calls is a
    /// function call each, in scopes as well.
    ///
    /// ```
    /// use family_alloc::{Box, Classes, Heap};
    ///
    /// let words = Heap::builder("words").classes(Classes::Spaced).build()?;
    /// let boxed = Box::new_in([0_u8; 33], words.clone());
    /// assert_eq!(words.live_bytes(), 40);
    /// # drop(boxed);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub const fn classes(mut self, classes: Classes) -> Self {
        self.options.classes = classes;
        self
    }

    /// Whether slabs and large allocations use huge pages; [`HugePages::Never`] by default.
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.options.huge_pages = huge_pages;
        self
    }

    /// The most that live and cached slots and mappings of the heap may be together, in bytes, with those of heaps whose parent it is; no
    /// limit by default. An allocation that has no room is refused, after what the calling thread has cached of the heap was given back:
    /// `try_reserve` and the like return an error, and [`last_refusal`](crate::last_refusal) says which limit it was. Where the global
    /// allocator would have to return null, in scopes, nothing is refused: there the limit is [soft](crate::Scoped#limits-are-soft).
    pub const fn limit(mut self, bytes: usize) -> Self {
        self.options.limit = bytes;
        self
    }

    /// A function that is told when this heap comes to hold more than its limit, instead of the one that
    /// [`set_limit_handler`](crate::set_limit_handler) has set; when, and what it may do, is said there.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    ///
    /// use family_alloc::{Heap, Scoped, family};
    ///
    /// family! { struct Home; }
    ///
    /// #[global_allocator]
    /// static GLOBAL: Scoped<Home> = Scoped::new();
    ///
    /// static OVER: AtomicUsize = AtomicUsize::new(0);
    ///
    /// let query = Heap::builder("query").limit(1 << 16).limit_handler(|_| _ = OVER.fetch_add(1, Relaxed)).build()?;
    /// let rows = query.scope(|| vec![0_u8; 1 << 20]);
    /// assert_eq!(OVER.load(Relaxed), 1);
    /// # drop(rows);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub const fn limit_handler(mut self, handler: LimitHandler) -> Self {
        self.options.limit_handler = Some(handler);
        self
    }

    /// The family or heap that is charged as well for what this heap holds, and whose limit holds for both together. The parent
    /// lives as long as its heaps do.
    pub fn parent(mut self, parent: &'name impl Parent) -> Self {
        self.options.parent = Some(parent.core());
        self
    }

    /// Makes the heap.
    ///
    /// # Errors
    ///
    /// An option is not allowed, the limit is above the parent's, there are too many heaps, or no memory or address space for another.
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
            Refusal::OverParent => HeapError::OverParent,
            Refusal::TooMany => HeapError::TooManyHeaps,
            Refusal::NoAddressSpace => HeapError::NoAddressSpace,
            Refusal::NoMemory => HeapError::OutOfMemory,
        })
    }
}
