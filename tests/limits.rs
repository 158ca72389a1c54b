//! Limits: never above, never stuck below, nothing charged at the end.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::times;
use family_alloc::{Checks, Classes, Family, Heap, HeapError, Vec, families, family, last_refusal};

fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 11) as usize
}

fn block(heap: &Heap, bytes: usize) -> Option<Vec<u8, Heap>> {
    let mut block = Vec::new_in(heap.clone());
    block.try_reserve_exact(bytes).ok().map(|()| block)
}

/// As many blocks of so many bytes as there is room for.
fn fill(heap: &Heap, bytes: usize) -> std::vec::Vec<Vec<u8, Heap>> {
    std::iter::from_fn(|| block(heap, bytes)).collect()
}

#[test]
fn a_limit_is_reached_and_not_passed() {
    for checks in [Checks::Unchecked, Checks::Default, Checks::Checked, Checks::Hardened] {
        for (bytes, limit) in [(16, 4096), (64, 64 << 10), (1000, 1 << 20), (20_000, 1 << 20), (100_000, 4 << 20)] {
            let heap = Heap::builder("limited").limit(limit).checks(checks).build().unwrap();
            for _ in 0..3 {
                let all = fill(&heap, bytes);
                let held: usize = heap.stats().live_bytes;
                assert!(heap.charged_bytes() <= limit, "{checks:?}, {bytes}: {} bytes charged", heap.charged_bytes());
                assert!(held <= limit && held + 2 * bytes.max(4096) > limit, "{checks:?}, {bytes}: {held} of {limit}");
                let refusal = last_refusal().expect("the limit has refused");
                assert_eq!((refusal.limit.name(), refusal.limit_bytes), ("limited", limit));
                assert!(refusal.asked_bytes >= bytes && refusal.charged_bytes <= limit);
                drop(all);
            }
            heap.trim();
            assert_eq!(heap.charged_bytes(), 0, "{checks:?}, {bytes}");
        }
    }
}

/// What a thread has cached of one class makes room for another.
#[test]
fn a_cache_is_given_back_before_anything_is_refused() {
    const LIMIT: usize = 256 << 10;
    let heap = Heap::builder("cached").limit(LIMIT).build().unwrap();
    for _ in 0..20 {
        drop(fill(&heap, 64));
        let large = block(&heap, LIMIT - 4096).expect("all of it is free");
        drop(large);
        let other = fill(&heap, 1024);
        assert!(other.len() * 1024 > LIMIT - 4096, "{} blocks", other.len());
    }
}

#[test]
fn a_limit_can_be_changed() {
    let heap = Heap::new("changed").unwrap();
    assert_eq!(heap.limit(), None);
    let all: std::vec::Vec<_> = (0..100).map(|_| block(&heap, 4096).unwrap()).collect();
    heap.trim();
    assert_eq!(heap.charged_bytes(), 100 * 4096);
    heap.set_limit(Some(50 * 4096));
    assert!(block(&heap, 1).is_none(), "what is above the limit stays, and there is no more");
    drop(all);
    assert_eq!(fill(&heap, 4096).len(), 50);
    heap.set_limit(None);
    assert!(block(&heap, 1 << 20).is_some());
}

#[test]
fn a_family_is_declared_with_a_limit() {
    family! {
        struct Limited { limit: 256 << 10 }
        struct Free;
    }
    assert_eq!((Limited::limit(), Free::limit()), (Some(256 << 10), None));
    let mut v = Vec::<u8, _>::new_in(Limited);
    assert!(v.try_reserve(300 << 10).is_err() && v.try_reserve(200 << 10).is_ok());
    assert_eq!(last_refusal().unwrap().limit.path(), Limited::PATH);
    Limited::set_limit(None);
    assert!(v.try_reserve(1 << 20).is_ok());
}

#[test]
fn growth_is_charged_where_it_is() {
    let heap = Heap::builder("growth").limit(8 << 20).build().unwrap();
    let mut one = block(&heap, 1 << 20).unwrap();
    one.resize(1 << 20, 7);
    for mib in [2, 4, 3, 6, 1, 5] {
        one.truncate(mib << 20);
        one.shrink_to_fit();
        _ = one.try_reserve_exact((mib << 20) - one.len());
        assert!(heap.charged_bytes() <= 8 << 20, "{} bytes charged", heap.charged_bytes());
        assert!(heap.charged_bytes() >= one.capacity(), "{} bytes charged", heap.charged_bytes());
    }
    assert!(one.try_reserve_exact(9 << 20).is_err());
    assert!(one.iter().all(|byte| *byte == 7));
    drop(one);
    assert_eq!(heap.charged_bytes(), 0);
}

#[test]
fn parents_are_charged_and_have_the_last_word() {
    family! { struct Process; }
    let each = 60_000_usize.next_multiple_of(common::memory::page_bytes());
    let (half, rest_count) = ((512 << 10) / each, (1 << 20) / each - (512 << 10) / each);
    Process::set_limit(Some(1 << 20));
    let tenant = Heap::builder("tenant").limit(512 << 10).parent(&Process).build().unwrap();
    let query = Heap::builder("query").parent(&tenant).build().unwrap();
    assert_eq!(Heap::builder("too much").limit(2 << 20).parent(&Process).build(), Err(HeapError::OverParent));
    let other = Heap::builder("other").parent(&Process).build().unwrap();
    let held = fill(&query, each);
    assert_eq!((held.len(), last_refusal().unwrap().limit.name()), (half, "tenant"));
    assert_eq!(
        (tenant.charged_bytes(), query.charged_bytes(), Process::charged_bytes()),
        (half * each, half * each, half * each)
    );
    let rest = fill(&other, each);
    assert_eq!((rest.len(), last_refusal().unwrap().limit.name()), (rest_count, "Process"));
    let largest = last_refusal().unwrap().largest().map(|family| family.map_or("", |family| family.name()));
    assert!(largest.iter().all(|name| ["tenant", "query", "other"].contains(name)), "{largest:?}");
    assert!(Vec::<u8, _>::new_in(Process).try_reserve(each).is_err());
    // A parent lives for as long as its heaps.
    drop(tenant);
    assert!(families().any(|family| family.name() == "tenant"));
    drop((held, query));
    assert!(families().all(|family| family.name() != "tenant"));
    assert_eq!(Process::charged_bytes(), rest_count * each);
    drop((rest, other));
    assert_eq!(Process::charged_bytes(), 0);
}

/// Random trees of heaps, limits and threads, with a watcher: at no moment is anything above its limit, whoever has freed all
/// comes to its limit again, and nothing is charged at the end.
#[test]
fn random_trees_of_limits_hold() {
    for seed in 1..=times(12) as u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let root = Heap::builder("root").limit((1 + next(&mut random) % 4) << 20).build().unwrap();
        let mut heaps = vec![root.clone()];
        for _ in 0..1 + next(&mut random) % 12 {
            let parent = heaps[next(&mut random) % heaps.len()].clone();
            let classes = if next(&mut random) % 3 == 0 { Classes::Spaced } else { Classes::Natural };
            let mut builder = Heap::builder("node").classes(classes).parent(&parent);
            if next(&mut random) % 2 == 0 {
                let most = parent.limit().unwrap_or(1 << 20);
                builder = builder.limit((next(&mut random) % most).max(4096));
            }
            let node = builder.build().unwrap();
            heaps.push(node);
        }
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    for heap in &heaps {
                        let (charged, limit) = (heap.charged_bytes(), heap.limit().unwrap_or(usize::MAX));
                        assert!(charged <= limit, "{charged} bytes charged of {limit}");
                    }
                    std::thread::yield_now();
                }
            });
            let workers = [1, 2, 3].map(|worker| {
                let (mut random, heaps) = (random ^ worker << 17, &heaps);
                scope.spawn(move || {
                    let mut live = std::vec::Vec::new();
                    for _ in 0..times(3000) {
                        let heap = &heaps[next(&mut random) % heaps.len()];
                        let bytes = 1 + next(&mut random) % [100, 5000, 60_000, 300_000][next(&mut random) % 4];
                        match next(&mut random) % 3 {
                            0 if !live.is_empty() => drop(live.swap_remove(next(&mut random) % live.len())),
                            1 if !live.is_empty() => {
                                let place = next(&mut random) % live.len();
                                let block: &mut Vec<u8, Heap> = &mut live[place];
                                _ = block.try_reserve_exact(bytes);
                            }
                            _ => live.extend(block(heap, bytes)),
                        }
                    }
                })
            });
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            is_done.store(true, Relaxed);
        });
        // The workers' caches are back, and this thread has none: all there is to have can be had.
        for heap in &heaps {
            assert_eq!(heap.charged_bytes(), 0, "seed {seed}");
        }
        let all = fill(&root, 4096);
        assert_eq!(all.len(), root.limit().unwrap() / 4096, "seed {seed}");
        drop(all);
        root.trim();
        assert_eq!(root.charged_bytes(), 0, "seed {seed}");
    }
}
