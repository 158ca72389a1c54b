//! A hashbrown map and set in a family: the one source of the crates for 0.14 to 0.17.

#![cfg(test)]

use family_alloc::{Family, family};
use hashbrown::{HashMap, HashSet};

#[test]
fn a_map_lives_in_its_family() {
    family! { struct Numbers; }

    let mut map = HashMap::new_in(Numbers);
    assert_eq!(Numbers::stats().live_allocations, 0, "an empty map has no table");
    for n in 0..10_000_u64 {
        map.insert(n, n * n);
    }
    assert_eq!(Numbers::stats().live_allocations, 1, "the table is one allocation");
    assert!(Numbers::stats().live_bytes >= 10_000 * size_of::<(u64, u64)>());

    map.retain(|n, _| n % 100 == 0);
    map.shrink_to_fit();
    assert_eq!(map.len(), 100);
    assert!((0..10_000).step_by(100).all(|n| map.get(&n) == Some(&(n * n))));
    assert!(Numbers::stats().live_bytes < 10_000 * size_of::<(u64, u64)>());

    drop(map);
    assert_eq!(Numbers::stats().live_allocations, 0);
    assert_eq!(Numbers::stats().live_bytes, 0);
}

#[test]
fn a_cloned_map_is_a_second_table() {
    family! { struct Names; }

    let mut map = HashMap::new_in(Names);
    map.extend((0..1000).map(|n: u32| (n.to_string(), n)));
    let copy = map.clone();
    assert_eq!(Names::stats().live_allocations, 2);
    drop(map);
    assert!((0..1000).all(|n| copy.get(n.to_string().as_str()) == Some(&n)));
    drop(copy);
    assert_eq!(Names::stats().live_allocations, 0);
}

#[test]
fn a_set_may_borrow_its_family() {
    family! { struct Seen; }

    let family = Seen;
    let mut set = HashSet::new_in(&family);
    set.extend(["one", "two", "three", "two"]);
    assert_eq!(set.len(), 3);
    assert_eq!(Seen::stats().live_allocations, 1);
    drop(set);
    assert_eq!(Seen::stats().live_allocations, 0);
}

#[test]
fn the_family_takes_no_room_in_the_map() {
    family! { struct Nothing; }

    assert_eq!(size_of::<HashMap<u32, u32, (), Nothing>>(), size_of::<HashMap<u32, u32, ()>>());
}
