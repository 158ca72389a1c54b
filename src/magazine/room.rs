//! How many frees a magazine takes before its thread comes to the slow path (M4): the push, and the count of it.
//!
//! While memory waits to be given back, that is after [`LOOK_FREES`] at the latest, so that a thread which
//! its cache serves alone comes to look (`family::house`), and sooner where it was time to.

use super::{Magazine, Relaxed, Tally};
use crate::capacity::is_grown;
use crate::size_class::SizeClass;
use crate::sync::{Acquire, Release};
use crate::waiting;

/// Frees until a thread looks whether it is time to give memory back, while some waits.
const LOOK_FREES: usize = 256;
/// The same where it was time: nobody else has looked for long, so the program hardly calls, and has nothing to lose by it.
const CALM_FREES: usize = 16;

impl Magazine {
    /// Puts a slot into the array; `false` if its room is used up. That is counted in frees alone, so that a thread comes to the slow
    /// path after so many also where it allocates as many and the array is never full. Not for the empty cache (M3).
    #[inline(always)]
    pub(crate) fn push(&self, address: usize) -> bool {
        self.push_behind::<0>(address)
    }

    /// The same, where so many bytes before the magazine the address stands that is in a register.
    #[inline(always)]
    pub(crate) fn push_behind<const BYTES: usize>(&self, address: usize) -> bool {
        #[cfg(not(counts_in_one))]
        return self.push_if_owned(address);
        #[cfg(counts_in_one)]
        {
            // Below 0 it stays there until somebody looks, so that a second try is refused as well.
            let has_room = self.count_down::<BYTES>();
            if has_room {
                self.push_below_end(address);
            }
            has_room
        }
    }

    /// Takes one off the room; whether there was any. It is the owner's relaxed load and store, for
    /// which the compiler takes two instructions more: only of what is no atomic does it count down in
    /// memory and branch on the result at once.
    #[cfg(counts_in_one)]
    #[inline(always)]
    fn count_down<const BYTES: usize>(&self) -> bool {
        // SAFETY: M1: the owner's own `room`. One store of four aligned bytes: others read the one value or the other.
        unsafe {
            core::arch::asm!(
                "sub dword ptr [{magazine} + {room}], 1",
                "js {used_up}",
                magazine = in(reg) core::ptr::from_ref(self).wrapping_byte_sub(BYTES),
                room = const core::mem::offset_of!(Magazine, room) + BYTES,
                used_up = label { return false },
                options(nostack),
            );
        }
        true
    }

    /// As [`push`](Self::push), also for the empty cache, which it leaves alone.
    #[inline(always)]
    pub(crate) fn push_if_owned(&self, address: usize) -> bool {
        if self.own_room() <= 0 {
            return false;
        }
        self.push_below_end(address);
        // Release: pairs with the load in `room_left`, whose reader then sees the slot in the array.
        self.room.store(self.room.load(Relaxed).wrapping_sub(1), Release);
        true
    }

    /// `room`, for the owner: a plain load, as in [`own_bottom`](Self::own_bottom).
    #[inline(always)]
    fn own_room(&self) -> i32 {
        #[cfg(loom)]
        return self.room.load(Relaxed);
        // SAFETY: M1: only the owner stores, and others only load, so a plain load of the owner's races with nothing.
        #[cfg(not(loom))]
        return unsafe { self.room.as_ptr().read() };
    }

    /// How many slots may still be pushed; exact for the owner, recent for others.
    pub(super) fn room_left(&self) -> usize {
        // Acquire: pairs with the store in `push_if_owned`: what is known to be pushed is seen in the array. `count_down` comes
        // before: for the time of two instructions a slot is in neither.
        self.room.load(Acquire).max(0) as usize
    }

    #[inline(always)]
    fn push_below_end(&self, address: usize) {
        let top = self.top.load(Relaxed);
        debug_assert!(top != self.end.get(), "M4: there is room");
        // SAFETY: M4: below `end` there is room, which only the owner uses (M1).
        unsafe { top.write(address) };
        // SAFETY: M4: `top < end`, so one more is at most `end`.
        self.top.store(unsafe { top.add(1) }, Relaxed);
    }

    /// Looks how much room there is; returns it.
    #[inline(always)]
    pub(crate) fn renew_room(&self, tally: &Tally) -> usize {
        let mut room = 0;
        tally.change(|| {
            let (renewed, more) = self.set_room();
            room = renewed;
            (more, 0)
        });
        room
    }

    /// Sets `room`, and `put_off`, to the number of free places (M4); returns that, and by how much `room` is more. Only within a
    /// change.
    #[inline(always)]
    pub(super) fn set_room(&self) -> (usize, isize) {
        // M2: `top <= end`, or both are null.
        let places = (self.end.get().addr() - self.top.load(Relaxed).addr()) / size_of::<usize>();
        let room = if waiting::is_anything() { places.min(LOOK_FREES) } else { places };
        self.put_off.set((places - room) as u16);
        let left = self.own_room().max(0);
        self.room.store(room as i32, Relaxed);
        (places, room as isize - left as isize)
    }

    /// Whether there are free places that `room` does not count yet.
    pub(crate) fn has_put_off(&self) -> bool {
        self.put_off.get() > 0
    }

    /// Goes on with free places that were put off; `false`: there are none. `was_due`: it was time to look.
    pub(crate) fn resume_room(&self, tally: &Tally, was_due: bool) -> bool {
        let put_off = usize::from(self.put_off.get());
        if put_off == 0 {
            return false;
        }
        let more = put_off.min(if was_due { CALM_FREES } else { LOOK_FREES });
        tally.change(|| {
            self.put_off.set((put_off - more) as u16);
            let left = self.own_room().max(0) as usize;
            self.room.store((left + more) as i32, Relaxed);
            (more as isize, 0)
        });
        true
    }

    /// Goes on where the room is used up but not the array, and it was not time to look; `false`: it is time for an exchange.
    pub(crate) fn renew(&self, tally: &Tally, class: SizeClass) -> bool {
        self.resume_room(tally, false) || self.is_mostly_room(tally, class)
    }

    /// Looks how much room there is; whether that is most of an array that is as long as it gets, or holds as much as it should.
    fn is_mostly_room(&self, tally: &Tally, class: SizeClass) -> bool {
        let (room, capacity) = (self.renew_room(tally), self.capacity());
        is_grown(class, capacity) && 4 * room >= 3 * capacity
    }
}
