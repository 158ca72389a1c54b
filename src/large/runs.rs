//! All ranges of one family, in the order of their addresses. Nothing here calls the system.

use core::mem::size_of;
use core::ops::RangeInclusive;
use core::ptr::NonNull;

use super::range::{Above, BUCKET_PAGES, Range};
use super::run::{Id, Run, State, bin_of};
use crate::os;

/// Bytes of live runs that were cleared for who wants zero, at most: who never touches them holds memory all the same.
const CLEARED_BYTES_MAX: usize = 32 << 20;
/// So many stretches of a range are advised to use huge pages, at most: each may be a mapping of its own.
const ADVISED_COUNT: u32 = 8;

/// What an allocation wants.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) bytes: usize,
    pub(super) align: usize,
    pub(super) want_zero: bool,
    /// Whether it has grown, and will.
    pub(super) grows: bool,
}

/// What became of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Memory begins here.
    Run(usize),
    /// This range has room, once it is usable up to so many pages.
    Commit { range: usize, pages: u32 },
    /// No range has room.
    Nothing,
}

/// A run on its way back to the system.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    range: usize,
    id: Id,
    pub(super) start: usize,
    pub(super) bytes: usize,
    /// Whether it reads zero by now.
    pub(super) is_clean: bool,
}

/// Where a range is, and what is looked at before the range itself is.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    start: usize,
    end: usize,
    range: Option<NonNull<Range>>,
    /// One more than the highest bin with a run.
    dirty_above: u8,
    clean_above: u8,
    /// Pages above `top`.
    room: u32,
}

/// The ranges. Ranges and slots belong to this set alone.
pub(super) struct RunSet {
    /// As many as there is room for; the first `count` are ranges.
    slots: Option<NonNull<[Slot]>>,
    count: usize,
    /// How many ranges there have been.
    pub(super) generation: usize,
    /// Bytes of all dirty runs, and of those on their way back to the system.
    pub(super) dirty_bytes: usize,
    pub(super) leaving_bytes: usize,
    /// Bytes of live runs that were cleared.
    cleared_bytes: usize,
}

// SAFETY: what the pointers lead to belongs to this set alone.
unsafe impl Send for RunSet {}

impl RunSet {
    pub(super) const fn new() -> Self {
        Self { slots: None, count: 0, generation: 0, dirty_bytes: 0, leaving_bytes: 0, cleared_bytes: 0 }
    }

    fn slots(&self) -> &[Slot] {
        // SAFETY: mapped for this set, initialised by `add` as far as it is used and zero behind, which is a slot without a range.
        self.slots.map_or(&[], |slots| unsafe { &slots.as_ref()[..self.count] })
    }

    fn slots_mut(&mut self) -> &mut [Slot] {
        match self.slots {
            // SAFETY: as above, and the set is borrowed exclusively.
            Some(mut slots) => unsafe { slots.as_mut() },
            None => &mut [],
        }
    }

    fn range(&self, index: usize) -> Option<&Range> {
        // SAFETY: a range belongs to this set, from `add` to `forget`, and only `with` borrows it exclusively, as it does the set.
        self.slots().get(index).and_then(|slot| slot.range).map(|range| unsafe { range.as_ref() })
    }

    /// Changes a range, and keeps what is noted beside it right.
    fn with<T>(&mut self, index: usize, change: impl FnOnce(&mut Range) -> T) -> Option<T> {
        let mut range = self.slots().get(index)?.range?;
        // SAFETY: as in `range`, and the set is borrowed exclusively.
        let range = unsafe { range.as_mut() };
        let (dirty_before, cleared_before) = (range.dirty_pages, range.cleared_pages);
        let result = change(range);
        let cleared_after = range.cleared_pages;
        let (dirty_after, room) = (range.dirty_pages, if range.is_leaving { 0 } else { range.pages - range.top });
        let (dirty_above, clean_above) = (range.dirty.above_highest(), range.clean.above_highest());
        self.dirty_bytes =
            self.dirty_bytes + dirty_after as usize * os::page_bytes() - dirty_before as usize * os::page_bytes();
        self.cleared_bytes =
            self.cleared_bytes + cleared_after as usize * os::page_bytes() - cleared_before as usize * os::page_bytes();
        let slot = &mut self.slots_mut()[index];
        (slot.dirty_above, slot.clean_above, slot.room) = (dirty_above, clean_above, room);
        Some(result)
    }

    /// The range that an address lies in.
    fn index_of(&self, address: usize) -> Option<usize> {
        let slots = self.slots();
        let index = slots.partition_point(|slot| slot.end <= address);
        slots.get(index).filter(|slot| slot.start <= address).map(|_| index)
    }

    pub(super) fn holds(&self, address: usize) -> bool {
        self.index_of(address).is_some()
    }

    /// Bytes of the live run that begins at an address.
    pub(super) fn live_bytes(&self, address: usize) -> Option<usize> {
        let range = self.range(self.index_of(address)?)?;
        let id = range.find(address)?;
        (range.run(id).state == State::Live).then(|| range.bytes(id))
    }

    /// The live run that an address lies in: where it begins, and its bytes. Slow.
    pub(super) fn containing(&self, address: usize) -> Option<(usize, usize)> {
        let range = self.range(self.index_of(address)?)?;
        let id = range.containing(address)?;
        (range.run(id).state == State::Live).then(|| (range.address(id), range.bytes(id)))
    }

    /// The first live run that begins behind an address, and its bytes. Slow.
    pub(super) fn live_behind(&self, address: usize) -> Option<(usize, usize)> {
        (0..self.count).filter_map(|index| self.range(index)).filter(|range| range.end() > address).find_map(|range| {
            let mut live = range.all().filter(|&id| range.run(id).state == State::Live);
            live.find(|&id| range.address(id) > address).map(|id| (range.address(id), range.bytes(id)))
        })
    }

    /// Whether an allocation that began here was freed, and nobody has the memory since.
    pub(super) fn was_freed(&self, address: usize) -> bool {
        self.index_of(address).and_then(|index| self.range(index)).is_some_and(|range| range.was_freed(address))
    }

    /// Takes memory: what is dirty first, unless it has to be zero, then what is clean, then what was never used. What grows is
    /// rather put where nothing was.
    pub(super) fn allocate(&mut self, wish: &Wish) -> Found {
        let Ok(pages) = u32::try_from(wish.bytes / os::page_bytes()) else { return Found::Nothing };
        let dirty = if wish.want_zero { None } else { self.take_free(State::Dirty, pages, wish) };
        if let Some(found) = dirty {
            return found;
        }
        if wish.grows {
            match self.take_above(pages, wish) {
                Found::Nothing => self.take_free(State::Clean, pages, wish).unwrap_or(Found::Nothing),
                found => found,
            }
        } else {
            self.take_free(State::Clean, pages, wish).unwrap_or_else(|| self.take_above(pages, wish))
        }
    }

    /// Takes memory that was used before and not given back, for the caller to clear, as long as there is not too much of that.
    pub(super) fn take_to_clear(&mut self, wish: &Wish) -> Option<usize> {
        if self.cleared_bytes + wish.bytes > CLEARED_BYTES_MAX {
            return None;
        }
        let pages = u32::try_from(wish.bytes / os::page_bytes()).ok()?;
        match self.take_free(State::Dirty, pages, wish)? {
            Found::Run(address) => {
                self.change(address, Range::note_cleared);
                Some(address)
            }
            Found::Commit { .. } | Found::Nothing => None,
        }
    }

    fn take_free(&mut self, state: State, pages: u32, wish: &Wish) -> Option<Found> {
        let least = bin_of(pages);
        (0..self.count).find_map(|index| {
            let slot = self.slots()[index];
            let above = if state == State::Dirty { slot.dirty_above } else { slot.clean_above };
            if above as usize <= least {
                return None;
            }
            let (id, at) = self.range(index)?.choose(state, pages, wish.align, wish.grows)?;
            let taken = self.with(index, |range| range.carve(id, at, pages, wish.grows).map(|id| range.address(id)))?;
            taken.map(Found::Run)
        })
    }

    fn take_above(&mut self, pages: u32, wish: &Wish) -> Found {
        let taken = (0..self.count).find_map(|index| {
            let slot = self.slots()[index];
            if slot.room < pages {
                return None;
            }
            self.with(index, |range| match range.take_above(pages, wish.align, wish.grows) {
                Above::Taken(id) => Some(Found::Run(range.address(id))),
                Above::Commit(pages) => Some(Found::Commit { range: slot.start, pages }),
                Above::NoRoom => None,
            })?
        });
        taken.unwrap_or(Found::Nothing)
    }

    /// Frees the live run at an address.
    pub(super) fn free(&mut self, address: usize, now: u64) {
        self.change(address, |range, id| range.free(id, now));
    }

    /// Makes the live run at an address shorter; `false`: not possible.
    pub(super) fn shorten(&mut self, address: usize, bytes: usize, now: u64) -> bool {
        let pages = (bytes / os::page_bytes()) as u32;
        self.change(address, |range, id| range.shorten(id, pages, now)).unwrap_or(false)
    }

    /// Makes the live run at an address longer, where it is.
    pub(super) fn lengthen(&mut self, address: usize, bytes: usize, want_zero: bool) -> Found {
        let pages = (bytes / os::page_bytes()) as u32;
        let changed = self.change(address, |range, id| match range.lengthen(id, pages, want_zero) {
            Above::Taken(_) => Found::Run(address),
            Above::Commit(pages) => Found::Commit { range: range.start, pages },
            Above::NoRoom => Found::Nothing,
        });
        changed.unwrap_or(Found::Nothing)
    }

    fn change<T>(&mut self, address: usize, change: impl FnOnce(&mut Range, Id) -> T) -> Option<T> {
        let index = self.index_of(address)?;
        let id = self.range(index)?.find(address)?;
        self.with(index, |range| change(range, id))
    }

    /// Notes that the whole huge pages of a live run, from so many bytes on, are to be advised as such; returns where they
    /// lie. `None`: there are none, or all are, or too many stretches would be.
    pub(super) fn note_huge(&mut self, address: usize, from: usize, bytes: usize) -> Option<(usize, usize)> {
        self.change(address, |range, _| {
            let wanted = huge_pages(range, address + from, address + bytes);
            let all = range.advised | wanted;
            if wanted & !range.advised == 0 || (all & !(all << 1)).count_ones() > ADVISED_COUNT {
                return None;
            }
            range.advised = all;
            Some(stretch(range, wanted))
        })?
    }

    /// When the dirty run was freed that is oldest, and its range.
    fn oldest(&self) -> Option<(usize, Id, u64)> {
        let with_dirty = (0..self.count).filter(|&index| self.slots()[index].dirty_above > 0);
        let oldest = with_dirty.filter_map(|index| {
            let (id, since) = self.range(index)?.oldest()?;
            Some((index, id, since))
        });
        oldest.min_by_key(|&(_, _, since)| since)
    }

    /// Takes the oldest dirty run for the caller to give its memory back, if it was freed then or before.
    pub(super) fn let_leave(&mut self, until: u64) -> Option<Leaving> {
        let (index, id, _) = self.oldest().filter(|&(_, _, since)| since <= until)?;
        let leaving = self.with(index, |range| {
            range.let_leave(id);
            let (start, bytes) = (range.address(id), range.bytes(id));
            Leaving { range: range.start, id, start, bytes, is_clean: false }
        })?;
        self.leaving_bytes += leaving.bytes;
        Some(leaving)
    }

    /// Takes a run back, whether clean or not; returns what is advised to use huge pages and is empty now.
    pub(super) fn come_back(&mut self, leaving: &Leaving, now: u64) -> Option<(usize, usize)> {
        self.leaving_bytes -= leaving.bytes;
        let index = self.index_of(leaving.range)?;
        self.with(index, |range| {
            let (first, end) = range.come_back(leaving.id, leaving.is_clean, now);
            let page = os::page_bytes();
            let empty = huge_pages(range, range.start + first as usize * page, range.start + end as usize * page);
            let advised = if leaving.is_clean { range.advised & empty } else { 0 };
            range.advised &= !advised;
            (advised != 0).then(|| stretch(range, advised))
        })?
    }

    /// In the child of a fork: runs that other threads were giving back are free again.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(super) fn take_all_back(&mut self, now: u64) {
        for index in 0..self.count {
            let leaving = |range: &Range| range.all().find(|&id| range.run(id).state == State::Leaving);
            while let Some(id) = self.range(index).and_then(leaving) {
                self.with(index, |range| range.come_back(id, false, now));
            }
        }
        self.leaving_bytes = 0;
    }

    // Ranges

    /// Which pages of a range to make usable for so many of them, in whole steps if there is room: where these begin, and the bytes
    /// that are needed and that would be good. `None`: nothing has to be done any more.
    pub(super) fn to_commit(
        &self,
        start: usize,
        pages: u32,
        step_bytes: &RangeInclusive<usize>,
    ) -> Option<(usize, usize, usize)> {
        let range = self.range(self.index_of(start)?)?;
        let page = os::page_bytes();
        let need = (pages.checked_sub(range.committed).filter(|&need| need > 0)?) as usize * page;
        let most = (range.pages - range.committed) as usize * page;
        let committed = range.committed as usize * page;
        let step = committed.clamp(*step_bytes.start(), *step_bytes.end());
        Some((range.start + committed, need, need.max(step).min(most)))
    }

    /// Notes that so many bytes more of a range may be used.
    pub(super) fn note_committed(&mut self, start: usize, bytes: usize) {
        if let Some(index) = self.index_of(start) {
            self.with(index, |range| range.committed += (bytes / os::page_bytes()) as u32);
        }
    }

    /// Bytes of all ranges.
    pub(super) fn reserved_bytes(&self) -> usize {
        self.slots().iter().map(|slot| slot.end - slot.start).sum()
    }

    /// Bytes of a longer list of ranges, if the next range needs one.
    pub(super) fn outgrown(&self) -> Option<usize> {
        let capacity = self.slots.map_or(0, |slots| slots.len());
        (self.count == capacity)
            .then(|| (2 * capacity * size_of::<Slot>()).next_multiple_of(os::page_bytes()).max(os::page_bytes()))
    }

    /// Moves the list to new zeroed memory; returns the memory that it had, and its bytes.
    pub(super) fn move_to(&mut self, memory: NonNull<u8>, bytes: usize) -> Option<(usize, usize)> {
        let longer = NonNull::slice_from_raw_parts(memory.cast::<Slot>(), bytes / size_of::<Slot>());
        let (old, count) = (self.slots.replace(longer)?, self.count);
        // SAFETY: the list until now, which nobody else has.
        let slots = unsafe { old.as_ref() };
        self.slots_mut()[..count].copy_from_slice(&slots[..count]);
        let bytes = (old.len() * size_of::<Slot>()).next_multiple_of(os::page_bytes());
        Some((old.cast::<u8>().as_ptr().expose_provenance(), bytes))
    }

    /// Adds a range with its side: zeroed memory of [`side_bytes`]. There is room in the list.
    pub(super) fn add(&mut self, memory: NonNull<u8>, bytes: usize, side: NonNull<u8>) {
        let start = memory.as_ptr().expose_provenance();
        let range = place_side(start, bytes, side);
        let index = self.slots().partition_point(|slot| slot.start < start);
        let (count, end) = (self.count, start + bytes);
        let slots = self.slots_mut();
        slots.copy_within(index..count, index + 1);
        slots[index] = Slot {
            start,
            end,
            range: Some(range),
            dirty_above: 0,
            clean_above: 0,
            room: (bytes / os::page_bytes()) as u32,
        };
        self.count += 1;
        self.generation += 1;
    }

    /// Lets a range leave that is free as a whole, if more than so many are: where it lies, and its side.
    pub(super) fn let_range_leave(&mut self, keep: usize) -> Option<[(usize, usize); 2]> {
        let is_free = |index: &usize| self.range(*index).is_some_and(|range| range.top == 0 && !range.is_leaving);
        if (0..self.count).filter(is_free).count() <= keep {
            return None;
        }
        let index = (0..self.count).rev().find(is_free)?;
        let side = self.slots()[index].range?.as_ptr().expose_provenance();
        self.with(index, |range| {
            range.is_leaving = true;
            [(range.start, range.end() - range.start), (side, range.side_bytes)]
        })
    }

    /// The system has taken a range, or has not.
    pub(super) fn range_left(&mut self, start: usize, has_left: bool) {
        let Some(index) = self.index_of(start) else { return };
        if !has_left {
            self.with(index, |range| range.is_leaving = false);
            return;
        }
        let count = self.count;
        self.slots_mut().copy_within(index + 1..count, index);
        self.count -= 1;
    }

    pub(super) fn has_free_range(&self) -> bool {
        (0..self.count).any(|index| self.range(index).is_some_and(|range| range.top == 0))
    }
}

/// The huge pages of a range that lie in `start..end` as a whole.
fn huge_pages(range: &Range, start: usize, end: usize) -> u128 {
    let base = range.start / os::HUGE_PAGE_BYTES;
    let first = start.div_ceil(os::HUGE_PAGE_BYTES) - base;
    let end = (end / os::HUGE_PAGE_BYTES - base).min(u128::BITS as usize);
    if first >= end {
        return 0;
    }
    (u128::MAX >> (u128::BITS as usize - (end - first))) << first
}

/// Where the huge pages lie, from the first to the last: address and bytes.
fn stretch(range: &Range, pages: u128) -> (usize, usize) {
    let base = range.start / os::HUGE_PAGE_BYTES;
    let (first, end) = (pages.trailing_zeros() as usize, (u128::BITS - pages.leading_zeros()) as usize);
    ((base + first) * os::HUGE_PAGE_BYTES, (end - first) * os::HUGE_PAGE_BYTES)
}

/// How many runs a range of so many bytes may have: none that is live is shorter than what `PER_RUN_BYTES` is the half of.
fn run_count(bytes: usize) -> usize {
    const PER_RUN_BYTES: usize = 16 << 10;
    (bytes / PER_RUN_BYTES).clamp(64, Id::MAX as usize)
}

/// Where the arrays begin in a side, and its bytes.
fn side_parts(bytes: usize) -> [usize; 4] {
    let pages = bytes / os::page_bytes();
    let freed = size_of::<Range>().next_multiple_of(align_of::<Run>());
    let runs = freed + pages.div_ceil(64) * size_of::<u64>();
    let firsts = runs + (run_count(bytes) + 1) * size_of::<Run>();
    [freed, runs, firsts, firsts + pages.div_ceil(BUCKET_PAGES) * size_of::<Id>()]
}

/// Bytes of the side of a range of so many bytes.
pub(super) fn side_bytes(bytes: usize) -> usize {
    side_parts(bytes)[3].next_multiple_of(os::page_bytes())
}

/// Makes zeroed memory the side of a range.
fn place_side(start: usize, bytes: usize, side: NonNull<u8>) -> NonNull<Range> {
    let pages = bytes / os::page_bytes();
    let [freed, runs, firsts, _] = side_parts(bytes);
    let freed = part::<u64>(side, freed, pages.div_ceil(64));
    let runs = part::<Run>(side, runs, run_count(bytes) + 1);
    let firsts = part::<Id>(side, firsts, pages.div_ceil(BUCKET_PAGES));
    let range = side.cast::<Range>();
    // SAFETY: the side begins with room for a `Range`, page-aligned, before the arrays.
    unsafe { range.write(Range::new(start, pages as u32, side_bytes(bytes), runs, firsts, freed)) };
    range
}

/// An array in a side.
fn part<T>(side: NonNull<u8>, offset: usize, count: usize) -> &'static mut [T] {
    // SAFETY: `side_bytes` counted what all parts need, one behind the other.
    let first = unsafe { side.add(offset) }.cast::<T>();
    // SAFETY: mapped zeroed for this range alone, as long as that is in the list; zero is a value of each type in a side, and each
    // begins at a multiple of its alignment.
    unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) }
}

const _: () = assert!(align_of::<Run>() == 8 && size_of::<Run>() == 32, "two runs in a cache line, behind words");
