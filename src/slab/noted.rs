//! The free list of a slab whose family keeps states: one bit per slot beside the states, nothing in the slots.
//!
//! What a client writes to a slot after it freed it can so never lead an allocation astray. The bits of a region stand where
//! the states of the smallest class would be for the units that hold the states themselves:
//!
//! ```text
//!   region │ … │ bits of unit 0 │ bits of unit 1 │ … │ states of the 16-byte class from the first slab on │ slabs …
//! ```
//!
//! **N1** A slot's bit is set exactly while its state is `IN_BIN` and nobody has claimed it to give its page back. **N2** Only the holder of the
//! bin's lock touches bits.

use core::ops::Range;
use core::ptr::NonNull;

use super::Geometry;
use super::runs::run_length;
use crate::header::{STATE_UNIT_COUNT, SlabHeader, UNIT_COUNT};
use crate::os;
use crate::states::{self, LEAST_SHIFT, State, States, region_of};
use crate::sync::{AtomicU32, Relaxed};

/// A unit's bits take one byte for 128 bytes of slots, as many as the smallest class has.
pub(super) const BITS_SHIFT: u32 = 7;
const _: () = assert!(UNIT_COUNT >> BITS_SHIFT == STATE_UNIT_COUNT >> 4, "the bits fill what no state needs");

impl Geometry<'_> {
    fn states(&self) -> States {
        States::new(self.unit_shift, self.class)
    }

    /// The first word of a slab's bits.
    pub(super) fn bits(&self, slab: &SlabHeader) -> NonNull<u64> {
        let address = bits_of(slab.memory().addr(), self.unit_shift);
        // The region's provenance is exposed where the region is claimed.
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
    }

    /// Makes carved slots that nobody has had look as those that come back from a client, where the family keeps states. `Err`: this
    /// one has been with somebody, who freed it twice.
    ///
    /// # Safety
    /// Slots of one slab of this bin that were carved and are the caller's.
    pub(crate) unsafe fn note_fresh(&self, range: Range<usize>) -> Result<(), usize> {
        if self.checks.keeps_states() {
            for address in range.step_by(self.class.slot_bytes()) {
                // SAFETY: a slot of an open slab of this class.
                if !unsafe { self.states().place(address) }.go(State::NEVER, State::CACHED) {
                    return Err(address);
                }
            }
        }
        Ok(())
    }

    /// Puts used slots back, as many of the first as lie in `slab`; returns how many. `Err`: this one is in the list already, or with a
    /// client: it was freed twice.
    ///
    /// # Safety
    /// As for [`give`](Self::give), where the family keeps states; the first address lies in the slab.
    pub(super) unsafe fn give_noted(&self, slab: &SlabHeader, addresses: &[usize]) -> Result<usize, usize> {
        let (bits, base, slot_bytes) = (self.bits(slab), slab.memory().addr(), self.class.slot_bytes());
        // SAFETY: the first slot of an open slab of this class.
        let first = unsafe { self.states().place(base) };
        let mut given = 0;
        while given < addresses.len() {
            let offset = addresses[given].wrapping_sub(base);
            if offset >> self.unit_shift != 0 && given > 0 {
                break;
            }
            self.verify(slab, &addresses[given..=given]);
            let slot = self.class.slots_in(offset);
            // Neighbours often come back together, and two slabs may be neighbours too: a run ends with its slab.
            let (length, ascends) = run_length(&addresses[given..], slot_bytes);
            let count = length.min(if ascends { self.slot_count(slab) - slot } else { slot + 1 });
            let lowest = if ascends { slot } else { slot + 1 - count };
            // SAFETY: a slot of the slab.
            let place = unsafe { first.behind(lowest) };
            // SAFETY: slots of the slab, which the caller gives up.
            unsafe { place.go_all(count, State::CACHED, State::IN_BIN) }
                .map_err(|wrong| base + (lowest + wrong) * slot_bytes)?;
            // SAFETY: slots of the slab; the bin's lock is held.
            unsafe { set_bits(bits, lowest, count) }.map_err(|twice| base + twice * slot_bytes)?;
            given += count;
        }
        Ok(given)
    }

    /// Puts used slots of one slab back that lie in no order, as in hardened families. `Err`: as for [`give_noted`](Self::give_noted).
    ///
    /// # Safety
    /// As for [`give`](Self::give), and all addresses are slots of `slab`.
    pub(super) unsafe fn give_mixed(&self, slab: &SlabHeader, addresses: &[usize]) -> Result<(), usize> {
        let (bits, base) = (self.bits(slab), slab.memory().addr());
        // SAFETY: the first slot of an open slab of this class.
        let first = unsafe { self.states().place(base) };
        for &address in addresses {
            let slot = self.class.slots_in(address - base);
            // SAFETY: a slot of the slab.
            if !unsafe { first.behind(slot) }.go(State::CACHED, State::IN_BIN) {
                return Err(address);
            }
            // SAFETY: below `word_count`, in the slab's own part of the side units.
            let word = unsafe { bits.add(slot / 64) };
            // SAFETY: committed with the region's first slab, and nobody else's (N2).
            let set = unsafe { word.read() };
            if set & 1 << (slot % 64) != 0 {
                // As in `set_bits`.
                return Err(address);
            }
            // SAFETY: as above.
            unsafe { word.write(set | 1 << (slot % 64)) };
        }
        Ok(())
    }

    /// Moves recycled slots out of the slab to fill `out`. `Err`: this one has been freed a second time meanwhile.
    ///
    /// # Safety
    /// As for [`take`](Self::take), and the list has at least `out.len()` slots.
    pub(super) unsafe fn take_noted(&self, slab: &SlabHeader, out: &mut [usize]) -> Result<(), usize> {
        let (bits, base, slot_bytes) = (self.bits(slab), slab.memory().addr(), self.class.slot_bytes());
        // SAFETY: the first slot of an open slab of this class.
        let first = unsafe { self.states().place(base) };
        let word_count = self.slot_words();
        let mut index = self.first_word(slab) % word_count;
        let mixed = self.checks.is_hardened();
        // The last is what a magazine pops first: addresses then rise.
        let mut rest = out;
        // As many words as there are, and the first one again: it may have been left half.
        for _ in 0..=word_count {
            // SAFETY: below `word_count`, in the slab's own part of the side units.
            let word = unsafe { bits.add(index) };
            // SAFETY: committed with the region's first slab, and nobody else's (N2).
            let mut set = unsafe { word.read() };
            while set != 0 && !rest.is_empty() {
                let bit = set.trailing_zeros();
                if mixed {
                    // Slots of hardened families rarely have neighbours in the list.
                    let (slot, last) = (index * 64 + bit as usize, rest.len() - 1);
                    set &= set - 1;
                    rest[last] = base + slot * slot_bytes;
                    // SAFETY: a slot of the slab.
                    if !unsafe { first.behind(slot) }.go(State::IN_BIN, State::CACHED) {
                        // SAFETY: as for the read; those before were taken.
                        unsafe { word.write(set) };
                        return Err(rest[last]);
                    }
                    rest = &mut rest[..last];
                    continue;
                }
                let count = ((set >> bit).trailing_ones() as usize).min(rest.len());
                set &= !((u64::MAX >> (64 - count)) << bit);
                let slot = index * 64 + bit as usize;
                let address = base + slot * slot_bytes;
                let (later, now) = rest.split_at_mut(rest.len() - count);
                for (behind, place) in now.iter_mut().rev().enumerate() {
                    *place = address + behind * slot_bytes;
                }
                // SAFETY: a slot of the slab.
                let place = unsafe { first.behind(slot) };
                // SAFETY: slots of the slab, which are in its list and so in the hands of who holds the bin's lock.
                if let Err(wrong) = unsafe { place.go_all(count, State::IN_BIN, State::CACHED) } {
                    // SAFETY: as for the read; those before were taken.
                    unsafe { word.write(set) };
                    return Err(address + wrong * slot_bytes);
                }
                rest = later;
            }
            // SAFETY: as for the read.
            unsafe { word.write(set) };
            if rest.is_empty() {
                break;
            }
            index = if index + 1 == word_count { 0 } else { index + 1 };
        }
        debug_assert!(rest.is_empty(), "the slab counts its free slots (N1)");
        if !mixed {
            slab.hint.set(index as u32);
        }
        Ok(())
    }

    /// Where to look first: where the last look ended, or anywhere in hardened families.
    fn first_word(&self, slab: &SlabHeader) -> usize {
        if !self.checks.is_hardened() {
            return slab.hint.get() as usize;
        }
        // A xorshift generator (Marsaglia 2003), begun when the slab is first looked into, and led
        // elsewhere in each child of a fork. Relaxed: a number that is written where there is one
        // thread only.
        let mut state = match slab.hint.get() {
            0 => os::random() as u32,
            state => state ^ CHILD.load(Relaxed),
        };
        state = state.max(1);
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        slab.hint.set(state);
        state as usize
    }

    /// Makes the slots of a slab that is being closed `NEVER` again, and its list empty.
    ///
    /// # Safety
    /// An empty slab of this class; the bin's lock is held.
    pub(super) unsafe fn forget(&self, slab: &SlabHeader) {
        let fresh = slab.fresh.get() as usize;
        // SAFETY: the caller's promise.
        unsafe { self.states().forget(slab.memory().addr(), fresh) };
        let words = fresh.div_ceil(64);
        // SAFETY: the slab's own words, up to the last slot that was ever handed out.
        unsafe { self.bits(slab).write_bytes(0, words) };
    }
}

/// Gives the memory of one unit's states and bits back to the system: all of them are zero.
///
/// # Safety
/// The unit is no slab and cannot become one meanwhile; it lies in a region whose family keeps states and has opened a slab in it.
pub(crate) unsafe fn give_side_tables_back(unit: usize, unit_shift: u32) {
    // SAFETY: the same contract.
    unsafe { states::give_back(unit, unit_shift) };
    // SAFETY: the bits of a unit that is no slab.
    unsafe { states::give_back_zeros(bits_of(unit, unit_shift), 1 << (unit_shift - BITS_SHIFT)) };
}

/// Where the bits of a unit's slots are.
fn bits_of(first: usize, unit_shift: u32) -> usize {
    let unit = (first >> unit_shift) % UNIT_COUNT;
    let table = (UNIT_COUNT << unit_shift) >> LEAST_SHIFT;
    region_of(first, unit_shift) + table + (unit << (unit_shift - BITS_SHIFT))
}

/// What leads the random places in slabs elsewhere than in the processes that this one is a fork
/// of; 0 if it is none.
static CHILD: AtomicU32 = AtomicU32::new(0);

/// Lets the child of a fork look into its slabs in an order of its own: as long as it is the
/// child's only thread.
#[cfg(all(unix, not(any(miri, loom))))]
pub(crate) fn begin_child() {
    CHILD.store(os::random() as u32, Relaxed);
}

/// Sets the bits of slots that lie one after another. `Err`: this one's is set: its state was changed by a free that had found it live
/// before the other gave it back.
///
/// # Safety
/// The bits are in the slab's own part of the side units (N2).
#[inline(always)]
unsafe fn set_bits(bits: NonNull<u64>, lowest: usize, count: usize) -> Result<(), usize> {
    let (mut slot, mut left) = (lowest, count);
    while left > 0 {
        let here = left.min(64 - slot % 64);
        let ones = (u64::MAX >> (64 - here)) << (slot % 64);
        // SAFETY: the caller's promise.
        let word = unsafe { bits.add(slot / 64) };
        // SAFETY: as above, committed with the region's first slab.
        let set = unsafe { word.read() };
        if set & ones != 0 {
            return Err(slot - slot % 64 + (set & ones).trailing_zeros() as usize);
        }
        // SAFETY: as above.
        unsafe { word.write(set | ones) };
        (slot, left) = (slot + here, left - here);
    }
    Ok(())
}

#[cfg(all(test, unix, not(any(miri, loom))))]
mod tests {
    use super::*;
    use crate::checks::Checks;
    use crate::huge_pages::HugePages;
    use crate::region::UnitPool;
    use crate::size_class::SizeClass;
    use crate::sync::Lock;

    /// Where a hardened family looks into one slab, five times.
    fn looks(geometry: &Geometry<'_>, slab: &SlabHeader) -> [u8; 20] {
        let mut bytes = [0; 20];
        for four in bytes.chunks_exact_mut(4) {
            four.copy_from_slice(&(geometry.first_word(slab) as u32).to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_child_looks_into_its_slabs_in_an_order_of_its_own() {
        let pool = Lock::new(UnitPool::new(16).with_states(true));
        let class = SizeClass::natural(6);
        let checks = Checks::Hardened;
        let huge_pages = HugePages::Adaptive;
        let geometry =
            Geometry { class, unit_shift: 16, tag: 0x7003, checks, huge_pages, pool: &pool, family: "Order" };
        let slab = geometry.open(1).unwrap();
        looks(&geometry, slab);
        let in_a_child = || {
            let mut pipe = [0; 2];
            // SAFETY: `pipe` writes two numbers to a live array.
            assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
            // SAFETY: the child only looks, writes and exits.
            let process = unsafe { libc::fork() };
            assert!(process >= 0);
            if process == 0 {
                // As the handler does, which is there only once a family of the process has been
                // used.
                begin_child();
                let own = looks(&geometry, slab);
                // SAFETY: reads that many bytes of a live array.
                unsafe { libc::write(pipe[1], own.as_ptr().cast(), own.len()) };
                // SAFETY: no preconditions.
                unsafe { libc::_exit(0) };
            }
            let mut other = [0; 20];
            // SAFETY: writes at most that many bytes to a live array.
            assert_eq!(unsafe { libc::read(pipe[0], other.as_mut_ptr().cast(), other.len()) }, 20);
            // SAFETY: a child that has not been waited for; nobody asks how it ended.
            unsafe { libc::waitpid(process, core::ptr::null_mut(), 0) };
            other
        };
        let (one, two) = (in_a_child(), in_a_child());
        let own = looks(&geometry, slab);
        assert!(one != two && one != own && two != own, "{one:?} {two:?} {own:?}");
    }
}
