//! Some of the pieces of a slab, as bits; and which are wholly free in a bitmap of free slots.

#![forbid(unsafe_code)]

use core::ops::Range;

use crate::header::UNIT_SHIFTS;

/// The smallest page there is.
pub(super) const PAGE_SHIFT_MIN: u32 = 12;
/// Words of bits for the largest unit.
pub(super) const WORDS_MAX: usize = (1 << (*UNIT_SHIFTS.end() - PAGE_SHIFT_MIN)) / 64;

/// Some of a slab's pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pieces(pub(super) [u64; WORDS_MAX]);

impl Pieces {
    pub(super) const NONE: Self = Self([0; WORDS_MAX]);

    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    pub(super) fn has(&self, piece: usize) -> bool {
        self.0[piece / 64] >> (piece % 64) & 1 != 0
    }

    pub(super) fn insert(&mut self, piece: usize) {
        self.0[piece / 64] |= 1 << (piece % 64);
    }

    pub(super) fn remove(&mut self, piece: usize) {
        self.0[piece / 64] &= !(1 << (piece % 64));
    }

    /// The first piece from this one on that is among them, or is not.
    pub(super) fn next(&self, from: usize, is_among: bool) -> Option<usize> {
        (from..64 * WORDS_MAX).find(|&piece| self.has(piece) == is_among)
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

    pub(super) fn each(&self) -> impl Iterator<Item = usize> {
        self.runs().flatten()
    }
}

/// Takes pieces out of a bitmap of free slots, all whose slots are in it, but for some.
pub(super) fn take_whole(bits: &mut [u64], slots_shift: u32, but: &Pieces) -> Pieces {
    let mut whole = Pieces::NONE;
    let piece_count = ((bits.len() * 64) >> slots_shift).min(64 * WORDS_MAX);
    for piece in (0..piece_count).filter(|&piece| !but.has(piece)) {
        let (words, mask) = slots_of(piece, slots_shift);
        if bits[words.clone()].iter().all(|word| word & mask == mask) {
            bits[words].iter_mut().for_each(|word| *word &= !mask);
            whole.insert(piece);
        }
    }
    whole
}

/// Puts the slots of pieces back into a bitmap of free slots.
pub(super) fn give_whole(bits: &mut [u64], slots_shift: u32, pieces: &Pieces) {
    for piece in pieces.each() {
        let (words, mask) = slots_of(piece, slots_shift);
        bits[words].iter_mut().for_each(|word| *word |= mask);
    }
}

/// The words in which the bits of a piece's slots are, and which bits of each.
fn slots_of(piece: usize, slots_shift: u32) -> (Range<usize>, u64) {
    if slots_shift >= 6 {
        let words = 1 << (slots_shift - 6);
        return (piece * words..(piece + 1) * words, u64::MAX);
    }
    let first = piece << slots_shift;
    (first / 64..first / 64 + 1, ((1 << (1 << slots_shift)) - 1) << (first % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_whole_and_go_back_as_they_were() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for slots_shift in 0..10 {
            let words = if slots_shift < 6 { 8 } else { 8 << (slots_shift - 6) };
            let pieces = (words * 64) >> slots_shift;
            let free: Vec<bool> = (0..pieces)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    random >> 62 != 0
                })
                .collect();
            let mut bits = vec![u64::MAX; words];
            // One slot of each other piece is used.
            for piece in (0..pieces).filter(|&piece| !free[piece]) {
                let slot = (piece << slots_shift) + (random as usize >> 7) % (1 << slots_shift);
                bits[slot / 64] &= !(1 << (slot % 64));
            }
            let before = bits.clone();
            let mut but = Pieces::NONE;
            but.insert(pieces / 2);
            let whole = take_whole(&mut bits, slots_shift, &but);
            for (piece, &free) in free.iter().enumerate() {
                assert_eq!(whole.has(piece), free && piece != pieces / 2, "piece {piece} of 1 << {slots_shift} slots");
            }
            let ones = |bits: &[u64]| bits.iter().map(|word| word.count_ones() as usize).sum::<usize>();
            assert_eq!(ones(&bits) + (whole.count() << slots_shift), ones(&before));
            assert_eq!(whole.each().count(), whole.count());
            give_whole(&mut bits, slots_shift, &whole);
            assert_eq!(bits, before);
        }
    }

    #[test]
    fn runs_of_pieces_are_as_long_as_can_be() {
        let mut pieces = Pieces::NONE;
        (0..3).chain(60..130).chain(511..512).for_each(|piece| pieces.insert(piece));
        assert_eq!(pieces.runs().collect::<Vec<_>>(), [0..3, 60..130, 511..512]);
        assert_eq!(pieces.count(), 74);
    }
}
