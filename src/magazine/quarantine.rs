//! Magazines of hardened families: slots come out in an order that nobody can tell, and never at once.
//!
//! The lowest slots of the array are never popped, only exchanged: a freed slot takes the place of a random one, which goes
//! on top and is popped next. So a slot waits for as long as chance has it, one time in `quarantine_slots` at least for one round
//! only, and what an allocation gets cannot be told from what was freed.

use super::{Cache, Cell, Magazine, Relaxed, Tally};
use crate::size_class::SizeClass;

/// A linear congruential generator (Knuth's MMIX), whose upper bits are used: not for secrets, only against luck.
pub(super) struct Random(Cell<u64>);

impl Random {
    pub(super) const fn new() -> Self {
        Self(Cell::new(0))
    }

    #[inline(always)]
    fn next(&self) -> u64 {
        let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.set(next);
        next
    }
}

/// A number below `bound`, from the upper 32 random bits.
#[inline(always)]
fn below(random: u64, bound: usize) -> usize {
    (((random >> 32) * bound as u64) >> 32) as usize
}

impl Cache {
    /// Seeds the cache's random numbers. Not for the empty cache (M3).
    pub(crate) fn seed(&self, seed: u64) {
        self.random.0.set(seed);
    }

    /// The next random number. Not for the empty cache (M3).
    #[inline(always)]
    pub(crate) fn random(&self) -> u64 {
        self.random.next()
    }
}

impl Magazine {
    /// The address of a recycled slot, if the array holds more than `floor`.
    #[inline(always)]
    pub(crate) fn pop_above(&self, floor: usize) -> Option<usize> {
        let top = self.top.load(Relaxed);
        // M2: `bottom <= top`.
        if top.addr() - self.bottom.load(Relaxed).addr() <= floor * size_of::<usize>() {
            return None;
        }
        // SAFETY: M2: the array is not empty, so its last slot lies below `top`.
        let last = unsafe { top.sub(1) };
        self.top.store(last, Relaxed);
        // SAFETY: M2: what lay below `top` is initialised.
        Some(unsafe { last.read() })
    }

    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.top.load(Relaxed) != self.end.get()
    }

    /// Puts a slot that its client gives up at a random place of the array and what was there on top. The array has room.
    #[inline(always)]
    pub(crate) fn push_at_random(&self, tally: &Tally, address: usize, random: u64) {
        self.put_at_random(address, random);
        tally.count_free();
    }

    /// The same with a slot that no client has had since it was popped.
    #[inline(always)]
    pub(crate) fn put_at_random(&self, address: usize, random: u64) {
        debug_assert!(self.has_room(), "the caller has looked");
        let (bottom, top) = (self.bottom.load(Relaxed), self.top.load(Relaxed));
        let stored = (top.addr() - bottom.addr()) / size_of::<usize>();
        // SAFETY: M2: at or below `top`, where the caller has seen room.
        let place = unsafe { bottom.add(below(random, stored + 1)) };
        // SAFETY: M2: below `end` there is room, which only the owner uses (M1).
        unsafe { top.write(address) };
        // SAFETY: M2: below `top` all is initialised, and `top` itself has just been.
        let other = unsafe { place.replace(address) };
        // SAFETY: as for the first write.
        unsafe { top.write(other) };
        // SAFETY: M2: `top < end`, so one more is at most `end`.
        self.top.store(unsafe { top.add(1) }, Relaxed);
    }

    /// Mixes the slots from place `first` up.
    pub(crate) fn shuffle_from(&self, first: usize, mut random: impl FnMut() -> u64) {
        for place in first + 1..self.stored() {
            self.exchange(first + below(random(), place - first + 1), place);
        }
    }

    /// How many slots the array holds.
    pub(crate) fn stored_slots(&self) -> usize {
        self.stored()
    }

    /// Adds at most `count` of the slots that `fill` writes, on top; the array has room for them.
    pub(crate) fn append(&self, tally: &Tally, count: usize, fill: impl FnOnce(&mut [usize]) -> usize) {
        let top = self.top.load(Relaxed);
        debug_assert!(self.stored() + count <= self.capacity());
        // SAFETY: M2: the array has room for `count` addresses.
        let places = unsafe { core::slice::from_raw_parts_mut(top, count) };
        let filled = fill(places).min(count);
        // SAFETY: M2: at most `count` places, which is within the array.
        self.set_top(tally, filled as isize, unsafe { top.add(filled) });
    }

    /// The first slot of the fresh range, if there is one, and whether it is known to read zero.
    pub(crate) fn first_fresh(&self) -> Option<(usize, bool)> {
        let left = self.fresh_bytes.load(Relaxed);
        (left != 0).then(|| (self.fresh_end.get() - left, self.fresh_zeroed.get()))
    }

    /// Moves that slot on top of the array, which has room.
    pub(crate) fn adopt_fresh(&self, tally: &Tally, class: SizeClass) {
        let (Some((address, _)), top) = (self.first_fresh(), self.top.load(Relaxed)) else { return };
        debug_assert!(self.has_room(), "the caller has looked");
        // SAFETY: M2: below `end` there is room, which only the owner uses (M1).
        unsafe { top.write(address) };
        // SAFETY: M2: `top < end`, so one more is at most `end`.
        let top = unsafe { top.add(1) };
        tally.change(|| {
            self.fresh_bytes.store(self.fresh_bytes.load(Relaxed) - class.slot_bytes(), Relaxed);
            self.top.store(top, Relaxed);
            (0, 0)
        });
    }

    #[inline(always)]
    fn exchange(&self, one: usize, other: usize) {
        debug_assert!(one.max(other) < self.stored());
        let bottom = self.bottom.load(Relaxed);
        // SAFETY: M2: below `top`, so within the array.
        let one = unsafe { bottom.add(one) };
        // SAFETY: as above.
        let other = unsafe { bottom.add(other) };
        // SAFETY: initialised places of the array, which only the owner uses (M1).
        unsafe { core::ptr::swap(one, other) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_at_random_comes_back_once_and_not_in_order() {
        let mut slots = vec![0usize; 128];
        let cache: &Cache = &Cache::<[Magazine; 7]>::empty();
        // SAFETY: an array of that length that outlives the cache and is used by it alone.
        unsafe { cache.magazine(SizeClass::natural(6)).move_to(cache.tally(), slots.as_mut_ptr(), slots.len()) };
        cache.magazine(SizeClass::natural(6)).set_capacity(cache.tally(), 128);
        cache.seed(42);
        let magazine = cache.magazine(SizeClass::natural(6));
        for address in 1..=64 {
            magazine.push_at_random(cache.tally(), address, cache.random());
        }
        magazine.shuffle_from(8, || cache.random());
        let popped: Vec<usize> = core::iter::from_fn(|| magazine.pop_above(16)).collect();
        assert_eq!((popped.len(), magazine.stored_slots()), (48, 16));
        assert!(popped.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count() < 24, "{popped:?}");
        let mut all: Vec<usize> = popped.into_iter().chain(core::iter::from_fn(|| magazine.pop())).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=64));
    }
}
