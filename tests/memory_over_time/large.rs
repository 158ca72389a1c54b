//! Large memory: freed, or touched sparsely.

use super::common::doors::layout;
use super::common::random::Random;
use super::{Block, Heap, KIB, MIB, alone, assert_near_system, free, light_load, touch, touched, trickle, untouched};
use std::alloc::Layout;

#[test]
fn a_big_buffer_comes_back_while_other_families_work() {
    alone("large::a_big_buffer_comes_back_while_other_families_work", |heap| {
        for size in [200 * MIB, 9 * MIB, 700 * KIB] {
            let door = heap.door(0);
            let live: Vec<Block> = (0..200 * MIB / size).map(|_| touched(door, layout(size, 8))).collect();
            live.into_iter().for_each(|block| free(door, block));
            let mut random = Random::new(1);
            heap.note_within("work", 8, || light_load(heap.door(1), &mut random));
            let left = heap.more();
            assert!(left <= 11 * MIB, "{size}: {} KiB of 200 MiB are left after 8 s of use", left / KIB);
        }
    });
}

/// Large memory of which `count` blocks are touched once in each `step`.
fn sparse(heap: &mut Heap, name: &str, layout: Layout, (count, is_zeroed): (usize, bool), step: usize) {
    let door = heap.door(0);
    heap.begin();
    let live: Vec<Block> = (0..count)
        .map(|_| {
            let start = if is_zeroed {
                // SAFETY: no program asks for nothing.
                unsafe { door.alloc_zeroed(layout) }
            } else {
                // SAFETY: as above.
                unsafe { door.alloc(layout) }
            };
            assert!(!start.is_null(), "memory for {layout:?}");
            let block = Block { address: start.expose_provenance(), layout };
            touch(block, step);
            block
        })
        .collect();
    heap.note(name);
    live.into_iter().for_each(|block| free(door, block));
    heap.trim();
}

#[test]
fn sparsely_touched_memory_stays_sparse() {
    fn program(heap: &mut Heap) {
        sparse(heap, "a zeroed table", layout(512 * MIB, 8), (1, true), 2 * MIB);
        sparse(heap, "zeroed buffers", layout(MIB, 8), (300, true), MIB);
        sparse(heap, "reserved buffers", layout(3 * MIB, 1), (200, false), 3 * MIB);
        sparse(heap, "stacks", layout(256 * KIB, 4096), (500, false), 256 * KIB);
        sparse(heap, "aligned to 2 MiB", layout(64, 2 * MIB), (100, false), 64);
        sparse(heap, "aligned to 64 KiB", layout(64, 64 * KIB), (2000, false), 64);
    }
    assert_near_system("large::sparsely_touched_memory_stays_sparse", program, 120, MIB);
}

/// What was used serves who wants zero, cleared; but not so much of it that untouched buffers hold a peak's memory.
#[test]
fn zeroed_buffers_after_a_peak_hold_little() {
    alone("large::zeroed_buffers_after_a_peak_hold_little", |heap| {
        let door = heap.door(0);
        let peak: Vec<Block> = (0..100).map(|_| touched(door, layout(2 * MIB, 8))).collect();
        peak.into_iter().for_each(|block| free(door, block));
        let buffers: Vec<usize> = (0..100)
            // SAFETY: the layout is not of size zero.
            .map(|_| unsafe { door.alloc_zeroed(layout(2 * MIB, 8)) }.expose_provenance())
            .collect();
        for &buffer in &buffers {
            // SAFETY: inside the buffer, which is live.
            assert_eq!(unsafe { std::ptr::with_exposed_provenance::<u8>(buffer + MIB / 2).read() }, 0);
        }
        heap.note_within("trickle", 5, || trickle(heap.door(1)));
        let left = heap.more();
        assert!(left <= 40 * MIB, "{} KiB are resident for 200 MiB of zeroes", left / KIB);
    });
}

#[test]
fn a_peak_leaves_no_huge_pages_to_single_slots() {
    fn program(heap: &mut Heap) {
        let door = heap.door(0);
        let live: Vec<Block> = (0..200 * MIB / 64).map(|_| touched(door, layout(64, 8))).collect();
        live.into_iter().for_each(|block| free(door, block));
        heap.trim();
        heap.begin();
        for shift in 2..=20 {
            touch(untouched(door, layout(1 << shift, 1)), 1 << shift);
        }
        heap.note("19 slots");
    }
    assert_near_system("large::a_peak_leaves_no_huge_pages_to_single_slots", program, 120, MIB);
}
