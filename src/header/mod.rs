//! Tags, and how an address finds its tag and its header.
//!
//! A region is 64 units of one family, naturally aligned, of which the first are reserved. Every unit has a *tag* of four bytes, which
//! says whose slots it holds, and a *header* of 64 bytes, which its bin writes to. Tags of all regions with the same unit
//! size stand in one reserved table, a [`Directory`], at the place that the address gives, so any address at all, a wild one too,
//! can be looked up without touching what it points to. Headers stand in unit 0 of their region, header 0 being the region's own:
//!
//! ```text
//!           address   … | unit | offset in the unit
//!           └─ shifted down, masked: × 4 bytes ─┘──► tag (reads zero where there is no slab)
//!
//!           region    │ … │ 64 headers │ bits │ … │ unit 1 │ unit 2 │ … │ end of what is reserved
//!                     0  32 KiB    36 KiB
//!
//!           bits: of purged pages, of free slots of slabs that have few, and short tables; the other parts are side tables of the units
//! ```
//!
//! **H1** Tables and regions are never unmapped, so tags and headers are `'static`. **H2** Only tags and a header's `memory` are
//! shared without a lock; a tag is 0 unless a slab of a class is there, so where a tag is not 0 there is a region, and a header. A
//! slab's other fields belong to the lock of its bin (`advice` and `side_open` to its family's pool lock), a region's to its family's pool lock.
//! **H3** All regions of a directory lie in one stretch of address space that is as long as the table has tags for. So no two units
//! share a tag, and an address inside the stretch shares its tag with no other place in it.

mod apart;
mod beside;
mod flag;
mod telling;
#[cfg(test)]
mod tests;

use core::ops::Range;
use core::ptr::NonNull;

#[cfg(all(unix, not(any(miri, loom))))]
pub(crate) use apart::lock_of_noted;
pub(crate) use apart::{note_memory, tags_suffice};
pub(crate) use beside::{
    header_pages, purged_pages_at, shared_bits_at, shared_bits_shift, side_table, two_byte_tables_at,
};
pub(crate) use flag::Flag;
pub(crate) use telling::{CLOSED, Telling};

use crate::os;
use crate::sync::{Acquire, AtomicPtr, AtomicU32, AtomicUsize, Cell, Lock, Relaxed, Release, fence};

/// Units of a region; unit 0 (with states, the first eight) holds headers and side tables, the others are slabs.
pub(crate) const UNIT_COUNT: usize = 64;
/// Units at a region's start that hold the states of its slots, where the family keeps them.
pub(crate) const STATE_UNIT_COUNT: usize = UNIT_COUNT / 8;
const HEADER_BYTES: usize = 64;
/// Words of a header that its free list has.
pub(crate) const FREE_WORDS: usize = 2;
/// Where in a region its headers are: in a table of states, these would be the states of the first units, which have none.
pub(crate) const HEADERS: Range<usize> = (32 << 10)..(32 << 10) + UNIT_COUNT * HEADER_BYTES;
const TAG_BYTES: usize = size_of::<AtomicU32>();
const TAG_SHIFT: u32 = TAG_BYTES.trailing_zeros();

/// The smallest and the largest unit: 64 KiB and 2 MiB.
pub(crate) const UNIT_SHIFTS: core::ops::RangeInclusive<u32> = 16..=21;

/// The units of families that do not say how long they are to be: where address space is short, or memory cannot be reserved
/// without being taken, a region of them is 8 MiB or 4 MiB long instead of 128.
pub(crate) const DEFAULT_UNIT_BYTES: usize = match () {
    () if cfg!(any(target_arch = "wasm32", not(any(feature = "std", loom)))) => 64 << 10,
    () if usize::BITS < 64 => 128 << 10,
    () => 2 << 20,
};

/// Bits of the stretch that a table is to cover, where its largest length allows that.
const STRETCH_BITS: u32 = if usize::BITS == 64 { 44 } else { usize::BITS };
const TABLE_BYTES_MAX: usize = 128 << 20;
/// A range that the program gives may be short, and all of a table is taken from it.
const TABLE_BYTES_MIN: usize = if cfg!(any(feature = "std", loom)) { 64 << 10 } else { 4 << 10 };
/// The part of a limit on address space that a table may take.
const LIMIT_SHARE: usize = 128;
/// Tags that are made writable together: few mappings, and no page is touched for it.
const WRITABLE_BYTES: usize = TABLE_BYTES_MIN;
/// The system places new mappings below old ones, so nearly all of the stretch lies below the first region; Windows places them above,
/// or in gaps.
const STRETCH_ABOVE_SHARE: usize = if cfg!(windows) { 2 } else { 16 };
/// Places that are tried where the system's own choice lies outside of the stretch.
const STRETCH_TRIES: usize = 64;

/// What a bin knows of one slab.
#[repr(C, align(64))]
pub(crate) struct SlabHeader {
    /// Slots that are out: live, in a thread's cache or in the depot.
    pub(crate) used: Cell<u32>,
    /// Slots that were ever handed out: the number of the first that was not. While the unit is no slab, [`WORN`] or 0.
    pub(crate) fresh: Cell<u32>,
    /// What `slab::bitmap` knows of the free list.
    pub(crate) free: [Cell<u64>; FREE_WORDS],
    /// Where states are kept, where the next look into the free list begins, or in hardened families what decides that; with a bitmap, how
    /// many free slots there were when pages were last looked for.
    pub(crate) hint: Cell<u32>,
    /// Whether the fresh part is known to read zero; in hardened families, whether nobody has ever had an address in it.
    pub(crate) zeroed: Flag,
    /// Whether the tiny classes' side table is initialised, or the bits of a bitmap are at the slab's end.
    pub(crate) side_ready: Flag,
    /// What the system has been told last of the unit's pages, also while it is no slab: see `region`.
    pub(crate) advice: Cell<u8>,
    /// How much of the unit is in dumps, as a step, also while it is no slab: see `region::dumps`. Where the system counts what is
    /// committed, how much of it is: see `region::charge`.
    pub(crate) extent: Cell<u8>,
    /// Where in the unit the first slot is, in pages.
    pub(crate) first: Cell<u8>,
    /// Whether the unit's side table may be read and written.
    pub(crate) side_open: Flag,
    /// Free slots that have parts on pages that were given back to the system: P1 in `slab::pages`.
    pub(crate) purged: Cell<u32>,
    /// The unit's memory, with the region's provenance; the same whenever the unit is a slab.
    pub(crate) memory: AtomicPtr<u8>,
    /// Neighbours in the list of its bin that the slab is in, if it is in one.
    pub(crate) previous: Cell<Option<&'static SlabHeader>>,
    pub(crate) next: Cell<Option<&'static SlabHeader>>,
}

/// In `fresh` of a dirty unit: the last slab in it was used to its end, so that all its pages may hold memory.
pub(crate) const WORN: u32 = u32::MAX;

/// What a family knows of one region. `clean`, `dirty` and the slabs' units are disjoint and together all units but those that hold side tables.
#[repr(C, align(64))]
pub(crate) struct RegionHeader {
    /// The region's first byte: the root of every pointer into it, its provenance exposed.
    pub(crate) memory: Cell<*mut u8>,
    /// Free units that read zero.
    pub(crate) clean: Cell<u64>,
    /// Free units that still hold memory.
    pub(crate) dirty: Cell<u64>,
    /// Units that may be read and written. Of unit 0 the headers may be from the first on.
    pub(crate) committed: Cell<u64>,
    /// When the first of the dirty units became free.
    pub(crate) dirty_since: Cell<u64>,
    pub(crate) next_with_room: Cell<Option<&'static RegionHeader>>,
    /// Units that are reserved, unit 0 included.
    pub(crate) unit_count: Cell<u16>,
    /// Whether all of unit 0 but the headers' pages was guarded, where the system can do that, and but for side tables still is.
    pub(crate) fenced: Flag,
    /// Whether a side table in it has been opened.
    pub(crate) opened: Flag,
    /// Units that a sanitizer has been told of: `UnitPool::take_untold`.
    pub(crate) told_count: Cell<u16>,
    /// The region of the same pool that was reserved before; settled when the pool knows this one.
    pub(crate) before: Cell<Option<&'static RegionHeader>>,
}

impl SlabHeader {
    /// The unit's memory, with the region's provenance.
    #[inline(always)]
    pub(crate) fn memory(&self) -> *mut u8 {
        // Relaxed: whoever has a slot of the slab, or its bin's lock, got it after the unit was taken; a look without either
        // comes after the fence in `Directory::slab`.
        self.memory.load(Relaxed)
    }
}

const _: () = assert!(size_of::<SlabHeader>() == HEADER_BYTES, "a header is 64 bytes");
const _: () = assert!(size_of::<RegionHeader>() == HEADER_BYTES, "a header is 64 bytes");
const _: () = assert!(HEADERS.end <= 1 << *UNIT_SHIFTS.start(), "unit 0 holds the headers, however small it is");
const _: () = assert!(
    HEADERS.start.is_power_of_two() && HEADERS.end - HEADERS.start == HEADERS.start * STATE_UNIT_COUNT / UNIT_COUNT,
    "headers fill what a table of states has no use for"
);

// SAFETY: H2: memory is atomic, every other field is only touched under one lock.
unsafe impl Sync for SlabHeader {}
// SAFETY: H2, as above: all of it belongs to the pool lock of one family.
unsafe impl Sync for RegionHeader {}

/// What the lookup of a tag needs, copied into every thread cache: the table's base and a mask for offsets into it.
#[derive(Clone, Copy)]
pub(crate) struct View {
    base: *const u8,
    mask: usize,
}

/// The one tag of a view before its table exists.
static NO_TAG: AtomicU32 = AtomicU32::new(0);

impl View {
    /// A view in which no address has a tag.
    pub(crate) const CLOSED: Self = Self { base: (&raw const NO_TAG).cast(), mask: 0 };

    #[inline(always)]
    fn entry(self, address: usize, unit_shift: u32) -> *const AtomicU32 {
        // The mask keeps the offset inside the table and clears the bits below a whole tag.
        self.base.wrapping_add((address >> (unit_shift - TAG_SHIFT)) & self.mask).cast()
    }

    /// The tag that belongs to any address: 0 where no slab is.
    #[inline(always)]
    pub(crate) fn tag(self, address: usize, unit_shift: u32) -> u32 {
        // SAFETY: `entry` is inside the table (or is the one closed tag), which is readable for ever (H1) and holds an
        // atomic at every multiple of 4.
        let tag = unsafe { &*self.entry(address, unit_shift) };
        // Relaxed: a slot that is legitimately freed reached this thread after its slab's tag was stored, by whatever
        // brought its address here; for any other address any answer will do. Where the table was never written it may only be
        // read, and on such memory no load but a relaxed one is allowed.
        tag.load(Relaxed)
    }
}

/// What the lookup of a header needs: where the stretch of H3 begins, and its length less one.
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    low: usize,
    mask: usize,
    unit_shift: u32,
}

impl Headers {
    /// The one address of the stretch that has the same tag (H3).
    fn resolve(self, address: usize) -> usize {
        self.low.wrapping_add(address.wrapping_sub(self.low) & self.mask)
    }

    /// The header with this number in the region that an address lies in.
    #[inline(always)]
    fn place<T>(self, region: usize, index: usize) -> *const T {
        // The region's provenance is exposed where the region is claimed.
        core::ptr::with_exposed_provenance(region + HEADERS.start + index * HEADER_BYTES)
    }

    /// The header of the unit that an address lies in, or of the one in the stretch that has the same tag.
    ///
    /// # Safety
    /// That unit is one of a claimed region, as it is where the tag was ever not 0.
    #[inline(always)]
    pub(crate) unsafe fn slab(self, address: usize) -> &'static SlabHeader {
        let address = self.resolve(address);
        let region = address & !((UNIT_COUNT << self.unit_shift) - 1);
        // SAFETY: a claimed region has its headers there, aligned to 64, initialised (zero is a valid header), never unmapped (H1).
        unsafe { &*self.place(region, (address >> self.unit_shift) % UNIT_COUNT) }
    }

    /// The header of the region that an address lies in.
    ///
    /// # Safety
    /// A claimed region is there.
    unsafe fn region(self, address: usize) -> &'static RegionHeader {
        let region = self.resolve(address) & !((UNIT_COUNT << self.unit_shift) - 1);
        // SAFETY: as in `slab`; header 0 is the region's.
        unsafe { &*self.place(region, 0) }
    }
}

/// The tags of all regions with one unit size, and where these regions may lie.
pub(crate) struct Directory {
    unit_shift: u32,
    base: AtomicPtr<u8>,
    mask: AtomicUsize,
    /// Where the stretch of H3 begins.
    low: AtomicUsize,
    telling: Telling,
    /// The address of the region that was claimed last, 0 before there is one; only changed under the lock.
    last: AtomicUsize,
    /// Held while the table is opened or a region claimed; the last lock in the order.
    claims: Lock<()>,
}

static DIRECTORIES: [Directory; 6] = [
    Directory::new(16),
    Directory::new(17),
    Directory::new(18),
    Directory::new(19),
    Directory::new(20),
    Directory::new(21),
];

const _: () = assert!(*UNIT_SHIFTS.start() == 16 && *UNIT_SHIFTS.end() == 21, "one directory per unit size");

impl Directory {
    const fn new(unit_shift: u32) -> Self {
        Self {
            unit_shift,
            base: AtomicPtr::new(core::ptr::null_mut()),
            mask: AtomicUsize::new(0),
            low: AtomicUsize::new(0),
            telling: Telling::new(unit_shift),
            last: AtomicUsize::new(0),
            claims: Lock::new(()),
        }
    }

    /// The directory of units of `1 << unit_shift` bytes.
    pub(crate) fn of(unit_shift: u32) -> &'static Self {
        &DIRECTORIES[(unit_shift - UNIT_SHIFTS.start()) as usize]
    }

    pub(crate) fn view(&self) -> View {
        // Acquire: pairs with the Release in `open`, so that the mask belongs to this base.
        let base = self.base.load(Acquire);
        if base.is_null() { View::CLOSED } else { View { base, mask: self.mask.load(Relaxed) } }
    }

    pub(crate) fn headers(&self) -> Headers {
        // Relaxed: both are as they are from before the first region on. Whoever has a slot's address, or has seen a tag
        // (the fence in `slab`), sees what was there before.
        Headers { low: self.low.load(Relaxed), mask: self.stretch_mask(), unit_shift: self.unit_shift }
    }

    /// The length of the stretch less one.
    fn stretch_mask(&self) -> usize {
        // Relaxed: as in `headers`.
        let tags = self.mask.load(Relaxed) / TAG_BYTES + 1;
        tags.checked_mul(1 << self.unit_shift).unwrap_or(0).wrapping_sub(1)
    }

    /// The tag that belongs to any address.
    pub(crate) fn tag(&self, address: usize) -> u32 {
        self.view().tag(address, self.unit_shift)
    }

    /// Changes the tag of a unit: to that of its bin when it becomes a slab, to 0 before it is none any more.
    ///
    /// # Safety
    /// The address lies in a claimed region's unit that is the caller's.
    pub(crate) unsafe fn set_tag(&self, address: usize, tag: u32) {
        // SAFETY: inside the table, as in `View::tag`; the region's tags were made writable when it was claimed.
        let entry = unsafe { &*self.view().entry(address, self.unit_shift) };
        // Release: pairs with the fence in `slab`, and with whatever hands a slot's address on.
        entry.store(tag, Release);
    }

    /// The header that belongs to an address, if a slab of a class is there now.
    pub(crate) fn slab(&self, address: usize) -> Option<&'static SlabHeader> {
        if self.tag(address) == 0 {
            return None;
        }
        // Acquire: pairs with the Release in `set_tag`, so that the slab's memory is known.
        fence(Acquire);
        // SAFETY: only units of claimed regions get tags (H2).
        Some(unsafe { self.headers().slab(address) })
    }

    /// The header of a unit in a claimed region.
    ///
    /// # Safety
    /// The address lies in such a unit.
    pub(crate) unsafe fn header(&self, address: usize) -> &'static SlabHeader {
        // SAFETY: the same contract.
        unsafe { self.headers().slab(address) }
    }

    /// The header of the claimed region that an address lies in.
    ///
    /// # Safety
    /// There is one.
    pub(crate) unsafe fn region(&self, address: usize) -> &'static RegionHeader {
        // SAFETY: the same contract.
        unsafe { self.headers().region(address) }
    }

    /// Reserves the first units of a region, so many or more, and claims its tags and its headers.
    pub(crate) fn reserve_region(&self, unit_count: usize) -> Option<&'static RegionHeader> {
        self.open()?;
        let _claims = self.claims.lock();
        let last = self.last.load(Relaxed);
        let (memory, bytes) = self.reserve_space(last, unit_count << self.unit_shift)?;
        let memory = self.in_stretch(last, memory, bytes)?;
        let Some(region) = self.claim(memory) else {
            // SAFETY: reserved above with this length and not used.
            _ = unsafe { os::release(memory, bytes) };
            return None;
        };
        region.unit_count.set((bytes >> self.unit_shift) as u16);
        self.note_region(memory.addr().get(), UNIT_COUNT << self.unit_shift);
        Some(region)
    }

    /// Reserves the first `bytes` of a region, where there is room for all of it if that can be had; all of it where the system takes
    /// nothing back.
    fn reserve_space(&self, last: usize, bytes: usize) -> Option<(NonNull<u8>, usize)> {
        let region_bytes = UNIT_COUNT << self.unit_shift;
        let place = |bytes| {
            // Below the last one nothing has to be tried and cut off, which a limit on address space may not allow.
            let below = last.checked_sub(region_bytes).and_then(|below| os::reserve_at(below, bytes));
            below.or_else(|| os::reserve(bytes, region_bytes))
        };
        if os::EXTENDS && bytes < region_bytes {
            if let Some(whole) = place(region_bytes) {
                // SAFETY: inside the reservation.
                let rest = unsafe { whole.add(bytes) };
                // SAFETY: the end of what was reserved just now, used by nobody.
                let released = unsafe { os::release(rest, region_bytes - bytes) };
                return Some((whole, if released { bytes } else { region_bytes }));
            }
        }
        place(bytes).map(|memory| (memory, bytes))
    }

    /// The same space if it lies in the stretch, else other space that does. The first region decides where the stretch is.
    fn in_stretch(&self, last: usize, memory: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
        let (address, length) = (memory.addr().get(), self.stretch_mask());
        if last == 0 {
            let below = length - length / STRETCH_ABOVE_SHARE;
            // Relaxed: published by the first tag.
            self.low.store(address.wrapping_sub(below & !((UNIT_COUNT << self.unit_shift) - 1)), Relaxed);
        }
        if self.tells_apart(address) {
            return Some(memory);
        }
        // SAFETY: reserved by the caller with this length and not used.
        unsafe { os::release(memory, bytes) };
        let step = (length / STRETCH_TRIES) & !((UNIT_COUNT << self.unit_shift) - 1);
        (1..STRETCH_TRIES).find_map(|place| os::reserve_at(self.headers().low.wrapping_add(place * step), bytes))
    }

    fn claim(&self, memory: NonNull<u8>) -> Option<&'static RegionHeader> {
        debug_assert!(self.tells_apart(memory.addr().get()), "regions lie in the stretch (H3)");
        let address = memory.as_ptr().expose_provenance();
        let first = self.view().entry(address, self.unit_shift).addr() - self.view().base.addr();
        let writable = os::page_bytes().max(WRITABLE_BYTES);
        let tags = self.view().base.wrapping_add(first & !(writable - 1)).cast_mut();
        // SAFETY: a part of the table, which is whole such parts long, reserved and never released (H1).
        if !NonNull::new(tags).is_some_and(|tags| unsafe { os::make_writable(tags, writable) }) {
            return None;
        }
        let pages = header_pages(self.unit_shift);
        // SAFETY: inside unit 0.
        let headers = unsafe { memory.add(pages.start) };
        // SAFETY: in the reservation, not committed yet.
        if !unsafe { os::commit(headers, pages.len()) } {
            return None;
        }
        // SAFETY: the region's headers are there from now on.
        let region = unsafe { self.region(address) };
        region.memory.set(memory.as_ptr());
        Some(region)
    }

    /// Reserves the table, once, and before anyone keeps a [`View`]. Under a limit on address space it takes a small part of that,
    /// and the stretch is shorter, but many times the limit still.
    pub(crate) fn open(&self) -> Option<()> {
        let _claims = self.claims.lock();
        if !self.base.load(Relaxed).is_null() {
            return Some(());
        }
        let tags = 1_usize.checked_shl(STRETCH_BITS - self.unit_shift).unwrap_or(usize::MAX / TAG_BYTES);
        let most = (tags * TAG_BYTES).clamp(TABLE_BYTES_MIN, TABLE_BYTES_MAX);
        let share = os::address_space_limit().map_or(most, |limit| limit / LIMIT_SHARE).max(1);
        let bytes = (1 << share.ilog2()).clamp(TABLE_BYTES_MIN, most);
        let less = |&bytes: &usize| (bytes > TABLE_BYTES_MIN).then(|| (bytes / 4).max(TABLE_BYTES_MIN));
        let (table, bytes) =
            core::iter::successors(Some(bytes), less).find_map(|bytes| Some((os::reserve_readable(bytes)?, bytes)))?;
        self.mask.store(bytes - TAG_BYTES, Relaxed);
        self.telling.set_table(table.as_ptr());
        // Release: publishes the mask to `view`.
        self.base.store(table.as_ptr(), Release);
        Some(())
    }
}
