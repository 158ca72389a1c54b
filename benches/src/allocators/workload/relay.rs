//! Relay: some threads allocate, others free; a channel between them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

use super::churn::Held;
use super::memory::look;
use super::team;
use crate::meter::Meter;
use crate::random::Random;
use crate::subject::Subject;

/// How many allocations change hands at a time, so that the channel is not what is measured.
const BATCH: usize = 256;

/// Allocations on their way from one thread to another.
#[derive(Clone, Copy)]
struct Parcel([Held; BATCH]);

/// One thread allocates, the other frees; a bounded channel between them.
pub(crate) fn producer_consumer<S: Subject>(meter: &mut Meter) {
    meter.ready();
    let batches = meter.pick(2000, 16_000);
    for _ in 0..meter.pick(3, 8) {
        relay::<S>(meter, "64 B", batches, |_| 64);
        relay::<S>(meter, "8 to 512 B", batches, |random| random.size(512));
    }
}

fn relay<S: Subject>(meter: &mut Meter, cell: &str, batches: usize, size: impl Fn(&mut Random) -> usize + Sync) {
    let (full_sender, full_receiver) = mpsc::sync_channel::<Box<Parcel>>(16);
    let (empty_sender, empty_receiver) = mpsc::sync_channel::<Box<Parcel>>(32);
    for _ in 0..24 {
        empty_sender.send(Box::new(Parcel([Held::NONE; BATCH]))).expect("room for all");
    }
    let ends = Mutex::new((Some((full_sender, empty_receiver)), Some((full_receiver, empty_sender))));
    team::run(meter, cell, 2, 2 * batches * BATCH, |index, team| {
        if index == 0 {
            let (full, empty) = ends.lock().expect("nobody panics").0.take().expect("one producer");
            team.timed(|| {
                let mut random = Random::new(11);
                for _ in 0..batches {
                    let mut parcel = empty.recv().expect("the consumer returns them");
                    parcel.0.fill_with(|| Held::new::<S>(size(&mut random)));
                    full.send(parcel).expect("the consumer is there");
                }
                drop(full);
            });
            drop(empty);
        } else {
            let (full, empty) = ends.lock().expect("nobody panics").1.take().expect("one consumer");
            team.timed(|| {
                for parcel in &full {
                    free_parcel::<S>(&parcel);
                    // The producer may have gone with enough parcels in hand.
                    let _ = empty.send(parcel);
                }
            });
        }
    });
}

fn free_parcel<S: Subject>(parcel: &Parcel) {
    for held in &parcel.0 {
        // SAFETY: live and touched by the producer.
        unsafe { look(held.ptr) };
        // SAFETY: live, made by `Held::new`, sent once.
        unsafe { held.free::<S>() };
    }
}

/// Several threads allocate and several free, whoever comes first, batch by batch: xmalloc-test of the mimalloc bench suite.
pub(crate) fn xmalloc<S: Subject>(meter: &mut Meter) {
    const SIDES: usize = 2;
    meter.ready();
    let batches = meter.pick(500, 4000);
    for _ in 0..meter.pick(3, 8) {
        let (sender, receiver) = mpsc::sync_channel::<Vec<Held>>(16);
        let receiver = Mutex::new(receiver);
        let sender = Mutex::new(Some(sender));
        let producers_left = AtomicUsize::new(SIDES);
        let operations = 2 * SIDES * batches * BATCH;
        team::run(meter, "2 + 2 threads, 8 to 512 B", 2 * SIDES, operations, |index, team| {
            if index < SIDES {
                let mine = sender.lock().expect("nobody panics").clone().expect("the last producer drops it");
                team.timed(|| {
                    let mut random = Random::new(13 + index as u64);
                    for _ in 0..batches {
                        let batch = (0..BATCH).map(|_| Held::new::<S>(random.size(512))).collect();
                        mine.send(batch).expect("consumers are there");
                    }
                    drop(mine);
                    if producers_left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        *sender.lock().expect("nobody panics") = None;
                    }
                });
            } else {
                team.timed(|| {
                    while let Some(batch) = receive(&receiver) {
                        for held in batch {
                            // SAFETY: live, made by `Held::new`, sent once.
                            unsafe { held.free::<S>() };
                        }
                    }
                });
            }
        });
    }
}

fn receive<T>(receiver: &Mutex<mpsc::Receiver<T>>) -> Option<T> {
    receiver.lock().expect("nobody panics").recv().ok()
}
