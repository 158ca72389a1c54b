//! The magazines of all classes of one family that a thread has, and what it knows of that family.

use core::ptr::NonNull;

use super::quarantine::Random;
use super::{Magazine, Tally};
use crate::header::{CLOSED, Telling, View};
use crate::size_class::{COUNT_MAX, Classes, SizeClass};
use crate::sync::{Acquire, AtomicU32, Cell, Relaxed, Release, give_way};

/// A cache's door: open, or its thread is in for one free, or who ended the heap has shut it for good.
const OPEN: u32 = 0;
const SHUT: u32 = 1;

/// What one thread holds of one family, all classes: as many magazines as the family has classes.
#[repr(C, align(64))]
pub struct Cache<M: ?Sized = [Magazine]> {
    pub(super) view: Cell<View>,
    /// The same tags, for addresses that may be any family's.
    telling: Cell<&'static Telling>,
    /// The heap that it is a cache of, by number and generation; 0 for static families.
    pub(super) heap: Cell<u64>,
    /// Where the slabs begin in a region that is known to be the family's: the last that a slot was freed in. Only where the
    /// family keeps states.
    pub(super) slabs: Cell<usize>,
    /// Only where the family is hardened.
    pub(super) random: Random,
    pub(super) tally: Tally,
    /// What the cache is a part of, for who made it; null in the empty cache.
    pub(super) whole: Cell<*const ()>,
    /// See [`enter`](Cache::enter).
    door: AtomicU32,
    pub(super) magazines: M,
}

/// What stands in a cache before its magazines.
pub(crate) const HEAD_BYTES: usize = size_of::<Cache<[Magazine; 0]>>();

const _: () = assert!(core::mem::offset_of!(Cache<[Magazine; 1]>, magazines) == HEAD_BYTES, "no gap");

// SAFETY: M1: every cache but the empty one belongs to one thread, which alone uses its cells; the empty one is never stored
// to (M3). What others read is atomic.
unsafe impl<M: ?Sized> Sync for Cache<M> {}

/// The cache of a thread that has none, for families of any classes. Never written (M3).
pub(crate) static EMPTY: Cache<[Magazine; COUNT_MAX]> = Cache::empty();

/// The cache of a thread that has none.
pub(crate) const fn empty() -> &'static Cache {
    &EMPTY
}

/// Whether a cache is that of a thread that has none.
#[inline(always)]
pub(crate) fn is_empty(cache: &'static Cache) -> bool {
    core::ptr::addr_eq(cache, &raw const EMPTY)
}

impl<const COUNT: usize> Cache<[Magazine; COUNT]> {
    /// A cache without slots, room or family.
    pub(crate) const fn empty() -> Self {
        Self {
            view: Cell::new(View::CLOSED),
            telling: Cell::new(&CLOSED),
            heap: Cell::new(0),
            slabs: Cell::new(0),
            random: Random::new(),
            tally: Tally::new(),
            whole: Cell::new(core::ptr::null()),
            door: AtomicU32::new(OPEN),
            magazines: [const { Magazine::empty() }; COUNT],
        }
    }
}

impl Cache {
    /// Bytes of a cache of so many classes.
    pub(crate) const fn bytes(count: usize) -> usize {
        HEAD_BYTES + count * size_of::<Magazine>()
    }

    /// Lets the owner use the cache of a heap of which it holds no handle, until it [leaves](Self::leave). `false`: that heap has
    /// ended, or is ending. While it is in, who ends the heap waits (M6).
    #[inline(always)]
    fn enter(&self) -> bool {
        // Acquire, so that what follows comes after it. It pairs with no Release: the door that its thread leaves it has
        // left itself, and the one that is shut is shut.
        self.door.fetch_or(SHUT, Acquire) & SHUT == OPEN
    }

    /// Ends what [`enter`](Self::enter) has begun.
    #[inline(always)]
    fn leave(&self) {
        // Settled, or where the door stands would be kept in a register from before.
        // SAFETY: this cache's head.
        let head = unsafe { &*settled(core::ptr::from_ref(self).cast::<Cache<[Magazine; 0]>>()) };
        // Release: pairs with the Acquire in `shut`.
        head.door.store(OPEN, Release);
    }

    /// Puts a slot into its magazine, for the owner, who may hold no handle, if the slot's tag says that it belongs there and
    /// there is room. Its client has given it up. Not where slots have states.
    #[inline(always)]
    pub(crate) fn take_back(&self, tag: u32, class: SizeClass, address: usize) -> bool {
        let magazine = self.magazine(class);
        if tag != magazine.tag() {
            return false;
        }
        self.take_back_into(magazine, address)
    }

    /// The same, for a slot of a magazine of this cache, whose tag has been compared.
    #[inline(always)]
    pub(crate) fn take_back_into(&self, magazine: &Magazine, address: usize) -> bool {
        self.through_the_door(|| magazine.push_behind::<HEAD_BYTES>(address))
    }

    /// The same, for the cache of a heap.
    #[inline(always)]
    pub(crate) fn take_back_by_door(&self, magazine: &Magazine, address: usize) -> bool {
        self.by_the_door(|| magazine.push_behind::<HEAD_BYTES>(address))
    }

    /// Whether it is a heap's.
    #[inline(always)]
    pub(crate) fn is_of_heap(&self) -> bool {
        self.heap() != 0
    }

    /// As [`take_back`](Self::take_back) for a slot of the magazine, whose room is used up: most often the array is not, and it was time
    /// to look whether memory waits. `false`: it is time for an exchange.
    pub(crate) fn take_back_again(&self, class: SizeClass, address: usize) -> bool {
        let magazine = self.magazine(class);
        self.through_the_door(|| magazine.renew(&self.tally, class) && magazine.push(address))
    }

    /// Does something with the cache if its door is not shut, which only a heap's ever is (M6); `false`: it is shut.
    #[inline(always)]
    fn through_the_door(&self, push: impl FnOnce() -> bool) -> bool {
        if self.heap() == 0 { push() } else { self.by_the_door(push) }
    }

    /// The same, for the cache of a heap.
    #[inline(always)]
    fn by_the_door(&self, push: impl FnOnce() -> bool) -> bool {
        self.enter() && {
            let is_pushed = push();
            self.leave();
            is_pushed
        }
    }

    /// Keeps the owner out for good, for who has ended the heap: all handles are gone.
    pub(crate) fn shut(&self) {
        let mut waited = 0;
        // Acquire: pairs with the Release in `leave`, so that what was pushed is seen.
        while self.door.compare_exchange(OPEN, SHUT, Acquire, Relaxed).is_err() {
            give_way(waited);
            waited = waited.saturating_add(1);
        }
    }

    /// Makes memory a cache of so many classes, without slots, arrays or family.
    ///
    /// # Safety
    /// `place` is valid for [`bytes`](Self::bytes) of that many, aligned to a cache line, and the caller's alone.
    pub(crate) unsafe fn make(place: NonNull<u8>, count: usize) {
        // SAFETY: the same contract, here and below.
        unsafe { Self::make_head(place) };
        for index in 0..count {
            // SAFETY: as above.
            let magazine = unsafe { place.add(Self::bytes(index)) };
            // SAFETY: as above; magazines follow at multiples of a cache line.
            unsafe { Magazine::make(magazine.cast()) };
        }
    }

    /// Makes the head of a cache, before magazines that are there already: those of a cache that
    /// stood here. [`equip`](Self::equip) lets them keep their arrays alone.
    ///
    /// # Safety
    /// As for [`make`](Self::make), and nobody uses the cache any more.
    pub(crate) unsafe fn make_head(place: NonNull<u8>) {
        // SAFETY: the same contract: the head ends where the magazines begin.
        unsafe { place.cast::<Cache<[Magazine; 0]>>().write(Cache::empty()) };
    }

    /// A cache of so many classes, where its address is known.
    #[inline(always)]
    pub(crate) const fn of_classes(cache: *const Cache<[Magazine; 0]>, count: usize) -> *const Self {
        core::ptr::slice_from_raw_parts(cache.cast::<Magazine>(), count) as *const Self
    }

    /// What the cache is a part of.
    pub(crate) fn whole(&self) -> *const () {
        self.whole.get()
    }

    /// Says what the cache is a part of. Not for the empty cache (M3).
    pub(crate) fn set_whole(&self, whole: *const ()) {
        self.whole.set(whole);
    }

    /// Whether there is a magazine of a class. Of a family's own classes there always is, but for those beyond its longest slots.
    #[inline(always)]
    pub(crate) fn has(&self, class: SizeClass) -> bool {
        class.index() < self.magazines.len()
    }

    #[inline(always)]
    pub(crate) fn magazine(&self, class: SizeClass) -> &Magazine {
        let magazine = settled(&raw const self.magazines[class.index()]);
        // SAFETY: the pointer to an element of the borrowed array.
        unsafe { &*magazine }
    }

    /// How many bytes behind the first magazine that of a class begins.
    #[inline(always)]
    pub(crate) const fn offset(class: SizeClass) -> usize {
        class.index() * size_of::<Magazine>()
    }

    /// The natural class whose magazine begins there.
    pub(crate) const fn class_at(offset: usize) -> SizeClass {
        Classes::Natural.class(offset / size_of::<Magazine>())
    }

    /// The magazine that begins there: for who has found one of the class already, in this cache or
    /// another.
    ///
    /// # Safety
    /// The [`offset`](Self::offset) of a class that the cache [has](Self::has).
    #[inline(always)]
    pub(crate) unsafe fn magazine_at(&self, offset: usize) -> &Magazine {
        // SAFETY: before a magazine of this cache, as the caller promises.
        let before = settled(unsafe { core::ptr::from_ref(self).cast::<u8>().add(offset) });
        // SAFETY: as above.
        let magazine = unsafe { before.add(HEAD_BYTES) };
        // SAFETY: as above; the owner's, as the cache (M1).
        unsafe { &*magazine.cast() }
    }

    #[inline(always)]
    pub(crate) fn view(&self) -> View {
        self.view.get()
    }

    /// The tag of an address that may be any family's: that of a magazine here only if it is one of its slots.
    #[inline(always)]
    pub(crate) fn telling_tag(&self, address: usize) -> u32 {
        self.telling.get().tag(address)
    }

    /// Whether the family's slabs are so long. Not of the empty cache.
    pub(crate) fn has_units_of(&self, unit_shift: u32) -> bool {
        self.telling.get().is_for(unit_shift)
    }

    /// The same, for slabs of a length that is known when the program is compiled: that of the
    /// cache's family.
    #[inline(always)]
    pub(crate) fn telling_tag_by(&self, unit_shift: u32, address: usize) -> u32 {
        self.telling.get().tag_by(unit_shift, address)
    }

    #[inline(always)]
    pub(crate) fn slabs(&self) -> usize {
        self.slabs.get()
    }

    /// Notes where the slabs begin in a region of the family, and, the first time, how many slots of each class it has. Not for the
    /// empty cache (M3).
    pub(crate) fn set_slabs(&self, slabs: usize, region_slots: impl Fn(usize) -> usize) {
        if self.slabs.replace(slabs) == 0 {
            for (index, magazine) in self.magazines.iter().enumerate() {
                magazine.region_slots.set(region_slots(index) as u32);
            }
        }
    }

    /// The heap that this is a cache of: its number and generation.
    #[inline(always)]
    pub(crate) fn heap(&self) -> u64 {
        self.heap.get()
    }

    /// Gives the cache its family: what addresses are looked up in, the heap if it is one, and each class's tag. Of what stood in
    /// the magazines only the arrays stay.
    pub(crate) fn equip(&self, view: View, telling: &'static Telling, heap: u64, tag: impl Fn(usize) -> u32) {
        self.view.set(view);
        self.telling.set(telling);
        // Another cache may have stood here, as below.
        self.door.store(OPEN, Relaxed);
        self.heap.set(heap);
        self.tally.reset();
        for (index, magazine) in self.magazines.iter().enumerate() {
            magazine.begin(tag(index));
        }
    }
}

/// The same pointer, in a register of its own. Left to itself the compiler addresses a magazine of a class that is known at run
/// time only as base plus index; a store and the next load of `top` then miss the processor's renaming of memory, which knows
/// base plus displacement, and a pair takes 5.0 ns instead of 2.3.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the pointer passes through, nothing is read through it there")]
fn settled<T>(magazine: *const T) -> *const T {
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
