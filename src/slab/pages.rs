//! Giving back the pages of a slab's free slots, while others of its slots are used.
//!
//! Whoever gives back claims free slots under the bin's lock, as a cache would take them, works on them without it, and settles
//! under it again:
//!
//! ```text
//!   claim                        without the lock                                       settle
//!   the whole list, O(1)    ──►  a bitmap of it; pages that are wholly free go back;  ──►  list and bits of what went back
//!   bits of wholly free pages    the other slots become a list in order                    (what others gave meanwhile is joined)
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
//! The bits of purged pages of all units of a region stand in one place, which is touched only if something is purged: at the
//! end of unit 0, behind the last side table of the tiny classes; where states are kept, where the bits of the units would be that hold them.
//!
//! **P1** A page is *purged*, its bit set, from when the system took its memory until one of its slots is handed out. A free slot
//! with a part on such a page is purged; the header's `purged` counts them. Where free lists are trunks, purged slots are in no
//! list, and read zero from end to end unless somebody writes to free memory: also on the pages beside. **P2** Only the holder of
//! the bin's lock touches bits, and only while a page of the slab is purged or becomes it: all are 0 while the unit is no slab.
//! **P3** What is claimed is nobody else's until it is settled. Where free lists are trunks, purged slots are claimed with the list.

use core::ops::Range;
use core::ptr::NonNull;

use super::page_set::{PAGE_SHIFT_MIN, PageSet, WORDS_MAX, all_set, clear_all, set_all};
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
    /// The slots that are not purged, where free lists are trunks, and how many they were.
    pub(super) list: Trunks,
    pub(super) listed: usize,
    /// The pages whose slots are claimed, where free lists are bits.
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

    /// Leaves the list as it is until more has come back.
    pub(crate) fn forget_order(&self) {
        self.list.forget_loose();
    }

    /// Nothing of a slab.
    fn new(slab: &'static SlabHeader) -> Self {
        Self {
            slab,
            slots: 0,
            list: Trunks::new(),
            listed: 0,
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
        self.slot_count().div_ceil(64)
    }

    /// As many slots as a page holds, or one where slots are longer.
    pub(crate) fn slots_of_a_page(&self) -> usize {
        self.class.slots_in(os::page_bytes()).max(1)
    }

    /// The slots that have a part on pages that lie one after another.
    fn slots_on(&self, pages: &Range<usize>) -> Range<usize> {
        let shift = os::page_bytes().trailing_zeros();
        let (first, last) = (pages.start << shift, (pages.end << shift) - 1);
        // Behind the last slot may be a rest that is none.
        let count = self.slot_count();
        self.class.slots_in(first).min(count)..(self.class.slots_in(last) + 1).min(count)
    }

    /// The slots that have a part on some pages, in ranges of which no two have a slot in common.
    fn each_slots_on(&self, pages: &PageSet) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        pages.runs().map(move |run| {
            let slots = self.slots_on(&run);
            let rest = slots.start.max(end)..slots.end.max(end);
            end = rest.end;
            rest
        })
    }

    fn count_slots_on(&self, pages: &PageSet) -> usize {
        self.each_slots_on(pages).map(|slots| slots.len()).sum()
    }

    /// The pages all whose slots are in a bitmap of free slots, but for some.
    fn whole_pages(&self, bits: &[u64], but: &PageSet) -> PageSet {
        let mut whole = PageSet::NONE;
        let is_whole = |&page: &usize| !but.has(page) && all_set(bits, self.slots_on(&(page..page + 1)));
        (0..self.unit_bytes() / os::page_bytes()).filter(is_whole).for_each(|page| whole.insert(page));
        whole
    }

    /// Whether free slots of this class can go back to the system while their slab stays. Guarded ones have gone, tiny ones stay.
    pub(crate) fn gives_pages_back(&self) -> bool {
        !self.is_tiny() && !self.has_guards()
    }

    /// Takes free slots of a slab to look for pages to give back: all that are recycled or purged, or those of pages that are
    /// wholly free and may hold memory. `None`: there are none.
    ///
    /// # Safety
    /// `slab` is a slab of this bin, and the caller holds the bin's lock (S1).
    pub(crate) unsafe fn claim(&self, slab: &'static SlabHeader) -> Option<Claim> {
        let mut claim = Claim::new(slab);
        if self.has_trunks() {
            claim.listed = self.recycled(slab);
            claim.list.put_all(&slab.trunks.take_all());
            claim.slots = claim.listed + slab.purged.get() as usize;
            if slab.purged.get() > 0 {
                // SAFETY: the same contract; a page is purged.
                unsafe { self.change_purged(slab, |pages| claim.purged = core::mem::replace(pages, PageSet::NONE)) };
            }
        } else {
            // SAFETY: the same contract.
            claim.whole = unsafe { self.take_whole_pages(slab) };
            claim.slots = self.count_slots_on(&claim.whole);
        }
        slab.used.set(slab.used.get() + claim.slots as u32);
        self.debug_check(slab);
        (claim.slots > 0).then_some(claim)
    }

    /// Takes the slots of pages that are wholly free and may have memory out of the list, where it is bits.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim).
    unsafe fn take_whole_pages(&self, slab: &SlabHeader) -> PageSet {
        let mut purged = PageSet::NONE;
        if slab.purged.get() > 0 {
            // SAFETY: the same contract; a page is purged.
            unsafe { self.change_purged(slab, |pages| purged = *pages) };
        }
        // SAFETY: the same contract, and the words are not used elsewhere meanwhile (N2).
        let bits = unsafe { core::slice::from_raw_parts_mut(self.bits(slab).as_ptr(), self.slot_words()) };
        let whole = self.whole_pages(bits, &purged);
        self.each_slots_on(&whole).for_each(|slots| clear_all(bits, slots));
        whole
    }

    /// Gives the pages of claimed slots back to the system, as many as are wholly free; the other slots become a list in order.
    /// Called without a lock.
    pub(crate) fn give_pages_back(&self, claim: &mut Claim, scratch: Option<&mut Scratch>) {
        let slab = claim.slab;
        let Some(scratch) = scratch else {
            self.verify_zero(slab, &claim.whole);
            let whole = claim.whole;
            return self.purge(claim, &whole);
        };
        let bits = scratch.words(self.slot_words());
        self.drain(claim, bits);
        self.each_slots_on(&claim.purged).for_each(|slots| set_all(bits, slots));
        let whole = self.whole_pages(bits, &claim.purged);
        // Where purged pages are noted is memory only from the first on.
        if !whole.is_empty() && self.pool.lock().side_tables(slab, self.purged_range(slab)).is_some() {
            self.purge(claim, &whole);
            self.clear_edges(claim);
        }
        self.each_slots_on(&claim.purged).for_each(|slots| clear_all(bits, slots));
        self.list_again(claim, bits);
    }

    /// Asks the system to take pages of a claimed slab, and notes those that it has taken.
    fn purge(&self, claim: &mut Claim, pages: &PageSet) {
        let (slab, shift) = (claim.slab, os::page_bytes().trailing_zeros());
        let mut left = claim.most;
        for run in pages.runs() {
            let first = self.slots_on(&run).start;
            // What is left of a slot that is purged in part is not much, if the pages end just before a slot does.
            let end = first.saturating_add(left).saturating_mul(self.class.slot_bytes()) >> shift;
            claim.is_cut |= run.end > end;
            let run = run.start..run.end.min(end);
            if run.is_empty() {
                break;
            }
            let slots = self.slots_on(&run).len();
            left = left.saturating_sub(slots);
            // SAFETY: pages of the slab.
            let start = unsafe { slab_memory(slab).add(run.start << shift) };
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
        let (shift, slot_bytes) = (os::page_bytes().trailing_zeros(), self.class.slot_bytes());
        for run in claim.purged.runs() {
            let slots = self.slots_on(&run);
            let edges = [slots.start * slot_bytes..run.start << shift, run.end << shift..slots.end * slot_bytes];
            for edge in edges.into_iter().filter(|edge| !edge.is_empty()) {
                let Some(start) = NonNull::new(claim.slab.memory().wrapping_add(edge.start)) else { continue };
                // SAFETY: parts of free slots of the slab, all of them claimed (P3), and drained from the list.
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
            let mut theirs = Claim::new(slab);
            (theirs.slots, theirs.listed) = (given, given);
            theirs.list.put_all(&slab.trunks.take_all());
            self.join(claim, &theirs);
            // These are in the header's list, and were not claimed.
            claim.slots -= given;
            slab.trunks.put_all(&claim.list);
        } else {
            // SAFETY: the same contract, and the words are not used elsewhere meanwhile (N2).
            let bits = unsafe { core::slice::from_raw_parts_mut(self.bits(slab).as_ptr(), self.slot_words()) };
            self.each_slots_on(&claim.whole).for_each(|slots| set_all(bits, slots));
        }
        if !claim.purged.is_empty() {
            // SAFETY: the same contract; the place was committed before anything was purged.
            unsafe { self.change_purged(slab, |pages| pages.insert_all(&claim.purged)) };
        }
        slab.used.set(slab.used.get() - claim.slots as u32);
        if self.has_trunks() {
            self.note_look(slab, claim.is_cut);
        }
        self.debug_check(slab);
        None
    }

    /// Adds what else has been claimed of the slab to a claim.
    pub(crate) fn join(&self, claim: &mut Claim, more: &Claim) {
        let (memory, slot_bytes) = (slab_memory(claim.slab), self.class.slot_bytes());
        let mut left = more.listed;
        while left > 0 {
            let mut some = [0; JOINED_AT_ONCE];
            let some = &mut some[..left.min(JOINED_AT_ONCE)];
            left -= some.len();
            // SAFETY: the claimed list has so many slots, and is nobody else's (P3).
            unsafe { more.list.pop(memory, slot_bytes, some) };
            for address in some {
                let index = self.class.slots_in(*address - memory.addr().get());
                // SAFETY: taken from a list just now.
                unsafe { claim.list.push(memory, slot_bytes, Run::new(index as u32, 1), true) };
            }
        }
        claim.listed += more.listed;
        claim.purged.insert_all(&more.purged);
        claim.slots += more.slots;
    }

    /// Hands out purged slots, up to `most`, as a range that reads zero; none if the system refuses memory for them. Others that have no
    /// part on a purged page any more go to the list.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab whose free list is trunks, with a purged page.
    pub(crate) unsafe fn take_purged(&self, slab: &SlabHeader, most: usize) -> Range<usize> {
        let (shift, slot_bytes) = (os::page_bytes().trailing_zeros(), self.class.slot_bytes());
        let (mut taken, mut rest) = (0..0, 0..0);
        let take = |pages: &mut PageSet| {
            let first = pages.next(0, true).unwrap_or(0);
            let end = pages.next(first, false).unwrap_or(64 * WORDS_MAX);
            let slots = self.slots_on(&(first..end));
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
        let memory = slab_memory(slab);
        while !rest.is_empty() {
            let run = Run::new(rest.start as u32, rest.len().min(Run::LENGTH_MAX));
            rest.start += run.length();
            // SAFETY: free slots that are purged no more, so in no list.
            unsafe { slab.trunks.push(memory, slot_bytes, run, true) };
        }
        self.debug_check(slab);
        let base = memory.addr().get();
        base + taken.start * slot_bytes..base + taken.end * slot_bytes
    }

    /// Notes that slots are handed out whose pages may be purged; `false`: the system refuses memory for them, and all is as it was, but
    /// for pages that it has granted: these are purged still, and read zero.
    ///
    /// # Safety
    /// As for [`claim`](Self::claim), in a slab with a purged page; the addresses are slots of it.
    #[cold]
    pub(super) unsafe fn forget_purged(&self, slab: &SlabHeader, addresses: &[usize]) -> bool {
        let (base, shift) = (slab.memory().addr(), os::page_bytes().trailing_zeros());
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
        slab.purged.set(self.count_slots_on(&pages) as u32);
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
    if keeps_states {
        (UNIT_COUNT << unit_shift) >> LEAST_SHIFT
    } else {
        (1 << unit_shift) - UNIT_COUNT * page_words(unit_shift) * 8
    }
}

const _: () = {
    let mut shift = *UNIT_SHIFTS.start();
    while shift <= *UNIT_SHIFTS.end() {
        let (tiny, last) = (Tiny::new(1, 1 << shift), UNIT_COUNT - 1);
        let behind = tiny.table_offset(last) + tiny.table_bytes();
        assert!(behind <= purged_offset(shift, false), "the bits of purged pages lie behind the last side table");
        let bytes = UNIT_COUNT * page_words(shift) * 8;
        assert!(bytes <= super::noted::SPARE_BYTES >> (*UNIT_SHIFTS.end() - shift), "they fit where no slot's bit is");
        shift += 1;
    }
};
