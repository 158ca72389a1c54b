//! Giving back the pages of a slab's free slots, while others of its slots are used.
//!
//! Whoever gives back claims free slots under the bin's lock, as a cache would take them, works on them without it, and settles
//! under it again:
//!
//! ```text
//!   claim                            without the lock             settle
//!   bits of wholly free pages   ──►  the system takes them   ──►  bits of what stayed
//! ```
//!
//! A page is wholly free if all slots are that have a part on it. Slots may stand on two pages, or on many:
//!
//! ```text
//!   slots   │ used │ free │ free │ free │ free │ used │
//!   pages      │       0      │       1      │         2       page 1 can go back, and with it the slots that have a part on it
//! ```
//!
//! What is claimed counts as used, so others go on taking from the slab and giving to it, and it cannot leave its bin.
//!
//! The bits of purged pages of all units of a region stand in one place, which is touched only if something is purged: behind
//! the headers; where states are kept, where the bits of the units would be that hold them.
//!
//! **P1** A page is *purged*, its bit set, from when the system took its memory until one of its slots is handed out. A free slot
//! with a part on such a page is purged; the header's `purged` counts them. Where free lists are bitmaps, purged slots are in no
//! list, and read zero from end to end unless somebody writes to free memory: also on the pages beside. **P2** Only the holder of
//! the bin's lock touches bits, and only while a page of the slab is purged or becomes it: all are 0 while the unit is no slab.
//! **P3** What is claimed is nobody else's until it is settled. Where free lists are bitmaps, purged slots are claimed with them.

use core::ops::Range;
use core::ptr::NonNull;

use super::noted::BITS_SHIFT;
use super::page_set::{PAGE_SHIFT_MIN, PageSet, WORDS_MAX, all_set, clear_all, set_all};
use super::{Geometry, first_offset, slots_memory, slots_start};
use crate::fault::{FaultKind, Truth};
use crate::header::{STATE_UNIT_COUNT, SlabHeader, UNIT_COUNT, UNIT_SHIFTS, purged_pages_at};
use crate::os;
use crate::states::LEAST_SHIFT;

/// What a look for slabs found.
pub(crate) enum Found {
    /// Free slots whose pages may go back.
    Claim(Claim),
    /// Nothing so far, and there are more slabs.
    Nothing,
    /// Every slab has been looked at, or enough has gone back.
    End,
}

/// Free slots of a slab that are being worked on without its bin's lock (P3).
pub(crate) struct Claim {
    pub(crate) slab: &'static SlabHeader,
    pub(crate) slots: usize,
    /// The pages whose slots are claimed, but for those that were purged before.
    whole: PageSet,
    /// Pages of claimed slots that are purged.
    purged: PageSet,
    /// How many pages the system has taken since they were claimed, and the slots that are purged by that.
    pub(crate) gone_pages: usize,
    pub(crate) gone_slots: usize,
    /// How many slots may be purged.
    most: usize,
    /// Whether more could have gone.
    is_cut: bool,
    /// Whether the slab may be a huge page of which nothing has gone back yet.
    is_huge: bool,
}

impl Claim {
    /// Says how many slots may be purged, and whether the slab can be a huge page.
    pub(crate) fn limit(&mut self, most: usize, can_be_huge: bool) {
        self.most = most;
        self.is_huge &= can_be_huge;
    }

    /// Nothing of a slab.
    fn new(slab: &'static SlabHeader) -> Self {
        Self {
            slab,
            slots: 0,
            whole: PageSet::NONE,
            purged: PageSet::NONE,
            gone_pages: 0,
            gone_slots: 0,
            most: usize::MAX,
            is_cut: false,
            is_huge: slab.purged.get() == 0,
        }
    }
}

impl Geometry<'_> {
    /// Gives the words' pages of a slab back to the system, where they have pages of their own and no bit is set.
    ///
    /// # Safety
    /// A slab of this bin with a bitmap; the caller holds the bin's lock (S1).
    pub(crate) unsafe fn give_words_back(&self, slab: &SlabHeader) {
        let shape = self.shape();
        let Some(bytes) = shape.pages_of_words() else { return };
        // Where what is purged is not there any more, slots that come back find no words.
        if os::DECOMMITS || !slab.side_ready.get() || self.recycled(slab) > 0 {
            return;
        }
        slab.side_ready.set(false);
        slab.free[0].set(0);
        // SAFETY: whole pages of the slab's words, which are all 0. Should the system refuse, they stay.
        unsafe { os::purge(shape.words(slab).cast(), bytes) };
    }

    /// Whether a slab can be one huge page.
    pub(crate) fn may_be_huge(&self) -> bool {
        self.unit_bytes() == os::HUGE_PAGE_BYTES
    }

    /// Words that have a bit for each slot of any slab.
    pub(super) fn slot_words(&self) -> usize {
        self.slot_count_from(0).div_ceil(64)
    }

    /// As many slots as a page holds, or one where slots are longer.
    pub(crate) fn slots_of_a_page(&self) -> usize {
        self.class.slots_in(os::page_bytes()).max(1)
    }

    /// The slots that have a part on pages that lie one after another.
    fn slots_on(&self, slab: &SlabHeader, pages: &Range<usize>) -> Range<usize> {
        let shift = os::page_bytes().trailing_zeros();
        let (first, last) = (pages.start << shift, (pages.end << shift) - 1);
        // Behind the last slot may be a rest that is none.
        let count = self.slot_count(slab);
        self.class.slots_in(first).min(count)..(self.class.slots_in(last) + 1).min(count)
    }

    /// The slots that have a part on some pages, in ranges of which no two have a slot in common.
    fn each_slots_on(&self, slab: &SlabHeader, pages: &PageSet) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        pages.runs().map(move |run| {
            let slots = self.slots_on(slab, &run);
            let rest = slots.start.max(end)..slots.end.max(end);
            end = rest.end;
            rest
        })
    }

    fn count_slots_on(&self, slab: &SlabHeader, pages: &PageSet) -> usize {
        self.each_slots_on(slab, pages).map(|slots| slots.len()).sum()
    }

    /// The pages all whose slots are in a bitmap of free slots, but for some.
    fn whole_pages(&self, slab: &SlabHeader, bits: &[u64], but: &PageSet) -> PageSet {
        let mut whole = PageSet::NONE;
        let is_whole = |&page: &usize| !but.has(page) && all_set(bits, self.slots_on(slab, &(page..page + 1)));
        // Behind the last slot of a slab may be its bits.
        (0..(self.slots_end() - first_offset(slab)) / os::page_bytes())
            .filter(is_whole)
            .for_each(|page| whole.insert(page));
        whole
    }

    /// Whether free slots of this class can go back to the system while their slab stays. Guarded ones have gone, tiny ones stay.
    pub(crate) fn gives_pages_back(&self) -> bool {
        !self.is_tiny() && !self.has_guards()
    }

    /// Takes the free slots of pages that are wholly free and may hold memory, to give these back; where free lists are bitmaps, what
    /// is purged as well. `None`: there are no such pages.
    ///
    /// # Safety
    /// `slab` is a slab of this bin, and the caller holds the bin's lock (S1).
    pub(crate) unsafe fn claim(&self, slab: &'static SlabHeader) -> Option<Claim> {
        let mut claim = Claim::new(slab);
        let mut purged = PageSet::NONE;
        if slab.purged.get() > 0 {
            // SAFETY: the same contract; a page is purged.
            unsafe { self.change_purged(slab, |pages| purged = *pages) };
        }
        if self.has_bitmap() {
            // SAFETY: the same contract.
            unsafe { self.make_room(slab, self.each_slots_on(slab, &purged)) };
        }
        let take_whole = |bits: &mut [u64]| {
            if !self.has_bitmap() {
                claim.whole = self.whole_pages(slab, bits, &purged);
                return self.each_slots_on(slab, &claim.whole).for_each(|slots| clear_all(bits, slots));
            }
            // A slot that stands on a purged page and on another lets the other go as well.
            self.each_slots_on(slab, &purged).for_each(|slots| set_all(bits, slots));
            claim.whole = self.whole_pages(slab, bits, &purged);
            let all = [&claim.whole, &purged].into_iter();
            all.flat_map(|pages| self.each_slots_on(slab, pages)).for_each(|slots| clear_all(bits, slots));
        };
        // SAFETY: the same contract.
        unsafe { self.change_bits(slab, take_whole) };
        claim.slots = self.count_slots_on(slab, &claim.whole);
        if self.has_bitmap() {
            if claim.whole.is_empty() {
                self.note_look(slab, false);
                return None;
            }
            let mut all = claim.whole;
            all.insert_all(&purged);
            claim.slots = self.count_slots_on(slab, &all);
            claim.purged = purged;
            if slab.purged.get() > 0 {
                // SAFETY: the same contract; a page is purged.
                unsafe { self.change_purged(slab, |pages| *pages = PageSet::NONE) };
            }
        }
        slab.used.set(slab.used.get() + claim.slots as u32);
        self.debug_check(slab);
        (claim.slots > 0).then_some(claim)
    }

    /// Changes the bits of a slab's free slots, of which the last may be missing: they are not set.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab whose free list is bits, which are not asked for otherwise meanwhile (F2, N2).
    unsafe fn change_bits(&self, slab: &SlabHeader, change: impl FnOnce(&mut [u64])) {
        if self.has_bitmap() {
            // SAFETY: the same contract.
            return unsafe { self.change_free(slab, change) };
        }
        // SAFETY: the same contract.
        change(unsafe { core::slice::from_raw_parts_mut(self.bits(slab).as_ptr(), self.slot_words()) });
    }

    /// Gives the pages of claimed slots back to the system. Called without a lock.
    pub(crate) fn give_pages_back(&self, claim: &mut Claim) {
        let slab = claim.slab;
        self.verify_zero(slab, &claim.whole);
        let whole = claim.whole;
        self.purge(claim, &whole);
        if self.has_bitmap() {
            self.clear_edges(claim);
        }
    }

    /// Asks the system to take pages of a claimed slab, and notes those that it has taken.
    fn purge(&self, claim: &mut Claim, pages: &PageSet) {
        let (slab, shift) = (claim.slab, os::page_bytes().trailing_zeros());
        let mut left = claim.most;
        for run in pages.runs() {
            let first = self.slots_on(slab, &run).start;
            // What is left of a slot that is purged in part is not much, if the pages end just before a slot does.
            let end = first.saturating_add(left).saturating_mul(self.class.slot_bytes()) >> shift;
            claim.is_cut |= run.end > end;
            let run = run.start..run.end.min(end);
            if run.is_empty() {
                break;
            }
            let slots = self.slots_on(slab, &run).len();
            left = left.saturating_sub(slots);
            // SAFETY: pages of the slab.
            let start = unsafe { slots_memory(slab).add(run.start << shift) };
            // SAFETY: committed with the slab; all slots there are free and claimed (P3).
            if unsafe { os::purge(start, run.len() << shift) } {
                claim.gone_pages += run.len();
                claim.gone_slots += slots;
                run.for_each(|page| claim.purged.insert(page));
            }
        }
        if claim.is_huge && self.may_be_huge() && claim.gone_pages > 0 {
            // Else the system would make it a huge page again before long, and all that went back would be there again.
            self.pool.lock().keep_small(slab);
        }
    }

    /// Clears what purged slots of a claim have on the pages before and behind those that are purged (P1).
    fn clear_edges(&self, claim: &Claim) {
        let (slab, shift, slot_bytes) = (claim.slab, os::page_bytes().trailing_zeros(), self.class.slot_bytes());
        for run in claim.purged.runs() {
            let slots = self.slots_on(slab, &run);
            let edges = [slots.start * slot_bytes..run.start << shift, run.end << shift..slots.end * slot_bytes];
            for edge in edges.into_iter().filter(|edge| !edge.is_empty()) {
                // SAFETY: a part of the slab.
                let start = unsafe { slots_memory(slab).add(edge.start) };
                // SAFETY: parts of free slots of the slab, all of them claimed (P3).
                unsafe { os::clear_free(start, edge.len()) };
            }
        }
    }

    /// Ends the process if a free slot of a hardened family has been written to: when it is gone that cannot be seen any more.
    fn verify_zero(&self, slab: &SlabHeader, pages: &PageSet) {
        if !self.checks.is_hardened() {
            return;
        }
        let (shift, word_bytes) = (os::page_bytes().trailing_zeros(), size_of::<u64>());
        for run in pages.runs() {
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
                let within = place - self.class.slots_in(place) * self.class.slot_bytes();
                let address = slab.memory().addr() + place - within;
                self.report_under_lock(FaultKind::WriteAfterFree, address, Truth::Offset(within));
            }
        }
    }

    /// Puts what was claimed back, what went to the system as purged.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), of the same bin.
    pub(crate) unsafe fn settle(&self, claim: &Claim) {
        let slab = claim.slab;
        if self.has_bitmap() {
            // Those that are purged have no bits set, but are cleared.
            let all = [&claim.whole, &claim.purged].into_iter();
            // SAFETY: the same contract.
            unsafe { self.make_room(slab, all.flat_map(|pages| self.each_slots_on(slab, pages))) };
        }
        let put_back = |bits: &mut [u64]| {
            self.each_slots_on(slab, &claim.whole).for_each(|slots| set_all(bits, slots));
            if self.has_bitmap() {
                self.each_slots_on(slab, &claim.purged).for_each(|slots| clear_all(bits, slots));
            }
        };
        // SAFETY: the same contract.
        unsafe { self.change_bits(slab, put_back) };
        if !claim.purged.is_empty() {
            // SAFETY: the same contract; the place was committed with the headers, or with the states.
            unsafe { self.change_purged(slab, |pages| pages.insert_all(&claim.purged)) };
        }
        slab.used.set(slab.used.get() - claim.slots as u32);
        if self.has_bitmap() {
            self.note_look(slab, claim.is_cut);
        }
        self.debug_check(slab);
    }

    /// Hands out purged slots, up to `most`, as a range that reads zero; none if the system refuses memory for them. Others that have no
    /// part on a purged page any more go to the list.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab with a bitmap and a purged page.
    pub(crate) unsafe fn take_purged(&self, slab: &SlabHeader, most: usize) -> Range<usize> {
        let (shift, slot_bytes) = (os::page_bytes().trailing_zeros(), self.class.slot_bytes());
        let (mut taken, mut rest) = (0..0, 0..0);
        let take = |pages: &mut PageSet| {
            let first = pages.next(0, true).unwrap_or(0);
            let end = pages.next(first, false).unwrap_or(64 * WORDS_MAX);
            let slots = self.slots_on(slab, &(first..end));
            taken = slots.start..slots.end.min(slots.start + most);
            // The pages up to the last that these have a part on.
            let until = end.min((taken.end * slot_bytes).div_ceil(1 << shift));
            if !self.recommit(slab, first..until) {
                taken = 0..0;
                return;
            }
            (first..until).for_each(|page| pages.remove(page));
            rest = taken.end..if until == end { slots.end } else { self.class.slots_in(until << shift) };
        };
        // SAFETY: the same contract.
        unsafe { self.change_purged(slab, take) };
        slab.used.set(slab.used.get() + taken.len() as u32);
        if !rest.is_empty() {
            // SAFETY: free slots that are purged no more, so in no list.
            unsafe { self.set_free(self.shape(), slab, rest.start, rest.len()) };
        }
        self.debug_check(slab);
        let base = slots_start(slab);
        base + taken.start * slot_bytes..base + taken.end * slot_bytes
    }

    /// Notes that slots are handed out whose pages may be purged; `false`: the system refuses memory for them, and all is as it was, but
    /// for pages that it has granted: these are purged still, and read zero.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab with a purged page; the addresses are slots of it.
    #[cold]
    pub(super) unsafe fn forget_purged(&self, slab: &SlabHeader, addresses: &[usize]) -> bool {
        let (base, shift) = (slots_start(slab), os::page_bytes().trailing_zeros());
        let mut granted = true;
        let forget = |pages: &mut PageSet| {
            let mut left = *pages;
            for offset in addresses.iter().map(|slot| slot - base) {
                let last = (offset + self.class.slot_bytes() - 1) >> shift;
                for page in offset >> shift..=last {
                    granted = granted && (!left.has(page) || self.recommit(slab, page..page + 1));
                    left.remove(page);
                }
            }
            if granted {
                *pages = left;
            }
        };
        // SAFETY: the same contract.
        unsafe { self.change_purged(slab, forget) };
        granted
    }

    /// Clears the bits of an empty slab (P2).
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab with a purged page.
    #[cold]
    pub(super) unsafe fn clear_purged(&self, slab: &SlabHeader) {
        // SAFETY: the same contract.
        unsafe { self.change_purged(slab, |pages| *pages = PageSet::NONE) };
    }

    /// # Safety
    /// As for [`claim`](Self::claim), and a page of the slab is purged, or the place of the bits has been committed.
    unsafe fn change_purged(&self, slab: &SlabHeader, change: impl FnOnce(&mut PageSet)) {
        let (place, mut pages, words) = (self.purged_place(slab), PageSet::NONE, page_words(self.unit_shift));
        // SAFETY: the unit's own words, committed, and nobody else's while the lock is held (P2).
        unsafe { core::ptr::copy_nonoverlapping(place, pages.0.as_mut_ptr(), words) };
        change(&mut pages);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(pages.0.as_ptr(), place, words) };
        slab.purged.set(self.count_slots_on(slab, &pages) as u32);
    }

    /// Where the bits of a slab's purged pages are in its region.
    fn purged_range(&self, slab: &SlabHeader) -> Range<usize> {
        let unit = (slab.memory().addr() >> self.unit_shift) % UNIT_COUNT;
        let bytes = page_words(self.unit_shift) * 8;
        let start = purged_offset(self.unit_shift, self.checks.keeps_states()) + unit * bytes;
        start..start + bytes
    }

    /// The same, in memory.
    fn purged_place(&self, slab: &SlabHeader) -> *mut u64 {
        let region = slab.memory().addr() & !((UNIT_COUNT << self.unit_shift) - 1);
        // The region's provenance is exposed where the region is claimed.
        core::ptr::with_exposed_provenance_mut(region + self.purged_range(slab).start)
    }
}

/// Words of bits that a unit's pages need.
const fn page_words(unit_shift: u32) -> usize {
    (1usize << (unit_shift - PAGE_SHIFT_MIN)).div_ceil(64)
}

/// Where in a region the bits of purged pages begin.
const fn purged_offset(unit_shift: u32, keeps_states: bool) -> usize {
    if keeps_states { (UNIT_COUNT << unit_shift) >> LEAST_SHIFT } else { purged_pages_at(unit_shift).start }
}

const _: () = {
    let mut shift = *UNIT_SHIFTS.start();
    while shift <= *UNIT_SHIFTS.end() {
        let bytes = UNIT_COUNT * page_words(shift) * 8;
        assert!(purged_pages_at(shift).start + bytes <= purged_pages_at(shift).end);
        let spare_bytes = STATE_UNIT_COUNT << (shift - BITS_SHIFT);
        assert!(bytes <= spare_bytes, "they fit where the bits of units that hold states would be, which are none's");
        shift += 1;
    }
};
