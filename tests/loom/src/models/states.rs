//! Two threads free the same slot of a checked family.

use super::exit::{free_as, take};
use crate::size_class::SizeClass;
use crate::sync::Sleep;
use crate::world::{Checked, HALF, QUARTER, disown, explore, line_of, spawn};

/// The lines that were said when two threads freed a slot at once and ended.
fn lines_of_two_frees(slot: usize, class: SizeClass) -> Vec<String> {
    let free = move || free_as::<Checked>(slot, class);
    let (one, two) = (spawn(free), spawn(free));
    [one.join_or_line(), two.join_or_line()].into_iter().filter_map(Result::err).collect()
}

fn assert_the_second_is_told(others: usize) {
    let slot = take::<Checked>(HALF);
    (0..others).for_each(|_| _ = take::<Checked>(HALF));
    disown(slot);
    let lines = lines_of_two_frees(slot, HALF);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("free of"), "{lines:?}");
}

/// Without a depot, the second to reach the slab is told, whose list has the slot.
pub fn the_second_free_is_told() {
    explore(Sleep::Lightly, || assert_the_second_is_told(1));
}

/// As above, but the first free has emptied the slab, which is gone.
pub fn the_second_free_of_the_last_slot_is_told() {
    explore(Sleep::Lightly, || assert_the_second_is_told(0));
}

/// Through the depot a slot comes back without a look at it: who would be the second to get it is told at the latest.
pub fn nobody_gets_the_slot_twice() {
    explore(Sleep::Lightly, || {
        let slot = take::<Checked>(QUARTER);
        disown(slot);
        let mut lines = lines_of_two_frees(slot, QUARTER);
        for _ in 0..2 {
            lines.extend(line_of(|| _ = take::<Checked>(QUARTER)));
        }
        assert!(!lines.is_empty(), "the slot is free twice, and nobody was told");
    });
}
