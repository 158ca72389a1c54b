//! Whose an allocation is, where a cache alone does not tell; and what is done with it then.
//!
//! | it is of | found by | meanwhile |
//! | --- | --- | --- |
//! | the home | its tag in the thread's cache | – |
//! | the heap of which the thread used its cache last | the same, and number and generation | the heap is held: the block lets it be (G3 in `family::life`) |
//! | any family | the tag in any directory, or the large allocation that begins there | as above; an orphan lives by its blocks |
//! | nobody | – | the home reports it |
//!
//! **V4** What is handed out here lies where the tags of the home's directory tell addresses apart, so outside of all scopes the home's
//! tag alone says that a slot is the home's. Any memory does on any usual system; where some does not, only what is
//! looked at is handed out, and the home serves instead. That can be looked at once the home's directory is in use, so a scope's cache
//! serves nothing before.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::global::{allocate_here, start, take_back};
use crate::checks::Checks;
use crate::family::{
    FamilyCore, Standing, ThreadCache, note_large, owner_of_large, owner_of_slab, slot_of_none, softly,
};
use crate::front::{
    Family, Handle, allocate_exact, allocate_zeroed_exact, deallocate_exact, deallocate_if_cached, is_cached_slot,
    resize_exact,
};
use crate::header::{Directory, UNIT_SHIFTS, tags_suffice};
use crate::large::GROWN_FROM_BYTES;
use crate::magazine::{Cache, CacheSlot, empty};
use crate::size_class::{Classes, NATURAL_COUNT};
use crate::thread::{heaps, scopes};

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

/// What the cache of the scope that the thread is in has not: null if memory is short.
#[inline(never)]
pub(super) fn allocate<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    let Some(core) = scopes::core() else { return allocate_home::<Home, ZEROED>(layout) };
    let class = Classes::Natural.of(layout, 1);
    if !ZEROED && class.index() < NATURAL_COUNT && tags_suffice() {
        if let Some((address, _)) = scopes::cache().magazine(class).carve(class.slot_bytes()) {
            return core::ptr::with_exposed_provenance_mut(address);
        }
    }
    if !begin_home::<Home>() {
        return core::ptr::null_mut();
    }
    scopes::use_cache();
    let memory = obtain(core, || allocate_of::<_, ZEROED>(Owner::alive(core), layout));
    start(memory.and_then(|memory| told_apart::<Home, ZEROED>(core, memory, layout, 0)))
}

/// Sees to it that the home's directory is in use (V4). `false`: out of memory.
fn begin_home<Home: Family>() -> bool {
    Directory::of(Home::default().unit_shift()).is_in_use() || {
        let layout = Layout::new::<u64>();
        let slot = obtain(Home::__core(), || allocate_exact(Home::default(), layout));
        // SAFETY: allocated just now with this layout.
        slot.inspect(|slot| unsafe { deallocate_exact(Home::default(), slot.cast(), layout) }).is_some()
    }
}

/// An allocation of a family that is held, if it may be handed out (V4); else as many bytes of the home's with its first ones.
#[inline]
fn told_apart<Home: Family, const ZEROED: bool>(
    core: &'static FamilyCore,
    memory: NonNull<[u8]>,
    layout: Layout,
    kept: usize,
) -> Option<NonNull<[u8]>> {
    let ptr = memory.cast::<u8>();
    if tags_suffice() || Directory::of(Home::default().unit_shift()).tells_apart(ptr.addr().get()) {
        // Long slots are noted as well, for nothing: they are found by their tags.
        if memory.len() >= GROWN_FROM_BYTES {
            note_large(ptr.addr().get(), core);
        }
        return Some(memory);
    }
    let other = obtain(Home::__core(), || allocate_of::<_, ZEROED>(Home::default(), layout));
    match other {
        // SAFETY: both are live and at least that long; a new allocation overlaps no live one.
        Some(other) => unsafe { core::ptr::copy_nonoverlapping(ptr.as_ptr(), other.cast::<u8>().as_ptr(), kept) },
        // What was resized cannot be as it was.
        None if kept > 0 => crate::fatal::end(),
        None => {}
    }
    // SAFETY: allocated with this layout, and given to nobody.
    unsafe { deallocate_exact(Owner::alive(core), ptr, layout) };
    other
}

/// What the home has not cached, or has to look at closer; null if memory is short.
#[inline(never)]
pub(super) fn allocate_home<Home: Family, const ZEROED: bool>(layout: Layout) -> *mut u8 {
    start(obtain(Home::__core(), || allocate_of::<_, ZEROED>(Home::default(), layout)))
}

/// The family of which an allocation is.
fn owner_of<Home: Family>(ptr: NonNull<u8>, layout: Layout) -> Option<&'static FamilyCore> {
    let address = ptr.addr().get();
    let is_short = layout.size() <= SLOT_BYTES_MAX && layout.align() <= SLOT_BYTES_MAX;
    let slab = if is_short { owner_of_slab(address) } else { None };
    slab.or_else(|| owner_of_large(address, scopes::core().into_iter().chain([Home::__core()])))
}

/// Frees in a scope what is no slot of its cache: most often one of the home's.
///
/// # Safety
/// As for [`deallocate`].
#[inline(never)]
pub(super) unsafe fn deallocate_inside<Home: Family>(ptr: NonNull<u8>, layout: Layout) {
    if !scopes::has_cache() {
        // What is freed was allocated by the home, or after it (V4).
        scopes::use_cache();
        if take_back(ptr.as_ptr(), layout) {
            return;
        }
    }
    // SAFETY: the same contract, if it is the home's.
    if !unsafe { deallocate_if_cached(Home::default(), ptr, layout) } {
        // SAFETY: the same contract.
        unsafe { deallocate::<Home>(ptr, layout) };
    }
}

/// Frees what the caches of the scope and of the home do not take. What is most often meant is a slot of the heap with
/// default checks of which the thread used its cache last.
///
/// # Safety
/// `ptr` is live, of some family, and `layout` is the one it was allocated with.
#[inline(never)]
pub(super) unsafe fn deallocate<Home: Family>(ptr: NonNull<u8>, layout: Layout) {
    let (cache, class) = (heaps::last(), Classes::Natural.of(layout, 1));
    let whole = ThreadCache::of(cache).filter(|_| class.index() < NATURAL_COUNT && tags_suffice());
    // All that is rare is a call at the end: nothing has to be kept for it here.
    let Some(whole) = whole else {
        // SAFETY: the same contract.
        return unsafe { deallocate_elsewhere::<Home>(ptr, layout) };
    };
    let (core, magazine, address) = (whole.family, cache.magazine(class), ptr.as_ptr().expose_provenance());
    if cache.view().tag(address, core.unit_shift()) != magazine.tag() || !core.hold_at_once() {
        // SAFETY: the same contract.
        return unsafe { deallocate_elsewhere::<Home>(ptr, layout) };
    }
    // The cache may be one of a heap that lived in this core before (E2 in `family::heaps`).
    if cache.heap() == core.heap_id() && magazine.push(address) {
        return core.let_go();
    }
    // SAFETY: the same contract; the tag says that it is this heap's, which is held.
    unsafe { deallocate_held(core, ptr, layout) }
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
    core.let_go();
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn deallocate_elsewhere<Home: Family>(ptr: NonNull<u8>, layout: Layout) {
    if is_cached_slot(Home::default(), ptr, layout) {
        // SAFETY: the same contract; the tag says that it is the home's.
        return unsafe { deallocate_exact(Home::default(), ptr, layout) };
    }
    // SAFETY: the same contract.
    unsafe { deallocate_found::<Home>(ptr, layout) }
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

/// Resizes what the thread's cache alone cannot; null if memory is short, and nothing has changed then.
///
/// # Safety
/// As for `GlobalAlloc::realloc`, with a pointer of any family.
#[inline(never)]
pub(super) unsafe fn reallocate<Home: Family>(ptr: NonNull<u8>, old: Layout, new_size: usize) -> *mut u8 {
    // SAFETY: the caller promises that the rounded size does not overflow.
    let new = unsafe { Layout::from_size_align_unchecked(new_size, old.align()) };
    let home = Home::__core();
    let found = owner_of::<Home>(ptr, old).filter(|core| !core::ptr::eq(*core, home) && old.size() != 0);
    start(match found.map(|core| (core, core.hold_by_block())) {
        Some((core, Standing::Alive)) => {
            // SAFETY: the same contract, of this family, which is held.
            let resized = obtain(core, || unsafe { resize_exact(Owner::alive(core), ptr, old, new) });
            let kept = old.size().min(new.size());
            let resized = resized.and_then(|memory| told_apart::<Home, false>(core, memory, new, kept));
            core.let_go();
            resized
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
