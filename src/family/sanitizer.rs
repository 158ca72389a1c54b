//! What sanitizers are told of a family's slots and regions, where they are there.

use core::ptr::NonNull;

use super::FamilyCore;
use crate::os;
use crate::size_class::SizeClass;

/// Poison is noted for so many bytes at once: shorter slots share them with their neighbours, and are not poisoned.
const POISONED_BYTES: usize = 8;

impl FamilyCore {
    /// Says that a slot that goes to its bin, or comes from there, is free or is not. Slots in bins are poisoned, and there are no
    /// caches then; the bin writes nothing to them.
    pub(super) fn tell_if_free(&self, slot: usize, class: SizeClass, is_free: bool) {
        if !os::poisons() {
            return;
        }
        let shared = slot & !(POISONED_BYTES - 1);
        let Some(memory) = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(shared)) else { return };
        if !is_free {
            // What it shares with neighbours is not poisoned for them, but may be for what was there before the slab.
            // SAFETY: a slot on its way to a client, or what it shares.
            unsafe { os::unpoison(memory, class.slot_bytes().max(POISONED_BYTES)) };
        } else if class.slot_bytes() >= POISONED_BYTES {
            // SAFETY: a whole slot that its client has given up.
            unsafe { os::poison(memory, class.slot_bytes()) };
        }
    }

    /// Tells of regions that have become longer, after the pool's lock was freed.
    #[inline]
    pub(super) fn tell_of_roots(&self) {
        if os::scans() {
            self.tell_of_new_roots();
        }
    }

    #[cold]
    fn tell_of_new_roots(&self) {
        loop {
            let untold = self.pool().lock().take_untold();
            let Some((start, bytes)) = untold else { return };
            // SAFETY: a part of a region of this family, which stays for good.
            unsafe { os::add_root(start, bytes) };
        }
    }
}
