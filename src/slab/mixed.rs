//! Slots of several units that come back in turn: those of one unit are put together.
//!
//! To go from slab to slab with each slot takes longer than to move the slots, because the
//! processor cannot tell beforehand where it goes next.

#![forbid(unsafe_code)]

/// Pairs of slots that are looked at to see whether units are mixed, and how many of them are of
/// two units then.
const PAIRS: usize = 16;
const PAIRS_APART: usize = 4;
/// Slots that are put together at once.
const AT_ONCE: usize = 512;
/// As many units as are taken out one after the other. Where there are more, all slots are sorted.
const FEW_UNITS: u32 = 4;
/// Units that sorting tells apart. Among more each has too few of so many slots for it to matter.
const UNITS: usize = 64;

/// Whether slots of several units come in turn, by a few of them.
#[inline(always)]
pub(super) fn are_mixed(slots: &[usize], unit_shift: u32) -> bool {
    let step = (slots.len() / PAIRS).max(2);
    let apart = slots.chunks_exact(step).filter(|chunk| (chunk[0] ^ chunk[1]) >> unit_shift != 0);
    apart.count() >= PAIRS_APART
}

/// Hands on the slots in parts, of which each has those of a unit together.
#[cold]
#[inline(never)]
pub(super) fn put_together(slots: &[usize], unit_shift: u32, mut take: impl FnMut(&[usize])) {
    for slots in slots.chunks(AT_ONCE) {
        let mut place = [0; AT_ONCE];
        if count_units(slots, unit_shift) > FEW_UNITS {
            take(sort_by_unit(slots, unit_shift, &mut place));
            continue;
        }
        let mut rest = [0; AT_ONCE];
        let mut rest = &mut rest[..slots.len()];
        rest.copy_from_slice(slots);
        for _ in 0..FEW_UNITS {
            if !are_mixed(rest, unit_shift) {
                break;
            }
            let taken = take_first_unit(rest, unit_shift, &mut place);
            take(&place[..taken]);
            let left = rest.len() - taken;
            rest = &mut rest[..left];
        }
        take(rest);
    }
}

/// How many units a few of the slots are of.
fn count_units(slots: &[usize], unit_shift: u32) -> u32 {
    let some = slots.iter().step_by((slots.len() / (2 * PAIRS)).max(1));
    some.fold(0_u64, |units, slot| units | 1 << ((slot >> unit_shift) % UNITS)).count_ones()
}

/// Moves the slots of the first one's unit to `place` and the others to the front; returns how many
/// were moved.
#[inline(always)]
fn take_first_unit(slots: &mut [usize], unit_shift: u32, place: &mut [usize; AT_ONCE]) -> usize {
    let Some(first) = slots.first().map(|slot| slot >> unit_shift) else { return 0 };
    let (mut moved, mut kept) = (0, 0);
    for index in 0..slots.len() {
        // To both places, of which one is written to again: no jump that depends on the slot.
        let slot = slots[index];
        (place[moved % AT_ONCE], slots[kept]) = (slot, slot);
        let is_there = slot >> unit_shift == first;
        moved += usize::from(is_there);
        kept += usize::from(!is_there);
    }
    moved
}

/// The same slots, sorted by the last bits of their units' numbers, by counting (Knuth 5.2).
///
/// The halves of the slots are gone through side by side, with numbers of their own: a unit's next
/// number is known only when the last has been written, and with few units that is what takes the
/// time.
#[inline(always)]
fn sort_by_unit<'a>(slots: &[usize], unit_shift: u32, place: &'a mut [usize; AT_ONCE]) -> &'a [usize] {
    let unit = |slot: usize| (slot >> unit_shift) % UNITS;
    let mut next = [[0_u16; 2]; UNITS];
    let (first, second) = slots.split_at(slots.len() / 2);
    let (beside, last) = second.split_at(first.len());
    for (&one, &other) in first.iter().zip(beside) {
        next[unit(one)][0] += 1;
        next[unit(other)][1] += 1;
    }
    last.iter().for_each(|&slot| next[unit(slot)][1] += 1);
    let mut before = 0;
    for next in next.as_flattened_mut() {
        before += core::mem::replace(next, before);
    }
    let mut put = |slot: usize, half: usize| {
        let next = &mut next[unit(slot)][half];
        place[usize::from(*next) % AT_ONCE] = slot;
        *next += 1;
    };
    for (&one, &other) in first.iter().zip(beside) {
        put(one, 0);
        put(other, 1);
    }
    last.iter().for_each(|&slot| put(slot, 1));
    &place[..slots.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces that may be left where the rest looks as if it was of one unit.
    const LEFT_MIXED: usize = 2 * PAIRS;

    #[test]
    fn slots_of_a_unit_come_together_and_keep_their_order() {
        let mut random = 3_u64;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        for units in [1, 2, 3, 4, 5, 6, 30, UNITS] {
            for count in [0, 1, 2, 3, 100, 101, AT_ONCE] {
                let slots: Vec<usize> = (0..count).map(|_| draw(units << 16)).collect();
                let (mut parts, mut all) = (0, Vec::new());
                put_together(&slots, 16, |part| {
                    parts += 1;
                    all.extend_from_slice(part);
                });
                assert!(parts <= FEW_UNITS + 1);
                let pieces = all.chunk_by(|one, other| one >> 16 == other >> 16).count();
                let most = if are_mixed(&slots, 16) { units + LEFT_MIXED } else { count };
                assert!(pieces <= most, "{count} slots of {units} units come in {pieces} pieces");
                let by_unit = |slots: &[usize]| {
                    let mut slots = slots.to_vec();
                    slots.sort_by_key(|slot| slot >> 16);
                    slots
                };
                assert_eq!(by_unit(&all), by_unit(&slots));
            }
        }
        // More than are put together at once, of more units than are told apart: all of them come.
        let slots: Vec<usize> = (0..3 * AT_ONCE + 7).map(|_| draw(1000 << 16)).collect();
        let mut all = Vec::new();
        put_together(&slots, 16, |part| all.extend_from_slice(part));
        all.sort_unstable();
        let mut expected = slots;
        expected.sort_unstable();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_few_slots_tell_whether_units_are_mixed() {
        let of_units = |units: &[usize]| units.iter().map(|unit| unit << 16).collect::<Vec<usize>>();
        let in_turn: Vec<usize> = (0..100).map(|place| place % 2).collect();
        let in_order: Vec<usize> = (0..100).map(|place| place / 30).collect();
        assert!(are_mixed(&of_units(&in_turn), 16) && are_mixed(&of_units(&in_turn[..8]), 16));
        assert!(!are_mixed(&of_units(&in_order), 16) && !are_mixed(&of_units(&in_turn[..7]), 16));
        assert!(!are_mixed(&[], 16) && !are_mixed(&[1], 16));
    }
}
