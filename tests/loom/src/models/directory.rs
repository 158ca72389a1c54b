//! Tables that are looked into by who has come to know nothing else of a family: the directory of tags, where its stretch lies, what
//! tells any address, and pieces of the table of cores.
//!
//! Who looks is no execution's first thread: that has seen the beginning of each atomic, and loom lets who has waited see no value again
//! that it saw before.

use std::cell::Cell;

use crate::Family;
use crate::family::{note_owner, owner_with_number};
use crate::header::Directory;
use crate::sync::Sleep;
use crate::world::{HALF, One, SLAB_BYTES, explore, let_others_go_first, spawn};

std::thread_local! {
    /// A slot's address as somebody guesses it: it reaches other threads by nothing that loom sees.
    static GUESS: Cell<usize> = const { Cell::new(0) };
}

fn directory() -> &'static Directory {
    Directory::of(SLAB_BYTES.trailing_zeros())
}

/// A thread that allocates the family's first slot, and has no cache: changes of one publish more than what is looked at here.
fn first_slot() {
    GUESS.set(One::__core().take_one(HALF).expect("there is memory").0);
}

/// What a thread finds.
fn look<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let looking = move || {
        let_others_go_first();
        body()
    };
    spawn(looking).join()
}

/// An address is looked up while the directory is opened and its first slab begins: who sees a tag sees where headers are.
pub fn who_sees_a_tag_finds_the_header() {
    explore(Sleep::Lightly, || {
        GUESS.set(0);
        let other = spawn(first_slot);
        let found = look(|| directory().slab(GUESS.get()).map(|header| core::ptr::from_ref(header).addr()));
        other.join();
        // SAFETY: the slot is live.
        let header = unsafe { directory().header(GUESS.get()) };
        assert!(found.is_none_or(|found| found == core::ptr::from_ref(header).addr()), "{found:?} is not {header:p}");
    });
}

/// The first region decides where the stretch lies, and who sees that it has sees where.
pub fn who_sees_a_region_sees_the_stretch() {
    explore(Sleep::Lightly, || {
        let other = spawn(first_slot);
        // No memory of a process lies there, and the stretch of a model is short.
        let is_wrong = look(|| directory().is_in_use() && directory().tells_apart(0));
        other.join();
        assert!(!is_wrong && !directory().tells_apart(0), "the first page is in no stretch");
    });
}

/// An address that may be any family's is looked up while a directory begins to tell.
pub fn who_is_told_sees_the_table() {
    explore(Sleep::Lightly, || {
        GUESS.set(0);
        let other = spawn(first_slot);
        let tag = look(|| directory().telling().tag_of_any(GUESS.get()));
        other.join();
        let now = directory().telling().tag_of_any(GUESS.get());
        assert!(now != 0 && (tag == 0 || tag == now), "{tag:#x}, then {now:#x}");
    });
}

/// The core with the first number that stands in a piece of its own is looked for while it is noted.
pub fn who_finds_a_piece_may_look_into_it() {
    const NUMBER: u32 = 64;
    explore(Sleep::Lightly, || {
        let core = One::__core();
        let other = spawn(move || note_owner(NUMBER, core));
        let is_right = look(move || owner_with_number(NUMBER).is_none_or(|found| core::ptr::eq(found, core)));
        other.join();
        assert!(is_right && owner_with_number(NUMBER).is_some());
    });
}
