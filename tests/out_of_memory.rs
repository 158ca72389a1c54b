//! Running out of address space, and layouts that no machine can serve: an error, nothing lost, usable afterwards.
//!
//! Limits are set in child processes. What they allocate is linked through its own first words: remembering it elsewhere would
//! take memory that they don't have.

#![cfg(target_os = "linux")]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::mpsc;

use common::child::{self, set_limit};
use common::doors::{Doors, layout};
use common::memory::{mapped_bytes, page_bytes};
use common::pattern;
use family_alloc::{Family, family};

family! {
    struct Slots;
    struct Small { slab_bytes: 64 * 1024 }
    struct Larges;
    struct Mixed;
}

const MIB: usize = 1 << 20;

/// Allocations linked through their first words.
struct Chain {
    first: Option<NonNull<u8>>,
    count: usize,
    layout: Layout,
    doors: Doors,
}

impl Chain {
    fn new(doors: Doors, layout: Layout) -> Self {
        Self { first: None, count: 0, layout, doors }
    }

    /// Allocates until there is no more, at least `least` bytes; returns how many there are.
    fn fill(&mut self, least: usize) -> usize {
        while let Some(memory) = (self.doors.allocate)(self.layout) {
            let link = memory.cast::<Option<NonNull<u8>>>();
            // SAFETY: an allocation of at least a word, aligned to it, that belongs to this chain.
            unsafe { link.write(self.first) };
            self.first = Some(memory.cast());
            self.count += 1;
        }
        assert!((self.doors.allocate_zeroed)(self.layout).is_none(), "nothing is left");
        let bytes = self.count * self.layout.size();
        assert!(bytes >= least, "{}: {bytes} bytes of {} could be had", self.doors.name, mapped_bytes());
        let stats = (self.doors.stats)();
        assert_eq!((stats.live_allocations, stats.live_bytes), (self.count, bytes), "{}: counters", self.doors.name);
        self.count
    }

    fn free_one(&mut self) {
        let memory = self.first.expect("the chain is not empty");
        // SAFETY: the link that `fill` wrote.
        self.first = unsafe { memory.cast::<Option<NonNull<u8>>>().read() };
        self.count -= 1;
        // SAFETY: allocated with this layout.
        unsafe { (self.doors.deallocate)(memory, self.layout) };
    }

    fn free_all(&mut self) {
        while self.count > 0 {
            self.free_one();
        }
        let stats = (self.doors.stats)();
        assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{}: counters", self.doors.name);
    }
}

// SAFETY: the chain's allocations may be freed on any thread, and it has them alone.
unsafe impl Send for Chain {}

/// The limits to live with. Slots of the largest have to be large, because each of them is touched.
fn limits() -> [(usize, usize); 3] {
    [(64 * MIB, 4096), (256 * MIB, 16 << 10), (if usize::BITS == 64 { 8 << 30 } else { 1 << 30 }, MIB)]
}

/// Runs `body` in one child process for each limit, which is set there.
fn under_every_limit(test: &str, body: impl FnOnce(usize, usize)) {
    let Some(case) = child::case() else {
        for (limit, slot_bytes) in limits() {
            child::assert_passed(test, &format!("{limit} {slot_bytes}"));
        }
        return;
    };
    let (limit, slot_bytes) = case.split_once(' ').expect("two numbers");
    let (limit, slot_bytes) = (limit.parse().expect("a number"), slot_bytes.parse().expect("a number"));
    without_huge_pages();
    let unlimited = set_limit(libc::RLIMIT_AS, limit as u64);
    body(limit, slot_bytes);
    set_limit(libc::RLIMIT_AS, unlimited);
    for doors in [Doors::of::<Slots>(), Doors::of::<Larges>()] {
        for size in [64, 4096, 3 * MIB] {
            let memory = (doors.allocate)(layout(size, 8)).expect("there is memory again");
            // SAFETY: allocated just now.
            unsafe { (doors.deallocate)(memory.cast(), layout(size, 8)) };
        }
    }
}

/// Lets a slot of which one word is written occupy one small page: the largest limit is more than should be occupied.
fn without_huge_pages() {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }, 0);
}

/// Address space that is left for families under a limit.
fn available(limit: usize) -> usize {
    limit - mapped_bytes()
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "`System` finds no aligned region in so little address space"
)]
fn slots_use_most_of_a_limit_and_come_back() {
    under_every_limit("slots_use_most_of_a_limit_and_come_back", |limit, slot_bytes| {
        let available = available(limit);
        let mut chain = Chain::new(Doors::of::<Slots>(), layout(slot_bytes, 8));
        let first = chain.fill(available / 2);
        for _ in 0..first / 2 {
            chain.free_one();
        }
        assert_eq!(chain.fill(available / 2), first, "as much as before can be had after half was freed");
        chain.free_all();
        assert_eq!(chain.fill(available / 2), first, "as much as before can be had after all was freed");
        chain.free_all();
        // The slabs serve any other class as well.
        let mut other = Chain::new(Doors::of::<Slots>(), layout(2 * slot_bytes.min(MIB / 2), 8));
        other.fill(first * slot_bytes / 2);
        other.free_all();
    });
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "`System` finds no aligned region in so little address space"
)]
fn small_slabs_use_most_of_a_limit_and_come_back() {
    under_every_limit("small_slabs_use_most_of_a_limit_and_come_back", |limit, slot_bytes| {
        // Half a slab is the largest slot there; what the process may touch is bounded by a lesser limit.
        set_limit(libc::RLIMIT_AS, limit.min(512 * MIB) as u64);
        let available = available(limit.min(512 * MIB));
        let mut chain = Chain::new(Doors::of::<Small>(), layout(slot_bytes.min(32 << 10), 8));
        let first = chain.fill(available / 2);
        chain.free_all();
        assert_eq!(chain.fill(available / 2), first);
        chain.free_all();
    });
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "`System` finds no aligned region in so little address space"
)]
fn large_allocations_use_most_of_a_limit_and_come_back() {
    under_every_limit("large_allocations_use_most_of_a_limit_and_come_back", |limit, _| {
        let available = available(limit);
        let doors = Doors::of::<Larges>();
        let mut chain = Chain::new(doors, layout(3 * MIB, 8));
        let first = chain.fill(available / 2);
        chain.free_all();
        assert_eq!(chain.fill(available / 2), first);
        // Growing fails and changes nothing.
        chain.free_one();
        let (old, new) = (layout(3 * MIB, 8), layout(limit, 8));
        let memory = (doors.allocate)(old).expect("one was just freed");
        pattern::fill(memory, 5);
        // SAFETY: allocated just now; the old allocation stays on failure.
        let grown = unsafe { (doors.grow)(memory.cast(), old, new) };
        assert!(grown.is_none(), "more than the limit was had");
        // SAFETY: as above.
        let grown = unsafe { (doors.grow_zeroed)(memory.cast(), old, new) };
        assert!(grown.is_none(), "more than the limit was had");
        assert!(pattern::holds(memory.cast(), memory.len(), 5), "the old allocation is as it was");
        // SAFETY: as above: it is still there.
        unsafe { (doors.deallocate)(memory.cast(), old) };
        chain.free_all();
        Larges::trim();
        // What the large ones had is there for slots.
        let mut slots = Chain::new(doors, layout(MIB, 8));
        slots.fill(available / 4);
        slots.free_all();
    });
}

#[test]
#[cfg_attr(
    any(miri, feature = "portable", target_family = "wasm"),
    ignore = "`System` finds no aligned region in so little address space"
)]
fn a_thread_without_room_for_a_cache_allocates_and_frees() {
    under_every_limit("a_thread_without_room_for_a_cache_allocates_and_frees", |limit, slot_bytes| {
        let available = available(limit) - 8 * MIB;
        let (sender, receiver) = mpsc::channel::<Chain>();
        let (done, wait) = mpsc::channel();
        // Started while there is room for its stack.
        let thread = std::thread::spawn(move || {
            let mut chain = receiver.recv().expect("a chain comes");
            let all = chain.count;
            for _ in 0..3 {
                for _ in 0..all / 3 {
                    chain.free_one();
                }
                assert_eq!(chain.fill(0), all);
            }
            done.send(chain).expect("somebody waits");
        });
        let mut chain = Chain::new(Doors::of::<Slots>(), layout(slot_bytes, 8));
        chain.fill(available / 2);
        sender.send(chain).expect("the thread listens");
        wait.recv().expect("the thread answers").free_all();
        thread.join().expect("the thread ends");
    });
}

#[test]
#[cfg_attr(not(target_pointer_width = "64"), ignore = "half of the address space may be free there")]
fn absurd_layouts_are_refused_and_cost_nothing() {
    family! { struct Absurd; struct AbsurdSmall { slab_bytes: 64 * 1024 } }
    const MOST: usize = isize::MAX as usize;
    const HUGE: usize = MOST / 2 + 1;
    for doors in [Doors::of::<Absurd>(), Doors::of::<AbsurdSmall>()] {
        let old = layout(100, 8);
        let memory = (doors.allocate)(old).expect("memory");
        pattern::fill(memory, 9);
        let sizes = [MOST, MOST - 4095, MOST - 4096, HUGE, HUGE + 1, 1 << (usize::BITS / 4 * 3)];
        let by_size = sizes.map(|size| layout(size, 1));
        let by_align = [HUGE, HUGE / 2, 1 << (usize::BITS / 4 * 3)].map(|align| layout(1, align));
        for absurd in by_size.into_iter().chain(by_align).chain([layout(HUGE / 2, HUGE), layout(MOST / 2 + 1, HUGE)]) {
            assert!((doors.allocate)(absurd).is_none(), "{absurd:?}");
            assert!((doors.allocate_zeroed)(absurd).is_none(), "{absurd:?}");
            if absurd.size() >= old.size() {
                // SAFETY: the old allocation stays on failure.
                assert!(unsafe { (doors.grow)(memory.cast(), old, absurd) }.is_none(), "{absurd:?}");
                // SAFETY: as above.
                assert!(unsafe { (doors.grow_zeroed)(memory.cast(), old, absurd) }.is_none(), "{absurd:?}");
            } else {
                // SAFETY: as above.
                assert!(unsafe { (doors.shrink)(memory.cast(), old, absurd) }.is_none(), "{absurd:?}");
            }
            // SAFETY: the layout's size is not zero.
            assert!(unsafe { Absurd.alloc(absurd) }.is_null(), "{absurd:?}");
        }
        assert!(pattern::holds(memory.cast(), memory.len(), 9), "the old allocation is as it was");
        // SAFETY: it is still there.
        unsafe { (doors.deallocate)(memory.cast(), old) };
        let stats = (doors.stats)();
        assert_eq!((stats.live_allocations, stats.live_bytes, stats.large_bytes), (0, 0, 0), "{stats}");
    }
}

#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend keeps nothing for long")]
fn what_large_allocations_leave_becomes_slots() {
    child::isolated("what_large_allocations_leave_becomes_slots", || {
        let mut slots = Chain::new(Doors::of::<Mixed>(), layout(MIB, 1));
        let large = layout(200 * MIB, 1);
        // A region and a cache are there before the limit.
        let first = (slots.doors.allocate)(layout(MIB, 1)).expect("memory");
        // SAFETY: allocated above.
        unsafe { (slots.doors.deallocate)(first.cast(), layout(MIB, 1)) };
        let kept_before = (slots.doors.stats)().kept_bytes;
        set_limit(libc::RLIMIT_AS, (mapped_bytes() + 210 * MIB) as u64);
        let memory = (slots.doors.allocate)(large).expect("memory");
        // SAFETY: allocated above.
        unsafe { (slots.doors.deallocate)(memory.cast(), large) };
        assert_eq!((slots.doors.stats)().kept_bytes - kept_before, 200 * MIB);
        println!("{} slots of 1 MiB", slots.fill(200 * MIB));
        slots.free_all();
    });
}

/// What grows and fits is granted, whatever a move would need meanwhile; what does not fit changes
/// nothing.
#[test]
#[cfg_attr(any(miri, feature = "portable", target_family = "wasm"), ignore = "this backend copies")]
fn growth_that_fits_under_a_limit_is_granted() {
    const NAME: &str = "growth_that_fits_under_a_limit_is_granted";
    const ROOM: usize = 1000 * MIB;
    let Some(case) = child::case() else {
        let sizes = [10, 100, 400, 499, 501, 550, 800, 990, 1100, 3000];
        // No layout is longer where addresses are short.
        for mib in sizes.into_iter().filter(|mib| *mib <= isize::MAX as usize / MIB) {
            child::assert_passed(NAME, &mib.to_string());
        }
        return;
    };
    let doors = Doors::of::<Larges>();
    let bytes = case.parse::<usize>().expect("a number") * MIB;
    let (old, new) = (layout(3 * MIB, 1), layout(bytes, 1));
    let memory = (doors.allocate)(old).expect("memory");
    pattern::fill(memory, 3);
    // In the way of growth in place.
    let neighbours = [(); 4].map(|()| (doors.allocate)(layout(2 * MIB, 1)).expect("memory"));
    let before = mapped_bytes();
    set_limit(libc::RLIMIT_AS, (before + ROOM - 3 * MIB) as u64);
    // SAFETY: allocated above with this layout; a refusal leaves it as it was.
    let grow = || unsafe { (doors.grow)(memory.cast(), old, new) };
    let Some(grown) = (0..4).find_map(|_| grow()) else {
        assert!(bytes > ROOM, "{case} MiB fit");
        assert!(pattern::holds(memory.cast(), old.size(), 3));
        // But for the page in which single mappings are noted.
        assert!(mapped_bytes() <= before + page_bytes(), "no space is left behind");
        return;
    };
    assert!(bytes <= ROOM, "{case} MiB do not fit");
    assert!(pattern::holds(grown.cast(), old.size(), 3));
    // Where it was before stays the family's, and its ranges are a few MiB longer than what is in them.
    let (now, most) = (mapped_bytes(), before + bytes + 8 * MIB);
    assert!(now <= most, "no space is left behind: {now} of {most}");
    neighbours.into_iter().for_each(|memory| {
        // SAFETY: allocated above with this layout.
        unsafe { (doors.deallocate)(memory.cast(), layout(2 * MIB, 1)) };
    });
    // SAFETY: as it was resized.
    unsafe { (doors.deallocate)(grown.cast(), new) };
    let stats = (doors.stats)();
    assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
}
