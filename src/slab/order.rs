//! Puts a slab's free list back into address order.
//!
//! Slots that come back in random order are entries of one slot each, and would be handed out as scattered as they came: what is
//! then allocated together lies apart, and is scattered again when it is freed. So before a slab with many such entries is taken
//! from, its list is claimed and made anew from a bitmap of its free slots, which needs memory only meanwhile.

use core::ops::Range;

use super::pages::{Claim, Scratch};
use super::{Geometry, slab_memory};
use crate::fault::{FaultKind, Truth};
use crate::header::SlabHeader;
use crate::trunk::Run;

/// One slot in this many must be free: fewer are soon handed out again in any order.
const LEAST_PART: usize = 8;
/// So many must be free: with fewer the bitmap costs more than it gives. Small slabs lie close together anyhow.
const LEAST_FREE: usize = 1024;

impl Geometry<'_> {
    /// Whether putting the list in order is worth it: it costs a few nanoseconds for each free slot, and of four at least three were
    /// freed on their own since the last time. Lists without entries have an order and no runs.
    #[inline]
    pub(crate) fn is_disordered(&self, slab: &SlabHeader) -> bool {
        let (recycled, slots) = (self.recycled(slab), self.slot_count());
        slab.trunks.loose() as usize >= recycled / 4 * 3
            && recycled >= LEAST_FREE.max(slots / LEAST_PART)
            && self.class.slot_bytes() > 4
            && self.has_trunks()
    }

    /// Puts a claimed list in order. Called without a lock: it takes up to a millisecond.
    pub(crate) fn order(&self, claim: &mut Claim, scratch: &mut Scratch) {
        let bits = scratch.words(self.slot_words());
        self.drain(claim, bits);
        self.list_again(claim, bits);
    }

    /// Makes a bitmap of a claimed list, which is empty then.
    pub(super) fn drain(&self, claim: &Claim, bits: &mut [u64]) {
        let slab = claim.slab;
        let (mut count, mut seen) = (0, 0);
        // The trunks before, the next of which links to the trunk at hand.
        let mut before = [0; 3];
        let put = |place: u32, is_trunk: bool, slots: Range<usize>| {
            // Clients may have written to free slots, or freed some twice. Where the list is told from what it must be the process ends: the
            // count of the free slots is right only for a whole list.
            if slots.end > self.slot_count() {
                self.report_written(slab, if is_trunk { before[0] } else { place });
            }
            if is_trunk {
                before = [before[1], before[2], place];
            }
            count += slots.len();
            seen = place;
            if let Some(twice) = set(bits, slots) {
                self.report_listed_twice(slab, twice);
            }
        };
        // SAFETY: a list of this slab's, which nobody else has (P3).
        unsafe { claim.list.drain(slab_memory(slab), self.class, put) };
        if count != claim.listed {
            self.report_written(slab, seen);
        }
    }

    /// Makes the list of a bitmap in order.
    pub(super) fn list_again(&self, claim: &Claim, bits: &[u64]) {
        runs_from_the_end(bits, |run| {
            // SAFETY: slots that were claimed (P3), in no list since it was drained but in that of earlier runs.
            unsafe { claim.list.push(slab_memory(claim.slab), self.class.slot_bytes(), run, true) };
        });
        // The new list's trunks are in order.
        claim.list.forget_loose();
    }

    /// Ends the process: the list has a slot twice.
    #[cold]
    #[inline(never)]
    fn report_listed_twice(&self, slab: &SlabHeader, slot: usize) -> ! {
        let address = slab.memory().addr() + slot * self.class.slot_bytes();
        self.report_under_lock(FaultKind::DoubleFree, address, Truth::Said)
    }

    /// Ends the process: the list is not as it was left, at this offset of the slab or before.
    #[cold]
    #[inline(never)]
    fn report_written(&self, slab: &SlabHeader, place: u32) -> ! {
        let slot = self.class.slots_in(place as usize) * self.class.slot_bytes();
        let (address, offset) = (slab.memory().addr() + slot, (place as usize).saturating_sub(slot));
        self.report_under_lock(FaultKind::WriteAfterFree, address, Truth::Offset(offset))
    }
}

/// Sets the bits of slots that lie one after another; returns one of them that was set already, if there is any.
fn set(bits: &mut [u64], slots: Range<usize>) -> Option<usize> {
    let mut first = slots.start;
    while first < slots.end {
        let here = (slots.end - first).min(64 - first % 64);
        let ones = (u64::MAX >> (64 - here)) << (first % 64);
        let word = &mut bits[first / 64];
        if *word & ones != 0 {
            return Some(first - first % 64 + (*word & ones).trailing_zeros() as usize);
        }
        *word |= ones;
        first += here;
    }
    None
}

/// The runs of set bits, as long as runs may be, the last first.
fn runs_from_the_end(bits: &[u64], mut each: impl FnMut(Run)) {
    // What has been seen of the run at hand: its first bit, and how many.
    let (mut first, mut length) = (0, 0);
    for (index, &word) in bits.iter().enumerate().rev() {
        let mut word = word;
        while word != 0 {
            let above = word.leading_zeros();
            let ones = (word << above).leading_ones();
            let below = 64 - above - ones;
            let start = index * 64 + below as usize;
            if length > 0 && (start + ones as usize != first || length + ones as usize > Run::LENGTH_MAX) {
                each(Run::new(first as u32, length));
                length = 0;
            }
            (first, length) = (start, length + ones as usize);
            word &= (1 << below) - 1;
        }
    }
    if length > 0 {
        each(Run::new(first as u32, length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_come_back_whole_and_descending() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for density in (1..64).step_by(if cfg!(miri) { 31 } else { 1 }) {
            let mut slots: Vec<bool> = (0..512 * 64)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 58) < density
                })
                .collect();
            // Longer than a run can be, over many words.
            slots[7000..7000 + 2 * Run::LENGTH_MAX].fill(true);
            let mut bits = vec![0; 512];
            let mut first = 0;
            while let Some(start) = slots[first..].iter().position(|&free| free).map(|place| first + place) {
                let length = slots[start..].iter().take_while(|&&free| free).count();
                for part in (0..length).step_by(Run::LENGTH_MAX) {
                    let end = start + length.min(part + Run::LENGTH_MAX);
                    assert_eq!(set(&mut bits, start + part..end), None);
                }
                first = start + length;
            }
            let mut found = vec![false; slots.len()];
            let mut end = usize::MAX;
            runs_from_the_end(&bits, |run| {
                let range = run.index() as usize..run.index() as usize + run.length();
                assert!(range.end <= end, "the last first");
                end = range.start;
                found[range].fill(true);
            });
            assert_eq!(found, slots);
        }
    }
}
