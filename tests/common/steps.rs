//! Steps of random sequences, and what such a sequence holds.

use std::alloc::Layout;

use super::doors::Doors;
use super::shadow::{Model, Slot};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Allocate { doors: &'static Doors, layout: Layout, zeroed: bool, count: usize },
    Free { place: usize, fraction: u8, count: usize },
    Resize { place: usize, fraction: u8, layout: Layout, zeroed: bool },
    Trim { doors: &'static Doors },
}

/// What a sequence of steps holds: live slots in no order, and their model.
pub(crate) struct Holdings {
    pub(crate) live: Vec<Slot>,
    pub(crate) model: Model,
    seed: usize,
    ends: usize,
}

impl Holdings {
    /// Nothing. Of contents longer than twice `ends`, only so many bytes at each end are written and looked at.
    pub(crate) fn new(ends: usize) -> Self {
        Self { live: Vec::new(), model: Model::default(), seed: 0, ends }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match *step {
            Step::Allocate { doors, layout, zeroed, count } => {
                for _ in 0..count {
                    self.seed += 1;
                    let slot = Slot::allocate(doors, layout, zeroed, (self.seed, self.ends));
                    self.model.insert(&slot);
                    self.live.push(slot);
                }
            }
            Step::Free { place, fraction, count } => {
                for _ in 0..count.min(self.live.len()) {
                    self.take(place % self.live.len()).deallocate(fraction);
                }
            }
            Step::Resize { place, fraction, layout, zeroed } if !self.live.is_empty() => {
                let place = place % self.live.len();
                // Both ends may exist at once while the contents move, so the old one leaves the model first.
                self.model.remove(&self.live[place]);
                let resized = self.live[place].resize(fraction, layout, zeroed);
                self.model.insert(&resized);
                self.live[place] = resized;
            }
            Step::Resize { .. } => {}
            Step::Trim { doors } => {
                (doors.trim)();
            }
        }
    }

    /// Removes a slot, for the caller to free.
    pub(crate) fn take(&mut self, place: usize) -> Slot {
        let slot = self.live.swap_remove(place);
        self.model.remove(&slot);
        slot
    }
}
