//! What all threads share of one (family, class): a lock, the slabs with room, and the depot.
//!
//! ```text
//!   take: depot ─► slabs with recycled slots ─► worn units ─► purged slots ─► fresh part of the current slab ─► a new slab from the pool
//!   give: depot, while it has room and the program is not only freeing ─► each slot to its slab ─► empty slab to the pool
//! ```
//!
//! The depot is a stack of slots, copied in and out under the lock, so that slots which pass from one thread to another
//! touch no slab. It keeps slabs from becoming empty, so a bin that only ever gets slots back empties it.
//!
//! What takes long is done without the lock: slots are *claimed*, out of their slab as if a cache had taken them, and *settled*
//! afterwards ([`slab::pages`](crate::slab)). So pages of free slots go back to the system; what nobody has needed for a second, all
//! of them on `trim` ([`purge`](crate::purge)).
//!
//! What is outside of the bin, in caches and with clients, is `used_slots − depot_len − claimed_slots` ([`Shelves`]). (A slot that was freed
//! twice at once may be in the depot and in its slab, until whoever gets it second is told.)

use core::ops::Range;

use crate::capacity::{DEPOT_LEAST_SLOTS, SURPLUS_SLOTS, depot_slots};
use crate::checks::Checks;
pub(crate) use crate::depot::DepotMemory;
use crate::region::PURGE_AFTER_MILLISECONDS;
pub(crate) use crate::slab::{BinCounts, Found, Fresh, Out, Taken, Twice};
use crate::slab::{Claim, Geometry, Least, Shelves};
use crate::sync::Lock;
use crate::waiting;

/// Slots of the depot that go to their slabs while the lock is held.
const EMPTIED_AT_ONCE: usize = 128;
/// So many slots come back while the lock is held.
const TAKEN_BACK_AT_ONCE: usize = 256;
/// Slabs that are looked at while the lock is held.
const LOOKED_AT_ONCE: usize = 32;
/// Slots of an unused range that go to their slab while the lock is held.
const GIVEN_AT_ONCE: usize = 64;

/// One bin. Padded so that two bins never share a pair of cache lines.
#[repr(align(128))]
pub struct Bin(Lock<State>);

struct State {
    slabs: Shelves,
    /// Slots in the depot.
    depot_len: usize,
    /// Whether it was written to since its own pages went to the system, and whether they are on their way there.
    depot_used: bool,
    depot_leaves: bool,
    /// Slots that came back since one was last taken.
    surplus: u32,
    /// When it was last asked what nobody needs, in milliseconds.
    looked_at: u32,
    /// Slots that nobody needed between the last two times, and whose pages have not gone back.
    unneeded: usize,
    /// Slabs to look at for them.
    unseen: u32,
    /// Whether no slot was asked for since the last look.
    quiet: bool,
}

// SAFETY: the headers that the state refers to belong to the lock around it (S1 in `slab`).
unsafe impl Send for State {}

impl Bin {
    /// So many bins without slabs.
    #[must_use]
    pub const fn several<const COUNT: usize>() -> [Self; COUNT] {
        [const { Self::new() }; COUNT]
    }

    pub(crate) const fn new() -> Self {
        Self(Lock::new(State {
            slabs: Shelves::new(),
            depot_len: 0,
            depot_used: false,
            depot_leaves: false,
            surplus: 0,
            looked_at: 0,
            unneeded: 0,
            unseen: 0,
            quiet: false,
        }))
    }

    /// Takes up to `out.len()` recycled slots, or else a range of at most `fresh` fresh ones; where these are short and few,
    /// whole cache lines before anything else. `None`: out of memory.
    pub(crate) fn take(
        &self,
        geometry: &Geometry<'_>,
        depot: DepotMemory,
        out: &mut [usize],
        fresh: usize,
    ) -> Result<Option<Taken>, Twice> {
        let mut state = self.0.lock();
        state.surplus = 0;
        state.quiet = false;
        if let Some(lines) = state.slabs.take_lines(geometry, fresh) {
            return Ok(Some(Taken::Fresh(lines)));
        }
        if let Some(count) = state.take_from_depot(depot, out) {
            return Ok(Some(Taken::Recycled(count)));
        }
        Ok(match state.slabs.take_recycled(geometry, out)? {
            0 => state.slabs.take_unused(geometry, fresh).map(Taken::Fresh),
            count => Some(Taken::Recycled(count)),
        })
    }

    /// Takes one slot, for a caller without a cache. Where the family keeps states it is `CACHED`, also a fresh one.
    pub(crate) fn take_one(&self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<Option<(usize, bool)>, Twice> {
        let mut state = self.0.lock();
        let mut one = [0];
        state.quiet = false;
        if state.slabs.first().is_none() && state.take_from_depot(depot, &mut one).is_some() {
            return Ok(Some((one[0], false)));
        }
        Ok(match state.slabs.take_recycled(geometry, &mut one)? {
            0 => match state.slabs.take_unused(geometry, 1) {
                Some(fresh) => {
                    // SAFETY: a slot that was carved just now: where states are kept, nothing else is unused.
                    unsafe { geometry.note_fresh(fresh.range.clone()) }.map_err(Twice)?;
                    Some((fresh.range.start, fresh.zeroed))
                }
                None => None,
            },
            _ => Some((one[0], false)),
        })
    }

    /// Takes slots back: into the depot if there are several and it has room, else each to its slab.
    ///
    /// # Safety
    /// The addresses are used slots of this bin, each once, and nobody uses them any more.
    pub(crate) unsafe fn give(
        &self,
        geometry: &Geometry<'_>,
        depot: DepotMemory,
        slots: &[usize],
    ) -> Result<(), Twice> {
        waiting::add();
        for slots in slots.chunks(TAKEN_BACK_AT_ONCE) {
            let mut state = self.0.lock();
            if state.give_to_depot(geometry, depot, slots) {
                continue;
            }
            // SAFETY: the caller's promise is the same.
            unsafe { state.slabs.give_to_slabs(geometry, slots) }?;
            let empties = state.surplus >= SURPLUS_SLOTS && state.depot_len > 0;
            drop(state);
            if empties {
                self.empty_depot(geometry, depot)?;
            }
        }
        Ok(())
    }

    /// Empties the depot, some slots at a time.
    fn empty_depot(&self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<(), Twice> {
        while self.0.lock().empty_depot(geometry, depot)? {}
        Ok(())
    }

    /// Takes back what is left of a fresh range.
    ///
    /// # Safety
    /// As for [`give`](Self::give): `range` is the rest of one range that [`take`](Self::take) returned.
    pub(crate) unsafe fn give_fresh(&self, geometry: &Geometry<'_>, range: Range<usize>) -> Result<(), Twice> {
        // SAFETY: the same contract.
        unsafe { self.give_unused(geometry, range, false) }
    }

    /// # Safety
    /// As for [`give_fresh`](Self::give_fresh).
    unsafe fn give_unused(&self, geometry: &Geometry<'_>, range: Range<usize>, claimed: bool) -> Result<(), Twice> {
        let mut state = self.0.lock();
        if state.slabs.uncarve(geometry, &range, claimed) {
            state.slabs.unclaim_tail(if claimed { geometry.class.slots_in(range.len()) } else { 0 });
            return Ok(());
        }
        drop(state);
        // SAFETY: the rest of a range of this bin's, which nobody has touched.
        unsafe { geometry.note_fresh(range.clone()) }.map_err(Twice)?;
        let mut slots = range.step_by(geometry.class.slot_bytes());
        let mut some = [0; GIVEN_AT_ONCE];
        loop {
            let count = some.iter_mut().zip(&mut slots).map(|(place, slot)| *place = slot).count();
            if count == 0 {
                return Ok(());
            }
            let mut state = self.0.lock();
            // SAFETY: slots of the range, which the caller gives up.
            unsafe { state.slabs.give_to_slabs(geometry, &some[..count]) }?;
            state.slabs.unclaim_tail(if claimed { count } else { 0 });
        }
    }

    /// Empties the depot, so that slabs that are free but for it can go back to the pool, and those that could not before.
    pub(crate) fn trim(&self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<(), Twice> {
        self.empty_depot(geometry, depot)?;
        self.0.lock().slabs.retire_empty(geometry);
        Ok(())
    }

    /// Gives back what the bits of full slabs stood in.
    pub(crate) fn give_words_back(&self, geometry: &Geometry<'_>) {
        if !geometry.has_bitmap() || self.0.lock().slabs.slab_count == 0 {
            return;
        }
        geometry.each_slab(usize::MAX, |slab| {
            let _state = self.0.lock();
            if geometry.owns(slab) {
                // SAFETY: a slab of this bin's, whose lock is held.
                unsafe { geometry.give_words_back(slab) };
            }
        });
    }

    /// Forgets all slabs and the depot's slots; returns how many were out. `None`: some are claimed, and nothing has changed.
    ///
    /// # Safety
    /// Nobody uses slots of the bin any more, and no cache holds any. The caller closes the slabs.
    pub(crate) unsafe fn forget_slabs(&self) -> Option<usize> {
        let mut state = self.0.lock();
        let out_slots = state.slabs.forget()?.saturating_sub(state.depot_len);
        (state.depot_len, state.unneeded, state.unseen) = (0, 0, 0);
        Some(out_slots)
    }

    /// As [`Shelves::close_all`], for who has the bin to itself.
    ///
    /// # Safety
    /// Nobody uses slots of the bin any more, nor has claimed any; no cache hands out any, and none is in the depot.
    pub(crate) unsafe fn close_slabs(&self, geometry: &Geometry<'_>, held: impl Iterator<Item = usize>) {
        // SAFETY: the same contract.
        unsafe { self.0.lock().slabs.close_all(geometry, held) };
    }

    /// What is out now.
    pub(crate) fn out(&self) -> Out {
        let state = self.0.lock();
        state.slabs.out(state.depot_len)
    }

    /// In the child of a fork: who had claimed slots, or was giving the depot's pages back, is not here.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn begin_child(&self) {
        self.return_depot();
        self.0.lock().slabs.lose_claimed();
    }

    /// Whether the depot's own pages may go to the system: nothing is in it, but was. It takes nothing until
    /// [`return_depot`](Self::return_depot). With `quiet` only if nobody has asked for a slot since the last look.
    pub(crate) fn take_depot(&self, quiet: bool) -> bool {
        let mut state = self.0.lock();
        let leaves = state.depot_len == 0 && state.depot_used && (state.quiet || !quiet);
        if leaves {
            (state.depot_used, state.depot_leaves) = (false, true);
        }
        leaves
    }

    /// Says that the depot's pages are with the system, or stay as they are.
    pub(crate) fn return_depot(&self) {
        self.0.lock().depot_leaves = false;
    }

    /// Gives the unit of an empty slab back that is kept for who comes next; whether there was one.
    pub(crate) fn give_up_empty(&self, geometry: &Geometry<'_>) -> bool {
        self.0.lock().slabs.retire_last(geometry)
    }

    /// Puts back what was claimed; returns how many pages of it the system has taken.
    pub(crate) fn settle(&self, geometry: &Geometry<'_>, claim: &Claim) -> usize {
        let mut state = self.0.lock();
        state.slabs.settle(geometry, claim);
        state.unneeded = state.unneeded.saturating_sub(claim.gone_slots);
        claim.gone_pages
    }

    /// Asks what nobody has needed since the last time, if that was a second ago: as many slots as were idle all the time, and what
    /// is in the depot if no slot was asked for.
    pub(crate) fn look(&self, geometry: &Geometry<'_>, depot: DepotMemory, now: u64) -> Result<(), Twice> {
        let mut state = self.0.lock();
        if u64::from((now as u32).wrapping_sub(state.looked_at)) < PURGE_AFTER_MILLISECONDS {
            return Ok(());
        }
        state.looked_at = now as u32;
        let is_quiet = core::mem::replace(&mut state.quiet, true);
        state.unneeded = state.slabs.look() + if is_quiet { state.depot_len } else { 0 };
        state.unseen = state.slabs.slab_count;
        if is_quiet {
            state.slabs.retire_last(geometry);
        }
        let empties = is_quiet && state.depot_len > 0;
        drop(state);
        if empties { self.empty_depot(geometry, depot) } else { Ok(()) }
    }

    /// Claims free slots of the next slab that nobody needs; with `all` of any slab, as many slabs as that says.
    pub(crate) fn claim(&self, geometry: &Geometry<'_>, mut all: Option<&mut usize>) -> Found {
        let mut state = self.0.lock();
        let are_huge = state.slabs.are_huge(geometry);
        let least = if all.is_some() { Least::Page } else { Least::where_unasked(are_huge) };
        for _ in 0..LOOKED_AT_ONCE {
            let ended = match &mut all {
                Some(left) => core::mem::replace(*left, left.saturating_sub(1)) == 0,
                None => state.unneeded < geometry.slots_of_a_page() || !state.has_unseen(),
            };
            // Those at the end have been free longest; who was looked at stands in front.
            let Some(slab) = state.slabs.last().filter(|_| !ended) else { return Found::End };
            state.slabs.bring_to_front(slab);
            let most = if all.is_some() { usize::MAX } else { state.unneeded };
            if geometry.is_worth_a_look(slab, least, most) {
                // Going through a slab's bits takes some microseconds, also where no page is free.
                let Some(mut claim) = state.slabs.claim(geometry, slab) else { return Found::Nothing };
                claim.limit(most, state.slabs.had_huge());
                return Found::Claim(claim);
            }
        }
        Found::Nothing
    }

    /// Takes all of the current slab that was never handed out, to give its memory back, if it can have any; without `any` only if nobody has
    /// taken from it for a second.
    pub(crate) fn take_tail(&self, geometry: &Geometry<'_>, any: bool) -> Option<Range<usize>> {
        self.0.lock().slabs.take_tail(geometry, any)
    }

    /// Gives back what [`take_tail`](Self::take_tail) returned.
    pub(crate) fn give_tail(&self, geometry: &Geometry<'_>, range: Range<usize>) -> Result<(), Twice> {
        // SAFETY: the rest of a slab, claimed and not handed out. It stays claimed until it is back, so that no reset comes between.
        unsafe { self.give_unused(geometry, range, true) }
    }

    /// The lock, for the time of a `fork`.
    #[cfg(all(unix, not(any(miri, loom))))]
    pub(crate) fn lock(&self) -> &Lock<impl Sized + use<>> {
        &self.0
    }

    /// How many slabs the bin has.
    pub(crate) fn slab_count(&self) -> usize {
        self.0.lock().slabs.slab_count()
    }

    pub(crate) fn counts(&self, geometry: &Geometry<'_>) -> BinCounts {
        let state = self.0.lock();
        state.slabs.counts(geometry, state.depot_len)
    }
}

impl State {
    /// Whether there is a slab left to look at, which is then done.
    fn has_unseen(&mut self) -> bool {
        let has = self.unseen > 0;
        self.unseen = self.unseen.saturating_sub(1);
        has
    }

    fn take_from_depot(&mut self, depot: DepotMemory, out: &mut [usize]) -> Option<usize> {
        let count = self.depot_len.min(out.len());
        if count == 0 || depot.0.is_null() {
            return None;
        }
        self.depot_len -= count;
        // SAFETY: B2 and `give_to_depot`: the slots below `depot_len` were written and lie inside the depot's memory.
        let top = unsafe { depot.0.add(self.depot_len) };
        // SAFETY: initialised places, reached only under the bin's lock.
        out[..count].copy_from_slice(unsafe { core::slice::from_raw_parts(top, count) });
        Some(count)
    }

    fn give_to_depot(&mut self, geometry: &Geometry<'_>, depot: DepotMemory, slots: &[usize]) -> bool {
        if slots.len() < DEPOT_LEAST_SLOTS && !geometry.has_guards() || depot.0.is_null() || self.depot_leaves {
            return false;
        }
        self.surplus = self.surplus.saturating_add(slots.len() as u32);
        if self.depot_len + slots.len() > depot_slots(geometry.class) || self.surplus > SURPLUS_SLOTS {
            return false;
        }
        if !(self.depot_used || depot.recommit(geometry.class)) {
            return false;
        }
        // SAFETY: `depot_len` is at most the number of slots that the depot has room for.
        let top = unsafe { depot.0.add(self.depot_len) };
        // SAFETY: room for the slots, reached only under the bin's lock; the source is a slice of the caller's.
        unsafe { core::ptr::copy_nonoverlapping(slots.as_ptr(), top, slots.len()) };
        self.depot_len += slots.len();
        self.depot_used = true;
        true
    }

    /// Gives some of the depot's slots to their slabs; whether there are more.
    fn empty_depot(&mut self, geometry: &Geometry<'_>, depot: DepotMemory) -> Result<bool, Twice> {
        // A heap's depots come while it is used: who asked for them before leaves them alone.
        let slots = if depot.0.is_null() { 0 } else { self.depot_len.min(EMPTIED_AT_ONCE) };
        debug_assert!(
            slots <= self.slabs.used_slots || geometry.checks != Checks::Default,
            "slots in the depot are used (B2)"
        );
        if slots == 0 {
            return Ok(false);
        }
        self.depot_len -= slots;
        // SAFETY: the slots from `depot_len` on were written and lie inside the depot's memory.
        let first = unsafe { depot.0.add(self.depot_len) };
        // SAFETY: as above; only this lock reaches them.
        let slots = unsafe { core::slice::from_raw_parts(first, slots) };
        // SAFETY: slots in the depot are used slots of the bin that nobody else has.
        unsafe { self.slabs.give_to_slabs(geometry, slots) }?;
        Ok(self.depot_len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Directory;
    use crate::huge_pages::HugePages;
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
            let class = SizeClass::natural(class);
            Geometry {
                class,
                unit_shift: 16,
                tag,
                checks: Checks::Checked,
                huge_pages: HugePages::Adaptive,
                pool: &pool,
                family: "Late",
            }
        };
        let (small, large) = (of(6, 0x7001), of(8, 0x7002));
        let (late_bin, next_bin) = (Bin::new(), Bin::new());
        let late = fresh(&late_bin, &small);
        // SAFETY: taken above, and not used.
        unsafe { late_bin.give(&small, NO_DEPOT, &[late]) }.unwrap();
        late_bin.trim(&small, NO_DEPOT).unwrap();
        let next = fresh(&next_bin, &large);
        assert_eq!(next >> 16, late >> 16, "the other bin has the slab now");
        let kept = fresh(&late_bin, &small);
        // SAFETY: not kept: the slot is the other bin's, and the call must see that.
        let found = unsafe { late_bin.give(&small, NO_DEPOT, &[late]) };
        assert_eq!(found.unwrap_err().0, late);
        assert!(late_bin.0.lock().slabs.first().is_none(), "the slab of another bin is not linked");
        // SAFETY: a slot of a slab.
        let header = unsafe { Directory::of(16).header(next) };
        assert_eq!(header.used.get(), 1);
        // SAFETY: taken above, and not used.
        unsafe { next_bin.give(&large, NO_DEPOT, &[next]) }.unwrap();
        next_bin.trim(&large, NO_DEPOT).unwrap();
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
        let class = SizeClass::natural(15);
        for others in [0, 1] {
            let pool = Lock::new(UnitPool::new(UNIT_SHIFT).with_states(true));
            let checks = Checks::Checked;
            let huge_pages = HugePages::Adaptive;
            let geometry =
                Geometry { class, unit_shift: UNIT_SHIFT, tag: 77, checks, huge_pages, pool: &pool, family: "Test" };
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
