//! How a local heap is to be.

#![forbid(unsafe_code)]

use core::fmt;

use super::LocalHeap;
use super::arena::{CHUNK_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use super::source::{Source, Supply};
use crate::heap::{HeapError, Parent};

/// The options of a [`LocalHeap`]; from [`LocalHeap::builder`].
#[derive(Clone)]
#[must_use = "a heap is made by `build`"]
pub struct LocalHeapBuilder<'parent> {
    name: &'static str,
    source: Source,
    limit: usize,
    chunk_bytes: usize,
    parent: core::marker::PhantomData<&'parent ()>,
}

impl fmt::Debug for LocalHeapBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHeapBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'parent> LocalHeapBuilder<'parent> {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            source: Source::shared(),
            limit: usize::MAX,
            chunk_bytes: CHUNK_BYTES,
            parent: core::marker::PhantomData,
        }
    }

    /// The most bytes of chunks and blocks that the heap may hold; no limit by default. What has no room is refused:
    /// `try_reserve` and the like return an error. [`last_refusal`](crate::last_refusal) tells of parents' limits, and not of this one.
    ///
    /// ```
    /// use family_alloc::{LocalHeap, Vec};
    ///
    /// let query = LocalHeap::builder("query").limit(1 << 20).build()?;
    /// let mut v = Vec::<u8, _>::new_in(&query);
    /// assert!(v.try_reserve(900_000).is_ok());
    /// assert!(v.try_reserve(2_000_000).is_err());
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Bytes of the first chunk: a power of two from 1 KiB to 32 KiB; 4 KiB by default.
    pub fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes;
        self
    }

    /// The family or heap that the memory is taken from, instead of the one that local heaps share: its figures
    /// show it, its limit holds for it, and it is verified there as that family verifies its own slots. A heap lives as long as
    /// the local heaps in it.
    ///
    /// ```
    /// use family_alloc::{Heap, LocalHeap, Vec};
    ///
    /// let tenant = Heap::builder("tenant 42").limit(64 << 10).build()?;
    /// let request = LocalHeap::builder("request").parent(&tenant).build()?;
    /// let mut v = Vec::<u8, _>::new_in(&request);
    /// assert!(v.try_reserve(10_000).is_ok() && v.try_reserve(100_000).is_err());
    /// assert!(tenant.live_bytes() >= 10_000);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn parent<'heap>(self, parent: &'heap impl Parent) -> LocalHeapBuilder<'heap> {
        let Self { name, limit, chunk_bytes, .. } = self;
        let source = Source::of(parent.core());
        LocalHeapBuilder { name, source, limit, chunk_bytes, parent: core::marker::PhantomData }
    }

    /// Makes the heap, which takes no memory yet.
    ///
    /// # Errors
    ///
    /// An option is not allowed, or the limit is above the parent's.
    ///
    /// ```
    /// use family_alloc::{HeapError, LocalHeap};
    ///
    /// let odd = LocalHeap::builder("odd").chunk_bytes(1000).build();
    /// assert_eq!(odd.err(), Some(HeapError::BadOption("chunk_bytes")));
    /// ```
    pub fn build(&self) -> Result<LocalHeap, HeapError> {
        if !self.chunk_bytes.is_power_of_two() || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return Err(HeapError::BadOption("chunk_bytes"));
        }
        let supply = Supply::new(self.source, self.limit);
        if self.limit != usize::MAX && self.limit > supply.core().limit() {
            return Err(HeapError::OverParent);
        }
        let heap = LocalHeap::of(self.name, supply);
        heap.arena.begin_with(self.chunk_bytes);
        Ok(heap)
    }
}
