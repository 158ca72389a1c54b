//! Whose an allocation is, where the cache that calls go to does not tell; and what is done with it then.
//!
//! | it is of | found by | meanwhile |
//! | --- | --- | --- |
//! | the scope, or outside of all scopes the home | its tag in the thread's cache | – |
//! | the scope, with spaced classes | the same ([`spaced`]) | – |
//! | a family of which the thread has a plain cache | the same, in the cache that is in the tag's place of `OWNERS` | a heap's cache is entered (M6) |
//! | any family | the tag in any directory, or the large allocation that begins there | the heap is held: the block lets it be (G3 in `family::life`); an orphan lives by its blocks |
//! | nobody | – | the home reports it |
//!
//! **V4** A tag alone says whose a slot is only while all memory lies in the stretches of all directories. So caches are looked
//! at with tags that are 0 from when that has ended (H4 in `header::telling`), and what is found then is found by the last
//! but one row, where each directory says whether it tells the address apart.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::global::{allocate_here, class, slot, start};
use super::{Scoped, spaced};
use crate::checks::Checks;
use crate::family::{
    FamilyCore, HeapOptions, Standing, is_look_due, note_large, number_of, owner_of_large, owner_of_slab, slot_of_none,
    softly,
};
use crate::front::{
    Family, Handle, allocate_exact, allocate_zeroed_exact, deallocate_exact, is_cached_slot, resize_exact,
};
use crate::header::{Directory, UNIT_SHIFTS, tags_suffice};
use crate::large::GROWN_FROM_BYTES;
use crate::magazine::{Cache, CacheSlot, HEAD_BYTES, Magazine, empty, is_empty};
use crate::size_class::Classes;
#[cfg(doc)]
use crate::size_class::NATURAL_COUNT;
use crate::thread::{heaps, scopes};
use crate::waiting;

/// No slab has longer slots.
const SLOT_BYTES_MAX: usize = 1 << (*UNIT_SHIFTS.end() - 1);

/// Any family: static, a heap that is held, or an orphan of which the caller has a live block.
#[derive(Clone, Copy)]
struct Owner {
    core: &'static FamilyCore,
    is_orphan: bool,
}

impl Owner {
    fn alive(core: &'static FamilyCore) -> Self {
        Self { core, is_orphan: false }
    }

    fn orphan(core: &'static FamilyCore) -> Self {
        Self { core, is_orphan: true }
    }
}

// SAFETY: one family's core; the slot is the one that the calling thread has of it, or one without a cache, and an
// orphan has no caches.
unsafe impl Handle for Owner {
    fn core(&self) -> &'static FamilyCore {
        self.core
    }

    fn slot(&self) -> &'static CacheSlot {
        let slot = match (self.is_orphan, self.core.is_heap()) {
            (true, _) => slot_of_none(),
            (false, true) => heaps::slot_of(self.core),
            (false, false) => return self.core.slot(),
        };
        // SAFETY: the calling thread's, which lives as long as the thread; it does not leave it.
        unsafe { &*slot }
    }

    fn cache(&self) -> &'static Cache {
        match (self.is_orphan, self.core.is_heap()) {
            (true, _) => empty(),
            (false, true) => heaps::cache_of(self.core),
            (false, false) => self.core.slot().get(self.core.class_count()),
        }
    }

    fn checks(&self) -> Checks {
        self.core.checks()
    }

    fn classes(&self) -> Classes {
        self.core.classes()
    }

    fn unit_shift(&self) -> u32 {
        self.core.unit_shift()
    }

    fn has_slots_of(&self, class: usize) -> bool {
        class <= self.core.classes().largest(1 << self.core.unit_shift())
    }
}

/// Tries; what only a limit refuses is not refused.
fn obtain(core: &'static FamilyCore, attempt: impl Fn() -> Option<NonNull<[u8]>>) -> Option<NonNull<[u8]>> {
    // While it is over a limit, nothing is given back for a try that is refused.
    let first = if core.is_over_any_limit() { None } else { attempt() };
    match first {
        None if core.is_limited() => softly(attempt),
        first => first,
    }
}

fn allocate_of<H: Handle, const ZEROED: bool>(handle: H, layout: Layout) -> Option<NonNull<[u8]>> {
    if ZEROED { allocate_zeroed_exact(handle, layout) } else { allocate_exact(handle, layout) }
}

/// What the cache that calls go to has not: null if memory is short.
#[inline(never)]
pub(super) fn allocate<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let cache = Scoped::<Home>::cache();
    if is_empty(cache) {
        return allocate_otherwise::<Home, ZEROED>(layout);
    }
    if let Some(class) = class(layout) {
        let magazine = cache.magazine(class);
        if !ZEROED {
            magazine.stock(cache.tally(), class);
            if let Some(address) = magazine.pop() {
                return slot(address);
            }
        }
        if let Some((address, is_zeroed)) = magazine.carve(class.slot_bytes()) {
            if ZEROED && !is_zeroed {
                // SAFETY: a slot of at least that length that was just allocated.
                unsafe { slot(address).write_bytes(0, layout.size()) };
            }
            return slot(address);
        }
    }
    allocate_uncached::<Home, ZEROED>(layout)
}

/// Calls go to no cache with natural classes.
#[inline(never)]
fn allocate_otherwise<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let memory = spaced::pop::<ZEROED>(layout);
    if memory.is_null() { allocate_exhausted::<Home, ZEROED>(layout) } else { memory }
}

#[inline(never)]
fn allocate_exhausted<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let memory = spaced::carve::<ZEROED>(layout);
    if memory.is_null() { allocate_uncached::<Home, ZEROED>(layout) } else { memory }
}

/// What no cache has.
#[inline(never)]
fn allocate_uncached<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let memory = match scopes::core() {
        Some(core) => allocate_in_scope::<ZEROED>(core, layout),
        None => allocate_home::<Home, ZEROED>(layout),
    };
    // The thread may have got a cache.
    scopes::set_home(Home::__core());
    memory
}

#[inline(never)]
fn allocate_in_scope<const ZEROED: bool>(core: &'static FamilyCore, layout: Layout) -> *mut u8 {
    let memory = obtain(core, || allocate_of::<_, ZEROED>(Owner::alive(core), layout));
    start(memory.inspect(|&memory| note_if_large(core, memory)))
}

/// Notes whose a large allocation is. Long slots are noted as well, for nothing: they are found by their tags.
fn note_if_large(core: &'static FamilyCore, memory: NonNull<[u8]>) {
    if memory.len() >= GROWN_FROM_BYTES {
        note_large(memory.addr().get(), core);
    }
}

/// What the home has not cached; null if memory is short.
#[inline(never)]
fn allocate_home<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    start(obtain(Home::__core(), || allocate_of::<_, ZEROED>(Home::default(), layout)))
}

/// Whether a slot is of the family whose scope the thread is in, with or without a cache of it.
fn is_slot_of(core: &FamilyCore, ptr: NonNull<u8>, layout: Layout) -> bool {
    tags_suffice() && layout.size() != 0 && core.owns(ptr.addr().get(), core.class_of(layout))
}

/// The family of which an allocation is.
fn owner_of<Home: Family>(ptr: NonNull<u8>, layout: Layout) -> Option<&'static FamilyCore> {
    let address = ptr.addr().get();
    let is_short = layout.size() <= SLOT_BYTES_MAX && layout.align() <= SLOT_BYTES_MAX;
    let slab = if is_short { owner_of_slab(address) } else { None };
    slab.or_else(|| owner_of_large(address, scopes::core().into_iter().chain([Home::__core()])))
}

/// The logarithm of a heap's slabs' bytes, unless it is built with others.
const HEAP_UNIT_SHIFT: u32 = HeapOptions::DEFAULT.slab_bytes.trailing_zeros();

/// How long the home's slabs are.
#[inline(always)]
const fn home_unit_shift<Home: Family>() -> u32 {
    Home::SLAB_BYTES.trailing_zeros()
}

/// The tag of an address, where the slabs lie that there are most often: those as long as the home's, and heaps'.
#[inline(always)]
fn likely_tag<Home: Family>(address: usize) -> u32 {
    let tag = |unit_shift| Directory::of(unit_shift).telling().tag_of_any(address);
    match tag(home_unit_shift::<Home>()) {
        0 => tag(HEAP_UNIT_SHIFT),
        found => found,
    }
}

/// What comes back to a family that is not the one that calls go to.
#[derive(Clone, Copy)]
struct Back {
    ptr: NonNull<u8>,
    size: usize,
    align: usize,
    /// In the directory of the cache that calls go to; 0 where that has none.
    tag: u32,
    /// Where in a cache the magazine of the layout's natural class is.
    offset: usize,
}

/// Frees what the cache that calls go to does not take: most often a slot of another family of
/// which the thread has a cache. What is known already is passed on: see [`Back`]. All that is
/// rarer is a call at the end, of which each argument is where it was.
///
/// # Safety
/// `ptr` is live, of some family, and was allocated with the layout of `size` and `align`. `offset`
/// is that of its natural class, which has an index below [`NATURAL_COUNT`].
#[inline(never)]
pub(super) unsafe fn deallocate<Home: Family>(ptr: NonNull<u8>, size: usize, align: usize, tag: u32, offset: usize) {
    let (back, address) = (Back { ptr, size, align, tag, offset }, ptr.as_ptr().expose_provenance());
    if tag != 0 {
        let cache = scopes::owner(number_of(tag));
        // SAFETY: the same contract.
        return unsafe { push::<Home>(back, cache, |_| tag, |magazine| cache.take_back_into(magazine, address)) };
    }
    // The family of which something was freed last that is in slabs of another length than those of
    // the cache that calls go to. How long they are, `deallocate_by_tag` has made sure of.
    let cache = Home::default().slot().other();
    if cache.is_of_heap() {
        let tag = |address| cache.telling_tag_by(HEAP_UNIT_SHIFT, address);
        // SAFETY: the same contract.
        unsafe { push::<Home>(back, cache, tag, |magazine| cache.take_back_by_door(magazine, address)) }
    } else {
        let tag = |address| cache.telling_tag_by(home_unit_shift::<Home>(), address);
        // SAFETY: the same contract.
        unsafe { push::<Home>(back, cache, tag, |magazine| magazine.push_behind::<HEAD_BYTES>(address)) }
    }
}

/// Frees a slot to one of the thread's caches, if its tag says that it is of that; or goes on
/// looking.
///
/// # Safety
/// As for [`deallocate`]. The cache has all natural classes.
#[inline(always)]
unsafe fn push<Home: Family>(
    back: Back,
    cache: &'static Cache,
    tag: impl FnOnce(usize) -> u32,
    push: impl FnOnce(&Magazine) -> bool,
) {
    let Back { ptr, size, align, tag: given, offset } = back;
    // SAFETY: the caller's promise.
    let magazine = unsafe { cache.magazine_at(offset) };
    // No magazine has the tag 0.
    if tag(ptr.as_ptr().expose_provenance()) != magazine.tag() {
        // SAFETY: the same contract.
        unsafe { deallocate_by_tag::<Home>(ptr, size, align, given, offset) }
    } else if !push(magazine) {
        // SAFETY: the same contract.
        unsafe { deallocate_again::<Home>(ptr, size, align, given, offset, cache) }
    }
}

/// Frees a slot of the family of one of the thread's caches, of which the room is used up, or the door shut.
///
/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_again<Home: Family>(
    ptr: NonNull<u8>,
    size: usize,
    align: usize,
    _tag: u32,
    offset: usize,
    cache: &'static Cache,
) {
    let address = ptr.as_ptr().expose_provenance();
    let is_due = waiting::is_anything() && is_look_due();
    if is_due || !cache.take_back_again(Cache::class_at(offset), address) {
        // SAFETY: the same contract.
        let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
        // SAFETY: as above.
        unsafe { deallocate_elsewhere::<Home>(ptr, layout) }
    }
}

/// # Safety
/// As for [`deallocate`].
#[inline(never)]
unsafe fn deallocate_by_tag<Home: Family>(ptr: NonNull<u8>, size: usize, align: usize, tag: u32, offset: usize) {
    // SAFETY: the same contract.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    let address = ptr.as_ptr().expose_provenance();
    if spaced::push(layout, address) {
        return;
    }
    let last = scopes::last();
    // SAFETY: such a cache has all natural classes.
    let magazine = unsafe { last.magazine_at(offset) };
    // Where the cache that calls go to has told nothing, slabs may have any other length.
    if tag == 0 && last.telling_tag(address) == magazine.tag() && last.take_back_into(magazine, address) {
        return;
    }
    let tag = likely_tag::<Home>(address);
    let owner = scopes::owner(number_of(tag));
    // SAFETY: as above.
    let magazine = unsafe { owner.magazine_at(offset) };
    if tag == magazine.tag() && owner.take_back_into(magazine, address) {
        let unit_shift = if owner.is_of_heap() { HEAP_UNIT_SHIFT } else { home_unit_shift::<Home>() };
        return scopes::set_last(owner, owner.has_units_of(unit_shift).then(Home::__core));
    }
    // SAFETY: the same contract.
    unsafe { deallocate_spaced::<Home>(ptr, layout, tag) }
}

/// # Safety
/// As for [`deallocate`]; the tag is that of the address, where one is found.
#[inline(never)]
unsafe fn deallocate_spaced<Home: Family>(ptr: NonNull<u8>, layout: Layout, tag: u32) {
    if !spaced::take_back(tag, layout, ptr.as_ptr().expose_provenance()) {
        // SAFETY: the same contract.
        unsafe { deallocate_elsewhere::<Home>(ptr, layout) }
    }
}

/// Frees a slot of the cache that calls go to, which has no room for it; or what no cache of the thread takes.
///
/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
pub(super) unsafe fn deallocate_elsewhere<Home: Family>(ptr: NonNull<u8>, layout: Layout) {
    if let Some(core) = scopes::core().filter(|core| is_slot_of(core, ptr, layout)) {
        // SAFETY: the same contract; the tag says that it is the scope's, which is held.
        return unsafe { deallocate_exact(Owner::alive(core), ptr, layout) };
    }
    if tags_suffice() && is_cached_slot(Home::default(), ptr, layout) {
        // SAFETY: the same contract; the tag says that it is the home's.
        return unsafe { deallocate_exact(Home::default(), ptr, layout) };
    }
    // SAFETY: the same contract.
    unsafe { deallocate_found::<Home>(ptr, layout) }
}

/// Frees an allocation of a family that is held, and lets that go.
///
/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_held(core: &'static FamilyCore, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the same contract.
    unsafe { deallocate_exact(Owner::alive(core), ptr, layout) };
    // Another family may have had its place.
    scopes::note_owner(core);
    core.let_go();
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_found<Home: Family>(ptr: NonNull<u8>, layout: Layout) {
    let home = Home::__core();
    let found = owner_of::<Home>(ptr, layout).filter(|core| !core::ptr::eq(*core, home) && layout.size() != 0);
    match found.map(|core| (core, core.hold_by_block())) {
        // SAFETY: the same contract, of this family, which is held.
        Some((core, Standing::Alive)) => unsafe { deallocate_held(core, ptr, layout) },
        Some((core, Standing::Orphan)) => {
            // SAFETY: as above; the block keeps the orphan.
            unsafe { deallocate_exact(Owner::orphan(core), ptr, layout) };
            core.count_off();
        }
        // SAFETY: the same contract: it is the home's, or it is reported.
        Some((_, Standing::Dead)) | None => unsafe { deallocate_exact(Home::default(), ptr, layout) },
    }
}

/// Resizes what the cache that calls go to cannot alone; null if memory is short, and nothing has changed then.
///
/// # Safety
/// As for `GlobalAlloc::realloc`, with a pointer of any family and both layouts.
#[inline(never)]
pub(super) unsafe fn reallocate<Home: Family>(ptr: NonNull<u8>, old: Layout, new: Layout) -> *mut u8 {
    // SAFETY: the same contract.
    let resized = unsafe { spaced::reallocate::<Home>(ptr, old, new) };
    if !resized.is_null() {
        return resized;
    }
    let home = Home::__core();
    if let Some(core) = scopes::core().filter(|core| is_slot_of(core, ptr, old)) {
        // SAFETY: the same contract; the tag says that it is the scope's, which is held.
        let resized = obtain(core, || unsafe { resize_exact(Owner::alive(core), ptr, old, new) });
        return start(resized.inspect(|&memory| note_if_large(core, memory)));
    }
    if tags_suffice() && is_cached_slot(Home::default(), ptr, old) {
        // SAFETY: the same contract; the tag says that it is the home's.
        return start(obtain(home, || unsafe { resize_exact(Home::default(), ptr, old, new) }));
    }
    let found = owner_of::<Home>(ptr, old).filter(|core| !core::ptr::eq(*core, home) && old.size() != 0);
    start(match found.map(|core| (core, core.hold_by_block())) {
        Some((core, Standing::Alive)) => {
            // SAFETY: the same contract, of this family, which is held.
            let resized = obtain(core, || unsafe { resize_exact(Owner::alive(core), ptr, old, new) });
            core.let_go();
            resized.inspect(|&memory| note_if_large(core, memory))
        }
        // SAFETY: the same contract.
        Some((core, Standing::Orphan)) => unsafe { reallocate_orphaned::<Home>(core, ptr, old, new) },
        // SAFETY: the same contract: it is the home's, or it is reported.
        Some((_, Standing::Dead)) | None => obtain(home, || unsafe { resize_exact(Home::default(), ptr, old, new) }),
    })
}

/// A block of an orphan stays in its slot, or moves to where the thread allocates now.
///
/// # Safety
/// As for [`reallocate`], with a block of this orphan.
#[cold]
unsafe fn reallocate_orphaned<Home: Family>(
    core: &'static FamilyCore,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<NonNull<[u8]>> {
    let class = core.class_of(old);
    if class == core.class_of(new) && core.owns(ptr.addr().get(), class) {
        // SAFETY: the same contract; within its slot it stays where it is.
        return unsafe { resize_exact(Owner::orphan(core), ptr, old, new) };
    }
    let memory = allocate_here::<Home>(new)?;
    let kept = old.size().min(new.size());
    // SAFETY: both are live and at least that long; a new allocation overlaps no live one.
    unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), memory.cast::<u8>().as_ptr(), kept) };
    // SAFETY: the contents have been copied, and the caller gives the old block up.
    unsafe { deallocate_found::<Home>(ptr, old) };
    Some(memory)
}
