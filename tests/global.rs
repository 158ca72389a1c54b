//! A family as the `#[global_allocator]` of a program that is busy on many threads: this one, with its test harness.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, mpsc};

use family_alloc::{Family, families, family};

family! {
    struct Global;
    struct Beside;
}

#[global_allocator]
static GLOBAL: Global = Global;

/// Words with their counts, as many as `count`, from a sequence that anybody can repeat.
fn words(thread: usize, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |index| format!("word-{}", (index * index + thread) % 997))
}

fn count_words(threads: usize, count: usize) -> BTreeMap<String, usize> {
    let (sender, receiver) = mpsc::channel::<HashMap<String, usize>>();
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for _ in 0..4 {
                    let mut counts = HashMap::new();
                    for word in words(thread, count) {
                        *counts.entry(word).or_insert(0) += 1;
                    }
                    sender.send(counts).expect("somebody listens");
                }
            })
        })
        .collect();
    drop(sender);
    let mut sum = BTreeMap::new();
    for (word, count) in receiver.into_iter().flatten() {
        *sum.entry(word).or_insert(0) += count;
    }
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    sum
}

#[test]
fn a_busy_program_counts_right() {
    let sum = count_words(4, 5000);
    assert_eq!(sum.values().sum::<usize>(), 4 * 4 * 5000);
    for (word, expected) in [("word-0", 0), ("word-1", 1), ("word-996", 996)] {
        let by_hand: usize =
            (0..4).map(|thread| (0..5000).filter(|index| (index * index + thread) % 997 == expected).count()).sum();
        assert_eq!(sum.get(word).copied().unwrap_or(0), 4 * by_hand, "{word}");
    }
    let stats = Global::stats();
    assert!(stats.live_allocations >= sum.len(), "the words are in the family: {stats}");
    assert!(families().any(|family| family.name() == "Global"));
}

#[test]
fn what_threads_share_outlives_them() {
    let shared = Arc::new(Mutex::new(VecDeque::<Arc<str>>::new()));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for step in 0..5000 {
                    let mut queue = shared.lock().expect("no panic");
                    queue.push_back(Arc::from(format!("{thread} {step}")));
                    if step % 3 > 0 {
                        drop(queue.pop_front());
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let queue = shared.lock().expect("no panic");
    assert_eq!(queue.len(), 4 * 5000 - 4 * (5000 - 5000_usize.div_ceil(3)));
    assert!(queue.iter().all(|text| text.split(' ').count() == 2));
}

#[test]
fn strings_and_vectors_grow_through_every_size() {
    let mut text = String::new();
    let mut numbers = Vec::new();
    for number in 0..400_000_u32 {
        numbers.push(number);
        if number % 4 == 0 {
            text.push(char::from(b'a' + (number / 4 % 26) as u8));
        }
    }
    assert!(numbers.iter().copied().eq(0..400_000));
    assert!(text.bytes().enumerate().all(|(index, byte)| byte == b'a' + (index % 26) as u8));
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let zeroed = vec![0_u8; 10 << 20];
    assert!(zeroed.chunks(4096).all(|page| page == [0; 4096]));
}

#[test]
#[cfg_attr(not(panic = "unwind"), ignore = "panics end the program")]
fn panics_unwind_and_free_on_the_way() {
    for size in [10, 1000, 100_000, 3 << 20] {
        let caught = std::panic::catch_unwind(|| {
            let held = vec![1_u8; size];
            let text = "this panic is part of the test".repeat(held.len() / held.len());
            std::panic::resume_unwind(Box::new(text));
        });
        let text = caught.expect_err("it panicked").downcast::<String>().expect("a text");
        assert_eq!(*text, "this panic is part of the test");
    }
}

#[test]
fn another_family_stands_beside_it() {
    let memory = Beside::malloc(1000);
    let before = Beside::stats();
    let noise: Vec<Box<[u8; 1000]>> = (0..100).map(|_| Box::new([1; 1000])).collect();
    let after = Beside::stats();
    assert_eq!((before.live_bytes, after.live_bytes), (1024, 1024));
    drop(noise);
    // SAFETY: allocated above with this size.
    unsafe { Beside::free(memory, 1000) };
    assert_eq!(Beside::stats().live_allocations, 0);
}
