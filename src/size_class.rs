//! Pure class arithmetic: a layout's size class and the size of a class's slots.
//!
//! The class of a layout is the class of `max(size, align)` and nothing else: the least power of two that holds it. So a slot
//! is aligned to its own size, any `size` from the requested to the slot's own gives the same class back, and aligned
//! allocation costs nothing extra (the rule of `posix_memalign` in the proof of concept).
//!
//! ```text
//! class   0    1    2    3   …   10     11   …    20
//! slot    1 B  2 B  4 B  8 B …  1 KiB  2 KiB …  1 MiB     above: whole pages
//! ```

#![forbid(unsafe_code)]

use core::alloc::Layout;

/// Number of size classes: 1 B to 1 MiB.
pub(crate) const CLASS_COUNT: usize = 21;

/// A power-of-two size class: the slot holds `1 << index` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SizeClass(usize);

impl SizeClass {
    /// The class of a layout of at least one byte. Layouts above 1 MiB get an index of [`CLASS_COUNT`] or more.
    #[inline(always)]
    pub(crate) const fn of(layout: Layout) -> Self {
        Self::of_at_least(layout, 0)
    }

    /// The class of a layout of at least one byte, or the one with the index `least` if that is larger.
    #[inline(always)]
    pub(crate) const fn of_at_least(layout: Layout, least: usize) -> Self {
        let need = if layout.size() > layout.align() { layout.size() } else { layout.align() };
        // `need` is at least 1, because alignment is, so the logarithm of `2 need − 1`, rounded down, is that of `need`, rounded
        // up; also where `2 need` is one bit too long. Its lowest bit is set anyhow; saying so spares the processor's zero case.
        // With as many more as `least` it is as if `need` had been a slot of that class at least.
        Self(((need << 1).wrapping_sub(1) | ((2 << least) - 1)).ilog2() as usize)
    }

    /// The class with this index, which must be below [`CLASS_COUNT`].
    pub(crate) const fn from_index(index: usize) -> Self {
        assert!(index < CLASS_COUNT, "no such class");
        Self(index)
    }

    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.0
    }

    #[inline(always)]
    pub(crate) const fn slot_bytes(self) -> usize {
        1 << self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every size, or under Miri few of them.
    const STEP: usize = if cfg!(miri) { 397 } else { 1 };

    /// The definition the arithmetic must meet: the least class whose slot holds the size and is a multiple of the alignment.
    fn naive(size: usize, align: usize) -> usize {
        (0..usize::BITS as usize)
            .find(|&index| (1usize << index) >= size && (1usize << index).checked_rem(align) == Some(0))
            .unwrap()
    }

    #[test]
    fn class_is_the_least_that_holds_size_and_alignment() {
        for align_shift in 0..=20 {
            let align = 1 << align_shift;
            for size in (1..=70_000).step_by(STEP).chain([1 << 20, (1 << 20) + 1, 3 << 20]) {
                let layout = Layout::from_size_align(size, align).unwrap();
                assert_eq!(SizeClass::of(layout).index(), naive(size, align), "{layout:?}");
                assert_eq!(SizeClass::of_at_least(layout, 4).index(), naive(size, align).max(4), "{layout:?}");
            }
        }
    }

    #[test]
    fn any_size_up_to_the_slot_gives_the_class_back() {
        for align_shift in 0..=16 {
            let align = 1 << align_shift;
            for size in (1..=65_536).step_by(STEP) {
                let class = SizeClass::of(Layout::from_size_align(size, align).unwrap());
                let whole = Layout::from_size_align(class.slot_bytes(), align).unwrap();
                assert_eq!(SizeClass::of(whole), class, "size {size}, align {align}");
            }
        }
    }

    #[test]
    fn the_largest_layout_does_not_overflow() {
        let layout = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        assert_eq!(SizeClass::of(layout).index(), usize::BITS as usize - 1);
        for align_shift in [usize::BITS - 2, usize::BITS - 1] {
            let layout = Layout::from_size_align(0, 1 << align_shift).unwrap();
            assert_eq!(SizeClass::of(layout).index(), align_shift as usize);
            assert_eq!(SizeClass::of_at_least(layout, 4).index(), align_shift as usize);
        }
    }
}
