//! Linked: a list and a search tree of boxes, built, walked and dropped.

use std::hint::black_box;

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;

use crate::meter::Meter;
use crate::random::Random;
use crate::subject::Subject;

/// A list node: two words.
struct Node<A: Allocator> {
    value: u64,
    next: Option<Box<Node<A>, A>>,
}

/// A singly linked list of a million boxes.
pub(crate) fn list<S: Subject>(meter: &mut Meter) {
    let count = meter.pick(300_000, 1_000_000);
    meter.ready();
    for _ in 0..meter.pick(3, 5) {
        let head = meter.time("build", count, || build::<S>(count));
        meter.peak();
        meter.time("walk", count, || black_box(sum(&head)));
        meter.time("drop", count, || unlink(head));
        S::reset();
    }
}

fn build<S: Subject>(count: usize) -> Option<Box<Node<S::Collections>, S::Collections>> {
    let mut head = None;
    for value in 0..count as u64 {
        head = Some(Box::new_in(Node { value, next: head }, S::collections()));
    }
    head
}

fn sum<A: Allocator>(head: &Option<Box<Node<A>, A>>) -> u64 {
    let mut sum = 0_u64;
    let mut node = head;
    while let Some(here) = node {
        sum = sum.wrapping_add(here.value);
        node = &here.next;
    }
    sum
}

/// Drops one node after the other: the compiler's own drop would recurse a million deep.
fn unlink<A: Allocator>(mut head: Option<Box<Node<A>, A>>) {
    while let Some(mut node) = head {
        head = node.next.take();
    }
}

/// A tree node: four words.
struct Branch<A: Allocator> {
    key: u64,
    value: u64,
    left: Option<Box<Branch<A>, A>>,
    right: Option<Box<Branch<A>, A>>,
}

/// A binary search tree of random keys, whose depth stays small by itself.
pub(crate) fn tree<S: Subject>(meter: &mut Meter) {
    let count = meter.pick(50_000, 300_000);
    meter.ready();
    for _ in 0..meter.pick(3, 5) {
        let root = meter.time("build", count, || grow::<S>(count));
        meter.peak();
        meter.time("walk", count, || black_box(visit(&root)));
        meter.time("drop", count, || drop(root));
        S::reset();
    }
}

fn grow<S: Subject>(count: usize) -> Option<Box<Branch<S::Collections>, S::Collections>> {
    let mut random = Random::new(4);
    let mut root = None;
    for value in 0..count as u64 {
        let key = random.next();
        let mut place: &mut Option<Box<Branch<_>, _>> = &mut root;
        while let Some(here) = place {
            place = if key < here.key { &mut here.left } else { &mut here.right };
        }
        *place = Some(Box::new_in(Branch { key, value, left: None, right: None }, S::collections()));
    }
    root
}

fn visit<A: Allocator>(branch: &Option<Box<Branch<A>, A>>) -> u64 {
    match branch {
        Some(here) => visit(&here.left).wrapping_add(here.value).wrapping_add(visit(&here.right)),
        None => 0,
    }
}
