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
use core::ptr::NonNull;

use super::class::{ALIGN_MAX, CLASS_COUNT, Class, DOUBLING, LEAST_BYTES, LENGTH_COUNT, SLOT_BYTES_MAX};
use super::source::Supply;
use crate::sync::Cell;

/// Bytes of the first chunk, unless the builder says otherwise.
pub(super) const CHUNK_BYTES: usize = 4 << 10;
/// Bytes of a chunk.
pub(super) const CHUNK_BYTES_MIN: usize = 1 << 10;
pub(super) const CHUNK_BYTES_MAX: usize = 32 << 10;
/// So little is left unused at the end of a chunk.
const ASIDE_BYTES: usize = 256;
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
    bump: Cell<usize>,
    end: Cell<usize>,
    /// Slots that clients have.
    live_count: Cell<usize>,
    /// Bytes of slots that are in lists.
    free_bytes: Cell<usize>,
    /// Bytes of all chunks without their headers and what is left unused at their ends.
    carvable_bytes: Cell<usize>,
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

/// # Safety
/// The address of a slot.
#[inline(always)]
unsafe fn slice(address: usize, bytes: usize) -> NonNull<[u8]> {
    // SAFETY: slots lie inside chunks, behind their headers, so none is at 0.
    unsafe { core::hint::assert_unchecked(address != 0) };
    // SAFETY: as above.
    NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(slot(address)) }, bytes)
}

#[inline(always)]
fn add(counter: &Cell<usize>, bytes: usize) {
    counter.set(counter.get().wrapping_add(bytes));
}

#[inline(always)]
fn subtract(counter: &Cell<usize>, bytes: usize) {
    counter.set(counter.get().wrapping_sub(bytes));
}

const fn chunk_layout(bytes: usize) -> Layout {
    match Layout::from_size_align(bytes, align_of::<Chunk>()) {
        Ok(layout) => layout,
        Err(_) => panic!("chunks are short"),
    }
}

impl Arena {
    pub(super) const fn new() -> Self {
        Self {
            bump: Cell::new(0),
            end: Cell::new(0),
            live_count: Cell::new(0),
            free_bytes: Cell::new(0),
            carvable_bytes: Cell::new(0),
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

    /// How many slots clients have, and of how many bytes together.
    pub(super) fn live(&self) -> (usize, usize) {
        let room = self.end.get() - self.bump.get();
        let bytes = self.carvable_bytes.get().wrapping_sub(room).wrapping_sub(self.free_bytes.get());
        (self.live_count.get(), bytes)
    }

    /// A slot of a class. `None`: out of memory.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[cfg_attr(debug_assertions, inline)]
    pub(super) fn allocate(&self, supply: &Supply, class: Class) -> Option<NonNull<[u8]>> {
        // Work that only allocates asks no list.
        if self.free_bytes.get() != 0 {
            let popped = self.pop(class);
            if popped != 0 {
                add(&self.live_count, 1);
                // SAFETY: a slot of this class.
                return Some(unsafe { slice(popped, class.bytes) });
            }
        }
        if let Some(carved) = self.carve(class) {
            add(&self.live_count, 1);
            return Some(carved);
        }
        self.allocate_exhausted(supply, class.index)
    }

    /// A free slot of a class, or 0.
    #[inline(always)]
    fn pop(&self, class: Class) -> usize {
        let first = self.first(class);
        let address = first.get();
        if address != 0 {
            subtract(&self.free_bytes, class.bytes);
            // SAFETY: A2: a free slot, which `push` wrote the next one's address to.
            first.set(unsafe { slot(address).cast::<usize>().read() });
        }
        address
    }

    /// # Safety
    /// A slot of that class, in what was carved, which is in no list and which nobody uses.
    #[inline(always)]
    unsafe fn push(&self, address: usize, class: Class) {
        let first = self.first(class);
        // SAFETY: at least eight bytes, aligned to eight, which nobody uses.
        unsafe { slot(address).cast::<usize>().write(first.get()) };
        first.set(address);
        add(&self.free_bytes, class.bytes);
    }

    /// A slot from behind `bump`, if there is room.
    #[inline(always)]
    fn carve(&self, class: Class) -> Option<NonNull<[u8]>> {
        let mut start = self.bump.get();
        if class.align > LEAST_BYTES {
            start = start.next_multiple_of(class.align);
        }
        let bump = start + class.bytes;
        if bump > self.end.get() {
            return None;
        }
        if class.align > LEAST_BYTES && start != self.bump.get() {
            // SAFETY: A2: eight bytes behind `bump`, which are left over before the slot.
            unsafe { self.push(self.bump.get(), Class::of_bytes(LEAST_BYTES)) };
        }
        self.bump.set(bump);
        // SAFETY: a slot of this class.
        Some(unsafe { slice(start, class.bytes) })
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
        let popped = self.pop(class);
        let memory = if popped != 0 {
            // SAFETY: a slot of this class.
            Some(unsafe { slice(popped, class.bytes) })
        } else {
            self.carve(class).or_else(|| if self.add_chunk(supply, class) { self.carve(class) } else { None })
        };
        if memory.is_some() {
            add(&self.live_count, 1);
        }
        memory
    }

    /// Where the chunk that was taken last ends; 0 if there is none.
    fn newest_end(&self) -> usize {
        // SAFETY: A1: a chunk that begins with its header.
        let chunk = unsafe { slot(self.newest.get()).cast::<Chunk>().as_ref() };
        chunk.map_or(0, |chunk| self.newest.get() + chunk.bytes)
    }

    /// Makes free slots of what is behind `bump`, if that is not just the end of a chunk.
    fn put_aside(&self) {
        let (mut start, end) = (self.bump.replace(0), self.end.replace(0));
        if end - start < ASIDE_BYTES && end == self.newest_end() {
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
            let address = self.pop(longer);
            if address != 0 {
                self.bump.set(address);
                self.end.set(address + longer.bytes);
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
        self.bump.set(chunk + size_of::<Chunk>());
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
        if address.wrapping_add(class.bytes) == self.bump.get() {
            self.bump.set(address);
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
            let is_last = address.wrapping_add(old.bytes) == self.bump.get();
            let bump = address.wrapping_add(new.bytes);
            if !is_last || address % new.align != 0 || bump > self.end.get() {
                return None;
            }
            self.bump.set(bump);
        }
        // SAFETY: a slot of the new class.
        Some(unsafe { slice(address, new.bytes) })
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
        self.bump.set(0);
        self.end.set(0);
        self.live_count.set(0);
        // Where nothing was freed there are no lists.
        if self.free_bytes.replace(0) != 0 {
            self.first.iter().for_each(|first| first.set(0));
        }
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
