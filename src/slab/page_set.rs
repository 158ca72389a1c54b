//! Some of the pages of a slab, as bits; and ranges of bits in a bitmap of free slots.

#![forbid(unsafe_code)]

use core::ops::Range;

use crate::header::UNIT_SHIFTS;

/// The smallest page there is.
pub(super) const PAGE_SHIFT_MIN: u32 = 12;
/// Words of bits for the largest unit.
pub(super) const WORDS_MAX: usize = (1 << (*UNIT_SHIFTS.end() - PAGE_SHIFT_MIN)) / 64;

/// Some of a slab's pages. On systems with longer pages only the first bits are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageSet(pub(super) [u64; WORDS_MAX]);

impl PageSet {
    pub(super) const NONE: Self = Self([0; WORDS_MAX]);

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    pub(super) fn has(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 != 0
    }

    pub(super) fn insert(&mut self, page: usize) {
        self.0[page / 64] |= 1 << (page % 64);
    }

    pub(super) fn remove(&mut self, page: usize) {
        self.0[page / 64] &= !(1 << (page % 64));
    }

    /// The first page from this one on that is among them, or is not.
    pub(super) fn next(&self, from: usize, is_among: bool) -> Option<usize> {
        (from..64 * WORDS_MAX).find(|&page| self.has(page) == is_among)
    }

    /// Those that lie one after another, the first first.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        core::iter::from_fn(move || {
            let start = self.next(end, true)?;
            end = self.next(start, false).unwrap_or(64 * WORDS_MAX);
            Some(start..end)
        })
    }

    /// Adds those of another set.
    pub(super) fn insert_all(&mut self, others: &Self) {
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word |= other);
    }
}

/// Whether all of these bits are set, and there are any. Those behind the last word are not.
pub(super) fn all_set(bits: &[u64], range: Range<usize>) -> bool {
    !range.is_empty() && range.end <= 64 * bits.len() && words_of(range).all(|(word, mask)| bits[word] & mask == mask)
}

/// Sets bits.
pub(super) fn set_all(bits: &mut [u64], range: Range<usize>) {
    words_of(range).for_each(|(word, mask)| bits[word] |= mask);
}

/// Clears bits.
pub(super) fn clear_all(bits: &mut [u64], range: Range<usize>) {
    words_of(range).for_each(|(word, mask)| bits[word] &= !mask);
}

/// The words that a range of bits lies in, and which bits of each.
pub(super) fn words_of(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let mut first = range.start;
    core::iter::from_fn(move || {
        let here = range.end.checked_sub(first)?.min(64 - first % 64);
        if here == 0 {
            return None;
        }
        let word = (first / 64, (u64::MAX >> (64 - here)) << (first % 64));
        first += here;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_cleared_as_one_by_one() {
        let is_set = |bits: &[u64], bit: usize| bits[bit / 64] >> (bit % 64) & 1 != 0;
        for (start, end) in [(0, 1), (3, 64), (0, 64), (63, 65), (5, 200), (64, 256), (70, 70), (255, 256)] {
            let mut bits = [0; 5];
            set_all(&mut bits, start..end);
            assert!((0..256).all(|bit| is_set(&bits, bit) == (start..end).contains(&bit)), "{start} to {end}");
            assert_eq!(all_set(&bits, start..end), start < end);
            assert!(!all_set(&bits, start..end + 1) && (start == 0 || !all_set(&bits, start - 1..end)));
            let mut others = [u64::MAX; 4];
            clear_all(&mut others, start..end);
            assert!((0..256).all(|bit| is_set(&others, bit) != (start..end).contains(&bit)), "{start} to {end}");
        }
    }

    #[test]
    fn runs_of_pages_are_as_long_as_can_be() {
        let mut pages = PageSet::NONE;
        (0..3).chain(60..130).chain(511..512).for_each(|page| pages.insert(page));
        assert_eq!(pages.runs().collect::<Vec<_>>(), [0..3, 60..130, 511..512]);
        assert_eq!(pages.runs().map(|run| run.len()).sum::<usize>(), 74);
    }
}
