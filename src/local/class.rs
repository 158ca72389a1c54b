//! Which slot of the arena serves a layout: the spaced classes up to 4 KiB, each of them twice, by alignment.

#![forbid(unsafe_code)]

use core::alloc::Layout;

/// The longest slot of the arena. What is longer is a block.
pub(super) const SLOT_BYTES_MAX: usize = 4 << 10;
/// What is aligned to more is a block.
pub(super) const ALIGN_MAX: usize = 16;
/// Up to here all multiples of 8 are lengths.
pub(super) const SHORT_BYTES: usize = 2 * DOUBLING * LEAST_BYTES;
/// The distance of the shortest slots, and what all are aligned to.
pub(super) const LEAST_BYTES: usize = 8;
/// How many lengths there are.
pub(super) const LENGTH_COUNT: usize = Class::of_bytes(SLOT_BYTES_MAX).index + 1;
/// How many classes there are: those that are aligned to 8, then those that are aligned to 16.
pub(super) const CLASS_COUNT: usize = 2 * LENGTH_COUNT;
/// A class is at least twice as long as the one that so many come before.
pub(super) const DOUBLING: usize = 8;

/// A class of slots of one length and alignment.
#[derive(Clone, Copy)]
pub(super) struct Class {
    /// Below [`CLASS_COUNT`].
    pub(super) index: usize,
    /// A multiple of 8, and of 16 where slots are aligned to that.
    pub(super) bytes: usize,
    /// What slots are aligned to: a field, because of a layout it is known at compile time when the index is not.
    pub(super) align: usize,
}

impl Class {
    /// The class of a layout of at least one byte, at most [`SLOT_BYTES_MAX`] long and at most [`ALIGN_MAX`] aligned.
    #[inline(always)]
    pub(super) const fn of(layout: Layout) -> Self {
        // The last byte of what the size is when it is rounded up to a multiple of the alignment.
        let class = Self::with_last((layout.size() - 1) | (layout.align() - 1));
        if layout.align() > LEAST_BYTES { class.aligned() } else { class }
    }

    /// The least class that holds so many bytes, aligned to 8.
    pub(super) const fn of_bytes(bytes: usize) -> Self {
        Self::with_last(bytes - 1)
    }

    /// How long the slot for at most [`SHORT_BYTES`] is, if it need not be aligned to more than 8.
    #[inline(always)]
    pub(super) const fn short_bytes(bytes: usize) -> usize {
        bytes.next_multiple_of(LEAST_BYTES)
    }

    /// The longest class of at most so many bytes, at least 8, aligned to 8.
    pub(super) const fn within(bytes: usize) -> Self {
        // The least one that is longer: the one before it is not.
        let longer = Self::of_bytes(if bytes < SLOT_BYTES_MAX { bytes + 1 } else { SLOT_BYTES_MAX + 1 });
        Self::with_index(longer.index - 1)
    }

    /// A multiple of 8 bytes up to 128, then eight lengths in each doubling: see `size_class`.
    #[inline(always)]
    const fn with_last(last: usize) -> Self {
        let units = last / LEAST_BYTES;
        if last < SHORT_BYTES {
            return Self { index: units, bytes: (units + 1) * LEAST_BYTES, align: LEAST_BYTES };
        }
        let doubling = (units | 1).ilog2() - DOUBLING.ilog2();
        let step = units >> doubling;
        let (index, bytes) = (doubling as usize * DOUBLING + step, ((step + 1) * LEAST_BYTES) << doubling);
        Self { index, bytes, align: LEAST_BYTES }
    }

    /// The class of the same length whose slots are aligned to 16.
    #[inline(always)]
    const fn aligned(self) -> Self {
        Self { index: self.index + LENGTH_COUNT, bytes: self.bytes, align: ALIGN_MAX }
    }

    /// The class with this index.
    pub(super) const fn with_index(index: usize) -> Self {
        let length = index % LENGTH_COUNT;
        let doubling = (length / DOUBLING).saturating_sub(1);
        let bytes = ((length - doubling * DOUBLING + 1) * LEAST_BYTES) << doubling;
        let class = Self { index: length, bytes, align: LEAST_BYTES };
        if index < LENGTH_COUNT { class } else { class.aligned() }
    }
}

const _: () = assert!(Class::with_index(LENGTH_COUNT - 1).bytes == SLOT_BYTES_MAX, "the last class is the longest");
const _: () = assert!(LEAST_BYTES >= size_of::<usize>(), "a free slot holds an address");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::Classes;

    #[test]
    fn classes_are_the_spaced_ones() {
        for align in [1, 2, 4, 8, 16] {
            for size in 1..=SLOT_BYTES_MAX {
                let layout = Layout::from_size_align(size, align).unwrap();
                let (class, spaced) = (Class::of(layout), Classes::Spaced.of(layout, 1));
                assert_eq!(
                    (class.index % LENGTH_COUNT, class.bytes),
                    (spaced.index(), spaced.slot_bytes()),
                    "{layout:?}"
                );
                assert_eq!((class.align, class.bytes % class.align), (align.max(8), 0), "{layout:?}");
                assert_eq!(Class::with_index(class.index).bytes, class.bytes);
            }
        }
    }

    #[test]
    fn what_is_within_is_the_longest() {
        for bytes in 8..3 * SLOT_BYTES_MAX {
            let class = Class::within(bytes);
            assert!(class.bytes <= bytes && class.align == 8, "{bytes}");
            let next = Class::with_index((class.index + 1).min(LENGTH_COUNT - 1));
            assert!(next.bytes > bytes || class.bytes == SLOT_BYTES_MAX, "{bytes}");
        }
        let twice = |index| Class::with_index(index + DOUBLING).bytes >= 2 * Class::with_index(index).bytes;
        assert!((0..LENGTH_COUNT - DOUBLING).all(twice));
    }
}
