//! Allocate and deallocate in hardened families: as in checked ones, and the slots themselves are defended.
//!
//! | defence | how |
//! | --- | --- |
//! | a free slot reads zero | cleared at the free, compared when it is handed out: what differs was written after the free |
//! | slots of 64 KiB and more | guarded against any access while they are free, where the system can; else given back to it, and compared |
//! | order | [`magazine`](crate::magazine): exchanged with a random slot at the free, mixed at each refill |
//! | slack | behind the `size` of a `GlobalAlloc` layout stand eight bytes that must be there at the end |

use core::alloc::Layout;
use core::ptr::NonNull;

use super::checked::{freed_twice, in_last_region, is_other_region, place};
use super::{Cache, CacheSlot, Handle, slab_class, take_one, verify_empty};
use crate::capacity::{CACHE_BYTES, batch_slots, magazine_slots, quarantine_slots};
use crate::checks::Checks;
use crate::family::FamilyCore;
use crate::fault::{FaultKind, Truth};
use crate::large::mapped_bytes;
use crate::marks::{self, Generation, MARK_BYTES};
use crate::os::{self, Opened};
use crate::size_class::{Classes, SizeClass};
use crate::states::State;
use crate::thread::{cache_for, make_room};

/// Words of a slot that are compared where it is allocated; more are compared by a call.
const WORDS_INLINE: usize = 16;

/// A slot. It reads zero. `None`: out of memory.
#[inline(always)]
pub(super) fn allocate<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    let magazine = handle.cache().magazine(class);
    let Some(address) = magazine.pop_above(quarantine_slots(class)) else { return allocate_slowly(handle, class) };
    // SAFETY: what is in a magazine is a slot of its family and class.
    if !unsafe { place(handle, address, class) }.go(State::CACHED, State::LIVE) {
        freed_twice(handle, address, class);
    }
    hand_out(handle, address, class)
}

/// Frees a slot, if it is one and live; otherwise the process ends. `EXACT`: the layout is the one it was allocated with.
///
/// # Safety
/// If `address` is a live slot of this family that `layout` fits, nobody uses it any more.
#[inline(always)]
pub(super) unsafe fn deallocate<H: Handle, const EXACT: bool>(
    handle: H,
    address: usize,
    layout: Layout,
    class: SizeClass,
) {
    let cache = handle.cache();
    // SAFETY: the same contract.
    if !unsafe { push::<H, EXACT>(handle, cache, address, layout, class) } {
        // SAFETY: the same contract.
        unsafe { deallocate_slowly::<H, EXACT>(handle, address, layout) };
    }
}

/// Frees a live slot of the region that was last freed in, if the array has room; otherwise `false`.
///
/// # Safety
/// As for [`deallocate`].
#[inline(always)]
unsafe fn push<H: Handle, const EXACT: bool>(
    handle: H,
    cache: &Cache,
    address: usize,
    layout: Layout,
    class: SizeClass,
) -> bool {
    in_last_region(handle, cache, address, class, |magazine, place| {
        let (state, class) = (place.get(), class.of_scheme(handle.classes()));
        let frees = state.is_live() && magazine.has_room();
        if frees {
            // At once, before anything that takes time: between the look and this another free would not be noticed.
            place.set(State::CACHED);
            if EXACT {
                verify_state(handle.core(), address, layout, class, state);
            }
            clear(address, class.slot_bytes());
            magazine.push_at_random(cache.tally(), address, cache.random());
        }
        frees
    })
}

/// Makes a slot that is live from now on accessible, and sure to read zero. `None`: its guard stays, and so does the slot.
#[inline(always)]
fn hand_out<H: Handle>(handle: H, address: usize, class: SizeClass) -> Option<usize> {
    if handle.checks().guards_slots_of(class.slot_bytes()) {
        match open(address, class.slot_bytes()) {
            Opened::Zero => return Some(address),
            Opened::Unsure => {}
            Opened::Refused => return take_back(handle, address, class),
        }
    }
    if !is_zero(words(address, class.slot_bytes()), handle.classes()) {
        written_after_free(handle.core(), address, class);
    }
    Some(address)
}

/// Keeps a slot that cannot be handed out now: it is free again, and tried again.
#[cold]
#[inline(never)]
fn take_back<H: Handle>(handle: H, address: usize, class: SizeClass) -> Option<usize> {
    // SAFETY: a slot of this family and class that was about to be handed out.
    unsafe { place(handle, address, class) }.set(State::CACHED);
    let cache = handle.cache();
    if cache.magazine(class).has_room() {
        cache.magazine(class).put_at_random(address, cache.random());
    } else {
        // SAFETY: as above: it came from its bin, is in no cache, and no client has had it.
        unsafe { handle.core().take_back_one(class, address) };
    }
    None
}

/// Puts a freed slot back, anywhere in the array: on top it would be the next to be handed out. What waits in quarantine stays
/// until there is no room.
///
/// # Safety
/// `address` is a slot of this family and class that nobody uses any more and that is in no cache and no bin.
unsafe fn put_back_mixed(family: &'static FamilyCore, slot: &CacheSlot, address: usize, class: SizeClass) {
    let Some(thread) = cache_for(family, slot, class) else {
        // SAFETY: the same contract.
        return unsafe { family.give_one(class, address) };
    };
    let (cache, magazine) = (thread.cache, thread.cache.magazine(class));
    if !magazine.has_room() {
        family.flush(thread, class);
    }
    magazine.push_at_random(cache.tally(), address, cache.random());
}

#[inline(always)]
fn words<'a>(address: usize, bytes: usize) -> &'a [u64] {
    // SAFETY: a free slot that is about to be handed out: committed, aligned to its size, and nobody may write to it.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address), bytes / size_of::<u64>()) }
}

/// The smallest slot has two words. Natural ones have a power of two, spaced ones may have an odd number.
#[inline(always)]
fn is_zero(words: &[u64], classes: Classes) -> bool {
    if words.len() > WORDS_INLINE {
        return is_zero_long(words);
    }
    let twos = words.chunks_exact(2);
    let odd = if classes == Classes::Natural { 0 } else { twos.remainder().first().copied().unwrap_or(0) };
    let mut all = [odd, 0];
    for two in twos {
        all = [all[0] | two[0], all[1] | two[1]];
    }
    all[0] | all[1] == 0
}

#[inline(never)]
fn is_zero_long(words: &[u64]) -> bool {
    #[cfg(all(target_arch = "x86_64", feature = "std", not(miri)))]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { is_zero_avx2(words) };
    }
    is_zero_by_line(words)
}

/// The same for processors with registers of 32 bytes, which compare twice as fast.
///
/// # Safety
/// The processor has AVX2.
#[cfg(all(target_arch = "x86_64", feature = "std", not(miri)))]
#[target_feature(enable = "avx2")]
unsafe fn is_zero_avx2(words: &[u64]) -> bool {
    is_zero_by_line(words)
}

/// What is longer than [`WORDS_INLINE`], two cache lines at a time.
#[inline(always)]
fn is_zero_by_line(words: &[u64]) -> bool {
    let mut all = [0; 16];
    let lines = words.chunks_exact(16);
    let rest = lines.remainder().iter().fold(0, |all, word| all | word);
    for line in lines {
        for (all, word) in all.iter_mut().zip(line) {
            *all |= word;
        }
    }
    all.iter().fold(rest, |all, word| all | word) == 0
}

/// Clears a slot that is free from now on.
#[inline(always)]
fn clear(address: usize, bytes: usize) {
    if Checks::Hardened.guards_slots_of(bytes) {
        close(address, bytes);
    } else {
        let memory = core::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: a slot of that length that its client has given up.
        unsafe { memory.write_bytes(0, bytes) };
    }
}

/// Whether slots of this length can have guards: spaced ones need not be whole pages where pages are long.
fn is_whole_pages(bytes: usize) -> bool {
    bytes % os::page_bytes() == 0
}

/// Gives the memory of a free slot back to the system, which is opened before it is handed out; `false`: that cannot be.
fn give_back(address: usize, bytes: usize) -> bool {
    let memory = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(address));
    // SAFETY: whole pages of a slot that nobody has.
    memory.is_some_and(|memory| unsafe { os::purge(memory, bytes) })
}

#[cold]
#[inline(never)]
fn close(address: usize, bytes: usize) {
    let Some(memory) = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(address)) else { return };
    // SAFETY: whole pages of a slot that its client has given up, here and below.
    let closes = || unsafe { os::guard(memory, bytes) } || unsafe { os::purge(memory, bytes) };
    if !(is_whole_pages(bytes) && closes()) {
        // SAFETY: as above; it has no guard.
        unsafe { memory.write_bytes(0, bytes) };
    }
}

/// Makes a slot accessible, if that can be.
#[cold]
#[inline(never)]
fn open(address: usize, bytes: usize) -> Opened {
    if !is_whole_pages(bytes) {
        return Opened::Unsure;
    }
    let memory = core::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: whole pages of a slot that is about to be handed out.
    NonNull::new(memory).map_or(Opened::Refused, |memory| unsafe { os::unguard(memory, bytes) })
}

#[cold]
#[inline(never)]
fn written_after_free(family: &FamilyCore, address: usize, class: SizeClass) -> ! {
    let words = words(address, class.slot_bytes());
    let (index, word) = words.iter().enumerate().find(|(_, word)| **word != 0).unwrap_or((0, &0));
    let byte = word.to_ne_bytes().iter().position(|&byte| byte != 0).unwrap_or(0);
    let truth = Truth::Offset(index * size_of::<u64>() + byte);
    family.report_slot(FaultKind::WriteAfterFree, address, class, truth)
}

/// Guards a slot that was carved, as if it had been freed. Unless it is new, its unit was another slab before, to which somebody may have
/// written when it was closed already: that is found now, because what has guards is not looked at later. In a new one can only be what
/// ran over from the slot before: that is given back, which is faster than to look at memory that is not there yet.
fn prepare_fresh(family: &FamilyCore, address: usize, class: SizeClass, is_new: bool) {
    let bytes = class.slot_bytes();
    if !(Checks::Hardened.guards_slots_of(bytes) && is_whole_pages(bytes)) {
        return;
    }
    // One that comes alone is handed out at once, and needs no guard.
    let waits = batch_slots(magazine_slots(class, Checks::Hardened, CACHE_BYTES)) > 1;
    if !(is_new && (waits || give_back(address, bytes)) || is_zero(words(address, bytes), class.classes())) {
        written_after_free(family, address, class);
    }
    if waits {
        close(address, bytes);
    }
}

/// As [`prepare_fresh`] for a slot that comes from its bin alone, guarded or carved, to be handed
/// out at once.
fn prepare_one(family: &FamilyCore, address: usize, class: SizeClass, is_new: bool) {
    let bytes = class.slot_bytes();
    if !(Checks::Hardened.guards_slots_of(bytes) && is_whole_pages(bytes)) {
        return;
    }
    // A new one never had a guard; another may have kept its own, and is not looked at then.
    let is_clean = if is_new { give_back(address, bytes) } else { open(address, bytes) == Opened::Refused };
    if !(is_clean || is_zero(words(address, bytes), class.classes())) {
        written_after_free(family, address, class);
    }
}

/// The other half of [`allocate`]: the array is down to its quarantine.
#[cold]
#[inline(never)]
fn allocate_slowly<H: Handle>(handle: H, class: SizeClass) -> Option<usize> {
    let address = refill(handle.core(), handle.slot(), class)?;
    // SAFETY: a slot of this family and class, from its magazine or its bin.
    unsafe { handle.core().make_live(address, class, State::CACHED) };
    hand_out(handle, address, class)
}

fn refill(family: &'static FamilyCore, slot: &CacheSlot, class: SizeClass) -> Option<usize> {
    let Some(cache) = cache_for(family, slot, class) else {
        let (address, is_new) = take_one(family, class)?;
        prepare_one(family, address, class, is_new);
        return Some(address);
    };
    let refill = || {
        family.refill_mixed(cache, class, |address, is_new| prepare_fresh(family, address, class, is_new));
        // Where memory is short the quarantine has to end.
        cache.cache.magazine(class).pop()
    };
    refill().or_else(|| if make_room(family) { refill() } else { None })
}

/// The other half of [`deallocate`]: the slot is in another region, the array is full, the thread has no cache, or the free is wrong.
///
/// # Safety
/// As for [`deallocate`].
#[inline(never)]
unsafe fn deallocate_slowly<H: Handle, const EXACT: bool>(handle: H, address: usize, layout: Layout) {
    let (cache, class) = (handle.cache(), handle.core().class_of(layout));
    let is_other = is_other_region(handle, cache, address, class);
    // SAFETY: the same contract, here and below.
    if !(is_other && unsafe { push::<H, EXACT>(handle, cache, address, layout, class) }) {
        // SAFETY: as above.
        unsafe { release(handle.core(), handle.slot(), address, layout, EXACT) };
    }
}

/// # Safety
/// As for [`deallocate`].
#[cold]
#[inline(never)]
unsafe fn release(family: &'static FamilyCore, slot: &CacheSlot, address: usize, layout: Layout, exact: bool) {
    let (class, place) = (family.class_of(layout), family.verify_live(address, layout));
    let state = place.get();
    place.set(State::CACHED);
    if exact {
        verify_state(family, address, layout, class, state);
    }
    clear(address, class.slot_bytes());
    // SAFETY: it was live, and the client gives it up.
    unsafe { put_back_mixed(family, slot, address, class) };
}

/// The bytes behind an allocation of `size` bytes that hold its mark; it occupies `room` bytes.
fn slack(address: usize, size: usize, room: usize) -> (*mut u8, usize) {
    let bytes = (room - size).min(MARK_BYTES);
    (core::ptr::with_exposed_provenance_mut::<u8>(address + size), bytes)
}

/// Marks the end of an allocation whose layout will be exactly this when it comes back.
#[inline(always)]
pub(super) fn mark<H: Handle>(handle: H, memory: NonNull<[u8]>, layout: Layout) {
    if layout.size() >= memory.len() {
        return;
    }
    let address = memory.cast::<u8>().addr().get();
    let (start, bytes) = slack(address, layout.size(), memory.len());
    let generation = marks::current();
    let mark = handle.core().mark(address, generation);
    // SAFETY: inside the slot or mapping, behind what the client asked for.
    unsafe { start.copy_from_nonoverlapping(mark.as_ptr(), bytes) };
    match slab_class(handle, layout) {
        // SAFETY: a live slot of this family and class.
        Some(class) => unsafe { place(handle, address, class) }.set(State::marked(generation)),
        None => handle.core().mark_large(memory.cast(), generation),
    }
}

/// Ends the process if the mark behind an allocation is not as it was. It is live, has a mark of
/// this generation and occupies `room` bytes.
fn verify_mark(family: &FamilyCore, address: usize, layout: Layout, room: usize, generation: Generation) {
    let (start, bytes) = slack(address, layout.size().min(room), room);
    // SAFETY: inside the slot or mapping.
    let found = unsafe { core::slice::from_raw_parts(start, bytes) };
    let expected = family.mark(address, generation);
    if let Some(wrong) = found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        family.report_overflow(address, layout, wrong);
    }
}

/// Ends the process if a slot that was live in this state has a mark that is not as it was.
#[inline(always)]
fn verify_state(family: &FamilyCore, address: usize, layout: Layout, class: SizeClass, state: State) {
    if let Some(generation) = state.mark() {
        verify_mark(family, address, layout, class.slot_bytes(), generation);
    }
}

/// Ends the process if `ptr` is a large allocation whose mark is not as it was.
#[cold]
#[inline(never)]
pub(super) fn verify_large<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) {
    let family = handle.core();
    if let (Some(room), Some(generation)) = (mapped_bytes(layout), family.mark_of_large(ptr, layout)) {
        verify_mark(family, ptr.as_ptr().expose_provenance(), layout, room, generation);
    }
}

/// Verifies that an allocation is live, as it was allocated, and not overflowed, before it is resized.
#[inline(never)]
pub(super) fn verify_exact<H: Handle>(handle: H, ptr: NonNull<u8>, layout: Layout) {
    if layout.size() == 0 {
        return verify_empty(handle, ptr, layout);
    }
    let Some(class) = slab_class(handle, layout) else { return verify_large(handle, ptr, layout) };
    let state = handle.core().verify_live(ptr.addr().get(), layout).get();
    verify_state(handle.core(), ptr.addr().get(), layout, class, state);
}
