//! The cores that no heap uses, by kind, and room for new ones.

use super::FamilyCore;
use super::heaps::{HeapOptions, UNIT_SIZES, slot_of_none};
use crate::bin::Bin;
use crate::os;

/// Cores that are mapped together.
const CORES_AT_ONCE: usize = 64;
/// Kinds of heaps whose cores cannot stand for each other: unit sizes, modes, rules for huge pages,
/// classes.
pub(super) const KINDS: usize = UNIT_SIZES * 4 * 3 * 2;
/// Bins that are mapped together, at least. Those that no core has are no memory.
const BINS_AT_ONCE: usize = 512;
/// A core has a bin for each natural class: one pair of cache lines more in each would be a page for most heaps.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Bin>() <= 128);

/// The cores that no heap uses, by kind, those that died first in front; and room for new ones and
/// for the bins that spaced classes need beside those in a core.
pub(super) struct Cores {
    first: [Option<&'static FamilyCore>; KINDS],
    last: [Option<&'static FamilyCore>; KINDS],
    room: *mut FamilyCore,
    left: usize,
    bins: *mut Bin,
    bins_left: usize,
}

// SAFETY: all of it belongs to the lock around it.
unsafe impl Send for Cores {}

impl Cores {
    pub(super) const fn new() -> Self {
        Self {
            first: [None; KINDS],
            last: [None; KINDS],
            room: core::ptr::null_mut(),
            left: 0,
            bins: core::ptr::null_mut(),
            bins_left: 0,
        }
    }

    pub(super) fn take(&mut self, kind: usize) -> Option<&'static FamilyCore> {
        let first = self.first[kind]?;
        self.first[kind] = first.heap.as_ref()?.next.take();
        if self.first[kind].is_none() {
            self.last[kind] = None;
        }
        Some(first)
    }

    pub(super) fn put(&mut self, kind: usize, core: &'static FamilyCore) {
        if core.heap.as_ref().is_some_and(|heap| heap.life.is_worn_out()) {
            return;
        }
        let last = self.last[kind].replace(core);
        match last.and_then(|last| last.heap.as_ref()) {
            Some(last) => last.next.set(Some(core)),
            None => self.first[kind] = Some(core),
        }
    }

    /// So many bins that nobody has used. `None`: out of memory.
    fn carve_bins(&mut self, count: usize) -> Option<&'static [Bin]> {
        if count == 0 {
            return Some(&[]);
        }
        if self.bins_left < count {
            let bytes = os::round_to_pages(count.max(BINS_AT_ONCE) * size_of::<Bin>())?;
            self.bins = os::map(bytes, os::page_bytes())?.cast().as_ptr();
            self.bins_left = bytes / size_of::<Bin>();
        }
        let first = self.bins;
        for index in 0..count {
            // SAFETY: there is room for as many as are left.
            let place = unsafe { first.add(index) };
            // SAFETY: as above, in pages of this one's own, aligned, which nobody has used.
            unsafe { place.write(Bin::new()) };
        }
        // SAFETY: as above.
        self.bins = unsafe { first.add(count) };
        self.bins_left -= count;
        // SAFETY: written just now, and never unmapped or moved.
        Some(unsafe { core::slice::from_raw_parts(first, count) })
    }

    /// A core that nobody has used. `None`: out of memory.
    pub(super) fn carve(&mut self, options: &HeapOptions) -> Option<&'static FamilyCore> {
        if self.left == 0 {
            let bytes = os::round_to_pages(CORES_AT_ONCE * size_of::<FamilyCore>())?;
            self.room = os::map(bytes, os::page_bytes())?.cast().as_ptr();
            self.left = CORES_AT_ONCE;
        }
        let more_bins = self.carve_bins(FamilyCore::more_bins(options.classes, options.slab_bytes))?;
        let place = self.room;
        let new = FamilyCore::new("", options.slab_bytes, options.checks, slot_of_none)
            .with_huge_pages(options.huge_pages)
            .with_classes(options.classes, more_bins)
            .for_heaps();
        // SAFETY: room for a core in pages of this one's own, aligned, which nobody has used.
        unsafe { place.write(new) };
        // SAFETY: there is room for as many as are left.
        self.room = unsafe { place.add(1) };
        self.left -= 1;
        // SAFETY: written just now, and never unmapped or moved.
        Some(unsafe { &*place })
    }
}
