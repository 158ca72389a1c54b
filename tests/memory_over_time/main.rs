//! What stays resident when little or nothing is live, beside the system's allocator in the same program.
//!
//! Each program runs twice in processes of its own: with families and with `System`. Bounds are for memory, never for time, but
//! memory must have come back within some seconds of use. `benches/src/memory_over_time` has these programs in full, with more
//! peers.

#![cfg(all(target_os = "linux", target_env = "gnu", not(miri), not(feature = "portable")))]

#[path = "../common/mod.rs"]
mod common;
mod idle;
mod large;
mod slabs;
mod space;
mod threads;

use std::alloc::{GlobalAlloc, Layout, System};
use std::thread;
use std::time::{Duration, Instant};

use common::child;
use common::doors::layout;
use common::memory::{page_bytes, resident};
use common::random::Random;
use family_alloc::{families, family};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What slabs have by themselves where addresses have 32 bits.
const SHORT_BYTES: usize = 128 << 10;

type Door = &'static (dyn GlobalAlloc + Sync);

macro_rules! many {
    ($first:ident $($name:ident)*) => {
        // The one that most programs measure: what is promised is of slabs of this length, and where addresses are short those of
        // others are shorter.
        family! { struct $first { slab_bytes: 2 << 20 } $(struct $name;)* }
        static FAMILIES: [Door; 20] = [&$first, $(&$name),*];
    };
}
many! { F01 F02 F03 F04 F05 F06 F07 F08 F09 F10 F11 F12 F13 F14 F15 F16 F17 F18 F19 F20 }

family! {
    struct States { checks: Checked }
    struct Fenced { checks: Hardened }
    struct Blobs { slab_bytes: 64 * 1024 }
    struct Shorts { slab_bytes: SHORT_BYTES }
    struct Entries { classes: Spaced }
}

/// What a program runs with: twenty families, or `System` in place of each.
struct Heap {
    is_system: bool,
    start: usize,
}

/// A live allocation; the programs free each once.
#[derive(Clone, Copy)]
struct Block {
    address: usize,
    layout: Layout,
}

/// What one process has noted.
type Figures = Vec<(String, usize)>;

/// Runs a program with families and with `System`, and returns what both have noted; nothing inside such a process.
#[track_caller]
fn both(test: &str, program: fn(&mut Heap)) -> Option<(Figures, Figures)> {
    if let Some(case) = child::case() {
        let is_system = case == "system";
        if is_system {
            // As many arenas as a program has by itself, which `child` has bounded.
            // SAFETY: no other thread allocates now.
            assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 0) }, 1);
        }
        program(&mut Heap { is_system, start: resident().private_dirty });
        return None;
    }
    let figures = |case| figures(&child::assert_passed(test, case));
    Some((figures("family"), figures("system")))
}

fn figures(out: &str) -> Figures {
    let lines = out.lines().filter_map(|line| line.strip_prefix("figure "));
    let figure = |line: &str| {
        let (value, name) = line.split_once(' ').expect("a figure");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(figure).collect()
}

/// Fails unless each figure is at most the system's times something, and so many bytes more.
#[track_caller]
fn assert_near_system(test: &str, program: fn(&mut Heap), percent: usize, more: usize) {
    let Some((ours, system)) = both(test, program) else { return };
    assert!(!ours.is_empty(), "{test}: something was noted");
    let bound = |value: usize| value * percent / 100 + more;
    let over: Vec<String> = ours
        .iter()
        .zip(&system)
        .filter(|((_, ours), (_, system))| *ours > bound(*system))
        .map(|((name, ours), (_, system))| {
            let bound = bound(*system) / KIB;
            format!("{name}: {} KiB, at most {bound} KiB; the system's {} KiB", ours / KIB, system / KIB)
        })
        .collect();
    assert!(over.is_empty(), "{test}: {}", over.join("; "));
}

/// Runs a program with families only.
#[track_caller]
fn alone(test: &str, program: fn(&mut Heap)) {
    child::isolated(test, || program(&mut Heap { is_system: false, start: resident().private_dirty }));
}

impl Heap {
    fn door(&self, index: usize) -> Door {
        if self.is_system { &System } else { FAMILIES[index] }
    }

    /// Memory counts from here on.
    fn begin(&mut self) {
        self.start = resident().private_dirty;
    }

    fn more(&self) -> usize {
        resident().private_dirty.saturating_sub(self.start)
    }

    fn note(&self, name: &str) {
        note(name, self.more());
    }

    fn trim(&self) {
        if self.is_system {
            // SAFETY: no preconditions.
            unsafe { libc::malloc_trim(0) };
        } else {
            families().for_each(|family| _ = family.trim());
        }
    }

    /// Does something again and again for so many seconds, or until as little is left as the bounds allow in any case.
    fn note_within(&self, name: &str, seconds: u64, mut use_it: impl FnMut()) {
        let begin = Instant::now();
        let mut next = Duration::from_millis(100);
        while begin.elapsed() < Duration::from_secs(seconds) {
            use_it();
            if begin.elapsed() > next {
                next += Duration::from_millis(100);
                if self.more() < 4 * MIB {
                    break;
                }
            }
        }
        self.note(name);
    }
}

fn note(name: &str, value: usize) {
    // The harness has begun a line.
    println!("\nfigure {value} {name}");
}

/// A block with a byte written in each page.
fn touched(door: Door, layout: Layout) -> Block {
    let block = untouched(door, layout);
    touch(block, page_bytes());
    block
}

fn untouched(door: Door, layout: Layout) -> Block {
    // SAFETY: no program asks for nothing.
    let start = unsafe { door.alloc(layout) };
    assert!(!start.is_null(), "memory for {layout:?}");
    Block { address: start.expose_provenance(), layout }
}

fn touch(block: Block, step: usize) {
    for at in (0..block.layout.size()).step_by(step) {
        // SAFETY: inside a live block.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(block.address + at).write_volatile(1) };
    }
}

fn free(door: Door, block: Block) {
    // SAFETY: allocated through this door with this layout, freed once.
    unsafe { door.dealloc(std::ptr::with_exposed_provenance_mut(block.address), block.layout) };
}

/// Twenty pairs, then a millisecond's sleep.
fn trickle(door: Door) {
    (0..20).for_each(|_| free(door, touched(door, layout(100, 8))));
    thread::sleep(Duration::from_millis(1));
}

/// Fifty blocks of mixed sizes, which are freed together.
fn light_load(door: Door, random: &mut Random) {
    let live: [Block; 50] = std::array::from_fn(|_| touched(door, layout(random.between(8, 1024), 8)));
    live.into_iter().for_each(|block| free(door, block));
    thread::sleep(Duration::from_millis(2));
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    (1..items.len()).rev().for_each(|index| items.swap(index, random.below(index + 1)));
}

fn spawn(body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().stack_size(128 * KIB).spawn(body).expect("a thread")
}

fn park() -> ! {
    loop {
        thread::park();
    }
}
