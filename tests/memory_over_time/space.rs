//! Mappings, address space and core files.

use super::common::doors::layout;
use super::common::memory::mapped_bytes;
use super::{Blobs, Block, Door, Fenced, KIB, MIB, alone, free, touch, untouched};

fn mapping_count() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("the kernel lists our mappings").lines().count()
}

#[test]
fn many_blobs_are_few_mappings_and_lose_no_address_space() {
    alone("space::many_blobs_are_few_mappings_and_lose_no_address_space", |heap| {
        const COUNT: usize = 40_000;
        let door: Door = &Blobs;
        let mut space = [0; 3];
        for space in &mut space {
            let mut live: Vec<Block> = (0..COUNT).map(|_| untouched(door, layout(40_000, 8))).collect();
            live.iter().for_each(|block| touch(*block, block.layout.size()));
            let all = mapping_count();
            for index in (0..COUNT).step_by(2) {
                free(door, live[index]);
            }
            let half = mapping_count();
            assert!(all < 1000 && half < 1000, "{all} mappings of {COUNT} blobs, {half} of every second one");
            for index in (0..COUNT).step_by(2) {
                live[index] = untouched(door, layout(40_000, 8));
            }
            live.into_iter().for_each(|block| free(door, block));
            heap.trim();
            *space = mapped_bytes();
        }
        assert!(space[2] <= space[1] + MIB, "{} KiB of address space are lost", (space[2] - space[1]) / KIB);
    });
}

/// Bytes of the mappings of this process that a core file would have: its own that can be read and are not kept out of dumps.
fn dumped_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("the kernel lists our mappings");
    let number = |rest: &str| rest.trim().trim_end_matches("kB").trim().parse::<usize>().expect("a number") * KIB;
    let (mut sum, mut bytes, mut is_own, mut can_be_read) = (0, 0, false, false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Size:") {
            bytes = number(rest);
        } else if let Some(rest) = line.strip_prefix("Anonymous:") {
            is_own |= number(rest) > 0;
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let is_left_out = flags.split_whitespace().any(|flag| flag == "dd");
            sum += if is_own && can_be_read && !is_left_out { bytes } else { 0 };
        } else if let Some(access) = line.split(' ').nth(1).filter(|access| access.len() == 4) {
            can_be_read = access.starts_with('r') && access.ends_with('p');
            // No file has the number 0.
            is_own = line.split(' ').nth(4) == Some("0");
        }
    }
    sum
}

#[test]
fn a_core_file_of_a_few_objects_is_small() {
    alone("space::a_core_file_of_a_few_objects_is_small", |heap| {
        let (before, mappings) = (dumped_bytes(), mapping_count());
        for door in [heap.door(0), &Blobs, &Fenced] {
            for size in [10, 100, 1000, 10_000, 100_000, 5_000_000] {
                let block = untouched(door, layout(size, 8));
                touch(block, 1);
                if size > 1000 {
                    free(door, block);
                }
            }
        }
        let (dumped, mappings) = (dumped_bytes() - before, mapping_count() - mappings);
        println!("{dumped} bytes in {mappings} mappings");
        assert!(dumped <= 19_000_000, "{dumped} bytes would be in a core file");
        assert!(mappings <= 60, "{mappings} mappings for that");
    });
}

#[test]
fn what_is_in_use_is_in_a_core_file() {
    alone("space::what_is_in_use_is_in_a_core_file", |heap| {
        let before = dumped_bytes();
        let live: Vec<Block> = (0..100_000).map(|_| untouched(heap.door(0), layout(1000, 8))).collect();
        live.iter().for_each(|block| touch(*block, 1000));
        let dumped = dumped_bytes() - before;
        let used = 100_000 * 1024;
        assert!((used..used + 8 * MIB).contains(&dumped), "{dumped} bytes are in a core file, {used} are in use");
        live.into_iter().for_each(|block| free(heap.door(0), block));
    });
}
