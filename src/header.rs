//! Header pages, and how an address finds its header.
//!
//! A region of 64 units has one page of 64 headers of 64 bytes: header 0 is the region's, header `i` that of the slab in unit
//! `i`. The pages of all regions with the same unit size stand in one reserved table, a [`Directory`], at the place that the
//! address gives, so any address at all, a wild one too, can be looked up without touching what it points to:
//!
//! ```text
//!           address   …region number… | unit, 6 bits | offset in the unit
//!                     └──────── shifted down, masked: × 64 bytes ────────┘──► header (reads zero where there is none)
//! ```
//!
//! **H1** Header pages are never unmapped, so a header is `'static`. **H2** Only `tag` and `memory` are shared without a lock; the
//! tag is 0 unless the unit is a slab of a class. A slab's other fields belong to the lock of its bin, a region's to its
//! family's pool lock.
//! **H3** No two live regions share a header page, also where a short address space made the table small.

use core::ptr::NonNull;

use crate::os;
use crate::sync::{Acquire, AtomicPtr, AtomicU32, AtomicUsize, Cell, Lock, Relaxed, Release};
use crate::trunk::{SLOTS_MAX, Trunks};

/// Units of a region; unit 0 (with states, the first eight) holds side tables, the others are slabs.
pub(crate) const UNIT_COUNT: usize = 64;
/// Units at a region's start that hold the states of its slots, where the family keeps them.
pub(crate) const STATE_UNIT_COUNT: usize = UNIT_COUNT / 8;
const HEADER_BYTES: usize = 64;
const HEADER_SHIFT: u32 = HEADER_BYTES.trailing_zeros();

/// The smallest and the largest unit: 64 KiB and 2 MiB.
pub(crate) const UNIT_SHIFTS: core::ops::RangeInclusive<u32> = 16..=21;

/// Address bits that user space has: what lies above is looked up as if these were all.
const ADDRESS_BITS: u32 = if usize::BITS == 64 { 47 } else { usize::BITS };
const TABLE_BYTES_MAX: usize = if usize::BITS == 64 { 1 << (ADDRESS_BITS - 21 + HEADER_SHIFT) } else { 1 << 22 };
const TABLE_BYTES_MIN: usize = 64 << 10;
/// How many times more address space a table covers than a limited process may have.
const TABLE_MARGIN: usize = 64;

/// A yes or no that is one whatever somebody writes over it: not every byte is a `bool`.
pub(crate) struct Flag(Cell<u8>);

impl Flag {
    pub(crate) fn get(&self) -> bool {
        self.0.get() != 0
    }

    pub(crate) fn set(&self, is: bool) {
        self.0.set(u8::from(is));
    }
}

/// What a bin knows of one slab.
#[repr(C, align(64))]
pub(crate) struct SlabHeader {
    /// Family and class of the slab's slots; 0 while the unit belongs to no class.
    pub(crate) tag: AtomicU32,
    /// Slots that are out: live, in a thread's cache or in the depot.
    pub(crate) used: Cell<u32>,
    /// Offset of the first slot never handed out, in bytes.
    pub(crate) fresh: Cell<u32>,
    /// The free list, where it is trunks.
    pub(crate) trunks: Trunks,
    /// Where the next look into another free list begins; where it is trunks, how many slots it had when pages were last looked for.
    pub(crate) hint: Cell<u32>,
    /// What decides where it begins in hardened families.
    pub(crate) random: Cell<u32>,
    /// Whether the fresh part is known to read zero; in hardened families, whether nobody has ever had an address in it.
    pub(crate) zeroed: Flag,
    /// Whether the tiny classes' side table is initialised.
    pub(crate) side_ready: Flag,
    /// Pages of free slots that were given back to the system: P1 in `slab::pages`.
    pub(crate) purged: Cell<u16>,
    /// The unit's memory, with the region's provenance; the same whenever the unit is a slab.
    pub(crate) memory: AtomicPtr<u8>,
    /// Neighbours in the list of its bin that the slab is in, if it is in one.
    pub(crate) previous: Cell<Option<&'static SlabHeader>>,
    pub(crate) next: Cell<Option<&'static SlabHeader>>,
}

/// What a family knows of one region. `clean`, `dirty` and the slabs' units are disjoint and together all units but those that hold side tables.
#[repr(C, align(64))]
pub(crate) struct RegionHeader {
    /// Always 0: unit 0 holds no slots.
    _tag: AtomicU32,
    /// Units that are reserved, unit 0 included; fewer than 64 where address space was short.
    pub(crate) unit_count: Cell<u16>,
    /// Whether unit 0 was committed for no other purpose than to be one mapping with its neighbours.
    pub(crate) bridged: Flag,
    /// The region's first byte: the root of every pointer into it, its provenance exposed.
    pub(crate) memory: Cell<*mut u8>,
    /// Free units that read zero.
    pub(crate) clean: Cell<u64>,
    /// Free units that still hold memory.
    pub(crate) dirty: Cell<u64>,
    /// Units that may be read and written.
    pub(crate) committed: Cell<u64>,
    /// When the first of the dirty units became free.
    pub(crate) dirty_since: Cell<u64>,
    pub(crate) next: Cell<Option<&'static RegionHeader>>,
    pub(crate) next_with_room: Cell<Option<&'static RegionHeader>>,
}

impl SlabHeader {
    /// The unit's memory, with the region's provenance.
    #[inline(always)]
    pub(crate) fn memory(&self) -> *mut u8 {
        // Relaxed: whoever has a slot of the slab, or its bin's lock, got it after the unit was taken; a look without either
        // comes after the tag's Acquire, in `Directory::slab`.
        self.memory.load(Relaxed)
    }
}

const _: () = assert!(size_of::<SlabHeader>() == HEADER_BYTES, "a header is 64 bytes");
const _: () = assert!(size_of::<RegionHeader>() == HEADER_BYTES, "a header is 64 bytes");
const _: () = assert!(SLOTS_MAX == (1 << *UNIT_SHIFTS.end()) / 4, "a trunk's entry can name every slot");
const _: () = assert!(core::mem::offset_of!(SlabHeader, tag) == 0, "the tag is what a lookup reads");

// SAFETY: H2: tag and memory are atomic, every other field is only touched under one lock.
unsafe impl Sync for SlabHeader {}
// SAFETY: H2, as above: all of it belongs to the pool lock of one family.
unsafe impl Sync for RegionHeader {}

/// What a lookup needs, copied into every thread cache: the table's base and a mask for offsets into it.
#[derive(Clone, Copy)]
pub(crate) struct View {
    base: *const u8,
    mask: usize,
}

/// 64 zero bytes: the one header of a view before its table exists.
#[repr(align(64))]
struct NoHeader(#[allow(dead_code, reason = "only its address is used")] [u8; HEADER_BYTES]);

static NO_HEADER: NoHeader = NoHeader([0; HEADER_BYTES]);

impl View {
    /// A view in which no address has a header.
    pub(crate) const CLOSED: Self = Self { base: (&raw const NO_HEADER).cast(), mask: 0 };

    #[inline(always)]
    fn entry(self, address: usize, unit_shift: u32) -> *const u8 {
        // The mask keeps the offset inside the table and clears the bits below a whole header.
        self.base.wrapping_add((address >> (unit_shift - HEADER_SHIFT)) & self.mask)
    }

    /// The tag that belongs to any address: 0 where no slab is.
    #[inline(always)]
    pub(crate) fn tag(self, address: usize, unit_shift: u32) -> u32 {
        let tag = self.entry(address, unit_shift).cast::<AtomicU32>();
        // SAFETY: `entry` is inside the table (or is the one closed header), which is readable for ever (H1) and holds an
        // atomic at every multiple of 64.
        let tag = unsafe { &*tag };
        // Relaxed: a slot that is legitimately freed reached this thread after its slab's tag was stored, by whatever
        // brought its address here; for any other address any answer will do.
        tag.load(Relaxed)
    }
}

impl View {
    /// The header of a unit in a claimed region.
    #[inline(always)]
    pub(crate) fn header(self, address: usize, unit_shift: u32) -> &'static SlabHeader {
        let entry = self.entry(address, unit_shift).cast::<SlabHeader>();
        // SAFETY: inside the table, aligned to 64, initialised (zero is a valid header), never unmapped (H1).
        unsafe { &*entry }
    }
}

/// The header pages of all regions with one unit size.
pub(crate) struct Directory {
    unit_shift: u32,
    base: AtomicPtr<u8>,
    mask: AtomicUsize,
    /// Held while a region is reserved and its header page claimed; the last lock in the order.
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
            claims: Lock::new(()),
        }
    }

    /// The directory of units of `1 << unit_shift` bytes.
    pub(crate) fn of(unit_shift: u32) -> &'static Self {
        &DIRECTORIES[(unit_shift - UNIT_SHIFTS.start()) as usize]
    }

    /// The locks of all directories, for the time of a `fork`.
    pub(crate) fn locks() -> impl Iterator<Item = &'static Lock<()>> {
        DIRECTORIES.iter().map(|directory| &directory.claims)
    }

    pub(crate) fn view(&self) -> View {
        // Acquire: pairs with the Release in `open`, so that the mask belongs to this base.
        let base = self.base.load(Acquire);
        if base.is_null() { View::CLOSED } else { View { base, mask: self.mask.load(Relaxed) } }
    }

    /// Whether no two addresses that the system gives out share an entry: then a tag is never that of another place.
    pub(crate) fn tells_all_apart(&self) -> bool {
        // Elsewhere a process of 64 bits may have addresses above `ADDRESS_BITS`.
        const KNOWN: bool = cfg!(target_arch = "x86_64") || usize::BITS < 64;
        KNOWN && self.unit_shift == *UNIT_SHIFTS.end() && self.mask.load(Relaxed) == TABLE_BYTES_MAX - HEADER_BYTES
    }

    /// The header that belongs to an address, if a slab of a class is there now.
    pub(crate) fn slab(&self, address: usize) -> Option<&'static SlabHeader> {
        let header = self.header(address);
        // Acquire: pairs with the Release in `Geometry::open`, so that the slab's memory is known. The page of an address without a
        // slab may be read-only: only a header with a tag is given out.
        (header.tag.load(Acquire) != 0).then_some(header)
    }

    /// The header of a unit in a claimed region.
    pub(crate) fn header(&self, address: usize) -> &'static SlabHeader {
        self.view().header(address, self.unit_shift)
    }

    /// The header of the claimed region that an address lies in.
    pub(crate) fn region(&self, address: usize) -> &'static RegionHeader {
        let first = address & !((UNIT_COUNT << self.unit_shift) - 1);
        let entry = self.view().entry(first, self.unit_shift).cast::<RegionHeader>();
        // SAFETY: as in `header`; header 0 of a claimed region's page is a region header.
        unsafe { &*entry }
    }

    /// Reserves a region, all of it or as many of its first units as fit, at least `least_units`, and claims its header page.
    pub(crate) fn reserve_region(&self, least_units: usize) -> Option<&'static RegionHeader> {
        self.open()?;
        let _claims = self.claims.lock();
        let region_bytes = UNIT_COUNT << self.unit_shift;
        let mut unit_count = UNIT_COUNT;
        while unit_count >= least_units {
            if let Some(region) = self.claim_distinct(unit_count << self.unit_shift, region_bytes) {
                region.unit_count.set(unit_count as u16);
                return Some(region);
            }
            unit_count /= 2;
        }
        None
    }

    /// Reserves `bytes` at an address whose header page is free; with a full-size table and the largest units the first always is (H3).
    fn claim_distinct(&self, bytes: usize, align: usize) -> Option<&'static RegionHeader> {
        let mut taken: [Option<NonNull<u8>>; 8] = [None; 8];
        let mut found = None;
        for taken in &mut taken {
            let Some(memory) = os::reserve(bytes, align) else { break };
            found = self.claim(memory);
            if found.is_some() {
                break;
            }
            // Held until the search is over, so that the next reservation lies elsewhere.
            *taken = Some(memory);
        }
        for memory in taken.into_iter().flatten() {
            // SAFETY: reserved above with this length and not used.
            unsafe { os::release(memory, bytes) };
        }
        found
    }

    fn claim(&self, memory: NonNull<u8>) -> Option<&'static RegionHeader> {
        let address = memory.as_ptr().expose_provenance();
        let view = self.view();
        let page = os::page_bytes().max(UNIT_COUNT * HEADER_BYTES);
        let entry = view.entry(address, self.unit_shift).cast_mut();
        let start = entry.map_addr(|entry| entry & !(page - 1));
        // SAFETY: a page of the table, which is reserved and never released (H1).
        let writable = NonNull::new(start).is_some_and(|start| unsafe { os::make_writable(start, page) });
        if !writable {
            return None;
        }
        let region = self.region(address);
        if !region.memory.get().is_null() {
            return None;
        }
        region.memory.set(memory.as_ptr());
        Some(region)
    }

    /// Reserves the table, once, and before anyone keeps a [`View`]. A process with limited address space gets one that covers a multiple of its limit; two
    /// addresses that far apart then share a header, and no region is placed where its page is taken (H3).
    pub(crate) fn open(&self) -> Option<()> {
        let _claims = self.claims.lock();
        if !self.base.load(Relaxed).is_null() {
            return Some(());
        }
        let bytes = match os::address_space_limit() {
            None => TABLE_BYTES_MAX,
            Some(limit) => ((limit >> self.unit_shift) * HEADER_BYTES * TABLE_MARGIN)
                .checked_next_power_of_two()
                .unwrap_or(TABLE_BYTES_MAX)
                .clamp(TABLE_BYTES_MIN, TABLE_BYTES_MAX),
        };
        let less = |&bytes: &usize| (bytes > TABLE_BYTES_MIN).then(|| (bytes / 4).max(TABLE_BYTES_MIN));
        let (table, bytes) =
            core::iter::successors(Some(bytes), less).find_map(|bytes| Some((os::reserve_readable(bytes)?, bytes)))?;
        self.mask.store(bytes - HEADER_BYTES, Relaxed);
        // Release: publishes the mask to `view`.
        self.base.store(table.as_ptr(), Release);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_can_be_looked_up() {
        let directory = Directory::of(21);
        let region = directory.reserve_region(2).unwrap();
        let base = region.memory.get().addr();
        assert_eq!(base % (UNIT_COUNT << 21), 0);
        assert!(core::ptr::eq(directory.region(base + (5 << 21) + 17), region));
        let wild =
            [0, 1, 4096, usize::MAX, usize::MAX / 2, 1 << 62, base, base + (1 << 21), (&raw const region).addr()];
        for address in wild {
            assert!(directory.slab(address).is_none(), "{address:#x}");
            assert_eq!(View::CLOSED.tag(address, 21), 0);
        }
        directory.header(base + (5 << 21)).tag.store(77, Relaxed);
        assert_eq!(directory.view().tag(base + (5 << 21) + 12345, 21), 77);
        assert_eq!(directory.view().tag(base + (6 << 21), 21), 0);
        directory.header(base + (5 << 21)).tag.store(0, Relaxed);
    }
}
