//! What is left over in slots: resident bytes for each byte that was asked for, of objects and tables of lengths that are no powers
//! of two, written from end to end. A process of its own for each.

#![cfg(any(target_os = "linux", windows))]

mod common;

use std::alloc::{GlobalAlloc, Layout};

use common::child;
use common::memory::resident;
use family_alloc::{Family, family};
use hashbrown::{DefaultHashBuilder, HashMap};

family! { struct Spaced { classes: Spaced, slab_bytes: 2 << 20 } }

/// Bytes of what is allocated of each length.
const BYTES: usize = 64 << 20;

/// Resident bytes now, from this moment on.
fn since(before: usize) -> usize {
    resident().all - before
}

fn begin() -> usize {
    // The first readings touch pages themselves.
    (0..3).for_each(|_| assert!(resident().all > 0));
    resident().all
}

/// Objects of one length: resident for each byte.
fn objects(bytes: usize) -> f64 {
    let (layout, count) = (Layout::from_size_align(bytes, 8).expect("a layout"), BYTES / bytes);
    let before = begin();
    for _ in 0..count {
        // SAFETY: the size is not 0.
        let memory = unsafe { Spaced.alloc(layout) };
        assert!(!memory.is_null());
        // SAFETY: allocated just now with that length.
        unsafe { memory.write_bytes(1, bytes) };
    }
    since(before) as f64 / (count * bytes) as f64
}

type Map = HashMap<u64, u64, DefaultHashBuilder, Spaced>;

/// Maps of so many entries: resident for each byte of their tables.
fn maps(entries: usize) -> f64 {
    let tables = |map: &Map| map.allocation_size();
    let one = || {
        let mut map = Map::with_capacity_in(entries, Spaced);
        map.extend((0..entries as u64).map(|key| (key, key)));
        map
    };
    // Each entry and each control byte lies on a page that is written.
    let bytes = tables(&one());
    let count = BYTES / bytes;
    let mut all: Vec<Map> = Vec::with_capacity(count);
    (0..count).for_each(|_| all.push(Map::with_hasher_in(DefaultHashBuilder::default(), Spaced)));
    let before = begin();
    all.iter_mut().for_each(|map| *map = one());
    let resident = since(before);
    assert!(all.iter().all(|map| map.len() == entries && tables(map) == bytes));
    resident as f64 / (count * bytes) as f64
}

fn measure_all(test: &str, measure: fn(usize) -> f64, cases: &[(usize, f64)]) {
    if let Some(case) = child::case() {
        println!("\nratio {}", measure(case.parse().expect("a number")));
        return;
    }
    let mut wrong = Vec::new();
    for &(case, most) in cases {
        let out = child::assert_passed(test, &case.to_string());
        let ratio: f64 =
            out.lines().find_map(|line| line.strip_prefix("ratio ")).expect("a ratio").parse().expect("a number");
        println!("{case:>8}: {ratio:.3}, at most {most:.3}");
        if !(0.5..=most).contains(&ratio) {
            wrong.push((case, ratio, most));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(Spaced::SLAB_BYTES, 2 << 20);
}

/// The slot's length for each byte asked for, and two huge pages, half of which may be empty; of long slots only the pages.
#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "pages are measured, and this backend has none of its own")]
fn objects_of_odd_lengths_take_little_more_than_they_need() {
    let cases = [
        (33, 1.25),
        (100, 1.075),
        (600, 1.11),
        (1100, 1.08),
        (5000, 1.05),
        (33_000, 1.13),
        (70_000, 1.07),
        (530_000, 1.02),
    ];
    measure_all("objects_of_odd_lengths_take_little_more_than_they_need", objects, &cases);
}

/// A table of 2ⁿ buckets is 17/16 of a power of two, and the class is 18/16.
#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "pages are measured, and this backend has none of its own")]
fn tables_of_maps_take_little_more_than_they_need() {
    let cases = [(10, 1.045), (100, 1.10), (1700, 1.10), (7000, 1.10), (14_000, 1.10)];
    measure_all("tables_of_maps_take_little_more_than_they_need", maps, &cases);
}
