//! The trait that every family implements: what the type says of itself, and the calls of the C-like door.

use core::fmt::Debug;
use core::hash::Hash;

use super::{Handle, calls};
use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::huge_pages::HugePages;
use crate::magazine::CacheSlot;
use crate::size_class::Classes;
use crate::stats::Stats;
use crate::worlds::Worlds;

/// Memory that belongs to one purpose: a zero-sized type with slabs, locks, thread caches and counters of its own.
///
/// Declared with [`family!`](macro@crate::family), which implements everything. A value of a family is what a collection
/// takes as its allocator: `Vec::new_in(Session)`. All functions here are of the type: `Session::stats()`.
///
/// # Generic code
///
/// `F: Family` is the one bound that is needed: it implies [`GlobalAlloc`](core::alloc::GlobalAlloc) and the `Allocator`
/// of every [feature](crate#features) that is switched on. A value comes from `F::default()`.
///
/// ```
/// use family_alloc::{Family, Vec, family};
///
/// struct Cache<F: Family> {
///     items: Vec<u32, F>,
/// }
///
/// impl<F: Family> Cache<F> {
///     fn new() -> Self {
///         Self { items: Vec::new_in(F::default()) }
///     }
///
///     fn report(&self) -> String {
///         format!("{}: {} items, {} bytes", F::NAME, self.items.len(), F::live_bytes())
///     }
/// }
///
/// family! { struct Sessions; }
///
/// let mut cache = Cache::<Sessions>::new();
/// cache.items.push(7);
/// assert_eq!(cache.report(), "Sessions: 1 items, 16 bytes");
/// ```
///
/// Where generic code calls the trait's methods itself, it says which trait it means, because each world has one:
/// `Allocator::allocate(&F::default(), layout)` with `use family_alloc::allocator_api2::alloc::Allocator`.
///
/// # Safety
///
/// Implemented by [`family!`](macro@crate::family) only. The hidden functions return the same statics and the calling
/// thread's slot at every call, and no other family's.
pub unsafe trait Family: Worlds + Copy + Default + Debug + Eq + Hash + Send + Sync + 'static {
    /// The name of the type, as reports and tables show it.
    ///
    /// ```
    /// use family_alloc::{Family, family};
    ///
    /// family! { struct Session; }
    /// assert_eq!(Session::NAME, "Session");
    /// ```
    const NAME: &'static str;
    /// The path of the type: the modules that it is declared in, and its name. It tells families of one name apart.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// assert_eq!(FamilyAlloc::PATH, "family_alloc::FamilyAlloc");
    /// ```
    const PATH: &'static str = Self::NAME;
    /// Bytes of a slab: a power of two from 64 KiB to 2 MiB. Allocations above half of it, or above an eighth where classes
    /// are spaced, are large ones, in whole pages.
    ///
    /// ```
    /// use family_alloc::{Family, family};
    ///
    /// family! { struct Usual; struct Small { slab_bytes: 64 << 10 } }
    /// assert_eq!(Small::SLAB_BYTES, 65_536);
    /// assert!(Usual::SLAB_BYTES == 2 << 20 || cfg!(any(target_pointer_width = "32", not(feature = "std"))));
    /// ```
    const SLAB_BYTES: usize;
    /// Whether slabs use huge pages.
    const HUGE_PAGES: HugePages;
    /// What is verified when memory comes back.
    ///
    /// ```
    /// use family_alloc::{Checks, Family, family};
    ///
    /// family! { struct Session { checks: Checked } }
    /// assert_eq!(Session::CHECKS, Checks::Checked);
    /// ```
    const CHECKS: Checks;
    /// How the lengths of slots are spaced.
    ///
    /// ```
    /// use family_alloc::{Classes, Family, family};
    ///
    /// family! { struct Usual; struct Text { classes: Spaced } }
    /// assert_eq!((Usual::CLASSES, Text::CLASSES), (Classes::Natural, Classes::Spaced));
    /// ```
    const CLASSES: Classes = Classes::Natural;

    #[doc(hidden)]
    fn __core() -> &'static FamilyCore;

    /// The calling thread's slot, at an address that stays the same until the thread ends.
    #[doc(hidden)]
    fn __slot() -> *const CacheSlot;

    /// What the family holds now: all figures, and those of each size class. Takes each of the family's locks for a
    /// moment and looks at the cache of every thread; not for the fast path.
    ///
    /// ```
    /// use family_alloc::{Box, Family, family};
    ///
    /// family! { struct Session; }
    ///
    /// let boxed = Box::new_in([0_u8; 100], Session);
    /// assert_eq!(Session::stats().live_allocations, 1);
    /// drop(boxed);
    /// assert_eq!(Session::stats().live_allocations, 0);
    /// ```
    #[must_use]
    fn stats() -> Stats {
        Self::__core().stats()
    }

    /// Bytes of the slots and mappings that clients hold now, read without a lock and without a look at other threads:
    /// a look at the calling thread's magazine of each class, however many threads there are.
    ///
    /// What the calling thread did is counted to the last byte. What another thread did since its cache and its bin last
    /// exchanged slots is not counted yet: at most 256 slots or 256 KiB of each size class it uses, more or less. All is
    /// exact once the other threads have ended. [`stats`](Self::stats) has the exact figure at any time.
    ///
    /// ```
    /// use family_alloc::{Box, Family, family};
    ///
    /// family! { struct Session; }
    ///
    /// assert_eq!(Session::live_bytes(), 0);
    /// let boxed = Box::new_in([0_u8; 100], Session);
    /// assert_eq!(Session::live_bytes(), 128);
    /// # drop(boxed);
    /// ```
    #[must_use]
    fn live_bytes() -> usize {
        Self::__core().live_bytes(Self::default().cache())
    }

    /// Bytes of slots and mappings that are live or that threads have cached, of this family and of the heaps whose parent it is: what
    /// the limit is for. One load.
    ///
    /// ```
    /// use family_alloc::{Box, Family, Heap, family};
    ///
    /// family! { struct Tenants; }
    ///
    /// let tenant = Heap::builder("tenant 42").parent(&Tenants).build()?;
    /// let boxed = Box::new_in([0_u8; 100], tenant);
    /// assert_eq!(Tenants::charged_bytes(), 128);
    /// # drop(boxed);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    fn charged_bytes() -> usize {
        Self::__core().charged_bytes()
    }

    /// The most that [`charged_bytes`](Self::charged_bytes) may become, if there is a limit.
    #[must_use]
    fn limit() -> Option<usize> {
        Some(Self::__core().limit()).filter(|&bytes| bytes != usize::MAX)
    }

    /// Sets a limit for the family and the heaps whose parent it is, or none, from now on. What is above it stays, and nothing is
    /// allocated until enough is freed. A refused allocation is an error where the caller can take one; with
    /// [`GlobalAlloc`](core::alloc::GlobalAlloc) it ends the process, unless that is a [`Scoped`](crate::Scoped), whose limits are soft.
    ///
    /// ```
    /// use family_alloc::{Family, Vec, family};
    ///
    /// family! { struct Cache; }
    ///
    /// Cache::set_limit(Some(1 << 20));
    /// assert!(Vec::<u8, _>::new_in(Cache).try_reserve(2 << 20).is_err());
    /// assert_eq!(Cache::limit(), Some(1 << 20));
    /// ```
    fn set_limit(bytes: Option<usize>) {
        Self::__core().set_limit(bytes.unwrap_or(usize::MAX));
    }

    /// Whether more is charged to the family than its limit: one load. It happens where limits are [soft](crate::Scoped#limits-are-soft), and
    /// where the limit was set below what is held.
    ///
    /// ```
    /// use family_alloc::{Family, Vec, family};
    ///
    /// family! { struct Cache; }
    ///
    /// let v = Vec::<u8, _>::with_capacity_in(2 << 20, Cache);
    /// Cache::set_limit(Some(1 << 20));
    /// assert!(Cache::over_limit());
    /// drop(v);
    /// assert!(!Cache::over_limit());
    /// ```
    #[must_use]
    fn over_limit() -> bool {
        Self::__core().is_over_limit()
    }

    /// Frees all that is live at once, whoever has it: for what ends as a whole and would take long to free one by one. Nothing is dropped. Then
    /// all figures of what is live or cached are 0, limits have room again, and what was allocated counts as freed. The memory is
    /// kept warm, as after frees: what comes next uses it again; it goes back to the system after a second, or by [`trim`](Self::trim).
    ///
    /// # Safety
    ///
    /// - Nothing that was allocated is used any more: not read, not written, not freed, not resized. Collections that are left must be
    ///   forgotten ([`core::mem::forget`]), not dropped.
    /// - While this runs, no other thread is inside a call of the family, and none that has ever called it ends. Calls before it happen
    ///   before it, and calls after it after it: as when the other threads are joined, or wait for a channel or a barrier. They may keep
    ///   their caches, which are emptied.
    /// - No [`LocalHeap`](crate::LocalHeap) has its memory from the family.
    /// - If the family is the program's global allocator, all of the program is what uses it: then there is no right call.
    ///
    /// In families with `Checks::Checked` and `Hardened` a free of what was live is reported afterwards, until its slot is handed out again.
    ///
    /// ```
    /// use family_alloc::{Box, Family, family};
    ///
    /// family! { struct Round; }
    ///
    /// for round in 0..3 {
    ///     for object in 0..1000 {
    ///         core::mem::forget(Box::new_in(object + round, Round));
    ///     }
    ///     assert_eq!(Round::stats().live_allocations, 1000);
    ///     // SAFETY: nothing of it is known to anybody, and no other thread uses the family.
    ///     unsafe { Round::reset() };
    ///     assert_eq!(Round::stats().live_allocations, 0);
    /// }
    /// ```
    unsafe fn reset() {
        // SAFETY: the same contract.
        unsafe { Self::__core().reset() };
    }

    /// Gives free memory back to the system at once: what the calling thread has cached, empty slabs, and freed large
    /// mappings that are kept for reuse. Returns the bytes of the slabs and mappings that held memory. What other threads
    /// have cached stays with them.
    ///
    /// ```
    /// use family_alloc::{Family, Vec, family};
    ///
    /// family! { struct Import; }
    ///
    /// drop(Vec::<u8, _>::with_capacity_in(8 << 20, Import));
    /// Import::trim();
    /// assert_eq!(Import::stats().kept_bytes, 0);
    /// ```
    fn trim() -> usize {
        crate::thread::trim(Self::__core())
    }

    /// Allocates `size` bytes, aligned to at least `min(size.next_power_of_two(), 4096)`; with [`Classes::Spaced`] to the
    /// lowest set bit of the slot's length, up to a page: 24 bytes to 8, 48 to 16. Null if `size` is 0 or memory is short.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// let p = FamilyAlloc::malloc(100);
    /// assert!(!p.is_null() && p.addr() % 128 == 0);
    /// // SAFETY: allocated above with this size.
    /// unsafe { FamilyAlloc::free(p, 100) };
    /// ```
    #[inline(always)]
    #[must_use]
    fn malloc(size: usize) -> *mut u8 {
        calls::malloc(Self::default(), size)
    }

    /// Like [`malloc`](Self::malloc), and the memory reads zero.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// let p = FamilyAlloc::calloc(8).cast::<u64>();
    /// // SAFETY: eight bytes, aligned to eight, all zero.
    /// assert_eq!(unsafe { p.read() }, 0);
    /// // SAFETY: allocated above with this size.
    /// unsafe { FamilyAlloc::free(p.cast(), 8) };
    /// ```
    #[inline(always)]
    #[must_use]
    fn calloc(size: usize) -> *mut u8 {
        calls::calloc(Self::default(), size)
    }

    /// Allocates `max(size, align)` bytes aligned to `align`, a power of two; freed with that size. With
    /// [`Classes::Spaced`] it is `size` rounded up to a multiple of `align`. Null if `size` is 0, `align` is no power of
    /// two or memory is short.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// let p = FamilyAlloc::memalign(4096, 100);
    /// assert!(!p.is_null() && p.addr() % 4096 == 0);
    /// // SAFETY: allocated above; the size is the larger of the two.
    /// unsafe { FamilyAlloc::free(p, 4096) };
    /// ```
    #[inline(always)]
    #[must_use]
    fn memalign(align: usize, size: usize) -> *mut u8 {
        calls::memalign(Self::default(), align, size)
    }

    /// Frees what [`malloc`](Self::malloc), [`calloc`](Self::calloc), [`memalign`](Self::memalign),
    /// [`remalloc`](Self::remalloc) or [`recalloc`](Self::recalloc) of this family returned. A null pointer does nothing.
    ///
    /// # Safety
    ///
    /// `ptr` is null, or live and of this family, and `size` is the size it was allocated with.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// let p = FamilyAlloc::malloc(100);
    /// // SAFETY: allocated above with this size.
    /// unsafe { FamilyAlloc::free(p, 100) };
    /// assert_eq!(FamilyAlloc::live_bytes(), 0);
    /// ```
    #[inline(always)]
    unsafe fn free(ptr: *mut u8, size: usize) {
        // SAFETY: the same contract.
        unsafe { calls::free(Self::default(), ptr, size) }
    }

    /// Changes the size, keeping the contents up to the lesser of the two. A null `ptr` allocates; a `new_size` of 0 frees
    /// and returns null. Otherwise null means that memory is short, and the old allocation is as it was.
    ///
    /// # Safety
    ///
    /// `ptr` is null, or live and of this family, and `old_size` is the size it was allocated with. Unless null is returned
    /// for a `new_size` above 0, the old pointer is not used again.
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// let p = FamilyAlloc::malloc(100);
    /// // SAFETY: 100 bytes, and the first of them is written.
    /// unsafe { p.write(7) };
    /// // SAFETY: allocated above with this size, and not used again.
    /// let p = unsafe { FamilyAlloc::remalloc(p, 100, 5000) };
    /// assert!(!p.is_null());
    /// // SAFETY: written above, and kept.
    /// assert_eq!(unsafe { p.read() }, 7);
    /// // SAFETY: of this size since the call above.
    /// unsafe { FamilyAlloc::free(p, 5000) };
    /// ```
    #[inline(always)]
    #[must_use]
    unsafe fn remalloc(ptr: *mut u8, old_size: usize, new_size: usize) -> *mut u8 {
        // SAFETY: the same contract.
        unsafe { calls::remalloc(Self::default(), ptr, old_size, new_size) }
    }

    /// Like [`remalloc`](Self::remalloc), and the bytes from `old_size` to `new_size` read zero.
    ///
    /// # Safety
    ///
    /// As for [`remalloc`](Self::remalloc).
    ///
    /// ```
    /// use family_alloc::{Family, FamilyAlloc};
    ///
    /// let p = FamilyAlloc::calloc(10);
    /// // SAFETY: allocated above with this size, and not used again.
    /// let p = unsafe { FamilyAlloc::recalloc(p, 10, 5000) };
    /// assert!(!p.is_null());
    /// // SAFETY: the last byte of 5000, which reads zero.
    /// assert_eq!(unsafe { p.add(4999).read() }, 0);
    /// // SAFETY: of this size since the call above.
    /// unsafe { FamilyAlloc::free(p, 5000) };
    /// ```
    #[inline(always)]
    #[must_use]
    unsafe fn recalloc(ptr: *mut u8, old_size: usize, new_size: usize) -> *mut u8 {
        // SAFETY: the same contract.
        unsafe { calls::recalloc(Self::default(), ptr, old_size, new_size) }
    }
}
