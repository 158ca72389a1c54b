//! Several threads, one at a time: the bytes say who does the next step, so that an input does the same whenever it runs. What one
//! thread allocated, any other resizes and frees. Threads end, some freeing and allocating in a destructor that runs after the
//! families have taken the thread's caches back.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use arbitrary::Result;

use crate::common::doors::Doors;
use crate::common::shadow::{Slot, check_counters};
use crate::common::steps::{Holdings, Step};
use crate::common::worker::Worker;
use crate::input::{ENDS, Input};
use crate::operations::assert_gone;

const THREADS: usize = 4;

/// The threads, for all executions of this process.
static CREW: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// Frees slots when the thread ends. Made before the thread first uses a family, so it is destroyed after the thread's caches.
struct Parting(Vec<Slot>);

impl Drop for Parting {
    fn drop(&mut self) {
        for slot in std::mem::take(&mut self.0) {
            slot.deallocate(0);
            Slot::allocate(slot.doors, slot.layout, true, (slot.seed, ENDS)).deallocate(u8::MAX);
        }
    }
}

thread_local! {
    static PARTING: RefCell<Parting> = const { RefCell::new(Parting(Vec::new())) };
}

fn start() -> Worker {
    let worker = Worker::start();
    worker.call(|| PARTING.with_borrow(|_| ()));
    worker
}

/// What one of the threads does next.
enum Turn {
    Step(Step),
    /// Ends, and frees so many slots while it does.
    End(usize),
}

fn turn(input: &mut Input<'_>) -> Result<(usize, Turn)> {
    if input.is_empty() {
        return Err(arbitrary::Error::NotEnoughData);
    }
    let choice = input.below(64)?;
    let turn = if choice < 60 { Turn::Step(input.step()?) } else { Turn::End(input.below(8)?) };
    Ok((choice % THREADS, turn))
}

/// Runs the turns that the bytes say; panics if a promise is broken. Returns how often the thread changed.
pub fn schedules(data: &[u8]) -> usize {
    let mut input = Input::new(data);
    let mut crew = CREW.lock().unwrap_or_else(PoisonError::into_inner);
    crew.resize_with(THREADS, start);
    let mut run = Run { crew: &mut crew, holdings: Box::new(Holdings::new(ENDS)), used: [false; THREADS], changes: 0 };
    let (mut steps, mut current) = (Vec::new(), 0);
    while let Ok((thread, turn)) = turn(&mut input) {
        if thread != current {
            run.steps(current, std::mem::take(&mut steps));
            current = thread;
        }
        match turn {
            Turn::Step(step) => steps.push(step),
            Turn::End(count) => {
                run.steps(thread, std::mem::take(&mut steps));
                run.end(thread, count);
            }
        }
    }
    run.steps(current, steps);
    let used: Vec<_> = input.used().collect();
    used.iter().for_each(|doors| check_counters(doors, &run.holdings.live));
    run.free_all(&used);
    used.into_iter().for_each(assert_gone);
    run.changes
}

struct Run<'a> {
    crew: &'a mut [Worker],
    /// Whatever is allocated, wherever it is.
    holdings: Box<Holdings>,
    used: [bool; THREADS],
    changes: usize,
}

impl Run<'_> {
    /// Lets a thread do something with the holdings, and waits for it.
    fn on<T: Send + 'static>(&mut self, thread: usize, work: impl FnOnce(&mut Holdings) -> T + Send + 'static) -> T {
        let mut holdings = std::mem::replace(&mut self.holdings, Box::new(Holdings::new(ENDS)));
        let (holdings, result) = self.crew[thread].call(move || {
            let result = work(&mut holdings);
            (holdings, result)
        });
        self.holdings = holdings;
        self.used[thread] = true;
        self.changes += 1;
        result
    }

    fn steps(&mut self, thread: usize, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.on(thread, move |holdings| steps.iter().for_each(|step| holdings.step(step)));
        }
    }

    /// Ends a thread, which frees the last `count` slots at its end, and starts another one in its place.
    fn end(&mut self, thread: usize, count: usize) {
        self.on(thread, move |holdings| {
            let slots = (0..count.min(holdings.live.len())).map(|_| holdings.take(holdings.live.len() - 1)).collect();
            PARTING.set(Parting(slots));
        });
        std::mem::replace(&mut self.crew[thread], start()).end();
        self.used[thread] = false;
    }

    /// Each of the threads that were used frees its share of what is left, and gives back what it has cached.
    fn free_all(&mut self, families: &[&'static Doors]) {
        let mut threads: Vec<_> = (0..THREADS).filter(|&thread| self.used[thread]).collect();
        if threads.is_empty() {
            threads.push(0);
        }
        let share = self.holdings.live.len().div_ceil(threads.len());
        for thread in threads {
            let families = families.to_vec();
            self.on(thread, move |holdings| {
                for index in 0..share.min(holdings.live.len()) {
                    holdings.take(0).deallocate(index as u8);
                }
                families.iter().for_each(|doors| _ = (doors.trim)());
            });
        }
    }
}
