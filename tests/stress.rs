//! Everything at once: threads that make random calls in families of every kind, free each other's slots and end with slots in use,
//! while others read statistics and trim. Every slot has contents of its own, verified before it is given up; in the end nothing is held.
//!
//! | variable | without it | meaning |
//! | --- | --- | --- |
//! | `FAMILY_ALLOC_STRESS_SECONDS` | 2 | how long new work is begun |
//! | `FAMILY_ALLOC_STRESS_THREADS` | 6 | threads that work at a time |
//! | `FAMILY_ALLOC_STRESS_SEED` | the clock | a number from which each thread's draws follow |
//!
//! What a thread draws depends on the seed and its number alone; which slots it meets in shared places depends on the schedule.

mod common;
#[path = "stress/heaps.rs"]
mod heaps;
#[path = "stress/scopes.rs"]
mod scopes;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

use allocator_api2::alloc::Allocator;
use common::doors::{Doors, is_aligned, layout};
use common::pattern;
use common::random::Random;
use family_alloc::{Family, families, family};
use heaps::Traffic;
use scopes::Scopes;

family! {
    struct Plain;
    struct PlainSmall { slab_bytes: 64 * 1024 }
    struct Raw { checks: Unchecked }
    struct Watched { checks: Checked }
    struct Guarded { checks: Hardened }
}

/// Slots that a thread holds at most; more are freed first.
const HELD_MOST: usize = 100;
/// Slots of one size that go through the channel together: several batches.
const PARCEL_SLOTS: usize = 300;
/// Of longer slots the beginning and the end are filled.
const FILLED_WHOLE: usize = 16 << 10;
const FILLED_PART: usize = 4 << 10;

/// A way to call a family.
struct Way {
    doors: Doors,
    /// Whether a layout's alignment may be more than 1, and whether it may change.
    aligns: bool,
    realigns: bool,
}

static WAYS: [Way; 15] = {
    const fn ways<F: Family + Allocator + GlobalAlloc>() -> [Way; 3] {
        [
            Way { doors: Doors::of::<F>(), aligns: true, realigns: true },
            Way { doors: global_doors::<F>(), aligns: true, realigns: false },
            Way { doors: c_doors::<F>(), aligns: false, realigns: false },
        ]
    }
    let [[a, b, c], [d, e, f], [g, h, i], [j, k, l], [m, n, o]] =
        [ways::<Plain>(), ways::<PlainSmall>(), ways::<Raw>(), ways::<Watched>(), ways::<Guarded>()];
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o]
};

/// One entry of [`WAYS`] per family.
fn each_family() -> impl Iterator<Item = &'static Doors> {
    WAYS.iter().step_by(3).map(|way| &way.doors)
}

fn sized(start: *mut u8, layout: Layout) -> Option<NonNull<[u8]>> {
    NonNull::new(start).map(|start| NonNull::slice_from_raw_parts(start, layout.size()))
}

/// Zeroes what lies behind the old size.
///
/// # Safety
/// The memory was grown from `old` just now.
unsafe fn clear_grown(memory: NonNull<[u8]>, old: Layout) {
    // SAFETY: the memory is longer than the old size, and nobody else has it.
    unsafe { (&mut *memory.as_ptr())[old.size()..].fill(0) };
}

/// The family as `GlobalAlloc` knows it.
const fn global_doors<F: Family + Allocator + GlobalAlloc>() -> Doors {
    Doors {
        // SAFETY: no size is 0.
        allocate: |layout| sized(unsafe { F::default().alloc(layout) }, layout),
        // SAFETY: as above.
        allocate_zeroed: |layout| sized(unsafe { F::default().alloc_zeroed(layout) }, layout),
        // SAFETY: the same contract, here and below.
        deallocate: |ptr, layout| unsafe { F::default().dealloc(ptr.as_ptr(), layout) },
        // SAFETY: as above; the alignment stays.
        grow: |ptr, old, new| sized(unsafe { F::default().realloc(ptr.as_ptr(), old, new.size()) }, new),
        grow_zeroed: |ptr, old, new| {
            // SAFETY: as above.
            let grown = sized(unsafe { F::default().realloc(ptr.as_ptr(), old, new.size()) }, new)?;
            // SAFETY: just grown.
            unsafe { clear_grown(grown, old) };
            Some(grown)
        },
        // SAFETY: as above.
        shrink: |ptr, old, new| sized(unsafe { F::default().realloc(ptr.as_ptr(), old, new.size()) }, new),
        ..Doors::of::<F>()
    }
}

/// The family as C knows it.
const fn c_doors<F: Family + Allocator>() -> Doors {
    Doors {
        allocate: |layout| sized(F::malloc(layout.size()), layout),
        allocate_zeroed: |layout| sized(F::calloc(layout.size()), layout),
        // SAFETY: the same contract, here and below.
        deallocate: |ptr, layout| unsafe { F::free(ptr.as_ptr(), layout.size()) },
        // SAFETY: as above.
        grow: |ptr, old, new| sized(unsafe { F::remalloc(ptr.as_ptr(), old.size(), new.size()) }, new),
        // SAFETY: as above.
        grow_zeroed: |ptr, old, new| sized(unsafe { F::recalloc(ptr.as_ptr(), old.size(), new.size()) }, new),
        // SAFETY: as above.
        shrink: |ptr, old, new| sized(unsafe { F::remalloc(ptr.as_ptr(), old.size(), new.size()) }, new),
        ..Doors::of::<F>()
    }
}

/// A live allocation with its contents.
struct Slot {
    way: &'static Way,
    memory: NonNull<[u8]>,
    layout: Layout,
    seed: usize,
}

// SAFETY: an allocation may be used and freed on any thread, and a `Slot` is its only owner.
unsafe impl Send for Slot {}

impl Slot {
    fn allocate(way: &'static Way, layout: Layout, zeroed: bool, id: usize) -> Self {
        let door = if zeroed { way.doors.allocate_zeroed } else { way.doors.allocate };
        let memory = door(layout).unwrap_or_else(|| panic!("{}: no memory for {layout:?}", way.doors.name));
        let slot = Self { way, memory, layout, seed: 0 }.filled(id);
        assert!(!zeroed || slot.1, "{}: {layout:?} is not zero", way.doors.name);
        slot.0
    }

    /// Writes contents that follow from the address and an id; also says whether all that they replace was zero.
    fn filled(mut self, id: usize) -> (Self, bool) {
        let address = self.memory.cast::<u8>().addr().get();
        assert!(
            is_aligned(address, self.way.doors.promised_align(self.layout)),
            "{}: {:?}",
            self.way.doors.name,
            self.layout
        );
        assert!(self.memory.len() >= self.layout.size());
        self.seed = (address >> 4) ^ id;
        let mut was_zero = true;
        for (index, part) in parts(self.memory.len()).into_iter().enumerate() {
            was_zero &= pattern::is_zero_from(self.part(&part), 0);
            pattern::fill(self.part(&part), self.seed + index);
        }
        (self, was_zero)
    }

    fn part(&self, range: &Range<usize>) -> NonNull<[u8]> {
        assert!(range.end <= self.memory.len());
        // SAFETY: inside the memory.
        let start = unsafe { self.memory.cast::<u8>().add(range.start) };
        NonNull::slice_from_raw_parts(start, range.len())
    }

    /// Fails unless the contents written for memory of `len` bytes are there, as far as they lie below `kept`.
    fn verify(&self, len: usize, kept: usize) {
        for (index, part) in parts(len).into_iter().enumerate() {
            let end = if index == 0 { part.end.min(kept) } else { part.end };
            let part = part.start..end;
            if end > kept || part.is_empty() {
                continue;
            }
            assert!(
                pattern::holds(self.part(&part).cast(), part.len(), self.seed + index),
                "{}: bytes {part:?} of {:?} at {:?} have changed",
                self.way.doors.name,
                self.layout,
                self.memory,
            );
        }
    }

    fn resize(self, new: Layout, zeroed: bool, id: usize) -> Self {
        let (doors, old, len) = (&self.way.doors, self.layout, self.memory.len());
        self.verify(len, len);
        let grows = new.size() >= old.size();
        let door = if !grows {
            doors.shrink
        } else if zeroed {
            doors.grow_zeroed
        } else {
            doors.grow
        };
        // SAFETY: allocated with `old`; `grows` tells which of the two sizes is the larger.
        let memory = unsafe { door(self.memory.cast(), old, new) };
        let memory = memory.unwrap_or_else(|| panic!("{}: no memory for {new:?}", doors.name));
        let resized = Self { memory, layout: new, ..self };
        resized.verify(len, old.size().min(new.size()));
        if grows && zeroed {
            let checked = old.size()..memory.len().min(old.size() + FILLED_PART);
            assert!(pattern::is_zero_from(resized.part(&checked), 0), "{}: {old:?} grown to {new:?}", doors.name);
        }
        resized.filled(id).0
    }

    fn free(self) {
        self.verify(self.memory.len(), self.memory.len());
        // SAFETY: allocated with this layout, and given up.
        unsafe { (self.way.doors.deallocate)(self.memory.cast(), self.layout) };
    }
}

/// What is filled of `len` bytes.
fn parts(len: usize) -> [Range<usize>; 2] {
    if len <= FILLED_WHOLE { [0..len, len..len] } else { [0..FILLED_PART, len - FILLED_PART..len] }
}

/// What all threads see.
struct Shared {
    seed: u64,
    deadline: Instant,
    /// Places where slots are exchanged one by one.
    places: [AtomicPtr<Slot>; 64],
    /// What threads that ended have left.
    left: Mutex<Vec<Slot>>,
    calls: AtomicU64,
    handed_over: AtomicU64,
    heaps: Traffic,
    scopes: Scopes,
}

impl Shared {
    fn new(seed: u64, duration: Duration) -> Self {
        Self {
            seed,
            deadline: Instant::now() + duration,
            places: [const { AtomicPtr::new(std::ptr::null_mut()) }; 64],
            left: Mutex::new(Vec::new()),
            calls: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            heaps: Traffic::new(),
            scopes: Scopes::new(),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Puts a slot into a place, or none, and takes what was there.
    fn exchange(&self, place: usize, slot: Option<Slot>) -> Option<Slot> {
        let new = slot.map_or(std::ptr::null_mut(), |slot| Box::into_raw(Box::new(slot)));
        // Acquire and Release: whoever takes the slot sees its contents.
        let old = self.places[place].swap(new, AcqRel);
        // SAFETY: from `Box::into_raw` above, and taken out by this swap alone.
        (!old.is_null()).then(|| *unsafe { Box::from_raw(old) })
    }

    fn take_left(&self, count: usize) -> Vec<Slot> {
        let mut left = self.left.lock().expect("no panic");
        let rest = left.len().saturating_sub(count);
        left.split_off(rest)
    }

    fn count(&self, calls: u64, handed_over: u64) {
        self.calls.fetch_add(calls, Relaxed);
        self.handed_over.fetch_add(handed_over, Relaxed);
    }
}

/// Frees its slots when its thread ends, before or after the thread's caches go back.
struct FreesLate(RefCell<Vec<Slot>>);

impl Drop for FreesLate {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Slot::free);
    }
}

thread_local! {
    static FREES_LATE: FreesLate = const { FreesLate(RefCell::new(Vec::new())) };
}

/// One thread: draws, calls, and ends one way or another.
struct Worker {
    shared: Arc<Shared>,
    parcels: mpsc::SyncSender<Vec<Slot>>,
    random: Random,
    held: Vec<Slot>,
    calls: u64,
    handed_over: u64,
}

impl Worker {
    fn run(mut self) {
        let (steps, end, late_first) = (self.random.size(1 << 15), self.random.below(4), self.random.below(2) == 0);
        if late_first {
            FREES_LATE.with(|_| ());
        }
        for slot in self.shared.take_left(HELD_MOST / 4) {
            self.hand_over();
            slot.free();
        }
        for step in 0..steps {
            if step % 32 == 0 && self.shared.is_over() {
                break;
            }
            self.step();
        }
        let mut held = std::mem::take(&mut self.held);
        match end {
            0 => held.into_iter().for_each(Slot::free),
            1 => FREES_LATE.with(|late| late.0.borrow_mut().append(&mut held)),
            2 => self.shared.left.lock().expect("no panic").append(&mut held),
            _ => {
                let kept = held.split_off(held.len() / 2);
                held.into_iter().for_each(Slot::free);
                self.shared.left.lock().expect("no panic").extend(kept);
            }
        }
        self.shared.count(self.calls, self.handed_over);
    }

    /// What is drawn does not depend on what the step meets.
    fn step(&mut self) {
        let [kind, which, place] = [16, WAYS.len(), 64].map(|bound| self.random.below(bound));
        let [pick, id] = [self.random.next(), self.random.next()].map(|bits| bits as usize);
        let (size, align, zeroed) = (self.draw_size(), 1 << self.random.below(14), self.random.below(4) == 0);
        let way = &WAYS[which];
        let wanted = layout(size, if way.aligns && pick % 4 == 0 { align } else { 1 });
        self.calls += 1;
        match kind {
            0..=6 => self.held.push(Slot::allocate(way, wanted, zeroed, id)),
            7..=9 => self.free_one(pick),
            10..=11 => self.resize_one(pick, wanted, zeroed, id),
            12..=14 => {
                let slot = Slot::allocate(way, wanted, zeroed, id);
                self.give_and_take(place, slot);
            }
            _ if pick % 32 == 0 => self.send_parcel(way, wanted.size().min(2048), id),
            _ if pick % 32 == 1 => look_around(which, pick),
            _ if pick % 32 < 12 => self.shared.heaps.step(id, size),
            _ if pick % 32 < 24 => self.shared.scopes.step(id, size),
            _ => self.free_one(pick),
        }
        if self.held.len() > HELD_MOST {
            self.free_one(pick);
        }
    }

    /// Mostly small, sometimes several MiB.
    fn draw_size(&mut self) -> usize {
        let most = match self.random.below(64) {
            0 => 4 << 20,
            1..=8 => 256 << 10,
            _ => 4 << 10,
        };
        self.random.size(most)
    }

    fn free_one(&mut self, pick: usize) {
        if !self.held.is_empty() {
            self.held.swap_remove(pick % self.held.len()).free();
        }
    }

    fn resize_one(&mut self, pick: usize, wanted: Layout, zeroed: bool, id: usize) {
        if self.held.is_empty() {
            return;
        }
        let slot = self.held.swap_remove(pick % self.held.len());
        let align = if slot.way.realigns { wanted.align() } else { slot.layout.align() };
        self.held.push(slot.resize(layout(wanted.size(), align), zeroed, id));
    }

    fn give_and_take(&mut self, place: usize, slot: Slot) {
        if let Some(other) = self.shared.exchange(place, Some(slot)) {
            self.hand_over();
            other.free();
        }
    }

    fn send_parcel(&mut self, way: &'static Way, size: usize, id: usize) {
        let parcel = (0..PARCEL_SLOTS).map(|number| Slot::allocate(way, layout(size, 1), false, id + number)).collect();
        self.calls += 2 * PARCEL_SLOTS as u64;
        match self.parcels.try_send(parcel) {
            Ok(()) => self.handed_over += PARCEL_SLOTS as u64,
            Err(mpsc::TrySendError::Full(parcel) | mpsc::TrySendError::Disconnected(parcel)) => {
                parcel.into_iter().for_each(Slot::free);
            }
        }
    }

    fn hand_over(&mut self) {
        self.handed_over += 1;
    }
}

/// Reads statistics or trims, of one family or of all.
fn look_around(which: usize, pick: usize) {
    let doors = &WAYS[which].doors;
    match pick >> 8 & 3 {
        0 => assert!((doors.trim)() < usize::MAX),
        1 => assert_eq!((doors.stats)().name, doors.name),
        2 => families().for_each(|family| drop(family.stats())),
        _ => assert!(families().map(|family| family.trim()).max().is_some()),
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

fn spawn(run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().stack_size(256 << 10).spawn(run).expect("a thread")
}

/// Keeps `count` workers running until the time is over; returns how many there were.
fn keep_working(shared: &Arc<Shared>, parcels: &mpsc::SyncSender<Vec<Slot>>, count: u64) -> u64 {
    let start = |number: u64| {
        let (shared, parcels) = (Arc::clone(shared), parcels.clone());
        let random = Random::new(shared.seed.wrapping_add(number.wrapping_mul(0x2545_F491_4F6C_DD1D)));
        let worker = Worker { shared, parcels, random, held: Vec::new(), calls: 0, handed_over: 0 };
        (number, spawn(move || worker.run()))
    };
    let end = |(number, thread): (u64, JoinHandle<()>)| {
        assert!(thread.join().is_ok(), "thread {number} of seed {} panicked", shared.seed);
    };
    let mut workers: Vec<_> = (0..count).map(start).collect();
    let mut started = count;
    while !shared.is_over() {
        thread::sleep(Duration::from_millis(1));
        for worker in workers.iter_mut().filter(|(_, thread)| thread.is_finished()) {
            end(std::mem::replace(worker, start(started)));
            started += 1;
        }
    }
    workers.into_iter().for_each(end);
    started
}

#[test]
#[cfg_attr(miri, ignore = "measured in seconds, and Miri has its own clock")]
fn everything_at_once() {
    let seconds = number("FAMILY_ALLOC_STRESS_SECONDS").unwrap_or(2);
    let count = number("FAMILY_ALLOC_STRESS_THREADS").unwrap_or(6);
    let seed = number("FAMILY_ALLOC_STRESS_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        since.as_nanos() as u64 % 1_000_000_007
    });
    println!(
        "FAMILY_ALLOC_STRESS_SEED={seed} FAMILY_ALLOC_STRESS_SECONDS={seconds} FAMILY_ALLOC_STRESS_THREADS={count}"
    );
    let shared = Arc::new(Shared::new(seed, Duration::from_secs(seconds)));
    let (parcels, arriving) = mpsc::sync_channel::<Vec<Slot>>(8);
    let receiver = spawn(move || arriving.into_iter().flatten().for_each(Slot::free));
    let looks = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    // From the first look on there is a family to look at.
    Slot::allocate(&WAYS[0], layout(1, 1), false, 0).free();
    let onlooker = spawn({
        let (looks, ended) = (Arc::clone(&looks), Arc::clone(&ended));
        move || {
            while !ended.load(Acquire) {
                let look = looks.fetch_add(1, Relaxed) as usize;
                look_around(look % WAYS.len(), look << 7);
                thread::sleep(Duration::from_micros(500));
            }
        }
    });

    let threads = keep_working(&shared, &parcels, count);
    drop(parcels);
    receiver.join().expect("the receiver freed everything");
    ended.store(true, Release);
    onlooker.join().expect("the onlooker saw nothing odd");
    for place in 0..shared.places.len() {
        shared.exchange(place, None).into_iter().for_each(Slot::free);
    }
    shared.take_left(usize::MAX).into_iter().for_each(Slot::free);
    shared.heaps.end();
    shared.scopes.end();

    let (calls, handed_over) = (shared.calls.load(Relaxed), shared.handed_over.load(Relaxed));
    println!("{calls} calls by {threads} threads, {handed_over} slots freed by others, {} looks", looks.load(Relaxed));
    assert!(calls > 0 && handed_over > 0, "something was done");
    each_family().for_each(assert_nothing_left);
}

fn assert_nothing_left(doors: &Doors) {
    (doors.trim)();
    let stats = (doors.stats)();
    // This thread has freed what was left, so it may have a cache.
    assert!(stats.thread_caches <= 1, "threads have ended: {stats}");
    assert_eq!((stats.live_allocations, stats.live_bytes, stats.cached_slots), (0, 0, 0), "{stats}");
    if cfg!(not(any(miri, feature = "portable"))) {
        assert_eq!((stats.slab_bytes, stats.kept_bytes), (0, 0), "{stats}");
    }
}

/// Two threads write to one slot. Nothing comes of it here; a sanitizer that does not report it does not see what lies in families.
#[test]
#[ignore = "a race on purpose, for ThreadSanitizer to find"]
fn a_race_in_a_slot() {
    let slot = Slot::allocate(&WAYS[0], layout(1000, 1), false, 1);
    let address = slot.memory.cast::<u8>().as_ptr().expose_provenance();
    // SAFETY: not sound, on purpose: the other thread writes to the same byte.
    let write = move || unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write(7) };
    let threads = [spawn(write), spawn(write)];
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    // SAFETY: allocated with this layout, and given up.
    unsafe { (slot.way.doors.deallocate)(slot.memory.cast(), slot.layout) };
}
