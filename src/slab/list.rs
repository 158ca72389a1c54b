//! Slabs of one bin in a row, linked by their headers. Slabs that are soon to be taken from stand in front, those to give pages
//! back from at the end. All of it belongs to the bin's lock (S1).

#![forbid(unsafe_code)]

use crate::header::SlabHeader;

/// A doubly linked list. A slab is in one list at most.
pub(crate) struct SlabList {
    first: Option<&'static SlabHeader>,
    last: Option<&'static SlabHeader>,
}

impl SlabList {
    pub(crate) const fn new() -> Self {
        Self { first: None, last: None }
    }

    #[inline(always)]
    pub(crate) fn first(&self) -> Option<&'static SlabHeader> {
        self.first
    }

    pub(crate) fn last(&self) -> Option<&'static SlabHeader> {
        self.last
    }

    /// Adds a slab that is in no list.
    pub(crate) fn push_front(&mut self, slab: &'static SlabHeader) {
        slab.next.set(self.first);
        slab.previous.set(None);
        match self.first.replace(slab) {
            Some(first) => first.previous.set(Some(slab)),
            None => self.last = Some(slab),
        }
    }

    /// Removes a slab of this list.
    pub(crate) fn remove(&mut self, slab: &'static SlabHeader) {
        let (previous, next) = (slab.previous.take(), slab.next.take());
        match previous {
            Some(previous) => previous.next.set(next),
            None => self.first = next,
        }
        match next {
            Some(next) => next.previous.set(previous),
            None => self.last = previous,
        }
    }
}
