//! What families are called: a static family by its type's name, a heap by a copy of what it was
//! given.
//!
//! **N1** What a name points to stays as it is while the family lives; a static family lives for ever.
//! What leaves the engine outlives a heap, so it is a copy of its own, made when somebody asks and
//! kept for ever: once for each text, however often it is asked for.

use core::ptr::NonNull;

use super::FamilyCore;
use super::life::Settled;
use crate::os;
use crate::sync::{Lock, UnsafeCell};

/// Bytes of a name that stand in the heap itself.
const INLINE_BYTES: usize = 48;
/// Kept names come in pieces of so much, and longer ones alone.
const PIECE_BYTES: usize = 16 << 10;

/// Where a heap's name stands.
pub(super) struct NamePlace(UnsafeCell<[u8; INLINE_BYTES]>);

// SAFETY: written between two lives only, by who has the heap to itself (G1 in `life`); read as N1 says.
unsafe impl Sync for NamePlace {}

impl NamePlace {
    pub(super) const fn new() -> Self {
        Self(UnsafeCell::new([0; INLINE_BYTES]))
    }

    /// Copies a name that is used from now on. `None`: it is long, and out of memory.
    ///
    /// # Safety
    /// The caller has the heap to itself, and nobody uses the old name, which was forgotten.
    pub(super) unsafe fn store(&self, name: &Settled<&'static str>, text: &str) -> Option<()> {
        let place = if text.len() <= INLINE_BYTES {
            self.0.get().cast::<u8>()
        } else {
            os::map(os::round_to_pages(text.len())?, os::page_bytes())?.as_ptr()
        };
        // SAFETY: as many bytes, the caller's alone.
        unsafe { place.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        // SAFETY: N1: they stay as they are until the name is forgotten.
        let copy = unsafe { core::slice::from_raw_parts(place, text.len()) };
        // SAFETY: the bytes of a `str`.
        let copy = unsafe { core::str::from_utf8_unchecked(copy) };
        // SAFETY: the same contract.
        unsafe { name.set(copy) };
        Some(())
    }

    /// Forgets the name of a heap that has ended.
    ///
    /// # Safety
    /// The caller has the heap to itself, and nobody uses the name any more.
    pub(super) unsafe fn forget(&self, name: &Settled<&'static str>) {
        let (start, bytes) = (name.get().as_ptr().cast_mut(), name.get().len());
        // Shorter, and not another one: the child of a fork that comes between the two stores keeps the heap as an orphan, and
        // finds the name as it was or none. It is released after that.
        // SAFETY: the same contract.
        unsafe { name.set(&name.get()[..0]) };
        if let (Some(start), Some(mapped)) = (NonNull::new(start), os::round_to_pages(bytes)) {
            if bytes > INLINE_BYTES {
                // SAFETY: the whole mapping of a long name, which nobody uses. Refused, it is lost.
                _ = unsafe { os::release(start, mapped) };
            }
        }
    }
}

/// A name that is kept; its text stands behind it.
#[repr(C)]
struct Kept {
    next: Option<NonNull<Kept>>,
    bytes: usize,
}

struct Names {
    lists: [Option<NonNull<Kept>>; 64],
    /// Where the next one goes, and the bytes that are left there.
    room: Option<NonNull<u8>>,
    left: usize,
}

// SAFETY: what is kept belongs to the lock around the lists, and never changes.
unsafe impl Send for Names {}

static NAMES: Lock<Names> = Lock::new(Names::new());

/// Forgets all names, in models.
#[cfg(loom)]
pub(super) fn forget_all() {
    *NAMES.lock() = Names::new();
}

/// The lock of the kept names, for the time of a `fork`; no other is taken while it is held.
#[cfg(all(unix, not(any(miri, loom))))]
pub(super) fn lock() -> &'static Lock<impl Sized> {
    &NAMES
}

fn list_of(text: &str) -> usize {
    text.bytes().fold(0, |hash: usize, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % 64
}

fn text(kept: NonNull<Kept>) -> &'static str {
    // SAFETY: a kept name has a head.
    let bytes = unsafe { kept.as_ref() }.bytes;
    // SAFETY: and its text right behind.
    let start = unsafe { kept.add(1) }.cast::<u8>();
    // SAFETY: the bytes of a `str`, which stay as they are.
    let slice = unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes) };
    // SAFETY: as above.
    unsafe { core::str::from_utf8_unchecked(slice) }
}

impl Names {
    const fn new() -> Self {
        Self { lists: [None; 64], room: None, left: 0 }
    }

    fn find(&self, list: usize, wanted: &str) -> Option<&'static str> {
        // SAFETY: a kept name has a head.
        let next = |kept: &NonNull<Kept>| unsafe { kept.as_ref() }.next;
        core::iter::successors(self.lists[list], next).map(text).find(|text| *text == wanted)
    }

    fn add(&mut self, list: usize, name: &str) -> Option<&'static str> {
        let bytes = (size_of::<Kept>() + name.len()).next_multiple_of(align_of::<Kept>());
        if self.left < bytes {
            let piece = os::round_to_pages(bytes.max(PIECE_BYTES))?;
            self.room = Some(os::map(piece, os::page_bytes())?);
            self.left = piece;
        }
        let start = self.room?;
        // SAFETY: within the piece.
        self.room = Some(unsafe { start.add(bytes) });
        self.left -= bytes;
        let kept = start.cast::<Kept>();
        // SAFETY: room for a head, aligned, which nobody else has.
        unsafe { kept.write(Kept { next: self.lists[list], bytes: name.len() }) };
        // SAFETY: and for the text behind it.
        let behind = unsafe { kept.add(1) }.cast::<u8>();
        // SAFETY: as above.
        unsafe { behind.as_ptr().copy_from_nonoverlapping(name.as_ptr(), name.len()) };
        self.lists[list] = Some(kept);
        Some(text(kept))
    }
}

/// A copy of a name that stays for ever.
fn keep(name: &str) -> &'static str {
    let list = list_of(name);
    let mut names = NAMES.lock();
    names.find(list, name).or_else(|| names.add(list, name)).unwrap_or("a heap without memory for its name")
}

impl FamilyCore {
    /// The name for those outside of the engine, where it may outlive the family. Whoever asks holds a
    /// handle of a heap.
    pub(super) fn lasting_name(&self) -> &'static str {
        if self.is_heap() { keep(self.name.get()) } else { self.name.get() }
    }

    /// As [`lasting_name`](Self::lasting_name), of where the family is declared.
    pub(super) fn lasting_path(&self) -> &'static str {
        if self.is_heap() { self.lasting_name() } else { self.path }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A fork may come between the stores of address and length: with either of the old ones and of
    /// the new ones it is a name.
    #[test]
    fn a_name_is_forgotten_by_its_length_alone() {
        for text in ["", "short", &"long ".repeat(20), &"very long ".repeat(1000)] {
            let (place, name) = (NamePlace::new(), Settled::new(""));
            // SAFETY: the test has both to itself, here and below.
            unsafe { place.store(&name, text) }.expect("memory");
            assert_eq!(name.get(), text);
            let before = name.get().as_ptr();
            // SAFETY: as above.
            unsafe { place.forget(&name) };
            assert_eq!((name.get().as_ptr(), name.get()), (before, ""));
        }
    }
}
