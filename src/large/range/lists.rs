//! The lists that runs stand in: bins by length, the order of age, the order of addresses, and places without a run.
//!
//! A run that is moved, cut or joined stands in no bin and no order of age meanwhile.

#![forbid(unsafe_code)]

use super::{BUCKET_PAGES, Bins, Id, NONE, Range, Run, State, bin_of};

impl Range {
    pub(super) fn bins(&mut self, state: State) -> &mut Bins {
        if state == State::Dirty { &mut self.dirty } else { &mut self.clean }
    }

    pub(super) fn put_in_bin(&mut self, id: Id) {
        let Run { pages, state, .. } = *self.run(id);
        if state == State::Dirty {
            self.dirty_pages += pages;
        }
        let bin = bin_of(pages);
        let bins = self.bins(state);
        let next = core::mem::replace(&mut bins.heads[bin], id);
        bins.filled |= 1 << bin;
        let run = self.run_mut(id);
        (run.previous, run.next) = (NONE, next);
        if next != NONE {
            self.run_mut(next).previous = id;
        }
    }

    pub(super) fn take_out_of_bin(&mut self, id: Id) {
        let Run { pages, state, previous, next, .. } = *self.run(id);
        if state == State::Dirty {
            self.dirty_pages -= pages;
        }
        if next != NONE {
            self.run_mut(next).previous = previous;
        }
        if previous != NONE {
            self.run_mut(previous).next = next;
            return;
        }
        let bin = bin_of(pages);
        let bins = self.bins(state);
        bins.heads[bin] = next;
        if next == NONE {
            bins.filled &= !(1 << bin);
        }
    }

    /// Puts a dirty run behind one in the order of age; behind [`NONE`] it is the oldest.
    pub(super) fn put_behind(&mut self, older: Id, id: Id) {
        let newer = if older == NONE { self.oldest } else { self.run(older).newer };
        let run = self.run_mut(id);
        (run.older, run.newer) = (older, newer);
        match older {
            NONE => self.oldest = id,
            _ => self.run_mut(older).newer = id,
        }
        match newer {
            NONE => self.newest = id,
            _ => self.run_mut(newer).older = id,
        }
    }

    pub(super) fn take_out_of_order(&mut self, id: Id) {
        let Run { older, newer, .. } = *self.run(id);
        match older {
            NONE => self.oldest = newer,
            _ => self.run_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.run_mut(newer).older = older,
        }
    }

    /// Takes a free run out of its lists.
    pub(super) fn unlist(&mut self, id: Id) {
        self.take_out_of_bin(id);
        if self.run(id).state == State::Dirty {
            self.take_out_of_order(id);
        }
    }

    /// The dirty run that was freed first.
    pub(in super::super) fn oldest(&self) -> Option<(Id, u64)> {
        (self.oldest != NONE).then(|| (self.oldest, self.run(self.oldest).since))
    }

    pub(super) fn new_place(&mut self) -> Id {
        self.places -= 1;
        match self.unused {
            NONE => {
                self.fresh += 1;
                (self.fresh - 1) as Id
            }
            id => {
                self.unused = self.run(id).next;
                id
            }
        }
    }

    pub(super) fn give_place(&mut self, id: Id) {
        self.places += 1;
        *self.run_mut(id) = Run {
            state: State::Unused,
            next: self.unused,
            grows: false,
            is_cleared: false,
            since: 0,
            first: 0,
            pages: 0,
            before: NONE,
            after: NONE,
            previous: NONE,
            older: NONE,
            newer: NONE,
        };
        self.unused = id;
    }

    /// Notes in its bucket that a run begins where it does.
    pub(super) fn note_first(&mut self, id: Id) {
        let bucket = self.run(id).first as usize / BUCKET_PAGES;
        let first = self.firsts[bucket];
        if first == NONE || self.run(first).first > self.run(id).first {
            self.firsts[bucket] = id;
        }
    }

    /// Takes a run out of its bucket; its neighbours are as they were.
    pub(super) fn forget_first(&mut self, id: Id) {
        let bucket = self.run(id).first as usize / BUCKET_PAGES;
        if self.firsts[bucket] == id {
            let after = self.run(id).after;
            let stays = after != NONE && self.run(after).first as usize / BUCKET_PAGES == bucket;
            self.firsts[bucket] = if stays { after } else { NONE };
        }
    }

    /// Adds a run behind another, or before all others, in no list yet.
    pub(super) fn insert_after(&mut self, before: Id, first: u32, pages: u32, state: State, since: u64) -> Id {
        let id = self.new_place();
        // What lies before all others is added to an empty range only.
        let after = if before == NONE { NONE } else { self.run(before).after };
        *self.run_mut(id) = Run {
            since,
            first,
            pages,
            before,
            after,
            previous: NONE,
            next: NONE,
            older: NONE,
            newer: NONE,
            state,
            grows: false,
            is_cleared: false,
        };
        if before != NONE {
            self.run_mut(before).after = id;
        }
        match after {
            NONE => self.last = id,
            _ => self.run_mut(after).before = id,
        }
        self.note_first(id);
        id
    }

    /// Takes a run, in no list, out of the order of addresses.
    pub(super) fn remove(&mut self, id: Id) {
        self.forget_first(id);
        let Run { before, after, .. } = *self.run(id);
        if before != NONE {
            self.run_mut(before).after = after;
        }
        match after {
            NONE => self.last = before,
            _ => self.run_mut(after).before = before,
        }
        self.give_place(id);
    }

    /// Cuts a run, in no list, into its first pages and the rest, which becomes another of its state.
    pub(super) fn cut(&mut self, id: Id, pages: u32) -> Id {
        let Run { first, pages: all, state, since, .. } = *self.run(id);
        self.run_mut(id).pages = pages;
        self.insert_after(id, first + pages, all - pages, state, since)
    }

    /// Adds the run behind to a run; both are in no list.
    pub(super) fn join(&mut self, id: Id, behind: Id) {
        let Run { pages, .. } = *self.run(behind);
        self.remove(behind);
        self.run_mut(id).pages += pages;
    }
}
