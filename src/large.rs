//! Allocations above the largest slot: mapped singly, grown by remapping, nothing attached to them.
//!
//! The length of each is kept in a table of the family's, two words per allocation, so that a free with a wrong length, a
//! pointer into the middle and a second free are found. The last few freed mappings are kept for a while:
//!
//! ```text
//!   map ──► live ──► kept ──► live …          kept for PURGE_AFTER_MILLISECONDS at most, KEPT_COUNT of them, KEPT_BYTES in all
//!                     └─────► released
//! ```
//!
//! **L1** The table holds exactly the live allocations. **L2** A kept mapping belongs to nobody; its contents are not zero.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::os;
use crate::region::PURGE_AFTER_MILLISECONDS;

const KEPT_COUNT: usize = 16;
const KEPT_BYTES: usize = 256 << 20;
/// Where the kernel has no guards, a fenced allocation costs two mappings more, of which a process may have 65 530: so many at most.
const FENCED_COUNT: usize = 1000;
/// Mappings from here on are aligned to, and advised to use, huge pages. Only whole ones are used, so nothing behind the
/// mapping is wasted; a mapping that is touched sparsely holds up to 2 MiB where it would hold a page.
const HUGE_FROM_BYTES: usize = 2 << 20;

#[derive(Clone, Copy)]
struct Entry {
    address: usize,
    /// Bytes, whole pages; [`MARKED`] is added where a mark stands behind what the client asked for.
    length: usize,
}

const MARKED: usize = 1;

impl Entry {
    fn bytes(self) -> usize {
        self.length & !MARKED
    }
}

/// A freed mapping that waits for the next allocation of its length.
struct Kept {
    memory: NonNull<u8>,
    bytes: usize,
    since: u64,
    /// Whether any of it may be present: a guarded one and one that the system has emptied but not taken are space only.
    holds_memory: bool,
}

/// A large allocation on its way to the client.
#[derive(Clone, Copy)]
pub(crate) struct Large {
    pub(crate) memory: NonNull<u8>,
    pub(crate) bytes: usize,
}

/// Why a free or a resize of a large allocation was refused: misuse by the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mismatch {
    /// No live large allocation of the family begins here.
    Unknown,
    /// One begins here, but it has this many bytes.
    Length(usize),
}

/// All large allocations of one family, under one lock.
pub(crate) struct LargeSet {
    /// Open addressing with linear probing; `address` 0 is an empty place. Kept at most three quarters full.
    table: Option<NonNull<Entry>>,
    capacity: usize,
    /// Whether a page that may not be touched lies before and behind each allocation, and freed ones are not used again.
    guarded: bool,
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    kept: [Option<Kept>; KEPT_COUNT],
    /// Bytes of address space.
    kept_bytes: usize,
}

// SAFETY: the table and the kept mappings belong to this set alone.
unsafe impl Send for LargeSet {}

/// The mapping's length for a layout: whole pages. `None` if that is more than any object may have.
pub(crate) fn mapped_bytes(layout: Layout) -> Option<usize> {
    os::round_to_pages(layout.size().max(layout.align()))
}

impl LargeSet {
    pub(crate) const fn new() -> Self {
        Self {
            table: None,
            capacity: 0,
            guarded: false,
            count: 0,
            bytes: 0,
            kept: [const { None }; KEPT_COUNT],
            kept_bytes: 0,
        }
    }

    pub(crate) const fn with_guards(self, guarded: bool) -> Self {
        Self { guarded, ..self }
    }

    /// Bytes before and behind each allocation that belong to its mapping.
    fn margin(&self) -> usize {
        if self.guarded && os::HAS_GUARDS { os::page_bytes() } else { 0 }
    }

    /// Allocates; with `want_zero` only memory that reads zero is returned.
    pub(crate) fn allocate(&mut self, layout: Layout, want_zero: bool, now: u64) -> Option<Large> {
        let bytes = mapped_bytes(layout)?;
        self.make_room()?;
        let reused = if want_zero || self.guarded { None } else { self.take_kept(bytes, layout.align()) };
        let large = match reused {
            Some(memory) => Large { memory, bytes },
            None => self.map(bytes, layout.align(), now)?,
        };
        self.insert(Entry { address: large.memory.as_ptr().expose_provenance(), length: bytes });
        self.count += 1;
        self.bytes += bytes;
        Some(large)
    }

    /// Frees; on a mismatch nothing has changed.
    ///
    /// # Safety
    /// If `memory` is a live allocation of this length, nobody uses it any more.
    pub(crate) unsafe fn deallocate(&mut self, memory: NonNull<u8>, bytes: usize, now: u64) -> Result<(), Mismatch> {
        let place = self.verify(memory, bytes)?;
        self.remove(place);
        self.count -= 1;
        self.bytes -= bytes;
        self.keep(Kept { memory: own(memory), bytes, since: now, holds_memory: true });
        Ok(())
    }

    /// Changes the length in place or by moving pages. `Ok(None)`: not possible, nothing has changed.
    ///
    /// # Safety
    /// If `memory` is a live allocation of `old_bytes` and the call returns another address, the old one is not used any more.
    pub(crate) unsafe fn resize(
        &mut self,
        memory: NonNull<u8>,
        old_bytes: usize,
        new_layout: Layout,
    ) -> Result<Option<Large>, Mismatch> {
        let place = self.verify(memory, old_bytes)?;
        let Some(bytes) = mapped_bytes(new_layout) else { return Ok(None) };
        let in_place = os::is_aligned(memory, new_layout.align());
        if bytes == old_bytes {
            // A mark behind the old size is no longer one.
            self.set(place, Entry { length: bytes, ..self.entry(place) });
            return Ok(in_place.then_some(Large { memory: own(memory), bytes }));
        }
        if self.guarded || (!in_place && new_layout.align() > os::page_bytes()) {
            return Ok(None);
        }
        let may_move = new_layout.align() <= os::page_bytes();
        // SAFETY: a live allocation is a whole mapping (L1), and the caller gives the old range up.
        let Some(moved) = (unsafe { os::remap(own(memory), old_bytes, bytes, may_move) }) else { return Ok(None) };
        self.remove(place);
        // There is a free place: one was just made.
        self.insert(Entry { address: moved.as_ptr().expose_provenance(), length: bytes });
        self.bytes = self.bytes - old_bytes + bytes;
        Ok(Some(Large { memory: moved, bytes }))
    }

    /// Bytes of the kept mappings that hold memory.
    pub(crate) fn kept_memory_bytes(&self) -> usize {
        self.kept.iter().flatten().filter(|kept| kept.holds_memory).map(|kept| kept.bytes).sum()
    }

    /// Releases the kept mappings that have waited for `PURGE_AFTER_MILLISECONDS`, or all of them; returns the bytes of those that
    /// held memory. What the system refuses to take stays kept.
    pub(crate) fn release_kept(&mut self, now: Option<u64>) -> usize {
        let (before, margin) = (self.kept_memory_bytes(), self.margin());
        for place in &mut self.kept {
            let aged =
                |kept: &mut Kept| now.is_none_or(|now| now.saturating_sub(kept.since) >= PURGE_AFTER_MILLISECONDS);
            if let Some(kept) = place.take_if(|kept| aged(kept) && discard(kept, margin)) {
                self.kept_bytes -= kept.bytes;
            }
        }
        before - self.kept_memory_bytes()
    }

    fn map(&mut self, bytes: usize, align: usize, now: u64) -> Option<Large> {
        let huge = bytes >= HUGE_FROM_BYTES;
        let align = align.max(os::page_bytes()).max(if huge { os::HUGE_PAGE_BYTES } else { 1 });
        let memory = self.map_with_margins(bytes, align).or_else(|| {
            // What is kept may be what is missing.
            self.release_kept(None);
            self.map_with_margins(bytes, align)
        })?;
        self.release_kept(Some(now));
        if huge {
            // SAFETY: mapped just now.
            unsafe { os::advise_huge(memory, bytes) };
        }
        Some(Large { memory, bytes })
    }

    fn map_with_margins(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let margin = self.margin();
        if margin == 0 {
            return os::map(bytes, align);
        }
        let memory = os::map_between(bytes, align, margin)?;
        // SAFETY: the margin before the memory.
        let before = unsafe { memory.sub(margin) };
        // SAFETY: the margin behind the memory.
        let behind = unsafe { memory.add(bytes) };
        self.fence(before);
        self.fence(behind);
        Some(memory)
    }

    /// Makes the page of a margin one that may not be touched.
    fn fence(&self, page: NonNull<u8>) {
        // SAFETY: a page of a mapping of this set's that nobody uses.
        let guarded = unsafe { os::guard(page, os::page_bytes()) };
        if !guarded && self.count < FENCED_COUNT {
            // SAFETY: as above. Should that fail as well, the page is only a distance.
            unsafe { os::forbid(page, os::page_bytes()) };
        }
    }

    /// The least kept mapping that is long enough and wastes at most a quarter, cut to length.
    fn take_kept(&mut self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let fits = |kept: &Kept| {
            kept.bytes >= bytes && kept.bytes - bytes <= kept.bytes / 4 && os::is_aligned(kept.memory, align)
        };
        let best = self
            .kept
            .iter_mut()
            .filter(|place| place.as_ref().is_some_and(fits))
            .min_by_key(|place| place.as_ref().map_or(usize::MAX, |kept| kept.bytes))?;
        let kept = best.take_if(|kept| kept.bytes == bytes || cut(kept, bytes))?;
        self.kept_bytes -= kept.bytes;
        Some(kept.memory)
    }

    fn keep(&mut self, mut freed: Kept) {
        self.release_kept(Some(freed.since));
        let has_room = freed.bytes <= KEPT_BYTES && self.make_room_to_keep(freed.bytes);
        // A guarded one waits, without memory and not to be touched, instead of being used again.
        // SAFETY: it belongs to nobody any more.
        let guarded = self.guarded && has_room && unsafe { os::guard(freed.memory, freed.bytes) };
        freed.holds_memory = !guarded;
        let waits = has_room && guarded == self.guarded;
        if !waits && discard(&mut freed, self.margin()) {
            return;
        }
        self.put_by(freed);
    }

    /// Keeps a mapping, if there is a place. There is none only if the system refused to take another one and then this one:
    /// the space is lost then, and no memory.
    fn put_by(&mut self, kept: Kept) {
        if let Some(place) = self.kept.iter_mut().find(|place| place.is_none()) {
            self.kept_bytes += kept.bytes;
            *place = Some(kept);
        }
    }

    /// Releases the oldest kept mappings until another one may be kept; `false` if the system refuses to take one.
    fn make_room_to_keep(&mut self, bytes: usize) -> bool {
        let margin = self.margin();
        while self.kept_bytes + bytes > KEPT_BYTES || self.kept.iter().all(Option::is_some) {
            let since = |place: &&mut Option<Kept>| place.as_ref().map_or(u64::MAX, |kept| kept.since);
            let oldest = self.kept.iter_mut().filter(|place| place.is_some()).min_by_key(since);
            match oldest.and_then(|place| place.take_if(|kept| discard(kept, margin))) {
                Some(oldest) => self.kept_bytes -= oldest.bytes,
                None => return false,
            }
        }
        true
    }

    /// Where a live allocation of this length stands in the table.
    pub(crate) fn verify(&self, memory: NonNull<u8>, bytes: usize) -> Result<usize, Mismatch> {
        let place = self.find(memory.addr().get()).ok_or(Mismatch::Unknown)?;
        match self.entry(place).bytes() {
            live if live == bytes => Ok(place),
            live => Err(Mismatch::Length(live)),
        }
    }

    /// Notes that a mark stands behind what the client asked for in a live allocation.
    pub(crate) fn mark(&mut self, memory: NonNull<u8>) {
        if let Some(place) = self.find(memory.addr().get()) {
            let entry = self.entry(place);
            self.set(place, Entry { length: entry.length | MARKED, ..entry });
        }
    }

    /// Whether a live allocation of this length has a mark.
    pub(crate) fn is_marked(&self, memory: NonNull<u8>, bytes: usize) -> bool {
        self.verify(memory, bytes).is_ok_and(|place| self.entry(place).length & MARKED != 0)
    }

    /// The length of the live allocation that contains an address, and where it begins; for reports.
    pub(crate) fn containing(&self, address: usize) -> Option<(usize, usize)> {
        (0..self.capacity)
            .map(|place| self.entry(place))
            .find(|entry| entry.address != 0 && (entry.address..entry.address + entry.bytes()).contains(&address))
            .map(|entry| (entry.address, entry.bytes()))
    }

    fn entry(&self, place: usize) -> Entry {
        debug_assert!(place < self.capacity);
        let table = self.table.unwrap_or(NonNull::dangling());
        // SAFETY: `place < capacity`, so the entry lies in the table.
        let entry = unsafe { table.add(place) };
        // SAFETY: all places of the table are initialised: zero from the system, or written by `set`.
        unsafe { entry.read() }
    }

    fn set(&mut self, place: usize, entry: Entry) {
        debug_assert!(place < self.capacity);
        let table = self.table.unwrap_or(NonNull::dangling());
        // SAFETY: `place < capacity`, so the entry lies in the table.
        let slot = unsafe { table.add(place) };
        // SAFETY: the table belongs to this set, borrowed exclusively.
        unsafe { slot.write(entry) };
    }

    fn home(&self, address: usize) -> usize {
        // Fibonacci hashing of the page number (Knuth, TAOCP 6.4).
        let hash = ((address >> 12) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        hash as usize & (self.capacity - 1)
    }

    fn find(&self, address: usize) -> Option<usize> {
        if self.capacity == 0 {
            return None;
        }
        let mut place = self.home(address);
        loop {
            match self.entry(place).address {
                0 => return None,
                found if found == address => return Some(place),
                _ => place = (place + 1) & (self.capacity - 1),
            }
        }
    }

    fn insert(&mut self, entry: Entry) {
        let mut place = self.home(entry.address);
        while self.entry(place).address != 0 {
            place = (place + 1) & (self.capacity - 1);
        }
        self.set(place, entry);
    }

    /// Empties a place and moves later entries of its cluster up, so that probing never meets a hole (Knuth, TAOCP 6.4, R).
    fn remove(&mut self, mut hole: usize) {
        let mask = self.capacity - 1;
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.entry(place);
            if entry.address == 0 {
                break;
            }
            let home = self.home(entry.address);
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(hole) & mask {
                self.set(hole, entry);
                hole = place;
            }
        }
        self.set(hole, Entry { address: 0, length: 0 });
    }

    /// Makes sure that one more entry fits.
    fn make_room(&mut self) -> Option<()> {
        if (self.count + 1) * 4 <= self.capacity * 3 {
            return Some(());
        }
        let capacity = if self.capacity == 0 { os::page_bytes() / size_of::<Entry>() } else { self.capacity * 2 };
        let table = os::map(capacity * size_of::<Entry>(), os::page_bytes())?.cast::<Entry>();
        let old = Self { table: self.table, capacity: self.capacity, ..Self::new() };
        (self.table, self.capacity) = (Some(table), capacity);
        for entry in (0..old.capacity).map(|place| old.entry(place)).filter(|entry| entry.address != 0) {
            self.insert(entry);
        }
        if let Some(table) = old.table {
            let bytes = old.capacity * size_of::<Entry>();
            let mut old = Kept { memory: table.cast(), bytes, since: 0, holds_memory: true };
            // A table has no margins, and what is kept has: there, what the system refuses to take is lost, but no memory.
            if !discard(&mut old, 0) && self.margin() == 0 {
                self.put_by(old);
            }
        }
        Some(())
    }
}

/// The mapping that begins where a client's pointer points: the client's own may be good for its layout only.
fn own(memory: NonNull<u8>) -> NonNull<u8> {
    let pointer = core::ptr::with_exposed_provenance_mut(memory.as_ptr().expose_provenance());
    NonNull::new(pointer).unwrap_or(memory)
}

/// Gives the end of a kept mapping back; `false`: it is as it was.
fn cut(kept: &Kept, bytes: usize) -> bool {
    // SAFETY: a whole mapping that belongs to nobody (L2), and it stays where it is.
    unsafe { os::remap(kept.memory, kept.bytes, bytes, false) }.is_some()
}

/// Gives back a mapping that belongs to nobody (L2), with its margins; `false`: its space stays, but no memory if that can be
/// helped.
fn discard(kept: &mut Kept, margin: usize) -> bool {
    // SAFETY: the mapping begins with its margin.
    let start = unsafe { kept.memory.sub(margin) };
    // SAFETY: a whole mapping that is not used any more.
    if unsafe { os::release(start, kept.bytes + 2 * margin) } {
        return true;
    }
    // SAFETY: as above.
    kept.holds_memory &= !unsafe { os::purge(kept.memory, kept.bytes) };
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_finds_all_of_many_and_none_that_is_gone() {
        let mut set = LargeSet::new();
        let layout = Layout::from_size_align(5000, 1).unwrap();
        let mut live: Vec<Large> = (0..2000).map(|_| set.allocate(layout, false, 0).unwrap()).collect();
        assert_eq!((set.count, set.bytes), (2000, 2000 * 8192));
        for round in 0..3 {
            let gone: Vec<Large> = live.iter().skip(round).step_by(3).copied().collect();
            live.retain(|large| !gone.iter().any(|gone| gone.memory == large.memory));
            for large in gone {
                // SAFETY: allocated above and not used.
                unsafe { set.deallocate(large.memory, large.bytes, 0) }.unwrap();
                // SAFETY: nothing is given up: the call must refuse.
                assert_eq!(unsafe { set.deallocate(large.memory, large.bytes, 0) }, Err(Mismatch::Unknown));
            }
            for large in &live {
                // SAFETY: nothing is given up: the length is wrong.
                assert_eq!(unsafe { set.deallocate(large.memory, 4096, 0) }, Err(Mismatch::Length(8192)));
            }
        }
        for large in live {
            // SAFETY: allocated above and not used.
            unsafe { set.deallocate(large.memory, large.bytes, 0) }.unwrap();
        }
        assert_eq!((set.count, set.bytes), (0, 0));
        assert_eq!(set.kept_bytes, 16 * 8192);
        assert_eq!(set.release_kept(None), 16 * 8192);
    }

    #[test]
    fn only_new_mappings_serve_who_wants_zero() {
        let mut set = LargeSet::new();
        let layout = Layout::from_size_align(3 << 20, 1).unwrap();
        let first = set.allocate(layout, false, 0).unwrap();
        // SAFETY: three mapped MiB.
        unsafe { first.memory.write_bytes(1, first.bytes) };
        // SAFETY: not used any more.
        unsafe { set.deallocate(first.memory, first.bytes, 0) }.unwrap();
        let zero = set.allocate(layout, true, 0).unwrap();
        assert!(zero.memory != first.memory);
        let again = set.allocate(layout, false, 0).unwrap();
        assert!(again.memory == first.memory);
    }
}
