//! Random numbers that are the same in every run.
#![forbid(unsafe_code)]

/// A small fast generator, always seeded alike, so that every allocator sees the same sequence.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xA076_1D64_78BD_642F);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xE703_7ED1_A0B4_28DB);
        (product >> 64) as u64 ^ product as u64
    }

    /// A number below `bound`.
    #[inline(always)]
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number of the range, both ends included.
    #[inline(always)]
    #[allow(dead_code, reason = "not every benchmark needs it")]
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// A multiple of 8 from 8 to `largest`, small ones more often: half of all are in the lower quarter.
    #[inline(always)]
    pub(crate) fn size(&mut self, largest: usize) -> usize {
        let unit = largest / 8;
        (self.below(unit) * self.below(unit) / unit + 1) * 8
    }

    /// Puts a slice into random order.
    pub(crate) fn shuffle<T>(&mut self, slice: &mut [T]) {
        for index in (1..slice.len()).rev() {
            slice.swap(index, self.below(index + 1));
        }
    }
}
