//! Churn: of many live allocations a random one is freed and another takes its place.

use std::alloc::Layout;

use super::memory::{layout, obtain, touch};
use crate::meter::Meter;
use crate::os::Table;
use crate::random::Random;
use crate::subject::Subject;

/// An allocation whose size everyone knows.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Slot(pub(crate) *mut u8);

// SAFETY: whoever holds it owns the allocation, and any thread may free it.
unsafe impl Send for Slot {}

impl Slot {
    pub(crate) const NONE: Self = Self(std::ptr::null_mut());

    /// Allocates and touches.
    #[inline(always)]
    pub(crate) fn new<S: Subject, const SIZE: usize>() -> Self {
        Self(fill::<S>(const { layout(SIZE) }))
    }

    /// Frees.
    ///
    /// # Safety
    /// - It was made by `new` with the same size over the same subject, and is freed once.
    #[inline(always)]
    pub(crate) unsafe fn free<S: Subject, const SIZE: usize>(self) {
        // SAFETY: live, of that layout.
        unsafe { S::dealloc(self.0, const { layout(SIZE) }) }
    }
}

/// Fills a table.
pub(crate) fn fill_fixed<S: Subject, const SIZE: usize>(table: &mut [Slot]) {
    for slot in table {
        *slot = Slot::new::<S, SIZE>();
    }
}

/// Frees everything in a table.
pub(crate) fn free_fixed<S: Subject, const SIZE: usize>(table: &[Slot]) {
    for slot in table {
        // SAFETY: live, made by `fill_fixed` or `replace_fixed`, visited once.
        unsafe { slot.free::<S, SIZE>() };
    }
}

/// All of one size, which is a constant.
pub(crate) fn fixed<S: Subject, const SIZE: usize>(meter: &mut Meter, live: usize) {
    let mut table = Table::new(live, Slot::NONE);
    meter.ready();
    fill_fixed::<S, SIZE>(&mut table);
    let mut random = Random::new(2);
    // Everything has moved once before anything counts.
    replace_fixed::<S, SIZE>(&mut table, &mut random, live);
    let steps = meter.pick(300_000, 1_000_000);
    for _ in 0..meter.pick(3, 5) {
        meter.time("replace", steps, || replace_fixed::<S, SIZE>(&mut table, &mut random, steps));
    }
    meter.peak();
    free_fixed::<S, SIZE>(&table);
}

/// Replaces random entries of a table of one size.
pub(crate) fn replace_fixed<S: Subject, const SIZE: usize>(table: &mut [Slot], random: &mut Random, steps: usize) {
    let live = table.len();
    for _ in 0..steps {
        let slot = &mut table[random.below(live)];
        // SAFETY: live, made by `Slot::new`; its place is taken below.
        unsafe { slot.free::<S, SIZE>() };
        *slot = Slot::new::<S, SIZE>();
    }
}

/// An allocation and how large it is.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) ptr: *mut u8,
    pub(crate) size: usize,
}

// SAFETY: whoever holds it owns the allocation, and any thread may free it.
unsafe impl Send for Held {}

impl Held {
    pub(crate) const NONE: Self = Self { ptr: std::ptr::null_mut(), size: 0 };

    /// Allocates and touches.
    #[inline(always)]
    pub(crate) fn new<S: Subject>(size: usize) -> Self {
        Self { ptr: fill::<S>(layout(size)), size }
    }

    /// Frees.
    ///
    /// # Safety
    /// - It was made by `new` over the same subject, and is freed once.
    #[inline(always)]
    pub(crate) unsafe fn free<S: Subject>(self) {
        // SAFETY: live, of that layout.
        unsafe { S::dealloc(self.ptr, layout(self.size)) }
    }
}

/// Sizes from 8 to 1024 bytes, known at run time only.
pub(crate) fn mixed<S: Subject>(meter: &mut Meter, live: usize) {
    let mut table = Table::new(live, Held::NONE);
    let mut random = Random::new(3);
    meter.ready();
    fill_mixed::<S>(&mut table, &mut random);
    replace_mixed::<S>(&mut table, &mut random, live);
    let steps = meter.pick(300_000, 1_000_000);
    for _ in 0..meter.pick(3, 5) {
        meter.time("replace", steps, || replace_mixed::<S>(&mut table, &mut random, steps));
    }
    meter.peak();
    free_mixed::<S>(&table);
}

/// Fills a table with sizes up to 1024 bytes.
pub(crate) fn fill_mixed<S: Subject>(table: &mut [Held], random: &mut Random) {
    for held in table {
        *held = Held::new::<S>(random.size(1024));
    }
}

/// Frees everything in a table.
pub(crate) fn free_mixed<S: Subject>(table: &[Held]) {
    for held in table {
        // SAFETY: live, made by `Held::new`, visited once.
        unsafe { held.free::<S>() };
    }
}

/// Replaces random entries of a table of many sizes.
pub(crate) fn replace_mixed<S: Subject>(table: &mut [Held], random: &mut Random, steps: usize) {
    let live = table.len();
    for _ in 0..steps {
        let held = &mut table[random.below(live)];
        // SAFETY: live, made by `Held::new`; its place is taken below.
        unsafe { held.free::<S>() };
        *held = Held::new::<S>(random.size(1024));
    }
}

/// Allocates and touches.
#[inline(always)]
fn fill<S: Subject>(layout: Layout) -> *mut u8 {
    // SAFETY: no size is 0.
    let ptr = unsafe { obtain::<S>(layout) };
    // SAFETY: an allocation of that layout.
    unsafe { touch(ptr, layout.size()) };
    ptr
}
