//! What each slot of a checked family is: one byte per slot, outside of the slots, found from the address alone.
//!
//! ```text
//!            carve                    push                     flush to a slab
//!   NEVER ───────────► LIVE ──────────────────► CACHED ───────────────────────► IN_BIN
//!     ▲                  ▲      deallocate      │    ▲       under the bin's lock   │
//!     │ slab closed      └──────── pop ─────────┘    └────────── refill ────────────┘
//! ```
//!
//! The first eighth of a region holds the bytes, a table for each class over the whole region: twice as much address space
//! as if each unit had its bytes in one place, for half the arithmetic. Only what belongs to slabs is ever touched.
//!
//! ```text
//!   region │ 16-byte class │ 32-byte class │ … │ slabs …          state = region + table of the class + index in the region
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

use crate::header::{STATE_UNIT_COUNT, UNIT_COUNT};
use crate::size_class::SizeClass;
use crate::sync::{AtomicU8, Relaxed, clear};

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
    /// With a client, and with a mark behind what the client asked for; only in hardened families.
    pub(crate) const MARKED: Self = Self(4);

    /// Whether a client has the slot.
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        self == Self::LIVE || self == Self::MARKED
    }

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
            Self::MARKED => "live and marked",
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

impl Place {
    /// The byte of the slot `slots` behind this one.
    ///
    /// # Safety
    /// That slot is of the same slab.
    #[inline(always)]
    pub(crate) unsafe fn behind(self, slots: usize) -> Self {
        let place = core::ptr::with_exposed_provenance::<AtomicU8>(core::ptr::from_ref(self.0).addr());
        // SAFETY: the bytes of a slab's slots lie one after another, committed as this one is.
        Self(unsafe { &*place.wrapping_add(slots) })
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

    /// The byte of the slot of this class that holds an address.
    ///
    /// # Safety
    /// The address lies in a region of this unit size whose family keeps states and has opened a slab in it.
    #[inline(always)]
    pub(crate) unsafe fn place(self, address: usize) -> Place {
        let region = core::ptr::with_exposed_provenance::<AtomicU8>(region_of(address, self.unit_shift));
        // SAFETY: the side units of such a region are committed before its first slab is opened and never given back; the
        // region's provenance was exposed where it was claimed. A byte is only used otherwise while its slab is closed (T1).
        Place(unsafe { &*region.wrapping_add(self.offset(address)) })
    }

    /// Where in its region the byte is.
    #[inline(always)]
    const fn offset(self, address: usize) -> usize {
        let region_bytes = UNIT_COUNT << self.unit_shift;
        self.table(region_bytes) + ((address & (region_bytes - 1)) >> self.slot_shift)
    }

    /// Where the class's table begins: the tables before it take half, a quarter … of those of all classes together.
    #[inline(always)]
    const fn table(self, region_bytes: usize) -> usize {
        (region_bytes >> (LEAST_SHIFT - 1)) - (region_bytes >> (self.slot_shift - 1))
    }

    /// Makes the slots of a slab that is being closed `NEVER` again (T1).
    ///
    /// # Safety
    /// As for [`place`](Self::place), `first` being the slab's first byte; all its slots are in its list or at or above
    /// offset `fresh`, and the bin's lock is held.
    pub(crate) unsafe fn forget(self, first: usize, fresh: usize) {
        let region = core::ptr::with_exposed_provenance_mut::<AtomicU8>(region_of(first, self.unit_shift));
        let bytes = region.wrapping_add(self.offset(first));
        // SAFETY: the slab's own bytes. Nobody legitimately has one of its slots.
        unsafe { clear(bytes, fresh >> self.slot_shift) };
    }
}

/// Whether an address lies in a unit that can be a slab: the states themselves are no slots, whatever their bytes say.
#[inline(always)]
pub(crate) const fn is_behind_states(address: usize, unit_shift: u32) -> bool {
    (address >> unit_shift) % UNIT_COUNT >= STATE_UNIT_COUNT
}

/// The first address of the region that an address would lie in.
#[inline(always)]
pub(crate) const fn region_of(address: usize, unit_shift: u32) -> usize {
    address & !((UNIT_COUNT << unit_shift) - 1)
}

const _: () =
    assert!(STATE_UNIT_COUNT == UNIT_COUNT >> (LEAST_SHIFT - 1), "the tables of all classes fill the state units");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::UNIT_SHIFTS;
    use crate::size_class::CLASS_COUNT;

    #[test]
    fn every_slot_has_a_byte_of_its_own_in_the_side_units() {
        for unit_shift in UNIT_SHIFTS {
            let region = 7 * (UNIT_COUNT << unit_shift);
            let mut last = None;
            for class in (LEAST_SHIFT as usize..(unit_shift as usize).min(CLASS_COUNT)).map(SizeClass::from_index) {
                let states = States::new(unit_shift, class);
                for unit in 0..UNIT_COUNT {
                    let first = region + (unit << unit_shift);
                    assert!(Some(states.offset(first)) > last);
                    let end = states.offset(first + (1 << unit_shift) - 1);
                    last = Some(end);
                    assert_eq!(end - states.offset(first) + 1, (1 << unit_shift) / class.slot_bytes());
                    let slot = first + class.slot_bytes();
                    assert_eq!(states.offset(slot), states.offset(first) + 1);
                    assert_eq!(states.offset(slot - 1), states.offset(first), "any address in the slot has its byte");
                }
            }
            assert!(last < Some(STATE_UNIT_COUNT << unit_shift));
        }
    }
}
