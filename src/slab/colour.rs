//! Where in a unit the first slot is, so that the first slots of many slabs do not meet in the processor's caches.
//!
//! Units are multiples of a power of two, and what a processor caches of an address, its line as well as
//! its translation, stands where the middle bits of the address say. The first slots of a hundred slabs would share a place
//! for a dozen. So each slab has a *colour*, as in Bonwick's slab allocator (1994): some pages that
//! are left out before the first slot. Nobody touches them, and so they are no memory.

#![forbid(unsafe_code)]

use super::Geometry;
use crate::huge_pages::Pages;
use crate::os;

/// Only so many slabs of a bin have a colour: what has more of them touches all of their pages.
const COLOURED_SLABS: usize = 3;
/// Shorter units have none: it would be a page or two of few.
const COLOURED_BYTES: usize = 1 << 20;
/// One page in so many may be left out.
const PART: usize = 8;

impl Geometry<'_> {
    /// On which page the first slot of the bin's first, second, … slab is, in a unit at this address: its colour.
    pub(super) fn first_page(&self, unit: usize, number: usize, pages: Pages) -> u8 {
        // Where memory is counted as it is committed, what is left out would count as well.
        let is_coloured = !os::DECOMMITS
            && self.has_bitmap()
            && number <= COLOURED_SLABS
            && pages != Pages::Huge
            && self.class.slot_bytes() < os::page_bytes();
        if is_coloured { colour(unit >> self.unit_shift, self.unit_bytes()) } else { 0 }
    }
}

/// On which page of the unit with this number the first slot is.
fn colour(unit: usize, unit_bytes: usize) -> u8 {
    if unit_bytes < COLOURED_BYTES {
        return 0;
    }
    let colours = (unit_bytes / PART / os::page_bytes()).max(1) as u64;
    // Fibonacci hashing (Knuth 6.4): the upper half of the product depends on all bits of the number.
    let hash = (unit as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ((hash * colours) >> 32) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_first_units_of_regions_have_all_colours_about_equally_often() {
        let unit_bytes = 2 << 20;
        let colours = unit_bytes / PART / os::page_bytes();
        for unit in 1..4 {
            let mut seen = BTreeMap::new();
            (0..16 * colours)
                .for_each(|region| *seen.entry(colour(1000 + region * 64 + unit, unit_bytes)).or_insert(0) += 1);
            assert_eq!(seen.len(), colours);
            assert!(seen.keys().all(|&page| usize::from(page) < colours));
            assert!(seen.values().all(|&times| (8..=32).contains(&times)), "{seen:?}");
        }
        assert_eq!(colour(77, 64 << 10), 0);
    }
}
