//! Very many calls, all of them right: none is reported, whatever is checked, and at the end nothing is missing.
//!
//! Threads come and go, and what they have allocated is resized and freed by whoever gets it next. With `FAMILY_ALLOC_TEST_LONG=1` each
//! mode answers a thousand million calls; `--release` makes that a matter of minutes.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::Mutex;

use allocator_api2::alloc::Allocator;
use common::doors::{Doors, layout};
use common::random::Random;
use family_alloc::{Classes, Family, family};

const THREADS: usize = 4;
/// As often all threads end and others begin; what is live then is passed on to them.
const ROUNDS: usize = 20;
/// Places of each thread; one half is live most of the time.
const PLACES: usize = 4096;
/// So many slots are exchanged at once.
const PARCEL: usize = 256;
/// Calls of a thread between two exchanges.
const EXCHANGED_EVERY: usize = 1024;
const LARGEST: usize = 4 << 20;

/// The calls of one family through both of its doors.
#[derive(Clone, Copy)]
struct Calls {
    doors: Doors,
    alloc: unsafe fn(Layout) -> *mut u8,
    alloc_zeroed: unsafe fn(Layout) -> *mut u8,
    dealloc: unsafe fn(*mut u8, Layout),
    realloc: unsafe fn(*mut u8, Layout, usize) -> *mut u8,
}

/// A live allocation.
#[derive(Clone, Copy)]
struct Slot {
    start: NonNull<u8>,
    layout: Layout,
    /// Bytes that came beyond those asked for.
    slack: usize,
    /// Whether it is `GlobalAlloc`'s, whose layouts come back as they were.
    is_exact: bool,
    owner: usize,
    /// What stands at both ends; no byte of it is zero.
    stamp: u64,
}

// SAFETY: an allocation may be used and freed on any thread; each of these is in one place, so with one thread at a time.
unsafe impl Send for Slot {}

impl Calls {
    const fn of<F: Family + GlobalAlloc + Allocator>() -> Self {
        Self {
            doors: Doors::of::<F>(),
            // SAFETY: the same contract, here and below.
            alloc: |layout| unsafe { F::default().alloc(layout) },
            // SAFETY: as above.
            alloc_zeroed: |layout| unsafe { F::default().alloc_zeroed(layout) },
            // SAFETY: as above.
            dealloc: |ptr, layout| unsafe { F::default().dealloc(ptr, layout) },
            // SAFETY: as above.
            realloc: |ptr, layout, size| unsafe { F::default().realloc(ptr, layout, size) },
        }
    }

    /// A new slot with its stamp; `slot` is what is wanted.
    fn allocate(&self, slot: Slot, is_zeroed: bool) -> Slot {
        let memory = match (slot.is_exact, is_zeroed) {
            // SAFETY: the size is not 0.
            (true, false) => exactly(unsafe { (self.alloc)(slot.layout) }, slot.layout.size()),
            // SAFETY: as above.
            (true, true) => exactly(unsafe { (self.alloc_zeroed)(slot.layout) }, slot.layout.size()),
            (false, false) => (self.doors.allocate)(slot.layout),
            (false, true) => (self.doors.allocate_zeroed)(slot.layout),
        };
        let slot = slot.at(memory, slot.layout);
        if is_zeroed {
            slot.ends().iter().for_each(|&end| assert_eq!(read(end), 0, "{:?}: not zero", slot.layout));
        }
        slot.write_stamp();
        slot
    }

    fn deallocate(&self, slot: Slot, fit: usize) {
        slot.verify();
        if slot.is_exact {
            // SAFETY: a live slot of this door with its layout; it is given up.
            unsafe { (self.dealloc)(slot.start.as_ptr(), slot.layout) };
        } else {
            // SAFETY: a live slot with a layout that fits; it is given up.
            unsafe { (self.doors.deallocate)(slot.start, slot.fitting(fit)) };
        }
    }

    fn resize(&self, slot: Slot, fit: usize, size: usize, is_zeroed: bool) -> Slot {
        slot.verify();
        let new = layout(size, slot.layout.align());
        let memory = if slot.is_exact {
            // SAFETY: a live slot of this door with its layout; it is given up for what comes.
            exactly(unsafe { (self.realloc)(slot.start.as_ptr(), slot.layout, size) }, size)
        } else {
            let old = slot.fitting(fit);
            let call = match (size >= old.size(), is_zeroed) {
                (true, true) => self.doors.grow_zeroed,
                (true, false) => self.doors.grow,
                (false, _) => self.doors.shrink,
            };
            // SAFETY: a live slot with a layout that fits, the sizes in the order that the call wants; it is given up.
            unsafe { call(slot.start, old, new) }
        };
        let resized = slot.at(memory, new);
        let (start, bytes) = slot.ends()[0];
        let kept = bytes.min(size);
        assert_eq!(read((resized.start, kept)), slot.stamp & mask(kept), "{:?} at {start:p} to {new:?}", slot.layout);
        resized.write_stamp();
        resized
    }
}

impl Slot {
    fn at(self, memory: Option<NonNull<[u8]>>, layout: Layout) -> Self {
        let memory = memory.unwrap_or_else(|| panic!("{layout:?} is refused"));
        Self { start: memory.cast(), layout, slack: memory.len() - layout.size(), ..self }
    }

    /// Some layout with which the slot may come back.
    fn fitting(&self, fit: usize) -> Layout {
        layout(self.layout.size() + fit % (self.slack + 1), self.layout.align())
    }

    /// The first bytes and the last.
    fn ends(&self) -> [(NonNull<u8>, usize); 2] {
        let bytes = (self.layout.size() / 2).clamp(1, 8);
        // SAFETY: still inside: `bytes` is at most the size.
        [(self.start, bytes), (unsafe { self.start.add(self.layout.size() - bytes) }, bytes)]
    }

    fn write_stamp(&self) {
        for (start, bytes) in self.ends() {
            let stamp = self.stamp.to_le_bytes();
            // SAFETY: at most eight bytes of a slot that this thread holds.
            unsafe { start.as_ptr().copy_from_nonoverlapping(stamp.as_ptr(), bytes) };
        }
    }

    fn verify(&self) {
        for end in self.ends() {
            assert_eq!(read(end), self.stamp & mask(end.1), "{:?} at {end:?}: the contents have changed", self.layout);
        }
    }
}

fn exactly(start: *mut u8, size: usize) -> Option<NonNull<[u8]>> {
    NonNull::new(start).map(|start| NonNull::slice_from_raw_parts(start, size))
}

fn mask(bytes: usize) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

fn read((start, bytes): (NonNull<u8>, usize)) -> u64 {
    let mut value = [0; 8];
    // SAFETY: at most eight bytes of a slot that this thread holds, written before or zeroed by the allocator.
    unsafe { start.as_ptr().copy_to_nonoverlapping(value.as_mut_ptr(), bytes) };
    u64::from_le_bytes(value)
}

/// Mostly small, now and then one that is larger than any slot.
fn size(random: &mut Random) -> usize {
    match random.below(1 << 14) {
        0 => random.size(LARGEST),
        1..32 => random.size(256 << 10),
        32..1024 => random.size(16 << 10),
        _ => random.size(1024),
    }
}

fn align(random: &mut Random) -> usize {
    1 << if random.below(256) == 0 { random.below(14) } else { random.below(5) }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    calls: usize,
    resized: usize,
    from_others: usize,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            resized: self.resized + other.resized,
            from_others: self.from_others + other.from_others,
        }
    }
}

/// One thread of one round: `calls` calls, in turn with an exchange of slots.
struct Worker<'a> {
    calls: &'a Calls,
    market: &'a Mutex<Vec<Vec<Slot>>>,
    places: Vec<Option<Slot>>,
    number: usize,
    random: Random,
    count: Count,
}

impl Worker<'_> {
    fn run(mut self, calls: usize) -> Count {
        while self.count.calls < calls {
            for _ in 0..EXCHANGED_EVERY.min(calls - self.count.calls) {
                self.step();
            }
            self.exchange();
            if self.random.below(2048) == 0 {
                (self.calls.doors.trim)();
            }
        }
        let rest = self.places.into_iter().flatten().collect();
        self.market.lock().expect("no panic").push(rest);
        self.count
    }

    fn step(&mut self) {
        let (place, choice) = (self.random.below(PLACES), self.random.next() as usize);
        let fit = choice >> 8;
        self.count.calls += 1;
        self.places[place] = match self.places[place] {
            None => Some(self.allocate(choice)),
            Some(slot) if choice & 3 == 0 => {
                let size = size(&mut self.random);
                self.count.resized += 1;
                Some(self.calls.resize(slot, fit, size, choice & 4 == 0))
            }
            Some(slot) => {
                self.count.from_others += usize::from(slot.owner != self.number);
                self.calls.deallocate(slot, fit);
                None
            }
        };
    }

    fn allocate(&mut self, choice: usize) -> Slot {
        let wanted = Slot {
            start: NonNull::dangling(),
            layout: layout(size(&mut self.random), align(&mut self.random)),
            slack: 0,
            is_exact: choice & 1 == 0,
            owner: self.number,
            stamp: self.random.next() | 0x0101_0101_0101_0101,
        };
        self.calls.allocate(wanted, choice & 6 == 0)
    }

    /// Gives a parcel of places to whoever comes next, and takes one for it.
    fn exchange(&mut self) {
        let from = self.random.below(PLACES / PARCEL) * PARCEL;
        let places = &mut self.places[from..from + PARCEL];
        let parcel = places.iter_mut().filter_map(Option::take).collect();
        let taken = {
            let mut market = self.market.lock().expect("no panic");
            let other = self.random.below(market.len().max(1));
            let taken = if market.is_empty() { Vec::new() } else { market.swap_remove(other) };
            market.push(parcel);
            taken
        };
        // What a thread left behind when it ended may be more than fits.
        let mut taken = taken.into_iter();
        places.iter_mut().zip(&mut taken).for_each(|(place, slot)| *place = Some(slot));
        let rest: Vec<_> = taken.collect();
        if !rest.is_empty() {
            self.market.lock().expect("no panic").push(rest);
        }
    }
}

#[track_caller]
fn many_valid_calls<F: Family + GlobalAlloc + Allocator>(name: &str) {
    let is_long = std::env::var_os("FAMILY_ALLOC_TEST_LONG").is_some();
    // The half of natural families.
    let short = if F::CLASSES == Classes::Spaced { 2_000_000 } else { 4_000_000 };
    let wanted = if is_long { 1_000_000_000 } else { common::times(short) };
    let calls = &Calls::of::<F>();
    let market = &Mutex::new(Vec::new());
    let mut count = Count::default();
    for round in 0..ROUNDS {
        let threads = std::thread::scope(|scope| {
            let start = |thread| {
                let number = round * THREADS + thread;
                let random = Random::new(number as u64 + 1);
                let worker =
                    Worker { calls, market, places: vec![None; PLACES], number, random, count: Count::default() };
                scope.spawn(move || worker.run(wanted / (ROUNDS * THREADS)))
            };
            // All are started before the first is waited for.
            let threads: Vec<_> = (0..THREADS).map(start).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Count>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).fold(Count::default(), Count::plus)
        });
        count = count.plus(threads);
    }
    let rest: Vec<Slot> = market.lock().expect("no panic").drain(..).flatten().collect();
    let live = F::stats().live_allocations;
    assert_eq!(live, rest.len(), "what is live is what was not freed: {}", F::stats());
    rest.iter().for_each(|slot| calls.deallocate(*slot, 0));
    count.calls += rest.len();
    let stats = F::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
    assert!(count.calls >= wanted, "{count:?}");
    // With few calls the threads meet too seldom.
    assert!(count.from_others > wanted / 20 || wanted <= 200_000, "{count:?}");
    let Count { calls, resized, from_others } = count;
    println!("{name}: {calls} calls, {resized} of them resized, {from_others} freed what another thread allocated");
}

#[test]
fn none_is_reported_in_a_default_family() {
    family! { struct Plain; }
    many_valid_calls::<Plain>("default");
}

#[test]
fn none_is_reported_in_a_checked_family() {
    family! { struct Watched { checks: Checked } }
    many_valid_calls::<Watched>("checked");
}

#[test]
fn none_is_reported_in_a_hardened_family() {
    family! { struct Guarded { checks: Hardened } }
    many_valid_calls::<Guarded>("hardened");
}

#[test]
fn none_is_reported_in_families_with_spaced_classes() {
    family! {
        struct Spaced { classes: Spaced }
        struct WatchedSpaced { checks: Checked, classes: Spaced }
        struct GuardedSpaced { checks: Hardened, classes: Spaced }
    }
    many_valid_calls::<Spaced>("default, spaced");
    many_valid_calls::<WatchedSpaced>("checked, spaced");
    many_valid_calls::<GuardedSpaced>("hardened, spaced");
}
