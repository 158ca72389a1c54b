//! What is known of one run of pages, and the bins that free runs wait in.

#![forbid(unsafe_code)]

/// What a run is. Zeroed memory is [`Unused`](Self::Unused).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    /// A place for a run, and none.
    Unused = 0,
    /// A client's.
    Live,
    /// Free; holds memory.
    Dirty,
    /// Free; reads zero.
    Clean,
    /// On its way back to the system: it belongs to the thread that gives it back.
    Leaving,
}

/// The number of a run's place in its range; [`NONE`] is no run.
pub(super) type Id = u16;
pub(super) const NONE: Id = 0;

/// One run of pages. All of it zero is a run that is none.
// A `u64` need not be at a multiple of 8 where a processor has 32 bits.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub(super) struct Run {
    /// When the first of it was freed; for [`State::Dirty`].
    pub(super) since: u64,
    pub(super) first: u32,
    pub(super) pages: u32,
    /// Neighbours in address order.
    pub(super) before: Id,
    pub(super) after: Id,
    /// Neighbours in a bin; `next` is also the next unused place.
    pub(super) previous: Id,
    pub(super) next: Id,
    /// Neighbours in the order of `since`.
    pub(super) older: Id,
    pub(super) newer: Id,
    pub(super) state: State,
    /// Whether a live run has grown: it is left room behind.
    pub(super) grows: bool,
    /// Whether a live run was cleared for who wants zero, who may never touch it.
    pub(super) is_cleared: bool,
}

impl Run {
    pub(super) fn end(&self) -> u32 {
        self.first + self.pages
    }
}

/// A power of two of pages is cut into so many bins; shorter runs have bins of their own length.
const PARTS: u32 = 8;
const PARTS_SHIFT: u32 = PARTS.trailing_zeros();
/// Enough for runs of 2¹⁶ pages.
pub(super) const BIN_COUNT: usize = 120;
/// So many runs of a bin are looked at.
pub(super) const LOOKS: usize = 16;

/// The bin of runs of so many pages, 1 or more: rising with the pages.
pub(super) fn bin_of(pages: u32) -> usize {
    if pages < PARTS {
        return pages as usize;
    }
    let power = pages.ilog2();
    let part = (pages >> (power - PARTS_SHIFT)) & (PARTS - 1);
    (((power - PARTS_SHIFT + 1) << PARTS_SHIFT) + part) as usize
}

/// The first run of each bin, and which bins have one.
pub(super) struct Bins {
    pub(super) filled: u128,
    pub(super) heads: [Id; BIN_COUNT],
}

impl Bins {
    pub(super) const EMPTY: Self = Self { filled: 0, heads: [NONE; BIN_COUNT] };

    /// The bins with a run from `least` on, in their order.
    pub(super) fn from(&self, least: usize) -> impl Iterator<Item = usize> + use<> {
        let mut left = if least < BIN_COUNT { self.filled & (u128::MAX << least) } else { 0 };
        core::iter::from_fn(move || {
            let bin = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (bin < BIN_COUNT).then_some(bin)
        })
    }

    /// One more than the highest bin with a run.
    pub(super) fn above_highest(&self) -> u8 {
        (u128::BITS - self.filled.leading_zeros()) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_rise_with_the_pages_and_part_each_power_in_eight() {
        let mut last = 0;
        for pages in 1..=1 << 16 {
            let bin = bin_of(pages);
            assert!(bin == last || bin == last + 1, "{pages} pages: {bin} after {last}");
            assert!(pages > 16 || bin == pages as usize, "short runs have bins of their own");
            last = bin;
        }
        assert!(last < BIN_COUNT);
        assert_eq!(bin_of(1 << 16) - bin_of(1 << 15), PARTS as usize);
    }

    #[test]
    fn only_filled_bins_are_walked() {
        let bins = Bins { filled: 1 << 3 | 1 << 20 | 1 << 119, ..Bins::EMPTY };
        assert_eq!(bins.from(0).collect::<Vec<_>>(), [3, 20, 119]);
        assert_eq!(bins.from(4).collect::<Vec<_>>(), [20, 119]);
        assert_eq!(bins.from(120).count(), 0);
        assert_eq!((bins.above_highest(), Bins::EMPTY.above_highest()), (120, 0));
    }
}
