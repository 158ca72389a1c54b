//! One try of a case: a family and its neighbour in one mode, a door, a size; and what the case expects to happen.

use std::alloc::{GlobalAlloc, Layout};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use allocator_api2::alloc::Allocator;
use family_alloc::{Checks, Family};

use crate::common::doors::{layout, longest_slot, slot_bytes};

/// A family that can be called by every door.
pub(crate) trait Subject: Family + Allocator + GlobalAlloc {}

impl<F: Family + Allocator + GlobalAlloc> Subject for F {}

/// The traits by which memory comes and goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Door {
    Allocator,
    Global,
}

/// `F` is misused, `Other` is a family of the same mode.
pub(crate) struct Try<F, Other> {
    pub(crate) door: Door,
    pub(crate) size: usize,
    pub(crate) families: PhantomData<(F, Other)>,
}

impl<F, Other> Clone for Try<F, Other> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, Other> Copy for Try<F, Other> {}

pub(crate) fn bytes(size: usize) -> Layout {
    layout(size, 1)
}

fn pointer(address: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address)
}

/// Writes one byte somewhere.
pub(crate) fn write(address: usize, value: u8) {
    // SAFETY: a case breaks the contract on purpose.
    unsafe { pointer(address).write_volatile(value) };
}

pub(crate) fn read(address: usize) -> u8 {
    // SAFETY: as above.
    unsafe { pointer(address).read_volatile() }
}

/// Says what must happen from here on.
pub(crate) fn expect(what: &str) {
    println!("\nexpected: {what}");
}

/// Whether the system can make pages that may not be touched and that come back empty.
pub(crate) static HAS_GUARDS: AtomicBool = AtomicBool::new(false);

/// It must be as if nothing were wrong.
pub(crate) const NOTHING: &str = "nothing";
/// It is wrong, and this mode does not find it.
pub(crate) const NOT_FOUND: &str = "not found";
/// The access itself ends the process.
pub(crate) const SIGSEGV: &str = "SIGSEGV";
/// Stands between what may happen equally well.
pub(crate) const OR: &str = " | ";
/// Stands before what happens this time, where it depends on chance.
pub(crate) const THIS_TIME: &str = "this time: ";

impl<F: Subject, Other: Subject> Try<F, Other> {
    pub(crate) fn allocate_in<A: Subject>(self, layout: Layout) -> usize {
        self.allocate_by(&A::default(), layout)
    }

    pub(crate) fn allocate_by<A: Subject>(self, family: &A, layout: Layout) -> usize {
        let memory = match self.door {
            Door::Allocator => {
                Allocator::allocate(family, layout).map_or(std::ptr::null_mut(), |slot| slot.cast().as_ptr())
            }
            // SAFETY: no layout here is of size 0.
            Door::Global => unsafe { family.alloc(layout) },
        };
        assert!(!memory.is_null());
        memory.expose_provenance()
    }

    pub(crate) fn free_in<A: Subject>(self, address: usize, layout: Layout) {
        self.free_by(&A::default(), address, layout);
    }

    pub(crate) fn free_by<A: Subject>(self, family: &A, address: usize, layout: Layout) {
        match self.door {
            Door::Allocator => {
                let memory = NonNull::new(pointer(address)).expect("not null");
                // SAFETY: a case breaks the contract on purpose: the call must see that and end the process.
                unsafe { Allocator::deallocate(family, memory, layout) }
            }
            // SAFETY: as above.
            Door::Global => unsafe { family.dealloc(pointer(address), layout) },
        }
    }

    pub(crate) fn allocate(self) -> usize {
        self.allocate_in::<F>(bytes(self.size))
    }

    pub(crate) fn free(self, address: usize) {
        self.free_in::<F>(address, bytes(self.size));
    }

    /// Grows or shrinks; returns the new address.
    pub(crate) fn resize(self, address: usize, old: usize, new: usize) -> usize {
        self.resize_from(address, bytes(old), new)
    }

    /// Changes the size of what has this layout; the alignment stays.
    pub(crate) fn resize_from(self, address: usize, old: Layout, new: usize) -> usize {
        let memory = NonNull::new(pointer(address)).expect("not null");
        if self.door == Door::Global {
            // SAFETY: a case may break the contract on purpose, here and below.
            let resized = unsafe { F::default().realloc(memory.as_ptr(), old, new) };
            return resized.expose_provenance();
        }
        let new = layout(new, old.align());
        let resized = if new.size() >= old.size() {
            // SAFETY: as above.
            unsafe { Allocator::grow(&F::default(), memory, old, new) }
        } else {
            // SAFETY: as above.
            unsafe { Allocator::shrink(&F::default(), memory, old, new) }
        };
        resized.expect("there is memory").as_ptr().expose_provenance()
    }

    pub(crate) fn is_large(self) -> bool {
        self.is_large_size(self.size)
    }

    pub(crate) fn is_large_size(self, size: usize) -> bool {
        size > longest_slot(F::CLASSES, F::SLAB_BYTES)
    }

    pub(crate) fn keeps_states(self) -> bool {
        !matches!(F::CHECKS, Checks::Unchecked | Checks::Default)
    }

    pub(crate) fn is_hardened(self) -> bool {
        F::CHECKS == Checks::Hardened
    }

    /// Whether a free slot of this size may not be touched.
    pub(crate) fn is_guarded(self) -> bool {
        self.is_hardened() && self.size >= 64 << 10 && HAS_GUARDS.load(Ordering::Relaxed)
    }

    /// Bytes of the slot of a size.
    pub(crate) fn slot_bytes(self, size: usize) -> usize {
        slot_bytes(F::CLASSES, bytes(size), if self.keeps_states() { 16 } else { 1 })
    }

    fn class(self, size: usize) -> String {
        if self.is_large_size(size) { "large".to_owned() } else { format!("{}-byte class", self.slot_bytes(size)) }
    }

    /// What an address is that belongs to a slot of this size.
    pub(crate) fn slot_of(self, size: usize, name: &str) -> String {
        format!("it belongs to the {}-byte class of family {name}", self.slot_bytes(size))
    }

    /// A line that names a slot of this try's size.
    pub(crate) fn state_line(self, what: &str, address: usize, more: &str) -> String {
        format!("family_alloc: {what} {address:#x} ({}, family {}){more}", self.class(self.size), F::NAME)
    }

    /// A line of a checked mode; not found in the default mode.
    pub(crate) fn expect_state(self, what: &str, address: usize, more: &str) {
        if self.keeps_states() {
            expect(&self.state_line(what, address, more));
        } else {
            expect(NOT_FOUND);
        }
    }

    pub(crate) fn expect_double_free(self, address: usize) {
        if self.is_large() {
            expect(&format!(
                "family_alloc: double free of {address:#x} (size {}, large, family {})",
                self.size,
                F::NAME
            ));
        } else {
            self.expect_state("double free of", address, "");
        }
    }

    /// The line of every mode.
    pub(crate) fn expect_invalid(self, address: usize, wrong: Layout, truth: &str) {
        let (size, class) = (wrong.size(), self.class(wrong.size().max(wrong.align())));
        expect(&format!(
            "family_alloc: invalid free of {address:#x} (size {size}, {class}, family {}): {truth}",
            F::NAME
        ));
    }

    /// The layout whose alignment is twice as long as what is at `address`, after which that is reported.
    pub(crate) fn expect_wrong_align(self, address: usize) -> Layout {
        let wrong = layout(self.size, (self.slot_bytes(self.size) * 2).next_power_of_two());
        if self.is_large() {
            self.expect_wrong_length(address, self.size);
        } else {
            self.expect_invalid(address, wrong, &self.slot_of(self.size, F::NAME));
        }
        wrong
    }

    /// The line of a live large allocation of this try's size.
    pub(crate) fn expect_wrong_length(self, address: usize, wrong: usize) {
        self.expect_other_length(address, wrong, self.size);
    }

    /// The line of a live large allocation of a size.
    pub(crate) fn expect_other_length(self, address: usize, wrong: usize, size: usize) {
        let right = size.next_multiple_of(4096);
        expect(&format!(
            "family_alloc: wrong size at the free of {address:#x} (size {wrong}, large, family {}): it was allocated with {right} bytes",
            F::NAME
        ));
    }

    /// The truth about a live allocation of `F` of this try's size.
    pub(crate) fn truth(self, address: usize, name: &str) -> String {
        if self.is_large() {
            let bytes = self.size.next_multiple_of(4096);
            format!("it lies in the large allocation of {bytes} bytes at {address:#x} of family {name}")
        } else {
            self.slot_of(self.size, name)
        }
    }
}
