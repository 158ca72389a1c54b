//! The pages that a thread's caches stand in: pieces of them, one behind another, which go back
//! together when the thread ends.
//!
//! ```text
//!   piece ──► head │ cache │ array │ cache │ array │ array │ … room        (newest)
//!     └─────► head │ cache │ …                                             (full)
//! ```
//!
//! What threads that ended had is kept for those that begin, at most [`WARM_PIECES`] pieces and for a
//! second, and what the system refuses to take; it is the process's, not a family's.
//!
//! **P1** A piece belongs to one thread, or waits here; what is handed out of it is never taken back
//! alone. **P2** All bytes of a piece are initialised: they were zero when it was mapped.

use core::ptr::NonNull;

use crate::capacity::WARM_PIECES;
use crate::os;
use crate::sync::{Cell, Lock};

/// Bytes of a piece. Those that nothing was put into hold no memory.
const PIECE_BYTES: usize = 64 << 10;
/// What is handed out begins at a cache line.
const ALIGN: usize = 64;
/// How long they wait, in milliseconds.
const WARM_MILLISECONDS: u64 = 1000;

/// The head of a piece.
struct Piece {
    /// The piece that was filled before, or the next of those that wait.
    next: Option<NonNull<Piece>>,
    used_bytes: usize,
}

/// What one thread has. Dropped, it stays: [`give_back`](Self::give_back) ends it.
pub(crate) struct ThreadPages {
    newest: Cell<Option<NonNull<Piece>>>,
}

struct Warm {
    first: Option<NonNull<Piece>>,
    count: usize,
    /// When the last of them came.
    since: u64,
}

// SAFETY: P1: the pieces that wait belong to the lock around this.
unsafe impl Send for Warm {}

static WARM: Lock<Warm> = Lock::new(Warm { first: None, count: 0, since: 0 });

/// The lock of what waits, for the time of a `fork`; no other is taken while it is held.
#[cfg(all(unix, not(any(miri, loom))))]
pub(crate) fn lock() -> &'static Lock<impl Sized> {
    &WARM
}

fn bytes_of_a_piece() -> usize {
    PIECE_BYTES.max(os::page_bytes())
}

/// A piece with nothing in it. `None`: out of memory.
fn new_piece(next: Option<NonNull<Piece>>) -> Option<NonNull<Piece>> {
    let mut warm = WARM.lock();
    let found = warm.first;
    if let Some(piece) = found {
        // SAFETY: P1: a piece that waits has a head, which belongs to this lock.
        warm.first = unsafe { piece.as_ref() }.next;
        warm.count -= 1;
    }
    drop(warm);
    let piece = match found {
        Some(piece) => piece,
        None => os::map(bytes_of_a_piece(), os::page_bytes())?.cast::<Piece>(),
    };
    // SAFETY: P1: a piece that nobody else has, longer than a head.
    unsafe { piece.write(Piece { next, used_bytes: size_of::<Piece>().next_multiple_of(ALIGN) }) };
    Some(piece)
}

impl ThreadPages {
    pub(crate) const fn new() -> Self {
        Self { newest: Cell::new(None) }
    }

    /// Bytes at a cache line that are the caller's until all goes back. `None`: out of memory, or
    /// more than a piece has.
    pub(crate) fn allocate(&self, bytes: usize) -> Option<NonNull<u8>> {
        let bytes = bytes.next_multiple_of(ALIGN);
        if bytes > bytes_of_a_piece() - ALIGN {
            return None;
        }
        self.newest.get().and_then(|piece| take(piece, bytes)).or_else(|| {
            let piece = new_piece(self.newest.get())?;
            self.newest.set(Some(piece));
            take(piece, bytes)
        })
    }

    /// All of it, leaving nothing.
    pub(crate) fn take(&self) -> Self {
        Self { newest: Cell::new(self.newest.take()) }
    }

    /// Gives all pieces back.
    ///
    /// # Safety
    /// Nobody uses any more what was handed out of them.
    pub(crate) unsafe fn give_back(&self) {
        let mut next = self.newest.take();
        while let Some(piece) = next {
            // SAFETY: P1: this thread's piece.
            next = unsafe { piece.as_ref() }.next;
            if !keep(piece, WARM_PIECES) {
                release_or_keep(piece);
            }
        }
    }
}

/// Lets a piece that nobody has wait for a thread that begins. `false`: so many wait already.
fn keep(piece: NonNull<Piece>, most: usize) -> bool {
    let now = os::milliseconds();
    let mut warm = WARM.lock();
    if warm.count >= most {
        return false;
    }
    // SAFETY: P1: it waits from now on, and belongs to the lock.
    unsafe { piece.write(Piece { next: warm.first, used_bytes: 0 }) };
    warm.first = Some(piece);
    warm.count += 1;
    warm.since = now;
    true
}

/// The next bytes of a piece, if it has as many left.
fn take(mut piece: NonNull<Piece>, bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: P1: the calling thread's piece, and no other reference to its head exists.
    let head = unsafe { piece.as_mut() };
    let start = head.used_bytes;
    if bytes_of_a_piece() - start < bytes {
        return None;
    }
    head.used_bytes = start + bytes;
    // SAFETY: inside the piece, as was just seen.
    Some(unsafe { piece.cast::<u8>().add(start) })
}

/// Gives a piece that nobody has to the system; returns its bytes, or 0 where the system refuses: then
/// it waits, however many do.
fn release_or_keep(piece: NonNull<Piece>) -> usize {
    // SAFETY: P1: a whole mapping that nobody uses any more.
    if unsafe { os::release(piece.cast(), bytes_of_a_piece()) } {
        return bytes_of_a_piece();
    }
    keep(piece, usize::MAX);
    0
}

/// Gives back what has waited for long, or all that waits; returns the bytes of what the system took.
pub(crate) fn release_warm(now: Option<u64>) -> usize {
    let mut warm = WARM.lock();
    if now.is_some_and(|now| now.saturating_sub(warm.since) < WARM_MILLISECONDS) {
        return 0;
    }
    let mut next = warm.first.take();
    warm.count = 0;
    drop(warm);
    let mut bytes = 0;
    while let Some(piece) = next {
        // SAFETY: P1: it was taken out of those that wait.
        next = unsafe { piece.as_ref() }.next;
        bytes += release_or_keep(piece);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_out_is_apart_and_at_cache_lines() {
        let pages = ThreadPages::new();
        let mut places: Vec<(usize, usize)> = Vec::new();
        for round in 0..2000 {
            let bytes = 1 + round * 37 % 1500;
            let place = pages.allocate(bytes).unwrap();
            // SAFETY: handed out just now with that length.
            unsafe { place.write_bytes(round as u8, bytes) };
            places.push((place.addr().get(), bytes));
        }
        places.sort_unstable();
        assert!(places.iter().all(|(start, _)| start % ALIGN == 0));
        assert!(places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0));
        assert!(pages.allocate(PIECE_BYTES.max(os::page_bytes())).is_none());
        // SAFETY: nothing of it is used any more.
        unsafe { pages.give_back() };
        assert!(pages.newest.get().is_none());
    }
}
