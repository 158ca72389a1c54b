//! Threads that come and go: what they hold goes back, whoever frees what they allocated, and whatever they do while they end.

mod common;

use std::alloc::Layout;
use std::cell::Cell;
#[cfg(unix)]
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

#[cfg(target_os = "linux")]
use allocator_api2::boxed::Box as FamilyBox;
use allocator_api2::vec::Vec as FamilyVec;
use common::child;
use common::doors::{Doors, layout};
#[cfg(any(target_os = "linux", windows))]
use common::memory::resident_bytes;
use common::pattern;
use family_alloc::{Family, family};

#[cfg(target_os = "linux")]
const MIB: usize = 1 << 20;

/// One of every way to be served: the tiny, small, medium and largest slots, and a mapping.
const SIZES: [usize; 8] = [1, 2, 24, 64, 1000, 8192, 1 << 20, 3 << 20];

#[derive(Clone, Copy)]
struct Slot {
    memory: NonNull<[u8]>,
    layout: Layout,
}

// SAFETY: an allocation may be used and freed on any thread; the tests hand each to one thread at a time.
unsafe impl Send for Slot {}

fn allocate(doors: Doors, size: usize) -> Slot {
    let layout = layout(size, 1);
    let memory = (doors.allocate)(layout).expect("memory");
    pattern::fill(NonNull::slice_from_raw_parts(memory.cast(), size.min(4096)), size);
    Slot { memory, layout }
}

fn free(doors: Doors, slot: Slot) {
    let size = slot.layout.size();
    assert!(pattern::holds(slot.memory.cast(), size.min(4096), size), "the contents of {size} bytes have changed");
    // SAFETY: allocated with this layout, and given up.
    unsafe { (doors.deallocate)(slot.memory.cast(), slot.layout) };
}

/// Makes every call once, with every kind of size.
fn use_family(doors: Doors) {
    for size in SIZES {
        let slot = allocate(doors, size);
        let (old, new) = (slot.layout, layout(2 * size, 1));
        // SAFETY: allocated with `old`.
        let grown = unsafe { (doors.grow_zeroed)(slot.memory.cast(), old, new) }.expect("memory");
        assert!(pattern::holds(grown.cast(), size.min(4096), size) && pattern::is_zero_from(grown, size));
        // SAFETY: what the call above returned.
        let memory = unsafe { (doors.shrink)(grown.cast(), new, old) }.expect("memory");
        free(doors, Slot { memory, layout: old });
    }
}

#[track_caller]
fn assert_nothing_held(doors: Doors, live: usize) {
    let stats = (doors.stats)();
    assert_eq!((stats.thread_caches, stats.cached_slots, stats.live_allocations), (0, 0, live), "{stats}");
}

fn join<T>(thread: std::thread::JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn a_thread_that_ends_gives_back_what_it_held() {
    family! { struct Ending; }
    let doors = Doors::of::<Ending>();
    let kept = join(std::thread::spawn(move || {
        let kept: Vec<Slot> = SIZES.map(|size| allocate(doors, size)).into();
        for size in SIZES {
            let slots: Vec<Slot> = (0..(200_000 / size).clamp(1, 1000)).map(|_| allocate(doors, size)).collect();
            slots.into_iter().for_each(|slot| free(doors, slot));
        }
        let stats = (doors.stats)();
        assert_eq!((stats.thread_caches, stats.live_allocations), (1, SIZES.len()), "{stats}");
        assert!(stats.cached_slots > 0, "{stats}");
        kept
    }));
    assert_nothing_held(doors, SIZES.len());
    kept.into_iter().for_each(|slot| free(doors, slot));
    assert_eq!((doors.stats)().live_bytes, 0);
}

/// Two threads that need no more than a slot each, as often as they like, also where each first frees one that a third has made
/// beside the other's.
#[test]
#[cfg_attr(any(miri, feature = "portable"), ignore = "where threads meet depends on the clock there")]
fn threads_with_a_short_slot_each_do_not_write_to_one_line() {
    family! { struct Apart; }
    let doors = Doors::of::<Apart>();
    for size in [8, 16, 32] {
        for frees_first in [false, true] {
            let neighbours = [allocate(doors, size), allocate(doors, size)];
            let (send, lines) = mpsc::channel();
            let (stay, end) = mpsc::channel::<()>();
            let end = std::sync::Mutex::new(end);
            std::thread::scope(|scope| {
                for slot in neighbours {
                    let (send, end) = (send.clone(), &end);
                    scope.spawn(move || {
                        let mut slot = Some(slot).filter(|_| frees_first);
                        for _ in 0..100 {
                            slot.take().into_iter().for_each(|slot| free(doors, slot));
                            slot = Some(allocate(doors, size));
                        }
                        let slot = slot.expect("it is the last");
                        send.send(slot.memory.cast::<u8>().addr().get() / 64).expect("somebody waits");
                        // Until both have said it.
                        end.lock().expect("nobody panics").recv().expect_err("nothing is sent");
                        free(doors, slot);
                    });
                }
                let lines: [usize; 2] = std::array::from_fn(|_| lines.recv().expect("both say it"));
                drop(stay);
                assert_ne!(lines[0], lines[1], "{size} bytes, first freed one: {frees_first}");
            });
            if !frees_first {
                neighbours.into_iter().for_each(|slot| free(doors, slot));
            }
        }
    }
}

#[test]
fn threads_have_their_caches_only_as_long_as_they_live() {
    family! { struct Living; }
    let doors = Doors::of::<Living>();
    let (ready, is_ready) = mpsc::channel();
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let (end, wait) = mpsc::channel::<()>();
            let ready = ready.clone();
            let thread = std::thread::spawn(move || {
                // A cache has to be earned.
                (0..3).for_each(|_| use_family(doors));
                ready.send(()).expect("somebody waits");
                wait.recv().expect_err("nothing is sent");
                use_family(doors);
            });
            is_ready.recv().expect("the thread gets so far");
            (end, thread)
        })
        .collect();
    for (ended, (end, thread)) in threads.into_iter().enumerate() {
        assert_eq!((doors.stats)().thread_caches, 20 - ended);
        drop(end);
        join(thread);
    }
    assert_nothing_held(doors, 0);
}

/// 10,000 threads, or a million with `FAMILY_ALLOC_TEST_LONG`, which takes minutes.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg(target_os = "linux")]
fn threads_without_number_in_turn_use_the_same_memory() {
    child::isolated("threads_without_number_in_turn_use_the_same_memory", || {
        family! { struct InTurn; struct InTurnSmall { slab_bytes: 64 * 1024 } struct InTurnChecked { checks: Checked } }
        let families = [Doors::of::<InTurn>(), Doors::of::<InTurnSmall>(), Doors::of::<InTurnChecked>()];
        // As many that this thread's magazines hold as many of the slots that it frees as they may.
        const WARM_UP: usize = 7500;
        let is_long = std::env::var_os("FAMILY_ALLOC_TEST_LONG").is_some();
        let count = if is_long { 1_000_000 } else { common::times(1000) * 10 };
        let run = |count: usize| {
            for number in 0..count {
                let doors = families[number % families.len()];
                let kept = join(std::thread::spawn(move || {
                    let slots = [1, 24, 64, 1000, 8192].map(|size| [allocate(doors, size), allocate(doors, size)]);
                    slots.map(|[first, second]| {
                        free(doors, first);
                        second
                    })
                }));
                kept.into_iter().for_each(|slot| free(doors, slot));
            }
            resident_bytes()
        };
        let held = || families.map(|doors| (doors.stats)());
        let resident_before = run(WARM_UP);
        let before = held();
        for part in 1..=10 {
            let resident = run(count / 10);
            println!("{} threads in turn: {} KiB resident", WARM_UP + part * (count / 10), resident >> 10);
            let growth = resident.saturating_sub(resident_before);
            assert!(growth < MIB / 4, "{growth} bytes more are resident after {part} tenths of {count} threads");
        }
        for ((after, before), doors) in held().into_iter().zip(before).zip(families) {
            assert_eq!((after.thread_caches, after.live_allocations), (1, 0), "only this thread is left: {after}");
            assert_eq!(after.reserved_bytes, before.reserved_bytes, "{after}");
            // A slab may be empty or not at the moment of a look.
            let [bytes, bytes_before] = [&after, &before].map(|stats| stats.slab_bytes + stats.kept_bytes);
            assert!(bytes <= bytes_before + doors.slab_bytes, "{bytes_before} bytes before, now {after}");
        }
    });
}

/// Little enough that thousands fit; more than the harness's own frames need.
const SMALL_STACK_BYTES: usize = 64 << 10;

#[test]
#[cfg_attr(miri, ignore = "Miri takes minutes for so many")]
fn four_thousand_threads_at_a_time_have_caches_of_several_families() {
    const THREADS: usize = 4096;
    child::isolated("four_thousand_threads_at_a_time_have_caches_of_several_families", || {
        family! { struct Many; struct ManySmall { slab_bytes: 64 * 1024 } struct ManyChecked { checks: Checked } }
        fn families() -> [Doors; 3] {
            [Doors::of::<Many>(), Doors::of::<ManySmall>(), Doors::of::<ManyChecked>()]
        }
        fn allocate_some() -> Vec<(Doors, Slot)> {
            let slots = families().map(|doors| [16, 64, 1000].map(|size| (doors, allocate(doors, size))));
            slots.into_iter().flatten().collect()
        }
        let (ready, is_ready) = mpsc::channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (end, wait) = mpsc::channel::<Vec<(Doors, Slot)>>();
                let ready = ready.clone();
                let run = move || {
                    // A cache has to be earned.
                    for doors in families() {
                        (0..100).for_each(|_| free(doors, allocate(doors, 64)));
                    }
                    ready.send(allocate_some()).expect("somebody waits");
                    let of_another = wait.recv().expect("something is sent");
                    let own = allocate_some();
                    of_another.into_iter().chain(own).for_each(|(doors, slot)| free(doors, slot));
                };
                let thread = std::thread::Builder::new().stack_size(SMALL_STACK_BYTES).spawn(run).expect("a thread");
                (end, thread)
            })
            .collect();
        let slots: Vec<_> = (0..THREADS).map(|_| is_ready.recv().expect("each thread gets so far")).collect();
        for doors in families() {
            let stats = (doors.stats)();
            assert_eq!((stats.thread_caches, stats.live_allocations), (THREADS, 3 * THREADS), "{stats}");
        }
        #[cfg(any(target_os = "linux", windows))]
        println!("{THREADS} threads: {} KiB resident", resident_bytes() >> 10);
        let starts = slots.iter().flatten().map(|(_, slot)| slot.memory.cast::<u8>().addr());
        assert_eq!(starts.collect::<std::collections::HashSet<_>>().len(), 9 * THREADS, "each slot is handed out once");
        // Each frees what another allocated, in another order than they began.
        let ends: Vec<_> = threads
            .into_iter()
            .rev()
            .zip(slots)
            .map(|((end, thread), slots)| {
                end.send(slots).expect("the thread waits");
                thread
            })
            .collect();
        ends.into_iter().for_each(join);
        families().into_iter().for_each(|doors| assert_nothing_held(doors, 0));
        families().into_iter().for_each(doors_trim_to_nothing);
    });
}

#[test]
fn any_thread_frees_what_another_allocated() {
    family! { struct Elsewhere; }
    let doors = Doors::of::<Elsewhere>();
    for size in SIZES {
        let count = ((4 << 20) / size).clamp(2, common::times(20_000).max(2));
        let slots = join(std::thread::spawn(move || (0..count).map(|_| allocate(doors, size)).collect::<Vec<_>>()));
        assert_nothing_held(doors, count);
        join(std::thread::spawn(move || slots.into_iter().for_each(|slot| free(doors, slot))));
        assert_nothing_held(doors, 0);
    }
}

/// Uses its family when it is dropped, and frees what was allocated before.
struct UsesFamily {
    doors: Cell<Option<Doors>>,
    kept: Cell<Option<Vec<Slot>>>,
}

static DESTRUCTORS_RUN: AtomicUsize = AtomicUsize::new(0);

impl UsesFamily {
    const fn new() -> Self {
        Self { doors: Cell::new(None), kept: Cell::new(None) }
    }

    /// Registers the destructor, and does nothing else with the family yet.
    fn register(&self, doors: Doors) {
        self.doors.set(Some(doors));
    }

    fn keep_some(&self) {
        let doors = self.doors.get().expect("registered");
        self.kept.set(Some(SIZES.map(|size| allocate(doors, size)).into()));
    }
}

impl Drop for UsesFamily {
    fn drop(&mut self) {
        if let Some(doors) = self.doors.get() {
            use_family(doors);
            self.kept.take().into_iter().flatten().for_each(|slot| free(doors, slot));
            let many: Vec<Slot> = (0..1000).map(|_| allocate(doors, 64)).collect();
            many.into_iter().for_each(|slot| free(doors, slot));
            DESTRUCTORS_RUN.fetch_add(1, Relaxed);
        }
    }
}

thread_local! {
    static FIRST: UsesFamily = const { UsesFamily::new() };
    static SECOND: UsesFamily = const { UsesFamily::new() };
}

/// Runs a thread that registers `FIRST`, uses the family, and registers `SECOND`, as far as it is told to.
fn end_thread(doors: Doors, first: bool, uses: bool, second: bool) {
    join(std::thread::spawn(move || {
        if first {
            FIRST.with(|destructor| destructor.register(doors));
        }
        if uses {
            use_family(doors);
        }
        if second {
            SECOND.with(|destructor| destructor.register(doors));
        }
        if first && uses {
            FIRST.with(UsesFamily::keep_some);
        }
        if second && uses {
            SECOND.with(UsesFamily::keep_some);
        }
    }));
}

#[test]
fn destructors_of_thread_locals_use_the_family_in_every_order() {
    family! { struct Ordered; }
    let doors = Doors::of::<Ordered>();
    let mut expected = DESTRUCTORS_RUN.load(Relaxed);
    for round in 0..3 {
        for choice in 0..8 {
            let [first, uses, second] = [1, 2, 4].map(|bit| choice & bit != 0);
            end_thread(doors, first, uses, second);
            expected += usize::from(first) + usize::from(second);
            assert_eq!(DESTRUCTORS_RUN.load(Relaxed), expected, "all destructors ran to their end");
            let stats = (doors.stats)();
            let held = (stats.thread_caches, stats.cached_slots, stats.live_allocations);
            assert_eq!(held, (0, 0, 0), "round {round}: first {first}, uses {uses}, second {second}: {stats}");
        }
    }
}

/// Calls `destructor` when the calling thread ends, after the destructors of Rust's thread-locals.
#[cfg(unix)]
fn at_thread_exit(destructor: unsafe extern "C" fn(*mut c_void)) {
    let mut key = 0;
    // SAFETY: writes one key.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(destructor)) }, 0);
    // SAFETY: the key was created above; a value that is not null has the destructor called.
    assert_eq!(unsafe { libc::pthread_setspecific(key, std::ptr::dangling::<c_void>()) }, 0);
}

#[test]
#[cfg(unix)]
fn destructors_of_pthread_keys_use_the_family() {
    family! { struct Keyed; }
    unsafe extern "C" fn destructor(_: *mut c_void) {
        use_family(Doors::of::<Keyed>());
    }
    let doors = Doors::of::<Keyed>();
    for _ in 0..3 {
        join(std::thread::spawn(move || {
            at_thread_exit(destructor);
            use_family(doors);
        }));
        assert_nothing_held(doors, 0);
    }
}

#[test]
#[cfg(unix)]
fn destructors_of_pthread_keys_may_be_the_first_to_use_the_family() {
    family! { struct KeyedFirst; }
    unsafe extern "C" fn destructor(_: *mut c_void) {
        use_family(Doors::of::<KeyedFirst>());
    }
    for _ in 0..3 {
        join(std::thread::spawn(|| at_thread_exit(destructor)));
        assert_nothing_held(Doors::of::<KeyedFirst>(), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg(unix)]
fn the_main_thread_uses_the_family_until_the_process_ends() {
    child::isolated("the_main_thread_uses_the_family_until_the_process_ends", || {
        family! { struct AtExit; }
        extern "C" fn at_exit() {
            use_family(Doors::of::<AtExit>());
            // SAFETY: writes one line from a live slice.
            unsafe { libc::write(libc::STDOUT_FILENO, c"used at exit\n".as_ptr().cast(), 13) };
        }
        // SAFETY: registers a function.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        FIRST.with(|destructor| destructor.register(Doors::of::<AtExit>()));
        use_family(Doors::of::<AtExit>());
        FIRST.with(UsesFamily::keep_some);
    });
    if child::case().is_none() {
        let out = child::assert_passed("the_main_thread_uses_the_family_until_the_process_ends", "again");
        assert!(out.contains("used at exit"), "the process ended before its last function ran:\n{out}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
#[cfg(target_os = "linux")]
fn what_wanders_through_a_channel_stays_bounded() {
    child::isolated("what_wanders_through_a_channel_stays_bounded", || {
        family! { struct Wandering; }
        const MESSAGES: usize = 200_000;
        let (sender, receiver) = mpsc::sync_channel::<FamilyBox<[u8; 1000], Wandering>>(64);
        let mut resident = Vec::new();
        std::thread::scope(|scope| {
            let producer = scope.spawn(move || {
                for number in 0..MESSAGES {
                    sender.send(FamilyBox::new_in([number as u8; 1000], Wandering)).expect("the consumer listens");
                }
            });
            for (number, message) in receiver.into_iter().enumerate() {
                assert!(message[0] == number as u8 && message[999] == number as u8, "message {number} arrived whole");
                if number % (MESSAGES / 4) == MESSAGES / 8 {
                    resident.push(resident_bytes());
                }
            }
            producer.join().expect("no panic");
        });
        let (first, last) = (resident[0], resident[resident.len() - 1]);
        assert!(last < first + MIB, "resident memory grew from {first} to {last} while 64 messages were on their way");
        let stats = Wandering::stats();
        assert!(stats.slab_bytes + stats.kept_bytes <= 4 * MIB, "200 MB in messages went through {stats}");
        assert_eq!(stats.live_allocations, 0, "{stats}");
    });
}

#[test]
fn threads_that_start_and_end_at_once_lose_nothing() {
    family! { struct AtOnce { slab_bytes: 64 * 1024 } }
    let doors = Doors::of::<AtOnce>();
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| {
            scope.spawn(|| {
                for round in 0..common::times(150) {
                    let slots = std::thread::scope(|inner| {
                        let thread = inner.spawn(move || {
                            let slots: Vec<Slot> = (0..100).map(|step| allocate(doors, 1 << (step % 12))).collect();
                            let (free_now, keep) = slots.split_at(round % 100);
                            free_now.iter().for_each(|&slot| free(doors, slot));
                            keep.to_vec()
                        });
                        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    });
                    total.fetch_add(slots.len(), Relaxed);
                    slots.into_iter().for_each(|slot| free(doors, slot));
                }
            })
        });
        // Joined one by one: a scope may be left before the thread-locals of its threads are destroyed.
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    assert!(total.load(Relaxed) > 0);
    assert_nothing_held(doors, 0);
    doors_trim_to_nothing(doors);
}

/// After a trim, a family that holds nothing has no memory in slabs, and keeps none if the backend can give it back.
#[track_caller]
fn doors_trim_to_nothing(doors: Doors) {
    (doors.trim)();
    let stats = (doors.stats)();
    let kept_bytes = if cfg!(any(miri, feature = "portable")) { 0 } else { stats.kept_bytes };
    assert_eq!((stats.slab_bytes, kept_bytes), (0, 0), "{stats}");
}

#[test]
fn a_collection_moves_to_another_thread_and_grows_there() {
    family! { struct Moving; }
    let mut numbers: FamilyVec<u64, Moving> = FamilyVec::new_in(Moving);
    for round in 0..20 {
        numbers = join(std::thread::spawn(move || {
            numbers.extend(round * 1000..(round + 1) * 1000);
            numbers
        }));
    }
    assert!(numbers.iter().copied().eq(0..20_000));
    drop(numbers);
    assert_eq!(Moving::stats().live_allocations, 0);
}

/// Where a process that ends ends its other threads first, these may have had any lock.
#[test]
#[cfg_attr(miri, ignore = "no process can be started there")]
fn a_process_ends_while_its_threads_are_at_work() {
    const NAME: &str = "a_process_ends_while_its_threads_are_at_work";
    family! { struct Busy { slab_bytes: 64 * 1024 } }
    let at_work = || {
        let slots: Vec<_> = (0..200).map(|count| allocate(Doors::of::<Busy>(), 8 << (count % 12))).collect();
        slots.into_iter().for_each(|slot| free(Doors::of::<Busy>(), slot));
    };
    if child::case().is_some() {
        for _ in 0..4 {
            std::thread::spawn(move || {
                loop {
                    at_work();
                }
            });
        }
        (0..20).for_each(|_| at_work());
        std::process::exit(77);
    }
    for _ in 0..10 {
        let output = child::run(NAME, "end");
        assert_eq!(output.status.code(), Some(77), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
