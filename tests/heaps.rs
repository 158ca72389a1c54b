//! Heaps: families that begin and end while the program runs.

mod common;

use std::collections::hash_map::RandomState;
use std::sync::{Arc, Barrier, mpsc};

#[cfg(all(target_os = "linux", not(miri)))]
use common::child;
use common::heaps::ends;
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
use common::memory;
use common::times;
use family_alloc::{Box, Checks, Classes, Heap, HeapError, HugePages, Vec, families, family};

/// What is written to a block says whose it is, and which.
fn filled(heap: &Heap, seed: u64, words: usize) -> Vec<u64, Heap> {
    let mut block = Vec::with_capacity_in(words, heap.clone());
    block.extend((0..words as u64).map(|word| seed ^ word << 32));
    block
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

#[test]
fn a_handle_is_one_word_and_goes_everywhere() {
    fn is_good<T: Clone + Send + Sync + Unpin + std::fmt::Debug + Eq + std::hash::Hash + 'static>() {}
    is_good::<Heap>();
    assert_eq!((size_of::<Heap>(), size_of::<Option<Heap>>()), (size_of::<usize>(), size_of::<usize>()));
    let (one, other) = (Heap::new("one").unwrap(), Heap::new("other").unwrap());
    assert!(one == one.clone() && one != other);
    assert_eq!(format!("{one:?}"), "Heap(\"one\")");
}

#[test]
fn collections_live_in_their_heap() {
    let heap = Heap::new("collections").unwrap();
    let mut map: hashbrown::HashMap<u64, Vec<u8, Heap>, RandomState, Heap> =
        hashbrown::HashMap::with_hasher_in(RandomState::new(), heap.clone());
    for key in 0..1000 {
        let mut value = Vec::new_in(heap.clone());
        value.resize(key as usize % 100 + 1, key as u8);
        map.insert(key, value);
    }
    let large = Vec::<u8, Heap>::with_capacity_in(3 << 20, heap.clone());
    let stats = heap.stats();
    assert_eq!((stats.live_allocations, stats.large_allocations >= 1), (1002, true), "{stats}");
    assert_eq!(stats.live_bytes, heap.live_bytes());
    for key in (0..1000).step_by(2) {
        map.remove(&key);
    }
    assert!(map.iter().all(|(key, value)| value.iter().all(|byte| *byte == *key as u8)));
    assert_eq!(heap.stats().live_allocations, 502);
    drop((map, large));
    assert_eq!((heap.stats().live_allocations, heap.live_bytes()), (0, 0));
}

#[test]
fn each_heap_counts_from_its_begin() {
    for calls in [3_u64, 1000, 50, 7] {
        let heap = Heap::new("counted").unwrap();
        assert_eq!((heap.stats().total_allocations, heap.stats().total_frees), (0, 0));
        // So many that the thread has a cache in the second round.
        for _ in 0..calls {
            drop(Box::new_in([0_u64; 4], heap.clone()));
        }
        let kept = Box::new_in([0_u64; 4], heap.clone());
        assert_eq!((heap.stats().total_allocations, heap.stats().total_frees), (calls + 1, calls));
        drop(kept);
    }
}

#[test]
fn families_and_heaps_are_listed_alike() {
    family! { struct Listed; }
    let boxed = Box::new_in(1, Listed);
    let long = "a name that is so long that it does not fit where short ones stand: ünïcode".repeat(100);
    for name in ["", "listed tenant", &long] {
        let heap = Heap::new(name).unwrap();
        assert_eq!(heap.name(), name);
        let held = Box::new_in([0_u8; 100], heap.clone());
        let listed = families().find(|family| family.name() == name && !family.stats().classes.is_empty());
        let listed = listed.expect("a heap that lives is listed");
        assert_eq!((listed.path(), listed.live_bytes(), listed.stats().name), (name, 128, name));
        assert!(families().any(|family| family.name() == "Listed"));
        drop((heap, held));
        // The reference does not find another heap that has taken this one's place.
        let another = Heap::new("another").unwrap();
        let held = Box::new_in([0_u8; 100], another);
        assert_eq!((listed.name(), listed.live_bytes(), listed.trim(), listed.stats().live_bytes), ("", 0, 0, 0));
        drop(held);
    }
    assert!(ends("listed tenant"));
    drop(boxed);
}

#[test]
fn options_that_are_not_allowed_are_refused() {
    for bytes in [0, 1, 4096, 32 << 10, 100_000, 4 << 20, usize::MAX] {
        assert_eq!(Heap::builder("odd").slab_bytes(bytes).build(), Err(HeapError::BadOption("slab_bytes")));
    }
    for bytes in [0, 1 << 10, 65 << 20, usize::MAX] {
        assert_eq!(Heap::builder("odd").cache_bytes(bytes).build(), Err(HeapError::BadOption("cache_bytes")));
    }
    assert_eq!(HeapError::TooManyHeaps.to_string(), "there are too many heaps");
}

/// All calls, in all kinds of heaps, beside a list of what is live.
#[test]
fn every_kind_of_heap_serves_all_calls() {
    let checks = [Checks::Unchecked, Checks::Default, Checks::Checked, Checks::Hardened];
    let kinds = checks.into_iter().flat_map(|checks| [(checks, 64 << 10), (checks, 2 << 20)]);
    let kinds =
        kinds.flat_map(|(checks, bytes)| [Classes::Natural, Classes::Spaced].map(|classes| (checks, bytes, classes)));
    for (checks, slab_bytes, classes) in kinds {
        let heap = Heap::builder("kind")
            .checks(checks)
            .classes(classes)
            .slab_bytes(slab_bytes)
            .huge_pages(HugePages::Adaptive)
            .cache_bytes(64 << 10)
            .build()
            .unwrap();
        let mut random = 0x1234_5678_9abc_def1;
        let mut live: std::vec::Vec<(u64, Vec<u64, Heap>)> = std::vec::Vec::new();
        for seed in 0..times(4000) as u64 {
            let most = [8, 64, 512, 40_000][next(&mut random) % 4];
            let words = 1 + next(&mut random) % most;
            match next(&mut random) % 5 {
                0 | 1 => live.push((seed, filled(&heap, seed, words))),
                _ if live.is_empty() => {}
                2 => {
                    let index = next(&mut random) % live.len();
                    let (seed, mut block) = live.swap_remove(index);
                    let old = block.len();
                    block.reserve_exact(words);
                    assert_intact(&block[..old], seed);
                    block.truncate(old.div_ceil(2));
                    block.shrink_to_fit();
                    assert_intact(&block, seed);
                    live.push((seed, block));
                }
                _ => {
                    let index = next(&mut random) % live.len();
                    let (seed, block) = live.swap_remove(index);
                    assert_intact(&block, seed);
                }
            }
        }
        live.iter().for_each(|(seed, block)| assert_intact(block, *seed));
        assert_eq!(heap.stats().live_allocations, live.len(), "{checks:?}");
        drop(live);
        assert_eq!(heap.stats().live_allocations, 0, "{checks:?}");
        heap.trim();
    }
}

/// Heaps come and go while threads use them often enough to have caches: what a thread has cached of a dead heap serves nobody.
#[test]
fn a_cache_of_a_dead_heap_serves_nobody() {
    let heap = Heap::new("first").unwrap();
    let barrier = Arc::new(Barrier::new(2));
    let (sender, receiver) = mpsc::channel::<Option<Heap>>();
    let (blocks, returned) = mpsc::channel();
    let other = std::thread::spawn({
        let barrier = Arc::clone(&barrier);
        move || {
            for heap in receiver.iter().map_while(|heap| heap) {
                // Enough of them for a cache, and some that stay in it.
                let some: std::vec::Vec<_> = (0..200).map(|seed| filled(&heap, seed, 8)).collect();
                drop(some);
                blocks.send(filled(&heap, 77, 8)).unwrap();
                drop(heap);
                barrier.wait();
            }
        }
    });
    let mut kept = std::vec::Vec::new();
    let mut heap = Some(heap);
    for round in 0..times(300) as u64 {
        let this = heap.take().unwrap();
        sender.send(Some(this.clone())).unwrap();
        barrier.wait();
        let block = returned.recv().unwrap();
        assert_intact(&block, 77);
        drop((block, this));
        // Mostly in the same place.
        let new = Heap::new("next").unwrap();
        let own: std::vec::Vec<_> = (0..300).map(|seed| filled(&new, seed, 8)).collect();
        assert_eq!(new.stats().live_allocations, 300, "round {round}");
        if round % 50 == 0 {
            kept.push((new.clone(), own));
        }
        kept.iter().for_each(|(_, own)| own.iter().zip(0..).for_each(|(block, seed)| assert_intact(block, seed)));
        heap = Some(new);
    }
    sender.send(None).unwrap();
    other.join().unwrap();
}

/// Threads that make heaps, pass them and what is in them on, use them often or now and then, and end. No two live blocks overlap,
/// and nothing is left of any heap.
#[test]
fn heaps_come_and_go_in_all_threads() {
    const THREADS: usize = 4;
    let (senders, receivers): (std::vec::Vec<_>, std::vec::Vec<_>) =
        (0..THREADS).map(|_| mpsc::channel::<(u64, Vec<u64, Heap>)>()).unzip();
    let ready = Arc::new(Barrier::new(THREADS));
    let threads = receivers.into_iter().enumerate().map(|(index, receiver)| {
        let (senders, ready) = (senders.clone(), Arc::clone(&ready));
        std::thread::spawn(move || {
            let mut random = 0x9e37_79b9 + index as u64;
            let mut heaps: std::vec::Vec<Heap> = std::vec::Vec::new();
            let mut live: std::vec::Vec<(u64, Vec<u64, Heap>)> = std::vec::Vec::new();
            for round in 0..times(6000) as u64 {
                if heaps.len() < 40 && next(&mut random) % 8 == 0 || heaps.is_empty() {
                    let classes = if next(&mut random) % 3 == 0 { Classes::Spaced } else { Classes::Natural };
                    heaps.push(Heap::builder("comes and goes").classes(classes).build().unwrap());
                }
                let index = next(&mut random) % heaps.len();
                let index = if next(&mut random) % 2 == 0 { 0 } else { index };
                for _ in 0..next(&mut random) % 20 {
                    let seed = round << 8 | index as u64;
                    let words = 1 + next(&mut random) % 100;
                    live.push((seed, filled(&heaps[index], seed, words)));
                }
                for _ in 0..next(&mut random) % 22 {
                    if live.is_empty() {
                        break;
                    }
                    let place = next(&mut random) % live.len();
                    let (seed, block) = live.swap_remove(place);
                    assert_intact(&block, seed);
                    if next(&mut random) % 3 == 0 {
                        _ = senders[next(&mut random) % THREADS].send((seed, block));
                    }
                }
                for (seed, block) in receiver.try_iter() {
                    assert_intact(&block, seed);
                    if next(&mut random) % 2 == 0 {
                        live.push((seed, block));
                    }
                }
                if next(&mut random) % 10 == 0 {
                    heaps.swap_remove(index);
                }
            }
            live.iter().for_each(|(seed, block)| assert_intact(block, *seed));
            drop((live, heaps));
            ready.wait();
            drop(senders);
            receiver.iter().for_each(|(seed, block)| assert_intact(&block, seed));
        })
    });
    let threads: std::vec::Vec<_> = threads.collect();
    drop(senders);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(ends("comes and goes"));
}

/// More heaps than a thread can have caches of, used in turn.
#[test]
fn a_thread_uses_more_heaps_than_it_has_caches_for() {
    let heaps: std::vec::Vec<_> = (0..100).map(|index| Heap::new(&format!("in turn {index}")).unwrap()).collect();
    let mut live = std::vec::Vec::new();
    for round in 0..times(20) as u64 {
        for (heap, index) in heaps.iter().zip(0..) {
            let seed = round << 16 | index;
            // Now one that earns a cache, now one that does not.
            let count = if (index + round) % 3 == 0 { 100 } else { 2 };
            let some: std::vec::Vec<_> = (0..count).map(|_| filled(heap, seed, 5)).collect();
            some.iter().for_each(|block| assert_intact(block, seed));
            live.push((seed, filled(heap, seed, 5)));
        }
    }
    for (seed, block) in live {
        assert_intact(&block, seed);
    }
    assert!(heaps.iter().all(|heap| heap.stats().live_allocations == 0));
    let caches: usize = heaps.iter().map(|heap| heap.stats().thread_caches).sum();
    assert!((1..=32).contains(&caches), "{caches} caches");
}

#[test]
fn what_a_leak_holds_stays() {
    let heap = Heap::new("orphan").unwrap();
    let raw = Box::into_raw(Box::new_in([7_u64; 8], heap.clone()));
    assert_eq!(heap.live_bytes(), 64);
    drop(heap);
    let orphan = families().find(|family| family.name() == "orphan").expect("an orphan is listed");
    assert_eq!(orphan.stats().live_allocations, 1);
    let others: std::vec::Vec<_> = (0..100).map(|_| Box::new_in([1_u64; 8], Heap::new("after it").unwrap())).collect();
    // SAFETY: nothing has freed it, and the heap that it is in has not ended.
    assert_eq!(unsafe { raw.read() }, [7; 8]);
    drop(others);
}

/// A thread that ends before its heap, after it, and at the same time.
#[test]
fn threads_end_around_the_end_of_a_heap() {
    for round in 0..times(200) {
        let heap = Heap::new("around the end").unwrap();
        let threads: std::vec::Vec<_> = (0..3)
            .map(|_| {
                let heap = heap.clone();
                std::thread::spawn(move || {
                    for seed in 0..30 {
                        assert_intact(&filled(&heap, seed, 9), seed);
                    }
                    drop(heap);
                    // Another heap takes the dead one's place in the table.
                    let other = Heap::new("around the end").unwrap();
                    for seed in 0..30 {
                        assert_intact(&filled(&other, seed, 9), seed);
                    }
                })
            })
            .collect();
        if round % 2 == 0 {
            drop(heap);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        } else {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!((heap.stats().live_allocations, heap.stats().thread_caches), (0, 0));
        }
    }
    assert!(ends("around the end"));
}

/// Ten thousand heaps with an allocation each, and then none.
#[test]
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
fn a_heap_with_one_object_costs_eight_kibibytes() {
    child::isolated("a_heap_with_one_object_costs_eight_kibibytes", || {
        const COUNT: usize = 10_000;
        let mut heaps = std::vec::Vec::with_capacity(COUNT);
        heaps.push(Box::new_in([0_u64; 8], Heap::new("the first").unwrap()));
        let before = memory::resident_bytes();
        let mut name = String::new();
        for index in 1..COUNT {
            use std::fmt::Write as _;
            name.clear();
            write!(name, "tenant {index}").unwrap();
            heaps.push(Box::new_in([index as u64; 8], Heap::new(&name).unwrap()));
        }
        let each = (memory::resident_bytes() - before) / (COUNT - 1);
        println!("{each} bytes resident for each heap");
        assert!(each <= 8 << 10, "{each} bytes resident for each heap");
        assert!(heaps.iter().enumerate().all(|(index, boxed)| boxed[7] == index as u64));
        assert_eq!(families().count(), COUNT);
        drop(heaps);
        assert_eq!(families().count(), 0);
        // What is known of a heap waits for the next one.
        let after = memory::resident_bytes().saturating_sub(before) / COUNT;
        println!("{after} bytes resident for each heap that there was");
        assert!(after <= 4 << 10, "{after} bytes resident for each heap that there was");
    });
}

/// Heaps made, used and dropped in turn by four threads: a million in the long form.
#[test]
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
fn heaps_in_turn_leave_nothing_behind() {
    child::isolated("heaps_in_turn_leave_nothing_behind", || {
        let long = std::env::var_os("FAMILY_ALLOC_TEST_LONG").is_some();
        let count = if long { 250_000 } else { times(3000) };
        let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let mut before = None;
        for round in 0..3 {
            let threads = [0, 1, 2, 3].map(|thread| {
                std::thread::spawn(move || {
                    for index in 0..count as u64 {
                        let checks = if index % 50 == 0 { Checks::Checked } else { Checks::Default };
                        let heap = Heap::builder("in turn").checks(checks).build().unwrap();
                        let some: std::vec::Vec<_> = (0..40).map(|seed| filled(&heap, seed, 6)).collect();
                        let large = (index % 16 == 0).then(|| filled(&heap, thread, 20_000));
                        some.iter().zip(0..).for_each(|(block, seed)| assert_intact(block, seed));
                        drop((some, large));
                    }
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let now = (memory::resident_bytes(), memory::mapped_bytes(), mappings());
            println!("round {round}: {} KiB resident, {} KiB mapped, {} mappings", now.0 >> 10, now.1 >> 10, now.2);
            if let Some((resident, mapped, mappings)) = before {
                assert!(now.0 <= resident + (4 << 20), "{} KiB resident", now.0 >> 10);
                assert!(now.1 <= mapped + (64 << 20), "{} KiB mapped", now.1 >> 10);
                assert!(now.2 <= mappings + 100, "{} mappings", now.2);
            }
            before = before.or(Some(now));
        }
        assert_eq!(families().count(), 0);
    });
}

/// What a thread keeps of heaps that it has used often and left.
#[test]
#[cfg(all(target_os = "linux", not(any(miri, feature = "portable"))))]
fn a_thread_that_has_left_a_heap_keeps_little_of_it() {
    child::isolated("a_thread_that_has_left_a_heap_keeps_little_of_it", || {
        const COUNT: usize = 1000;
        let heaps: std::vec::Vec<_> = (0..COUNT).map(|_| Heap::new("left").unwrap()).collect();
        for heap in &heaps {
            let some: std::vec::Vec<_> = (0..100).map(|seed| filled(heap, seed, 8)).collect();
            drop(some);
        }
        let cached: usize = heaps.iter().map(|heap| heap.stats().cached_bytes).sum();
        let caches: usize = heaps.iter().map(|heap| heap.stats().thread_caches).sum();
        println!("{cached} bytes of slots cached of {COUNT} heaps, {caches} caches");
        assert!(caches <= 32 && cached <= 512 * COUNT, "{cached} bytes in {caches} caches");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        // The thread comes by twice: the first look says what there was, the second whether anything has happened since.
        for _ in 0..2 {
            drop(filled(&heaps[0], 1, 8));
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        drop(filled(&heaps[0], 1, 8));
        let caches: usize = heaps.iter().map(|heap| heap.stats().thread_caches).sum();
        assert!(caches <= 1, "{caches} caches of heaps that nobody has used for seconds");
    });
}

/// A block of one heap that is freed as another's.
#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn a_block_of_another_heap_is_told() {
    const TEST: &str = "a_block_of_another_heap_is_told";
    if let Some(case) = child::case() {
        let checks = if case == "default" { Checks::Default } else { Checks::Checked };
        let [mine, yours] = ["mine", "yours"].map(|name| Heap::builder(name).checks(checks).build().unwrap());
        let also = Box::new_in([0_u64; 4], yours.clone());
        let (raw, _) = Box::into_raw_with_allocator(Box::new_in([1_u64; 4], mine));
        // SAFETY: none: that is the case.
        drop(unsafe { Box::from_raw_in(raw, yours) });
        drop(also);
        return;
    }
    for case in ["default", "checked"] {
        let lines = child::assert_aborted(TEST, case).join("\n");
        assert!(lines.contains("family yours") && lines.contains("mine"), "{lines}");
    }
}

/// A child of a fork that uses and drops heaps of its parent's.
#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn a_child_goes_on_with_its_parents_heaps() {
    child::isolated("a_child_goes_on_with_its_parents_heaps", || {
        let heap = Heap::new("before the fork").unwrap();
        let block = filled(&heap, 3, 100);
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let busy = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let heap = Heap::new("busy").unwrap();
                    let some: std::vec::Vec<_> = (0..50).map(|seed| filled(&heap, seed, 8)).collect();
                    drop(some);
                }
            }
        });
        for _ in 0..times(40) {
            // SAFETY: the child makes calls of this crate and `_exit` only.
            let child = unsafe { libc::fork() };
            if child == 0 {
                assert_intact(&block, 3);
                for seed in 0..50 {
                    let heap = Heap::new("child").unwrap();
                    assert_intact(&filled(&heap, seed, 8), seed);
                    assert_intact(&filled(&block.allocator().clone(), seed, 8), seed);
                }
                // SAFETY: no preconditions.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: writes one status to a live one.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "the child has passed");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        busy.join().unwrap();
        drop(heap);
        assert_eq!(block.allocator().stats().live_allocations, 1);
    });
}
