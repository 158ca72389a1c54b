//! Little is live, and it lies everywhere.

use super::Settings;
use crate::heap::{Block, Heap, List, layout, page_bytes};
use crate::moments::Moments;
use crate::targets::LIVE_PAGES;

/// Which slots stay.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// One in so many, at random.
    OneIn(usize),
    /// The first of each so many pages.
    OneEvery(usize),
}

/// 64 MiB of slots of one size, most of which are freed in random order.
pub(super) fn slots(heap: &Heap, settings: &Settings, moments: &mut Moments, size: usize, keep: Keep) {
    let count = settings.count((64 << 20) / size);
    let door = heap.main;
    let mut random = settings.random();
    let mut live: List<Block> = List::new(count);
    let mut freed: List<Block> = List::new(count);
    moments.begin();
    (0..count).for_each(|_| live.push(door.touched(layout(size, 8))));
    moments.note("peak");
    if let Keep::OneEvery(_) = keep {
        live.sort_unstable_by_key(|block| block.address);
    }
    let mut next = 0;
    live.retain(|_, block| {
        let stays = match keep {
            Keep::OneIn(many) => random.below(many) == 0,
            Keep::OneEvery(pages) => {
                let page = block.address / 4096 / pages;
                let is_next = page >= next;
                next = next.max(page + 1);
                is_next
            }
        };
        if !stays {
            freed.push(block);
        }
        stays
    });
    random.shuffle(&mut freed);
    freed.drain(|block| door.free(block));
    moments.note("freed");
    heap.trim();
    moments.note("trim");
    moments.bytes(LIVE_PAGES, page_bytes(&mut live));
}

/// Very many mixed objects, of which one in a thousand stays.
pub(super) fn survivors(heap: &Heap, settings: &Settings, moments: &mut Moments, has_load: bool) {
    let count = settings.count(2_000_000);
    let door = heap.main;
    let mut random = settings.random();
    let mut live: List<Block> = List::new(count);
    moments.begin();
    (0..count).for_each(|_| live.push(door.touched(layout(random.size(1024), 8))));
    moments.note("peak");
    random.shuffle(&mut live);
    live.retain(|index, block| {
        let stays = index % 1000 == 0;
        if !stays {
            door.free(block);
        }
        stays
    });
    moments.note("freed");
    if has_load {
        door.light_load(&mut random, settings.seconds(10));
        moments.note("light load of 10 s");
    } else {
        heap.trim();
        moments.note("trim");
    }
    moments.bytes(LIVE_PAGES, page_bytes(&mut live));
}

/// Sizes that grow from wave to wave, so that what was freed does not fit what comes.
pub(super) fn waves(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let door = heap.main;
    let mut random = settings.random();
    let mut live: List<Block> = List::new(settings.count(2_000_000));
    moments.begin();
    for largest in [256, 512, 1024, 4096, 16 << 10, 64 << 10] {
        let mut room = settings.count(64 << 20);
        while room > 0 {
            let block = door.touched(layout(random.size(largest), 8));
            room = room.saturating_sub(block.size());
            live.push(block);
        }
        random.shuffle(&mut live);
        let half = live.len() / 2;
        live.retain(|index, block| {
            if index >= half {
                door.free(block);
            }
            index < half
        });
    }
    let bytes: usize = live.iter().map(|block| block.size()).sum();
    moments.note("after six waves");
    moments.bytes("of these live", bytes);
    live.drain(|block| door.free(block));
    moments.note("all freed");
    door.light_load(&mut random, settings.seconds(5));
    moments.note("all freed, light load of 5 s");
    heap.trim();
    moments.note("trim");
}
