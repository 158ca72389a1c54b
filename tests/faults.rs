//! Every call to the system is made to fail: each one once, and all of a kind from each one on; also those that are only made where
//! another kind fails throughout.
//!
//! A process of its own for every fault, so that first uses are met as well. There the same work is done twice: with the fault,
//! when allocations may be refused but what is granted must be right, and without, when everything must succeed. After that
//! nothing may be missing: every slot is back in its slab, every slab in its pool, every page with the system.

#![cfg(any(target_os = "linux", windows))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::child;
use common::doors::{Doors, is_aligned, layout};
use common::memory::mapped_bytes;
use common::pattern;
use family_alloc::__private::faults::{self, Call};
use family_alloc::__private::reserved_bytes_of_all;
use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::{Checks, Enter, Heap, LocalHeap, Scoped, families, family};

family! {
    struct Plain;
    struct Small { slab_bytes: 64 * 1024 }
    struct Raw { checks: Unchecked, slab_bytes: 256 * 1024 }
    struct Noted { checks: Checked, slab_bytes: 64 * 1024 }
    struct Mixed { checks: Hardened, slab_bytes: 64 * 1024 }
    struct Guarded { checks: Hardened, slab_bytes: 256 * 1024 }
}

/// The slots of `Guarded` are long enough to have guards while they are free.
const FAMILIES: [Doors; 6] = [
    Doors::of::<Plain>(),
    Doors::of::<Small>(),
    Doors::of::<Raw>(),
    Doors::of::<Noted>(),
    Doors::of::<Mixed>(),
    Doors::of::<Guarded>(),
];
const KIB: usize = 1 << 10;
/// Whether what is given back is seen to leave the process.
const HAS_PAGES: bool = cfg!(not(any(miri, feature = "portable")));

/// A live allocation with contents by which it is known.
struct Slot {
    layout: Layout,
    memory: NonNull<[u8]>,
    seed: usize,
}

// SAFETY: an allocation may be used and freed on any thread; each is handed to one at a time.
unsafe impl Send for Slot {}

impl Slot {
    fn verify(&self, len: usize) {
        assert!(pattern::holds(self.memory.cast(), len, self.seed), "{:?}: the contents have changed", self.layout);
    }
}

/// One family at work, counting what it refuses.
struct Work {
    doors: Doors,
    live: Vec<Slot>,
    refused: usize,
    seed: usize,
}

impl Work {
    fn new(doors: Doors) -> Self {
        Self { doors, live: Vec::new(), refused: 0, seed: 0 }
    }

    fn allocate(&mut self, layout: Layout, zeroed: bool) {
        let memory = if zeroed { (self.doors.allocate_zeroed)(layout) } else { (self.doors.allocate)(layout) };
        let Some(memory) = memory else {
            self.refused += 1;
            return;
        };
        assert!(is_aligned(memory.addr().get(), self.doors.promised_align(layout)), "{layout:?}");
        assert!(!zeroed || pattern::is_zero_from(memory, 0), "{layout:?}: not zero");
        self.seed += 1;
        pattern::fill(memory, self.seed);
        self.live.push(Slot { layout, memory, seed: self.seed });
    }

    fn free(&self, slot: &Slot) {
        slot.verify(slot.memory.len());
        // SAFETY: a live allocation of this family, which its owner gives up.
        unsafe { (self.doors.deallocate)(slot.memory.cast(), slot.layout) };
    }

    fn free_all(&mut self) {
        std::mem::take(&mut self.live).iter().for_each(|slot| self.free(slot));
    }

    /// Grows or shrinks the last allocation; if that is refused, it is as it was.
    fn resize(&mut self, new: Layout, zeroed: bool) {
        let Some(slot) = self.live.pop() else { return };
        let grows = new.size() >= slot.layout.size();
        let call = match (grows, zeroed) {
            (true, true) => self.doors.grow_zeroed,
            (true, false) => self.doors.grow,
            (false, _) => self.doors.shrink,
        };
        // SAFETY: live, with its layout, and the sizes are in the order that the call wants.
        let Some(memory) = (unsafe { call(slot.memory.cast(), slot.layout, new) }) else {
            slot.verify(slot.memory.len());
            self.refused += 1;
            return self.live.push(slot);
        };
        let resized = Slot { layout: new, memory, seed: slot.seed };
        resized.verify(new.size().min(slot.layout.size()));
        assert!(!(grows && zeroed) || pattern::is_zero_from(memory, slot.layout.size()), "{new:?}: not zero");
        pattern::fill(memory, slot.seed);
        self.live.push(resized);
    }

    /// Something of every kind and class, freed in part.
    fn run(&mut self) {
        for (index, size) in (0..self.doors.slab_bytes.ilog2()).map(|shift| 1 << shift).enumerate() {
            for count in 0..3 {
                self.allocate(layout(size - size / 3, 1), (count + index) % 2 == 0);
            }
        }
        let large = self.doors.slab_bytes / 2;
        // Part of the way up it has a mapping of its own, where slabs are large.
        let steps = [(100, 1), (5000, 8), (large / 8 + 1, 1), (large / 4 + 1, 1), (large + 1, 1), (large * 5 / 4, 1)];
        for (size, align) in steps.into_iter().chain([(large * 5 / 4 + 9, 64 * KIB)]) {
            self.resize(layout(size, align), true);
        }
        for size in [large + 9, 1000, large + 9, large * 5 / 4, large + 1, 10] {
            self.resize(layout(size, 1), false);
        }
        self.free_all();
        // The largest slots again, which were used before.
        for _ in 0..2 {
            (0..6).for_each(|count| self.allocate(layout(large >> (count % 2), 1), count < 2));
            self.free_all();
        }
    }

    /// More slabs than a region has; more mappings at once than are kept, then shorter ones, which are cut from those; more
    /// large allocations than the first table has room for.
    fn run_wide(&mut self) {
        for part in [100, 90, 85] {
            (20..38).for_each(|count| self.allocate(layout(count * 2 * KIB * part / 100, 1), part == 85));
            self.free_all();
        }
        for count in 0..140 {
            self.allocate(layout(32 * KIB, 1), count % 2 == 0);
        }
        self.live.reverse();
        self.free_all();
        (0..200).for_each(|_| self.allocate(layout(32 * KIB + 1, 1), false));
        self.free_all();
    }
}

/// Does the work on threads that end, with allocations that pass from one to the other; returns how many were refused.
fn work() -> usize {
    let on_a_thread = |mut work: Work, run: fn(&mut Work)| {
        let run = move || {
            run(&mut work);
            work
        };
        std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    let mut refused = 0;
    for doors in FAMILIES {
        let mut done = on_a_thread(Work::new(doors), Work::run);
        if doors.slab_bytes == 64 * KIB {
            done = on_a_thread(done, Work::run_wide);
        }
        let passed_on = on_a_thread(done, |work| {
            (0..300).for_each(|count| work.allocate(layout(48, 1), count % 2 == 0));
            // The classes in another order, so that each meets the units of others.
            (work.doors.trim)();
            (0..work.doors.slab_bytes.ilog2()).rev().for_each(|shift| work.allocate(layout(1 << shift, 1), true));
            (0..3).for_each(|_| work.allocate(layout(work.doors.slab_bytes, 1), false));
        });
        refused += on_a_thread(passed_on, Work::free_all).refused;
        (doors.trim)();
    }
    // On a thread that ends: no cache of a family is left.
    let scopes = std::thread::spawn(work_in_scopes).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    refused + work_in_heaps() + scopes
}

/// Makes heaps of each mode and a local heap, uses them on two threads, resets one, and drops them; returns how many calls were refused.
fn work_in_heaps() -> usize {
    let mut refused = 0;
    for checks in [Checks::Default, Checks::Checked, Checks::Hardened] {
        let Ok(heap) = Heap::builder("heap").checks(checks).build() else {
            refused += 1;
            continue;
        };
        let mut blocks = fill(&heap, 100, &mut refused);
        let other = heap.clone();
        let left = std::thread::spawn(move || {
            let mut refused = 0;
            // The first half comes from the thread that made the heap.
            blocks.drain(..blocks.len() / 2).for_each(|block| block.free(&other));
            blocks.append(&mut fill(&other, 40, &mut refused));
            (blocks, refused)
        });
        let (blocks, more) = left.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        refused += more;
        blocks.into_iter().for_each(|block| block.free(&heap));
        for size in [100, 5000, 40_000, 200_000] {
            refused += usize::from(heap.allocate(layout(size, 8)).is_err());
        }
        // SAFETY: nothing is known of what was allocated, and the other thread has ended.
        unsafe { heap.reset() };
        assert_eq!((heap.stats().live_allocations, heap.charged_bytes()), (0, 0));
        let mut local = LocalHeap::builder("local").parent(&heap).build().expect("it needs nothing");
        let blocks = fill(&&local, 100, &mut refused);
        blocks.into_iter().step_by(2).for_each(|block| block.free(&&local));
        local.reset();
        drop(local);
        assert_eq!((heap.stats().live_allocations, heap.live_bytes()), (0, 0), "the local heap is gone");
    }
    assert!(families().all(|family| family.name() != "heap"), "a heap is left");
    refused
}

/// Allocates in scopes of heaps and of a family, resizes and frees in others and on another thread, and lets a heap become an orphan;
/// returns how many calls were refused.
fn work_in_scopes() -> usize {
    let mut refused = 0;
    for checks in [Checks::Default, Checks::Checked] {
        let (Ok(one), Ok(two)) = (Heap::builder("one").checks(checks).build(), Heap::new("two")) else {
            refused += 1;
            continue;
        };
        let mut blocks = one.scope(|| fill_globally(100, &mut refused));
        blocks.append(&mut Small.scope(|| fill_globally(60, &mut refused)));
        blocks.append(&mut fill_globally(60, &mut refused));
        // Resized where another scope is open: each stays in its family, or where it was.
        blocks = two.scope(|| blocks.into_iter().map(|block| resize_globally(block, &mut refused)).collect());
        let left = blocks.split_off(blocks.len() / 2);
        let other = std::thread::spawn(move || {
            let scope = two.enter();
            left.into_iter().for_each(free_globally);
            let mut refused = 0;
            let own = fill_globally(40, &mut refused);
            drop(scope);
            (own, refused)
        });
        drop(one);
        blocks.into_iter().for_each(free_globally);
        let (own, more) = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        refused += more;
        own.into_iter().for_each(free_globally);
    }
    assert!(families().all(|family| !["one", "two"].contains(&family.name())), "a heap is left");
    refused
}

/// What code allocates that knows no family.
const SCOPED: Scoped<Plain> = Scoped::new();

fn slice(start: *mut u8, layout: Layout) -> Option<NonNull<[u8]>> {
    NonNull::new(start).map(|start| NonNull::slice_from_raw_parts(start, layout.size()))
}

fn fill_globally(count: usize, refused: &mut usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for seed in 0..count {
        let wanted = layout([16, 100, 3000, 20_000, 150_000][seed % 5] + seed, 8);
        let allocate = if seed % 3 == 0 { GlobalAlloc::alloc_zeroed } else { GlobalAlloc::alloc };
        // SAFETY: the size is not 0.
        let Some(memory) = slice(unsafe { allocate(&SCOPED, wanted) }, wanted) else {
            *refused += 1;
            continue;
        };
        assert!(seed % 3 != 0 || pattern::is_zero_from(memory, 0), "{wanted:?}: not zero");
        pattern::fill(memory, seed);
        blocks.push(Block(memory, wanted, seed));
    }
    blocks
}

/// Twice as long, or as it was if that is refused.
fn resize_globally(block: Block, refused: &mut usize) -> Block {
    let Block(memory, old, seed) = block;
    let new = layout(2 * old.size(), old.align());
    // SAFETY: live, with this layout, and the size is not 0.
    match slice(unsafe { SCOPED.realloc(memory.cast().as_ptr(), old, new.size()) }, new) {
        Some(resized) => {
            assert!(pattern::holds(resized.cast(), old.size(), seed), "{old:?}: the contents have changed");
            pattern::fill(resized, seed);
            Block(resized, new, seed)
        }
        None => {
            *refused += 1;
            block
        }
    }
}

fn free_globally(block: Block) {
    assert!(pattern::holds(block.0.cast(), block.0.len(), block.2), "{:?}: the contents have changed", block.1);
    // SAFETY: live, with this layout.
    unsafe { SCOPED.dealloc(block.0.cast().as_ptr(), block.1) };
}

/// A block in a heap, with contents by which it is known.
struct Block(NonNull<[u8]>, Layout, usize);

// SAFETY: handed to one thread at a time.
unsafe impl Send for Block {}

impl Block {
    fn free(self, heap: &impl Allocator) {
        assert!(pattern::holds(self.0.cast(), self.0.len(), self.2), "{:?}: the contents have changed", self.1);
        // SAFETY: live, with this layout.
        unsafe { heap.deallocate(self.0.cast(), self.1) };
    }
}

/// Blocks of many sizes, of which some grow.
fn fill(heap: &impl Allocator, count: usize, refused: &mut usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for seed in 0..count {
        let wanted = layout([16, 100, 3000, 20_000, 150_000][seed % 5] + seed, 8);
        let Ok(memory) = (if seed % 3 == 0 { heap.allocate_zeroed(wanted) } else { heap.allocate(wanted) }) else {
            *refused += 1;
            continue;
        };
        assert!(seed % 3 != 0 || pattern::is_zero_from(memory, 0), "{wanted:?}: not zero");
        pattern::fill(memory, seed);
        let longer = layout(wanted.size() * 2, 8);
        // SAFETY: live, with this layout, and the new size is not below it.
        let grown = if seed % 4 == 0 { unsafe { heap.grow(memory.cast(), wanted, longer) }.ok() } else { None };
        blocks.push(match grown {
            Some(grown) => {
                assert!(pattern::holds(grown.cast(), wanted.size(), seed), "{wanted:?}: the contents have changed");
                pattern::fill(grown, seed);
                Block(grown, longer, seed)
            }
            None => Block(memory, wanted, seed),
        });
    }
    blocks
}

/// Address space that no family has reserved.
fn other_space() -> usize {
    mapped_bytes() - reserved_bytes_of_all()
}

fn assert_nothing_is_missing() {
    for doors in FAMILIES {
        (doors.trim)();
        let stats = (doors.stats)();
        assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
        assert_eq!((stats.large_allocations, stats.large_bytes), (0, 0), "{stats}");
        assert_eq!((stats.thread_caches, stats.cached_slots), (0, 0), "{stats}");
        assert_eq!(stats.slab_bytes, 0, "every slot is back in its slab: {stats}");
        if HAS_PAGES {
            assert_eq!(stats.kept_bytes, 0, "everything went back to the system: {stats}");
        }
    }
}

/// Calls that fail, one after the other, where all of another kind do. Some are made only there.
const BESIDES: [(Option<Call>, &[Call]); 3] =
    [(None, &Call::ALL), (Some(Call::Guard), &[Call::Purge, Call::Forbid]), (Some(Call::Unguard), &[Call::Renew])];

/// What fails in one process.
struct Case {
    call: Call,
    numbers: Range<usize>,
    /// All of this kind fail as well.
    besides: Option<Call>,
    /// The address space that the process may occupy afterwards.
    most_space: usize,
}

impl Case {
    fn text(&self) -> String {
        let Range { start, end } = self.numbers;
        format!("{} {start} {end} {} {}", self.call as usize, self.most_space, kind(self.besides))
    }

    fn read(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut figure = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        let (call, numbers, most_space) = (Call::ALL[figure()], figure()..figure(), figure());
        Self { call, numbers, besides: Call::ALL.get(figure()).copied(), most_space }
    }
}

/// The number of a kind of call, or one that no kind has.
fn kind(call: Option<Call>) -> usize {
    call.map_or(Call::ALL.len(), |call| call as usize)
}

fn run_case(case: &Case) {
    case.besides.into_iter().for_each(|call| faults::fail(call, 0..usize::MAX));
    faults::fail(case.call, case.numbers.clone());
    let refused = work();
    let met = faults::count(case.call) > case.numbers.start;
    faults::fail(case.call, 0..0);
    case.besides.into_iter().for_each(|call| faults::fail(call, 0..0));
    assert_eq!(work(), 0, "everything works again");
    assert_nothing_is_missing();
    let (space, most) = (other_space(), case.most_space);
    assert!(space <= most, "{} KiB of address space are missing", (space - most) / KIB);
    println!("\nrefused {refused} {met}");
}

/// With no other fault than one of a kind throughout: how often each call is made, and the address space that the process then
/// occupies.
fn run_alone(besides: Option<Call>) {
    Call::ALL.iter().for_each(|&call| faults::fail(call, 0..0));
    besides.into_iter().for_each(|call| faults::fail(call, 0..usize::MAX));
    assert_eq!(work(), 0);
    let counts = Call::ALL.map(|call| faults::count(call).to_string()).join(" ");
    assert_eq!(work(), 0);
    assert_nothing_is_missing();
    println!("\ncalls {counts} {}", other_space());
}

/// The cases of some calls where all of another kind fail.
fn cases(test: &str, besides: Option<Call>, calls: &[Call]) -> Vec<Case> {
    let figures = figures(&child::assert_passed(test, &format!("alone {}", kind(besides))), "calls ");
    let figures: Vec<usize> = figures.iter().map(|figure| figure.parse().expect("a number")).collect();
    let (&space, counts) = figures.split_last().expect("figures");
    let space = if HAS_PAGES { space } else { usize::MAX };
    println!("besides {besides:?}, {:?}: {counts:?}", Call::ALL);
    // The long form is all calls; the short one those when everything is new, later on one of several.
    let is_long = std::env::var_os("FAMILY_ALLOC_TEST_LONG").is_some();
    let mut cases = Vec::new();
    for &call in calls {
        let count = counts[call as usize];
        for number in (0..count).filter(|&number| is_long || number < 12 || number % count.div_ceil(12) == 0) {
            cases.push(Case { call, numbers: number..number + 1, besides, most_space: space });
            // A system that never takes anything back keeps it.
            let never_more = if call == Call::Release { usize::MAX } else { space };
            cases.push(Case { call, numbers: number..usize::MAX, besides, most_space: never_more });
        }
    }
    cases
}

/// The figures of the line that begins with a word.
fn figures(out: &str, word: &str) -> Vec<String> {
    let line = out.lines().find_map(|line| line.strip_prefix(word)).expect("the child prints its figures");
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn every_call_may_fail_and_nothing_is_lost() {
    const NAME: &str = "every_call_may_fail_and_nothing_is_lost";
    if let Some(case) = child::case() {
        return match case.strip_prefix("alone ") {
            Some(besides) => run_alone(Call::ALL.get(besides.parse::<usize>().expect("a number")).copied()),
            None => run_case(&Case::read(&case)),
        };
    }
    let cases: Vec<Case> = BESIDES.iter().flat_map(|&(besides, calls)| cases(NAME, besides, calls)).collect();
    let refused = run_all(NAME, &cases);
    let met: Vec<usize> = refused.into_iter().flatten().collect();
    let (refusing, sum) = (met.iter().filter(|&&refused| refused > 0).count(), met.iter().sum::<usize>());
    println!("{} faults met, {refusing} of them with allocations refused, {sum} in all", met.len());
    assert!(met.len() * 10 >= cases.len() * 9 && refusing > 20, "the faults are felt");
}

/// Runs all cases, two at once; returns how many allocations each refused that met its fault.
fn run_all(test: &str, cases: &[Case]) -> Vec<Option<usize>> {
    let one = |case: &Case| {
        let out = child::assert_passed(test, &case.text());
        let figures = figures(&out, "refused ");
        // The last calls are not made every time: some depend on how long things take.
        (figures[1] == "true").then(|| figures[0].parse().expect("a number"))
    };
    let next = AtomicUsize::new(0);
    let some = || std::iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::Relaxed))).map(one).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let both = [scope.spawn(some), scope.spawn(some)];
        both.into_iter().flat_map(|some| some.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
