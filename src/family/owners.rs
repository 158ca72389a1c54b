//! Whose an address is: the core with a number, the family of a slab's tag, the family that a large allocation is of.
//!
//! ```text
//!   number   1 … 63 │ 64 … 127 │ 128 … 255 │ …      the first stand in a static, the others in pieces
//!                     piece 0    piece 1            twice as long each, mapped when the first is needed
//! ```

use super::registry::cores;
use super::{CLASS_BITS, FamilyCore};
use crate::header::{Directory, UNIT_SHIFTS};
use crate::os;
use crate::sync::{Acquire, AtomicPtr, AtomicU32, Cell, Relaxed, Release, thread_local};

const FIRST: usize = 64;
/// All numbers that a tag has room for.
const PIECES: usize = (u32::BITS - CLASS_BITS - FIRST.trailing_zeros()) as usize;

static CORES: [AtomicPtr<FamilyCore>; FIRST] = [const { AtomicPtr::new(core::ptr::null_mut()) }; FIRST];
static MORE: [AtomicPtr<AtomicPtr<FamilyCore>>; PIECES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; PIECES];

/// Hints for large allocations, each for those whose addresses come to it. Pages of them that nobody notes anything in are no memory.
const HINTS_LOG: u32 = 16;
static HINTS: [AtomicU32; 1 << HINTS_LOG] = [const { AtomicU32::new(0) }; 1 << HINTS_LOG];

thread_local! {
    // Whose the large allocation was that the thread looked for last.
    static LAST: Cell<Option<&'static FamilyCore>> = const { Cell::new(None) };
}

/// In which piece the core with a number stands, and where there.
fn place_in_piece(number: usize) -> (usize, usize) {
    let piece = (number.ilog2() - FIRST.trailing_zeros()) as usize;
    (piece, number - (FIRST << piece))
}

/// Where the core with a number stands; `None` where no piece is mapped.
#[inline]
fn place(number: u32) -> Option<&'static AtomicPtr<FamilyCore>> {
    let number = number as usize;
    if number < FIRST {
        return Some(&CORES[number]);
    }
    let (piece, index) = place_in_piece(number);
    // Acquire: pairs with the Release in `note`.
    let start = MORE.get(piece)?.load(Acquire);
    if start.is_null() {
        return None;
    }
    // SAFETY: the piece has as many places as numbers.
    let place = unsafe { start.add(index) };
    // SAFETY: it is mapped for good, and null is what fresh memory holds.
    Some(unsafe { &*place })
}

/// Notes a family that is registered. Without memory for its piece it is found by a walk. The caller holds the registry's lock.
pub(super) fn note(number: u32, core: &'static FamilyCore) {
    // In models numbers go on from execution to execution, and each must take the same steps.
    if !cfg!(loom) {
        put(number, core);
    }
}

/// Puts a core where its number is looked for.
pub(crate) fn put(number: u32, core: &'static FamilyCore) {
    if number as usize >= FIRST {
        let (piece, _) = place_in_piece(number as usize);
        if MORE[piece].load(Relaxed).is_null() {
            let bytes = os::round_to_pages((FIRST << piece) * size_of::<AtomicPtr<FamilyCore>>());
            if let Some(memory) = bytes.and_then(|bytes| os::map(bytes, os::page_bytes())) {
                // Release: publishes the piece, which is mapped.
                MORE[piece].store(memory.cast().as_ptr(), Release);
            }
        }
    }
    if let Some(place) = place(number) {
        // Relaxed: who has a tag of the family got it after this, and finds its core settled.
        place.store(core::ptr::from_ref(core).cast_mut(), Relaxed);
    }
}

/// The core with a number, of a static family or of a heap, dead or alive.
#[inline]
pub(crate) fn with_number(number: u32) -> Option<&'static FamilyCore> {
    // Relaxed: as in `note`.
    let core = place(number).map_or(core::ptr::null_mut(), |place| place.load(Relaxed));
    // SAFETY: only `&'static FamilyCore`s stand there.
    unsafe { core.as_ref() }
}

/// The core of the family of whose slab an address is; of a heap, whichever lives in it.
pub(crate) fn owner_of_slab(address: usize) -> Option<&'static FamilyCore> {
    UNIT_SHIFTS.rev().find_map(|unit_shift| {
        let directory = Directory::of(unit_shift);
        let tag = directory.tag(address);
        // Outside of the stretch an address has the tag of another place.
        if tag == 0 || !directory.tells_apart(address) {
            return None;
        }
        let number = tag >> CLASS_BITS;
        with_number(number).or_else(|| cores().find(|core| core.number.load(Relaxed) == number))
    })
}

/// Where the number of the family stands of which a large allocation was that was noted last, of all that come to this place.
fn hint(address: usize) -> &'static AtomicU32 {
    // The golden ratio's fraction: what lies at even distances comes to different places.
    let mixed = (address as u64 >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &HINTS[(mixed >> (u64::BITS - HINTS_LOG)) as usize]
}

/// Notes whose a large allocation is, so that it is found without a walk.
pub(crate) fn note_large(address: usize, core: &'static FamilyCore) {
    // Relaxed: a hint, which is looked into before it is believed.
    hint(address).store(core.number.load(Relaxed), Relaxed);
}

/// The core of the family of which a live large allocation begins at an address: looked for in those that are named, in the one that the
/// calling thread found last, in the one that was noted, and then in all others.
pub(crate) fn owner_of_large(
    address: usize,
    named: impl Iterator<Item = &'static FamilyCore>,
) -> Option<&'static FamilyCore> {
    let begins = |core: &&'static FamilyCore| core.is_registered() && core.large.begins(address);
    // Relaxed: as in `note_large`.
    let noted = || with_number(hint(address).load(Relaxed));
    let first = named.chain(LAST.with(Cell::get)).chain(core::iter::once_with(noted).flatten()).find(begins);
    if first.is_some() {
        return first;
    }
    // Among all cores: one whose heap is ending is no family at the moment, and may become an orphan.
    let found = cores().find(begins);
    LAST.with(|last| last.set(found));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever it names, a hint is looked into.
    #[test]
    #[cfg(not(loom))]
    fn a_wrong_hint_is_not_believed() {
        use crate::front::{Handle, allocate, deallocate};
        crate::family! { struct Has; struct HasNot; }
        let layout = core::alloc::Layout::from_size_align(5 << 20, 1).unwrap();
        let (of, other) = (allocate(Has, layout).unwrap().cast(), allocate(HasNot, layout).unwrap().cast());
        let address = core::ptr::NonNull::addr(of).get();
        for noted in [HasNot.core(), Has.core()] {
            LAST.with(|last| last.set(None));
            note_large(address, noted);
            let owner = owner_of_large(address, core::iter::empty()).expect("it is live");
            assert!(core::ptr::eq(owner, Has.core()));
        }
        // SAFETY: allocated above with this layout, and not used.
        unsafe { deallocate(Has, of, layout) };
        // SAFETY: as above.
        unsafe { deallocate(HasNot, other, layout) };
        assert!(owner_of_large(address, core::iter::empty()).is_none());
    }

    #[test]
    fn each_number_has_a_place_of_its_own() {
        let ends = |piece: usize| [FIRST << piece, (FIRST << (piece + 1)) - 1];
        for piece in 0..PIECES {
            let [first, last] = ends(piece).map(place_in_piece);
            assert_eq!((first, last), ((piece, 0), (piece, (FIRST << piece) - 1)));
        }
        assert_eq!(ends(PIECES - 1)[1] as u64, (1_u64 << (u32::BITS - CLASS_BITS)) - 1, "a tag's largest number");
    }
}
