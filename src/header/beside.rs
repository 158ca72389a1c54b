//! Where in a region's first unit all is that its slabs have beside their slots and headers.

#![forbid(unsafe_code)]

use core::ops::Range;

use super::{HEADERS, UNIT_COUNT, UNIT_SHIFTS};
use crate::os;

/// Where in unit 0 the bits of purged pages are (`slab::pages`): behind the headers, one for each page that the units may have.
pub(crate) const fn purged_pages_at(unit_shift: u32) -> Range<usize> {
    // Whole words for each unit.
    let bytes = if unit_shift < 18 { UNIT_COUNT * 8 } else { (1 << unit_shift) / 512 };
    HEADERS.end..HEADERS.end + bytes
}

/// Where in unit 0 the tables of slabs of two-byte slots are (`tiny`), which are short.
pub(crate) const fn two_byte_tables_at(unit_shift: u32) -> Range<usize> {
    let start = purged_pages_at(unit_shift).end;
    start..start + UNIT_COUNT * if unit_shift < 19 { 16 } else { (1 << unit_shift) / (32 << 10) }
}

/// The shortest slots whose bits stand in [`shared_bits_at`], as a power of two. Side tables of short units share pages, so that one long slab
/// would keep the bits of three others.
pub(crate) const fn shared_bits_shift(unit_shift: u32) -> u32 {
    if unit_shift < 19 { 7 } else { 9 }
}

/// Where in unit 0 the bits of free slots are that do not fill a page (`slab::bitmap`): all units' for each power of two.
pub(crate) const fn shared_bits_at(unit_shift: u32) -> Range<usize> {
    let start = two_byte_tables_at(unit_shift).end;
    let bits_of_shortest = UNIT_COUNT << (unit_shift - shared_bits_shift(unit_shift));
    // Those of all that are longer take as much together.
    start..start + 2 * bits_of_shortest / 8
}

/// Where in unit 0 the side table of a unit is, for its bits of free slots or what else a class needs beside its slots.
pub(crate) const fn side_table(unit_shift: u32, unit: usize) -> Range<usize> {
    let unit_bytes = 1_usize << unit_shift;
    let bytes = unit_bytes / 2 / UNIT_COUNT;
    // Before the headers, or well behind them.
    let start = unit * bytes + if unit_bytes / 2 <= HEADERS.start { 0 } else { unit_bytes / 2 };
    start..start + bytes
}

const _: () = {
    let mut shift = *UNIT_SHIFTS.start();
    while shift <= *UNIT_SHIFTS.end() {
        let (first, last) = (side_table(shift, 0), side_table(shift, UNIT_COUNT - 1));
        assert!(shared_bits_at(shift).end <= 1 << shift && last.end <= 1 << shift, "unit 0 holds them all");
        assert!(last.end <= HEADERS.start || first.start >= shared_bits_at(shift).end, "and they are apart");
        shift += 1;
    }
};

/// The pages of a region that its headers stand in and what is behind them, as offsets.
pub(crate) fn header_pages(unit_shift: u32) -> Range<usize> {
    let page = os::page_bytes();
    HEADERS.start & !(page - 1)..shared_bits_at(unit_shift).end.next_multiple_of(page)
}
