//! Whole cache lines for a thread that has just begun with a class of which a line holds several slots.
//!
//! For as long as a few slots are all that it needs it would else write to lines that others write to: *false sharing*, see Berger
//! et al., Hoard (2000). Only the first slots of a bin are looked at, so that threads that come and go one after another find the
//! line that the last one has left.

use core::ops::Range;

use super::bitmap::{GROUP_WORDS, WORD_BITS};
use super::shelves::{Fresh, Shelves, Tail};
use super::{Geometry, slots_start};
use crate::capacity::LINE_BYTES;

/// What takes more lines at once is no thread that has just begun.
const LINES: usize = 4;

impl Shelves {
    /// Up to so many slots that share no cache line with any that are handed out later, recycled or fresh ones, if lines are what so
    /// few are worth.
    pub(crate) fn take_lines(&mut self, geometry: &Geometry<'_>, count: usize) -> Option<Fresh> {
        let bytes = count * geometry.class.slot_bytes();
        let is_wanted = geometry.class.slot_bytes() < LINE_BYTES
            && geometry.class.slot_bytes().is_power_of_two()
            && (LINE_BYTES..=LINES * LINE_BYTES).contains(&bytes)
            && count.is_power_of_two()
            && count < WORD_BITS
            && geometry.has_bitmap();
        if !is_wanted {
            return None;
        }
        let range = self.take_free_lines(geometry, count).map(|first| first..first + bytes);
        range.or_else(|| self.carve_lines(geometry, count)).map(|range| Fresh { range, zeroed: false })
    }

    /// Recycled ones; where they begin.
    fn take_free_lines(&mut self, geometry: &Geometry<'_>, count: usize) -> Option<usize> {
        let slab = self.partial.first()?;
        // SAFETY: a slab in `partial` is this bin's, whose lock is held.
        let slot = self.change(geometry, slab, || unsafe { geometry.take_group(slab, count) })?;
        self.used_slots += count;
        self.note_idle();
        // They go as a range, and what is left of a range at the end of what has been carved may become fresh again.
        slab.zeroed.set(false);
        Some(slots_start(slab) + slot * geometry.class.slot_bytes())
    }

    /// Fresh ones, up to where a line ends. Those before them in their line are in use already.
    fn carve_lines(&mut self, geometry: &Geometry<'_>, count: usize) -> Option<Range<usize>> {
        let slab = self.current.filter(|_| self.thin.first().is_none())?;
        let fresh = slab.fresh.get() as usize;
        let count = count - fresh % count;
        if geometry.fresh_room(slab) < count || fresh + count > GROUP_WORDS * WORD_BITS {
            return None;
        }
        let range = geometry.carve(slab, count);
        let slots = geometry.class.slots_in(range.len());
        self.used_slots += slots;
        self.carved_slots += slots;
        self.tail = Tail::Used;
        (slots > 0).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::UnitPool;
    use crate::size_class::SizeClass;
    use crate::sync::Lock;

    #[test]
    fn threads_that_begin_have_lines_of_their_own_and_leave_them_to_the_next() {
        for (index, count) in [(2, 16), (2, 32), (3, 8), (3, 32), (4, 4), (4, 16), (5, 8), (5, 4), (5, 2)] {
            let pool = Lock::new(UnitPool::new(16));
            let class = SizeClass::natural(index);
            let geometry = Geometry::plain(class, 16, &pool);
            let (slot_bytes, mut shelves) = (class.slot_bytes(), Shelves::new());
            // Without a slab there is nothing to be careful of.
            assert!(shelves.take_lines(&geometry, count).is_none());
            let one = shelves.take_unused(&geometry, 1).unwrap().range;
            // What is left of its line, and then whole lines.
            let rest = shelves.take_lines(&geometry, count).unwrap().range;
            assert_eq!((rest.start, rest.len()), (one.end, (count - 1) * slot_bytes));
            for _ in 0..3 {
                let range = shelves.take_lines(&geometry, count).unwrap().range;
                assert_eq!((range.len(), range.start % LINE_BYTES), (count * slot_bytes, 0));
            }
            let carved = shelves.current.unwrap().fresh.get();
            for _ in 0..1000 {
                let range = shelves.take_lines(&geometry, count).unwrap().range;
                let slots: Vec<usize> = range.step_by(slot_bytes).collect();
                // SAFETY: slots that were taken and that nobody uses.
                unsafe { shelves.give_to_slabs(&geometry, &slots) }.unwrap();
            }
            assert_eq!(shelves.current.unwrap().fresh.get(), carved + count as u32, "one line for all of them");
        }
    }

    #[test]
    fn what_was_used_is_not_taken_for_zero_when_it_becomes_fresh_again() {
        let pool = Lock::new(UnitPool::new(16));
        let class = SizeClass::natural(3);
        let geometry = Geometry::plain(class, 16, &pool);
        let mut shelves = Shelves::new();
        let first = shelves.take_unused(&geometry, 16).unwrap();
        assert!(first.zeroed);
        let last: Vec<usize> = first.range.clone().step_by(8).skip(8).collect();
        // SAFETY: slots that were taken and that nobody uses.
        unsafe { shelves.give_to_slabs(&geometry, &last) }.unwrap();
        let lines = shelves.take_lines(&geometry, 8).unwrap().range;
        assert_eq!((lines.start, lines.end), (last[0], first.range.end));
        assert!(shelves.uncarve(&geometry, &(lines.start + 8..lines.end), false));
        let again = shelves.take_unused(&geometry, 7).unwrap();
        assert!(again.range == (lines.start + 8..lines.end) && !again.zeroed);
    }

    #[test]
    fn more_slots_than_a_word_has_bits_are_no_lines() {
        let pool = Lock::new(UnitPool::new(16));
        for index in 2..=8 {
            let class = SizeClass::natural(index);
            let geometry = Geometry::plain(class, 16, &pool);
            let mut shelves = Shelves::new();
            assert!(shelves.take_unused(&geometry, 1).is_some());
            for count in [1, 2, 3, 4, 8, 16, 32, 64, 128] {
                let bytes = count * class.slot_bytes();
                let taken = shelves.take_lines(&geometry, count).map_or(0, |fresh| fresh.range.len());
                assert!(
                    taken <= bytes && (taken == 0 || (count < 64 && (64..=256).contains(&bytes))),
                    "{count} of {class:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_first_slots_of_a_bin_are_kept_apart() {
        let pool = Lock::new(UnitPool::new(16));
        let class = SizeClass::natural(3);
        let geometry = Geometry::plain(class, 16, &pool);
        let mut shelves = Shelves::new();
        assert!(shelves.take_unused(&geometry, 1).is_some());
        let lines = core::iter::from_fn(|| shelves.take_lines(&geometry, 8)).count();
        assert_eq!(lines, GROUP_WORDS * WORD_BITS / 8);
        assert!([4, 8, 64].into_iter().all(|count| shelves.take_lines(&geometry, count).is_none()));
    }
}
