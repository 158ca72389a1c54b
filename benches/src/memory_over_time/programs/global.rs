//! Programs whose every allocation is made by the measured allocator, with collections and threads as programs have them.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use super::Settings;
use super::threads::spawn;
use crate::heap::Heap;
use crate::moments::Moments;
use crate::random::Random;

pub(super) fn blocking_pool(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let count = settings.count(300);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(count)
        .thread_keep_alive(Duration::from_millis(200))
        .build()
        .expect("a runtime");
    for round in 0..3 {
        let barrier = Arc::new(Barrier::new(count));
        let tasks: Vec<_> = (0..count)
            .map(|task| {
                let (barrier, mut random) = (barrier.clone(), settings.random_of(task));
                runtime.spawn_blocking(move || {
                    let mut bytes = 0;
                    let texts = answers(&mut random, 200, &mut bytes);
                    // All threads of the pool are there at once.
                    barrier.wait();
                    let buffer = vec![1_u8; 256 << 10];
                    (texts, buffer)
                })
            })
            .collect();
        let results: Vec<_> =
            runtime.block_on(async { futures(tasks).await }).into_iter().map(|(texts, _)| texts).collect();
        moments.note(["first pool", "second pool", "third pool"][round]);
        drop(results);
        thread::sleep(Duration::from_millis(400));
    }
    moments.note("all gone");
    thread::sleep(settings.seconds(3));
    let mut random = settings.random();
    for _ in 0..settings.count(2000) {
        let mut bytes = 0;
        let task = answers(&mut random, 20, &mut bytes);
        runtime.block_on(async { tokio::task::yield_now().await });
        drop(task);
        thread::sleep(settings.seconds(2) / 2000);
    }
    moments.note("at rest");
    heap.trim();
    moments.note("trim");
}

/// The results of all tasks.
async fn futures<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.expect("no panic"));
    }
    results
}

/// Texts of some lines.
fn answers(random: &mut Random, count: usize, bytes: &mut usize) -> Vec<String> {
    (0..count)
        .map(|number| {
            let mut text = String::new();
            for line in 0..random.between(1, 20) {
                let _ = writeln!(text, "{number}.{line}: {}", random.next());
            }
            *bytes += text.len();
            text
        })
        .collect()
}

pub(super) fn map_dropped(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    let limit = settings.count(200 << 20);
    let mut random = settings.random();
    let mut map: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut bytes = 0;
    let mut next = 0_u64;
    let mut oldest = 0_u64;
    while next < settings.count(400_000) as u64 {
        let size = random.size(4096);
        bytes += size;
        map.insert(next, vec![1; size]);
        next += 1;
        // Most entries live for long, some are replaced at once.
        if random.below(4) == 0 {
            bytes -= map.remove(&(next - 1)).map_or(0, |entry| entry.len());
        }
        while bytes > limit {
            bytes -= map.remove(&oldest).map_or(0, |entry| entry.len());
            oldest += 1;
        }
    }
    moments.note("peak");
    drop(map);
    moments.note("dropped");
    thread::sleep(settings.seconds(2));
    let mut total = 0;
    for _ in 0..300 {
        drop(answers(&mut random, 10, &mut total));
        thread::sleep(settings.seconds(3) / 300);
    }
    moments.note("dropped, light load of 3 s");
    heap.trim();
    moments.note("trim");
}

/// A request's answer: some parts in order, with a list each.
fn request(random: &mut Random) -> BTreeMap<String, Vec<String>> {
    let mut bytes = 0;
    (0..random.between(1, 12)).map(|part| (format!("part {part}"), answers(random, 8, &mut bytes))).collect()
}

pub(super) fn service_dropped(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    const THREADS: usize = 8;
    let sessions = Arc::new(Mutex::new(HashMap::new()));
    let handles: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (sessions, mut random, count) = (sessions.clone(), settings.random_of(thread), settings.count(4000));
            spawn(move || {
                for number in 0..count {
                    let answer = request(&mut random);
                    if number % 4 == 0 {
                        let mut sessions = sessions.lock().expect("no panic");
                        sessions.insert(random.below(10_000), answer);
                    }
                }
            })
        })
        .collect();
    handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
    moments.note("peak");
    *sessions.lock().expect("no panic") = HashMap::new();
    moments.note("dropped");
    let mut random = settings.random();
    for _ in 0..300 {
        drop(request(&mut random));
        thread::sleep(settings.seconds(3) / 300);
    }
    moments.note("dropped, light load of 3 s");
    heap.trim();
    moments.note("trim");
}

pub(super) fn tables_dropped(heap: &Heap, settings: &Settings, moments: &mut Moments) {
    for round in 0..6_u64 {
        let mut table: hashbrown::HashMap<u64, [u64; 3], std::hash::RandomState> = hashbrown::HashMap::default();
        for key in 0..settings.count(1_000_000) as u64 {
            table.insert(key, [round; 3]);
        }
        if round == 5 {
            moments.note("peak");
        }
    }
    moments.note("dropped");
    thread::sleep(settings.seconds(2));
    let mut random = settings.random();
    for _ in 0..300 {
        drop(request(&mut random));
        thread::sleep(settings.seconds(3) / 300);
    }
    moments.note("dropped, light load of 3 s");
    heap.trim();
    moments.note("trim");
}
