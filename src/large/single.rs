//! Allocations that are mapped singly: where each begins and how long it is, and what was freed of them.

use core::ptr::NonNull;

use super::kept::{KeptSet, Piece};
use super::runs::Wish;
use super::space::{EMPTY_BYTES, empty};
use super::table::{Entry, Table};
use super::{Larges, Mismatch, own, pointer};
use crate::marks::Generation;
use crate::os;

/// Where the kernel has no guards, a fenced allocation costs two mappings more, of which a process may have 65 530: so many at most.
const FENCED_COUNT: usize = 1000;
/// Mappings from here on are aligned to huge pages, so that they can have some once they have grown.
const HUGE_FROM_BYTES: usize = 2 << 20;
/// So many freed addresses are remembered, so that a second free is told as such.
const FREED_COUNT: usize = 32;

pub(super) struct Singles {
    table: Table,
    pub(super) kept: KeptSet,
    /// Those in the table, and those on their way into it.
    pub(super) count: usize,
    freed: [usize; FREED_COUNT],
    freed_next: usize,
}

impl Singles {
    pub(super) const fn new(guarded: bool) -> Self {
        let kept = KeptSet::new(guarded);
        Self { table: Table::new(), kept, count: 0, freed: [0; FREED_COUNT], freed_next: 0 }
    }

    /// Bytes of the live allocation that begins here.
    pub(super) fn live_bytes(&self, address: usize) -> Option<usize> {
        self.table.find(address).map(|place| self.table.entry(place).bytes())
    }

    /// Any of the live ones, and its bytes.
    pub(super) fn any(&self) -> Option<(usize, usize)> {
        self.table.entries().next().map(|entry| (entry.address, entry.bytes()))
    }

    /// Whether one that began here was among the last to be freed.
    pub(super) fn was_freed(&self, address: usize) -> bool {
        address != 0 && self.freed.contains(&address)
    }

    /// Adds one that is counted already.
    fn insert(&mut self, address: usize, bytes: usize) {
        self.table.insert(Entry { address, length: bytes });
        self.freed.iter_mut().filter(|freed| **freed == address).for_each(|freed| *freed = 0);
    }

    /// Takes one out that goes on being counted.
    fn take_out(&mut self, address: usize) {
        if let Some(place) = self.table.find(address) {
            self.table.remove(place);
        }
    }

    /// Takes one out that is freed.
    pub(super) fn forget(&mut self, address: usize) {
        self.take_out(address);
        self.count -= 1;
        self.freed[self.freed_next] = address;
        self.freed_next = (self.freed_next + 1) % FREED_COUNT;
    }

    fn change(&mut self, address: usize, change: impl FnOnce(Entry) -> Entry) {
        if let Some(place) = self.table.find(address) {
            self.table.set(place, change(self.table.entry(place)));
        }
    }

    pub(super) fn mark(&mut self, address: usize, generation: Generation) {
        self.change(address, |entry| entry.marked(generation));
    }

    pub(super) fn unmark(&mut self, address: usize) {
        self.change(address, |entry| Entry { length: entry.bytes(), ..entry });
    }

    pub(super) fn mark_of(&self, address: usize) -> Option<Generation> {
        self.table.find(address).and_then(|place| self.table.entry(place).mark())
    }

    pub(super) fn containing(&self, address: usize) -> Option<(usize, usize)> {
        let holds = |entry: &Entry| (entry.address..entry.address + entry.bytes()).contains(&address);
        self.table.entries().find(holds).map(|entry| (entry.address, entry.bytes()))
    }
}

impl Larges {
    /// Bytes before and behind each mapping that belong to it.
    pub(super) fn margin(&self) -> usize {
        if self.is_guarded && os::HAS_GUARDS { os::page_bytes() } else { 0 }
    }

    /// Memory of its own for an allocation: out of what is kept, unless it has to be zero, else from the system.
    pub(super) fn allocate_single(&self, wish: &Wish, now: u64) -> Option<NonNull<u8>> {
        self.count_one()?;
        let kept = if wish.want_zero { None } else { self.reuse(wish) };
        let memory = kept.or_else(|| self.map(wish));
        if let Some(memory) = memory {
            self.note_place(memory.addr().get(), wish.bytes);
        }
        let mut set = self.set.lock();
        let Some(memory) = memory else {
            set.singles.count -= 1;
            return None;
        };
        set.singles.insert(memory.as_ptr().expose_provenance(), wish.bytes);
        set.admit(wish.bytes);
        drop(set);
        // SAFETY: mapped for this allocation alone.
        unsafe { os::add_root(memory, wish.bytes) };
        self.give_back_due(now);
        Some(memory)
    }

    /// Counts one more that will stand in the table, which has room for it then.
    fn count_one(&self) -> Option<()> {
        loop {
            let mut set = self.set.lock();
            let count = set.singles.count;
            let Some(bytes) = set.singles.table.outgrown(count) else {
                set.singles.count += 1;
                return Some(());
            };
            drop(set);
            let map = || os::map(bytes, os::page_bytes());
            let places = map().or_else(|| if self.release_spare() { map() } else { None })?;
            let mut set = self.set.lock();
            let is_outgrown = set.singles.table.outgrown(set.singles.count) == Some(bytes);
            let old = if is_outgrown {
                set.singles.table.move_to(places, bytes)
            } else {
                Some((places.as_ptr().expose_provenance(), bytes))
            };
            drop(set);
            if let Some((start, bytes)) = old {
                self.discard_or_keep(start, bytes);
            }
        }
    }

    /// Gives a mapping back that was no allocation; if the system refuses it, it is kept as one, where pieces have no margins:
    /// elsewhere its space is lost, but no memory.
    pub(super) fn discard_or_keep(&self, start: usize, bytes: usize) {
        let mut piece = Piece::freed(start, bytes, 0);
        if !discard(&mut piece, 0) && self.margin() == 0 {
            self.set.lock().singles.kept.put(piece);
        }
    }

    fn reuse(&self, wish: &Wish) -> Option<NonNull<u8>> {
        if self.is_guarded {
            return None;
        }
        let align = placement(wish);
        let mut set = self.set.lock();
        if let Some(start) = set.singles.kept.take(wish.bytes, align) {
            drop(set);
            return self.recommit_kept(start, wish.bytes);
        }
        let piece = set.singles.kept.take_to_extend(wish.bytes, align)?;
        drop(set);
        let may_move = wish.align <= os::page_bytes();
        // SAFETY: K1, and the piece is gone from the set. Where it is several mappings the system refuses.
        let extended = unsafe { os::remap(pointer(piece.start), piece.bytes, wish.bytes, may_move) };
        match extended {
            Some(memory) => self.recommit_kept(memory.as_ptr().expose_provenance(), wish.bytes),
            None => {
                self.set.lock().singles.kept.put(piece);
                None
            }
        }
    }

    /// Makes what was kept usable: its memory may have gone back, and not its space. `None`: the system refuses, and it is kept.
    #[inline(always)]
    fn recommit_kept(&self, start: usize, bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: K1: a mapping of this length, and gone from the set.
        if unsafe { os::recommit(pointer(start), bytes) } {
            return Some(pointer(start));
        }
        self.discard_or_keep(start, bytes);
        None
    }

    fn map(&self, wish: &Wish) -> Option<NonNull<u8>> {
        let map = || self.map_with_margins(wish.bytes, placement(wish));
        // What is free may be what is missing.
        let memory = map().or_else(|| if self.release_spare() { map() } else { None })?;
        if !self.may_be_huge {
            // Also where the system uses them for whoever does not object.
            // SAFETY: mapped just now.
            unsafe { os::advise_small(memory, wish.bytes) };
        }
        Some(memory)
    }

    fn map_with_margins(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let margin = self.margin();
        if margin == 0 {
            let memory = os::map(bytes, align)?;
            // SAFETY: mapped just now.
            unsafe { os::name(memory, bytes, self.name) };
            return Some(memory);
        }
        let memory = os::map_between(bytes, align, margin)?;
        // SAFETY: the margin before the memory.
        let before = unsafe { memory.sub(margin) };
        // SAFETY: mapped just now, with its margins.
        unsafe { os::name(before, bytes + 2 * margin, self.name) };
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
        if !guarded && self.set.lock().singles.count <= FENCED_COUNT {
            // SAFETY: as above. Should that fail as well, the page is only a distance.
            unsafe { os::forbid(page, os::page_bytes()) };
        }
    }

    /// Keeps what is live no more; where that cannot be, it goes back to the system.
    pub(super) fn keep(&self, start: usize, bytes: usize, now: u64) {
        let mut freed = Piece::freed(start, bytes, now);
        // A guarded one waits, without memory and not to be touched, instead of being used again.
        // SAFETY: K1 holds for it from now on.
        let guarded = self.is_guarded && unsafe { os::guard(pointer(start), bytes) };
        freed.holds_memory &= !guarded;
        if guarded != self.is_guarded {
            return self.discard_piece(freed);
        }
        let mut leaving = [None; 17];
        let mut set = self.set.lock();
        set.begin_free(bytes);
        let mut places = leaving.iter_mut();
        set.singles.kept.keep(freed, |piece| {
            if let Some(place) = places.next() {
                *place = Some(piece);
            }
        });
        drop(set);
        leaving.into_iter().flatten().for_each(|piece| self.discard_piece(piece));
        self.give_back_due(now);
    }

    /// Gives a piece back; if the system refuses to take it, it is kept, and where there is no place for it another goes instead.
    fn discard_piece(&self, mut piece: Piece) {
        for _ in 0..2 {
            if discard(&mut piece, self.margin()) {
                return;
            }
            let kept = &mut self.set.lock().singles.kept;
            if kept.put(piece) {
                return;
            }
            let Some(other) = kept.take_oldest(u64::MAX, usize::MAX) else { return };
            kept.put(core::mem::replace(&mut piece, other));
        }
    }

    /// # Safety
    /// As for [`resize`](Self::resize); the allocation was a single mapping.
    pub(super) unsafe fn resize_single(
        &self,
        memory: NonNull<u8>,
        old_bytes: usize,
        bytes: usize,
        may_move: bool,
        want_zero: bool,
    ) -> Result<Option<NonNull<u8>>, Mismatch> {
        let address = memory.addr().get();
        let mut set = self.set.lock();
        // Once more: what somebody has freed meanwhile, by mistake, is not taken for live.
        set.verify(address, old_bytes)?;
        let more = bytes.saturating_sub(old_bytes);
        let behind =
            if want_zero || more == 0 { None } else { set.singles.kept.take_behind(address + old_bytes, more) };
        if behind.is_some_and(|behind| behind.bytes == more) {
            set.singles.change(address, |entry| Entry { length: bytes, ..entry });
            set.count_change(old_bytes, bytes);
            drop(set);
            self.note_place(address, bytes);
            // SAFETY: told when it was entered.
            unsafe { os::remove_root(own(memory), old_bytes) };
            // SAFETY: the same mapping, longer by what was kept behind it.
            unsafe { os::add_root(own(memory), bytes) };
            // SAFETY: part of the allocation from now on.
            unsafe { self.advise_single(own(memory), bytes) };
            return Ok(Some(own(memory)));
        }
        // It is in nobody's hands but the caller's meanwhile: its address may be somebody else's before the call returns.
        set.singles.take_out(address);
        drop(set);
        // SAFETY: told when it was entered; it will be entered again.
        unsafe { os::remove_root(own(memory), old_bytes) };
        let remap = |from: usize| {
            // SAFETY: L1: a live allocation is the family's own, with what is kept behind it, if anything; the caller gives the
            // old range up. Where these are two mappings the system refuses.
            unsafe { os::remap(own(memory), from, bytes, may_move) }
        };
        let with_behind = behind.and_then(|behind| remap(old_bytes + behind.bytes));
        let remapped = with_behind.or_else(|| remap(old_bytes));
        if let Some(now) = remapped {
            self.note_place(now.addr().get(), bytes);
        }
        let mut set = self.set.lock();
        if let Some(behind) = behind.filter(|_| with_behind.is_none()) {
            set.singles.kept.put(behind);
        }
        let (now, length) = remapped.map_or((address, old_bytes), |now| (now.as_ptr().expose_provenance(), bytes));
        set.singles.insert(now, length);
        set.count_change(old_bytes, length);
        drop(set);
        // SAFETY: the mapping as it is now.
        unsafe { os::add_root(pointer(now), length) };
        if let Some(now) = remapped.filter(|_| bytes > old_bytes) {
            // SAFETY: live, and given to nobody else.
            unsafe { self.advise_single(now, bytes) };
        }
        Ok(remapped)
    }
}

/// Gives a piece back with its margins; `false`: its space stays, but no memory if that can be helped.
pub(super) fn discard(piece: &mut Piece, margin: usize) -> bool {
    // What is long goes part by part, so that nobody waits for all of it.
    if piece.holds_memory && piece.bytes > EMPTY_BYTES {
        empty(piece.start, piece.bytes);
    }
    // SAFETY: K1: mappings, or parts of some where parts may go, that nobody uses.
    if unsafe { os::release(pointer(piece.start - margin), piece.bytes + 2 * margin) } {
        return true;
    }
    // SAFETY: as above.
    piece.holds_memory &= !unsafe { os::purge(pointer(piece.start), piece.bytes) };
    false
}

/// What a mapping is aligned to: whole huge pages where it may have some.
fn placement(wish: &Wish) -> usize {
    wish.align.max(if wish.bytes >= HUGE_FROM_BYTES { os::HUGE_PAGE_BYTES } else { 1 })
}
