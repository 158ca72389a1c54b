//! Pure class arithmetic: a layout's size class, the length of a class's slots, and which slot lies at an offset.
//!
//! There are two schemes, and a family has one of them ([`Classes`]). In both the class of a layout is the least one
//! whose slots hold it and are a multiple of its alignment, and any size from the one asked for to the slot's own, with
//! the same alignment, has the same class. Slabs begin at multiples of their length, so a slot is aligned as its class is.
//!
//! ```text
//! natural   1  2  4  8  16  32  64 …             powers of two; a slot is aligned to its own length
//! spaced    8  16  24 … 128  144  160 … 256  288 …   multiples of 8, then 8 in each doubling
//! ```
//!
//! A spaced class is a number with a mantissa of three bits in units of eight bytes, so index and length follow from each
//! other by shifts. Rounding `size` up to a multiple of `align` is enough to find a class that is a multiple of it:
//! where the classes lie closer than `align`, what was rounded is a class itself; else each class is a multiple.
//!
//! The slot at an offset is a shift where lengths are powers of two; else a multiplication by the reciprocal, whose lower
//! half says whether the offset is a multiple (Lemire, Kaser, Kurz: *Faster remainder by direct computation*, 2019).

#![forbid(unsafe_code)]

use core::alloc::Layout;

/// How the lengths of a family's slots are spaced, chosen in [`family!`](macro@crate::family) with `classes: …`.
///
/// ```
/// use family_alloc::{Classes, Family, family};
///
/// family! {
///     struct Buffers;
///     struct Nodes { classes: Spaced }
/// }
///
/// assert_eq!((Buffers::CLASSES, Nodes::CLASSES), (Classes::Natural, Classes::Spaced));
/// let (buffer, node) = (Buffers::malloc(40), Nodes::malloc(40));
/// assert_eq!((Buffers::live_bytes(), Nodes::live_bytes()), (64, 40));
/// // SAFETY: allocated above with this size.
/// unsafe { Buffers::free(buffer, 40) };
/// // SAFETY: as above.
/// unsafe { Nodes::free(node, 40) };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Classes {
    /// Powers of two, from one byte to half a slab. Every slot is aligned to its own length, up to a page: for buffers
    /// of SIMD code or DMA, for what `posix_memalign` is used for, and where sizes are powers of two anyway. Up to half
    /// of a slot is left over.
    #[default]
    Natural,
    /// Multiples of 8 up to 128, then 8 in each doubling, up to an eighth of a slab: for maps, nodes, text, and as the
    /// global allocator. At most an eighth of what is asked for is left over (sizes below 8 take 8 bytes, and where
    /// slots have states, those below 16 take 16). A slot is aligned as its layout asks and to the lowest set bit of
    /// its length, up to a page: 24 bytes to 8, 48 bytes to 16.
    Spaced,
}

/// Number of natural classes: 1 B to 1 MiB.
pub(crate) const NATURAL_COUNT: usize = 21;
/// Number of spaced classes: 8 B to 256 KiB.
pub(crate) const SPACED_COUNT: usize = Classes::Spaced.count(2 << 20);
/// As many classes as a family may have.
pub(crate) const COUNT_MAX: usize = if NATURAL_COUNT > SPACED_COUNT { NATURAL_COUNT } else { SPACED_COUNT };

/// The shortest spaced slot, and the distance of the shorter ones.
const UNIT_SHIFT: u32 = 3;
/// Spaced classes in a doubling, as a power of two.
const STEPS_SHIFT: u32 = 3;
/// Slots of the longest spaced class in a slab: so few bytes are left over behind them as one of these is long.
const SPACED_SLOTS_LEAST: usize = 8;
/// Of longer slots a part of a page at a slab's end would be more than all other metadata.
const LONG_BYTES: usize = 8 << 10;
/// The page of most systems.
const PAGE_BYTES: usize = 4 << 10;

impl Classes {
    /// The class of a layout of at least one byte: none with slots shorter than `least` bytes, a power of two. A layout
    /// that no slab holds gets an index above [`largest`](Self::largest).
    #[inline(always)]
    pub(crate) const fn of(self, layout: Layout, least: usize) -> SizeClass {
        let index = match self {
            Self::Natural => {
                let need = if layout.size() > layout.align() { layout.size() } else { layout.align() };
                // `need` is at least 1, because alignment is, so the logarithm of `2 need − 1`, rounded down, is that
                // of `need`, rounded up; also where `2 need` is one bit too long. Its lowest bit is set anyhow; saying
                // so spares the processor's zero case. With as many more as `least` it is as if `need` had been that.
                ((need << 1).wrapping_sub(1) | (2 * least - 1)).ilog2() as usize
            }
            Self::Spaced => {
                // The last byte of what `size` is when it is rounded up to a multiple of `align`.
                let last = layout.size().wrapping_sub(1) | (layout.align() - 1);
                let last = if least > 1 && last < least { least - 1 } else { last };
                spaced_index(last)
            }
        };
        SizeClass { index, classes: self }
    }

    /// The class with this index, which must be below [`count`](Self::count) of the longest slab.
    #[inline(always)]
    pub(crate) const fn class(self, index: usize) -> SizeClass {
        assert!(index < COUNT_MAX, "no such class");
        SizeClass { index, classes: self }
    }

    /// The index of the longest class that slabs of this length serve: a slab holds at least two natural slots, or eight
    /// spaced ones.
    #[inline]
    pub(crate) const fn largest(self, slab_bytes: usize) -> usize {
        match self {
            Self::Natural => slab_bytes.trailing_zeros() as usize - 1,
            Self::Spaced => spaced_index(slab_bytes / SPACED_SLOTS_LEAST - 1),
        }
    }

    /// How many classes a family with slabs of this length has. Those of natural families are always as many.
    pub(crate) const fn count(self, slab_bytes: usize) -> usize {
        match self {
            Self::Natural => NATURAL_COUNT,
            Self::Spaced => self.largest(slab_bytes) + 1,
        }
    }

    /// All classes of a family with slabs of this length, shortest first.
    pub(crate) fn all(self, slab_bytes: usize) -> impl Iterator<Item = SizeClass> + Clone + use<> {
        (0..self.count(slab_bytes)).map(move |index| self.class(index))
    }
}

/// The index of the least spaced class whose slots hold a byte at the offset `last`.
#[inline(always)]
const fn spaced_index(last: usize) -> usize {
    let units = last >> UNIT_SHIFT;
    let doubling = (units | ((2 << STEPS_SHIFT) - 1)).ilog2() - STEPS_SHIFT;
    ((doubling as usize) << STEPS_SHIFT) + (units >> doubling)
}

/// The length of the slots of a spaced class.
#[inline(always)]
const fn spaced_bytes(index: usize) -> usize {
    let doubling = (index >> STEPS_SHIFT).saturating_sub(1);
    (index - (doubling << STEPS_SHIFT) + 1) << (doubling as u32 + UNIT_SHIFT)
}

/// 2⁶⁴ divided by the length of each spaced class's slots, rounded up.
static RECIPROCALS: [u64; SPACED_COUNT] = {
    let mut reciprocals = [0; SPACED_COUNT];
    let mut index = 0;
    while index < SPACED_COUNT {
        reciprocals[index] = reciprocal(index);
        index += 1;
    }
    reciprocals
};

const fn reciprocal(index: usize) -> u64 {
    u64::MAX / spaced_bytes(index) as u64 + 1
}

/// A class of one scheme.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SizeClass {
    index: usize,
    classes: Classes,
}

impl SizeClass {
    /// The natural class with this index.
    #[cfg(any(test, loom))]
    pub(crate) const fn natural(index: usize) -> Self {
        Classes::Natural.class(index)
    }

    /// The class that a tag names, whose index may be any of seven bits; the last one where there is no such class.
    pub(crate) const fn told(classes: Classes, index: usize) -> Self {
        let last = classes.count(2 << 20) - 1;
        Self { index: if index < last { index } else { last }, classes }
    }

    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.index
    }

    /// The same class, of a scheme that is known at compile time: so code that does not know the class is not made for both schemes.
    #[inline(always)]
    pub(crate) const fn of_scheme(self, classes: Classes) -> Self {
        debug_assert!(matches!(
            (self.classes, classes),
            (Classes::Natural, Classes::Natural) | (Classes::Spaced, Classes::Spaced)
        ));
        Self { index: self.index, classes }
    }

    #[inline(always)]
    pub(crate) const fn classes(self) -> Classes {
        self.classes
    }

    /// The length of a slot.
    #[inline(always)]
    pub(crate) const fn slot_bytes(self) -> usize {
        match self.classes {
            Classes::Natural => 1 << self.index,
            Classes::Spaced => spaced_bytes(self.index),
        }
    }

    /// How many whole slots so many bytes are, at most a region's.
    #[inline(always)]
    pub(crate) const fn slots_in(self, bytes: usize) -> usize {
        match self.classes {
            Classes::Natural => bytes >> self.index,
            Classes::Spaced => self.divided(bytes).0,
        }
    }

    /// How many slots a slab of this length has. Of long spaced ones only so many that they end with a page: what is left over is
    /// then no memory.
    #[inline(always)]
    pub(crate) const fn slots_of(self, slab_bytes: usize) -> usize {
        let slots = self.slots_in(slab_bytes);
        if matches!(self.classes, Classes::Natural) || self.slot_bytes() <= LONG_BYTES {
            return slots;
        }
        // As many slots together are whole pages, or one is.
        slots & !((PAGE_BYTES >> self.slot_bytes().trailing_zeros()).saturating_sub(1))
    }

    /// The number of the slot that begins at this offset. Where none does, or none of a slab, it is more than a slab has.
    #[inline(always)]
    pub(crate) const fn slot_at(self, offset: usize) -> usize {
        match self.classes {
            // Bits below a slot become the highest.
            Classes::Natural => offset.rotate_right(self.index as u32),
            Classes::Spaced => match self.divided(offset) {
                (slot, true) => slot,
                (_, false) => usize::MAX,
            },
        }
    }

    /// An offset divided by the length of a slot, and whether it is a multiple. Both are right for offsets of less than
    /// 2²⁸; beyond, the quotient is not too small.
    #[inline(always)]
    const fn divided(self, offset: usize) -> (usize, bool) {
        let reciprocal = RECIPROCALS[self.index];
        let product = offset as u128 * reciprocal as u128;
        ((product >> 64) as usize, (product as u64) < reciprocal)
    }
}

const _: () = {
    let mut index = 0;
    while index < SPACED_COUNT {
        // Whoever divides adds up less than a reciprocal with offsets of so many bits.
        let excess = reciprocal(index) as u128 * spaced_bytes(index) as u128 - (1 << 64);
        assert!(excess << 28 <= reciprocal(index) as u128, "offsets in a region are divided exactly");
        index += 1;
    }
    assert!(Classes::Natural.largest(2 << 20) == NATURAL_COUNT - 1, "the largest class is half of the largest slab");
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Every size, or under Miri few of them.
    const STEP: usize = if cfg!(miri) { 397 } else { 1 };
    const BOTH: [Classes; 2] = [Classes::Natural, Classes::Spaced];
    const SLAB_BYTES: usize = 2 << 20;

    /// The lengths of slots as the documentation has them, up to 1 MiB.
    fn lengths(classes: Classes) -> Vec<usize> {
        match classes {
            Classes::Natural => (0..=20).map(|shift| 1 << shift).collect(),
            Classes::Spaced => {
                let eighths = |shift: usize| (1..=8_usize).map(move |step| (1 << shift) + step * (1 << shift) / 8);
                (1..=16).map(|units| 8 * units).chain((7..20).flat_map(eighths)).collect()
            }
        }
    }

    /// The definition the arithmetic must meet: the least class whose slot holds the size and is a multiple of the alignment.
    fn naive(lengths: &[usize], size: usize, align: usize, least: usize) -> Option<usize> {
        lengths.iter().position(|&bytes| bytes >= size.max(least) && bytes % align == 0)
    }

    fn class(classes: Classes, size: usize, align: usize, least: usize) -> SizeClass {
        classes.of(Layout::from_size_align(size, align).unwrap(), least)
    }

    #[test]
    fn class_is_the_least_that_holds_size_and_alignment() {
        for classes in BOTH {
            let lengths = lengths(classes);
            for align in (0..=20).map(|shift| 1 << shift) {
                for size in (1..=70_000).step_by(STEP).chain([(1 << 20) - 1, 1 << 20]) {
                    for least in [1, 16] {
                        let found = class(classes, size, align, least);
                        let expected = naive(&lengths, size, align, least).unwrap();
                        assert_eq!(found.index(), expected, "{classes:?}: {size} bytes aligned to {align}");
                        assert_eq!(found.slot_bytes(), lengths[expected]);
                    }
                }
                for size in [(1 << 20) + 1, 3 << 20] {
                    assert!(class(classes, size, align, 1).index() > classes.largest(SLAB_BYTES));
                }
            }
        }
    }

    #[test]
    fn any_size_up_to_the_slot_gives_the_class_back() {
        for classes in BOTH {
            for align in (0..=16).map(|shift| 1 << shift) {
                for size in (1..=65_536).step_by(STEP) {
                    let found = class(classes, size, align, 1);
                    assert_eq!(class(classes, found.slot_bytes(), align, 1), found, "size {size}, align {align}");
                }
            }
        }
    }

    /// What the C-like door frees knows no alignment.
    #[test]
    fn what_was_rounded_up_has_the_class_without_its_alignment() {
        for align in (0..=16).map(|shift| 1 << shift) {
            for size in (1_usize..=65_536).step_by(STEP) {
                let rounded = size.next_multiple_of(align);
                assert_eq!(class(Classes::Spaced, rounded, 1, 1), class(Classes::Spaced, size, align, 1));
            }
        }
    }

    #[test]
    fn spaced_classes_leave_an_eighth_over_at_most() {
        for size in (8..=256 << 10).step_by(STEP) {
            let bytes = class(Classes::Spaced, size, 1, 1).slot_bytes();
            assert!(bytes - size < 8 || (bytes - size) * 8 < size, "{size} in {bytes}");
        }
        let last = Classes::Spaced.class(SPACED_COUNT - 1);
        assert_eq!((SPACED_COUNT, last.slot_bytes()), (104, 256 << 10));
        let of_small_slabs = Classes::Spaced.all(64 << 10).last();
        assert_eq!(of_small_slabs.map(SizeClass::slot_bytes), Some(8 << 10));
    }

    #[test]
    fn slots_are_found_by_their_offsets() {
        let region_bytes = 64 * SLAB_BYTES;
        for class in BOTH.into_iter().flat_map(|classes| classes.all(SLAB_BYTES)) {
            let bytes = class.slot_bytes();
            let slots = SLAB_BYTES / bytes;
            assert_eq!(class.slots_in(SLAB_BYTES), slots, "{class:?}");
            let used = class.slots_of(SLAB_BYTES);
            let is_long = class.classes() == Classes::Spaced && bytes > 8192;
            let ends = |slots: usize| !is_long || slots * bytes % 4096 == 0;
            assert_eq!((0..=slots).rev().find(|&slots| ends(slots)), Some(used), "{class:?}");
            let few = (0..slots).step_by(slots.div_ceil(if cfg!(miri) { 3 } else { 3000 })).chain([slots - 1]);
            for slot in few.chain([slots, region_bytes / bytes - 1]) {
                let offset = slot * bytes;
                assert_eq!((class.slot_at(offset), class.slots_in(offset)), (slot, slot), "{class:?}");
                assert_eq!(class.slots_in(offset + bytes - 1), slot, "{class:?}");
                for inside in [1, bytes / 2, bytes - 1].into_iter().filter(|inside| (1..bytes).contains(inside)) {
                    assert!(class.slot_at(offset + inside) >= region_bytes / bytes, "{class:?}: {offset} + {inside}");
                }
            }
            let wild = (0..usize::BITS).map(|bit| usize::MAX << bit);
            let wild = wild.chain((28..usize::BITS).map(|bit| (1 << bit) + bytes));
            wild.for_each(|offset| assert!(class.slot_at(offset) >= slots, "{class:?}: {offset:#x}"));
        }
    }

    #[test]
    fn the_largest_layout_does_not_overflow() {
        for classes in BOTH {
            assert!(class(classes, isize::MAX as usize, 1, 1).index() > classes.largest(SLAB_BYTES));
            for shift in [usize::BITS - 2, usize::BITS - 1] {
                for least in [1, 16] {
                    assert!(class(classes, 0, 1 << shift, least).index() > classes.largest(SLAB_BYTES));
                }
            }
        }
        assert_eq!(class(Classes::Natural, isize::MAX as usize, 1, 1).index(), usize::BITS as usize - 1);
    }
}
