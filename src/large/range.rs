//! One reserved range of a family, filled from the bottom with runs of pages.
//!
//! ```text
//!   start              top         committed              end
//!     │ live │ dirty │ live ░ never used ░│▒ not accessible ▒│
//!       run     run     run
//! ```
//!
//! What is known of the range stands apart from it, in its *side*: each run in address order, the free ones also in bins by
//! length, the dirty ones also by age. A run is found by its first page: for each [`BUCKET_PAGES`] the side has the first run that
//! begins there, and a few steps from there lead to it.
//!
//! **R1** Runs tile what lies below `top`, and all of that is committed; where what is purged is decommitted, live ones are. **R2** No two neighbours are both dirty or both clean, and
//! the last is not clean. **R3** What is clean or lies above `top` reads zero once committed. **R4** A page is marked in `freed`
//! exactly if an allocation that began there was freed and the page was not handed out since.

#![forbid(unsafe_code)]

mod lists;
#[cfg(test)]
mod tests;

use super::run::{BIN_COUNT, Bins, Id, LOOKS, NONE, Run, State, bin_of};
use crate::os;

/// Pages of a bucket.
pub(super) const BUCKET_PAGES: usize = 32;
/// Room that is left behind what has grown, at least.
const ROOM_BYTES: usize = 2 << 20;

/// What stands in a range's side besides the arrays, and the arrays.
pub(super) struct Range {
    /// Where it begins.
    pub(super) start: usize,
    pub(super) pages: u32,
    /// Pages that may be used, from the start on.
    pub(super) committed: u32,
    /// Pages that runs have, from the start on.
    pub(super) top: u32,
    /// The run before `top`.
    last: Id,
    /// Places that were used before, places that never were, and how many both are.
    unused: Id,
    fresh: u32,
    places: u32,
    pub(super) dirty: Bins,
    pub(super) clean: Bins,
    /// Pages of all dirty runs, and of those that were cleared.
    pub(super) dirty_pages: u32,
    pub(super) cleared_pages: u32,
    oldest: Id,
    newest: Id,
    /// Whether it is on its way back to the system, with nothing in it.
    pub(super) is_leaving: bool,
    /// The huge pages that are advised to be such, from the one that `start` lies in on.
    pub(super) advised: u128,
    pub(super) side_bytes: usize,
    /// Index 0 is no run.
    runs: &'static mut [Run],
    firsts: &'static mut [Id],
    freed: &'static mut [u64],
}

/// What became of a wish for pages above `top`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Above {
    Taken(Id),
    /// Pages that must be committed first.
    Commit(u32),
    NoRoom,
}

impl Range {
    pub(super) fn new(
        start: usize,
        pages: u32,
        side_bytes: usize,
        runs: &'static mut [Run],
        firsts: &'static mut [Id],
        freed: &'static mut [u64],
    ) -> Self {
        Self {
            start,
            pages,
            committed: 0,
            top: 0,
            last: NONE,
            unused: NONE,
            fresh: 1,
            places: runs.len() as u32 - 1,
            dirty: Bins::EMPTY,
            clean: Bins::EMPTY,
            dirty_pages: 0,
            cleared_pages: 0,
            oldest: NONE,
            newest: NONE,
            is_leaving: false,
            advised: 0,
            side_bytes,
            runs,
            firsts,
            freed,
        }
    }

    pub(super) fn run(&self, id: Id) -> &Run {
        &self.runs[id as usize]
    }

    fn run_mut(&mut self, id: Id) -> &mut Run {
        &mut self.runs[id as usize]
    }

    pub(super) fn address(&self, id: Id) -> usize {
        self.start + self.run(id).first as usize * os::page_bytes()
    }

    pub(super) fn bytes(&self, id: Id) -> usize {
        self.run(id).pages as usize * os::page_bytes()
    }

    pub(super) fn end(&self) -> usize {
        self.start + self.pages as usize * os::page_bytes()
    }

    /// The page that an address is the first byte of.
    fn page_at(&self, address: usize) -> Option<u32> {
        let offset = address.wrapping_sub(self.start);
        let page = offset / os::page_bytes();
        (page < self.pages as usize && offset & (os::page_bytes() - 1) == 0).then_some(page as u32)
    }

    /// The run that begins at an address.
    pub(super) fn find(&self, address: usize) -> Option<Id> {
        let page = self.page_at(address)?;
        let mut id = self.firsts[page as usize / BUCKET_PAGES];
        while id != NONE && self.run(id).first < page {
            id = self.run(id).after;
        }
        (id != NONE && self.run(id).first == page).then_some(id)
    }

    /// The run that an address lies in; for reports, because it walks from the start.
    pub(super) fn containing(&self, address: usize) -> Option<Id> {
        let page = (address.wrapping_sub(self.start) / os::page_bytes()) as u64;
        let mut id = if self.top == 0 { NONE } else { self.firsts[0] };
        while id != NONE && u64::from(self.run(id).end()) <= page {
            id = self.run(id).after;
        }
        (id != NONE && page < u64::from(self.top)).then_some(id)
    }

    /// Whether an allocation began at an address that was freed, and nobody has the page since.
    pub(super) fn was_freed(&self, address: usize) -> bool {
        self.page_at(address).is_some_and(|page| self.freed[page as usize / 64] & (1 << (page % 64)) != 0)
    }

    fn mark_freed(&mut self, page: u32) {
        self.freed[page as usize / 64] |= 1 << (page % 64);
    }

    /// Forgets what began in pages that are handed out.
    fn forget_freed(&mut self, first: u32, end: u32) {
        let mut page = first;
        while page < end {
            let bits = (64 - page % 64).min(end - page);
            let mask = (u64::MAX >> (64 - bits)) << (page % 64);
            self.freed[page as usize / 64] &= !mask;
            page += bits;
        }
    }

    /// Makes a run, in no list, free: joins it with neighbours of its state and puts it into its lists. Returns the
    /// pages of what it is part of now.
    fn settle(&mut self, id: Id, state: State, since: u64) -> (u32, u32) {
        let mut id = id;
        let run = self.run_mut(id);
        (run.state, run.since, run.grows) = (state, since, false);
        // Where it stands in the order of age: behind the newest, or where the oldest of its neighbours stood.
        let mut older = self.newest;
        let mut oldest_since = since;
        for neighbour in [self.run(id).after, self.run(id).before] {
            if neighbour == NONE || self.run(neighbour).state != state {
                continue;
            }
            let Run { since: neighbour_since, older: before_it, .. } = *self.run(neighbour);
            self.unlist(neighbour);
            if state == State::Dirty && older == neighbour {
                older = before_it;
            }
            if neighbour_since < oldest_since {
                (oldest_since, older) = (neighbour_since, before_it);
            }
            if self.run(neighbour).first < self.run(id).first {
                self.join(neighbour, id);
                id = neighbour;
            } else {
                self.join(id, neighbour);
            }
        }
        self.run_mut(id).since = oldest_since;
        if state == State::Clean && self.run(id).after == NONE {
            // R2: what is above `top` is clean by itself.
            self.top = self.run(id).first;
            self.remove(id);
            return (self.top, self.pages);
        }
        self.put_in_bin(id);
        if state == State::Dirty {
            self.put_behind(older, id);
        }
        (self.run(id).first, self.run(id).end())
    }

    /// Pages that are left free behind a run, if it grows: as many as it has, or more.
    fn room_behind(&self, id: Id) -> u32 {
        match *self.run(id) {
            run if id != NONE && run.grows => run.pages.max((ROOM_BYTES / os::page_bytes()) as u32),
            _ => 0,
        }
    }

    /// Where in a free run an allocation can lie: at its start, or at its end where what stands before it grows.
    fn place_in(&self, id: Id, pages: u32, align: usize, grows: bool) -> Option<u32> {
        let run = self.run(id);
        let page = os::page_bytes();
        let last = run.end().checked_sub(pages)?;
        let room = if grows { 0 } else { self.room_behind(run.before) };
        if room > 0 {
            let address = (self.start + last as usize * page) & !(align - 1);
            let at = (address.checked_sub(self.start)? / page) as u32;
            return (at >= run.first + room).then_some(at);
        }
        let address = (self.start + run.first as usize * page).checked_next_multiple_of(align)?;
        let at = u32::try_from((address - self.start) / page).ok()?;
        (at <= last).then_some(at)
    }

    /// The free run for an allocation and where it lies in it: a short one, among equals the lowest; for what grows the longest.
    pub(super) fn choose(&self, state: State, pages: u32, align: usize, grows: bool) -> Option<(Id, u32)> {
        let bins = if state == State::Dirty { &self.dirty } else { &self.clean };
        if grows {
            let highest = (bins.above_highest() as usize).checked_sub(1)?;
            return self.look_in(bins.heads[highest], pages, align, true);
        }
        bins.from(bin_of(pages)).find_map(|bin| self.look_in(bins.heads[bin], pages, align, false))
    }

    fn look_in(&self, head: Id, pages: u32, align: usize, grows: bool) -> Option<(Id, u32)> {
        let all = core::iter::successors(Some(head), |&id| Some(self.run(id).next));
        let with_room = all
            .take_while(|&id| id != NONE)
            .take(LOOKS)
            .filter_map(|id| self.place_in(id, pages, align, grows).map(|at| (id, at)));
        with_room.min_by_key(|&(id, _)| {
            let Run { pages, first, .. } = *self.run(id);
            (if grows { u32::MAX - pages } else { pages }, first)
        })
    }

    /// Makes pages of a free run live; `None`: there is no place to note what is left of it.
    pub(super) fn carve(&mut self, id: Id, at: u32, pages: u32, grows: bool) -> Option<Id> {
        let run = *self.run(id);
        let (head, tail) = (at - run.first, run.end() - at - pages);
        if u32::from(head > 0) + u32::from(tail > 0) > self.places {
            return None;
        }
        let older = run.older;
        self.unlist(id);
        let live = if head > 0 { self.cut(id, head) } else { id };
        let rest = (tail > 0).then(|| self.cut(live, pages));
        for rest in [(head > 0).then_some(id), rest].into_iter().flatten() {
            self.put_in_bin(rest);
            if run.state == State::Dirty {
                self.put_behind(older, rest);
            }
        }
        self.hand_out(live, grows);
        Some(live)
    }

    fn hand_out(&mut self, id: Id, grows: bool) {
        let run = self.run_mut(id);
        (run.state, run.grows) = (State::Live, grows);
        let (first, end) = (run.first, run.end());
        self.forget_freed(first, end);
    }

    /// Takes pages above `top`, behind some room if what is last grows, and at an alignment.
    pub(super) fn take_above(&mut self, pages: u32, align: usize, grows: bool) -> Above {
        if self.is_leaving || self.places < 2 {
            return Above::NoRoom;
        }
        let place = |top: u32| {
            let page = os::page_bytes();
            let address = (self.start + top as usize * page).checked_next_multiple_of(align)?;
            let at = u32::try_from((address - self.start) / page).ok()?;
            (at.checked_add(pages)? <= self.pages).then_some(at)
        };
        let Some(at) = place(self.top + self.room_behind(self.last)).or_else(|| place(self.top)) else {
            return Above::NoRoom;
        };
        if at + pages > self.committed {
            return Above::Commit(at + pages);
        }
        if at > self.top {
            let gap = self.insert_after(self.last, self.top, at - self.top, State::Clean, 0);
            self.put_in_bin(gap);
        }
        let live = self.insert_after(self.last, at, pages, State::Live, 0);
        self.top = at + pages;
        self.hand_out(live, grows);
        Above::Taken(live)
    }

    /// Counts a live run as one that was cleared, until it is freed or changes its length.
    pub(super) fn note_cleared(&mut self, id: Id) {
        self.run_mut(id).is_cleared = true;
        self.cleared_pages += self.run(id).pages;
    }

    fn forget_cleared(&mut self, id: Id) {
        if core::mem::replace(&mut self.run_mut(id).is_cleared, false) {
            self.cleared_pages -= self.run(id).pages;
        }
    }

    /// Frees a live run.
    pub(super) fn free(&mut self, id: Id, now: u64) {
        self.forget_cleared(id);
        let first = self.run(id).first;
        self.mark_freed(first);
        self.settle(id, State::Dirty, now);
    }

    /// Makes a live run shorter; what is cut off is free. `false`: there is no place to note it.
    pub(super) fn shorten(&mut self, id: Id, pages: u32, now: u64) -> bool {
        if self.places == 0 {
            return false;
        }
        self.forget_cleared(id);
        let rest = self.cut(id, pages);
        self.settle(rest, State::Dirty, now);
        true
    }

    /// The pages that are free behind a run, those above `top` among them; with `want_zero` as far as they read zero.
    fn pages_behind(&self, id: Id, want_zero: bool) -> u32 {
        let mut free = 0;
        let mut behind = self.run(id).after;
        while behind != NONE {
            let run = self.run(behind);
            if !(run.state == State::Clean || run.state == State::Dirty && !want_zero) {
                return free;
            }
            free += run.pages;
            behind = run.after;
        }
        free + self.pages - self.top
    }

    /// Makes a live run longer by what is free behind it. With `want_zero` only by what reads zero.
    pub(super) fn lengthen(&mut self, id: Id, pages: u32, want_zero: bool) -> Above {
        let Run { first, pages: old, .. } = *self.run(id);
        // Where the system may refuse memory for it, a place is needed to make it shorter again.
        let has_place = !os::DECOMMITS || self.places > 0;
        if self.pages_behind(id, want_zero) < pages - old || self.is_leaving || !has_place {
            return Above::NoRoom;
        }
        let end = first + pages;
        if end > self.committed {
            return Above::Commit(end);
        }
        self.forget_cleared(id);
        while self.run(id).pages < pages {
            let (behind, missing) = (self.run(id).after, pages - self.run(id).pages);
            if behind == NONE {
                self.run_mut(id).pages = pages;
                self.top = end;
                break;
            }
            let Run { first, pages: length, state, older, .. } = *self.run(behind);
            self.unlist(behind);
            if length <= missing {
                self.join(id, behind);
                continue;
            }
            self.forget_first(behind);
            let rest = self.run_mut(behind);
            (rest.first, rest.pages) = (first + missing, length - missing);
            self.note_first(behind);
            self.run_mut(id).pages = pages;
            self.put_in_bin(behind);
            if state == State::Dirty {
                self.put_behind(older, behind);
            }
        }
        self.run_mut(id).grows = true;
        self.forget_freed(first + old, end);
        Above::Taken(id)
    }

    /// Takes a dirty run for a thread that gives its memory back.
    pub(super) fn let_leave(&mut self, id: Id) {
        self.unlist(id);
        self.run_mut(id).state = State::Leaving;
    }

    /// Takes a run back that [`let_leave`](Self::let_leave) gave: clean, or as it was. Returns the pages of what it is part of now.
    pub(super) fn come_back(&mut self, id: Id, is_clean: bool, now: u64) -> (u32, u32) {
        if is_clean { self.settle(id, State::Clean, 0) } else { self.settle(id, State::Dirty, now) }
    }

    /// All runs in the order of addresses.
    pub(super) fn all(&self) -> impl Iterator<Item = Id> {
        let first = if self.top == 0 { NONE } else { self.firsts[0] };
        core::iter::successors(Some(first), |&id| Some(self.run(id).after)).take_while(|&id| id != NONE)
    }
}

const _: () = assert!(BIN_COUNT <= u128::BITS as usize, "a bit for each bin");
