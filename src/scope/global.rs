//! [`Scoped`]: the global allocator whose families are chosen by scopes. What it can tell by a cache alone is here.

use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::owner;
use crate::__private::slot_start;
use crate::checks::Checks;
use crate::front::{Family, Handle, allocate_if_cached, deallocate_if_cached};
use crate::header::tags_suffice;
use crate::large::GROWN_FROM_BYTES;
use crate::magazine::{Cache, HEAD_BYTES};
use crate::size_class::{Classes, NATURAL_COUNT, SizeClass};
use crate::thread::scopes;

/// A global allocator for [scopes](crate::Heap::scope): outside of all scopes it allocates from the family `Home`, inside from the heap or
/// the family whose scope the thread has entered last. What is freed goes where it came from, from any thread, inside or outside
/// of any scope, also when the scope is long over; and what is resized stays in its family.
///
/// ```
/// use family_alloc::{Family, Heap, Scoped, family};
///
/// family! { struct Home; }
///
/// #[global_allocator]
/// static GLOBAL: Scoped<Home> = Scoped::new();
///
/// let tenant = Heap::new("tenant 42")?;
/// let mut words: Vec<String> = tenant.scope(|| "a word of the tenant's ".repeat(9).split(' ').map(String::from).collect());
/// let held = tenant.live_bytes();
/// assert!(held > 0);
/// words.push("outside".to_string()); // The string is `Home`'s; the vector, should it grow, the tenant's still.
/// drop(words);
/// assert_eq!(tenant.live_bytes(), 0);
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
///
/// # What outlives its heap
///
/// When the last handle goes and something is still live, the heap is an *orphan*: nothing is allocated from it any more, its memory goes
/// back as blocks are freed, and the rest when the last one is. [`families`](crate::families()) lists it until then, and
/// [`FamilyRef::is_orphan`](crate::FamilyRef::is_orphan) tells. A block of an orphan that is resized beyond its slot moves to where
/// the thread allocates then.
///
/// # Limits are soft
///
/// Where the global allocator returns null, the program ends. So no [limit](crate::HeapBuilder::limit) makes it return null: through
/// `Scoped`, what is over a limit is allocated and charged all the same. [`Heap::over_limit`](crate::Heap::over_limit) says so, at the cost of
/// one load, to a task that asks now and then; and [`set_limit_handler`](crate::set_limit_handler) tells a function at each
/// crossing. Calls that can be refused, through the `Allocator` traits (`Vec::try_reserve` on a `Vec<T, Heap>`), are refused as ever; but
/// `try_reserve` on the standard library's own `Vec<T>` asks `Scoped`, and is not.
///
/// # What is not routed
///
/// What C code allocates with `malloc`; what other threads allocate for a scope, unless they enter it as well
/// ([`spawn_in_scope`](crate::spawn_in_scope)); and what was allocated elsewhere and grows in the scope. A static that is made in a
/// scope for the first time is the scope's: [`Heap::outside`](crate::Heap::outside) is for that.
pub struct Scoped<Home: Family>(PhantomData<Home>);

impl<Home: Family> Scoped<Home> {
    /// The allocator; all of one home are the same.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<Home: Family> Default for Scoped<Home> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Home: Family> Clone for Scoped<Home> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Home: Family> Copy for Scoped<Home> {}

impl<Home: Family> core::fmt::Debug for Scoped<Home> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Scoped<{}>", Home::NAME)
    }
}

/// The natural class of a layout, if a cache has it.
#[inline(always)]
pub(super) fn class(layout: Layout) -> Option<SizeClass> {
    let class = Classes::Natural.of(layout, 1);
    // `GlobalAlloc` asks for at least one byte. What no slab holds has an index beyond all classes.
    (class.index() < NATURAL_COUNT).then_some(class)
}

/// Lets the compiler put what follows aside, which is a call.
#[cold]
#[inline]
fn hardly_ever() {}

/// A slot where it begins. The provenance of every region is exposed where it is claimed.
#[inline(always)]
pub(super) fn slot(address: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address)
}

impl<Home: Family> Scoped<Home> {
    /// Whether slots of the home need nothing but a cache, as those of scopes that have one.
    pub(super) const IS_PLAIN: bool =
        matches!(Home::CLASSES, Classes::Natural) && matches!(Home::CHECKS, Checks::Default | Checks::Unchecked);

    /// The plain cache that the thread's calls go to: the scope's, or outside of all scopes the home's. The empty one where
    /// there is none.
    #[inline(always)]
    pub(super) fn cache() -> &'static Cache {
        Home::default().slot().current()
    }

    /// Whether a call goes to a home that is not plain.
    #[inline(always)]
    fn is_at_other_home() -> bool {
        !Self::IS_PLAIN && !scopes::is_inside()
    }

    /// Whether a slot is one of the cache that calls go to.
    #[inline(always)]
    fn is_own(ptr: *mut u8, layout: Layout) -> bool {
        let cache = Self::cache();
        class(layout).is_some_and(|class| cache.telling_tag(ptr.addr()) == cache.magazine(class).tag())
    }
}

// SAFETY: each call is the engine's, which neither unwinds nor asks the global allocator for memory; what a family has handed out goes
// back to that family, which the slab's tag or the table of large allocations names.
unsafe impl<Home: Family> GlobalAlloc for Scoped<Home> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::is_at_other_home() {
            return match allocate_if_cached(Home::default(), layout) {
                Some(memory) => memory.cast().as_ptr(),
                None => owner::allocate::<Home, false>(layout),
            };
        }
        match class(layout).and_then(|class| Self::cache().magazine(class).pop()) {
            Some(address) => slot(address),
            None => {
                hardly_ever();
                owner::allocate::<Home, false>(layout)
            }
        }
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match class(layout).and_then(|class| Self::cache().magazine(class).pop()) {
            Some(address) => {
                // SAFETY: a slot of at least that length that was just allocated.
                unsafe { slot(address).write_bytes(0, layout.size()) };
                slot(address)
            }
            None => {
                hardly_ever();
                owner::allocate::<Home, true>(layout)
            }
        }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: an allocated pointer is not null.
        let memory = unsafe { NonNull::new_unchecked(ptr) };
        let class = Classes::Natural.of(layout, 1);
        let mut tag = 0;
        let is_taken = if Self::is_at_other_home() {
            // SAFETY: the caller's promise, if it is a slot of this family's, as its tag says (V4 in `owner`).
            tags_suffice() && unsafe { deallocate_if_cached(Home::default(), memory, layout) }
        } else {
            class.index() < NATURAL_COUNT && {
                let (cache, address) = (Self::cache(), ptr.expose_provenance());
                // SAFETY: the empty cache has all natural classes, and so has one that calls go to.
                let magazine = unsafe { cache.magazine_at(Cache::offset(class)) };
                tag = cache.telling_tag(address);
                tag == magazine.tag() && magazine.push_behind::<HEAD_BYTES>(address)
            }
        };
        if !is_taken {
            hardly_ever();
            if class.index() >= NATURAL_COUNT {
                // SAFETY: the caller promises that it is live, with this layout.
                return unsafe { owner::deallocate_elsewhere::<Home>(memory, layout) };
            }
            // SAFETY: as above, and the index was just tested.
            unsafe { owner::deallocate::<Home>(memory, layout.size(), layout.align(), tag, Cache::offset(class)) };
        }
    }

    #[inline(always)]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: an allocated pointer is not null.
        let memory = unsafe { NonNull::new_unchecked(ptr) };
        // SAFETY: the caller promises that the rounded size does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if Self::is_own(ptr, layout) {
            if class(layout) == class(new) {
                return ptr;
            }
            // What is longer may grow on where no slots are.
            let new_class = class(new).filter(|_| new_size < GROWN_FROM_BYTES);
            if let Some(address) = new_class.and_then(|class| Self::cache().magazine(class).pop()) {
                let kept = layout.size().min(new_size);
                // SAFETY: both are live and at least that long; a new slot overlaps no live one.
                unsafe { core::ptr::copy_nonoverlapping(ptr, slot(address), kept) };
                let magazine = class(layout).map(|class| Self::cache().magazine(class));
                if !magazine.is_some_and(|magazine| magazine.push(ptr.expose_provenance())) {
                    // SAFETY: the contents have been copied, and the caller gives the old slot up.
                    unsafe { owner::deallocate_elsewhere::<Home>(memory, layout) };
                }
                return slot(address);
            }
        }
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { owner::reallocate::<Home>(memory, layout, new) }
    }
}

/// What a scope that the thread is in, or the home, allocates.
pub(super) fn allocate_here<Home: Family>(layout: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the callers have layouts of some bytes.
    let start = NonNull::new(unsafe { Scoped::<Home>::new().alloc(layout) })?;
    Some(NonNull::slice_from_raw_parts(start, layout.size()))
}

const _: () = assert!(size_of::<*mut u8>() == size_of::<Option<NonNull<u8>>>(), "null is none, as in `slot_start`");

/// The start of what was allocated, or null.
pub(super) fn start(memory: Option<NonNull<[u8]>>) -> *mut u8 {
    slot_start(memory)
}
