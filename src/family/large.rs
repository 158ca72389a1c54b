//! The large allocations of a family: registered, charged, counted, and reported where they come back wrongly.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::FamilyCore;
use crate::header::Directory;
use crate::large::{Large, Mismatch, mapped_bytes};
use crate::os;
use crate::size_class::SizeClass;

impl FamilyCore {
    /// Bytes of the large allocation for a layout: a slot's where the allocation grew out of one. No mapping is `usize::MAX` bytes long.
    fn mapping_bytes(&self, layout: Layout) -> usize {
        match self.class_of(layout) {
            class if self.serves(class) => class.slot_bytes(),
            _ => mapped_bytes(layout).unwrap_or(usize::MAX),
        }
    }

    /// A large allocation for what has outgrown its slot and will be of this class. `None`: a slot has to serve.
    pub(crate) fn allocate_grown(&'static self, class: SizeClass) -> Option<Large> {
        self.register()?;
        let charge = self.charge(class.slot_bytes(), class.slot_bytes())?;
        let large = self.large.allocate_grown(class.slot_bytes(), os::milliseconds())?;
        // It is freed by the way of a slot, and must never be taken for one.
        if !Directory::of(self.unit_shift).tells_apart(large.memory.addr().get()) {
            // SAFETY: allocated just now and given to nobody.
            let freed = unsafe { self.large.deallocate(large.memory, large.bytes, os::milliseconds()) };
            debug_assert!(freed.is_ok(), "what was allocated can be freed");
            return None;
        }
        charge.keep(large.bytes);
        self.note_allocation(large.bytes);
        Some(large)
    }

    pub(crate) fn allocate_large(&'static self, layout: Layout, want_zero: bool) -> Option<Large> {
        self.register()?;
        let now = os::milliseconds();
        self.visited(now);
        let bytes = mapped_bytes(layout)?;
        let charge = self.charge(bytes, bytes)?;
        let large = self.large.allocate(layout, want_zero, now)?;
        charge.keep(large.bytes);
        self.note_allocation(large.bytes);
        Some(large)
    }

    /// # Safety
    /// If `memory` is a live large allocation of this family that `layout` fits, nobody uses it any more.
    pub(crate) unsafe fn deallocate_large(&'static self, memory: NonNull<u8>, layout: Layout) {
        let now = os::milliseconds();
        self.visited(now);
        let bytes = self.mapping_bytes(layout);
        if !self.is_registered() {
            self.report_invalid_free(memory.addr().get(), layout);
        }
        // SAFETY: the caller gives it up.
        let freed = unsafe { self.large.deallocate(memory, bytes, now) };
        self.stir_to_give_back();
        match freed {
            Ok(()) => {
                self.refund(bytes);
                self.note_free(bytes);
            }
            Err(mismatch) => self.report_invalid_large(memory.addr().get(), layout, mismatch),
        }
    }

    /// Ends the process if `memory` is no live large allocation of this family that `layout` fits.
    #[cold]
    #[inline(never)]
    pub(crate) fn verify_large(&self, memory: NonNull<u8>, layout: Layout) {
        if !self.is_registered() {
            self.report_invalid_free(memory.addr().get(), layout);
        }
        let verified = self.large.verify(memory, self.mapping_bytes(layout));
        if let Err(mismatch) = verified {
            self.report_invalid_large(memory.addr().get(), layout, mismatch);
        }
    }

    /// Changes the length of a large allocation without copying; with `want_zero` what is new reads zero. `None`: not possible,
    /// nothing has changed.
    ///
    /// # Safety
    /// As for [`deallocate_large`](Self::deallocate_large), if it returns another address.
    pub(crate) unsafe fn resize_large(
        &'static self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
        want_zero: bool,
    ) -> Option<Large> {
        let (old_bytes, bytes) = (self.mapping_bytes(old), self.mapping_bytes(new));
        if !self.is_registered() {
            self.report_invalid_free(memory.addr().get(), old);
        }
        let more = bytes.saturating_sub(old_bytes);
        let charge = if more > 0 { Some(self.charge(more, more)?) } else { None };
        // SAFETY: the caller gives the old range up if it is moved.
        let resized =
            unsafe { self.large.resize(memory, old_bytes, (bytes, new.align(), want_zero), os::milliseconds()) };
        match resized {
            Ok(resized) => {
                let large = resized?;
                match charge {
                    Some(charge) => charge.keep(large.bytes - old_bytes),
                    None => self.refund(old_bytes - large.bytes),
                }
                self.live_bytes_seen.add(large.bytes.wrapping_sub(old_bytes) as isize);
                // What it was moved from, or is shorter by, is free.
                self.stir_to_give_back();
                Some(large)
            }
            Err(mismatch) => self.report_invalid_large(memory.addr().get(), old, mismatch),
        }
    }

    fn report_invalid_large(&self, address: usize, layout: Layout, mismatch: Mismatch) -> ! {
        match mismatch {
            Mismatch::Unknown => self.report_invalid_free(address, layout),
            Mismatch::Freed => self.report_freed_large(address, layout),
            // What is longer than its layout's slot did not come from one.
            Mismatch::Length(_) if self.serves(self.class_of(layout)) => self.report_invalid_free(address, layout),
            Mismatch::Length(bytes) => self.report_wrong_length(address, layout, bytes),
        }
    }
}
