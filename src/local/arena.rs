//! The slots of a local heap: carved from chunks one behind the other, and kept in lists by class once they are free.
//!
//! ```text
//!   chunk │ header │ slot │ slot │ slot … ▲bump   room   ▲end │
//!   class   first free ──► slot ──► slot ──► 0
//! ```
//!
//! A free slot's first word is the next one's address. What is behind `bump` when a chunk is left is cut into free slots, or
//! left unused if it is little. So `live bytes = carvable − room − free`, where what is carvable is all but that and headers.

use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use super::class::{ALIGN_MAX, CLASS_COUNT, Class, DOUBLING, LEAST_BYTES, LENGTH_COUNT, SHORT_BYTES, SLOT_BYTES_MAX};
use super::source::Supply;
use crate::sync::Cell;

/// Bytes of the first chunk, unless the builder says otherwise.
pub(super) const CHUNK_BYTES: usize = 4 << 10;
/// Bytes of a chunk.
pub(super) const CHUNK_BYTES_MIN: usize = 1 << 10;
pub(super) const CHUNK_BYTES_MAX: usize = 32 << 10;
/// So little is left unused at the end of a chunk, or such a part of it.
const ASIDE_BYTES: usize = 256;
const ASIDE_PART: usize = 64;
/// If not even such a part of what is carvable is free, no free slot is looked for that could be cut.
const CUT_PART: usize = 8;

/// The begin of a chunk.
#[repr(C, align(16))]
struct Chunk {
    /// The address of the chunk before, or 0.
    before: usize,
    bytes: usize,
}

pub(super) struct Arena {
    /// Where the next slot is carved: not 0, which the compiler sees.
    bump: Cell<NonZeroUsize>,
    end: Cell<usize>,
    /// What is no longer than this is carved without a look at the lists: [`SHORT_BYTES`] while all
    /// of them are empty, and maybe longer 0.
    at_once: Cell<usize>,
    /// Slots that clients have.
    live_count: Cell<usize>,
    /// Bytes of all chunks without their headers and what is left unused at their ends.
    carvable_bytes: Cell<usize>,
    /// Bytes of slots that are in lists. Not beside `live_count`, or the compiler changes both at
    /// once, which takes longer.
    free_bytes: Cell<usize>,
    /// The address of the chunk that was taken last, or 0.
    newest: Cell<usize>,
    /// How long the next chunk is to be.
    next_bytes: Cell<usize>,
    /// The address of a free slot of each class, or 0.
    first: [Cell<usize>; CLASS_COUNT],
}

/// Chunks are exposed when they are taken; a client's pointer is only trusted for its address.
#[inline(always)]
fn slot(address: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address)
}

/// A slot.
#[inline(always)]
fn slice(address: NonZeroUsize, bytes: usize) -> NonNull<[u8]> {
    // SAFETY: not 0.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(slot(address.get())) }, bytes)
}

/// The same, and the compiler sees that only a call returns none: so where that is asked for, what
/// comes without a call is not tested.
#[inline(always)]
fn refused_apart(memory: Option<NonNull<[u8]>>) -> Option<NonNull<[u8]>> {
    if memory.is_none() {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: there is nothing in it; but the compiler does not join what is before and behind
        // it.
        unsafe {
            core::arch::asm!("", options(nomem, nostack, preserves_flags));
        }
        return None;
    }
    memory
}

#[inline(always)]
fn add(counter: &Cell<usize>, bytes: usize) {
    counter.set(counter.get().wrapping_add(bytes));
}

#[inline(always)]
fn subtract(counter: &Cell<usize>, bytes: usize) {
    counter.set(counter.get().wrapping_sub(bytes));
}

/// Where `bump` and `end` are while there is no room.
const NOWHERE: NonZeroUsize = NonZeroUsize::MIN;

const fn chunk_layout(bytes: usize) -> Layout {
    match Layout::from_size_align(bytes, align_of::<Chunk>()) {
        Ok(layout) => layout,
        Err(_) => panic!("chunks are short"),
    }
}

impl Arena {
    pub(super) const fn new() -> Self {
        Self {
            bump: Cell::new(NOWHERE),
            end: Cell::new(NOWHERE.get()),
            at_once: Cell::new(SHORT_BYTES),
            live_count: Cell::new(0),
            carvable_bytes: Cell::new(0),
            free_bytes: Cell::new(0),
            newest: Cell::new(0),
            next_bytes: Cell::new(CHUNK_BYTES),
            first: [const { Cell::new(0) }; CLASS_COUNT],
        }
    }

    /// The same, with a first chunk of that length.
    pub(super) fn begin_with(&self, chunk_bytes: usize) {
        self.next_bytes.set(chunk_bytes);
    }

    #[inline(always)]
    fn first(&self, class: Class) -> &Cell<usize> {
        debug_assert!(class.index < CLASS_COUNT);
        // SAFETY: there is a place for each class.
        unsafe { self.first.get_unchecked(class.index) }
    }

    /// # Safety
    /// Not 0.
    #[inline(always)]
    unsafe fn set_bump(&self, address: usize) {
        // SAFETY: the same contract.
        self.bump.set(unsafe { NonZeroUsize::new_unchecked(address) });
    }

    /// How many slots clients have, and of how many bytes together.
    pub(super) fn live(&self) -> (usize, usize) {
        let room = self.end.get() - self.bump.get().get();
        let bytes = self.carvable_bytes.get().wrapping_sub(room).wrapping_sub(self.free_bytes.get());
        (self.live_count.get(), bytes)
    }

    /// Whether an allocation of so many bytes is carved at once: see
    /// [`carve_at_once`](Self::carve_at_once). Not one of 0.
    #[inline(always)]
    pub(super) fn carves_at_once(&self, bytes: usize) -> bool {
        let at_once = self.at_once.get();
        // SAFETY: nothing longer is ever stored.
        unsafe { core::hint::assert_unchecked(at_once <= SHORT_BYTES) };
        // One comparison, also for what is 0 or more bytes than any slot has.
        bytes.wrapping_sub(1) < at_once
    }

    /// A slot for so many bytes, aligned to 8, without a look at the lists, which are empty.
    /// `None`: out of memory.
    #[inline(always)]
    pub(super) fn carve_at_once(&self, supply: &Supply, bytes: usize) -> Option<NonNull<[u8]>> {
        debug_assert!(self.free_bytes.get() == 0, "lists are empty");
        let bytes = Class::short_bytes(bytes);
        let start = self.bump.get();
        let bump = start.get() + bytes;
        if bump > self.end.get() {
            return refused_apart(self.allocate_short_exhausted(supply, bytes));
        }
        let memory = slice(start, bytes);
        // SAFETY: inside of a chunk, behind its header.
        unsafe { self.set_bump(bump) };
        add(&self.live_count, 1);
        Some(memory)
    }

    /// A slot of a class. `None`: out of memory.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[cfg_attr(debug_assertions, inline)]
    pub(super) fn allocate(&self, supply: &Supply, class: Class) -> Option<NonNull<[u8]>> {
        // Work that only allocates asks no list.
        if self.at_once.get() == 0 { self.allocate_listed(supply, class) } else { self.allocate_behind(supply, class) }
    }

    /// The same, where there may be a free one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[cfg_attr(debug_assertions, inline)]
    pub(super) fn allocate_listed(&self, supply: &Supply, class: Class) -> Option<NonNull<[u8]>> {
        let Some(popped) = self.pop(class) else { return self.allocate_behind(supply, class) };
        add(&self.live_count, 1);
        Some(slice(popped, class.bytes))
    }

    /// The same, where there is none.
    #[inline(always)]
    fn allocate_behind(&self, supply: &Supply, class: Class) -> Option<NonNull<[u8]>> {
        let Some(carved) = self.carve(class) else {
            return refused_apart(self.allocate_exhausted(supply, class.index));
        };
        add(&self.live_count, 1);
        Some(carved)
    }

    /// A free slot of a class.
    #[inline(always)]
    fn pop(&self, class: Class) -> Option<NonZeroUsize> {
        let first = self.first(class);
        let address = NonZeroUsize::new(first.get())?;
        subtract(&self.free_bytes, class.bytes);
        // SAFETY: A2: a free slot, which `push` wrote the next one's address to.
        first.set(unsafe { slot(address.get()).cast::<usize>().read() });
        Some(address)
    }

    /// # Safety
    /// A slot of that class, in what was carved, which is in no list and which nobody uses.
    #[inline(always)]
    unsafe fn push(&self, address: usize, class: Class) {
        let first = self.first(class);
        // SAFETY: at least eight bytes, aligned to eight, which nobody uses.
        unsafe { slot(address).cast::<usize>().write(first.get()) };
        first.set(address);
        self.at_once.set(0);
        add(&self.free_bytes, class.bytes);
    }

    /// A slot from behind `bump`, if there is room.
    #[inline(always)]
    fn carve(&self, class: Class) -> Option<NonNull<[u8]>> {
        let before = self.bump.get();
        let mut start = before;
        if class.align > LEAST_BYTES {
            // SAFETY: at least the one before, and below the end of all addresses.
            start = unsafe { NonZeroUsize::new_unchecked(before.get().next_multiple_of(class.align)) };
        }
        let bump = start.get() + class.bytes;
        if bump > self.end.get() {
            return None;
        }
        if class.align > LEAST_BYTES && start != before {
            // SAFETY: A2: eight bytes behind `bump`, which are left over before the slot.
            unsafe { self.push(before.get(), Class::of_bytes(LEAST_BYTES)) };
        }
        // SAFETY: inside of a chunk, behind its header.
        unsafe { self.set_bump(bump) };
        Some(slice(start, class.bytes))
    }

    /// A slot where neither the class has a free one nor the chunk has room. `None`: out of memory.
    #[cold]
    #[inline(never)]
    fn allocate_exhausted(&self, supply: &Supply, index: usize) -> Option<NonNull<[u8]>> {
        let class = Class::with_index(index);
        if self.newest.get() != 0 && self.live_count.get() == 0 {
            self.reset(supply);
        } else {
            self.put_aside();
            if CUT_PART * self.free_bytes.get() > self.carvable_bytes.get() {
                self.cut_longer(class);
            }
        }
        // What was put aside may be it.
        let memory = match self.pop(class) {
            Some(popped) => Some(slice(popped, class.bytes)),
            None => {
                self.forget_lists_if_empty();
                self.carve(class).or_else(|| if self.add_chunk(supply, class) { self.carve(class) } else { None })
            }
        };
        if memory.is_some() {
            add(&self.live_count, 1);
        }
        memory
    }

    /// The same for what is carved at once.
    #[cold]
    #[inline(never)]
    fn allocate_short_exhausted(&self, supply: &Supply, bytes: usize) -> Option<NonNull<[u8]>> {
        self.allocate_exhausted(supply, Class::of_bytes(bytes).index)
    }

    /// Asks no list any more, if there is no free slot.
    fn forget_lists_if_empty(&self) {
        if self.free_bytes.get() == 0 {
            self.at_once.set(SHORT_BYTES);
        }
    }

    /// Where the chunk that was taken last ends, and how long it is; 0 and 0 if there is none.
    fn newest_end(&self) -> (usize, usize) {
        // SAFETY: A1: a chunk that begins with its header.
        let chunk = unsafe { slot(self.newest.get()).cast::<Chunk>().as_ref() };
        chunk.map_or((0, 0), |chunk| (self.newest.get() + chunk.bytes, chunk.bytes))
    }

    /// Makes free slots of what is behind `bump`, if that is not just the end of a chunk.
    fn put_aside(&self) {
        let (mut start, end) = (self.bump.replace(NOWHERE).get(), self.end.replace(NOWHERE.get()));
        let (newest_end, bytes) = self.newest_end();
        if end - start < ASIDE_BYTES.max(bytes / ASIDE_PART) && end == newest_end {
            // Free slots would be asked for at every allocation from now on.
            subtract(&self.carvable_bytes, end - start);
            return;
        }
        while start < end {
            let class = Class::within(end - start);
            // SAFETY: A2: it lies between `bump` and `end`, as they were, and is given to no one else.
            unsafe { self.push(start, class) };
            start += class.bytes;
        }
    }

    /// Lets slots be carved from a free one that is at least twice as long, if there is one and none of the class.
    fn cut_longer(&self, class: Class) {
        if self.first(class).get() != 0 {
            return;
        }
        let shortest = class.index % LENGTH_COUNT + DOUBLING;
        let longer =
            (0..2).flat_map(|align| (shortest..LENGTH_COUNT).rev().map(move |length| align * LENGTH_COUNT + length));
        for longer in longer.map(Class::with_index) {
            if let Some(address) = self.pop(longer) {
                self.bump.set(address);
                self.end.set(address.get() + longer.bytes);
                return;
            }
        }
    }

    /// Takes a chunk in which there is room for a slot of a class. `false`: out of memory.
    fn add_chunk(&self, supply: &Supply, class: Class) -> bool {
        self.put_aside();
        let least = (size_of::<Chunk>() + class.bytes).next_multiple_of(ALIGN_MAX);
        let mut bytes = self.next_bytes.get().min(supply.longest_slot()).max(least.next_power_of_two());
        let memory = loop {
            if let Some(memory) = supply.take(chunk_layout(bytes), false) {
                break memory;
            }
            // Where there is no room for much there may be for a little.
            if bytes == least {
                return false;
            }
            bytes = (bytes / 2).max(least);
        };
        debug_assert_eq!(bytes % ALIGN_MAX, 0, "halves of a power of two, or what is needed");
        let address = memory.as_ptr().expose_provenance();
        // SAFETY: at least as long as a header, aligned, and just taken.
        unsafe { memory.cast::<Chunk>().write(Chunk { before: self.newest.replace(address), bytes }) };
        self.next_bytes.set((bytes.next_power_of_two() * 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX));
        add(&self.carvable_bytes, bytes - size_of::<Chunk>());
        self.carve_from(address, bytes);
        true
    }

    fn carve_from(&self, chunk: usize, bytes: usize) {
        // SAFETY: inside of a chunk, behind its header.
        unsafe { self.set_bump(chunk + size_of::<Chunk>()) };
        self.end.set(chunk + bytes);
    }

    /// Takes a slot back.
    ///
    /// # Safety
    /// A live slot of that class, which nobody uses any more.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[cfg_attr(debug_assertions, inline)]
    pub(super) unsafe fn deallocate(&self, supply: &Supply, ptr: NonNull<u8>, class: Class) {
        let address = ptr.as_ptr().expose_provenance();
        #[cfg(debug_assertions)]
        debug_assert!(supply.may_hold(address), "{address:#x} is not of this local heap");
        debug_assert!(self.live().1 >= class.bytes, "a second free, or a wrong size");
        if address.wrapping_add(class.bytes) == self.bump.get().get() {
            // SAFETY: inside of a chunk, behind its header.
            unsafe { self.set_bump(address) };
        } else {
            // SAFETY: the same contract.
            unsafe { self.push(address, class) };
        }
        subtract(&self.live_count, 1);
        if self.live_count.get() == 0 {
            self.is_empty(supply);
        }
    }

    /// Nothing is live. Where that took more than a chunk, it begins anew in one: so what is allocated next may have other lengths.
    #[cold]
    #[inline(never)]
    fn is_empty(&self, supply: &Supply) {
        // SAFETY: A1: a chunk that begins with its header; there is one, or nothing could have been freed.
        let chunk = unsafe { &*slot(self.newest.get()).cast::<Chunk>() };
        if chunk.before != 0 {
            self.reset(supply);
        }
    }

    /// Makes a slot one of another class where it is. `None`: it cannot be, and nothing has changed.
    ///
    /// # Safety
    /// A live slot of the class `old`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[cfg_attr(debug_assertions, inline)]
    pub(super) unsafe fn resize(&self, ptr: NonNull<u8>, old: Class, new: Class) -> Option<NonNull<[u8]>> {
        let address = ptr.as_ptr().expose_provenance();
        if old.index != new.index {
            let is_last = address.wrapping_add(old.bytes) == self.bump.get().get();
            let bump = address.wrapping_add(new.bytes);
            if !is_last || address % new.align != 0 || bump > self.end.get() {
                return None;
            }
            // SAFETY: inside of a chunk, behind its header.
            unsafe { self.set_bump(bump) };
        }
        // SAFETY: a slot's.
        Some(slice(unsafe { NonZeroUsize::new_unchecked(address) }, new.bytes))
    }

    /// Frees all slots, and keeps the chunk that was taken last.
    pub(super) fn reset(&self, supply: &Supply) {
        let newest = self.newest.get();
        if newest == 0 {
            return;
        }
        // SAFETY: A1: a chunk that begins with its header.
        let chunk = unsafe { &mut *slot(newest).cast::<Chunk>() };
        let before = core::mem::take(&mut chunk.before);
        let bytes = chunk.bytes;
        self.forget_slots();
        self.carvable_bytes.set(bytes - size_of::<Chunk>());
        self.carve_from(newest, bytes);
        Self::give_back(supply, before);
    }

    /// Frees all slots, and gives all chunks back.
    pub(super) fn release(&self, supply: &Supply) {
        let newest = self.newest.replace(0);
        if newest != 0 {
            self.forget_slots();
            self.carvable_bytes.set(0);
            Self::give_back(supply, newest);
        }
    }

    fn forget_slots(&self) {
        self.bump.set(NOWHERE);
        self.end.set(NOWHERE.get());
        self.live_count.set(0);
        // Where nothing was freed there are no lists.
        if self.free_bytes.replace(0) != 0 {
            self.first.iter().for_each(|first| first.set(0));
        }
        self.at_once.set(SHORT_BYTES);
    }

    /// Gives a chunk and those before it back. They are in no list any more, and none of their slots is.
    fn give_back(supply: &Supply, chunk: usize) {
        let mut next = chunk;
        while let Some(memory) = NonNull::new(slot(next)) {
            // SAFETY: A1: a chunk that begins with its header.
            let Chunk { before, bytes } = unsafe { memory.cast::<Chunk>().read() };
            next = before;
            // SAFETY: A1: taken with this layout; nobody has anything of it any more.
            unsafe { supply.give(memory, chunk_layout(bytes)) };
        }
    }
}

const _: () = assert!(CHUNK_BYTES_MAX >= 2 * SLOT_BYTES_MAX, "a chunk has room for any slot");
const _: () = assert!(size_of::<Chunk>() == ALIGN_MAX, "the first slot is aligned as any");
