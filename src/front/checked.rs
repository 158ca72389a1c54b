//! Allocate and deallocate where a family keeps states: the same magazines, and one byte moved with each slot.

use core::alloc::Layout;

use super::{Cache, CacheSlot, Handle, has_right_tag, put_back, take_one};
use crate::family::FamilyCore;
use crate::magazine::Magazine;
use crate::size_class::{Classes, SizeClass};
use crate::states::{Place, State, States, slabs_of};
use crate::thread::cache_for;

/// Where the family has the states of a class's slots.
#[inline(always)]
pub(super) fn states<H: Handle>(handle: H, class: SizeClass) -> States {
    States::new(handle.unit_shift(), class)
}

/// The state of a slot.
///
/// # Safety
/// The address lies in a region of this family in which it has opened a slab.
#[inline(always)]
pub(super) unsafe fn place<H: Handle>(handle: H, address: usize, class: SizeClass) -> Place {
    // SAFETY: the same contract.
    unsafe { states(handle, class).place(address) }
}

/// What becomes of the state of the slot of this class that begins at an address, if that lies in the region that was last freed
/// in, else `false`. A live byte in the table of a natural class says as much as the slab's tag; spaced classes have no tables of
/// their own.
#[inline(always)]
pub(super) fn in_last_region<H: Handle>(
    handle: H,
    cache: &Cache,
    address: usize,
    class: SizeClass,
    free: impl FnOnce(&Magazine, Place) -> bool,
) -> bool {
    let (states, slabs, magazine) = (states(handle, class), cache.slabs(), cache.magazine(class));
    // One call at the end: of two, none would be inlined.
    let place = match handle.classes() {
        Classes::Natural => {
            let index = states.index(slabs, address);
            if index >= magazine.region_slots() {
                return false;
            }
            // SAFETY: `slabs` was noted for a region of this family, which has a slab; before that it has no slots.
            unsafe { states.place_at(slabs, index) }
        }
        Classes::Spaced => {
            let is_here = slabs_of(address, handle.unit_shift()) == slabs;
            if !(is_here && has_right_tag(handle, cache, class, address)) {
                return false;
            }
            // SAFETY: a slab of this family and class holds the address: the tag says so, in a region of the family's.
            let Some(place) = (unsafe { states.place_of_start(address) }) else { return false };
            place
        }
    };
    free(magazine, place)
}

/// A slot of the thread's cache, if there is one.
#[inline(always)]
fn pop<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    let address = handle.cache().magazine(class).pop()?;
    // SAFETY: what is in a magazine is a slot of its family and class.
    if !unsafe { place(handle, address, class) }.go(State::CACHED, State::LIVE) {
        freed_twice(handle, address, class);
    }
    Some(address)
}

/// A slot; `None`: out of memory.
#[inline(always)]
pub(super) fn allocate<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    match pop(handle, class) {
        Some(address) => Some(address),
        None => match allocate_slowly(handle, class) {
            (0, _) => None,
            (address, _) => Some(address),
        },
    }
}

/// A slot that reads zero; `None`: out of memory.
#[inline(always)]
pub(super) fn allocate_zeroed<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    let Some(address) = pop(handle, class) else { return allocate_zeroed_slowly(handle, class) };
    clear(address, class);
    Some(address)
}

#[inline(always)]
fn clear(address: usize, class: SizeClass) {
    let memory = core::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: a slot of that length that was just allocated.
    unsafe { memory.write_bytes(0, class.slot_bytes()) };
}

/// Frees a slot, if it is one and live; otherwise the process ends.
///
/// # Safety
/// If `address` is a live slot of this family that `layout` fits, nobody uses it any more.
#[inline(always)]
pub(super) unsafe fn deallocate<H: Handle>(handle: H, address: usize, layout: Layout, class: SizeClass) {
    let cache = handle.cache();
    // SAFETY: the same contract.
    if !unsafe { push(handle, cache, address, class) } {
        // SAFETY: the same contract.
        unsafe { deallocate_slowly(handle, address, layout) };
    }
}

/// Frees a live slot of the region that was last freed in, if the array has room; otherwise `false`.
///
/// # Safety
/// As for [`deallocate`].
#[inline(always)]
unsafe fn push<H: Handle>(handle: H, cache: &Cache, address: usize, class: SizeClass) -> bool {
    in_last_region(handle, cache, address, class, |magazine, place| {
        let freed = place.get() == State::LIVE && magazine.push(address);
        if freed {
            place.set(State::CACHED);
        }
        freed
    })
}

/// The other half of [`allocate`]: the array is empty. Returns the address, 0 if out of memory, and whether it reads zero.
#[cold]
#[inline(never)]
fn allocate_slowly<H: Handle>(handle: H, class: SizeClass) -> (usize, bool) {
    let Some((address, zeroed, from)) = obtain(handle.core(), handle.slot(), class) else { return (0, false) };
    // SAFETY: a slot of this family and class, from its magazine or its bin.
    unsafe { handle.core().make_live(address, class, from) };
    (address, zeroed)
}

/// A slot, whether it reads zero, and the state that it has. Only what was just carved may never have been allocated: an address that
/// came back and reads so is what is left of a slot that was freed twice, of a slab that has been closed since.
fn obtain(family: &'static FamilyCore, slot: &CacheSlot, class: SizeClass) -> Option<(usize, bool, State)> {
    let carve = |magazine: &Magazine| {
        magazine.carve(class.slot_bytes()).map(|(address, zeroed)| (address, zeroed, State::NEVER))
    };
    if let Some(carved) = carve(slot.get(family.class_count()).magazine(class)) {
        return Some(carved);
    }
    let Some(cache) = cache_for(family, slot, class) else {
        return take_one(family, class).map(|(address, zeroed)| (address, zeroed, State::CACHED));
    };
    if !family.refill(cache, class) {
        return None;
    }
    let magazine = cache.cache.magazine(class);
    magazine.pop().map(|address| (address, false, State::CACHED)).or_else(|| carve(magazine))
}

/// The other half of [`allocate_zeroed`].
#[cold]
#[inline(never)]
fn allocate_zeroed_slowly<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    let (address, zeroed) = allocate_slowly(handle, class);
    if address == 0 {
        return None;
    }
    if !zeroed {
        clear(address, class);
    }
    Some(address)
}

/// Whether a slab of this family and class holds an address outside of the region that was last freed in; if so that changes.
pub(super) fn is_other_region<H: Handle>(handle: H, cache: &Cache, address: usize, class: SizeClass) -> bool {
    let unit_shift = handle.unit_shift();
    let slabs = slabs_of(address, unit_shift);
    // The empty cache has a tag that no slab has, so nothing is stored to it (M3 in `magazine`).
    // Bits above those that a lookup uses count here: the address is about to be used.
    let other = cache.slabs() != slabs
        && cache.view().tag(address, unit_shift) == cache.magazine(class).tag()
        && handle.core().holds(address);
    if other {
        // Where no slots of a class have states nothing is ever looked up.
        let region_slots = |index| {
            let (classes, least) = (handle.classes(), handle.checks().least_slot_bytes());
            let class = classes.class(index);
            let is_found_so = classes == Classes::Natural && class.slot_bytes() >= least;
            if is_found_so { states(handle, class).slots() } else { 0 }
        };
        cache.set_slabs(slabs, region_slots);
    }
    other
}

#[cold]
#[inline(never)]
pub(super) fn freed_twice<H: Handle>(handle: H, address: usize, class: SizeClass) -> ! {
    handle.core().report_freed_twice(address, class)
}

/// The other half of [`deallocate`]: the slot is in another region, the array is full, the thread has no cache, or the free is wrong.
///
/// # Safety
/// As for [`deallocate`].
#[inline(never)]
unsafe fn deallocate_slowly<H: Handle>(handle: H, address: usize, layout: Layout) {
    let (cache, class) = (handle.cache(), handle.core().class_of(layout));
    // SAFETY: the same contract, here and below.
    if !(is_other_region(handle, cache, address, class) && unsafe { push(handle, cache, address, class) }) {
        // SAFETY: as above.
        unsafe { release(handle.core(), handle.slot(), address, layout) };
    }
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn release(family: &'static FamilyCore, slot: &CacheSlot, address: usize, layout: Layout) {
    family.verify_live(address, layout).set(State::CACHED);
    // SAFETY: it was live, and the client gives it up.
    unsafe { put_back(family, slot, address, family.class_of(layout)) };
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;

    crate::family! { struct Late { slab_bytes: 64 * 1024, checks: Checked } }

    fn take(layout: Layout) -> usize {
        crate::front::allocate(Late, layout).unwrap().cast::<u8>().as_ptr().expose_provenance()
    }

    fn give(address: usize, layout: Layout) {
        let memory = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap();
        // SAFETY: a live slot of this layout, but for the one that is freed twice.
        unsafe { crate::front::deallocate(Late, memory, layout) };
    }

    /// Two threads free one slot at the same instant. One of the two copies lets the slab be closed; the other waits in the depot, and is
    /// handed out when another class has the slab.
    fn hand_out_what_is_left_of_a_closed_slab() {
        let (large, small) = (Layout::array::<u8>(32_768).unwrap(), Layout::array::<u8>(16_384).unwrap());
        let class = Classes::Natural.of(large, 16);
        let slots: Vec<usize> = std::thread::spawn(move || (0..12).map(|_| take(large)).collect()).join().unwrap();
        let in_one_slab = |&&slot: &&usize| slot % 65_536 == 0 && slots.contains(&(slot + 32_768));
        let twice = *slots.iter().find(in_one_slab).unwrap();
        let rest: Vec<usize> = slots.iter().copied().filter(|slot| slot >> 16 != twice >> 16).collect();
        std::thread::scope(|scope| {
            rest[..3].iter().for_each(|&slot| give(slot, large));
            give(twice, large);
            // What the other has seen when it looked at the same instant.
            // SAFETY: a slot of the family.
            unsafe { place(Late, twice, class) }.set(State::LIVE);
            let other = scope.spawn(move || [twice, twice + 32_768].map(|slot| give(slot, large)));
            other.join().unwrap();
            // This thread's copy goes to the depot.
            rest[3..8].iter().for_each(|&slot| give(slot, large));
            let victim = scope.spawn(move || take(small)).join().unwrap();
            assert_eq!(victim >> 16, twice >> 16, "another class has the slab now");
        });
        for _ in 0..20 {
            let again = std::thread::spawn(move || take(large)).join().unwrap();
            assert_ne!(again >> 16, twice >> 16, "a live slot is handed out again");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn what_is_left_of_a_closed_slab_is_not_handed_out() {
        const NAME: &str = "front::checked::tests::what_is_left_of_a_closed_slab_is_not_handed_out";
        let Some(output) = crate::child::run(NAME) else {
            return hand_out_what_is_left_of_a_closed_slab();
        };
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{}: {text}", output.status);
        #[cfg(unix)]
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGABRT), "{text}");
        assert!(text.contains("double free") && text.contains("family Late"), "{text}");
    }
}
