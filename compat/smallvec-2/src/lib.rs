//! A small vector whose overflow lives in a family.

#![cfg(test)]

use family_alloc::{Family, family};
use smallvec::SmallVec;

#[test]
fn the_overflow_lives_in_the_family() {
    family! { struct Overflow; }

    let mut small = SmallVec::<u32, 4, Overflow>::new_in(Overflow);
    small.extend(0..4);
    assert_eq!(Overflow::stats().live_allocations, 0, "four items fit inline");

    small.extend(4..10_000);
    assert_eq!(Overflow::stats().live_allocations, 1);
    assert!(Overflow::stats().live_bytes >= 10_000 * size_of::<u32>());
    assert!(small.iter().copied().eq(0..10_000));

    small.truncate(100);
    small.shrink_to_fit();
    assert!(small.iter().copied().eq(0..100));
    assert!(Overflow::stats().live_bytes < 10_000 * size_of::<u32>());

    small.truncate(3);
    small.shrink_to_fit();
    assert!(small.iter().copied().eq(0..3));
    assert_eq!(Overflow::stats().live_allocations, 0, "back inline");
}

#[test]
fn dropping_gives_the_memory_back() {
    family! { struct Dropped; }

    let mut words = SmallVec::<String, 2, Dropped>::new_in(Dropped);
    words.extend((0..100).map(|n| n.to_string()));
    assert_eq!(Dropped::stats().live_allocations, 1);
    assert_eq!(words[99], "99");
    drop(words);
    assert_eq!(Dropped::stats().live_allocations, 0);
    assert_eq!(Dropped::stats().live_bytes, 0);
}

#[test]
fn the_family_takes_no_room_in_the_vector() {
    family! { struct Nothing; }

    assert_eq!(size_of::<SmallVec<u32, 4, Nothing>>(), size_of::<SmallVec<u32, 4>>());
}
