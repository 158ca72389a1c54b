//! Slots that come back to slabs with bitmaps, as many at once as a thread gives up.
//!
//! Those that lie one after another are found by [`run_length`] and their bits set together. The others come back one by one, in a
//! loop that does no more than set a bit and count: what is rare, a slab that had no free slot or has no other slot, is left to
//! the way that runs take. Those of several slabs in turn are [put together](super::mixed) first.

use super::bitmap::{Shape, WORD_BITS};
use super::mixed::{are_mixed, put_together};
use super::runs::run_length;
use super::{Geometry, Shelves};
use crate::header::Directory;
use crate::os;
use crate::size_class::{Classes, SizeClass};

impl Shelves {
    /// Takes slots back where free lists are bitmaps.
    ///
    /// # Safety
    /// As for [`Bin::give`](crate::bin::Bin::give).
    pub(super) unsafe fn receive(&mut self, geometry: &Geometry<'_>, slots: &[usize]) {
        if let &[slot] = slots {
            // SAFETY: the same contract.
            return unsafe { self.receive_one(geometry, slot) };
        }
        if are_mixed(slots, geometry.unit_shift) {
            put_together(slots, geometry.unit_shift, |slots| {
                // SAFETY: the same contract, of each slot once.
                unsafe { self.receive_in_order(geometry, slots) };
            });
        } else {
            // SAFETY: the same contract.
            unsafe { self.receive_in_order(geometry, slots) };
        }
    }

    /// Takes one slot back: what a thread without a cache frees.
    ///
    /// # Safety
    /// As for [`receive`](Self::receive).
    unsafe fn receive_one(&mut self, geometry: &Geometry<'_>, slot: usize) {
        // SAFETY: a slot of the bin lies in a unit, which was a slab when it was handed out.
        let slab = unsafe { Directory::of(geometry.unit_shift).headers().slab(slot) };
        geometry.debug_verify(slab, slot, 1);
        if geometry.recycled(slab) == 0 {
            self.link(slab);
        }
        // SAFETY: a used slot of a slab of this bin, whose lock is held.
        unsafe { geometry.give_slot(slab, slot) };
        if slab.used.get() == 0 {
            self.retire(geometry, slab);
        }
    }

    /// As [`receive`](Self::receive), one after the other.
    ///
    /// # Safety
    /// As for [`receive`](Self::receive).
    unsafe fn receive_in_order(&mut self, geometry: &Geometry<'_>, slots: &[usize]) {
        let shape = geometry.shape();
        let mut rest = slots;
        while !rest.is_empty() {
            let count = match geometry.class.classes() {
                // SAFETY: the same contract.
                Classes::Natural => unsafe { receive_ones::<false>(geometry, shape, rest) },
                // SAFETY: the same contract.
                Classes::Spaced => unsafe { receive_ones::<true>(geometry, shape, rest) },
            };
            rest = &rest[count..];
            if !rest.is_empty() {
                // SAFETY: the same contract.
                rest = &rest[unsafe { self.receive_run(geometry, shape, rest) }..];
            }
        }
    }

    /// Takes the first slots back, as many as lie one after another in one slab; returns how many.
    ///
    /// # Safety
    /// As for [`receive`](Self::receive), and there is one.
    unsafe fn receive_run(&mut self, geometry: &Geometry<'_>, shape: Shape, slots: &[usize]) -> usize {
        let (unit_shift, first) = (geometry.unit_shift, slots[0]);
        let (neighbours, ascending) = run_length(slots, geometry.class.slot_bytes());
        // Two slabs may be neighbours too: a run ends with its slab.
        let offset = first & ((1 << unit_shift) - 1);
        let to_the_end = if ascending { (1 << unit_shift) - 1 - offset } else { offset };
        let length = neighbours.min(geometry.class.slots_in(to_the_end) + 1);
        let lowest = if ascending { first } else { slots[length - 1] };
        // SAFETY: as in `receive`.
        let slab = unsafe { Directory::of(unit_shift).headers().slab(lowest) };
        geometry.debug_verify(slab, lowest, length);
        if geometry.recycled(slab) == 0 {
            self.link(slab);
        }
        // SAFETY: used slots of a slab of this bin, whose lock is held.
        unsafe { geometry.give_run(shape, slab, lowest, length) };
        if slab.used.get() == 0 {
            self.retire(geometry, slab);
        }
        length
    }
}

/// Takes slots back one by one; returns how many there were before a run, or one whose slab changes its list (B1), or whose bit is
/// not where its slab has bits now.
///
/// # Safety
/// As for [`Shelves::receive`]; `IS_SPACED` says which classes the geometry's is one of.
#[inline(never)]
unsafe fn receive_ones<const IS_SPACED: bool>(geometry: &Geometry<'_>, shape: Shape, slots: &[usize]) -> usize {
    // The same class, of which the compiler knows the kind.
    let class = if IS_SPACED { Classes::Spaced } else { Classes::Natural }.class(geometry.class.index());
    let (headers, page) = (Directory::of(geometry.unit_shift).headers(), os::page_bytes());
    let mut count = 0;
    while let Some(&first) = slots.get(count) {
        // SAFETY: a slot of the bin lies in a unit, which was a slab when it was handed out.
        let slab = unsafe { headers.slab(first) };
        let used = slab.used.get();
        // B1: without a free slot the slab is in another list.
        if slab.fresh.get() - slab.purged.get() == used || starts_run(&slots[count..], class) {
            break;
        }
        let first_slot = usize::from(slab.first.get()) * page;
        // SAFETY: a slab of this bin, whose lock is held.
        let (bits, limit, group_shift) = unsafe { shape.bits_of(slab, class, first_slot) };
        // From the memory that the slab has, so that an address with other upper bits is none of its slots.
        let start = slab.memory().addr() + first_slot;
        // The last one is left to who can retire the slab.
        let here = &slots[count..slots.len().min(count + used.saturating_sub(1) as usize)];
        let (mut groups, mut given, mut previous) = (0_u64, 0, usize::MAX / 2);
        while let Some(&address) = here.get(given) {
            let index = class.slot_at(address.wrapping_sub(start));
            if index >= limit || is_neighbour(index, previous) && starts_run(&here[given..], class) {
                break;
            }
            geometry.debug_verify(slab, address, given + 1);
            // SAFETY: the word of a slot of the slab.
            let word = unsafe { bits.add(index / WORD_BITS) };
            // SAFETY: initialised, and nobody else's (F2).
            let word = unsafe { &*word };
            let before = word.get();
            let after = before | 1 << (index % WORD_BITS);
            if after == before {
                geometry.report_listed_twice(slab, index);
            }
            word.set(after);
            groups |= 1 << ((index / WORD_BITS) >> group_shift);
            (given, previous) = (given + 1, index);
        }
        if given == 0 {
            break;
        }
        slab.used.set(used - given as u32);
        if slab.side_ready.get() {
            slab.free[0].set(slab.free[0].get() | groups);
        }
        count += given;
    }
    count
}

/// Whether a slot is the one before or behind another.
#[inline(always)]
fn is_neighbour(slot: usize, other: usize) -> bool {
    slot.wrapping_sub(other).wrapping_add(1) & !2 == 0
}

/// Whether the first slots lie one after another: neighbours often come back together.
#[inline(always)]
fn starts_run(slots: &[usize], class: SizeClass) -> bool {
    let &[first, second, third, ..] = slots else { return false };
    let (step, slot_bytes) = (second.wrapping_sub(first), class.slot_bytes());
    (step == slot_bytes || step == slot_bytes.wrapping_neg()) && third.wrapping_sub(second) == step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::UnitPool;
    use crate::sync::Lock;

    struct Draw(u64);

    impl Draw {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }

    /// All slots in pieces of one to `longest` neighbours, forwards or backwards, in no order.
    fn mixed(slots: &[usize], longest: usize, draw: &mut Draw) -> Vec<usize> {
        let (mut pieces, mut rest) = (Vec::new(), slots);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + draw.below(longest)).min(rest.len()));
            let mut piece = piece.to_vec();
            if draw.below(2) == 0 {
                piece.reverse();
            }
            pieces.push(piece);
            rest = behind;
        }
        (1..pieces.len()).for_each(|place| pieces.swap(place, draw.below(place + 1)));
        pieces.concat()
    }

    #[test]
    fn what_comes_back_in_any_order_is_free_once() {
        let mut draw = Draw(7);
        for classes in [Classes::Natural, Classes::Spaced] {
            // From many slots a slab to a hundred, so that bits are in all places.
            for class in [8, 16, 24, 48, 64, 640, 1024]
                .map(|size| classes.of(core::alloc::Layout::from_size_align(size, 1).unwrap(), 4))
            {
                let pool = Lock::new(UnitPool::new(16));
                let geometry = Geometry::plain(class, 16, &pool);
                let mut shelves = Shelves::new();
                let wanted = 5 * geometry.shape().slots + 3;
                let mut slots: Vec<usize> = Vec::new();
                while slots.len() < wanted {
                    let fresh = shelves.take_unused(&geometry, wanted - slots.len()).unwrap().range;
                    slots.extend(fresh.step_by(class.slot_bytes()));
                }
                slots.sort_unstable();
                for longest in [1, 2, 3, 40, 1000].into_iter().step_by(if cfg!(miri) { 3 } else { 1 }) {
                    let mut rest = &mixed(&slots, longest, &mut draw)[..];
                    let kept = rest[0];
                    rest = &rest[1..];
                    while !rest.is_empty() {
                        let (batch, behind) = rest.split_at((1 + draw.below(700)).min(rest.len()));
                        // SAFETY: slots that were taken, each once, and nobody uses them.
                        unsafe { shelves.receive(&geometry, batch) };
                        shelves.used_slots -= batch.len();
                        rest = behind;
                    }
                    let (mut taken, mut out) = (vec![kept], [0; 77]);
                    loop {
                        let count = shelves.take_recycled(&geometry, &mut out).unwrap();
                        taken.extend(&out[..count]);
                        if count == 0 {
                            break;
                        }
                    }
                    // What is empty is closed, and its slots are fresh again.
                    while taken.len() < wanted {
                        let fresh = shelves.take_unused(&geometry, wanted - taken.len()).unwrap().range;
                        taken.extend(fresh.step_by(class.slot_bytes()));
                    }
                    taken.sort_unstable();
                    taken.windows(2).for_each(|two| assert!(two[0] < two[1], "{two:x?} of {class:?}"));
                    assert_eq!(shelves.used_slots, wanted);
                    slots = taken;
                }
            }
        }
    }
}
