//! Slabs of which little is live: whole free pages, survivors, states.

use std::time::{Duration, Instant};

use super::common::child;
use super::common::doors::layout;
use super::common::memory::page_bytes;
use super::common::random::Random;
use super::{
    Block, Door, Entries, Fenced, Heap, KIB, MIB, SHORT_BYTES, Shorts, States, alone, free, light_load, shuffle,
    touched,
};

#[test]
fn states_of_freed_slots_come_back() {
    for (case, door) in [("checked", &States as Door), ("hardened", &Fenced as Door)] {
        if let Some(chosen) = child::case() {
            if chosen == case {
                let mut heap = Heap { is_system: false, start: 0 };
                let mut live: Vec<Block> = Vec::with_capacity(32 * MIB / 16);
                heap.begin();
                live.extend((0..32 * MIB / 16).map(|_| touched(door, layout(16, 8))));
                live.into_iter().for_each(|block| free(door, block));
                heap.trim();
                let left = heap.more();
                assert!(left <= MIB, "{case}: {} KiB are left after trim", left / KIB);
            }
        } else {
            child::assert_passed("slabs::states_of_freed_slots_come_back", case);
        }
    }
}

/// Bytes of the pages that blocks lie on. Sorts them.
fn bytes_of_pages(blocks: &mut [Block]) -> usize {
    let page = page_bytes();
    blocks.sort_unstable_by_key(|block| block.address);
    let (mut count, mut next) = (0, 0);
    for block in blocks {
        let (first, last) = (block.address / page, (block.address + block.layout.size() - 1) / page);
        count += (last + 1).saturating_sub(next.max(first));
        next = next.max(last + 1);
    }
    count * page
}

/// Which slots stay: those of a random choice, or the first of each so many pages.
type Keep = fn(&mut Random, usize, &mut usize) -> bool;

fn at_random<const MANY: usize>(random: &mut Random, _: usize, _: &mut usize) -> bool {
    random.below(MANY) == 0
}

fn one_every<const PAGES: usize>(_: &mut Random, address: usize, next: &mut usize) -> bool {
    let page = address / page_bytes() / PAGES;
    let is_next = page >= *next;
    *next = (*next).max(page + 1);
    is_next
}

#[test]
fn whole_free_pages_of_slabs_in_use_come_back() {
    const CASES: [(&str, usize, Keep); 6] = [
        ("10 % of 64 B stay", 64, at_random::<10>),
        ("0.1 % of 64 B stay", 64, at_random::<1000>),
        ("one of 64 B a page stays", 64, one_every::<1>),
        ("one of 64 B in 4 pages stays", 64, one_every::<4>),
        ("one of 16 B in 8 pages stays", 16, one_every::<8>),
        ("5 % of 1000 B stay", 1000, at_random::<20>),
    ];
    let test = "slabs::whole_free_pages_of_slabs_in_use_come_back";
    let Some(case) = child::case() else {
        let wrong = CASES.iter().filter_map(|(case, ..)| {
            let out = child::run(test, case);
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            (!out.status.success()).then(|| text.lines().find(|line| line.contains(" KiB ")).unwrap_or(case).to_owned())
        });
        let wrong: Vec<String> = wrong.collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        return;
    };
    let (case, size, keep) = CASES.iter().find(|(name, ..)| *name == case).expect("a case");
    let mut heap = Heap { is_system: false, start: 0 };
    let door = heap.door(0);
    let count = 48 * MIB / size;
    let (mut random, mut next) = (Random::new(7), 0);
    let (mut live, mut freed) = (Vec::with_capacity(count), Vec::with_capacity(count));
    freed.resize(count, Block { address: 0, layout: layout(1, 1) });
    freed.clear();
    live.resize(count, Block { address: 0, layout: layout(1, 1) });
    live.clear();
    heap.begin();
    live.extend((0..count).map(|_| touched(door, layout(*size, 8))));
    live.sort_unstable_by_key(|block| block.address);
    live.retain(|block| {
        let stays = keep(&mut random, block.address, &mut next);
        if !stays {
            freed.push(*block);
        }
        stays
    });
    shuffle(&mut freed, &mut random);
    freed.drain(..).for_each(|block| free(door, block));
    heap.trim();
    let (left, least) = (heap.more(), bytes_of_pages(&mut live));
    // Beside the pages themselves: headers, and what this thread may cache.
    let most = least + least / 20 + 256 * KIB;
    assert!(left <= most, "{case}: {} KiB are left, {} KiB are pages of live slots", left / KIB, least / KIB);
}

/// Half a million mixed objects of which one in a thousand stays; the survivors.
fn survivors(heap: &mut Heap, door: Door) -> Vec<Block> {
    const COUNT: usize = 500_000;
    let mut random = Random::new(3);
    let mut live = vec![Block { address: 0, layout: layout(1, 1) }; COUNT];
    heap.begin();
    live.iter_mut().for_each(|block| *block = touched(door, layout(random.between(8, 1024), 8)));
    shuffle(&mut live, &mut random);
    for block in live.iter().skip(COUNT / 1000) {
        free(door, *block);
    }
    live.truncate(COUNT / 1000);
    live
}

#[test]
fn survivors_hold_little_more_than_their_pages_after_trim() {
    alone("slabs::survivors_hold_little_more_than_their_pages_after_trim", |heap| {
        let mut live = survivors(heap, heap.door(0));
        heap.trim();
        let (left, least) = (heap.more(), bytes_of_pages(&mut live));
        assert!(left <= least * 130 / 100, "{} KiB are left, pages of survivors {} KiB", left / KIB, least / KIB);
    });
}

/// What the slabs of small regions have beside their slots does not stay for each of them.
#[test]
fn survivors_in_short_slabs_hold_little_more_than_their_pages_after_trim() {
    alone("slabs::survivors_in_short_slabs_hold_little_more_than_their_pages_after_trim", |heap| {
        let mut live = survivors(heap, &Shorts);
        heap.trim();
        let (left, least) = (heap.more(), bytes_of_pages(&mut live));
        let mut regions: Vec<usize> = live.iter().map(|block| block.address / (64 * SHORT_BYTES)).collect();
        regions.dedup();
        // Of each region two pages hold headers, and three the bits of what is free beside survivors.
        let most = least * 130 / 100 + regions.len() * 5 * page_bytes();
        assert!(left <= most, "{} KiB are left, pages of survivors {} KiB", left / KIB, least / KIB);
    });
}

#[test]
fn survivors_hold_little_more_than_their_pages_under_light_load() {
    alone("slabs::survivors_hold_little_more_than_their_pages_under_light_load", |heap| {
        let mut live = survivors(heap, heap.door(0));
        let least = bytes_of_pages(&mut live);
        let mut random = Random::new(4);
        let begin = Instant::now();
        // The slots of each of seven classes that the thread has cached may stand on a page each.
        let most = least * 2 + 7 * 128 * 4096;
        while begin.elapsed() < Duration::from_secs(10) && heap.more() > most {
            (0..50).for_each(|_| light_load(heap.door(0), &mut random));
        }
        let left = heap.more();
        assert!(left <= most, "{} KiB are left, pages of survivors {} KiB", left / KIB, least / KIB);
    });
}

/// A cache whose entries change from 100 to 300 bytes, evicted at random, in a family with spaced classes. jemalloc holds 2.2 times what is live at the worst
/// moment; the bound is that × 1.1.
#[test]
fn a_cache_whose_entries_grow_holds_little_more_than_they_need() {
    const BYTES: usize = 64 * MIB;
    alone("slabs::a_cache_whose_entries_grow_holds_little_more_than_they_need", |heap| {
        let door: Door = &Entries;
        let mut random = Random::new(5);
        let mut live = vec![Block { address: 0, layout: layout(100, 8) }; BYTES / 100];
        heap.begin();
        live.iter_mut().for_each(|block| *block = touched(door, block.layout));
        let mut used = live.len() * 100;
        let mut worst = heap.more();
        for round in 0..4 * BYTES / 300 {
            while used + 300 > BYTES {
                let evicted = live.swap_remove(random.below(live.len()));
                used -= evicted.layout.size();
                free(door, evicted);
            }
            live.push(touched(door, layout(300, 8)));
            used += 300;
            if round % (BYTES / 3000) == 0 {
                worst = worst.max(heap.more());
            }
        }
        let end = heap.more();
        let most = BYTES / 100 * 240;
        assert!(worst <= most && end <= most, "{} KiB at the worst, {} KiB at the end", worst / KIB, end / KIB);
    });
}
