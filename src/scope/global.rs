//! [`Scoped`]: the global allocator whose families are chosen by scopes. What it can tell by a cache alone is here.

use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::owner;
use crate::__private::{reallocate, slot_start};
use crate::front::{Family, allocate_if_cached, deallocate_if_cached, is_cached_slot};
use crate::header::tags_suffice;
use crate::large::GROWN_FROM_BYTES;
use crate::magazine::Magazine;
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
fn class(layout: Layout) -> Option<SizeClass> {
    let class = Classes::Natural.of(layout, 1);
    // `GlobalAlloc` asks for at least one byte. What no slab holds has an index beyond all classes.
    (class.index() < NATURAL_COUNT).then_some(class)
}

/// A slot of the scope's cache, if that has one.
#[inline(always)]
fn pop(layout: Layout) -> Option<(usize, SizeClass)> {
    let class = class(layout)?;
    // What lies where the home's tags tell nothing apart is not handed out so (V4 in `owner`).
    if tags_suffice() { scopes::cache().magazine(class).pop().map(|address| (address, class)) } else { None }
}

/// A slot where it begins. The provenance of every region is exposed where it is claimed.
#[inline(always)]
fn slot(address: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address)
}

/// The magazine of the scope's cache that a slot belongs to, if its tag says so.
#[inline(always)]
fn owning(ptr: *mut u8, layout: Layout) -> Option<&'static Magazine> {
    let cache = scopes::cache();
    let magazine = cache.magazine(class(layout)?);
    let is_own = cache.view().tag(ptr.addr(), scopes::unit_shift()) == magazine.tag();
    (is_own && tags_suffice()).then_some(magazine)
}

/// Puts a slot back into the scope's cache, if its tag says that it belongs there and there is room; its client has given it up.
#[inline(always)]
pub(super) fn take_back(ptr: *mut u8, layout: Layout) -> bool {
    owning(ptr, layout).is_some_and(|magazine| magazine.push(ptr.expose_provenance()))
}

// SAFETY: each call is the engine's, which neither unwinds nor asks the global allocator for memory; what a family has handed out goes
// back to that family, which the slab's tag or the table of large allocations names.
unsafe impl<Home: Family> GlobalAlloc for Scoped<Home> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if scopes::is_inside() {
            return match pop(layout) {
                Some((address, _)) => slot(address),
                None => owner::allocate::<Home, false>(layout),
            };
        }
        match allocate_if_cached(Home::default(), layout) {
            Some(address) => slot(address),
            None => owner::allocate_home::<Home, false>(layout),
        }
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if scopes::is_inside() {
            let Some((address, class)) = pop(layout) else { return owner::allocate::<Home, true>(layout) };
            // SAFETY: a slot of that length that was just allocated.
            unsafe { slot(address).write_bytes(0, class.slot_bytes()) };
            return slot(address);
        }
        owner::allocate_home::<Home, true>(layout)
    }

    #[inline(always)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: an allocated pointer is not null.
        let memory = unsafe { NonNull::new_unchecked(ptr) };
        if scopes::is_inside() {
            if !take_back(ptr, layout) {
                // SAFETY: the caller promises that it is live, with this layout.
                unsafe { owner::deallocate_inside::<Home>(memory, layout) };
            }
            return;
        }
        // SAFETY: the caller's promise, if it is a slot of this family's; V4 in `owner`.
        if !unsafe { deallocate_if_cached(Home::default(), memory, layout) } {
            // SAFETY: the caller promises that it is live, with this layout.
            unsafe { owner::deallocate::<Home>(memory, layout) };
        }
    }

    #[inline(always)]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: an allocated pointer is not null.
        let memory = unsafe { NonNull::new_unchecked(ptr) };
        if scopes::is_inside() {
            // SAFETY: the caller promises that the rounded size does not overflow.
            let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
            if let Some(magazine) = owning(ptr, layout) {
                if class(layout) == class(new) {
                    return ptr;
                }
                // What is longer may grow on where no slots are.
                let moved = if new_size < GROWN_FROM_BYTES { pop(new) } else { None };
                if let Some((address, _)) = moved {
                    let kept = layout.size().min(new_size);
                    // SAFETY: both are live and at least that long; a new slot overlaps no live one.
                    unsafe { core::ptr::copy_nonoverlapping(ptr, slot(address), kept) };
                    if !magazine.push(ptr.expose_provenance()) {
                        // SAFETY: the contents have been copied, and the caller gives the old slot up.
                        unsafe { owner::deallocate_inside::<Home>(memory, layout) };
                    }
                    return slot(address);
                }
            }
        } else if is_cached_slot(Home::default(), memory, layout) {
            // SAFETY: the caller's promise is the one asked for here, and the tag says that it is this family's (V4 in `owner`).
            let resized = unsafe { reallocate(Home::default(), ptr, layout, new_size) };
            if !resized.is_null() {
                return resized;
            }
        }
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { owner::reallocate::<Home>(memory, layout, new_size) }
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
