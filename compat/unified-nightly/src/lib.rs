//! One trait, wanted twice.

#![cfg(test)]
#![cfg_attr(feature = "gate", feature(allocator_api))]

use std::alloc::Allocator;

use compat_worlds::Shared;
use family_alloc::{Family, FamilyAlloc, family};

/// Takes core's trait under 0.2's name.
fn room<A: allocator_api2::alloc::Allocator>(allocator: A) -> Vec<u8, A> {
    Vec::with_capacity_in(100, allocator)
}

/// Takes core's trait under its own name.
fn other_room<A: Allocator>(allocator: A) -> allocator_api2::vec::Vec<u8, A> {
    room(allocator)
}

/// The one bound of a library implies the trait, which is one under two names.
fn one_bound<F: Family>() -> Vec<u8, F> {
    let boxed: family_alloc::Box<[u8], F> =
        family_alloc::unsize_box!(family_alloc::Box::new_in([1, 2, 3], F::default()));
    boxed.into_vec()
}

#[test]
fn one_bound_is_enough() {
    family! { struct Own; }

    let bytes = one_bound::<Own>();
    assert_eq!((&bytes[..], Own::stats().live_allocations), (&[1, 2, 3][..], 1));
    drop(bytes);
    assert_eq!(Own::live_bytes(), 0);
}

#[test]
fn a_family_has_the_trait_once() {
    family! { struct Own; }

    let both = (room(Own), other_room(Own));
    assert_eq!(Own::stats().live_allocations, 2);
    drop(both);
    assert_eq!(Own::stats().live_allocations, 0);
}

#[test]
fn so_has_the_family_of_a_crate_without_the_gate() {
    let text: allocator_api2::vec::Vec<u8, Shared> = b"shared".to_vec_in(Shared);
    assert_eq!(Shared::stats().live_allocations, 1);
    assert_eq!(text, b"shared");
    drop(text);
    assert_eq!(Shared::stats().live_allocations, 0);
}

#[test]
fn so_has_the_family_of_the_crate_itself() {
    assert_eq!(*allocator_api2::boxed::Box::new_in(5, FamilyAlloc), 5);
}

#[cfg(feature = "hashbrown")]
#[test]
fn a_map_uses_it_as_well() {
    family! { struct Map; }

    let mut map = hashbrown::HashMap::new_in(Map);
    map.extend((0..100).map(|n| (n, n)));
    assert_eq!(Map::stats().live_allocations, 1);
    drop(map);
    assert_eq!(Map::stats().live_allocations, 0);
}
