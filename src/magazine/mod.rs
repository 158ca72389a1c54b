//! What one thread holds of one family: per class an array of free slots, and a range of slots never used.
//!
//! ```text
//!   bottom            top               end            fresh          fresh_end
//!     │ free │ free │ … │   room   …     │               │ never used … │
//!     allocate pops below top; free pushes at top        handed out in address order when the array is empty
//! ```
//!
//! On the fast path nothing else happens: no atomic read-modify-write, no touch of the slot. The one static empty cache (no
//! slots, no room, a tag that no slab has) stands for "this thread has none yet", so that there is no null test: it takes the
//! same exits as an exhausted or a full magazine.
//!
//! A magazine has no array until its thread first exchanges slots of the class, and gets a longer one
//! when it has earned it (`family::caches`).
//!
//! **M1** Only the thread that owns a cache changes it; others read `top`, `bottom`, `fresh_bytes` and
//! `room`, for the counters. **M2** `bottom <= top <= end` lie in the magazine's array, or all are null; all
//! places of the array are initialised. **M3** Nothing is ever stored to the empty cache: all its
//! magazines have `bottom = top = end` and no fresh bytes. **M4** While `room` is above 0, at least so
//! many places and `put_off` more are free between `top` and `end`: together they are set to their
//! number, each push takes one off `room`, and a pop leaves both as they are. Hardened families push
//! without it. **M5**, what a thread has
//! allocated and freed, is said in [`tally`]. **M6** A heap's cache belongs to who ended the heap once
//! that has shut its door; its thread uses it while it holds a handle, which keeps the heap from
//! ending, or while it is in that door.

mod cache;
mod quarantine;
mod room;
mod slot;
mod tally;

use core::ops::Range;
use core::ptr::NonNull;

use crate::bin::Fresh;
use crate::capacity::{MAGAZINE_SLOTS, stocked_slots};
use crate::size_class::SizeClass;
use crate::sync::{AtomicI32, AtomicPtr, AtomicUsize, Cell, Relaxed};

pub(crate) use cache::Cache;
pub(crate) use cache::{EMPTY, HEAD_BYTES, empty, is_empty};
pub use slot::CacheSlot;
pub(crate) use tally::{Counts, Tally};

/// A tag that no slab has, nor the place where no slab is.
const NO_TAG: u32 = u32::MAX;

/// One class's part of a thread cache.
#[repr(C, align(64))]
pub struct Magazine {
    top: AtomicPtr<usize>,
    bottom: AtomicPtr<usize>,
    end: Cell<*mut usize>,
    /// What the header of a slab of this family and class holds.
    tag: Cell<u32>,
    /// How many slots may be pushed before somebody looks at the array: see [`push`](Self::push).
    room: AtomicI32,
    /// Slots held when this magazine last exchanged with its bin: the difference is what the thread allocated since.
    noted: Cell<u32>,
    fresh_zeroed: Cell<bool>,
    /// Whether the thread has exchanged slots of the class since that was last asked.
    exchanged: Cell<bool>,
    /// Places of the array; at most as many slots are held.
    places: Cell<u16>,
    /// Bytes of the fresh range that are left.
    fresh_bytes: AtomicUsize,
    fresh_end: Cell<usize>,
    /// Slots of this class in a region; 0 until the cache knows one. Only where the family keeps states.
    region_slots: Cell<u32>,
    /// Free places that `room` does not count yet (M4).
    put_off: Cell<u16>,
}

const _: () = assert!(size_of::<Magazine>() == 64, "a magazine is a cache line");

impl Magazine {
    const fn empty() -> Self {
        Self {
            top: AtomicPtr::new(core::ptr::null_mut()),
            bottom: AtomicPtr::new(core::ptr::null_mut()),
            end: Cell::new(core::ptr::null_mut()),
            tag: Cell::new(NO_TAG),
            room: AtomicI32::new(0),
            noted: Cell::new(0),
            fresh_zeroed: Cell::new(false),
            exchanged: Cell::new(false),
            places: Cell::new(0),
            fresh_bytes: AtomicUsize::new(0),
            fresh_end: Cell::new(0),
            region_slots: Cell::new(0),
            put_off: Cell::new(0),
        }
    }

    /// The address of a slot, if the array holds one.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<usize> {
        // Relaxed, here and below: only the owner stores (M1), and other threads want no more than the number itself.
        let top = self.top.load(Relaxed);
        if top == self.own_bottom() {
            return None;
        }
        // SAFETY: M2: the array is not empty, so its last slot lies below `top`.
        let last = unsafe { top.sub(1) };
        self.top.store(last, Relaxed);
        // SAFETY: M2: what lay below `top` is initialised.
        Some(unsafe { last.read() })
    }

    /// `bottom`, for the owner. A plain load, which the processor compares with in one instruction.
    #[inline(always)]
    fn own_bottom(&self) -> *mut usize {
        // The models see atomics by their loads.
        #[cfg(loom)]
        return self.bottom.load(Relaxed);
        // SAFETY: M1: only the owner stores, and others only load, so a plain load of the owner's races with nothing.
        #[cfg(not(loom))]
        return unsafe { self.bottom.as_ptr().read() };
    }

    /// Sets `top`, and so takes so many slots from the bin (negative: gives them back).
    fn set_top(&self, tally: &Tally, taken: isize, top: *mut usize) {
        tally.change(|| {
            self.top.store(top, Relaxed);
            (self.set_room().1, taken)
        });
    }

    /// The address of a slot never used before, if any is left of the fresh range, and whether it is known to read zero.
    #[inline(always)]
    pub(crate) fn carve(&self, slot_bytes: usize) -> Option<(usize, bool)> {
        let left = self.fresh_bytes.load(Relaxed);
        if left == 0 {
            return None;
        }
        self.fresh_bytes.store(left - slot_bytes, Relaxed);
        Some((self.fresh_end.get() - left, self.fresh_zeroed.get()))
    }

    /// Moves some slots of the fresh range into the array, which is empty, the first of them on top: what comes next is then a pop,
    /// and not a call. Whether they are known to read zero is forgotten.
    pub(crate) fn stock(&self, tally: &Tally, class: SizeClass) {
        let (left, bottom) = (self.fresh_bytes.load(Relaxed), self.bottom.load(Relaxed));
        let count = class.slots_in(left).min(stocked_slots(self.capacity()));
        if count == 0 {
            return;
        }
        debug_assert!(self.top.load(Relaxed) == bottom);
        // SAFETY: M2: at most a quarter of the array.
        let places = unsafe { core::slice::from_raw_parts_mut(bottom, count) };
        let (first, slot_bytes) = (self.fresh_end.get() - left, class.slot_bytes());
        places.iter_mut().rev().enumerate().for_each(|(slot, place)| *place = first + slot * slot_bytes);
        // SAFETY: as above.
        let top = unsafe { bottom.add(count) };
        tally.change(|| {
            // In this order, so that who reads both meanwhile finds no slot in neither.
            self.top.store(top, Relaxed);
            self.fresh_bytes.store(left - count * slot_bytes, Relaxed);
            (self.set_room().1, 0)
        });
    }

    /// Whether anything is left of the fresh range.
    pub(crate) fn has_fresh(&self) -> bool {
        self.fresh_bytes.load(Relaxed) != 0
    }

    #[inline(always)]
    pub(crate) fn tag(&self) -> u32 {
        self.tag.get()
    }

    #[inline(always)]
    pub(crate) fn region_slots(&self) -> usize {
        self.region_slots.get() as usize
    }

    /// All slots of the array, and the first of the fresh range. For the owner, or who has a cache whose door is shut (M6).
    pub(crate) fn held_slots(&self) -> impl Iterator<Item = usize> {
        let (bottom, stored) = (self.bottom.load(Relaxed), self.stored());
        // SAFETY: M2: so many initialised places, and nothing is stored to them meanwhile.
        let array = if stored == 0 { &[] } else { unsafe { core::slice::from_raw_parts(bottom, stored) } };
        let left = self.fresh_bytes.load(Relaxed);
        array.iter().copied().chain((left > 0).then(|| self.fresh_end.get() - left))
    }

    /// Slots in the array and in the fresh range; exact for the owner, recent for others.
    pub(crate) fn held(&self, class: SizeClass) -> usize {
        self.stored() + class.slots_in(self.fresh_bytes.load(Relaxed))
    }

    fn stored(&self) -> usize {
        // To others these may be of two arrays for a moment; more than a magazine can hold is then nothing.
        let bytes = self.top.load(Relaxed).addr().wrapping_sub(self.bottom.load(Relaxed).addr());
        let stored = bytes / size_of::<usize>();
        if stored > MAGAZINE_SLOTS { 0 } else { stored }
    }

    /// How many more slots than it held at the last exchange the thread has allocated (negative: freed) by now.
    pub(crate) fn allocated_since_noted(&self, class: SizeClass) -> isize {
        (self.noted.get() as isize).wrapping_sub(self.held(class) as isize)
    }

    /// Whether nothing is held, and nothing was when slots were last exchanged.
    pub(crate) fn is_as_begun(&self) -> bool {
        self.stored() == 0 && !self.has_fresh() && self.noted.get() == 0
    }

    pub(crate) fn note(&self, class: SizeClass) {
        self.noted.set(self.held(class) as u32);
    }

    /// Fills the empty array with what `fill` writes to its first `count` places.
    pub(crate) fn refill(&self, tally: &Tally, count: usize, fill: impl FnOnce(&mut [usize]) -> usize) {
        let bottom = self.bottom.load(Relaxed);
        debug_assert!(bottom == self.top.load(Relaxed) && 0 < count && count <= self.capacity());
        // SAFETY: M2: the array has room for `count` addresses.
        let places = unsafe { core::slice::from_raw_parts_mut(bottom, count) };
        let filled = fill(places).min(count);
        // SAFETY: M2: at most `count` places, which is within the array.
        self.set_top(tally, filled as isize, unsafe { bottom.add(filled) });
    }

    /// How many slots the array may hold.
    pub(crate) fn capacity(&self) -> usize {
        (self.end.get().addr() - self.bottom.load(Relaxed).addr()) / size_of::<usize>()
    }

    /// Places of the array.
    pub(crate) fn places(&self) -> usize {
        usize::from(self.places.get())
    }

    /// Whether the array has places for so many slots.
    pub(crate) fn has_places(&self, count: usize) -> bool {
        count <= usize::from(self.places.get())
    }

    /// Moves what the magazine holds into another array, of `count` places. The old one is not used any more.
    ///
    /// # Safety
    /// The array is initialised, longer than the old one, and belongs to this magazine alone from now on.
    pub(crate) unsafe fn move_to(&self, tally: &Tally, array: *mut usize, count: usize) {
        let (stored, capacity) = (self.stored(), self.capacity());
        if stored > 0 {
            // SAFETY: M2: `stored` initialised places, and the new array is longer and another.
            unsafe { core::ptr::copy_nonoverlapping(self.bottom.load(Relaxed), array, stored) };
        }
        // SAFETY: the new array is longer than what is stored.
        let top = unsafe { array.add(stored) };
        tally.change(|| {
            self.bottom.store(array, Relaxed);
            self.top.store(top, Relaxed);
            (0, 0)
        });
        // SAFETY: and longer than what could be stored.
        self.end.set(unsafe { array.add(capacity) });
        self.places.set(count as u16);
    }

    /// Lets the array hold so many slots: not fewer than it holds, and it has places for them.
    pub(crate) fn set_capacity(&self, tally: &Tally, count: usize) {
        debug_assert!(self.has_places(count) && self.stored() <= count);
        // SAFETY: M2: within the array.
        self.end.set(unsafe { self.bottom.load(Relaxed).add(count) });
        self.renew_room(tally);
    }

    /// Makes memory a magazine without an array.
    ///
    /// # Safety
    /// `place` is valid for it, aligned, and the caller's alone.
    unsafe fn make(place: NonNull<Self>) {
        // SAFETY: the same contract.
        unsafe { place.write(Self::empty()) };
        // SAFETY: written just now. Another may have stood here, and the models know an atomic by its place.
        unsafe { place.as_ref() }.bottom.store(core::ptr::null_mut(), Relaxed);
    }

    /// Begins to serve the slabs with a tag. Nothing stays of what was here before but the array, of
    /// which nothing is used.
    fn begin(&self, tag: u32) {
        let array = self.bottom.load(Relaxed);
        self.top.store(array, Relaxed);
        self.end.set(array);
        self.tag.set(tag);
        self.room.store(0, Relaxed);
        self.noted.set(0);
        self.fresh_zeroed.set(false);
        self.exchanged.set(false);
        self.fresh_bytes.store(0, Relaxed);
        self.fresh_end.set(0);
        self.region_slots.set(0);
        self.put_off.set(0);
    }

    /// Notes that slots of the class are exchanged.
    pub(crate) fn note_exchange(&self) {
        self.exchanged.set(true);
    }

    /// Whether slots of the class have been exchanged since this was last asked.
    pub(crate) fn take_exchanged(&self) -> bool {
        self.exchanged.replace(false)
    }

    /// Makes a fresh range the one to carve from; the last one must be used up.
    pub(crate) fn set_fresh(&self, tally: &Tally, class: SizeClass, fresh: Fresh) {
        debug_assert_eq!(self.fresh_bytes.load(Relaxed), 0);
        self.fresh_zeroed.set(fresh.zeroed);
        self.fresh_end.set(fresh.range.end);
        tally.change(|| {
            self.fresh_bytes.store(fresh.range.len(), Relaxed);
            (0, (fresh.range.len() / class.slot_bytes()) as isize)
        });
    }

    /// Removes what is left of the fresh range.
    pub(crate) fn take_fresh(&self, tally: &Tally, class: SizeClass) -> Range<usize> {
        let end = self.fresh_end.get();
        let left = self.fresh_bytes.load(Relaxed);
        tally.change(|| {
            self.fresh_bytes.store(0, Relaxed);
            (0, -((left / class.slot_bytes()) as isize))
        });
        end - left..end
    }

    /// Hands the oldest `count` slots of the array to `flush` and moves the others down.
    pub(crate) fn flush(&self, tally: &Tally, count: usize, flush: impl FnOnce(&[usize])) {
        let (bottom, stored) = (self.bottom.load(Relaxed), self.stored());
        let count = count.min(stored);
        if count == 0 {
            return;
        }
        // SAFETY: M2: the first `count` of the `stored` places are initialised, and nothing is stored to them meanwhile.
        flush(unsafe { core::slice::from_raw_parts(bottom, count) });
        // SAFETY: M2: `count <= stored`, so the rest starts within the array or at its top.
        let rest = unsafe { bottom.add(count) };
        // SAFETY: M2: `stored - count` initialised places from `rest` on; the copy may overlap.
        unsafe { core::ptr::copy(rest, bottom, stored - count) };
        // SAFETY: M2: `stored - count` places from `bottom` on are in use.
        self.set_top(tally, -(count as isize), unsafe { bottom.add(stored - count) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::View;
    use crate::size_class::COUNT_MAX;
    use crate::size_class::Classes;

    #[test]
    fn a_magazine_gives_back_what_it_got_oldest_first_to_the_bin() {
        let (mut few, mut many) = (vec![0usize; 8], vec![0usize; 128]);
        let cache: &Cache = &Cache::<[Magazine; COUNT_MAX]>::empty();
        cache.equip(View::CLOSED, &crate::header::CLOSED, 0, |index| index as u32 + 1);
        let class = SizeClass::natural(6);
        let magazine = cache.magazine(class);
        assert_eq!((magazine.pop(), magazine.carve(64), magazine.tag()), (None, None, 7));
        assert!(!magazine.push(64), "without an array there is no room");
        // SAFETY: arrays of these lengths, which outlive the cache and are used by it alone.
        unsafe { magazine.move_to(cache.tally(), few.as_mut_ptr(), few.len()) };
        assert!(!magazine.push(64) && magazine.capacity() == 0);
        magazine.set_capacity(cache.tally(), 5);
        let pushed = (1..).take_while(|&address| magazine.push(address * 64)).count();
        assert_eq!((pushed, magazine.held(class)), (5, 5));
        // SAFETY: as above.
        unsafe { magazine.move_to(cache.tally(), many.as_mut_ptr(), many.len()) };
        assert_eq!((magazine.capacity(), magazine.pop()), (5, Some(320)));
        assert!(!magazine.push(384), "a pop makes no room by itself");
        assert_eq!((magazine.renew_room(cache.tally()), magazine.push(384), magazine.push(448)), (1, true, false));
        assert_eq!(magazine.pop(), Some(384));
        magazine.flush(cache.tally(), 4, |all| assert_eq!(all, [64, 128, 192, 256]));
        magazine.set_capacity(cache.tally(), 128);
        // Other tests may have memory wait.
        let push =
            |address| magazine.push(address) || magazine.resume_room(cache.tally(), false) && magazine.push(address);
        let pushed = (0..).take_while(|&address| push(address * 64)).count();
        assert_eq!(pushed, 128);
        magazine.flush(cache.tally(), 3, |oldest| assert_eq!(oldest, [0, 64, 128]));
        assert_eq!(magazine.held(class), pushed - 3);
        assert_eq!(magazine.pop(), Some((pushed - 1) * 64));
        magazine.set_fresh(cache.tally(), class, Fresh { range: 640..768, zeroed: true });
        assert_eq!(magazine.held(class), pushed - 4 + 2);
        assert_eq!(
            (magazine.carve(64), magazine.take_fresh(cache.tally(), class), magazine.carve(64)),
            (Some((640, true)), 704..768, None)
        );
    }

    #[test]
    fn the_empty_cache_takes_every_cold_exit() {
        let empty: &Cache = &EMPTY;
        for class in Classes::Natural.all(2 << 20).chain(Classes::Spaced.all(2 << 20)) {
            let magazine = empty.magazine(class);
            assert_eq!(
                (magazine.pop(), magazine.push_if_owned(64), magazine.carve(class.slot_bytes())),
                (None, false, None)
            );
            assert_ne!(empty.view().tag(0x1234_5678, 21), magazine.tag());
        }
    }
}
