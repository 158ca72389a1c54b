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
//! as if each unit had its bytes in one place, for half the arithmetic. Only what belongs to slabs is ever touched. The tables stand
//! like the rows of a binary heap, the one of slots half as long behind it, so that one shift finds the table and the byte:
//!
//! ```text
//!   region │ … │ 64-byte class │ 32-byte class │ 16-byte class │ slabs …      state = region + (region's length + offset) / slot
//! ```
//!
//! Tables for each of the spaced classes would be longer than an eighth. There each unit has its bytes in one place, where those of
//! the 16-byte class would be; so a byte is only one of a class if the slab's tag says that the slab is.
//!
//! ```text
//!   region │ … │ unit 8 │ unit 9 │ … │ unit 63 │ slabs …      state = region + (region's length + unit's offset) / 16 + slot's number
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
use core::ptr::NonNull;

use crate::header::{STATE_UNIT_COUNT, UNIT_COUNT};
use crate::marks::{GENERATION_COUNT, Generation};
use crate::os;
use crate::size_class::{Classes, SizeClass};
use crate::sync::{AtomicU8, Relaxed, clear};

/// The smallest slot that has a state is of 16 bytes.
pub(crate) const LEAST_SHIFT: u32 = 4;

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
    /// The first of those with a mark.
    const MARKED: Self = Self(Self::LIVE.0 + 1);

    /// With a client, and with a mark of this generation behind what the client asked for; only in
    /// hardened families.
    pub(crate) fn marked(generation: Generation) -> Self {
        Self(Self::MARKED.0 + generation.number())
    }

    /// The generation of the mark, if there is one.
    pub(crate) fn mark(self) -> Option<Generation> {
        Generation::new(usize::from(self.0.wrapping_sub(Self::MARKED.0)))
    }

    /// Whether a client has the slot.
    #[inline(always)]
    pub(crate) fn is_live(self) -> bool {
        self.0.wrapping_sub(Self::LIVE.0) as usize <= GENERATION_COUNT
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
            state if state.mark().is_some() => "live and marked",
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
    /// Goes along one arrow with this slot and those behind it; which is the first whose byte is not what the arrow begins with?
    ///
    /// # Safety
    /// The slots are of one slab, and the caller's: whoever else has one has it by a double free.
    #[inline(always)]
    pub(crate) unsafe fn go_all(self, count: usize, from: State, to: State) -> Result<(), usize> {
        if count == 1 {
            return if self.go(from, to) { Ok(()) } else { Err(0) };
        }
        let right = match count {
            // SAFETY: the same contract, and at least as many slots as there are bytes, here and below.
            ..4 => unsafe { self.go_as::<u16>(count, from, to) },
            // SAFETY: as above.
            4..8 => unsafe { self.go_as::<u32>(count, from, to) },
            // SAFETY: as above.
            _ => unsafe { self.go_as::<u64>(count, from, to) },
        };
        if right {
            return Ok(());
        }
        // SAFETY: a slot of the slab.
        let is_wrong = |&slot: &usize| unsafe { self.behind(slot) }.get() != from;
        Err((0..count).find(is_wrong).unwrap_or(0))
    }

    /// Goes along one arrow with all slots if all of them can, as many at once as `T` has bytes.
    ///
    /// # Safety
    /// As for [`go_all`](Self::go_all), and there are at least as many slots.
    #[inline(always)]
    unsafe fn go_as<T: Bytes>(self, count: usize, from: State, to: State) -> bool {
        let first = core::ptr::with_exposed_provenance_mut::<T>(core::ptr::from_ref(self.0).addr());
        // The last few are some of those before as well, if the count is not a multiple.
        let places =
            || (0..count).step_by(size_of::<T>()).map(|slot| first.wrapping_byte_add(slot.min(count - size_of::<T>())));
        // SAFETY: the bytes of a slab's slots lie one after another, committed as the first is, and are the caller's (T2).
        let right = places().fold(true, |right, place| right & (unsafe { place.read_unaligned() } == T::all(from.0)));
        if right {
            // SAFETY: as above.
            places().for_each(|place| unsafe { place.write_unaligned(T::all(to.0)) });
        }
        right
    }

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

/// Some bytes at once.
trait Bytes: Copy + PartialEq {
    /// Each of them this one.
    fn all(byte: u8) -> Self;
}

impl Bytes for u16 {
    #[inline(always)]
    fn all(byte: u8) -> Self {
        Self::from_ne_bytes([byte; 2])
    }
}

impl Bytes for u32 {
    #[inline(always)]
    fn all(byte: u8) -> Self {
        Self::from_ne_bytes([byte; 4])
    }
}

impl Bytes for u64 {
    #[inline(always)]
    fn all(byte: u8) -> Self {
        Self::from_ne_bytes([byte; 8])
    }
}

/// Where the bytes of one class's slots are.
#[derive(Clone, Copy)]
pub(crate) struct States {
    unit_shift: u32,
    class: SizeClass,
}

impl States {
    #[inline(always)]
    pub(crate) const fn new(unit_shift: u32, class: SizeClass) -> Self {
        debug_assert!(class.slot_bytes() >= 1 << LEAST_SHIFT);
        Self { unit_shift, class }
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

    /// Which of a region's slots of this natural class begins at an address, if its slabs begin at `slabs`: [`slots`](Self::slots)
    /// or more where none can.
    #[inline(always)]
    pub(crate) const fn index(self, slabs: usize, address: usize) -> usize {
        // What lies before the slabs, behind them or inside of a slot has one of its upper bits set now.
        self.class.slot_at(address.wrapping_sub(slabs))
    }

    /// The byte of the slot of a natural class with this index in a region.
    ///
    /// # Safety
    /// `slabs` is [`slabs_of`] an address as for [`place`](Self::place), and `index` is less than [`slots`](Self::slots).
    #[inline(always)]
    pub(crate) unsafe fn place_at(self, slabs: usize, index: usize) -> Place {
        let region_bytes = UNIT_COUNT << self.unit_shift;
        let slabs_offset = STATE_UNIT_COUNT << self.unit_shift;
        let table = self.class.slots_in(region_bytes + slabs_offset).wrapping_sub(slabs_offset);
        let place = core::ptr::with_exposed_provenance::<AtomicU8>(slabs).wrapping_add(table).wrapping_add(index);
        // SAFETY: as for `place`.
        Place(unsafe { &*place })
    }

    /// How many slots of this natural class a region has.
    pub(crate) const fn slots(self) -> usize {
        self.class.slots_in((UNIT_COUNT - STATE_UNIT_COUNT) << self.unit_shift)
    }

    /// The byte of the slot of this spaced class that begins at an address; `None`: none does.
    ///
    /// # Safety
    /// As for [`place`](Self::place), and a slab of this class holds the address.
    #[inline(always)]
    pub(crate) unsafe fn place_of_start(self, address: usize) -> Option<Place> {
        let unit_bytes = 1 << self.unit_shift;
        let slot = self.class.slot_at(address & (unit_bytes - 1));
        if slot >= self.class.slots_of(unit_bytes) {
            return None;
        }
        // SAFETY: the same contract, here and below.
        let first = unsafe { self.place(address & !(unit_bytes - 1)) };
        // SAFETY: as above; the slab has that slot.
        Some(unsafe { first.behind(slot) })
    }

    /// Where in its region the byte is.
    #[inline(always)]
    const fn offset(self, address: usize) -> usize {
        let region_bytes = UNIT_COUNT << self.unit_shift;
        let offset = address & (region_bytes - 1);
        match self.class.classes() {
            Classes::Natural => self.class.slots_in(region_bytes | offset),
            Classes::Spaced => {
                let within = offset & ((1 << self.unit_shift) - 1);
                ((region_bytes | (offset - within)) >> LEAST_SHIFT) + self.class.slots_in(within)
            }
        }
    }

    /// Makes the slots of a slab that is being closed `NEVER` again (T1).
    ///
    /// # Safety
    /// As for [`place`](Self::place), `first` being the slab's first byte; all its slots are in its list or from
    /// the number `fresh` on, and the bin's lock is held.
    pub(crate) unsafe fn forget(self, first: usize, fresh: usize) {
        let region = core::ptr::with_exposed_provenance_mut::<AtomicU8>(region_of(first, self.unit_shift));
        let bytes = region.wrapping_add(self.offset(first));
        // SAFETY: the slab's own bytes. Nobody legitimately has one of its slots.
        unsafe { clear(bytes, fresh) };
    }
}

/// Gives the memory of the states of one unit's slots back to the system, of all classes whose states fill pages. The unit is no slab and cannot
/// become one meanwhile, so that all of them are `NEVER` (T1), which is also what they are without memory.
///
/// # Safety
/// A unit of a region whose family keeps states and has opened a slab in it.
pub(crate) unsafe fn give_back(unit: usize, unit_shift: u32) {
    // Of spaced classes all stand where those of the first are.
    for index in LEAST_SHIFT as usize..unit_shift as usize {
        let states = States::new(unit_shift, Classes::Natural.class(index));
        let start = region_of(unit, unit_shift) + states.offset(unit);
        // SAFETY: the bytes of the unit's slots, none of which anybody has.
        unsafe { give_back_zeros(start, (1 << unit_shift) >> index) };
    }
}

/// Gives the pages back to the system that lie in a range, if it takes them: they read zero before and after.
///
/// # Safety
/// The range lies in the side units of a region, committed, and what it holds is of a unit that is no slab.
pub(crate) unsafe fn give_back_zeros(start: usize, bytes: usize) {
    let page = os::page_bytes();
    let (first, end) = (start.next_multiple_of(page), (start + bytes) & !(page - 1));
    // The region's provenance was exposed where it was claimed.
    if let Some(memory) = NonNull::new(core::ptr::with_exposed_provenance_mut(first)).filter(|_| first < end) {
        // SAFETY: the same contract. A late free of a slot that is gone may look there: it finds what it found before.
        unsafe { os::discard(memory, end - first) };
    }
}

/// The first address of the region that an address would lie in.
#[inline(always)]
pub(crate) const fn region_of(address: usize, unit_shift: u32) -> usize {
    address & !((UNIT_COUNT << unit_shift) - 1)
}

/// Where the slabs begin in the region that an address would lie in: the states themselves are no slots, whatever their bytes say.
#[inline(always)]
pub(crate) const fn slabs_of(address: usize, unit_shift: u32) -> usize {
    region_of(address, unit_shift) + (STATE_UNIT_COUNT << unit_shift)
}

const _: () =
    assert!(STATE_UNIT_COUNT == UNIT_COUNT >> (LEAST_SHIFT - 1), "the tables of all classes fill the state units");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::UNIT_SHIFTS;
    use crate::size_class::NATURAL_COUNT;

    #[test]
    fn a_byte_says_live_and_of_which_generation_the_mark_is() {
        let generations = (0..GENERATION_COUNT).filter_map(Generation::new);
        assert_eq!(generations.clone().count(), GENERATION_COUNT);
        for generation in generations {
            let state = State::marked(generation);
            assert!(state.is_live() && state != State::LIVE && !state.is_freed());
            assert_eq!(state.mark(), Some(generation));
        }
        assert!(State::LIVE.is_live() && State::LIVE.mark().is_none());
        let others = [State::NEVER, State::IN_BIN, State::CACHED, State(4 + GENERATION_COUNT as u8), State(255)];
        assert!(others.into_iter().all(|state| !state.is_live() && state.mark().is_none()));
    }

    #[test]
    fn every_slot_has_a_byte_of_its_own_in_the_side_units() {
        for unit_shift in UNIT_SHIFTS {
            let region = 7 * (UNIT_COUNT << unit_shift);
            let mut last = None;
            for class in (LEAST_SHIFT as usize..(unit_shift as usize).min(NATURAL_COUNT)).rev().map(SizeClass::natural)
            {
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

    #[test]
    fn every_spaced_slot_has_a_byte_in_the_place_of_its_unit() {
        for unit_shift in UNIT_SHIFTS {
            let (region_bytes, unit_bytes) = (UNIT_COUNT << unit_shift, 1 << unit_shift);
            let region = 7 * region_bytes;
            for class in Classes::Spaced.all(unit_bytes).filter(|class| class.slot_bytes() >= 16) {
                let states = States::new(unit_shift, class);
                let slots = class.slots_of(unit_bytes);
                for unit in [STATE_UNIT_COUNT, STATE_UNIT_COUNT + 1, UNIT_COUNT - 1] {
                    let first = region + unit * unit_bytes;
                    let begin = (region_bytes + unit * unit_bytes) / 16;
                    for slot in [0, 1, slots / 2, slots - 1] {
                        let address = first + slot * class.slot_bytes();
                        assert_eq!(states.offset(address), begin + slot, "{class:?}");
                        assert_eq!(states.offset(address + class.slot_bytes() - 1), begin + slot, "{class:?}");
                    }
                    assert!(begin + slots <= begin + unit_bytes / 16);
                }
            }
        }
    }

    #[test]
    fn many_slots_go_along_an_arrow_at_once_or_none_does() {
        for count in (1..70).step_by(if cfg!(miri) { 11 } else { 1 }) {
            let bytes: &'static [AtomicU8] = Vec::leak((0..80).map(|_| AtomicU8::new(State::CACHED.0)).collect());
            let _ = bytes.as_ptr().expose_provenance();
            // SAFETY: `count` bytes of the array behind the third, here and below.
            assert_eq!(unsafe { Place(&bytes[3]).go_all(count, State::CACHED, State::IN_BIN) }, Ok(()));
            let gone = |byte: &AtomicU8| byte.load(Relaxed) == State::IN_BIN.0;
            assert!(bytes.iter().enumerate().all(|(index, byte)| gone(byte) == (3..3 + count).contains(&index)));
            for wrong in 3..3 + count {
                bytes[wrong].store(State::LIVE.0, Relaxed);
                // SAFETY: as above.
                let result = unsafe { Place(&bytes[3]).go_all(count, State::IN_BIN, State::CACHED) };
                assert_eq!(result, Err(wrong - 3), "of {count}");
                bytes[wrong].store(State::IN_BIN.0, Relaxed);
            }
            assert_eq!(bytes.iter().filter(|&byte| gone(byte)).count(), count, "nothing has gone");
        }
    }

    #[test]
    fn a_slot_is_found_from_where_the_slabs_begin_and_nothing_else_is() {
        let unit_shift = *UNIT_SHIFTS.start();
        let region_bytes = UNIT_COUNT << unit_shift;
        let memory = vec![0u8; 2 * region_bytes];
        let region = memory.as_ptr().expose_provenance().next_multiple_of(region_bytes);
        let slabs = slabs_of(region + 5, unit_shift);
        for class in (LEAST_SHIFT as usize..unit_shift as usize).map(SizeClass::natural) {
            let (states, slot_bytes) = (States::new(unit_shift, class), class.slot_bytes());
            let is_slot = |address| states.index(slabs, address) < states.slots();
            for slot in [slabs, slabs + slot_bytes, slabs + (1 << unit_shift), region + region_bytes - slot_bytes] {
                assert!(is_slot(slot) && !is_slot(slot + 1) && !is_slot(slot + slot_bytes / 2), "{class:?}");
                // SAFETY: the region's first units hold zeros.
                let place = unsafe { states.place_at(slabs, states.index(slabs, slot)) };
                assert_eq!(core::ptr::from_ref(place.0).addr(), region + states.offset(slot), "{class:?}");
            }
            let wild = [
                0,
                1,
                region,
                slabs - slot_bytes,
                region + region_bytes,
                slabs.wrapping_add(1 << (usize::BITS - 4)),
                slabs ^ (1 << (usize::BITS - 2)),
                usize::MAX,
            ];
            assert!(!wild.iter().any(|&address| is_slot(address)), "{class:?}");
        }
    }
}
