//! Scopes: what is allocated where, and what is freed, resized and outlived from anywhere.

mod common;

use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Waker};

#[cfg(unix)]
use common::child;
use common::heaps::{ends, listed, soon};
use common::times;
use family_alloc::{
    Checks, Classes, Enter, Family, FamilyRef, Heap, InHeap, Scoped, carry_scope, current_scope, families, family,
    last_refusal, set_limit_handler, spawn_in_scope,
};

family! {
    struct Home;
    struct Beside;
    struct Default;
    struct Checked { checks: Checked }
    struct Hardened { checks: Hardened }
    struct Unchecked { checks: Unchecked, slab_bytes: 256 << 10 }
    struct Spaced { classes: Spaced }
}

#[global_allocator]
static GLOBAL: Scoped<Home> = Scoped::new();

/// What is written to a block says which it is.
fn filled(seed: u64, words: usize) -> Vec<u64> {
    (0..words as u64).map(|word| seed ^ word << 32).collect()
}

#[track_caller]
fn assert_intact(block: &[u64], seed: u64) {
    let wrong = block.iter().enumerate().find(|(word, value)| **value != seed ^ (*word as u64) << 32);
    assert_eq!(wrong, None, "somebody has written to a live block of {} words", block.len());
}

fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 11) as usize
}

fn name() -> Option<&'static str> {
    current_scope().map(FamilyRef::name)
}

fn live(heap: &Heap) -> usize {
    heap.stats().live_allocations
}

#[test]
fn what_is_allocated_in_a_scope_is_the_heaps() {
    let heap = Heap::new("of a scope").unwrap();
    let (text, map) = heap.scope(|| {
        let map: std::collections::BTreeMap<u32, String> = (0..1000).map(|key| (key, format!("value {key}"))).collect();
        ("a text".to_string(), map)
    });
    let outside = "a text".to_string();
    assert!(live(&heap) > 1001, "{}", heap.stats());
    let before = live(&heap);
    drop(outside);
    assert_eq!(live(&heap), before);
    drop(text);
    assert_eq!(live(&heap), before - 1);
    drop(map);
    assert_eq!((live(&heap), heap.live_bytes()), (0, 0));
}

#[test]
fn scopes_nest_and_are_left_by_panics() {
    let (outer, inner) = (Heap::new("outer").unwrap(), Heap::new("inner").unwrap());
    let result = catch_unwind(AssertUnwindSafe(|| {
        outer.scope(|| {
            assert_eq!(name(), Some("outer"));
            let kept = inner.scope(|| {
                assert_eq!(name(), Some("inner"));
                Heap::outside(|| {
                    assert_eq!(name(), None);
                    Beside.scope(|| assert_eq!(name(), Some("Beside")));
                    assert_eq!(name(), None);
                });
                assert_eq!(name(), Some("inner"));
                // Of constants that nobody looks at the compiler makes no allocation.
                black_box(Box::new(1))
            });
            assert_eq!((name(), live(&inner)), (Some("outer"), 1));
            drop(kept);
            inner.scope(|| std::panic::resume_unwind(black_box(Box::new(7))));
        });
    }));
    assert_eq!(name(), None);
    assert_eq!(live(&inner), 1, "the panic's payload was allocated inside");
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&7));
    assert_eq!((live(&outer), live(&inner)), (0, 0));
}

/// Whatever order guards are dropped in, what is current is alive, and in the end nothing is.
#[test]
fn guards_may_be_dropped_in_any_order() {
    let order = |order: &[usize]| {
        let heaps: Vec<_> = (0..4).map(|index| Heap::new(["g0", "g1", "g2", "g3"][index]).unwrap()).collect();
        let mut guards: Vec<_> = heaps.iter().map(|heap| Some(heap.enter())).collect();
        drop(heaps);
        let mut depth = 4;
        for &index in order {
            drop(guards[index].take());
            depth = depth.min(index);
            let expected = depth.checked_sub(1).map(|top| ["g0", "g1", "g2", "g3"][top]);
            assert_eq!(name(), expected, "{order:?}");
            drop(vec![1_u64; 100]);
        }
        assert!(soon(|| families().all(|family| !family.name().starts_with('g'))), "{order:?}");
    };
    std::thread::spawn(move || {
        order(&[3, 2, 1, 0]);
        order(&[0, 1, 2, 3]);
        order(&[1, 3, 0, 2]);
        order(&[2, 1, 3, 0]);
        // One in between is entered after an early drop.
        let (a, b, c, d) = ["ga", "gb", "gc", "gd"].map(|name| Heap::new(name).unwrap()).into();
        let (first, second) = (a.enter(), b.enter());
        drop(first);
        let (third, fourth) = (c.enter(), d.enter());
        drop((a, b, c, d, second));
        assert_eq!(name(), Some("gd"), "its scope was over, and so was the one that it was entered in");
        drop(vec![1_u64; 100]);
        drop(fourth);
        assert_eq!(name(), Some("gc"));
        drop(third);
        assert_eq!(name(), None);
        assert!(soon(|| families().all(|family| !family.name().starts_with('g'))));
    })
    .join()
    .unwrap();
}

#[test]
fn a_scope_holds_its_heap() {
    let heap = Heap::new("held by a scope").unwrap();
    let guard = heap.enter();
    drop(heap);
    let text = "still there".to_string();
    assert!(listed("held by a scope").is_some_and(|family| !family.is_orphan()));
    drop(text);
    drop(guard);
    assert!(ends("held by a scope"));
}

/// Static families of all kinds and heaps of all kinds, entered in turn: what each holds comes back to it from outside, from scopes
/// of others and from other threads, resized meanwhile.
#[test]
fn every_kind_is_entered_and_freed_from_anywhere() {
    let heaps: Vec<Heap> = [Checks::Unchecked, Checks::Default, Checks::Checked, Checks::Hardened]
        .into_iter()
        .flat_map(|checks| [64 << 10, 2 << 20].map(|slab_bytes| (checks, slab_bytes)))
        .flat_map(|(checks, slab_bytes)| {
            let builder = Heap::builder("kind").checks(checks).slab_bytes(slab_bytes);
            [Classes::Natural, Classes::Spaced].map(|classes| builder.clone().classes(classes).build().unwrap())
        })
        .collect();
    let enter = |index: usize| match index {
        0 => Some(Home.enter()),
        1 => Some(Default.enter()),
        2 => Some(Checked.enter()),
        3 => Some(Hardened.enter()),
        4 => Some(Unchecked.enter()),
        5 => Some(Spaced.enter()),
        6 => None,
        _ => Some(heaps[index - 7].enter()),
    };
    let counts = || {
        let families = [Default::stats(), Checked::stats(), Hardened::stats(), Unchecked::stats(), Spaced::stats()];
        let families = families.map(|stats| stats.live_allocations);
        families.into_iter().chain(heaps.iter().map(live)).sum::<usize>()
    };
    let before = counts();
    let work = |seed: u64, passed: &Mutex<Vec<(u64, Vec<u64>)>>| {
        let mut random = 0x9e37_79b9_7f4a_7c15 ^ seed << 20;
        // Not allocated from any of them.
        let mut live: Vec<(u64, Vec<u64>)> = Vec::with_capacity(100_000);
        for step in 0..times(6000) as u64 {
            let guard = enter(next(&mut random) % (7 + heaps.len()));
            for round in 0..next(&mut random) % 8 {
                let seed = seed << 40 | step << 8 | round as u64;
                let most = [8, 64, 512, 6000, 40_000][next(&mut random) % if step % 16 == 0 { 5 } else { 3 }];
                let words = 1 + next(&mut random) % most;
                match next(&mut random) % 6 {
                    0..=2 if live.len() < 1000 => live.push((seed, filled(seed, words))),
                    _ if live.is_empty() => {}
                    3 => {
                        let index = next(&mut random) % live.len();
                        let (seed, block) = &mut live[index];
                        block.reserve_exact(words);
                        assert_intact(block, *seed);
                        block.truncate(block.len().div_ceil(2));
                        block.shrink_to_fit();
                        assert_intact(block, *seed);
                    }
                    4 => {
                        let block = live.swap_remove(next(&mut random) % live.len());
                        let other = {
                            let mut passed = passed.lock().unwrap();
                            let index = next(&mut random) % passed.len().max(1);
                            if passed.len() < 200 {
                                passed.push(block);
                                None
                            } else {
                                Some(std::mem::replace(&mut passed[index], block))
                            }
                        };
                        if let Some((seed, block)) = other {
                            assert_intact(&block, seed);
                        }
                    }
                    _ => {
                        let (seed, block) = live.swap_remove(next(&mut random) % live.len());
                        assert_intact(&block, seed);
                    }
                }
            }
            drop(guard);
        }
        live.iter().for_each(|(seed, block)| assert_intact(block, *seed));
    };
    let passed = Mutex::new(Vec::with_capacity(200));
    std::thread::scope(|scope| {
        let spawn = |seed| {
            let (work, passed) = (&work, &passed);
            scope.spawn(move || work(seed, passed))
        };
        // Joined one by one: a scope may end while its threads still give their caches back.
        let threads: Vec<_> = (1..=3).map(spawn).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    passed.into_inner().unwrap().iter().for_each(|(seed, block)| assert_intact(block, *seed));
    assert_eq!(counts(), before);
}

#[test]
fn a_resize_stays_in_its_family() {
    let (heap, other) = (Heap::new("resized").unwrap(), Heap::new("beside").unwrap());
    let mut block = heap.scope(|| filled(1, 10));
    for words in [11, 100, 1000, 5000, 100_000, 3_000_000, 40_000, 7, 500] {
        other.scope(|| {
            block.truncate(words);
            block.shrink_to_fit();
            let seed = 1;
            let from = block.len() as u64;
            block.reserve_exact(words - block.len());
            block.extend((from..words as u64).map(|word| seed ^ word << 32));
        });
        assert_intact(&block, 1);
        assert_eq!((live(&heap), live(&other)), (1, 0), "{words}");
        // Outside of all scopes.
        block.reserve_exact(3 * words);
        assert_eq!((live(&heap), live(&other)), (1, 0), "{words}");
    }
    drop(block);
    // What the home has allocated stays the home's.
    let before = Home::stats().live_bytes;
    let mut block = filled(2, 4000);
    heap.scope(|| block.reserve_exact(60_000));
    assert_eq!(live(&heap), 0);
    assert!(Home::stats().live_bytes >= before + 480_000);
    assert_intact(&block, 2);
}

#[test]
fn zeroed_memory_is_zero_and_alignments_hold() {
    use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
    let kinds = [Checks::Unchecked, Checks::Default, Checks::Checked, Checks::Hardened];
    for checks in kinds {
        let heap = Heap::builder("zeroed").checks(checks).build().unwrap();
        for round in 0..3 {
            for (size, align) in [
                (1, 1),
                (100, 1),
                (24, 8),
                (100, 64),
                (10, 4096),
                (5000, 16),
                (8, 65_536),
                (70_000, 1),
                (3 << 20, 1 << 16),
            ] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let all: Vec<usize> = (0..40)
                    .map(|_| {
                        // SAFETY: the size is not 0.
                        let dirty = heap.scope(|| unsafe { alloc(layout) });
                        assert!(!dirty.is_null() && dirty.addr() % align == 0);
                        // SAFETY: all of it was just allocated.
                        unsafe { dirty.write_bytes(0xa5, size) };
                        // SAFETY: allocated above.
                        unsafe { dealloc(dirty, layout) };
                        // SAFETY: the size is not 0.
                        let zeroed = heap.scope(|| unsafe { alloc_zeroed(layout) });
                        assert!(!zeroed.is_null() && zeroed.addr() % align == 0);
                        // SAFETY: allocated above with this size.
                        let bytes = unsafe { std::slice::from_raw_parts(zeroed, size) };
                        assert!(bytes.iter().all(|byte| *byte == 0), "{checks:?} {size} {round}");
                        zeroed.expose_provenance()
                    })
                    .collect();
                for address in all {
                    let memory = std::ptr::with_exposed_provenance_mut(address);
                    // SAFETY: allocated above with this layout.
                    let memory = unsafe { realloc(memory, layout, size + 1) };
                    assert!(memory.addr() % align == 0);
                    // SAFETY: of that size since.
                    unsafe { dealloc(memory, Layout::from_size_align(size + 1, align).unwrap()) };
                }
                assert_eq!(live(&heap), 0);
            }
        }
    }
}

#[test]
fn a_heap_is_entered_by_many_threads() {
    let heap = Heap::new("by many").unwrap();
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        let spawn = |thread: u64| {
            let (heap, barrier) = (&heap, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..times(200) as u64 {
                    let blocks = heap.scope(|| {
                        (0..100).map(|index| filled(thread << 32 | round << 8 | index, 9)).collect::<Vec<_>>()
                    });
                    for (block, index) in blocks.iter().zip(0..) {
                        assert_intact(block, thread << 32 | round << 8 | index);
                    }
                    if round % 2 == 0 {
                        heap.scope(|| drop(blocks));
                    }
                }
            })
        };
        // As above, and for all of them to be there at once they are joined when all have begun.
        let threads: Vec<_> = (0..4).map(spawn).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(live(&heap), 0);
}

#[test]
fn futures_are_in_their_scope_at_each_poll() {
    /// Is ready at the second poll.
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
        }
    }
    async fn work(expected: &'static str, steps: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for step in 0..steps {
            assert_eq!(name(), Some(expected));
            lines.push(format!("{expected} {step}"));
            Yield(false).await;
        }
        lines
    }
    let (one, two) = (Heap::new("task one").unwrap(), Heap::new("task two").unwrap());
    let mut tasks: Vec<Pin<Box<dyn Future<Output = Vec<String>> + Send>>> = vec![
        Box::pin(work("task one", 20).in_heap(&one)),
        Box::pin(work("task two", 20).in_heap(&two)),
        Box::pin(work("Beside", 20).in_heap(&Beside)),
    ];
    let mut context = Context::from_waker(Waker::noop());
    let mut results = Vec::new();
    while !tasks.is_empty() {
        // From thread to thread between polls.
        tasks = std::thread::spawn(move || {
            tasks.retain_mut(|task| match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(_) if name().is_some() => panic!("the scope is left"),
                Poll::Ready(lines) => {
                    assert_eq!(lines.len(), 20);
                    false
                }
                Poll::Pending => true,
            });
            tasks
        })
        .join()
        .unwrap();
        results.push(live(&one));
    }
    assert!(results.iter().max() > Some(&10), "{results:?}");
    assert_eq!((live(&one), live(&two)), (0, 0));
    let mut panics = pin!(async { panic_quietly() }.in_heap(&one));
    assert!(catch_unwind(AssertUnwindSafe(|| panics.as_mut().poll(&mut context))).is_err());
    assert_eq!(name(), None);
}

fn panic_quietly() {
    std::panic::resume_unwind(Box::new(()));
}

#[test]
fn threads_carry_the_scope_of_who_spawns_them() {
    let heap = Heap::new("carried").unwrap();
    let block = heap.scope(|| spawn_in_scope(|| (name(), filled(5, 1000))).join().unwrap());
    assert_eq!(block.0, Some("carried"));
    assert!(live(&heap) >= 1);
    let work = heap.scope(|| carry_scope(name));
    drop(heap);
    assert!(listed("carried").is_some_and(|family| !family.is_orphan()), "it is held");
    assert_eq!(std::thread::spawn(work).join().unwrap(), Some("carried"));
    assert!(soon(|| listed("carried").is_some_and(FamilyRef::is_orphan)));
    assert_intact(&block.1, 5);
    drop(block);
    assert!(ends("carried"));
    assert_eq!(spawn_in_scope(name).join().unwrap(), None);
}

/// Thread-locals that are destroyed when scopes, and the thread's caches, are gone.
#[test]
fn destructors_of_thread_locals_allocate_and_enter() {
    struct Late(Heap, Cell<Vec<Vec<u64>>>);
    impl Drop for Late {
        fn drop(&mut self) {
            assert_eq!(name(), None);
            let own = filled(3, 50);
            let scoped = self.0.scope(|| filled(4, 50));
            for block in self.1.take() {
                assert_intact(&block, 2);
            }
            assert_intact(&own, 3);
            assert_intact(&scoped, 4);
        }
    }
    thread_local! {
        static LATE: Cell<Option<Late>> = const { Cell::new(None) };
    }
    let heap = Heap::new("late").unwrap();
    for entered in [false, true] {
        let heap = heap.clone();
        std::thread::spawn(move || {
            let blocks: Vec<_> = heap.scope(|| (0..100).map(|_| filled(2, 20)).collect());
            LATE.set(Some(Late(heap.clone(), Cell::new(blocks))));
            if entered {
                // Forgotten, so the scope is open when the thread ends; its destructors are outside.
                let guard = Heap::outside(|| heap.enter());
                drop(guard);
            }
        })
        .join()
        .unwrap();
    }
    assert_eq!(live(&heap), 0);
}

#[test]
fn a_forgotten_guard_keeps_its_heap() {
    std::thread::spawn(|| {
        let heap = Heap::new("forgotten").unwrap();
        std::mem::forget(heap.enter());
        drop(heap);
        let blocks: Vec<_> = (0..200).map(|_| filled(2, 20)).collect();
        assert_eq!(name(), Some("forgotten"));
        drop(blocks);
    })
    .join()
    .unwrap();
    assert!(listed("forgotten").is_some_and(|family| !family.is_orphan()));
    drop((0..200).map(|_| filled(2, 20)).collect::<Vec<_>>());
}

#[test]
fn an_orphan_ends_with_its_last_block() {
    let modes = [Checks::Unchecked, Checks::Default, Checks::Checked, Checks::Hardened];
    for (checks, classes) in
        modes.into_iter().flat_map(|checks| [(checks, Classes::Natural), (checks, Classes::Spaced)])
    {
        let parent = Heap::new("parent of an orphan").unwrap();
        let heap = Heap::builder("orphan").checks(checks).classes(classes).parent(&parent).build().unwrap();
        let mut blocks: Vec<Vec<u64>> = (0..300)
            .map(|index| heap.scope(|| filled(index, [3, 40, 700, 9000, 70_000][index as usize % 5])))
            .collect();
        drop(heap);
        assert!(soon(|| listed("orphan").is_some_and(FamilyRef::is_orphan)));
        let orphan = listed("orphan").expect("it is listed");
        assert!(orphan.stats().is_orphan);
        assert!(orphan.stats().to_string().starts_with("family orphan (orphan): "));
        assert_eq!(orphan.stats().live_allocations, 300, "{checks:?}");
        let mut charged = parent.charged_bytes();
        assert!(charged > 300 * 8 * 10_000 && charged == orphan.stats().live_bytes, "{charged}");
        for index in 0..300_u64 {
            let block = blocks.remove(0);
            assert_intact(&block, index);
            if index % 3 == 0 {
                std::thread::spawn(move || drop(block)).join().unwrap();
            } else {
                drop(block);
            }
            assert!(parent.charged_bytes() < charged, "its memory goes back as blocks come home");
            charged = parent.charged_bytes();
            assert_eq!(orphan.stats().live_allocations, 299 - index as usize, "{checks:?}");
        }
        assert!(ends("orphan"), "{checks:?}: it ends with its last block");
        assert_eq!(parent.charged_bytes(), 0);
    }
}

/// What is resized where it is stays; what is not leaves the orphan, which allocates nothing.
#[test]
fn blocks_of_orphans_move_out_when_they_are_resized() {
    let heap = Heap::new("resized orphan").unwrap();
    let (mut small, mut large) = heap.scope(|| (filled(1, 5), filled(2, 90_000)));
    drop(heap);
    assert!(soon(|| listed("resized orphan").is_some_and(FamilyRef::is_orphan)));
    let orphan = listed("resized orphan").unwrap();
    small.reserve_exact(3);
    assert_eq!(orphan.stats().live_allocations, 2, "8 words are in the slot");
    let other = Heap::new("takes in").unwrap();
    other.scope(|| small.reserve_exact(100));
    assert_eq!((orphan.stats().live_allocations, live(&other)), (1, 1));
    large.reserve_exact(200_000);
    assert!(ends("resized orphan"));
    assert_intact(&small, 1);
    assert_intact(&large, 2);
    drop((small, large));
    assert_eq!(live(&other), 0);
}

/// The last handle goes while other threads free what is live, and another heap takes the place: nothing is lost, and no block is
/// handed out twice.
#[test]
fn orphans_end_while_threads_free() {
    for round in 0..times(300) as u64 {
        let classes = if round % 3 == 0 { Classes::Spaced } else { Classes::Natural };
        let heap = Heap::builder("raced").classes(classes).build().unwrap();
        let count = 1 + round % 150;
        let blocks: Vec<Vec<u64>> = heap.scope(|| (0..count).map(|index| filled(index, 6)).collect());
        let (mine, theirs): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
        let ready = Arc::new(Barrier::new(3));
        let free = |blocks: Vec<(usize, Vec<u64>)>, ready: Arc<Barrier>| {
            std::thread::spawn(move || {
                ready.wait();
                for (index, block) in blocks {
                    assert_intact(&block, index as u64);
                }
            })
        };
        let threads = [free(mine, Arc::clone(&ready)), free(theirs, Arc::clone(&ready))];
        ready.wait();
        drop(heap);
        let next = Heap::new("raced").unwrap();
        let kept: Vec<_> = next.scope(|| (0..50).map(|index| filled(index, 6)).collect());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        kept.iter().zip(0..).for_each(|(block, index)| assert_intact(block, index));
        assert_eq!(live(&next), 51);
        drop((kept, next));
        assert!(ends("raced"), "round {round}");
    }
}

/// Large blocks have no tag: whose they are is found also while their heap is ending in another thread.
#[test]
fn large_blocks_come_back_while_their_heap_ends() {
    for round in 0..times(100) {
        let heaps: Vec<_> = (0..64).map(|_| Heap::new("ends with large blocks").unwrap()).collect();
        let mut blocks: Vec<Vec<u64>> = heaps.iter().map(|heap| heap.scope(|| filled(7, 9000))).collect();
        let ready = Arc::new(Barrier::new(2));
        let freed = Arc::clone(&ready);
        let thread = std::thread::spawn(move || {
            freed.wait();
            for (index, mut block) in blocks.drain(..).enumerate() {
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                if index % 2 == 1 {
                    block.reserve_exact(90_000);
                }
                assert_intact(&block, 7);
            }
        });
        ready.wait();
        drop(heaps);
        thread.join().unwrap();
    }
    assert!(ends("ends with large blocks"));
}

/// A thread that gives way to no other frees a block of a heap that another is ending on the same processor: it must not wait for the
/// moment in which the system takes the processor away from it, which is up to a second later, or never.
#[test]
#[cfg(target_os = "linux")]
#[cfg_attr(miri, ignore = "asks for a priority")]
fn a_thread_with_a_high_priority_does_not_wait_for_long() {
    use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::AcqRel};
    use std::time::{Duration, Instant};
    static BLOCK: AtomicPtr<Vec<u8>> = AtomicPtr::new(std::ptr::null_mut());
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    // SAFETY: made by `Box::into_raw`, and taken out once.
    let take =
        |new| Some(BLOCK.swap(new, AcqRel)).filter(|old| !old.is_null()).map(|old| unsafe { Box::from_raw(old) });
    let on_the_first = || {
        // SAFETY: all zero is a set without processors.
        let mut first: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the first is in any set.
        unsafe { libc::CPU_SET(0, &mut first) };
        // SAFETY: reads a set of that length.
        unsafe { libc::sched_setaffinity(0, size_of_val(&first), &raw const first) == 0 }
    };
    let urgent = std::thread::spawn(move || {
        // SAFETY: all zero is a parameter; musl's has more fields.
        let mut priority: libc::sched_param = unsafe { std::mem::zeroed() };
        priority.sched_priority = 10;
        // SAFETY: reads a live parameter.
        if !on_the_first() || unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) } != 0 {
            return Duration::ZERO;
        }
        let mut longest = Duration::ZERO;
        for round in 0.. {
            if IS_OVER.load(Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_nanos(20_000 + round * 7919 % 40_000));
            let block = take(std::ptr::null_mut());
            let begun = Instant::now();
            drop(block);
            longest = longest.max(begun.elapsed());
        }
        longest
    });
    let ending = std::thread::spawn(move || {
        let begun = Instant::now();
        while on_the_first() && begun.elapsed().as_secs() < 3 {
            let heap = Heap::new("ends below").unwrap();
            drop(take(Box::into_raw(Box::new(heap.scope(|| vec![1_u8; 100])))));
            drop(heap);
        }
        drop(take(std::ptr::null_mut()));
        IS_OVER.store(true, Relaxed);
    });
    ending.join().unwrap();
    let longest = urgent.join().unwrap();
    assert!(longest < Duration::from_millis(500), "a free took {longest:?}");
}

/// Heaps come and go as requests do, and what they answered is freed by another thread, often after the heap's end.
#[test]
fn what_requests_answer_outlives_them() {
    let (sender, receiver) = mpsc::sync_channel::<(u64, Vec<Vec<u64>>)>(20);
    let reader = std::thread::spawn(move || {
        for (seed, answer) in receiver {
            answer.iter().for_each(|part| assert_intact(part, seed));
        }
    });
    let senders: Vec<_> = (1..=2_u64)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for request in 0..times(2000) as u64 {
                    let seed = thread << 32 | request;
                    let heap = Heap::new("request").unwrap();
                    let answer =
                        heap.scope(|| (0..1 + request % 60).map(|part| filled(seed, 1 + part as usize)).collect());
                    drop(heap);
                    sender.send((seed, answer)).unwrap();
                }
            })
        })
        .collect();
    drop(sender);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    reader.join().unwrap();
    assert!(ends("request"));
}

#[test]
fn a_limit_is_soft_in_a_scope_and_hard_for_collections_of_the_heap() {
    const LIMIT: usize = 1 << 20;
    let parent = Heap::builder("soft parent").limit(2 * LIMIT).build().unwrap();
    let heap = Heap::builder("soft").limit(LIMIT).parent(&parent).build().unwrap();
    let within = heap.scope(|| vec![1_u8; LIMIT / 2]);
    assert!(!heap.over_limit());
    let over: Vec<Vec<u8>> = heap.scope(|| (0..60).map(|_| vec![2_u8; 10_000]).collect());
    assert!(heap.over_limit() && !parent.over_limit());
    assert!(heap.charged_bytes() > LIMIT, "{} bytes charged", heap.charged_bytes());
    assert_eq!(heap.charged_bytes(), parent.charged_bytes());
    // The same thread is refused where it can be.
    assert!(family_alloc::Vec::<u8, _>::new_in(heap.clone()).try_reserve(100).is_err());
    assert_eq!(last_refusal().unwrap().limit.name(), "soft");
    let much = heap.scope(|| vec![3_u8; LIMIT]);
    assert!(parent.over_limit());
    let mut grown = within;
    // What is resized through the global allocator is not refused either, wherever that is.
    grown.resize(3 * LIMIT, 1);
    assert_eq!(grown.iter().filter(|byte| **byte == 1).count(), 3 * LIMIT);
    drop((over, much));
    assert!(heap.over_limit());
    drop(grown);
    heap.trim();
    assert!(!heap.over_limit() && !parent.over_limit());
    assert_eq!((heap.charged_bytes(), parent.charged_bytes()), (0, 0));
    assert!(family_alloc::Vec::<u8, _>::new_in(heap).try_reserve(100).is_ok());
}

/// While a limit above is passed, no allocation is tried within it first: each try would give back all that the thread has cached.
#[test]
fn a_limit_above_that_is_passed_is_not_tried_each_time() {
    let parent = Heap::builder("passed").limit(1 << 20).build().unwrap();
    let heap = Heap::builder("under it").parent(&parent).build().unwrap();
    let much = heap.scope(|| vec![1_u8; 2 << 20]);
    assert!(parent.over_limit() && !heap.over_limit());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop(heap.scope(|| (1..500).map(|words| filled(1, words)).collect::<Vec<_>>()));
            assert!(last_refusal().is_none());
        });
        thread.join().unwrap();
    });
    drop(much);
}

#[test]
fn crossings_are_told_once_each_outside_of_allocations() {
    static TOLD: Mutex<Vec<(&str, usize)>> = Mutex::new(Vec::new());
    static OTHERS: AtomicUsize = AtomicUsize::new(0);
    set_limit_handler(|crossing| {
        if !crossing.limit.name().starts_with("crossed") {
            OTHERS.fetch_add(1, Relaxed);
            return;
        }
        // It allocates, and enters a scope, and may lock what the work inside has locked.
        let heap = Heap::new("of the handler").unwrap();
        let text = heap.scope(|| format!("{crossing:?}"));
        assert!(text.contains("limit_bytes"));
        TOLD.lock().unwrap().push((crossing.limit.name(), crossing.limit_bytes));
    });
    let told = || std::mem::take(&mut *TOLD.lock().unwrap());
    let parent = Heap::builder("crossed parent").limit(1 << 20).build().unwrap();
    let heap = Heap::builder("crossed").limit(512 << 10).parent(&parent).build().unwrap();
    for _ in 0..3 {
        let block = heap.scope(|| {
            let _locked = TOLD.lock().unwrap();
            let block = vec![1_u8; 600 << 10];
            assert!(heap.over_limit(), "and nobody has been told yet");
            block
        });
        assert_eq!(told(), [("crossed", 512 << 10)]);
        let more = heap.scope(|| vec![1_u8; 100]);
        assert_eq!(told(), [], "once for each crossing");
        let both = heap.scope(|| vec![1_u8; 600 << 10]);
        assert_eq!(told(), [("crossed parent", 1 << 20)]);
        drop((block, more, both));
        assert!(!heap.over_limit() && !parent.over_limit());
        heap.scope(|| drop(vec![1_u8; 100]));
        assert_eq!(told(), [], "nobody is told of the way down");
    }
    // A limit that is set below what is held is crossed as well, and told by the next who leaves.
    let block = heap.scope(|| vec![1_u8; 100 << 10]);
    heap.set_limit(Some(50 << 10));
    assert!(heap.over_limit());
    std::thread::spawn({
        let heap = heap.clone();
        move || heap.scope(|| ())
    })
    .join()
    .unwrap();
    assert_eq!(told(), [("crossed", 50 << 10)]);
    drop(block);
    assert!(!heap.over_limit());
}

/// The handler may panic: what the scope's function returned is dropped like any value.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "starts processes")]
fn a_handler_that_panics_leaks_nothing() {
    child::isolated("a_handler_that_panics_leaks_nothing", || {
        set_limit_handler(|_| std::panic::resume_unwind(Box::new("passed")));
        let over = || vec![1_u8; 1 << 20];
        type Attempt = fn(&Heap, fn() -> Vec<u8>);
        let attempts: [Attempt; 3] = [
            |heap, over| drop(heap.scope(over)),
            |heap, over| drop(heap.scope(|| carry_scope(over))()),
            |heap, over| {
                let future = pin!(async move { over() }.in_heap(heap));
                drop(future.poll(&mut Context::from_waker(Waker::noop())));
            },
        ];
        for attempt in attempts {
            let heap = Heap::builder("passed").limit(64 << 10).build().unwrap();
            assert!(catch_unwind(AssertUnwindSafe(|| attempt(&heap, over))).is_err());
            assert_eq!((name(), live(&heap)), (None, 0));
        }
    });
}

/// The home's own limit is soft as well: the program goes on.
#[test]
fn a_limit_of_the_home_does_not_end_the_program() {
    let limit = Home::charged_bytes() + (4 << 20);
    Home::set_limit(Some(limit));
    let block = vec![1_u8; 8 << 20];
    let small: Vec<Vec<u8>> = (0..100).map(|index| vec![index; 100]).collect();
    assert!(Home::over_limit());
    Home::set_limit(None);
    assert!(!Home::over_limit());
    assert!(small.iter().zip(0..).all(|(part, index)| part.iter().all(|byte| *byte == index)));
    drop((block, small));
}

/// More heaps than have a place of their own where cores are found by number.
#[test]
fn blocks_of_thousands_of_heaps_find_their_way() {
    let heaps: Vec<_> = (0..times(3000)).map(|_| Heap::new("of thousands").unwrap()).collect();
    let blocks: Vec<_> = heaps.iter().zip(0..).map(|(heap, seed)| heap.scope(|| filled(seed, 9))).collect();
    let large: Vec<_> =
        heaps.iter().step_by(100).zip(0..).map(|(heap, seed)| heap.scope(|| filled(seed, 20_000))).collect();
    blocks.iter().chain(&large).for_each(|block| assert_intact(block, block[0]));
    std::thread::spawn(move || drop((blocks, large))).join().unwrap();
    assert!(heaps.iter().all(|heap| live(heap) == 0));
}

#[test]
#[cfg(all(unix, not(miri)))]
fn a_child_of_a_fork_goes_on_in_its_scope() {
    let heap = Heap::new("forked").unwrap();
    let parked = heap.scope(|| filled(1, 50));
    let is_right = heap.scope(|| {
        // SAFETY: the child allocates, frees and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let blocks: Vec<_> = (0..100).map(|seed| filled(seed, 20)).collect();
            let is_right = name() == Some("forked") && blocks.iter().zip(0..).all(|(block, seed)| block[0] == seed);
            drop((blocks, parked));
            // SAFETY: ends the child without the harness's destructors.
            unsafe { libc::_exit(i32::from(!is_right)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    });
    assert!(is_right);
}

/// A heap whose last handle is in its own memory.
#[test]
fn a_heap_may_hold_its_own_handle() {
    let heap = Heap::new("holds itself").unwrap();
    let inside = heap.scope(|| black_box(Box::new((heap.clone(), filled(1, 9)))));
    drop(heap);
    assert!(listed("holds itself").is_some_and(|family| !family.is_orphan()));
    let scope = inside.0.enter();
    drop(inside);
    drop(vec![1_u64; 50]);
    drop(scope);
    assert!(ends("holds itself"));
}

/// A heap with a handler of its own has it called, its parent that of all.
#[test]
fn a_heap_has_a_limit_handler_of_its_own() {
    static OWN: Mutex<Vec<(&str, usize)>> = Mutex::new(Vec::new());
    let parent = Heap::builder("parent of one with a handler").limit(4 << 20).build().unwrap();
    let builder = Heap::builder("with a handler").limit(1 << 20).parent(&parent);
    let handled = builder
        .clone()
        .limit_handler(|crossing| OWN.lock().unwrap().push((crossing.limit.name(), crossing.limit_bytes)));
    for _ in 0..2 {
        let heap = handled.build().unwrap();
        let block = heap.scope(|| vec![1_u8; 2 << 20]);
        assert_eq!(*OWN.lock().unwrap(), [("with a handler", 1 << 20)], "once, and not of the parent");
        drop((block, heap));
        OWN.lock().unwrap().clear();
    }
    // The next in its memory has none.
    let heap = builder.build().unwrap();
    drop(heap.scope(|| vec![1_u8; 2 << 20]));
    assert_eq!(*OWN.lock().unwrap(), []);
}

/// What is misused through the global allocator ends the process with the line that any family prints.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "starts processes")]
fn misuse_is_reported() {
    use std::alloc::{Layout, alloc, dealloc};
    const NAME: &str = "misuse_is_reported";
    let layout = Layout::from_size_align(64, 8).unwrap();
    let heap = Heap::builder("misused").checks(Checks::Checked).build().unwrap();
    // The compiler may leave out an allocation that nobody looks at, and its frees.
    // SAFETY: the size is not 0, here and below.
    let allocate = || black_box(heap.scope(|| unsafe { alloc(layout) }));
    match child::case().as_deref() {
        None => {
            let cases = ["foreign", "twice", "twice in an orphan", "wrong class", "dead heap", "large twice"];
            for (case, expected) in
                cases.into_iter().zip(["invalid free", "double free", "double free", "invalid free", "", ""])
            {
                let lines = child::assert_aborted(NAME, case);
                assert!(
                    lines.iter().any(|line| line.starts_with("family_alloc: ") && line.contains(expected)),
                    "{case}: {lines:?}"
                );
            }
            return;
        }
        Some(_) => child::leave_no_core(),
    }
    match child::case().as_deref() {
        Some("foreign") => {
            // SAFETY: any size.
            let foreign = unsafe { libc::malloc(64) };
            // SAFETY: it is not: the C library has allocated it.
            unsafe { dealloc(foreign.cast(), layout) };
        }
        Some("twice") => {
            let memory = allocate();
            // SAFETY: live, with this layout, the first time.
            (0..2).for_each(|_| unsafe { dealloc(memory, layout) });
        }
        Some("twice in an orphan") => {
            let (memory, other) = (allocate(), allocate());
            drop(heap);
            // SAFETY: live, with this layout, the first time.
            (0..2).for_each(|_| unsafe { dealloc(memory, layout) });
            black_box(other);
        }
        Some("wrong class") => {
            let memory = allocate();
            // SAFETY: live, but the layout is another.
            unsafe { dealloc(memory, Layout::from_size_align(1000, 8).unwrap()) };
        }
        Some("dead heap") => {
            let memory = allocate();
            drop(heap);
            // SAFETY: live, with this layout, the first time; the heap has ended then.
            (0..2).for_each(|_| unsafe { dealloc(memory, layout) });
        }
        _ => {
            let layout = Layout::from_size_align(5 << 20, 8).unwrap();
            // SAFETY: the size is not 0.
            let memory = heap.scope(|| unsafe { alloc(layout) });
            // SAFETY: live, with this layout, the first time.
            (0..2).for_each(|_| unsafe { dealloc(memory, layout) });
        }
    }
}
