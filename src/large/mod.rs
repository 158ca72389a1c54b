//! Allocations above the largest slot, and a few that are growing there: mapped singly, nothing attached to them.
//!
//! The length of each is kept in a table of the family's, two words per allocation, so that a free with a wrong length, a
//! pointer into the middle and a second free are found. Freed mappings are [`kept`] for a while:
//!
//! ```text
//!   map ──► live ──► kept, whole or in parts ──► live …        grown: into what is kept behind it, else by remapping
//!                     └─────► released
//! ```
//!
//! **L1** The table holds exactly the live allocations; no two overlap each other or what is kept. **L2** From
//! [`HUGE_FROM_BYTES`] on, all of a live allocation is advised to use huge pages. **L3** What is live and kept together is, where
//! parts of mappings can be released, at most what was live at once since nothing was kept, and [`SPARE_BYTES`].

mod kept;
mod table;

use core::alloc::Layout;
use core::ptr::NonNull;

use kept::{KeptSet, Piece};
use table::{Entry, Table};

use crate::marks::Generation;
use crate::os;

/// Space that is kept beyond what has been live.
const SPARE_BYTES: usize = 4 << 20;
/// Where the kernel has no guards, a fenced allocation costs two mappings more, of which a process may have 65 530: so many at most.
const FENCED_COUNT: usize = 1000;
/// Mappings from here on are aligned to, and advised to use, huge pages. Only whole ones are used, so nothing behind the
/// mapping is wasted; a mapping that is touched sparsely holds up to 2 MiB where it would hold a page.
const HUGE_FROM_BYTES: usize = 2 << 20;

/// Allocations that may stand here though a slot would hold them: so few that what huge pages and fragments of mappings waste on
/// them is bounded.
const GROWN_COUNT: usize = 16;
/// From here on an allocation that grows out of its slot comes here: what it grows into next costs no copying.
pub(crate) const GROWN_FROM_BYTES: usize = 32 << 10;

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
    table: Table,
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    /// The most that `bytes` has been since nothing was kept.
    peak_bytes: usize,
    kept: KeptSet,
    /// The largest slot of the family, and how many allocations here are not longer.
    slot_bytes_max: usize,
    grown_count: usize,
}

/// The mapping's length for a layout: whole pages. `None` if that is more than any object may have.
pub(crate) fn mapped_bytes(layout: Layout) -> Option<usize> {
    os::round_to_pages(layout.size().max(layout.align()))
}

impl LargeSet {
    /// With `guarded` a page that may not be touched lies before and behind each allocation, and freed ones are not used again.
    pub(crate) const fn new(guarded: bool, slot_bytes_max: usize) -> Self {
        let kept = KeptSet::new(guarded);
        Self { table: Table::new(), count: 0, bytes: 0, peak_bytes: 0, kept, slot_bytes_max, grown_count: 0 }
    }

    /// Bytes of what is kept and holds memory.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.memory_bytes()
    }

    /// Allocates; with `want_zero` only memory that reads zero is returned.
    pub(crate) fn allocate(&mut self, layout: Layout, want_zero: bool, now: u64) -> Option<Large> {
        let bytes = mapped_bytes(layout)?;
        self.make_room().or_else(|| self.release_spare().then(|| self.make_room())?)?;
        let memory = match if want_zero { None } else { self.reuse(bytes, layout.align()) } {
            Some(memory) => memory,
            None => self.map(bytes, layout.align(), now)?,
        };
        Some(self.admit(memory, bytes))
    }

    /// Allocates what has grown out of a slot and would still fit into one, where there is room to grow on. `None`: a slot serves as well.
    pub(crate) fn allocate_grown(&mut self, bytes: usize, now: u64) -> Option<Large> {
        if !os::TAKES_PARTS || self.kept.guarded || self.grown_count >= GROWN_COUNT {
            return None;
        }
        self.make_room()?;
        let memory = match self.kept.take(bytes, os::page_bytes(), true) {
            Some(piece) => pointer(piece.start),
            None => {
                let roomy = os::map(HUGE_FROM_BYTES, os::HUGE_PAGE_BYTES)?;
                let start = roomy.as_ptr().expose_provenance();
                let rest = Piece::freed(start + bytes, HUGE_FROM_BYTES - bytes, now);
                if self.kept.keep(rest) {
                    self.peak_bytes = self.bytes;
                }
                roomy
            }
        };
        Some(self.admit(memory, bytes))
    }

    fn admit(&mut self, memory: NonNull<u8>, bytes: usize) -> Large {
        self.table.insert(Entry { address: memory.as_ptr().expose_provenance(), length: bytes });
        self.count += 1;
        self.grown_count += usize::from(bytes <= self.slot_bytes_max);
        self.count_bytes(0, bytes);
        Large { memory, bytes }
    }

    /// Frees; on a mismatch nothing has changed.
    ///
    /// # Safety
    /// If `memory` is a live allocation of this length, nobody uses it any more.
    pub(crate) unsafe fn deallocate(&mut self, memory: NonNull<u8>, bytes: usize, now: u64) -> Result<(), Mismatch> {
        let place = self.verify(memory, bytes)?;
        self.table.remove(place);
        self.count -= 1;
        self.grown_count -= usize::from(bytes <= self.slot_bytes_max);
        let live_bytes = self.bytes;
        self.bytes -= bytes;
        if self.kept.keep(Piece::freed(memory.addr().get(), bytes, now)) {
            self.peak_bytes = live_bytes;
        }
        self.forget_peak();
        Ok(())
    }

    /// Changes the length in place or by moving pages. `Ok(None)`: not possible, nothing has changed. With `want_zero` what is new reads
    /// zero.
    ///
    /// # Safety
    /// If `memory` is a live allocation of `old_bytes` and the call returns another address, the old one is not used any more.
    pub(crate) unsafe fn resize(
        &mut self,
        memory: NonNull<u8>,
        old_bytes: usize,
        bytes: usize,
        align: usize,
        want_zero: bool,
    ) -> Result<Option<Large>, Mismatch> {
        let place = self.verify(memory, old_bytes)?;
        let in_place = os::is_aligned(memory, align);
        let may_move = align <= os::page_bytes();
        if bytes == old_bytes {
            if !in_place {
                return Ok(None);
            }
            // A mark behind the old size is no longer one.
            self.table.set(place, Entry { length: bytes, ..self.table.entry(place) });
            return Ok(Some(Large { memory: own(memory), bytes }));
        }
        if self.kept.guarded || !(in_place || may_move) || bytes > isize::MAX as usize {
            return Ok(None);
        }
        let longer =
            if bytes > old_bytes && !want_zero { self.lengthen(memory, old_bytes, bytes, may_move) } else { None };
        let resized = longer.or_else(|| {
            // SAFETY: L1: a live allocation is the family's own, and the caller gives the old range up.
            unsafe { os::remap(own(memory), old_bytes, bytes, may_move) }
        });
        let Some(memory) = resized else { return Ok(None) };
        self.table.remove(place);
        // There is a free place: one was just made.
        self.table.insert(Entry { address: memory.as_ptr().expose_provenance(), length: bytes });
        self.count_bytes(old_bytes, bytes);
        self.grown_count -= usize::from(old_bytes <= self.slot_bytes_max);
        self.grown_count += usize::from(bytes <= self.slot_bytes_max);
        if bytes >= HUGE_FROM_BYTES && old_bytes < HUGE_FROM_BYTES {
            // SAFETY: live memory of this set's.
            unsafe { os::advise_huge(memory, bytes) };
        }
        Ok(Some(Large { memory, bytes }))
    }

    /// Gives a live allocation what is kept behind it: enough, or all of it and more from the system.
    fn lengthen(&mut self, memory: NonNull<u8>, old_bytes: usize, bytes: usize, may_move: bool) -> Option<NonNull<u8>> {
        let end = memory.addr().get() + old_bytes;
        if let Some(more) = self.kept.take_behind(end, bytes - old_bytes) {
            if bytes >= HUGE_FROM_BYTES && !more.is_huge {
                // SAFETY: part of the allocation from now on.
                unsafe { os::advise_huge(pointer(more.start), more.bytes) };
            }
            return Some(own(memory));
        }
        let behind = Some(self.kept.bytes_behind(end)).filter(|&behind| behind > 0)?;
        // SAFETY: L1: the allocation and what is kept behind it, which belongs to nobody. Where these are two mappings the system
        // refuses.
        let moved = unsafe { os::remap(own(memory), old_bytes + behind, bytes, may_move) }?;
        self.kept.take_behind(end, behind);
        Some(moved)
    }

    /// Counts an allocation of `old_bytes` as one of `bytes`, and holds L3.
    fn count_bytes(&mut self, old_bytes: usize, bytes: usize) {
        self.bytes = self.bytes - old_bytes + bytes;
        self.peak_bytes = self.peak_bytes.max(self.bytes);
        self.forget_peak();
        if os::TAKES_PARTS && !self.kept.guarded {
            self.kept.release_beyond(self.peak_bytes - self.bytes + SPARE_BYTES);
            self.forget_peak();
        }
    }

    /// Where nothing is kept the peak begins anew.
    fn forget_peak(&mut self) {
        if self.kept.bytes == 0 {
            self.peak_bytes = self.bytes;
        }
    }

    /// Releases what has been kept for long, or all of it; returns the bytes of what held memory. What the system refuses to take stays kept.
    pub(crate) fn release_kept(&mut self, now: Option<u64>) -> usize {
        let before = self.kept_bytes();
        match now {
            Some(now) => self.kept.release_aged(now),
            None => self.kept.release_all(),
        }
        self.forget_peak();
        before - self.kept_bytes()
    }

    /// Releases all that is kept; `false`: there was nothing.
    pub(crate) fn release_spare(&mut self) -> bool {
        let was_kept = self.kept.bytes > 0;
        self.release_kept(None);
        was_kept
    }

    /// Memory from what is kept.
    fn reuse(&mut self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        if self.kept.guarded {
            return None;
        }
        let aligned = placement(bytes, align);
        let may_move = align <= os::page_bytes();
        let taken = self.kept.take(bytes, aligned, false).or_else(|| self.kept.extend(bytes, aligned, may_move))?;
        let memory = pointer(taken.start);
        if bytes >= HUGE_FROM_BYTES && !taken.is_huge {
            // SAFETY: taken just now.
            unsafe { os::advise_huge(memory, bytes) };
        }
        Some(memory)
    }

    fn map(&mut self, bytes: usize, align: usize, now: u64) -> Option<NonNull<u8>> {
        let align = placement(bytes, align);
        let memory = self.map_with_margins(bytes, align).or_else(|| {
            // What is kept may be what is missing.
            self.release_kept(None);
            self.map_with_margins(bytes, align)
        })?;
        self.release_kept(Some(now));
        if bytes >= HUGE_FROM_BYTES {
            // SAFETY: mapped just now.
            unsafe { os::advise_huge(memory, bytes) };
        }
        Some(memory)
    }

    fn map_with_margins(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let margin = self.kept.margin();
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

    /// Where a live allocation of this length stands in the table.
    pub(crate) fn verify(&self, memory: NonNull<u8>, bytes: usize) -> Result<usize, Mismatch> {
        let place = self.table.find(memory.addr().get()).ok_or(Mismatch::Unknown)?;
        match self.table.entry(place).bytes() {
            live if live == bytes => Ok(place),
            live => Err(Mismatch::Length(live)),
        }
    }

    /// Notes that a mark stands behind what the client asked for in a live allocation.
    pub(crate) fn mark(&mut self, memory: NonNull<u8>, generation: Generation) {
        if let Some(place) = self.table.find(memory.addr().get()) {
            self.table.set(place, self.table.entry(place).marked(generation));
        }
    }

    /// The generation of the mark of a live allocation of this length, if it has one.
    pub(crate) fn mark_of(&self, memory: NonNull<u8>, bytes: usize) -> Option<Generation> {
        self.verify(memory, bytes).ok().and_then(|place| self.table.entry(place).mark())
    }

    /// The length of the live allocation that contains an address, and where it begins; for reports.
    pub(crate) fn containing(&self, address: usize) -> Option<(usize, usize)> {
        self.table
            .entries()
            .find(|entry| (entry.address..entry.address + entry.bytes()).contains(&address))
            .map(|entry| (entry.address, entry.bytes()))
    }

    /// Makes sure that one more entry fits.
    fn make_room(&mut self) -> Option<()> {
        let Some(old) = self.table.make_room(self.count)? else { return Some(()) };
        let mut old = Piece { is_huge: false, ..Piece::freed(old.0, old.1, 0) };
        // A table has no margins, and what is kept has: there, what the system refuses to take is lost, but no memory.
        if !old.discard(0) && self.kept.margin() == 0 {
            self.kept.put(old);
        }
        Some(())
    }
}

/// What a mapping is aligned to: whole huge pages where they are used.
fn placement(bytes: usize, align: usize) -> usize {
    align.max(os::page_bytes()).max(if bytes >= HUGE_FROM_BYTES { os::HUGE_PAGE_BYTES } else { 1 })
}

/// The memory at an address that a mapping of the family's holds; its provenance was exposed when it was mapped.
fn pointer(address: usize) -> NonNull<u8> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

/// The mapping that begins where a client's pointer points: the client's own may be good for its layout only.
fn own(memory: NonNull<u8>) -> NonNull<u8> {
    pointer(memory.as_ptr().expose_provenance())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_finds_all_of_many_and_none_that_is_gone() {
        let mut set = LargeSet::new(false, 0);
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
        let kept = set.kept_bytes();
        assert!((16 * 8192..=2000 * 8192).contains(&kept), "{kept} bytes are kept");
        assert_eq!((set.release_kept(None), set.kept_bytes()), (kept, 0));
    }

    #[test]
    fn only_new_mappings_serve_who_wants_zero() {
        let mut set = LargeSet::new(false, 0);
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

    fn large(set: &mut LargeSet, bytes: usize) -> Large {
        set.allocate(Layout::from_size_align(bytes, 1).unwrap(), false, 0).unwrap()
    }

    fn free(set: &mut LargeSet, large: Large) {
        // SAFETY: the tests free what is live and not used.
        unsafe { set.deallocate(large.memory, large.bytes, 0) }.unwrap();
    }

    #[test]
    #[cfg_attr(any(miri, feature = "portable"), ignore = "this backend takes whole mappings only")]
    fn parts_of_what_is_kept_serve_and_are_joined_again() {
        const MIB: usize = 1 << 20;
        let mut set = LargeSet::new(false, 0);
        let whole = large(&mut set, 16 * MIB);
        free(&mut set, whole);
        let parts = [4, 2, 6].map(|count| large(&mut set, count * MIB));
        let offsets = parts.map(|part| part.memory.addr().get() - whole.memory.addr().get());
        assert_eq!(offsets, [0, 4 * MIB, 6 * MIB]);
        assert_eq!((set.bytes, set.kept_bytes()), (12 * MIB, 4 * MIB));
        for index in [0, 2, 1] {
            free(&mut set, parts[index]);
        }
        assert_eq!((set.bytes, set.kept_bytes()), (0, 16 * MIB));
        let again = large(&mut set, 16 * MIB);
        assert_eq!(again.memory, whole.memory, "three parts and the rest are one piece again");
        free(&mut set, again);
        assert_eq!(set.release_kept(None), 16 * MIB);
    }

    #[test]
    #[cfg_attr(any(miri, feature = "portable"), ignore = "this backend takes whole mappings only")]
    fn growth_takes_what_is_kept_behind() {
        const MIB: usize = 1 << 20;
        let mut set = LargeSet::new(false, 0);
        let whole = large(&mut set, 16 * MIB);
        free(&mut set, whole);
        let head = large(&mut set, 2 * MIB);
        let grow = |set: &mut LargeSet, old: Large, bytes: usize, want_zero: bool| {
            // SAFETY: live and not used at its old place.
            unsafe { set.resize(old.memory, old.bytes, bytes, 1, want_zero) }.unwrap().unwrap()
        };
        let longer = grow(&mut set, head, 8 * MIB, false);
        assert_eq!((longer.memory, set.kept_bytes()), (whole.memory, 8 * MIB), "no page was asked for");
        // SAFETY: eight mapped MiB.
        unsafe { longer.memory.write_bytes(1, longer.bytes) };
        // What is kept is not zero: this has to come from the system.
        let zeroed = grow(&mut set, longer, 12 * MIB, true);
        // SAFETY: twelve mapped MiB that nobody else uses.
        let contents = unsafe { core::slice::from_raw_parts(zeroed.memory.as_ptr(), zeroed.bytes) };
        assert!(contents[..8 * MIB].iter().all(|&byte| byte == 1));
        assert!(contents[8 * MIB..].iter().all(|&byte| byte == 0));
        // More than is kept behind it, wherever that is now.
        let longest = grow(&mut set, zeroed, 40 * MIB, false);
        // SAFETY: the first eight MiB are what they were.
        let contents = unsafe { core::slice::from_raw_parts(longest.memory.as_ptr(), 8 * MIB) };
        assert!(contents.iter().all(|&byte| byte == 1));
        assert_eq!((set.count, set.bytes), (1, 40 * MIB));
        free(&mut set, longest);
        set.release_kept(None);
        assert_eq!((set.bytes, set.kept_bytes()), (0, 0));
    }

    #[test]
    #[cfg_attr(any(miri, feature = "portable"), ignore = "this backend takes whole mappings only")]
    fn what_is_kept_is_never_more_than_was_live() {
        const MIB: usize = 1 << 20;
        let mut set = LargeSet::new(false, 0);
        // Zeroed memory is always new, and ever longer allocations fit into nothing that is kept.
        for count in 1..60 {
            let layout = Layout::from_size_align(count * MIB, 1).unwrap();
            let zeroed = set.allocate(layout, true, 0).unwrap();
            free(&mut set, zeroed);
            let large = large(&mut set, count * MIB + 4096);
            free(&mut set, large);
            assert!(set.kept_bytes() <= count * MIB + 4096 + SPARE_BYTES, "{} bytes", set.kept_bytes());
        }
        set.release_kept(None);
    }
}
