//! Which of loom's objects stands for which place in memory.
//!
//! The crate's atomics are created by constant functions, in statics, and by memory that reads zero; loom's can be created only while a
//! model runs, and whoever touches one must come after its creation. So a model's first thread creates a pool of each kind
//! before there are others, and a place gets the next of its pool when it is first touched, which no thread can see. All
//! of the crate's atomics begin as 0, and so does the pool.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Condvar, Mutex};

/// Objects of each kind in the first execution of a model; later ones get by with little more than any one before has used.
const POOL_LENGTH: usize = 2048;
const POOL_SPARE: usize = 512;

/// A queue of threads that sleep on a word.
pub(super) struct Queue {
    pub(super) lock: Mutex<()>,
    pub(super) wake: Condvar,
}

struct Pool<T> {
    objects: Vec<Rc<T>>,
    by_address: HashMap<usize, usize>,
    most_used: usize,
}

impl<T> Pool<T> {
    fn new() -> Self {
        Self { objects: Vec::new(), by_address: HashMap::new(), most_used: POOL_LENGTH }
    }

    fn reset(&mut self, new: impl Fn() -> T) {
        if !self.by_address.is_empty() {
            let most_before = if self.objects.len() == POOL_LENGTH { 0 } else { self.most_used };
            self.most_used = most_before.max(self.by_address.len());
        }
        self.by_address.clear();
        let length = POOL_LENGTH.min(self.most_used + POOL_SPARE);
        self.objects = (0..length).map(|_| Rc::new(new())).collect();
    }

    fn at(&mut self, address: usize) -> Rc<T> {
        let next = self.by_address.len();
        let index = *self.by_address.entry(address).or_insert(next);
        let object = self.objects.get(index).expect("the pool is too small for this model");
        Rc::clone(object)
    }
}

struct Objects {
    atomics: Pool<AtomicUsize>,
    cells: Pool<UnsafeCell<()>>,
    queues: HashMap<usize, Rc<Queue>>,
}

std::thread_local! {
    static OBJECTS: RefCell<Objects> =
        RefCell::new(Objects { atomics: Pool::new(), cells: Pool::new(), queues: HashMap::new() });
}

/// Begins an execution: called by its first thread, before there are others.
pub(crate) fn reset() {
    OBJECTS.with_borrow_mut(|objects| {
        objects.atomics.reset(|| AtomicUsize::new(0));
        objects.cells.reset(|| UnsafeCell::new(()));
        objects.queues.clear();
    });
}

// No borrow is held while an object is used: loom may change to another thread then.

pub(super) fn atomic_at(address: usize) -> Rc<AtomicUsize> {
    OBJECTS.with_borrow_mut(|objects| objects.atomics.at(address))
}

pub(super) fn cell_at(address: usize) -> Rc<UnsafeCell<()>> {
    OBJECTS.with_borrow_mut(|objects| objects.cells.at(address))
}

pub(super) fn queue_at(address: usize) -> Rc<Queue> {
    let new = || Rc::new(Queue { lock: Mutex::new(()), wake: Condvar::new() });
    OBJECTS.with_borrow_mut(|objects| Rc::clone(objects.queues.entry(address).or_insert_with(new)))
}

/// The addresses of the atomics that have been touched in a range, in order.
pub(super) fn atomics_in(range: core::ops::Range<usize>) -> Vec<usize> {
    let mut touched: Vec<usize> = OBJECTS.with_borrow(|objects| {
        objects.atomics.by_address.keys().copied().filter(|address| range.contains(address)).collect()
    });
    touched.sort_unstable();
    touched
}
