//! The collections of the standard library in a family.

#![cfg(test)]
#![cfg_attr(feature = "gate", feature(allocator_api))]

use std::alloc::{AllocError, Allocator, Layout};

use family_alloc::{Family, FamilyAlloc, family};

#[test]
fn a_vector_lives_in_its_family() {
    family! { struct Numbers; }

    let mut numbers = Vec::new_in(Numbers);
    assert_eq!(Numbers::stats().live_allocations, 0, "an empty vector has no memory");
    numbers.extend(0..10_000_u32);
    assert_eq!(Numbers::stats().live_allocations, 1);
    assert!(Numbers::stats().live_bytes >= 10_000 * size_of::<u32>());
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert!(Numbers::stats().live_bytes < 10_000 * size_of::<u32>());
    assert!(numbers.iter().copied().eq(0..10));
    drop(numbers);
    assert_eq!(Numbers::stats().live_allocations, 0);
    assert_eq!(Numbers::stats().live_bytes, 0);
}

#[test]
fn a_box_lives_in_its_family() {
    family! { struct Boxes; }

    let boxed: Box<dyn Fn(u32) -> u32, Boxes> = Box::new_in(|n| n + 1, Boxes);
    assert_eq!(Boxes::stats().live_allocations, 0, "a closure without captures has no memory");
    assert_eq!(boxed(1), 2);
    let array = Box::new_in([3_u8; 100], Boxes);
    assert_eq!(Boxes::stats().live_allocations, 1);
    assert_eq!(*array, [3; 100]);
    drop(array);
    assert_eq!(Boxes::stats().live_allocations, 0);
}

#[test]
fn one_bound_is_enough() {
    fn numbers<F: Family>() -> Vec<u32, F> {
        let mut numbers = Vec::new_in(F::default());
        numbers.push(7);
        numbers
    }

    family! { struct Own; }

    let numbers = numbers::<Own>();
    assert_eq!((numbers[0], Own::stats().live_allocations), (7, 1));
}

/// The other collections that the table *What can a family hold?* in the crate's README names.
#[test]
fn shared_pointers_and_queues_live_in_a_family() {
    use std::collections::{BinaryHeap, LinkedList, VecDeque};
    use std::rc::Rc;
    use std::sync::Arc;

    family! { struct Own; }

    let once: Box<dyn FnOnce(u32) -> u32, Own> = Box::new_in(|n| n + 1, Own);
    assert_eq!(once(1), 2);
    let (single, shared) = (Rc::new_in(1_u64, Own), Arc::new_in(2_u64, Own));
    let unsized_: Arc<dyn std::fmt::Debug, Own> = shared.clone();
    let (mut deque, mut heap, mut list) = (VecDeque::new_in(Own), BinaryHeap::new_in(Own), LinkedList::new_in(Own));
    deque.push_front(3_u64);
    heap.push(4_u64);
    list.push_back(5_u64);
    assert_eq!(format!("{single:?} {unsized_:?} {deque:?} {heap:?} {list:?}"), "1 2 [3] [4] [5]");
    assert_eq!(Own::stats().live_allocations, 5);
    drop((single, shared, unsized_, deque, heap, list));
    assert_eq!(Own::stats().live_allocations, 0);
}

#[test]
fn a_family_may_be_borrowed() {
    family! { struct Lent; }

    let family = Lent;
    let words: Vec<&str, &Lent> = {
        let mut words = Vec::with_capacity_in(3, &family);
        words.extend(["one", "two", "three"]);
        words
    };
    assert_eq!(Lent::stats().live_allocations, 1);
    assert_eq!(words.concat(), "onetwothree");
    drop(words);
    assert_eq!(Lent::stats().live_allocations, 0);
}

#[test]
fn a_vector_keeps_its_size() {
    assert_eq!(size_of::<Vec<u32, FamilyAlloc>>(), size_of::<Vec<u32>>());
    assert_eq!(size_of::<Vec<u32, FamilyAlloc>>(), 3 * size_of::<usize>());
    assert_eq!(size_of::<Box<u32, FamilyAlloc>>(), size_of::<usize>());
}

#[test]
fn what_cannot_be_allocated_is_an_error() {
    let all = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
    assert_eq!(FamilyAlloc.allocate(all), Err(AllocError));
    assert!(Vec::<u8, _>::new_in(FamilyAlloc).try_reserve(isize::MAX as usize).is_err());
}
