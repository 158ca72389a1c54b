//! What is said of a pointer that came back wrongly: the call, and what the address really is.

#![forbid(unsafe_code)]

use core::alloc::Layout;

use super::registry::{FamilyRef, families};
use super::{CLASS_BITS, FamilyCore};
use crate::bin::Twice;
use crate::fault::{Fault, FaultKind, Truth, report};
use crate::header::Directory;
use crate::size_class::{Classes, SizeClass};

/// What a family is called in a report; a heap never ends from now on.
fn told_name(family: FamilyRef) -> &'static str {
    family.name_for_ever().map_or("a heap that has ended", |_| family.core.told_name())
}

/// What an address belongs to.
fn owner(address: usize) -> Truth {
    for family in families() {
        // Not let go: the process ends.
        let Some(held) = family.hold() else { continue };
        let core = *held;
        core::mem::forget(held);
        let directory = Directory::of(core.unit_shift);
        let tag = directory.tag(address);
        // Outside of the stretch an address has the tag of another place.
        if tag != 0 && directory.tells_apart(address) {
            let (owner, index) = (FamilyCore::with_number(tag >> CLASS_BITS), tag & ((1 << CLASS_BITS) - 1));
            let name = owner.map_or("unknown", told_name);
            // A tag that somebody has written over may name no class.
            let classes = owner.map_or(Classes::Natural, |family| family.core.classes);
            return Truth::Slab { family: name, slot_bytes: SizeClass::told(classes, index as usize).slot_bytes() };
        }
        if let Some((start, bytes)) = core.large.containing(address) {
            return Truth::Large { family: core.told_name(), address: start, bytes };
        }
    }
    Truth::Nobody
}

impl FamilyCore {
    /// Ends the process: a fault of `address` as an allocation with this layout.
    #[cold]
    #[inline(never)]
    fn report(&self, kind: FaultKind, address: usize, layout: Layout, truth: Truth) -> ! {
        let class_bytes = self.class_bytes(layout);
        report(&Fault { kind, address, size: Some(layout.size()), class_bytes, family: self.told_name(), truth })
    }

    /// Bytes of the slots that serve a layout; `None` if it is mapped singly.
    fn class_bytes(&self, layout: Layout) -> Option<usize> {
        // What comes back as nothing is said to be of the shortest class that has its alignment.
        let class = self.class_of(Layout::from_size_align(layout.size().max(1), layout.align()).unwrap_or(layout));
        self.serves(class).then(|| class.slot_bytes())
    }

    /// Ends the process: `address` is no allocation of this family that the layout fits.
    #[cold]
    #[inline(never)]
    pub(crate) fn report_invalid_free(&self, address: usize, layout: Layout) -> ! {
        self.report(FaultKind::InvalidFree, address, layout, owner(address))
    }

    /// Ends the process: a large allocation began at `address` and was freed; unless somebody else has the address by now.
    #[cold]
    pub(super) fn report_freed_large(&self, address: usize, layout: Layout) -> ! {
        match owner(address) {
            Truth::Nobody => self.report(FaultKind::DoubleFree, address, layout, Truth::Said),
            somebody => self.report(FaultKind::InvalidFree, address, layout, somebody),
        }
    }

    /// Ends the process: a large allocation begins at `address`, but with another length.
    #[cold]
    pub(super) fn report_wrong_length(&self, address: usize, layout: Layout, bytes: usize) -> ! {
        self.report(FaultKind::WrongSize, address, layout, Truth::Length(bytes))
    }

    /// Ends the process: a fault of a slot, found where no layout says a size, or where it does not matter.
    #[cold]
    #[inline(never)]
    pub(crate) fn report_slot(&self, kind: FaultKind, address: usize, class: SizeClass, truth: Truth) -> ! {
        let class_bytes = Some(class.slot_bytes());
        report(&Fault { kind, address, size: None, class_bytes, family: self.told_name(), truth })
    }

    /// Ends the process: something was written behind an allocation with this layout, `intact` bytes from its end.
    #[cold]
    #[inline(never)]
    pub(crate) fn report_overflow(&self, address: usize, layout: Layout, intact: usize) -> ! {
        let (class_bytes, truth) = (self.class_bytes(layout), Truth::Behind(layout.size(), intact));
        report(&Fault { kind: FaultKind::Overflow, address, size: None, class_bytes, family: self.told_name(), truth })
    }

    /// Ends the process: a slot came from a magazine that somebody else has.
    #[cold]
    pub(crate) fn report_freed_twice(&self, address: usize, class: SizeClass) -> ! {
        self.report_slot(FaultKind::DoubleFree, address, class, Truth::Said)
    }

    /// Ends the process: the bin was given a slot that it has, or that somebody else has.
    #[cold]
    pub(super) fn report_twice(&self, twice: Twice, class: SizeClass) -> ! {
        self.report_slot(FaultKind::DoubleFree, twice.0, class, Truth::Said)
    }
}
