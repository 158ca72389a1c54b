//! What all threads share of one (family, class): a lock, the slabs with room, and the depot.
//!
//! ```text
//!   take: depot ─► slabs with recycled slots ─► fresh part of the current slab ─► a new slab from the pool
//!   give: depot, while it has room and the program is not only freeing ─► each slot to its slab ─► empty slab to the pool
//! ```
//!
//! The depot is a stack of whole batches, copied in and out under the lock, so that slots which pass from one thread to
//! another touch no slab. It keeps slabs from becoming empty, so a bin that only ever gets slots back empties it.
//!
//! **B1** A slab is in `partial` exactly while `recycled > 0`. **B2** `used_slots` is the sum of `used` over the bin's slabs;
//! what is outside of the bin, in caches and with clients, is `used_slots − depot_slots`. (A slot that was freed twice at once
//! may be in the depot and in its slab, until whoever gets it second is told.) **B3** A slab with fresh slots is
//! `current`: no other could ever be carved again.

use core::ops::Range;

use crate::capacity::{SURPLUS_BATCHES, batch_slots, depot_batches, fresh_slots};
use crate::header::{Directory, SlabHeader};
use crate::slab::Geometry;
use crate::sync::Lock;
use crate::trunk::run_length;

/// Slabs of a class from which on new ones use huge pages: the last slab wastes little then, and small families stay small.
const HUGE_FROM_SLABS: usize = 4;

/// What [`Bin::take`] found.
pub(crate) enum Taken {
    /// This many addresses were written to the buffer.
    Recycled(usize),
    /// Slots that were never used, in address order.
    Fresh(Fresh),
}

/// A slot that was freed twice, found when it came to its bin or left it; only where the family keeps states.
#[derive(Debug)]
pub(crate) struct Twice(pub(crate) usize);

/// A range of fresh slots.
pub(crate) struct Fresh {
    pub(crate) range: Range<usize>,
    /// Whether all of it is known to read zero.
    pub(crate) zeroed: bool,
}

/// Numbers of one bin at one moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct BinCounts {
    pub(crate) slab_count: usize,
    /// Slots in caches and with clients.
    pub(crate) out_slots: usize,
    pub(crate) depot_slots: usize,
    /// Slots in slabs that could be handed out, fresh ones included.
    pub(crate) free_slots: usize,
}

/// The depot's place in memory: room for `depot_batches` batches, owned by one bin.
#[derive(Clone, Copy)]
pub(crate) struct DepotMemory(pub(crate) *mut usize);

/// One bin. Padded so that two bins never share a pair of cache lines.
#[repr(align(128))]
pub(crate) struct Bin(Lock<State>);

struct State {
    partial: Option<&'static SlabHeader>,
    current: Option<&'static SlabHeader>,
    slab_count: usize,
    used_slots: usize,
    depot_len: usize,
    surplus: u32,
}

// SAFETY: the headers that the state refers to belong to the lock around it (S1 in `slab`).
unsafe impl Send for State {}

impl Bin {
    pub(crate) const fn new() -> Self {
        Self(Lock::new(State { partial: None, current: None, slab_count: 0, used_slots: 0, depot_len: 0, surplus: 0 }))
    }

    /// Takes up to `out.len()` recycled slots, at most a batch, or else a range of fresh ones. `None`: out of memory.
    pub(crate) fn take(
        &self,
        geometry: &Geometry<'_>,
        depot: DepotMemory,
        out: &mut [usize],
    ) -> Result<Option<Taken>, Twice> {
        let mut state = self.0.lock();
        state.surplus = 0;
        if let Some(count) = state.take_from_depot(geometry, depot, out) {
            return Ok(Some(Taken::Recycled(count)));
        }
        Ok(match state.take_recycled(geometry, out)? {
            0 => state.carve(geometry, fresh_slots(geometry.class)).map(Taken::Fresh),
            count => Some(Taken::Recycled(count)),
        })
    }

    /// Takes one slot, for a caller without a cache. Where the family keeps states it is `CACHED`, also a fresh one.
    pub(crate) fn take_one(&self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<Option<(usize, bool)>, Twice> {
        let mut state = self.0.lock();
        let mut one = [0];
        if state.partial.is_none() {
            state.empty_depot(geometry, depot)?;
        }
        Ok(match state.take_recycled(geometry, &mut one)? {
            0 => match state.carve(geometry, 1) {
                Some(fresh) => {
                    // SAFETY: a slot that was carved just now.
                    unsafe { geometry.note_fresh(fresh.range.clone()) }.map_err(Twice)?;
                    Some((fresh.range.start, fresh.zeroed))
                }
                None => None,
            },
            _ => Some((one[0], false)),
        })
    }

    /// Takes slots back: into the depot if they are a whole batch and it has room, else each to its slab.
    ///
    /// # Safety
    /// The addresses are used slots of this bin, each once, and nobody uses them any more.
    pub(crate) unsafe fn give(
        &self,
        geometry: &Geometry<'_>,
        depot: DepotMemory,
        slots: &[usize],
    ) -> Result<(), Twice> {
        let mut state = self.0.lock();
        if state.give_to_depot(geometry, depot, slots) {
            return Ok(());
        }
        // SAFETY: the caller's promise is the same.
        unsafe { state.give_to_slabs(geometry, slots) }?;
        if state.surplus >= SURPLUS_BATCHES {
            state.empty_depot(geometry, depot)?;
        }
        Ok(())
    }

    /// Takes back what is left of a fresh range.
    ///
    /// # Safety
    /// As for [`give`](Self::give): `range` is the rest of one range that [`take`](Self::take) returned.
    pub(crate) unsafe fn give_fresh(&self, geometry: &Geometry<'_>, range: Range<usize>) -> Result<(), Twice> {
        let mut state = self.0.lock();
        let slab = Directory::of(geometry.unit_shift).header(range.start);
        if geometry.is_last_carved(slab, &range) && state.may_be_current(geometry, slab) {
            state.current = Some(slab);
            state.used_slots -= range.len() / geometry.class.slot_bytes();
            geometry.uncarve(slab, &range);
            if slab.used.get() == 0 {
                state.retire(geometry, slab);
            }
            return Ok(());
        }
        // SAFETY: the rest of a range of this bin's, which nobody has touched.
        unsafe { geometry.note_fresh(range.clone()) }.map_err(Twice)?;
        for address in range.step_by(geometry.class.slot_bytes()) {
            // SAFETY: a slot of the range, which the caller gives up.
            unsafe { state.give_to_slabs(geometry, &[address]) }?;
        }
        Ok(())
    }

    /// Empties the depot, so that slabs that are free but for it can go back to the pool, and those that could not before.
    pub(crate) fn trim(&self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<(), Twice> {
        let mut state = self.0.lock();
        state.empty_depot(geometry, depot)?;
        if geometry.has_guards() {
            state.retire_empty(geometry);
        }
        Ok(())
    }

    /// The lock, for the time of a `fork`.
    pub(crate) fn lock(&self) -> &Lock<impl Sized + use<>> {
        &self.0
    }

    pub(crate) fn counts(&self, geometry: &Geometry<'_>) -> BinCounts {
        let state = self.0.lock();
        let depot_slots = state.depot_len * batch_slots(geometry.class);
        let slab_slots = (1 << geometry.unit_shift) / geometry.class.slot_bytes();
        BinCounts {
            slab_count: state.slab_count,
            out_slots: state.used_slots.saturating_sub(depot_slots),
            depot_slots,
            free_slots: (state.slab_count * slab_slots).saturating_sub(state.used_slots),
        }
    }
}

impl State {
    fn take_from_depot(&mut self, geometry: &Geometry<'_>, depot: DepotMemory, out: &mut [usize]) -> Option<usize> {
        let batch = batch_slots(geometry.class);
        if self.depot_len == 0 || out.len() < batch {
            return None;
        }
        self.depot_len -= 1;
        // SAFETY: B2 and `give_to_depot`: the batch below `depot_len` was written and lies inside the depot's memory.
        let top = unsafe { depot.0.add(self.depot_len * batch) };
        // SAFETY: a whole initialised batch, reached only under the bin's lock.
        out[..batch].copy_from_slice(unsafe { core::slice::from_raw_parts(top, batch) });
        Some(batch)
    }

    fn give_to_depot(&mut self, geometry: &Geometry<'_>, depot: DepotMemory, slots: &[usize]) -> bool {
        let batch = batch_slots(geometry.class);
        if slots.len() != batch || depot.0.is_null() {
            return false;
        }
        self.surplus = self.surplus.saturating_add(1);
        if self.depot_len == depot_batches(geometry.class) || self.surplus > SURPLUS_BATCHES {
            return false;
        }
        // SAFETY: `depot_len` is below the number of batches that the depot has room for.
        let top = unsafe { depot.0.add(self.depot_len * batch) };
        // SAFETY: room for a batch, reached only under the bin's lock; the source is a slice of the caller's.
        unsafe { core::ptr::copy_nonoverlapping(slots.as_ptr(), top, batch) };
        self.depot_len += 1;
        true
    }

    fn empty_depot(&mut self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<(), Twice> {
        let slots = self.depot_len * batch_slots(geometry.class);
        debug_assert!(slots == 0 || !depot.0.is_null(), "what is in the depot is somewhere");
        debug_assert!(slots <= self.used_slots || geometry.checks.keeps_states(), "slots in the depot are used (B2)");
        self.depot_len = 0;
        if slots > 0 {
            // SAFETY: the first `depot_len` batches were written and lie inside the depot's memory, which only this lock reaches.
            let slots = unsafe { core::slice::from_raw_parts(depot.0, slots) };
            // SAFETY: slots in the depot are used slots of the bin that nobody else has.
            unsafe { self.give_to_slabs(geometry, slots) }?;
        }
        Ok(())
    }

    fn take_recycled(&mut self, geometry: &Geometry<'_>, out: &mut [usize]) -> Result<usize, Twice> {
        let mut count = 0;
        while let (Some(slab), true) = (self.partial, count < out.len()) {
            // SAFETY: a slab in `partial` is this bin's, whose lock is held.
            count += unsafe { geometry.take(slab, &mut out[count..]) }.map_err(Twice)?;
            if geometry.recycled(slab) == 0 {
                self.unlink(slab);
            }
        }
        self.used_slots += count;
        Ok(count)
    }

    fn carve(&mut self, geometry: &Geometry<'_>, most: usize) -> Option<Fresh> {
        let slab = match self.current {
            Some(slab) if geometry.fresh_room(slab) > 0 => slab,
            _ => {
                let slab = geometry.open(self.slab_count + 1 >= HUGE_FROM_SLABS)?;
                self.slab_count += 1;
                self.current.insert(slab)
            }
        };
        let range = geometry.carve(slab, most);
        self.used_slots += range.len() / geometry.class.slot_bytes();
        Some(Fresh { range, zeroed: slab.zeroed.get() })
    }

    /// Whether a slab can be the one to carve from (B3).
    fn may_be_current(&self, geometry: &Geometry<'_>, slab: &SlabHeader) -> bool {
        self.current.is_none_or(|current| core::ptr::eq(current, slab) || geometry.fresh_room(current) == 0)
    }

    /// # Safety
    /// As for [`Bin::give`].
    unsafe fn give_to_slabs(&mut self, geometry: &Geometry<'_>, slots: &[usize]) -> Result<(), Twice> {
        if geometry.has_trunks() {
            // What is freed wrongly in an unchecked family is told there, in debug builds, or not
            // at all.
            self.used_slots = self.used_slots.wrapping_sub(slots.len());
            // SAFETY: the same contract.
            unsafe { self.give_runs(geometry, slots) };
            return Ok(());
        }
        let (view, unit_shift) = (Directory::of(geometry.unit_shift).view(), geometry.unit_shift);
        let mut start = 0;
        while start < slots.len() {
            let slab = view.header(slots[start], unit_shift);
            if !geometry.owns(slab) {
                // A racing free of the same slot has let the slab be closed: the header may be another bin's by now (S1).
                return Err(Twice(slots[start]));
            }
            let was_full = geometry.recycled(slab) == 0;
            // SAFETY: used slots of this bin, whose lock is held, the first of them in this slab.
            let given = unsafe { geometry.give(slab, &slots[start..]) }.map_err(Twice)?;
            if was_full {
                self.link(slab);
            }
            start += given;
            self.used_slots -= given;
            if slab.used.get() == 0 {
                self.retire(geometry, slab);
            }
        }
        Ok(())
    }

    /// # Safety
    /// As for [`Bin::give`], where free lists are trunks.
    #[inline(never)]
    unsafe fn give_runs(&mut self, geometry: &Geometry<'_>, slots: &[usize]) {
        let (view, unit_shift) = (Directory::of(geometry.unit_shift).view(), geometry.unit_shift);
        let slot_bytes = geometry.class.slot_bytes();
        let mut rest = slots;
        while let &[first, ..] = rest {
            let (mut lowest, mut length, mut ascending) = (first, 1, true);
            // Neighbours often come back together: they are one entry in the free list.
            if rest.len() > 1
                && (rest[1] == first.wrapping_add(slot_bytes) || rest[1] == first.wrapping_sub(slot_bytes))
            {
                (length, ascending) = run_length(rest, slot_bytes);
                // Two slabs may be neighbours too: a run ends with its slab.
                let offset = first & ((1 << unit_shift) - 1);
                let beyond = if ascending { (1 << unit_shift) - 1 - offset } else { offset };
                length = length.min((beyond >> geometry.class.index()) + 1);
                lowest = if ascending { first } else { rest[length - 1] };
            }
            rest = &rest[length..];
            let slab = view.header(lowest, unit_shift);
            geometry.debug_verify(slab, lowest, length);
            if slab.trunks.is_empty() {
                self.link(slab);
            }
            // SAFETY: used slots of a slab of this bin, whose lock is held.
            unsafe { geometry.give_run(slab, lowest, length, ascending) };
            if slab.used.get() == 0 {
                self.retire(geometry, slab);
            }
        }
    }

    /// Gives the unit of an empty slab back, unless its guards stay: then it is here for those who come next.
    #[cold]
    fn retire(&mut self, geometry: &Geometry<'_>, slab: &'static SlabHeader) {
        if !geometry.unguard(slab) {
            return;
        }
        if geometry.recycled(slab) > 0 {
            self.unlink(slab);
        }
        if self.current.is_some_and(|current| core::ptr::eq(current, slab)) {
            self.current = None;
        }
        self.slab_count -= 1;
        geometry.close(slab);
    }

    /// Retires the slabs that are empty and whose guards stayed.
    fn retire_empty(&mut self, geometry: &Geometry<'_>) {
        let mut next = self.partial;
        while let Some(slab) = next {
            next = slab.next.get();
            if slab.used.get() == 0 {
                self.retire(geometry, slab);
            }
        }
    }

    fn link(&mut self, slab: &'static SlabHeader) {
        if let Some(first) = self.partial {
            first.previous.set(Some(slab));
        }
        slab.next.set(self.partial);
        slab.previous.set(None);
        self.partial = Some(slab);
    }

    fn unlink(&mut self, slab: &'static SlabHeader) {
        match slab.previous.get() {
            Some(previous) => previous.next.set(slab.next.get()),
            None => self.partial = slab.next.get(),
        }
        if let Some(next) = slab.next.get() {
            next.previous.set(slab.previous.get());
        }
        slab.next.set(None);
        slab.previous.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Checks;
    use crate::region::UnitPool;
    use crate::size_class::SizeClass;
    use crate::states::{State, States};

    const UNIT_SHIFT: u32 = 16;
    const NO_DEPOT: DepotMemory = DepotMemory(core::ptr::null_mut());

    fn fresh(bin: &Bin, geometry: &Geometry<'_>) -> usize {
        bin.take_one(geometry, NO_DEPOT).unwrap().unwrap().0
    }

    #[test]
    fn a_slot_that_comes_back_after_its_slab_leaves_the_next_owner_alone() {
        let pool = Lock::new(UnitPool::new(16).with_states(true));
        let of = |class, tag| {
            let class = SizeClass::from_index(class);
            Geometry { class, unit_shift: 16, tag, checks: Checks::Checked, pool: &pool, family: "Late" }
        };
        let (small, large) = (of(6, 0x7001), of(8, 0x7002));
        let (late_bin, next_bin) = (Bin::new(), Bin::new());
        let late = fresh(&late_bin, &small);
        // SAFETY: taken above, and not used.
        unsafe { late_bin.give(&small, NO_DEPOT, &[late]) }.unwrap();
        let next = fresh(&next_bin, &large);
        assert_eq!(next >> 16, late >> 16, "the other bin has the slab now");
        let kept = fresh(&late_bin, &small);
        // SAFETY: not kept: the slot is the other bin's, and the call must see that.
        let found = unsafe { late_bin.give(&small, NO_DEPOT, &[late]) };
        assert_eq!(found.unwrap_err().0, late);
        assert!(late_bin.0.lock().partial.is_none(), "the slab of another bin is not linked");
        let header = Directory::of(16).header(next);
        assert_eq!(header.used.get(), 1);
        // SAFETY: taken above, and not used.
        unsafe { next_bin.give(&large, NO_DEPOT, &[next]) }.unwrap();
        assert_eq!(next_bin.counts(&large).slab_count, 0, "it closes its slab as if nothing had been");
        assert_ne!(kept >> 16, next >> 16);
    }

    /// The state that two frees at once may leave: the second stores what the first has moved on from.
    fn freed_again(slot: usize, class: SizeClass) {
        // SAFETY: a region that has a slab of a family with states.
        unsafe { States::new(UNIT_SHIFT, class).place(slot) }.set(State::CACHED);
    }

    #[test]
    fn a_slot_that_comes_back_twice_is_told_also_where_its_slab_is_gone() {
        let class = SizeClass::from_index(15);
        for others in [0, 1] {
            let pool = Lock::new(UnitPool::new(UNIT_SHIFT).with_states(true));
            let checks = Checks::Checked;
            let geometry = Geometry { class, unit_shift: UNIT_SHIFT, tag: 77, checks, pool: &pool, family: "Test" };
            let bin = Bin::new();
            let take = || bin.take_one(&geometry, NO_DEPOT).unwrap().unwrap().0;
            let (slot, others) = (take(), (0..others).map(|_| take()).collect::<Vec<_>>());
            freed_again(slot, class);
            // SAFETY: taken above, and given up.
            unsafe { bin.give(&geometry, NO_DEPOT, &[slot]) }.unwrap();
            freed_again(slot, class);
            // SAFETY: a misuse, which the bin finds before it does anything.
            let again = unsafe { bin.give(&geometry, NO_DEPOT, &[slot]) };
            assert!(matches!(again, Err(Twice(found)) if found == slot));
            assert_eq!(bin.counts(&geometry).out_slots, others.len());
        }
    }
}
