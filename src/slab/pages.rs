//! Giving back the pages of a slab's free slots, while others of its slots are used.
//!
//! A *piece* is a page, or a slot where slots are longer: what can go back to the system alone. Whoever gives back claims free
//! slots under the bin's lock, as a cache would take them, works on them without it, and settles under it again:
//!
//! ```text
//!   claim                         without the lock                                        settle
//!   the whole list, O(1)     ──►  a bitmap of it; pieces that are wholly free go back;  ──►  list and bits of what went back
//!   bits of wholly free pieces    the other slots become a list in order                     (what others gave meanwhile is joined)
//! ```
//!
//! What is claimed counts as used, so others go on taking from the slab and giving to it, and it cannot leave its bin.
//!
//! The bits of purged pieces of all units of a region stand in one place, which is touched only if something is purged: at the
//! end of unit 0, behind the last side table of the tiny classes; where states are kept, where the bits of the units would be that hold them.
//!
//! **P1** A piece is *purged*, its bit set, from when the system took its memory until one of its slots is handed out. All its
//! slots are free meanwhile and read zero unless somebody writes to free memory; where free lists are trunks they are in no list. The header's
//! `purged` is the number of bits. **P2** Only the holder of the bin's lock touches bits, and only while a piece of the slab is purged or becomes it:
//! all are 0 while the unit is no slab. **P3** What is claimed is nobody else's until it is settled.

use core::ops::Range;
use core::ptr::NonNull;

use super::pieces::{PAGE_SHIFT_MIN, Pieces, WORDS_MAX, give_whole, take_whole};
use super::{Geometry, slab_memory};
use crate::fault::{FaultKind, Truth};
use crate::header::{SlabHeader, UNIT_COUNT, UNIT_SHIFTS};
use crate::os;
use crate::states::LEAST_SHIFT;
use crate::tiny::Tiny;
use crate::trunk::{Run, Trunks};

/// Slots that are joined to a list under the bin's lock.
const JOINED_AT_ONCE: usize = 64;

/// Free slots of a slab that are being worked on without its bin's lock (P3).
pub(crate) struct Claim {
    pub(crate) slab: &'static SlabHeader,
    pub(crate) slots: usize,
    /// The slots, where free lists are trunks.
    pub(super) list: Trunks,
    /// The slots, where free lists are bits.
    whole: Pieces,
    /// What the system has taken.
    pub(crate) purged: Pieces,
    /// How many pieces may go back.
    most: usize,
    /// Whether the slab may be a huge page of which nothing has gone back yet.
    is_huge: bool,
}

impl Claim {
    /// Says how many pieces may go back, and whether the slab can be a huge page.
    pub(crate) fn limit(&mut self, most: usize, can_be_huge: bool) {
        self.most = most;
        self.is_huge &= can_be_huge;
    }

    /// Leaves the list as it is until more has come back.
    pub(crate) fn forget_order(&self) {
        self.list.forget_loose();
    }

    fn new(slab: &'static SlabHeader, slots: usize, list: Trunks, whole: Pieces) -> Self {
        Self { slab, slots, list, whole, purged: Pieces::NONE, most: usize::MAX, is_huge: slab.purged.get() == 0 }
    }
}

/// Memory for the bitmap of a slab's free slots, given back when dropped.
pub(crate) struct Scratch {
    memory: NonNull<u8>,
    bytes: usize,
}

impl Scratch {
    pub(super) fn words(&mut self, count: usize) -> &mut [u64] {
        // SAFETY: zero memory mapped with that length at least, ours alone.
        let words = unsafe { core::slice::from_raw_parts_mut(self.memory.cast::<u64>().as_ptr(), count) };
        words.fill(0);
        words
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and not used any more. Should that fail, its space is lost.
        unsafe { os::release(self.memory, self.bytes) };
    }
}

impl Geometry<'_> {
    /// What [`give_pages_back`](Self::give_pages_back) and [`order`](Self::order) work with. `None`: no memory.
    pub(crate) fn scratch(&self) -> Option<Scratch> {
        let bytes = os::round_to_pages(self.slot_words() * size_of::<u64>())?;
        Some(Scratch { memory: os::map(bytes, os::page_bytes())?, bytes })
    }

    /// Whether a slab can be one huge page.
    pub(crate) fn may_be_huge(&self) -> bool {
        self.unit_bytes() == os::HUGE_PAGE_BYTES
    }

    /// Words of a bitmap of a slab's slots.
    pub(super) fn slot_words(&self) -> usize {
        (self.unit_bytes() >> self.class.index()).div_ceil(64)
    }

    pub(crate) fn piece_shift(&self) -> u32 {
        os::page_bytes().trailing_zeros().max(self.class.index() as u32)
    }

    /// Slots of a piece, as a power of two.
    fn slots_shift(&self) -> u32 {
        self.piece_shift() - self.class.index() as u32
    }

    /// Slots of one piece.
    pub(crate) fn piece_slots(&self) -> usize {
        1 << self.slots_shift()
    }

    /// Whether free slots of this class can go back to the system while their slab stays. Guarded ones have gone, tiny ones stay.
    pub(crate) fn gives_pages_back(&self) -> bool {
        !self.is_tiny() && !self.has_guards()
    }

    /// Free slots of a slab whose pages may hold memory.
    fn idle(&self, slab: &SlabHeader) -> usize {
        self.recycled(slab) - if self.has_trunks() { 0 } else { self.purged_slots(slab) }
    }

    /// Whether to look for pages to give back in a slab. With a `part`, only if so much of it is free, and clearly more than when that was last
    /// done: it costs as much as ordering its list, and gives nothing where free slots are few.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim).
    pub(crate) unsafe fn is_worth_a_look(&self, slab: &SlabHeader, part: Option<usize>) -> bool {
        let (idle, slots) = (self.idle(slab), self.unit_bytes() >> self.class.index());
        let Some(part) = part else { return idle >= self.piece_slots() };
        let mut least = (slots / part).max(self.piece_slots());
        if self.has_trunks() {
            let seen = slab.hint.get().min(idle as u32);
            slab.hint.set(seen);
            least = least.max(seen as usize + slots / 16);
        }
        idle >= least
    }

    /// Takes free slots of a slab to look for pages to give back: the whole list, or the pieces that are wholly free. `None`: there are none.
    ///
    /// # Safety
    /// `slab` is a slab of this bin, and the caller holds the bin's lock (S1).
    pub(crate) unsafe fn claim(&self, slab: &'static SlabHeader) -> Option<Claim> {
        let claim = if self.has_trunks() {
            Claim::new(slab, self.recycled(slab), slab.trunks.take_all(), Pieces::NONE)
        } else {
            // SAFETY: the same contract.
            let whole = unsafe { self.take_whole_pieces(slab) };
            Claim::new(slab, whole.count() << self.slots_shift(), Trunks::new(), whole)
        };
        slab.used.set(slab.used.get() + claim.slots as u32);
        self.debug_check(slab);
        (claim.slots > 0).then_some(claim)
    }

    /// Takes the slots of pieces that are wholly free and may have memory out of the list, where it is bits.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim).
    unsafe fn take_whole_pieces(&self, slab: &SlabHeader) -> Pieces {
        let mut purged = Pieces::NONE;
        if slab.purged.get() > 0 {
            // SAFETY: the same contract; a piece is purged.
            unsafe { self.change_purged(slab, |pieces| purged = *pieces) };
        }
        // SAFETY: the same contract, and the words are not used elsewhere meanwhile (N2).
        let bits = unsafe { core::slice::from_raw_parts_mut(self.bits(slab).as_ptr(), self.slot_words()) };
        take_whole(bits, self.slots_shift(), &purged)
    }

    /// Gives the pages of claimed slots back to the system, as many as are wholly free; the other slots become a list in order.
    /// Called without a lock.
    pub(crate) fn give_pages_back(&self, claim: &mut Claim, scratch: Option<&mut Scratch>) {
        let slab = claim.slab;
        let Some(scratch) = scratch else {
            self.verify_zero(slab, &claim.whole);
            claim.purged = self.purge(claim, &claim.whole);
            return;
        };
        let bits = scratch.words(self.slot_words());
        self.drain(claim, bits);
        let whole = take_whole(bits, self.slots_shift(), &Pieces::NONE);
        // Where purged pieces are noted is memory only from the first on.
        if !whole.is_empty() && self.pool.lock().side_tables(slab).is_some() {
            claim.purged = self.purge(claim, &whole);
        }
        let mut refused = whole;
        claim.purged.each().for_each(|piece| refused.remove(piece));
        give_whole(bits, self.slots_shift(), &refused);
        self.list_again(claim, bits);
    }

    /// Asks the system to take pieces of a claimed slab; returns those that it has taken.
    fn purge(&self, claim: &Claim, pieces: &Pieces) -> Pieces {
        let (slab, mut purged, shift) = (claim.slab, Pieces::NONE, self.piece_shift());
        let mut left = claim.most;
        for run in pieces.runs() {
            let run = run.start..run.end.min(run.start.saturating_add(left));
            if run.is_empty() {
                break;
            }
            left -= run.len();
            // SAFETY: pieces are parts of the slab.
            let start = unsafe { slab_memory(slab).add(run.start << shift) };
            // SAFETY: committed with the slab; all slots there are free and claimed (P3).
            if unsafe { os::purge(start, run.len() << shift) } {
                run.for_each(|piece| purged.insert(piece));
            }
        }
        if claim.is_huge && self.may_be_huge() && !purged.is_empty() {
            // Else the system would make it a huge page again before long, and all that went back would be there again.
            self.pool.lock().keep_small(slab);
        }
        purged
    }

    /// Ends the process if a free slot of a hardened family has been written to: when it is gone that cannot be seen any more.
    fn verify_zero(&self, slab: &SlabHeader, pieces: &Pieces) {
        if !self.checks.is_hardened() {
            return;
        }
        let (shift, word_bytes) = (self.piece_shift(), size_of::<u64>());
        for run in pieces.runs() {
            let offset = run.start << shift;
            let start = slab.memory().wrapping_add(offset).cast::<u64>();
            if let Some(memory) = NonNull::new(start.cast()) {
                // SAFETY: free slots, which are looked at. Their memory goes to the system next.
                unsafe { os::unpoison(memory, run.len() << shift) };
            }
            // SAFETY: committed with the slab; free slots that are claimed (P3), to which nobody may write.
            let words = unsafe { core::slice::from_raw_parts(start, (run.len() << shift) / word_bytes) };
            let is_zero = |words: &[u64]| words.iter().fold(0, |all, word| all | word) == 0;
            if let Some(line) = words.chunks(512).position(|line| !is_zero(line)) {
                let word = words[line * 512..].iter().position(|&word| word != 0).unwrap_or(0) + line * 512;
                let byte = words[word].to_ne_bytes().iter().position(|&byte| byte != 0).unwrap_or(0);
                let place = offset + word * word_bytes + byte;
                let within = place & (self.class.slot_bytes() - 1);
                let address = slab.memory().addr() + place - within;
                self.report_under_lock(FaultKind::WriteAfterFree, address, Truth::Offset(within));
            }
        }
    }

    /// Puts what was claimed back, what went to the system as purged. `Some`: others have given so much to the slab meanwhile that it must be
    /// [`join`](Self::join)ed first; it is claimed as well, and nothing else has been done.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), of the same bin.
    pub(crate) unsafe fn settle(&self, claim: &mut Claim) -> Option<Claim> {
        let slab = claim.slab;
        if self.has_trunks() {
            let given = self.recycled(slab);
            if given > JOINED_AT_ONCE {
                // SAFETY: the same contract.
                return unsafe { self.claim(slab) };
            }
            let theirs = Claim::new(slab, given, slab.trunks.take_all(), Pieces::NONE);
            self.join(claim, &theirs);
            // These are in the header's list, and were not claimed.
            claim.slots -= given;
            slab.trunks.put_all(&claim.list);
        } else {
            // SAFETY: the same contract, and the words are not used elsewhere meanwhile (N2).
            let bits = unsafe { core::slice::from_raw_parts_mut(self.bits(slab).as_ptr(), self.slot_words()) };
            give_whole(bits, self.slots_shift(), &claim.whole);
        }
        if !claim.purged.is_empty() {
            // SAFETY: the same contract; the place was committed before anything was purged.
            unsafe { self.change_purged(slab, |pieces| claim.purged.each().for_each(|piece| pieces.insert(piece))) };
        }
        slab.used.set(slab.used.get() - claim.slots as u32);
        if self.has_trunks() {
            slab.hint.set(self.recycled(slab) as u32);
        }
        self.debug_check(slab);
        None
    }

    /// Adds what else has been claimed of the slab to a claim.
    pub(crate) fn join(&self, claim: &mut Claim, more: &Claim) {
        let (memory, slot_bytes) = (slab_memory(claim.slab), self.class.slot_bytes());
        let mut left = more.slots;
        while left > 0 {
            let mut some = [0; JOINED_AT_ONCE];
            let some = &mut some[..left.min(JOINED_AT_ONCE)];
            left -= some.len();
            // SAFETY: the claimed list has so many slots, and is nobody else's (P3).
            unsafe { more.list.pop(memory, slot_bytes, some) };
            for address in some {
                let index = (*address - memory.addr().get()) >> self.class.index();
                // SAFETY: taken from a list just now.
                unsafe { claim.list.push(memory, slot_bytes, Run::new(index as u32, 1), true) };
            }
        }
        claim.slots += more.slots;
    }

    /// Slots of purged pieces.
    #[cold]
    pub(crate) fn purged_slots(&self, slab: &SlabHeader) -> usize {
        usize::from(slab.purged.get()) << self.slots_shift()
    }

    /// Hands out slots of purged pieces, up to `most`, as a range that reads zero. What is left of a piece goes to the list.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab whose free list is trunks, with a purged piece.
    pub(crate) unsafe fn take_purged(&self, slab: &SlabHeader, most: usize) -> Range<usize> {
        let (mut first, mut count) = (0, 0);
        let take = |pieces: &mut Pieces| {
            first = pieces.next(0, true).unwrap_or(0);
            let end = pieces.next(first, false).unwrap_or(64 * WORDS_MAX);
            count = (end - first).min((most >> self.slots_shift()).max(1));
            (first..first + count).for_each(|piece| pieces.remove(piece));
        };
        // SAFETY: the same contract.
        unsafe { self.change_purged(slab, take) };
        let (first_slot, slots) = (first << self.slots_shift(), count << self.slots_shift());
        let taken = slots.min(most);
        slab.used.set(slab.used.get() + taken as u32);
        let (memory, slot_bytes) = (slab_memory(slab), self.class.slot_bytes());
        let mut rest = first_slot + taken..first_slot + slots;
        while !rest.is_empty() {
            let run = Run::new(rest.start as u32, rest.len().min(Run::LENGTH_MAX));
            rest.start += run.length();
            // SAFETY: free slots of a piece that is purged no more, so in no list.
            unsafe { slab.trunks.push(memory, slot_bytes, run, true) };
        }
        self.debug_check(slab);
        let start = memory.addr().get() + first_slot * slot_bytes;
        start..start + taken * slot_bytes
    }

    /// Notes that slots are handed out whose pieces may be purged.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab with a purged piece; the addresses are slots of it.
    #[cold]
    pub(super) unsafe fn forget_purged(&self, slab: &SlabHeader, addresses: &[usize]) {
        let (base, shift) = (slab.memory().addr(), self.piece_shift());
        let forget = |pieces: &mut Pieces| addresses.iter().for_each(|&slot| pieces.remove((slot - base) >> shift));
        // SAFETY: the same contract.
        unsafe { self.change_purged(slab, forget) };
    }

    /// Clears the bits of an empty slab (P2).
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab with a purged piece.
    #[cold]
    pub(super) unsafe fn clear_purged(&self, slab: &SlabHeader) {
        // SAFETY: the same contract.
        unsafe { self.change_purged(slab, |pieces| *pieces = Pieces::NONE) };
    }

    /// # Safety
    /// As for [`claim`](Self::claim), and a piece of the slab is purged, or the place of the bits has been committed.
    unsafe fn change_purged(&self, slab: &SlabHeader, change: impl FnOnce(&mut Pieces)) {
        let (place, mut pieces, words) = (self.purged_place(slab), Pieces::NONE, piece_words(self.unit_shift));
        // SAFETY: the unit's own words, committed, and nobody else's while the lock is held (P2).
        unsafe { core::ptr::copy_nonoverlapping(place, pieces.0.as_mut_ptr(), words) };
        change(&mut pieces);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(pieces.0.as_ptr(), place, words) };
        slab.purged.set(pieces.count() as u16);
    }

    /// Where the bits of a slab's purged pieces are.
    fn purged_place(&self, slab: &SlabHeader) -> *mut u64 {
        let memory = slab.memory().addr();
        let unit = (memory >> self.unit_shift) % UNIT_COUNT;
        let region = memory & !((UNIT_COUNT << self.unit_shift) - 1);
        // The region's provenance is exposed where the region is claimed.
        core::ptr::with_exposed_provenance_mut(
            region
                + purged_offset(self.unit_shift, self.checks.keeps_states())
                + unit * piece_words(self.unit_shift) * 8,
        )
    }
}

/// Words of bits that a unit's pieces need.
const fn piece_words(unit_shift: u32) -> usize {
    (1usize << (unit_shift - PAGE_SHIFT_MIN)).div_ceil(64)
}

/// Where in a region the bits of purged pieces begin.
const fn purged_offset(unit_shift: u32, keeps_states: bool) -> usize {
    if keeps_states {
        (UNIT_COUNT << unit_shift) >> LEAST_SHIFT
    } else {
        (1 << unit_shift) - UNIT_COUNT * piece_words(unit_shift) * 8
    }
}

const _: () = {
    let mut shift = *UNIT_SHIFTS.start();
    while shift <= *UNIT_SHIFTS.end() {
        let (tiny, last) = (Tiny::new(1, 1 << shift), UNIT_COUNT - 1);
        let behind = tiny.table_offset(last) + tiny.table_bytes();
        assert!(behind <= purged_offset(shift, false), "the bits of purged pieces lie behind the last side table");
        let bytes = UNIT_COUNT * piece_words(shift) * 8;
        assert!(bytes <= super::noted::SPARE_BYTES >> (*UNIT_SHIFTS.end() - shift), "they fit where no slot's bit is");
        shift += 1;
    }
};
