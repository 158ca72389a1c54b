//! Address space, mappings and core files.

use std::process::{Command, Stdio};
use std::thread;

use super::Settings;
use super::caches::door;
use crate::heap::{Block, Heap, List, layout};
use crate::moments::{self, Moments};

family_alloc::family! {
    struct Blobs { slab_bytes: 64 * 1024 }
    struct One;
    struct Two { slab_bytes: 64 * 1024 }
    struct Three { checks: Hardened }
}

pub(super) fn map_count(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let mut space = [0; 2];
    let count = settings.count(150_000);
    let mut live: List<Block> = List::new(count);
    let mut few: List<Block> = List::new(1000);
    let mut most = [0; 2];
    let mut refused = [0; 3];
    let door = heap.ours_or_main(door::<Blobs>());
    let blob = layout(40_000, 8);
    moments.begin();
    for space in &mut space {
        let blobs = (0..count).filter_map(|_| door.try_block(blob));
        blobs.for_each(|block| live.push(block));
        refused[0] += count - live.len();
        most[0] = most[0].max(moments::mappings());
        let freed = live.len().div_ceil(2);
        live.retain(|index, block| {
            if index % 2 == 0 {
                door.free(block);
            }
            index % 2 == 1
        });
        most[1] = most[1].max(moments::mappings());
        refused[2] += usize::from(thread::Builder::new().spawn(|| ()).is_err());
        let before = live.len();
        let blobs = (0..freed).filter_map(|_| door.try_block(blob));
        blobs.for_each(|block| live.push(block));
        refused[0] += freed - (live.len() - before);
        let small = (0..1000).filter_map(|_| door.try_block(layout(100, 8)));
        small.for_each(|block| few.push(block));
        refused[1] += 1000 - few.len();
        few.drain(|block| door.free(block));
        refused[2] += usize::from(thread::Builder::new().spawn(|| ()).is_err());
        live.drain(|block| door.free(block));
        heap.trim();
        *space = moments::mapped_bytes();
    }
    moments.note("all freed, trim");
    moments.count("mappings, all live", most[0]);
    moments.count("mappings, half freed", most[1]);
    moments.count("mappings, all freed", moments::mappings());
    moments.count("refused", refused[0]);
    moments.count("small objects refused", refused[1]);
    moments.count("threads refused", refused[2]);
    moments.bytes("address space lost by the second time", space[1].saturating_sub(space[0]));
}

pub(super) fn core_size(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    /// More than this is not written to a disk to see how much it is.
    const WRITTEN: usize = 200 << 20;
    // The variables of all peers are no part of it.
    let before = moments::dumped_bytes();
    for ours in [door::<One>(), door::<Two>(), door::<Three>()] {
        let door = heap.ours_or_main(ours);
        for size in [10, 100, 1000, 10_000, 100_000, 5_000_000] {
            let block = door.block(layout(size, 8));
            block.touch(size);
            if size > 1000 {
                door.free(block);
            }
        }
    }
    let dumped = moments::dumped_bytes().saturating_sub(before);
    moments.note("in use");
    moments.bytes("dumped", dumped);
    let written = (settings.looks && dumped <= WRITTEN).then(core_file_bytes).flatten();
    if let Some(bytes) = written {
        moments.bytes("gcore", bytes.saturating_sub(before));
    }
}

/// Bytes of the core file that `gcore` writes of this process, if it is installed and allowed to.
fn core_file_bytes() -> Option<usize> {
    let id = std::process::id().to_string();
    let prefix = std::env::temp_dir().join("memory_over_time");
    let written = prefix.with_extension(&id);
    let mut command = Command::new("gcore");
    command.arg("-o").arg(&prefix).arg(&id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().ok()?;
    let bytes = std::fs::metadata(&written).ok().and_then(|file| usize::try_from(file.len()).ok());
    let _ = std::fs::remove_file(written);
    bytes.filter(|_| status.success())
}
