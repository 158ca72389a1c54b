//! Large allocations: freed ones that stay, and ones of which little is touched.

use super::Settings;
use crate::heap::{Block, Heap, List, layout};
use crate::moments::Moments;

const MIB: usize = 1 << 20;

/// Another family allocates and frees for 8 seconds.
fn work(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let serving = heap.families(1)[0];
    serving.light_load(&mut settings.random(), settings.seconds(8));
    moments.note("work of 8 s");
    heap.trim();
    moments.note("trim");
}

pub(super) fn one_big_buffer(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let buffer = heap.main.touched(layout(settings.count(200 * MIB), 8));
    moments.note("loaded");
    heap.main.free(buffer);
    moments.note("freed");
    work(heap, settings, moments);
}

pub(super) fn many_buffers(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let mut random = settings.random();
    let mut live: List<Block> = List::new(settings.count(500));
    moments.begin();
    for _ in 0..settings.count(500) {
        live.push(heap.main.touched(layout(random.between(64 << 10, MIB), 8)));
    }
    moments.note("loaded");
    live.drain(|block| heap.main.free(block));
    moments.note("freed");
    work(heap, settings, moments);
}

pub(super) fn grown_buffers(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let mut live: List<Block> = List::new(16);
    (0..16).for_each(|_| live.push(heap.main.touched(layout(1 << 10, 8))));
    moments.begin();
    let largest = settings.count(16 * MIB);
    while live[0].size() < largest {
        for block in &mut *live {
            *block = heap.resize(*block, (block.size() * 2).min(largest));
            block.touch(4096);
        }
    }
    moments.note("grown");
    live.iter_mut().for_each(|block| *block = heap.resize(*block, 1 << 10));
    moments.note("shrunk");
    work(heap, settings, moments);
}

/// Allocates `count` blocks and touches a byte in each `step`.
fn sparse(
    heap: &Heap,
    moments: &mut Moments,
    (size, align): (usize, usize),
    (count, is_zeroed): (usize, bool),
    step: usize,
) {
    moments.begin();
    for _ in 0..count {
        let layout = layout(size, align);
        let block = if is_zeroed { heap.zeroed(layout) } else { heap.main.block(layout) };
        block.touch(step);
    }
    moments.note("touched");
}

pub(super) fn table(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let size = settings.count(2048) * MIB;
    sparse(heap, moments, (size, 8), (1, true), 2 * MIB);
}

pub(super) fn buffers(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    sparse(heap, moments, (MIB, 8), (settings.count(1000), true), MIB);
}

pub(super) fn reserved(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    sparse(heap, moments, (3 * MIB, 1), (settings.count(1000), false), 3 * MIB);
}

pub(super) fn stacks(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    sparse(heap, moments, (256 << 10, 4096), (settings.count(1000), false), 256 << 10);
}

pub(super) fn aligned(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    sparse(heap, moments, (64, 2 * MIB), (settings.count(500), false), 64);
}

pub(super) fn aligned_64k(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    sparse(heap, moments, (64, 64 << 10), (settings.count(5000), false), 64);
}
