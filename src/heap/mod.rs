//! [`Heap`]: a family that is made while the program runs, and its handles.

mod builder;
mod handle;

use core::fmt;
use core::hash::{Hash, Hasher};

pub use builder::{HeapBuilder, HeapError, Parent};

use crate::family::FamilyCore;
use crate::stats::Stats;
use crate::thread;

/// A family that is made while the program runs: the memory of a tenant, a query, a request, a test.
///
/// A value is a handle, one word long; clones are handles of the same heap, in any thread. It is an allocator, so
/// collections take a clone: `Vec::new_in(heap.clone())`. Each collection holds its handle for as long as it lives.
///
/// # The end of a heap
///
/// When the last handle goes and nothing is live, all memory of the heap goes back at once, what threads have cached of it
/// included; at most 2 MiB of each slab size, over all heaps, wait for the next heap and go to the system a second later. A
/// collection that is leaked (`Vec::leak`, [`core::mem::forget`]) leaks its handle, and so keeps its heap for good. What was
/// taken out of its collection without the handle, as by `Box::into_raw`, keeps the heap too, and so does what was allocated in a
/// [scope](Self::scope): the heap is an *orphan* when the last handle goes, shown by [`families`](crate::families()), until the last of
/// that is freed.
///
/// # What it costs
///
/// A heap with one small allocation costs 8 KiB of memory. Threads that use it now and then are served under a lock of the heap's,
/// one for each size class; a thread that uses it often gets a cache of it, and is then about as fast as with a static
/// family. A thread has caches of 32 heaps at most. Slabs have 64 KiB unless [`slab_bytes`](HeapBuilder::slab_bytes) says otherwise.
///
/// # Examples
///
/// ```
/// use family_alloc::{Heap, Vec};
///
/// let tenant = Heap::new("tenant 42")?;
/// let mut v = Vec::new_in(tenant.clone());
/// v.extend(0..100_u32);
/// assert_eq!(tenant.stats().live_bytes, 512);
/// println!("{}", tenant.stats());
/// drop((v, tenant));
/// // Nothing is left of it.
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
pub struct Heap(&'static FamilyCore);

impl Heap {
    /// Makes a heap with the options of [`HeapBuilder`]'s defaults. The name is for reports and tables; it is copied, and need not
    /// be the only one of its kind.
    ///
    /// # Errors
    ///
    /// There are too many heaps, or no memory or address space for another.
    ///
    /// ```
    /// use family_alloc::{Heap, families};
    ///
    /// let heap = Heap::new(&format!("query {}", 7))?;
    /// assert!(families().any(|family| family.name() == "query 7"));
    /// drop(heap);
    /// assert!(families().all(|family| family.name() != "query 7"));
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn new(name: &str) -> Result<Self, HeapError> {
        Self::builder(name).build()
    }

    /// Begins to say how a heap is to be.
    ///
    /// ```
    /// use family_alloc::{Checks, Heap};
    ///
    /// let plugin = Heap::builder("plugin").checks(Checks::Checked).slab_bytes(256 << 10).build()?;
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn builder(name: &str) -> HeapBuilder<'_> {
        HeapBuilder::new(name)
    }

    /// The name that the heap was given.
    ///
    /// ```
    /// assert_eq!(family_alloc::Heap::new("tenant 42")?.name(), "tenant 42");
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.heap_name()
    }

    /// What the heap holds now, as [`Family::stats`](crate::Family::stats). Its `name` is a copy that is kept for ever, once for
    /// each name that is asked for so. Heaps share regions, so their `reserved_bytes` are those of their slabs; and a slab that
    /// became empty is not theirs any more, so it is not among their `kept_bytes`. Both holds unless the heap keeps states.
    ///
    /// ```
    /// use family_alloc::{Box, Heap};
    ///
    /// let heap = Heap::new("request")?;
    /// let boxed = Box::new_in([0_u8; 100], heap.clone());
    /// assert_eq!(heap.stats().live_allocations, 1);
    /// drop(boxed);
    /// assert_eq!(heap.stats().live_allocations, 0);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Bytes of the slots and mappings that clients hold now, as [`Family::live_bytes`](crate::Family::live_bytes): cheap, and exact
    /// for what the calling thread did.
    ///
    /// ```
    /// use family_alloc::{Box, Heap};
    ///
    /// let heap = Heap::new("request")?;
    /// let boxed = Box::new_in([0_u8; 100], heap.clone());
    /// assert_eq!(heap.live_bytes(), 128);
    /// # drop(boxed);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        thread::live_bytes(self.0)
    }

    /// Bytes of slots and mappings that are live or that threads have cached, of this heap and of those whose parent it is: what the
    /// [limit](HeapBuilder::limit) is for.
    #[must_use]
    pub fn charged_bytes(&self) -> usize {
        self.0.charged_bytes()
    }

    /// The most that [`charged_bytes`](Self::charged_bytes) may become, if there is a limit.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        Some(self.0.limit()).filter(|&bytes| bytes != usize::MAX)
    }

    /// Sets the limit, or none, from now on. What is above it stays, and nothing is allocated until enough is freed.
    ///
    /// ```
    /// use family_alloc::{Heap, Vec};
    ///
    /// let tenant = Heap::builder("tenant 42").limit(64 << 10).build()?;
    /// let mut v = Vec::<u8, _>::new_in(tenant.clone());
    /// assert!(v.try_reserve(100_000).is_err());
    /// tenant.set_limit(Some(1 << 20));
    /// assert!(v.try_reserve(100_000).is_ok());
    /// assert!(tenant.charged_bytes() <= 1 << 20);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.0.set_limit(bytes.unwrap_or(usize::MAX));
    }

    /// Whether more is charged to the heap than its limit: one load, for a task to ask now and then. It happens where limits are
    /// [soft](crate::Scoped#limits-are-soft), and where the limit was set below what is held. What heaps above this one hold is asked of them.
    ///
    /// ```
    /// use family_alloc::{Heap, Scoped, family};
    ///
    /// family! { struct Home; }
    ///
    /// #[global_allocator]
    /// static GLOBAL: Scoped<Home> = Scoped::new();
    ///
    /// let tenant = Heap::builder("tenant 42").limit(1 << 20).build()?;
    /// let result = tenant.scope(|| {
    ///     let mut lines = Vec::new();
    ///     for line in 0.. {
    ///         lines.push(format!("line {line}"));
    ///         if tenant.over_limit() {
    ///             return Err("the tenant has no room left");
    ///         }
    ///     }
    ///     Ok(lines)
    /// });
    /// assert!(result.is_err() && !tenant.over_limit());
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn over_limit(&self) -> bool {
        self.0.is_over_limit()
    }

    /// Frees all that is live at once, whoever has it: for what ends as a whole and would take long to free one by one. Nothing is dropped. Then
    /// all figures of what is live or cached are 0, limits have room again, and what was allocated counts as freed. The memory is
    /// kept warm, as after frees: what comes next uses it again; it goes back to the system after a second, or by [`trim`](Self::trim).
    ///
    /// # Safety
    ///
    /// - Nothing that was allocated is used any more: not read, not written, not freed, not resized. Collections that are left must be
    ///   forgotten ([`core::mem::forget`]), not dropped.
    /// - While this runs, no other thread is inside a call of the heap, and none that has ever called it ends. Calls before it happen
    ///   before it, and calls after it after it: as when the other threads are joined, or wait for a channel or a barrier. They may keep
    ///   their caches, which are emptied.
    /// - No [`LocalHeap`](crate::LocalHeap) has its memory from this heap.
    ///
    /// In families with `Checks::Checked` and `Hardened` a free of what was live is reported afterwards, until its slot is handed out again.
    ///
    /// Handles stay as they are, also those in collections that were forgotten: these keep the heap alive for good. Looks at all slabs of
    /// heaps with this length of slabs to find its own.
    ///
    /// ```
    /// use family_alloc::{Heap, allocator_api2::alloc::Allocator};
    ///
    /// let heap = Heap::builder("frame").limit(1 << 20).build()?;
    /// for _ in 0..3 {
    ///     for _ in 0..100 {
    ///         heap.allocate(core::alloc::Layout::new::<[u64; 1000]>()).expect("there is room in each frame");
    ///     }
    ///     // SAFETY: nothing of it is known to anybody, and no other thread uses the heap.
    ///     unsafe { heap.reset() };
    ///     assert_eq!((heap.live_bytes(), heap.charged_bytes()), (0, 0));
    /// }
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub unsafe fn reset(&self) {
        // SAFETY: the same contract.
        unsafe { self.0.reset() };
    }

    /// Gives free memory back to the system at once, as [`Family::trim`](crate::Family::trim); also what other heaps have left.
    ///
    /// ```
    /// use family_alloc::{Heap, Vec};
    ///
    /// let heap = Heap::new("import")?;
    /// drop(Vec::<u8, _>::with_capacity_in(8 << 20, heap.clone()));
    /// heap.trim();
    /// assert_eq!(heap.stats().kept_bytes, 0);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn trim(&self) -> usize {
        thread::trim(self.0)
    }
}

impl Clone for Heap {
    #[inline]
    fn clone(&self) -> Self {
        self.0.hold();
        Self(self.0)
    }
}

impl Drop for Heap {
    #[inline]
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Heap").field(&self.name()).finish()
    }
}

/// Two handles are equal if they are of the same heap.
impl PartialEq for Heap {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.0, other.0)
    }
}

impl Eq for Heap {}

impl Hash for Heap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.heap_id().hash(state);
    }
}

crate::__impl_allocators!(Heap);
