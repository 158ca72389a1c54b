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
//! **M1** Only the thread that owns a cache changes it; others read `top` and `fresh_bytes`, for the counters.
//! **M2** `bottom <= top <= end` delimit the class's part of the cache's array; what lies below `top` is initialised.
//! **M3** Nothing is ever stored to the empty cache: all its magazines have `bottom = top = end` and no fresh bytes.

mod quarantine;

use core::ops::Range;

use quarantine::Random;

use crate::bin::Fresh;
use crate::capacity::{MAGAZINE_STARTS, magazine_slots};
use crate::header::View;
use crate::size_class::{CLASS_COUNT, SizeClass};
use crate::states::LEAST_SHIFT;
use crate::sync::{AtomicPtr, AtomicUsize, Cell, Relaxed};

/// A tag that no slab has, nor the place where no slab is.
const NO_TAG: u32 = u32::MAX;

/// One class's part of a thread cache.
#[repr(C, align(64))]
pub(crate) struct Magazine {
    top: AtomicPtr<usize>,
    bottom: Cell<*mut usize>,
    end: Cell<*mut usize>,
    /// What the header of a slab of this family and class holds.
    tag: Cell<u32>,
    fresh_zeroed: Cell<bool>,
    /// Bytes of the fresh range that are left.
    fresh_bytes: AtomicUsize,
    fresh_end: Cell<usize>,
    /// Slots held when this magazine last exchanged with its bin: the difference is what the thread allocated since.
    noted: Cell<usize>,
    /// Slots of this class in a region; 0 until the cache knows one. Only where the family keeps states.
    region_slots: Cell<usize>,
}

impl Magazine {
    const fn empty() -> Self {
        Self {
            top: AtomicPtr::new(core::ptr::null_mut()),
            bottom: Cell::new(core::ptr::null_mut()),
            end: Cell::new(core::ptr::null_mut()),
            tag: Cell::new(NO_TAG),
            fresh_zeroed: Cell::new(false),
            fresh_bytes: AtomicUsize::new(0),
            fresh_end: Cell::new(0),
            noted: Cell::new(0),
            region_slots: Cell::new(0),
        }
    }

    /// The address of a recycled slot, if the array holds one.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<usize> {
        // Relaxed, here and below: only the owner stores (M1), and other threads want no more than the number itself.
        let top = self.top.load(Relaxed);
        if top == self.bottom.get() {
            return None;
        }
        // SAFETY: M2: the array is not empty, so its last slot lies below `top`.
        let last = unsafe { top.sub(1) };
        self.top.store(last, Relaxed);
        // SAFETY: M2: what lay below `top` is initialised.
        Some(unsafe { last.read() })
    }

    /// Puts a slot into the array; `false` if it is full.
    #[inline(always)]
    pub(crate) fn push(&self, address: usize) -> bool {
        let top = self.top.load(Relaxed);
        if top == self.end.get() {
            return false;
        }
        // SAFETY: M2: below `end` there is room, which only the owner uses (M1).
        unsafe { top.write(address) };
        // SAFETY: M2: `top < end`, so one more is at most `end`.
        self.top.store(unsafe { top.add(1) }, Relaxed);
        true
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
        self.region_slots.get()
    }

    /// Slots in the array and in the fresh range; exact for the owner, recent for others.
    pub(crate) fn held(&self, class: SizeClass) -> usize {
        self.stored() + self.fresh_bytes.load(Relaxed) / class.slot_bytes()
    }

    fn stored(&self) -> usize {
        self.top.load(Relaxed).addr().wrapping_sub(self.bottom.get().addr()) / size_of::<usize>()
    }

    /// How many more slots than it held at the last exchange the thread has allocated (negative: freed) by now.
    pub(crate) fn allocated_since_noted(&self, class: SizeClass) -> isize {
        self.noted.get().wrapping_sub(self.held(class)) as isize
    }

    pub(crate) fn note(&self, class: SizeClass) {
        self.noted.set(self.held(class));
    }

    /// Fills the empty array with what `fill` writes to its first `count` places.
    pub(crate) fn refill(&self, count: usize, fill: impl FnOnce(&mut [usize]) -> usize) {
        let bottom = self.bottom.get();
        debug_assert!(bottom == self.top.load(Relaxed) && count <= self.room());
        // SAFETY: M2: the array has room for `count` addresses; the memory was zero when it was mapped, so it is initialised.
        let places = unsafe { core::slice::from_raw_parts_mut(bottom, count) };
        let filled = fill(places).min(count);
        // SAFETY: M2: at most `count` places, which is within the array.
        self.top.store(unsafe { bottom.add(filled) }, Relaxed);
    }

    fn room(&self) -> usize {
        (self.end.get().addr() - self.bottom.get().addr()) / size_of::<usize>()
    }

    /// Makes a fresh range the one to carve from; the last one must be used up.
    pub(crate) fn set_fresh(&self, fresh: Fresh) {
        debug_assert_eq!(self.fresh_bytes.load(Relaxed), 0);
        self.fresh_zeroed.set(fresh.zeroed);
        self.fresh_end.set(fresh.range.end);
        self.fresh_bytes.store(fresh.range.len(), Relaxed);
    }

    /// Removes what is left of the fresh range.
    pub(crate) fn take_fresh(&self) -> Range<usize> {
        let end = self.fresh_end.get();
        let left = self.fresh_bytes.load(Relaxed);
        self.fresh_bytes.store(0, Relaxed);
        end - left..end
    }

    /// Hands the oldest `count` slots of the array to `flush` and moves the others down.
    pub(crate) fn flush(&self, count: usize, flush: impl FnOnce(&[usize])) {
        let (bottom, stored) = (self.bottom.get(), self.stored());
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
        self.top.store(unsafe { bottom.add(stored - count) }, Relaxed);
    }
}

/// What one thread holds of one family, all classes.
#[repr(C, align(64))]
pub struct Cache {
    view: Cell<View>,
    /// Where the slabs begin in a region that is known to be the family's: the last that a slot was freed in. Only where the
    /// family keeps states.
    slabs: Cell<usize>,
    /// Only where the family is hardened.
    random: Random,
    magazines: [Magazine; CLASS_COUNT],
}

// SAFETY: M1: every cache but the empty one belongs to one thread, which alone uses its cells; the empty one is never stored
// to (M3). What others read is atomic.
unsafe impl Sync for Cache {}

/// The cache of a thread that has none. Never written (M3).
pub(crate) static EMPTY: Cache = Cache::empty();

impl Cache {
    /// A cache without slots, room or family.
    pub(crate) const fn empty() -> Self {
        Self {
            view: Cell::new(View::CLOSED),
            slabs: Cell::new(0),
            random: Random::new(),
            magazines: [const { Magazine::empty() }; CLASS_COUNT],
        }
    }

    #[inline(always)]
    pub(crate) fn magazine(&self, class: SizeClass) -> &Magazine {
        let magazine = settled(&raw const self.magazines[class.index()]);
        // SAFETY: the pointer to an element of the borrowed array.
        unsafe { &*magazine }
    }

    #[inline(always)]
    pub(crate) fn view(&self) -> View {
        self.view.get()
    }

    #[inline(always)]
    pub(crate) fn slabs(&self) -> usize {
        self.slabs.get()
    }

    /// Notes where the slabs begin in a region of the family, and, the first time, how many slots of each class it has. Not for the
    /// empty cache (M3).
    pub(crate) fn set_slabs(&self, slabs: usize, region_slots: impl Fn(SizeClass) -> usize) {
        if self.slabs.replace(slabs) == 0 {
            for (index, magazine) in self.magazines.iter().enumerate().skip(LEAST_SHIFT as usize) {
                magazine.region_slots.set(region_slots(SizeClass::from_index(index)));
            }
        }
    }

    pub(crate) fn is_empty_cache(&self) -> bool {
        core::ptr::eq(self, &raw const EMPTY)
    }

    /// Gives the cache its array and its family: `slots` has `MAGAZINE_STARTS[CLASS_COUNT]` places, `tag` gives each class's.
    ///
    /// # Safety
    /// The array is initialised, of that length, and belongs to this cache alone from now on.
    pub(crate) unsafe fn equip(&self, slots: *mut usize, view: View, tag: impl Fn(SizeClass) -> u32) {
        self.view.set(view);
        for (index, magazine) in self.magazines.iter().enumerate() {
            let class = SizeClass::from_index(index);
            // SAFETY: the start of each class's part lies within the array.
            let bottom = unsafe { slots.add(MAGAZINE_STARTS[index]) };
            // SAFETY: the part's length is the distance to the next start.
            magazine.end.set(unsafe { bottom.add(magazine_slots(class)) });
            magazine.bottom.set(bottom);
            magazine.top.store(bottom, Relaxed);
            magazine.tag.set(tag(class));
        }
    }
}

/// The same pointer, in a register of its own. Left to itself the compiler addresses a magazine of a class that is known at run
/// time only as base plus index; a store and the next load of `top` then miss the processor's renaming of memory, which knows
/// base plus displacement, and a pair takes 5.0 ns instead of 2.3.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the pointer passes through, nothing is read through it there")]
fn settled(magazine: *const Magazine) -> *const Magazine {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let mut magazine = magazine;
        // SAFETY: no instruction: the register is only named, so that it is not computed anew at each use.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) magazine, options(pure, nomem, nostack, preserves_flags)) };
        magazine
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    magazine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magazine_gives_back_what_it_got_oldest_first_to_the_bin() {
        let mut slots = vec![0usize; MAGAZINE_STARTS[CLASS_COUNT]];
        let cache = Cache::empty();
        // SAFETY: an array of the right length that outlives the cache.
        unsafe { cache.equip(slots.as_mut_ptr(), View::CLOSED, |class| class.index() as u32 + 1) };
        let class = SizeClass::from_index(6);
        let magazine = cache.magazine(class);
        assert_eq!((magazine.pop(), magazine.carve(64), magazine.tag()), (None, None, 7));
        let pushed = (0..).take_while(|&address| magazine.push(address * 64)).count();
        assert_eq!(pushed, magazine_slots(class));
        magazine.flush(3, |oldest| assert_eq!(oldest, [0, 64, 128]));
        assert_eq!(magazine.held(class), pushed - 3);
        assert_eq!(magazine.pop(), Some((pushed - 1) * 64));
        magazine.set_fresh(Fresh { range: 640..768, zeroed: true });
        assert_eq!(magazine.held(class), pushed - 4 + 2);
        assert_eq!(
            (magazine.carve(64), magazine.take_fresh(), magazine.carve(64)),
            (Some((640, true)), 704..768, None)
        );
    }

    #[test]
    fn the_empty_cache_takes_every_cold_exit() {
        for class in (0..CLASS_COUNT).map(SizeClass::from_index) {
            let magazine = EMPTY.magazine(class);
            assert_eq!((magazine.pop(), magazine.push(64), magazine.carve(class.slot_bytes())), (None, false, None));
            assert_ne!(EMPTY.view().tag(0x1234_5678, 21), magazine.tag());
        }
    }
}
