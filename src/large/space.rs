//! Space on its way from the system and back, with no lock held that an allocation or a free needs.

use core::ptr::NonNull;

use super::kept::Piece;
use super::runs::{Leaving, Wish, side_bytes};
use super::single::discard;
use super::{Large, LargeSet, Larges, pointer};
use crate::os;

/// Bytes of a family's first range: few, as a limit on address space may be set later, and fewer where there is little of it.
const FIRST_RANGE_BYTES: usize = if usize::BITS < 64 { 4 << 20 } else { 32 << 20 };
/// Bytes of a range of a family that has as much already.
const RANGE_BYTES: usize = 8 * FIRST_RANGE_BYTES;
/// Under a limit on address space, bytes that a family has in ranges for each that it reserves more
/// than it needs.
const LIMITED_SHARE: usize = 8;
/// Under a limit, bytes that a range is a multiple of, but for a rest that serves nothing.
const LIMITED_STEP_BYTES: usize = 4 << 20;
/// What is made usable at once of a range: as much as is usable already, within bounds.
const COMMIT_BYTES: core::ops::RangeInclusive<usize> = 256 << 10..=4 << 20;
/// What is given back in one call: other threads of the process may wait for that long.
pub(super) const EMPTY_BYTES: usize = 16 << 20;
/// What is given back between two looks at what is free.
const BATCH_COUNT: usize = 16;
const BATCH_BYTES: usize = 64 << 20;

/// What is on its way back to the system.
struct Batch {
    runs: [Option<Leaving>; BATCH_COUNT],
    pieces: [Option<Piece>; BATCH_COUNT],
    /// Bytes of what holds memory.
    bytes: usize,
}

impl Batch {
    /// Takes what was freed first, as long as `due` names a time until when, and how much of a mapping: runs go as a whole, because
    /// what is left of a cut one serves less.
    fn take(set: &mut LargeSet, due: impl Fn(&mut LargeSet) -> Option<(u64, usize)>) -> Self {
        let mut batch = Self { runs: [None; BATCH_COUNT], pieces: [None; BATCH_COUNT], bytes: 0 };
        for (run, piece) in batch.runs.iter_mut().zip(&mut batch.pieces) {
            let Some((until, most)) = due(set).filter(|_| batch.bytes < BATCH_BYTES) else { break };
            let piece_since = set.singles.kept.oldest_since();
            *run = set.runs.let_leave(until.min(piece_since.unwrap_or(u64::MAX)));
            if run.is_none() {
                *piece = set.singles.kept.take_oldest(until, most);
            }
            let piece_bytes = piece.filter(|piece| piece.holds_memory).map_or(0, |piece| piece.bytes);
            batch.bytes += run.map_or(piece_bytes, |run| run.bytes);
            if run.is_none() && piece.is_none() {
                break;
            }
        }
        batch
    }

    fn is_empty(&self) -> bool {
        self.runs.iter().all(Option::is_none) && self.pieces.iter().all(Option::is_none)
    }

    /// Calls the system; what it takes stays in the batch as taken, the rest as refused. Returns the bytes of memory that it took, and
    /// whether it took anything.
    fn leave(&mut self, margin: usize) -> (usize, bool) {
        let (mut bytes, mut any) = (0, false);
        for run in self.runs.iter_mut().flatten() {
            run.is_clean = empty(run.start, run.bytes);
            bytes += if run.is_clean { run.bytes } else { 0 };
            any |= run.is_clean;
        }
        for place in &mut self.pieces {
            let Some(piece) = place else { continue };
            let held = if piece.holds_memory { piece.bytes } else { 0 };
            let has_left = discard(piece, margin);
            bytes += if has_left || !piece.holds_memory { held } else { 0 };
            any |= has_left;
            if has_left {
                *place = None;
            }
        }
        (bytes, any)
    }
}

/// Gives the memory of a range back, part by part; `true` only if all of it reads zero from now on. Nobody uses its contents.
pub(super) fn empty(start: usize, bytes: usize) -> bool {
    let mut is_zero = true;
    let mut done = 0;
    while done < bytes {
        let part = EMPTY_BYTES.min(bytes - done);
        // SAFETY: committed memory of the family's that belongs to the caller.
        is_zero &= unsafe { os::purge(pointer(start + done), part) };
        done += part;
    }
    is_zero
}

impl LargeSet {
    /// Counts the new length of a run, and makes what is new of it usable; `false`: the system refuses, and it is as long as before. This
    /// is the one call to the system under the lock (L2): nobody else may take the place that making it shorter again takes.
    #[inline(always)]
    pub(super) fn finish_resize(&mut self, address: usize, old_bytes: usize, bytes: usize, now: u64) -> bool {
        if os::DECOMMITS && bytes > old_bytes {
            // SAFETY: a part of a live run, which nobody uses yet.
            if !unsafe { os::recommit(pointer(address + old_bytes), bytes - old_bytes) } {
                self.runs.shorten(address, old_bytes, now);
                return false;
            }
        }
        self.count_change(old_bytes, bytes);
        true
    }
}

impl Larges {
    /// Advises huge pages for a live run, from so many bytes on, if it is to have some.
    pub(super) fn advise_run(&self, run: NonNull<u8>, from: usize, bytes: usize) {
        if !self.may_be_huge {
            return;
        }
        let huge = self.set.lock().runs.note_huge(run.addr().get(), from, bytes);
        if let Some((start, bytes)) = huge {
            // SAFETY: in a live run of the family's.
            unsafe { os::advise_huge(pointer(start), bytes) };
        }
    }

    /// Advises huge pages for a single mapping, if the family may have some.
    ///
    /// # Safety
    /// It is the family's, with this length.
    pub(super) unsafe fn advise_single(&self, memory: NonNull<u8>, bytes: usize) {
        if self.may_be_huge {
            // SAFETY: the same contract.
            unsafe { os::advise_huge(memory, bytes) };
        }
    }

    /// Gives back what has been free for long, or all that is free; returns the bytes of what held memory. What the system refuses to take
    /// stays.
    pub(crate) fn release_kept(&self, now: Option<u64>) -> usize {
        let bytes = match now {
            Some(now) => LargeSet::aged_at(now).map_or(0, |until| self.give_back(|_| Some((until, usize::MAX)))),
            None => self.give_back(|_| Some((u64::MAX, usize::MAX))),
        };
        self.release_ranges(usize::from(os::address_space_limit().is_none()));
        bytes
    }

    /// Gives back all that is free, space too; `false`: there was nothing.
    pub(crate) fn release_spare(&self) -> bool {
        let set = self.set.lock();
        let was_free = set.free_bytes() > 0 || set.runs.has_free_range();
        drop(set);
        self.give_back(|_| Some((u64::MAX, usize::MAX)));
        self.release_ranges(0);
        was_free
    }

    /// Gives back what is free beyond L3, and, now and then, what has been free for long.
    pub(super) fn give_back_due(&self, now: u64) {
        let mut set = self.set.lock();
        let looks = now.saturating_sub(set.looked) >= super::set::LOOK_MILLISECONDS;
        if looks {
            set.looked = now;
        }
        let has_excess = set.excess_bytes() > 0;
        drop(set);
        if has_excess {
            // In whole huge pages: not a call for every page.
            self.give_back(|set| match set.excess_bytes() {
                0 => None,
                excess => Some((u64::MAX, excess.next_multiple_of(os::HUGE_PAGE_BYTES))),
            });
        }
        if let Some(until) = LargeSet::aged_at(now).filter(|_| looks) {
            self.give_back(|_| Some((until, usize::MAX)));
        }
    }

    /// Gives back what was freed first, as long as `due` names a time and the system takes anything; returns the bytes of what held memory.
    fn give_back(&self, due: impl Fn(&mut LargeSet) -> Option<(u64, usize)>) -> usize {
        let mut sum = 0;
        loop {
            let mut batch = Batch::take(&mut self.set.lock(), &due);
            if batch.is_empty() {
                return sum;
            }
            let (bytes, any) = batch.leave(self.margin());
            sum += bytes;
            self.settle(&batch);
            if !any {
                return sum;
            }
        }
    }

    /// Takes back what is left of a batch.
    fn settle(&self, batch: &Batch) {
        let mut empty = [None; BATCH_COUNT];
        let mut set = self.set.lock();
        let now = os::milliseconds();
        for (empty, run) in empty.iter_mut().zip(batch.runs.iter().flatten()) {
            *empty = set.runs.come_back(run, now);
        }
        for &piece in batch.pieces.iter().flatten() {
            set.singles.kept.put(piece);
        }
        set.excess_bytes();
        drop(set);
        for (start, bytes) in empty.into_iter().flatten() {
            // What comes next begins with small pages.
            // SAFETY: committed memory of the family's; the advice changes no contents.
            unsafe { os::advise_small(pointer(start), bytes) };
        }
    }

    /// Makes a range usable up to so many pages. `None`: the system refuses.
    pub(super) fn commit(&self, range: usize, pages: u32) -> Option<()> {
        let _growth = self.growth.lock();
        let Some((start, need, good)) = self.set.lock().runs.to_commit(range, pages, &COMMIT_BYTES) else {
            return Some(());
        };
        if os::DECOMMITS {
            // Whoever takes a run of it makes that usable.
            self.set.lock().runs.note_committed(range, need);
            return Some(());
        }
        for bytes in [good, need] {
            // SAFETY: inside a range, behind all that is usable; nobody else makes or releases any meanwhile (`growth`).
            if unsafe { os::commit(pointer(start), bytes) } {
                // SAFETY: as above.
                unsafe { os::put_into_dumps(pointer(start), bytes) };
                self.set.lock().runs.note_committed(range, bytes);
                return Some(());
            }
        }
        None
    }

    /// Makes a run usable that was taken just now, and may have been purged. `None`: the system refuses, and it is free again.
    #[inline(always)]
    pub(super) fn recommit_run(&self, run: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: a live run of this length, which nobody has yet.
        if unsafe { os::recommit(run, bytes) } {
            return Some(run);
        }
        let mut set = self.set.lock();
        set.dismiss(bytes);
        set.runs.free(run.addr().get(), os::milliseconds());
        None
    }

    /// Reserves a range with room for a wish, unless somebody has since there were `generation`. `None`: the system refuses.
    pub(super) fn reserve(&self, wish: &Wish, generation: usize) -> Option<()> {
        let growth = self.growth.lock();
        let (outgrown, reserved, is_new) = {
            let set = self.set.lock();
            (set.runs.outgrown(), set.runs.reserved_bytes(), set.runs.generation != generation)
        };
        if is_new {
            return Some(());
        }
        if let Some(bytes) = outgrown {
            let memory = os::map(bytes, os::page_bytes())?;
            let old = self.set.lock().runs.move_to(memory, bytes);
            if let Some((start, bytes)) = old {
                self.discard_or_keep(start, bytes);
            }
        }
        let (memory, bytes) = reserve_range(wish, reserved)?;
        let Some(side) = os::map(side_bytes(bytes), os::page_bytes()) else {
            // SAFETY: reserved just now.
            unsafe { os::release(memory, bytes) };
            return None;
        };
        // Before anything is usable, so that all of it is one mapping.
        // SAFETY: reserved just now.
        unsafe { os::advise_small(memory, bytes) };
        // SAFETY: as above, here and below. What is not usable yet cannot even be read, and some tools write it all the same.
        unsafe { os::keep_out_of_dumps(memory, bytes) };
        // SAFETY: as above.
        unsafe { os::name(memory, bytes, self.name) };
        self.note_place(memory.addr().get(), bytes);
        self.set.lock().runs.add(memory, bytes, side);
        drop(growth);
        // SAFETY: a range of the family's, which is not released where this has an effect.
        unsafe { os::add_root(memory, bytes) };
        Some(())
    }

    /// Releases ranges in which nothing is left, but for so many.
    fn release_ranges(&self, keep: usize) {
        // What a sanitizer was told of stays: it could only be told otherwise while no lock is held.
        if !self.has_runs() || os::scans() {
            return;
        }
        let _growth = self.growth.lock();
        loop {
            let Some([(start, bytes), side]) = self.set.lock().runs.let_range_leave(keep) else { return };
            // SAFETY: nothing is in the range, and nothing can be put there: it is marked as leaving.
            let has_left = unsafe { os::release(pointer(start), bytes) };
            self.set.lock().runs.range_left(start, has_left);
            if !has_left {
                return;
            }
            self.discard_or_keep(side.0, side.1);
        }
    }
}

/// The allocation, which may have been free before: a sanitizer is told that it no longer is.
pub(super) fn in_use(large: Large) -> Large {
    if os::poisons() {
        // SAFETY: an allocation on its way to the client.
        unsafe { os::unpoison(large.memory, large.bytes) };
    }
    large
}

/// Reserves a range that a wish fits into. Without a limit on address space it is as long as all that
/// the family has, within bounds; under one, which is asked for each time, not much longer than it
/// has to be.
fn reserve_range(wish: &Wish, reserved: usize) -> Option<(NonNull<u8>, usize)> {
    let page = os::page_bytes();
    let (least, good, align) = match os::address_space_limit() {
        None => {
            let least = wish.bytes + wish.align.saturating_sub(os::HUGE_PAGE_BYTES);
            (least, reserved.clamp(FIRST_RANGE_BYTES, RANGE_BYTES), os::HUGE_PAGE_BYTES)
        }
        Some(_) => {
            let least = wish.bytes + wish.align - page;
            let share = (reserved / LIMITED_SHARE).min(RANGE_BYTES);
            let good = share.max(least).next_multiple_of(LIMITED_STEP_BYTES);
            // No rest that serves nothing.
            (least, good - good % least, page)
        }
    };
    let mut bytes = good.max(least) & !(page - 1);
    loop {
        if let Some(memory) = os::reserve(bytes, align) {
            return Some((memory, bytes));
        }
        if bytes <= least {
            return None;
        }
        bytes = (bytes / 2).max(least).next_multiple_of(page);
    }
}
