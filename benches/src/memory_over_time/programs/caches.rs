//! What follows a peak in the same family: other classes, slots' states, entries of another size.

use std::alloc::GlobalAlloc;
use std::time::Instant;

use super::Settings;
use crate::heap::{Block, Heap, List, layout};
use crate::moments::Moments;
use crate::subject::Door;

family_alloc::family! {
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
    struct Entries { classes: Spaced }
}

/// The door to a family of this benchmark.
pub(super) fn door<F: GlobalAlloc + Default>() -> Door {
    Door {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        alloc: |layout| unsafe { F::default().alloc(layout) },
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        dealloc: |ptr, layout| unsafe { F::default().dealloc(ptr, layout) },
    }
}

/// Slots of one size up to so many MiB, all freed.
fn peak(door: Door, size: usize, bytes: usize) -> impl FnOnce() {
    let mut live: List<usize> = List::new(bytes / size);
    (0..bytes / size).for_each(|_| live.push(door.touched(layout(size, 8)).address));
    move || live.drain(|address| door.free(Block::at(address, layout(size, 8))))
}

pub(super) fn advice_stays(heap: &Heap, settings: &Settings, moments: &mut Moments, has_peak: bool) {
    if has_peak {
        peak(heap.main, 64, settings.count(400 << 20))();
        heap.trim();
    }
    moments.begin();
    for shift in 2..=20 {
        heap.main.block(layout(1 << shift, 1)).touch(1 << shift);
    }
    moments.note("19 slots");
}

pub(super) fn checked(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    states_stay(heap, settings, moments, door::<Checked>());
}

pub(super) fn hardened(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    states_stay(heap, settings, moments, door::<Hardened>());
}

fn states_stay(heap: &Heap, settings: &Settings, moments: &mut Moments, ours: Door) {
    const SIZE: usize = 16;
    let count = settings.count((100 << 20) / SIZE);
    let door = heap.ours_or_main(ours);
    let mut live: List<usize> = List::new(count);
    moments.begin();
    (0..count).for_each(|_| live.push(door.touched(layout(SIZE, 8)).address));
    moments.note("peak");
    live.drain(|address| door.free(Block::at(address, layout(SIZE, 8))));
    moments.note("freed");
    door.trickle(layout(SIZE, 8), settings.seconds(3));
    moments.note("trickle of 3 s");
    heap.trim();
    moments.note("trim");
}

pub(super) fn cache(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    entries_change(heap, settings, moments, heap.main);
}

pub(super) fn spaced_cache(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    entries_change(heap, settings, moments, heap.ours_or_main(door::<Entries>()));
}

fn entries_change(heap: &Heap, settings: &Settings, moments: &mut Moments, door: Door) {
    let bytes = settings.count(256 << 20);
    let mut random = settings.random();
    let mut live: List<Block> = List::new(bytes / 100 + 1);
    moments.begin();
    let mut used = 0;
    while used + 100 <= bytes {
        live.push(door.touched(layout(100, 8)));
        used += 100;
    }
    moments.note("filled with 100 B");
    let mut worst = moments.more();
    let begin = Instant::now();
    // Entries that were there are evicted as often as new ones: after some times as many nearly all have the new size.
    let total = 4 * bytes / 300;
    for round in 0..total {
        while used + 300 > bytes {
            let last = live.len() - 1;
            live.swap(random.below(last + 1), last);
            let evicted = live.pop().expect("an entry");
            used -= evicted.size();
            door.free(evicted);
        }
        live.push(door.touched(layout(300, 8)));
        used += 300;
        if round % (total / 50).max(1) == 0 {
            worst = worst.max(moments.more());
        }
    }
    moments.bytes("worst moment", worst);
    moments.note("end");
    door.light_load(&mut random, settings.seconds(5).saturating_sub(begin.elapsed()));
    moments.note("light load up to 5 s");
    live.drain(|block| door.free(block));
    heap.trim();
    moments.note("all freed, trim");
}
