//! Freed mappings that wait for an allocation they can serve, the oldest released first.
//!
//! ```text
//!   freed ──► joined with its neighbours ──► a part serves an allocation, the rest stays; or it is made longer and serves one
//!                        └─────► released: after a second, or where there are too many
//! ```
//!
//! Where the system takes back whole mappings only, a piece is one and serves allocations of its length.
//!
//! **K1** A piece belongs to nobody; its contents are not zero. **K2** `bytes` is the sum over all pieces. **K3** Where parts of
//! mappings can be released and nothing is guarded, freed allocations that touch are one piece.

use super::{HUGE_FROM_BYTES, pointer};
use crate::os;
use crate::region::PURGE_AFTER_MILLISECONDS;
use crate::waiting;

const PIECE_COUNT: usize = 16;
/// Bytes of all pieces, at most.
const KEPT_BYTES: usize = 256 << 20;
/// A piece is made longer for an allocation if it has at least this part of it: less spares few page faults.
const EXTENDED_PART: usize = 8;

/// A freed mapping, or several that lie one after another, or what is left of one.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) bytes: usize,
    /// When the first of it was freed.
    pub(super) since: u64,
    /// Whether all of it is advised to use huge pages.
    pub(super) is_huge: bool,
    /// Whether any of it may be present: a guarded one, and one that the system has emptied but not taken, are space only.
    pub(super) holds_memory: bool,
}

impl Piece {
    /// What was a live allocation until now: from [`HUGE_FROM_BYTES`] on, all of it is advised.
    pub(super) fn freed(start: usize, bytes: usize, now: u64) -> Self {
        Self { start, bytes, since: now, is_huge: bytes >= HUGE_FROM_BYTES, holds_memory: true }
    }

    fn end(&self) -> usize {
        self.start + self.bytes
    }

    /// Where in it an allocation can lie, if it can.
    fn place_for(&self, bytes: usize, align: usize) -> Option<usize> {
        let start = self.start.checked_next_multiple_of(align)?;
        let end = start.checked_add(bytes)?;
        let is_whole = start == self.start && end == self.end();
        (is_whole || os::TAKES_PARTS && end <= self.end()).then_some(start)
    }

    /// Gives it back with its margins; `false`: its space stays, but no memory if that can be helped.
    pub(super) fn discard(&mut self, margin: usize) -> bool {
        // SAFETY: K1: mappings, or parts of some where parts may go, that nobody uses.
        if unsafe { os::release(pointer(self.start - margin), self.bytes + 2 * margin) } {
            return true;
        }
        // SAFETY: as above.
        self.holds_memory &= !unsafe { os::purge(pointer(self.start), self.bytes) };
        false
    }
}

/// The pieces of one family.
pub(super) struct KeptSet {
    pieces: [Option<Piece>; PIECE_COUNT],
    pub(super) bytes: usize,
    /// Whether pieces are mappings between margins, waiting only to be forgotten.
    pub(super) guarded: bool,
}

impl KeptSet {
    pub(super) const fn new(guarded: bool) -> Self {
        Self { pieces: [None; PIECE_COUNT], bytes: 0, guarded }
    }

    /// Bytes of the pieces that hold memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.pieces.iter().flatten().filter(|piece| piece.holds_memory).map(|piece| piece.bytes).sum()
    }

    /// Bytes before and behind each piece that belong to its mapping.
    pub(super) fn margin(&self) -> usize {
        if self.guarded && os::HAS_GUARDS { os::page_bytes() } else { 0 }
    }

    /// Takes memory out of the least piece that has room, or out of the largest; returns where it begins and whether it is advised.
    pub(super) fn take(&mut self, bytes: usize, align: usize, of_the_largest: bool) -> Option<Piece> {
        let has_place = self.pieces.iter().any(Option::is_none);
        let place_in = |piece: &Piece| {
            let start = piece.place_for(bytes, align)?;
            // The piece's own place serves one of two rests.
            (has_place || start == piece.start || start + bytes == piece.end()).then_some(start)
        };
        let with_room = |place: &&mut Option<Piece>| place.as_ref().and_then(place_in).is_some();
        let length = |place: &&mut Option<Piece>| place.as_ref().map_or(0, |piece| piece.bytes);
        let places = self.pieces.iter_mut().filter(with_room);
        let place = if of_the_largest { places.max_by_key(length) } else { places.min_by_key(length) }?;
        let piece = place.take()?;
        self.bytes -= piece.bytes;
        let start = place_in(&piece)?;
        let end = start + bytes;
        self.put(Piece { bytes: start - piece.start, ..piece });
        self.put(Piece { start: end, bytes: piece.end() - end, ..piece });
        Some(Piece { start, bytes, ..piece })
    }

    /// Makes the largest piece as long as an allocation and takes it: what it holds already needs no page faults.
    pub(super) fn extend(&mut self, bytes: usize, align: usize, may_move: bool) -> Option<Piece> {
        let length = |piece: &Piece| if os::is_aligned(pointer(piece.start), align) { piece.bytes } else { 0 };
        let place = self.pieces.iter_mut().max_by_key(|place| place.as_ref().map_or(0, length))?;
        let piece = place.filter(|piece| length(piece) >= bytes / EXTENDED_PART && piece.bytes < bytes)?;
        // SAFETY: K1, and the piece is gone from here if the call succeeds. Where it is several mappings the system refuses.
        let start = unsafe { os::remap(pointer(piece.start), piece.bytes, bytes, may_move) }?;
        *place = None;
        self.bytes -= piece.bytes;
        Some(Piece { start: start.as_ptr().expose_provenance(), bytes, ..piece })
    }

    /// Takes the first bytes of the piece that begins at an address, if it has as many.
    pub(super) fn take_behind(&mut self, start: usize, bytes: usize) -> Option<Piece> {
        let place = self.at(start).filter(|place| place.is_some_and(|piece| piece.bytes >= bytes))?;
        let piece = place.take()?;
        self.bytes -= piece.bytes;
        self.put(Piece { start: start + bytes, bytes: piece.bytes - bytes, ..piece });
        Some(Piece { bytes, ..piece })
    }

    /// Bytes of the piece that begins at an address.
    pub(super) fn bytes_behind(&mut self, start: usize) -> usize {
        self.at(start).and_then(|place| *place).map_or(0, |piece| piece.bytes)
    }

    fn at(&mut self, start: usize) -> Option<&mut Option<Piece>> {
        self.pieces.iter_mut().find(|place| place.is_some_and(|piece| piece.start == start))
    }

    /// Keeps what was freed; where that cannot be, it goes back to the system. Returns whether nothing else was kept any more at that moment.
    pub(super) fn keep(&mut self, mut freed: Piece) -> bool {
        waiting::add();
        self.release_aged(freed.since);
        // What is too long to be kept drives nothing else out.
        while freed.bytes <= KEPT_BYTES && self.bytes + freed.bytes > KEPT_BYTES && self.release_oldest() {}
        let is_first = self.bytes == 0;
        let has_room = self.bytes + freed.bytes <= KEPT_BYTES;
        if os::TAKES_PARTS && !self.guarded && has_room {
            while let Some(neighbour) = self.take_neighbour(&freed) {
                freed = Piece {
                    start: freed.start.min(neighbour.start),
                    bytes: freed.bytes + neighbour.bytes,
                    since: freed.since.min(neighbour.since),
                    is_huge: freed.is_huge && neighbour.is_huge,
                    holds_memory: freed.holds_memory || neighbour.holds_memory,
                };
            }
        }
        let has_room = has_room && (self.pieces.iter().any(Option::is_none) || self.release_oldest());
        // A guarded one waits, without memory and not to be touched, instead of being used again.
        // SAFETY: K1 holds for it from now on.
        let guarded = has_room && self.guarded && unsafe { os::guard(pointer(freed.start), freed.bytes) };
        freed.holds_memory &= !guarded;
        let waits = has_room && guarded == self.guarded;
        if waits || !freed.discard(self.margin()) {
            self.put(freed);
        }
        is_first
    }

    fn take_neighbour(&mut self, of: &Piece) -> Option<Piece> {
        let touches = |piece: &Piece| piece.end() == of.start || of.end() == piece.start;
        let place = self.pieces.iter_mut().find(|place| place.as_ref().is_some_and(touches))?;
        let piece = place.take()?;
        self.bytes -= piece.bytes;
        Some(piece)
    }

    /// Keeps a piece, if it is one and there is a place. There is none only if the system refused to take another one and then
    /// this one: the space is lost then, and no memory.
    pub(super) fn put(&mut self, piece: Piece) {
        if let Some(place) = self.pieces.iter_mut().find(|place| place.is_none()).filter(|_| piece.bytes > 0) {
            self.bytes += piece.bytes;
            *place = Some(piece);
        }
    }

    /// Releases what has waited for `PURGE_AFTER_MILLISECONDS`.
    pub(super) fn release_aged(&mut self, now: u64) {
        self.release_if(|piece| now.saturating_sub(piece.since) >= PURGE_AFTER_MILLISECONDS);
    }

    /// Releases all pieces that the system takes.
    pub(super) fn release_all(&mut self) {
        self.release_if(|_| true);
    }

    /// Releases the oldest until not more than so many bytes are kept, or the system refuses.
    pub(super) fn release_beyond(&mut self, most: usize) {
        while self.bytes > most && self.release_oldest() {}
    }

    fn release_if(&mut self, wanted: impl Fn(&Piece) -> bool) {
        let margin = self.margin();
        for place in &mut self.pieces {
            if let Some(piece) = place.take_if(|piece| wanted(piece) && piece.discard(margin)) {
                self.bytes -= piece.bytes;
            }
        }
    }

    /// `false`: there is none, or the system refuses to take it.
    fn release_oldest(&mut self) -> bool {
        let margin = self.margin();
        let since = |place: &&mut Option<Piece>| place.as_ref().map_or(u64::MAX, |piece| piece.since);
        let oldest = self.pieces.iter_mut().filter(|place| place.is_some()).min_by_key(since);
        let released = oldest.and_then(|place| place.take_if(|piece| piece.discard(margin)));
        self.bytes -= released.map_or(0, |piece| piece.bytes);
        released.is_some()
    }
}
