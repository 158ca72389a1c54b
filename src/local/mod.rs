//! [`LocalHeap`]: an arena that also frees, for one thread at a time.
//!
//! ```text
//!                 ┌─ chunks, each twice as long ─► arena: slots up to 4 KiB, and their free lists
//!   source family ┤
//!                 └─ blocks ─────────────────────► what is longer, or aligned to more than 16
//! ```
//!
//! The source is a family like any other, and its caches are the thread's. So chunks and blocks come and
//! go without a lock as a rule, warm, and the source's housekeeping gives back what is not used. A pair of calls
//! that the arena serves touches nothing but this heap's own fields.
//!
//! **A1** Every chunk and every block is an allocation of the source, in exactly one of the heap's two lists, and given
//! back once. **A2** A free slot is in one list of its class or of none and lies in what was carved; nobody uses it.
//! `[bump, end)` lies in one chunk, `bump` is a multiple of 8, and nobody uses any of it.

mod arena;
mod blocks;
mod builder;
mod class;
mod source;

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use arena::Arena;
use blocks::Blocks;
pub use builder::LocalHeapBuilder;
use class::{ALIGN_MAX, Class, LEAST_BYTES, SHORT_BYTES, SLOT_BYTES_MAX};
use source::{Source, Supply};

use crate::front::Engine;
use crate::stats::LocalStats;
use crate::thread;

/// Memory of one thread that is freed as a whole: an arena that also frees.
///
/// Collections borrow it: `Vec::new_in(&heap)`. What they free serves the next allocations of about that size, so an arena
/// that works for long stays as small as what it holds; and [`reset`](Self::reset), or its end, frees the rest at once. No call takes a
/// lock or makes an atomic operation, but for what comes from the family that the memory is taken from: chunks of 4 KiB at first, each
/// twice as long as the one before, up to 32 KiB; and blocks, which are what is longer than 4 KiB or aligned to more than 16.
/// These wait in the thread's cache of that family for the next `LocalHeap`, up to 1 MiB of them, so one for each request costs no
/// call to the system.
///
/// The last allocation grows and shrinks where it is, and gives its place back when it is freed.
///
/// It can be sent to another thread while nothing borrows it, and used or dropped there.
///
/// # What is not here
///
/// Nothing is verified when memory comes back, in release builds: a second free or a wrong size is
/// undefined behaviour. It is not listed by [`families`](crate::families()): its memory is part of the
/// family that it is taken from, `LocalHeaps` unless there is a [parent](LocalHeapBuilder::parent).
///
/// # Examples
///
/// ```
/// use family_alloc::{LocalHeap, Vec};
///
/// let mut request = LocalHeap::new();
/// for _ in 0..3 {
///     let mut words = Vec::new_in(&request);
///     words.extend("a request and its words".split(' '));
///     assert_eq!(request.stats().live_allocations, 1);
///     drop(words);
///     request.reset();
/// }
/// ```
///
/// It cannot be reset while something borrows it:
///
/// ```compile_fail,E0502
/// use family_alloc::{LocalHeap, Vec};
///
/// let mut request = LocalHeap::new();
/// let mut words = Vec::new_in(&request);
/// request.reset();
/// words.push(1);
/// ```
///
/// nor shared between threads:
///
/// ```compile_fail,E0277
/// let heap = family_alloc::LocalHeap::new();
/// std::thread::scope(|scope| {
///     scope.spawn(|| heap.stats());
/// });
/// ```
pub struct LocalHeap {
    arena: Arena,
    blocks: Blocks,
    supply: Supply,
    name: &'static str,
}

/// What serves a layout. Any size that fits the same memory is served by the same.
enum Kind {
    Nothing,
    Slot(Class),
    Block,
}

#[inline(always)]
fn kind(layout: Layout) -> Kind {
    if layout.align() > ALIGN_MAX {
        return if layout.size() == 0 { Kind::Nothing } else { Kind::Block };
    }
    // Most are short: one comparison says so.
    if layout.size().wrapping_sub(1) >= SHORT_BYTES {
        if layout.size() == 0 {
            return Kind::Nothing;
        }
        if layout.size() > SLOT_BYTES_MAX {
            return Kind::Block;
        }
    }
    Kind::Slot(Class::of(layout))
}

#[inline(always)]
fn dangling(layout: Layout) -> NonNull<[u8]> {
    let pointer = core::ptr::without_provenance_mut::<u8>(layout.align());
    // SAFETY: an alignment is not 0.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(pointer) }, 0)
}

impl Default for LocalHeap {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalHeap {
    /// A heap that holds nothing yet, and takes its memory from the family `LocalHeaps`.
    ///
    /// ```
    /// use family_alloc::{Box, LocalHeap};
    ///
    /// let heap = LocalHeap::new();
    /// assert_eq!(heap.held_bytes(), 0);
    /// let boxed = Box::new_in(7, &heap);
    /// assert_eq!((*boxed, heap.held_bytes()), (7, 4096));
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::of("", Supply::new(Source::shared(), usize::MAX))
    }

    /// Begins to say how a heap is to be. The name is for reports.
    ///
    /// ```
    /// use family_alloc::LocalHeap;
    ///
    /// let heap = LocalHeap::builder("query").limit(16 << 20).chunk_bytes(16 << 10).build()?;
    /// assert_eq!(heap.name(), "query");
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn builder(name: &'static str) -> LocalHeapBuilder<'static> {
        LocalHeapBuilder::new(name)
    }

    fn of(name: &'static str, supply: Supply) -> Self {
        Self { arena: Arena::new(), blocks: Blocks::new(), supply, name }
    }

    /// The name that the heap was given; empty if it was given none.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the heap holds now.
    ///
    /// ```
    /// use family_alloc::{Box, LocalHeap};
    ///
    /// let heap = LocalHeap::new();
    /// let boxed = (Box::new_in([0_u8; 33], &heap), Box::new_in([0_u8; 10_000], &heap));
    /// let stats = heap.stats();
    /// assert_eq!((stats.live_allocations, stats.live_bytes), (2, 40 + 10_000));
    /// assert_eq!((stats.large_allocations, stats.large_bytes), (1, 10_000));
    /// println!("{stats}");
    /// ```
    #[must_use]
    pub fn stats(&self) -> LocalStats {
        let (slot_count, slot_bytes) = self.arena.live();
        let (large_allocations, large_bytes) = self.blocks.live();
        LocalStats {
            name: self.name,
            live_allocations: slot_count + large_allocations,
            live_bytes: slot_bytes + large_bytes,
            large_allocations,
            large_bytes,
            held_bytes: self.held_bytes(),
        }
    }

    /// Bytes of the chunks and blocks that the heap has from its family: what its [limit](LocalHeapBuilder::limit) is for.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.supply.held_bytes()
    }

    /// Frees everything at once. Nothing of what was allocated may be used any more, which the borrow checker sees to, but for
    /// pointers that were taken out of their collections; destructors of what is still there do not run.
    ///
    /// The chunk that was made last is kept, 32 KiB at most; other chunks and all blocks go back to the family, which keeps them
    /// warm for what comes next, and gives them to the system when they were not used for a second.
    ///
    /// ```
    /// use family_alloc::{LocalHeap, Vec};
    ///
    /// let mut heap = LocalHeap::new();
    /// let numbers = Vec::leak(Vec::from_iter_in(0..1000, &heap));
    /// numbers[7] = 8;
    /// heap.reset();
    /// assert_eq!((heap.stats().live_allocations, heap.held_bytes() <= 32 << 10), (0, true));
    ///
    /// trait FromIterIn<'heap>: Sized {
    ///     fn from_iter_in(items: std::ops::Range<u64>, heap: &'heap LocalHeap) -> Self;
    /// }
    /// impl<'heap> FromIterIn<'heap> for Vec<u64, &'heap LocalHeap> {
    ///     fn from_iter_in(items: std::ops::Range<u64>, heap: &'heap LocalHeap) -> Self {
    ///         let mut new = Vec::new_in(heap);
    ///         new.extend(items);
    ///         new
    ///     }
    /// }
    /// ```
    pub fn reset(&mut self) {
        self.arena.reset(&self.supply);
        self.blocks.reset(&self.supply);
    }

    /// Gives back to the system what is free in the family that the memory comes from, and returns how many bytes of its slabs and
    /// mappings these are, as [`Heap::trim`](crate::Heap::trim). If nothing is live in this heap, its
    /// chunks are among them.
    ///
    /// ```
    /// use family_alloc::{LocalHeap, Vec};
    ///
    /// let heap = LocalHeap::new();
    /// drop(Vec::<u8, _>::with_capacity_in(1000, &heap));
    /// heap.trim();
    /// assert_eq!(heap.held_bytes(), 0);
    /// ```
    pub fn trim(&self) -> usize {
        if self.arena.live().0 == 0 {
            self.arena.release(&self.supply);
        }
        thread::trim(self.supply.core())
    }
}

impl Drop for LocalHeap {
    fn drop(&mut self) {
        self.arena.release(&self.supply);
        self.blocks.reset(&self.supply);
    }
}

impl fmt::Debug for LocalHeap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHeap")
            .field("name", &self.name)
            .field("held_bytes", &self.held_bytes())
            .finish_non_exhaustive()
    }
}

impl Engine for &LocalHeap {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.align() <= LEAST_BYTES && self.arena.carves_at_once(layout.size()) {
            return self.arena.carve_at_once(&self.supply, layout.size());
        }
        match kind(layout) {
            Kind::Nothing => Some(dangling(layout)),
            // Or it would have been carved.
            Kind::Slot(class) if layout.align() <= LEAST_BYTES && layout.size() <= SHORT_BYTES => {
                self.arena.allocate_listed(&self.supply, class)
            }
            Kind::Slot(class) => self.arena.allocate(&self.supply, class),
            Kind::Block => self.blocks.allocate(&self.supply, layout, false),
        }
    }

    #[inline(always)]
    fn allocate_zeroed(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        match kind(layout) {
            Kind::Nothing => Some(dangling(layout)),
            Kind::Slot(class) => {
                let memory = self.arena.allocate(&self.supply, class)?;
                // SAFETY: all of it was just allocated.
                unsafe { memory.cast::<u8>().write_bytes(0, class.bytes) };
                Some(memory)
            }
            // The source knows what reads zero.
            Kind::Block => self.blocks.allocate(&self.supply, layout, true),
        }
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        match kind(layout) {
            Kind::Nothing => {}
            // SAFETY: live, and of this class, as the layout fits it; the caller gives it up.
            Kind::Slot(class) => unsafe { self.arena.deallocate(&self.supply, ptr, class) },
            // SAFETY: the same contract.
            Kind::Block => unsafe { self.blocks.deallocate(&self.supply, ptr, layout) },
        }
    }

    #[inline(always)]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        // SAFETY: the same contract; the old size is the lesser one.
        unsafe { self.resize(ptr, old, new, old.size(), false) }
    }

    #[inline(always)]
    unsafe fn grow_zeroed(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        // SAFETY: as above.
        unsafe { self.resize(ptr, old, new, old.size(), true) }
    }

    #[inline(always)]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        // SAFETY: the same contract; the new size is the lesser one.
        unsafe { self.resize(ptr, old, new, new.size(), false) }
    }
}

impl LocalHeap {
    /// Makes an allocation fit another layout; its first `kept` bytes stay, and with `want_zero` all behind them reads zero. `None`: out
    /// of memory, the allocation is as it was.
    ///
    /// # Safety
    /// `ptr` is live, of this heap, `old` fits it, and `kept` is at most the size of both.
    #[inline(always)]
    unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        kept: usize,
        want_zero: bool,
    ) -> Option<NonNull<[u8]>> {
        let in_place = match (kind(old), kind(new)) {
            // SAFETY: a live slot of the old class.
            (Kind::Slot(old), Kind::Slot(new)) => unsafe { self.arena.resize(ptr, old, new) },
            // SAFETY: a live block of this layout.
            (Kind::Block, Kind::Block) => unsafe { self.blocks.resize(&self.supply, ptr, old, new) },
            _ => None,
        };
        let memory = match in_place {
            Some(memory) => memory,
            // SAFETY: the same contract.
            None => unsafe { self.resize_elsewhere(ptr, old, new, kept) }?,
        };
        if want_zero {
            // SAFETY: it holds at least the new size, and that is at least `kept`.
            let rest = unsafe { memory.cast::<u8>().add(kept) };
            // SAFETY: what lies behind that, to the end, was just allocated.
            unsafe { rest.write_bytes(0, memory.len() - kept) };
        }
        Some(memory)
    }

    /// # Safety
    /// As for [`resize`](Self::resize).
    #[inline(never)]
    unsafe fn resize_elsewhere(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        kept: usize,
    ) -> Option<NonNull<[u8]>> {
        let memory = Engine::allocate(&self, new)?;
        // SAFETY: both are live and at least `kept` bytes long; a new allocation overlaps no live one.
        unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), memory.cast::<u8>().as_ptr(), kept) };
        // SAFETY: the contents have been copied, and the caller gives the old allocation up.
        unsafe { Engine::deallocate(&self, ptr, old) };
        Some(memory)
    }
}

crate::__impl_allocators!(['heap] &'heap LocalHeap);
