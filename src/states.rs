//! What each slot of a checked family is: one byte per slot, outside of the slots, found from the address alone.
//!
//! ```text
//!            carve                    push                     flush to a slab
//!   NEVER ───────────► LIVE ──────────────────► CACHED ───────────────────────► IN_BIN
//!     ▲                  ▲      deallocate      │    ▲       under the bin's lock   │
//!     │ slab closed      └──────── pop ─────────┘    └────────── refill ────────────┘
//! ```
//!
//! The first units of a region hold the bytes, 1/16 of a unit for each unit, for slots of 16 bytes and more:
//!
//! ```text
//!   region │ side units │ slabs …                 state of a slot = region + unit × (unit bytes / 16) + index in its slab
//! ```
//!
//! **T1** The bytes of a unit that is no slab are all `NEVER`. **T2** Only whoever has a slot moves its byte, as drawn; who finds
//! another byte than the arrow begins with has found a misuse and reports it.
//!
//! Why loads and stores are enough. A free is `load LIVE, store CACHED`, an allocation `load CACHED, store LIVE`: no atomic
//! read-modify-write, which would cost more than all the rest of the call. Two frees of one slot of which one happens before the other
//! (in one thread, or in two that synchronise) are told apart at the second. Two at the same instant may both find `LIVE`; the
//! slot is then in two magazines with one byte. Whichever thread allocates it or flushes it second finds `LIVE` or `IN_BIN` there and
//! reports, so it is found at the latest when the slot would be handed out a second time. What is left: both frees *and* both of
//! the following moves fall between the other thread's load and store, a few instructions apart each time, or one of the threads
//! is stopped by the system between its load and its store for as long as the other takes to free and allocate the slot again.

use core::fmt;

use crate::header::UNIT_COUNT;
use crate::size_class::SizeClass;
use crate::sync::{AtomicU8, Relaxed};

/// The smallest slot that has a state is of 16 bytes.
const LEAST_SHIFT: u32 = 4;

/// What a slot is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u8);

impl State {
    /// Fresh: in a slab or in a thread's fresh range.
    pub(crate) const NEVER: Self = Self(0);
    /// Free, in its slab's list.
    pub(crate) const IN_BIN: Self = Self(1);
    /// Free, in a thread's cache or in the depot.
    pub(crate) const CACHED: Self = Self(2);
    /// With a client.
    pub(crate) const LIVE: Self = Self(3);

    /// Whether the slot has been freed and not allocated since.
    pub(crate) fn is_freed(self) -> bool {
        self == Self::IN_BIN || self == Self::CACHED
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NEVER => "never allocated",
            Self::IN_BIN => "in its bin",
            Self::CACHED => "in a cache",
            Self::LIVE => "live",
            _ => "damaged",
        })
    }
}

/// The byte of one slot.
#[derive(Clone, Copy)]
pub(crate) struct Place(&'static AtomicU8);

impl Place {
    // Relaxed, here and below: the bytes publish nothing. Whoever has a slot got it through something that synchronises
    // (a channel, a lock, the bin's lock) from whoever had it before, and sees that one's store; see above for those who don't.

    #[inline(always)]
    pub(crate) fn get(self) -> State {
        State(self.0.load(Relaxed))
    }

    #[inline(always)]
    pub(crate) fn set(self, state: State) {
        self.0.store(state.0, Relaxed);
    }

    /// Goes along one arrow; `false` if the byte is not what the arrow begins with.
    #[inline(always)]
    pub(crate) fn go(self, from: State, to: State) -> bool {
        let right = self.get() == from;
        if right {
            self.set(to);
        }
        right
    }
}

/// Where the bytes of one class's slots are.
#[derive(Clone, Copy)]
pub(crate) struct States {
    unit_shift: u32,
    slot_shift: u32,
}

impl States {
    #[inline(always)]
    pub(crate) const fn new(unit_shift: u32, class: SizeClass) -> Self {
        debug_assert!(class.index() >= LEAST_SHIFT as usize);
        Self { unit_shift, slot_shift: class.index() as u32 }
    }

    /// The byte of the slot that holds an address.
    ///
    /// # Safety
    /// A slab of this unit size and class, of a family that keeps states, holds the address.
    #[inline(always)]
    pub(crate) unsafe fn place(self, address: usize) -> Place {
        let place = core::ptr::with_exposed_provenance::<AtomicU8>(self.byte(address));
        // SAFETY: the side units of such a region are committed before its first slab is opened and never given back; the
        // region's provenance was exposed where it was claimed. A byte is only ever used as an atomic while its slab is open.
        Place(unsafe { &*place })
    }

    #[inline(always)]
    const fn byte(self, address: usize) -> usize {
        let region = address & !((UNIT_COUNT << self.unit_shift) - 1);
        // The unit's number times 1/16 of a unit, in one shift: its bits stand where they would after the multiplication.
        let share = (address >> LEAST_SHIFT) & ((UNIT_COUNT - 1) << (self.unit_shift - LEAST_SHIFT));
        region + share + ((address & ((1 << self.unit_shift) - 1)) >> self.slot_shift)
    }

    /// Makes the slots of a slab that is being closed `NEVER` again (T1).
    ///
    /// # Safety
    /// As for [`place`](Self::place), `first` being the slab's first byte; all its slots are in its list or at or above
    /// offset `fresh`, and the bin's lock is held.
    pub(crate) unsafe fn forget(self, first: usize, fresh: usize) {
        let bytes = core::ptr::with_exposed_provenance_mut::<u8>(self.byte(first));
        // SAFETY: the slab's own bytes. Nobody legitimately has one of its slots.
        unsafe { bytes.write_bytes(State::NEVER.0, fresh >> self.slot_shift) };
    }
}

/// How many of a region's first units hold states, if it has `unit_count` units.
pub(crate) const fn side_unit_count(unit_count: usize) -> usize {
    unit_count.div_ceil(1 << LEAST_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::UNIT_SHIFTS;
    use crate::size_class::CLASS_COUNT;

    #[test]
    fn every_slot_has_a_byte_of_its_own_in_the_side_units() {
        for unit_shift in UNIT_SHIFTS {
            for class in (LEAST_SHIFT as usize..(unit_shift as usize).min(CLASS_COUNT)).map(SizeClass::from_index) {
                let states = States::new(unit_shift, class);
                let region = 7 * (UNIT_COUNT << unit_shift);
                let mut last = region - 1;
                for unit in 0..UNIT_COUNT {
                    let first = region + (unit << unit_shift);
                    assert!(states.byte(first) > last);
                    last = states.byte(first + (1 << unit_shift) - 1);
                    assert_eq!(last - states.byte(first) + 1, (1 << unit_shift) / class.slot_bytes());
                    let slot = first + class.slot_bytes();
                    assert_eq!(states.byte(slot), states.byte(first) + 1);
                    assert_eq!(states.byte(slot - 1), states.byte(first), "any address in the slot has its byte");
                    let side_bytes = side_unit_count(unit + 1) << unit_shift;
                    assert!(last < region + side_bytes, "a region of {} units holds its states", unit + 1);
                }
            }
        }
    }
}
