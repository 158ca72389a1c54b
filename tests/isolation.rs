//! What has been one family's slabs is never another's, whatever becomes of them: an audit by address.
//!
//! Threads come and go, fill families of every mode and slab size and empty them again, and trim them, so that slabs are closed and
//! their units opened for other classes. A ledger knows whose each piece of address space is. With `FAMILY_ALLOC_TEST_LONG=1` it is a
//! hundred million calls.

#![cfg(all(target_arch = "x86_64", not(miri)))]

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use common::doors::{Doors, layout};
use common::random::Random;
use family_alloc::family;

family! {
    struct Plain;
    struct Small { slab_bytes: 64 * 1024 }
    struct OtherSmall { slab_bytes: 64 * 1024 }
    struct Middle { slab_bytes: 512 * 1024 }
    struct Raw { checks: Unchecked }
    struct Watched { checks: Checked }
    struct WatchedSmall { checks: Checked, slab_bytes: 64 * 1024 }
    struct Guarded { checks: Hardened }
    struct Spaced { classes: Spaced }
    struct WatchedSpaced { classes: Spaced, checks: Checked, slab_bytes: 64 * 1024 }
}

static FAMILIES: [Doors; 10] = [
    Doors::of::<Plain>(),
    Doors::of::<Small>(),
    Doors::of::<OtherSmall>(),
    Doors::of::<Middle>(),
    Doors::of::<Raw>(),
    Doors::of::<Watched>(),
    Doors::of::<WatchedSmall>(),
    Doors::of::<Guarded>(),
    Doors::of::<Spaced>(),
    Doors::of::<WatchedSpaced>(),
];

const THREADS: usize = 4;
/// As often all threads end and others begin.
const ROUNDS: usize = 10;
/// Calls of a thread from one filling to the next.
const WAVE: usize = 20_000;
/// The smallest unit, and the smallest region: 64 of them. What regions never share, units don't.
const UNIT_BYTES: usize = 64 << 10;
const REGION_BYTES: usize = 64 * UNIT_BYTES;
/// Address space that a process has here.
const ADDRESSES: usize = 1 << 47;
/// Units whose last class is remembered.
const REMEMBERED: usize = 1 << 16;

/// Whose each piece of address space is, and of what class units were last.
struct Audit {
    owners: Vec<AtomicU8>,
    /// A unit's number and its class.
    classes: Vec<AtomicU64>,
    regions: AtomicUsize,
    changes: AtomicUsize,
}

impl Audit {
    fn new() -> Self {
        Self {
            owners: (0..ADDRESSES / REGION_BYTES).map(|_| AtomicU8::new(0)).collect(),
            classes: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            regions: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
        }
    }

    /// Notes a slot that was handed out.
    fn note(&self, slot: &Slot) {
        let (address, owner) = (slot.memory.addr().get(), slot.family as u8 + 1);
        match self.owners[address / REGION_BYTES].compare_exchange(0, owner, Relaxed, Relaxed) {
            Ok(_) => {
                self.regions.fetch_add(1, Relaxed);
            }
            Err(known) => assert_eq!(known, owner, "{address:#x} of {:?} was another's", FAMILIES[slot.family]),
        }
        let unit = address / UNIT_BYTES;
        let now = ((unit as u64) << 8) | u64::from(slot.layout.size().next_power_of_two().ilog2());
        let remembered = &self.classes[unit % REMEMBERED];
        let before = remembered.load(Relaxed);
        if before != now {
            remembered.store(now, Relaxed);
            self.changes.fetch_add(usize::from(before >> 8 == now >> 8), Relaxed);
        }
    }
}

#[derive(Clone, Copy)]
struct Slot {
    family: usize,
    memory: NonNull<u8>,
    layout: Layout,
}

impl Slot {
    fn allocate(family: usize, size: usize) -> Self {
        let layout = layout(size, 1);
        let memory = (FAMILIES[family].allocate)(layout).expect("memory").cast();
        let slot = Self { family, memory, layout };
        // SAFETY: both ends of a new allocation, here and below.
        unsafe { slot.end().write(family as u8) };
        // SAFETY: as above.
        unsafe { slot.memory.write(family as u8) };
        slot
    }

    fn end(&self) -> NonNull<u8> {
        // SAFETY: the last byte of an allocation.
        unsafe { self.memory.add(self.layout.size() - 1) }
    }

    fn free(self) {
        // SAFETY: written when it was allocated, here and below.
        let ends = [unsafe { self.memory.read() }, unsafe { self.end().read() }];
        assert_eq!(ends, [self.family as u8; 2], "another family has written here");
        // SAFETY: allocated with this layout, and given up.
        unsafe { (FAMILIES[self.family].deallocate)(self.memory, self.layout) };
    }
}

/// Fills and empties: of a wave's calls the first half are mostly allocations, of few classes; the second half mostly frees.
fn work(audit: &Audit, random: &mut Random, calls: usize) {
    let mut held: Vec<Slot> = Vec::new();
    for call in 0..calls {
        let in_wave = call % WAVE;
        let grows = random.below(8) < if in_wave < WAVE / 2 { 6 } else { 1 };
        if grows || held.is_empty() {
            let family = random.below(FAMILIES.len());
            let largest = if random.below(64) == 0 { FAMILIES[family].slab_bytes / 8 } else { 2048 };
            let slot = Slot::allocate(family, random.size(largest));
            audit.note(&slot);
            held.push(slot);
        } else {
            held.swap_remove(random.below(held.len())).free();
        }
        if in_wave == WAVE - 1 {
            held.drain(..).for_each(Slot::free);
            (FAMILIES[random.below(FAMILIES.len())].trim)();
        }
    }
    held.into_iter().for_each(Slot::free);
}

#[test]
fn no_unit_of_slabs_ever_serves_two_families() {
    let is_long = std::env::var_os("FAMILY_ALLOC_TEST_LONG").is_some();
    let calls: usize = if is_long { 100_000_000 } else { 1_600_000 };
    let audit = Audit::new();
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            let audit = &audit;
            let run = |thread: usize| {
                let mut random = Random::new((round * THREADS + thread) as u64 + 1);
                work(audit, &mut random, calls / ROUNDS / THREADS);
            };
            // Joined one by one: a scope may be left before the thread-locals of its threads are destroyed.
            let threads = [0, 1, 2, 3].map(|thread| scope.spawn(move || run(thread)));
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        });
        for doors in &FAMILIES {
            (doors.trim)();
        }
    }
    let (regions, changes) = (audit.regions.into_inner(), audit.changes.into_inner());
    println!("{calls} calls in {regions} pieces of 4 MiB, whose units changed their class {changes} times");
    assert!(changes > 1000, "units have changed their class");
    for doors in &FAMILIES {
        assert_eq!((doors.stats)().live_allocations, 0, "{doors:?}");
    }
}
