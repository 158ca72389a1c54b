//! The calls of one family behind function pointers, so that a test can choose the family at run time.

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use family_alloc::{Checks, Classes, Family, Stats};

type Memory = Option<NonNull<[u8]>>;
/// A call that changes a layout: grow, grow_zeroed or shrink.
pub(crate) type Resize = unsafe fn(NonNull<u8>, Layout, Layout) -> Memory;

#[derive(Clone, Copy)]
pub(crate) struct Doors {
    pub(crate) name: &'static str,
    pub(crate) slab_bytes: usize,
    pub(crate) checks: Checks,
    pub(crate) classes: Classes,
    /// Those of `GlobalAlloc`: layouts come back as they were, alignments stay, sizes are not 0, and nothing is said of slack.
    pub(crate) is_exact: bool,
    pub(crate) allocate: fn(Layout) -> Memory,
    pub(crate) allocate_zeroed: fn(Layout) -> Memory,
    pub(crate) deallocate: unsafe fn(NonNull<u8>, Layout),
    pub(crate) grow: Resize,
    pub(crate) grow_zeroed: Resize,
    pub(crate) shrink: Resize,
    pub(crate) stats: fn() -> Stats,
    pub(crate) trim: fn() -> usize,
}

impl Doors {
    pub(crate) const fn of<F: Family>() -> Self {
        Self {
            name: F::NAME,
            slab_bytes: F::SLAB_BYTES,
            checks: F::CHECKS,
            classes: F::CLASSES,
            is_exact: false,
            allocate: |layout| Allocator::allocate(&F::default(), layout).ok(),
            allocate_zeroed: |layout| Allocator::allocate_zeroed(&F::default(), layout).ok(),
            // SAFETY: the same contract, here and below.
            deallocate: |ptr, layout| unsafe { Allocator::deallocate(&F::default(), ptr, layout) },
            // SAFETY: as above.
            grow: |ptr, old, new| unsafe { Allocator::grow(&F::default(), ptr, old, new) }.ok(),
            // SAFETY: as above.
            grow_zeroed: |ptr, old, new| unsafe { Allocator::grow_zeroed(&F::default(), ptr, old, new) }.ok(),
            // SAFETY: as above.
            shrink: |ptr, old, new| unsafe { Allocator::shrink(&F::default(), ptr, old, new) }.ok(),
            stats: F::stats,
            trim: F::trim,
        }
    }

    pub(crate) const fn exact<F: Family>() -> Self {
        Self {
            name: F::NAME,
            slab_bytes: F::SLAB_BYTES,
            checks: F::CHECKS,
            classes: F::CLASSES,
            is_exact: true,
            // SAFETY: whoever has these doors asks for no size of 0.
            allocate: |layout| usable(unsafe { F::default().alloc(layout) }, layout),
            // SAFETY: as above.
            allocate_zeroed: |layout| usable(unsafe { F::default().alloc_zeroed(layout) }, layout),
            // SAFETY: the same contract, here and below.
            deallocate: |ptr, layout| unsafe { F::default().dealloc(ptr.as_ptr(), layout) },
            // SAFETY: as above.
            grow: |ptr, old, new| usable(unsafe { F::default().realloc(ptr.as_ptr(), old, new.size()) }, new),
            grow_zeroed: |_, _, _| unreachable!("`GlobalAlloc` has no such call"),
            // SAFETY: as above.
            shrink: |ptr, old, new| usable(unsafe { F::default().realloc(ptr.as_ptr(), old, new.size()) }, new),
            stats: F::stats,
            trim: F::trim,
        }
    }

    /// Bytes that a client may use: all that a layout occupies, if the door says how much that is.
    pub(crate) fn usable(&self, layout: Layout) -> usize {
        if self.is_exact { layout.size() } else { self.occupied(layout) }
    }

    /// Bytes that a layout occupies: a slot of the family's classes in slabs, whole pages above.
    pub(crate) fn occupied(&self, layout: Layout) -> usize {
        if layout.size() == 0 {
            return 0;
        }
        if self.is_large(layout) {
            layout.size().max(layout.align()).next_multiple_of(super::memory::page_bytes())
        } else {
            slot_bytes(self.classes, layout, self.least_slot_bytes())
        }
    }

    /// Bytes of the smallest slot: 16 where slots have states.
    fn least_slot_bytes(&self) -> usize {
        match self.checks {
            Checks::Unchecked | Checks::Default => 1,
            _ => 16,
        }
    }

    /// Whether a layout is mapped singly.
    pub(crate) fn is_large(&self, layout: Layout) -> bool {
        layout.size() > 0 && slot_bytes(self.classes, layout, 1) > longest_slot(self.classes, self.slab_bytes)
    }
}

/// The length of a slot for a layout, of at least so many bytes, as the documentation has it.
pub(crate) fn slot_bytes(classes: Classes, layout: Layout, least: usize) -> usize {
    let need = layout.size().max(least);
    match classes {
        Classes::Spaced => {
            // What is a multiple of the alignment already, and not only the next length.
            let need = need.next_multiple_of(layout.align());
            // Multiples of 8, or of an eighth of the power of two below.
            need.next_multiple_of(((need - 1).checked_ilog2().map_or(1, |shift| 1 << shift) / 8).max(8))
        }
        _ => need.max(layout.align()).next_power_of_two(),
    }
}

/// How many slots a slab has, as figures count them. Long ones end with a page; those of the shortest slots where the bits of what is free may stand.
pub(crate) fn slots_of_slab(classes: Classes, checks: Checks, slab_bytes: usize, slot_bytes: usize) -> usize {
    let whole = |&slots: &usize| (slots * slot_bytes) & 4095 == 0;
    let is_long = classes == Classes::Spaced && slot_bytes > 8192;
    let most = slab_bytes / slot_bytes;
    if is_long {
        return (0..=most).rev().find(whole).unwrap_or(0);
    }
    (slab_bytes - bits_of_slab(checks, slab_bytes, slot_bytes)) / slot_bytes
}

/// Bytes at the end of a slab where the bits of what is free may stand.
pub(crate) fn bits_of_slab(checks: Checks, slab_bytes: usize, slot_bytes: usize) -> usize {
    let most = slab_bytes / slot_bytes;
    let has_bits = matches!(checks, Checks::Default | Checks::Unchecked) && slot_bytes >= 4 && most > 128;
    // Those of longer slots stand apart.
    if !has_bits || slot_bytes >= 16 {
        return 0;
    }
    let (bits, page) = (most.div_ceil(64) * 8, super::memory::page_bytes());
    if slab_bytes >= 2 << 20 { bits.next_multiple_of(page) } else { bits }
}

/// The longest slot of a family with slabs of so many bytes.
pub(crate) fn longest_slot(classes: Classes, slab_bytes: usize) -> usize {
    if classes == Classes::Spaced { slab_bytes / 8 } else { slab_bytes / 2 }
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_exact { ", GlobalAlloc" } else { "" })
    }
}

fn usable(start: *mut u8, layout: Layout) -> Memory {
    Some(NonNull::slice_from_raw_parts(NonNull::new(start)?, layout.size()))
}

pub(crate) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap_or_else(|_| panic!("no layout of {size} bytes aligned to {align}"))
}

/// Whether an address is a multiple of `align`.
pub(crate) fn is_aligned(address: usize, align: usize) -> bool {
    address & (align - 1) == 0
}

impl Doors {
    /// The alignment that every allocation of a layout has.
    pub(crate) fn promised_align(&self, layout: Layout) -> usize {
        let bytes = match (layout.size(), self.classes) {
            (0, _) => 1,
            (_, Classes::Spaced) => self.occupied(layout),
            (size, _) => size.next_power_of_two(),
        };
        layout.align().max((1 << bytes.trailing_zeros()).min(4096))
    }
}
