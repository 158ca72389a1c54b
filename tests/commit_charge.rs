//! What the process has committed follows what is used, where the system counts that: on Windows, which refuses what is more than
//! memory and page files have, whether it is touched or not. Each test in a process of its own, which prints what it finds.

#![cfg(all(windows, not(any(miri, feature = "portable"))))]

mod common;

use common::child;
use common::doors::{Doors, layout};
use common::memory::committed_bytes;
use common::pattern;
use family_alloc::{Box, Family, Heap, Vec, family};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What tags, headers and a thread's pages may cost once, and what the harness does meanwhile.
const FIRST_BYTES: usize = 9 * MIB;

/// What has been committed since `before`.
fn since(before: usize) -> usize {
    committed_bytes().saturating_sub(before)
}

#[test]
fn a_family_with_one_object_commits_little() {
    child::isolated("a_family_with_one_object_commits_little", || {
        family! { struct First; struct Second; struct Checked { checks: Checked, slab_bytes: 64 * 1024 } }
        let before = committed_bytes();
        let first = Box::new_in([1_u64; 8], First);
        let with_first = since(before);
        let before = committed_bytes();
        let second = Box::new_in([2_u64; 8], Second);
        let with_second = since(before);
        let before = committed_bytes();
        let checked = Box::new_in([3_u64; 8], Checked);
        let with_checked = since(before);
        println!(
            "the first family commits {} KiB, the second {} KiB, a checked one with small slabs {} KiB",
            with_first / KIB,
            with_second / KIB,
            with_checked / KIB
        );
        assert!(with_first <= FIRST_BYTES, "{with_first} bytes");
        assert!(with_second <= 128 * KIB, "{with_second} bytes");
        assert!(with_checked <= FIRST_BYTES, "{with_checked} bytes");
        assert_eq!((first[7], second[7], checked[7]), (1, 2, 3));
    });
}

#[test]
fn a_heap_with_one_object_commits_a_few_pages() {
    child::isolated("a_heap_with_one_object_commits_a_few_pages", || {
        const COUNT: usize = 500;
        let mut boxes = std::vec::Vec::with_capacity(COUNT + 1);
        boxes.push(Box::new_in([0_u64; 8], Heap::new("the first").unwrap()));
        let before = committed_bytes();
        for index in 0..COUNT as u64 {
            boxes.push(Box::new_in([index; 8], Heap::new("tenant").unwrap()));
        }
        let each = since(before) / COUNT;
        println!("{each} bytes committed for each heap");
        assert!(each <= 32 * KIB, "{each} bytes");
        drop(boxes);
    });
}

#[test]
fn slabs_are_committed_as_they_fill_and_not_when_they_are_empty() {
    child::isolated("slabs_are_committed_as_they_fill_and_not_when_they_are_empty", || {
        family! { struct Filling; }
        let warm = Box::new_in([0_u64; 8], Filling);
        let before = committed_bytes();
        let mut slots: std::vec::Vec<Box<[u64; 8], Filling>> = std::vec::Vec::with_capacity(MIB);
        // The vector itself is one of the system's allocator.
        let of_the_vector = since(before);
        for step in 0..7 {
            let wanted = (128 * KIB << step) / 64;
            while slots.len() < wanted {
                slots.push(Box::new_in([slots.len() as u64; 8], Filling));
            }
            let (used, charged) = (wanted * 64, since(before + of_the_vector));
            println!("{} KiB used: {} KiB committed", used / KIB, charged / KIB);
            assert!(charged >= used - 64 * KIB && charged <= 2 * used + 512 * KIB, "{charged} bytes for {used}");
        }
        assert!(slots.iter().enumerate().all(|(index, slot)| slot[7] == index as u64));
        slots.clear();
        drop(warm);
        Filling::trim();
        let left = since(before + of_the_vector);
        println!("{} KiB committed when all is free", left / KIB);
        assert!(left <= 512 * KIB, "{left} bytes");
    });
}

#[test]
fn pages_of_free_slots_are_charged_no_more_and_come_back_zero() {
    child::isolated("pages_of_free_slots_are_charged_no_more_and_come_back_zero", || {
        family! {
            struct Plain;
            struct Spaced { classes: Spaced }
            struct Noted { checks: Checked, slab_bytes: 256 * 1024 }
            struct Mixed { checks: Hardened, slab_bytes: 256 * 1024 }
        }
        for doors in [Doors::of::<Plain>(), Doors::of::<Spaced>(), Doors::of::<Noted>(), Doors::of::<Mixed>()] {
            for size in [56, 600, 5000] {
                let layout = layout(size, 1);
                let count = 16 * MIB / size;
                let allocate = |seed| {
                    let memory = (doors.allocate)(layout).expect("memory");
                    pattern::fill(memory, seed);
                    memory
                };
                let slots: std::vec::Vec<_> = (0..count).map(|seed| (allocate(seed), seed)).collect();
                let used = count * slots[0].0.len();
                let full = committed_bytes();
                let stays = |&(_, seed): &(_, usize)| seed % (128 * KIB / size) == 0;
                let (kept, gone): (std::vec::Vec<_>, std::vec::Vec<_>) = slots.into_iter().partition(stays);
                // SAFETY: live, and given up, here and below.
                gone.into_iter().for_each(|(memory, _)| unsafe { (doors.deallocate)(memory.cast(), layout) });
                (doors.trim)();
                let given_back = full.saturating_sub(committed_bytes());
                println!("{}, {size} bytes: {} of {} KiB given back", doors.name, given_back / KIB, used / KIB);
                assert!(given_back >= used / 4 * 3, "{}, {size} bytes: {given_back} bytes given back", doors.name);
                let again: std::vec::Vec<_> = (0..count)
                    .map(|seed| {
                        let memory = (doors.allocate_zeroed)(layout).expect("memory");
                        assert!(pattern::is_zero_from(memory, 0), "{}, {size} bytes", doors.name);
                        pattern::fill(memory, seed);
                        memory
                    })
                    .collect();
                for (seed, memory) in again.into_iter().enumerate() {
                    assert!(pattern::holds(memory.cast(), size, seed));
                    // SAFETY: as above.
                    unsafe { (doors.deallocate)(memory.cast(), layout) };
                }
                for (memory, seed) in kept {
                    assert!(pattern::holds(memory.cast(), size, seed), "what stayed is as it was");
                    // SAFETY: as above.
                    unsafe { (doors.deallocate)(memory.cast(), layout) };
                }
                (doors.trim)();
            }
        }
    });
}

#[test]
fn large_allocations_are_charged_while_they_are_live() {
    child::isolated("large_allocations_are_charged_while_they_are_live", || {
        family! { struct Large; }
        drop(Vec::<u8, _>::with_capacity_in(3 * MIB, Large));
        Large::trim();
        let before = committed_bytes();
        let buffers: std::vec::Vec<_> = (0..40).map(|_| Vec::<u8, _>::with_capacity_in(3 * MIB, Large)).collect();
        let live = since(before);
        println!("120 MiB in 40 buffers: {} KiB committed", live / KIB);
        assert!((120 * MIB..=125 * MIB).contains(&live), "{live} bytes");
        drop(buffers);
        Large::trim();
        let left = since(before);
        println!("freed: {} KiB committed", left / KIB);
        assert!(left <= MIB, "{left} bytes");
        let mut grows = Vec::new_in(Large);
        for step in 1..=100_u64 {
            grows.extend((0..MIB as u64 / 8).map(|word| word ^ step));
        }
        assert!(grows.iter().enumerate().all(|(index, &word)| {
            let (step, place) = (index as u64 / (MIB as u64 / 8) + 1, index as u64 % (MIB as u64 / 8));
            word == place ^ step
        }));
        let (used, charged) = (grows.capacity() * 8, since(before));
        println!("a vector of {} KiB: {} KiB committed", used / KIB, charged / KIB);
        drop(grows);
        Large::trim();
        assert!(since(before) <= MIB, "{} bytes", since(before));
    });
}
