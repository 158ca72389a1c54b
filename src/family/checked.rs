//! Where a family keeps states: what a call verifies before it does anything.

use core::alloc::Layout;

use super::FamilyCore;
use crate::fault::{FaultKind, Truth};
use crate::header::Directory;
use crate::size_class::SizeClass;
use crate::states::{Place, State, States};

impl FamilyCore {
    /// The state of a slot.
    ///
    /// # Safety
    /// The family keeps states, and a slab of it and of this class holds the address.
    unsafe fn place(&self, address: usize, class: SizeClass) -> Place {
        // SAFETY: the same contract.
        unsafe { States::new(self.unit_shift, class).place(address) }
    }

    /// Whether an address whose slab has been looked up really lies in that slab: a lookup does not see the upper bits of an
    /// address, and places outside of the stretch share the tags of those inside.
    pub(crate) fn holds(&self, address: usize) -> bool {
        let slab = Directory::of(self.unit_shift).slab(address);
        slab.is_some_and(|slab| (slab.memory().addr() ^ address) >> self.unit_shift == 0)
    }

    /// The state of the live slot that begins at `address` and that the layout fits; where there is none, the process ends.
    /// The family keeps states, and the layout is served from slabs.
    pub(crate) fn verify_live(&self, address: usize, layout: Layout) -> Place {
        let class = self.class_of(layout);
        if !(self.owns(address, class) && self.holds(address)) {
            self.report_invalid_free(address, layout);
        }
        let offset = address & ((1 << self.unit_shift) - 1);
        let slot = class.slots_in(offset);
        if slot >= class.slots_of(1 << self.unit_shift) {
            // Behind the last slot of a slab.
            self.report_invalid_free(address, layout);
        }
        let start = address - offset + slot * class.slot_bytes();
        // SAFETY: a slab of this family and class is there.
        let place = unsafe { self.place(start, class) };
        if start != address {
            self.report_slot(FaultKind::InteriorPointer, address, class, Truth::SlotAt(start));
        }
        match place.get() {
            live if live.is_live() => place,
            freed if freed.is_freed() => self.report_slot(FaultKind::DoubleFree, address, class, Truth::Said),
            _ => self.report_slot(FaultKind::NeverAllocated, address, class, Truth::Said),
        }
    }

    /// Ends the process if a live allocation begins at an address that comes back with a size of 0.
    /// What no bytes were asked for has the address that is its alignment, and nothing else that
    /// dangles is an allocation.
    #[cold]
    #[inline(never)]
    pub(crate) fn verify_empty(&self, address: usize, layout: Layout) {
        if address != layout.align() && self.is_registered() && (self.is_live_slot(address) || self.is_large(address)) {
            self.report_invalid_free(address, layout);
        }
    }

    /// Whether a live slot of any class begins at an address; the family keeps states.
    fn is_live_slot(&self, address: usize) -> bool {
        if !self.holds(address) {
            return false;
        }
        let tag = Directory::of(self.unit_shift).tag(address);
        let offset = address & ((1 << self.unit_shift) - 1);
        let is_slot = |class: &SizeClass| class.slot_at(offset) < class.slots_of(1 << self.unit_shift);
        let class = self.all_classes().find(|class| self.tag(*class) == tag).filter(is_slot);
        // SAFETY: a slab of this family and class is there.
        class.is_some_and(|class| unsafe { self.place(address, class) }.get().is_live())
    }

    /// Whether a live large allocation begins at an address.
    fn is_large(&self, address: usize) -> bool {
        self.large.containing(address).is_some_and(|(start, _)| start == address)
    }

    /// Makes a slot live whose state is to be `from`: `NEVER` where it was carved, else `CACHED`. Where it is not, it was freed twice,
    /// the other free has handed it out already or let its slab go, and the process ends.
    ///
    /// # Safety
    /// The family keeps states, and the address is a slot of it and of this class, or was.
    pub(crate) unsafe fn make_live(&self, address: usize, class: SizeClass, from: State) {
        // SAFETY: the same contract; a region that had a slab keeps its states.
        let place = unsafe { self.place(address, class) };
        if !place.go(from, State::LIVE) {
            self.report_slot(FaultKind::DoubleFree, address, class, Truth::Said);
        }
    }
}

#[cfg(all(test, unix, not(any(miri, loom))))]
mod tests {
    use core::time::Duration;
    use std::os::unix::process::ExitStatusExt;

    use crate::front::Family;

    crate::family! { struct Resized { checks: Checked } }

    /// Another thread frees what is being resized, by mistake, while the new allocation waits for a lock.
    #[test]
    fn what_is_freed_during_a_resize_is_told() {
        const NAME: &str = "family::checked::tests::what_is_freed_during_a_resize_is_told";
        if let Some(output) = crate::child::run(NAME) {
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{err}");
            assert!(err.contains("family_alloc: double free of 0x"), "{err}");
            return;
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads one `rlimit`; a process that ends so leaves no core file then.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        // Another slot keeps the slab open: of a closed one nothing is known.
        let _other = Resized::malloc(1000);
        let slot = Resized::malloc(1000).expose_provenance();
        let large = Resized::__core().large.lock();
        let resize = std::thread::spawn(move || {
            // SAFETY: live when it is called.
            unsafe { Resized::remalloc(core::ptr::with_exposed_provenance_mut(slot), 1000, 3 << 20) }
                .expose_provenance()
        });
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: a misuse: it is being resized.
        unsafe { Resized::free(core::ptr::with_exposed_provenance_mut(slot), 1000) };
        drop(large);
        resize.join().unwrap();
        // It was not told. At the end of this thread it would be, when its cache goes back.
        // SAFETY: `_exit` has no preconditions.
        unsafe { libc::_exit(0) };
    }
}
