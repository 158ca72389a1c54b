//! Freed mappings that wait for an allocation they can serve. Nothing here calls the system.
//!
//! ```text
//!   freed ──► joined with its neighbours ──► a part serves an allocation, the rest stays; or it is made longer and serves one
//!                        └─────► leaves: after a second, or where there are too many
//! ```
//!
//! Where the system takes back whole mappings only, a piece is one and serves allocations of its length.
//!
//! **K1** A piece belongs to nobody; its contents are not zero. **K2** `bytes` is the sum over all pieces. **K3** Where parts of
//! mappings can be released and nothing is guarded, freed mappings that touch are one piece.

#![forbid(unsafe_code)]

use super::pointer;
use crate::os;

/// So few that what is known of a heap stays below a page.
pub(super) const PIECE_COUNT: usize = 14;
/// Bytes of all pieces, at most. Under Miri nothing is kept: pieces are known by number only, and what no pointer
/// leads to when the program ends is reported as leaked. Where no system is asked, what is freed serves all families at once.
pub(super) const KEPT_BYTES: usize =
    if cfg!(any(miri, target_arch = "wasm32", not(any(feature = "std", loom)))) { 0 } else { 256 << 20 };
/// A piece is made longer for an allocation if it has at least this part of it: less spares few page faults.
const EXTENDED_PART: usize = 8;

/// A freed mapping, or several that lie one after another, or what is left of one.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) bytes: usize,
    /// When the first of it was freed.
    pub(super) since: u64,
    /// Whether any of it may be present: a guarded one, and one that the system has emptied but not taken, are space only.
    pub(super) holds_memory: bool,
}

impl Piece {
    /// What was live until now.
    pub(super) fn freed(start: usize, bytes: usize, now: u64) -> Self {
        Self { start, bytes, since: now, holds_memory: true }
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

    /// Takes memory out of the least piece that has room; returns where it begins.
    pub(super) fn take(&mut self, bytes: usize, align: usize) -> Option<usize> {
        let has_place = self.pieces.iter().any(Option::is_none);
        let place_in = |piece: &Piece| {
            let start = piece.place_for(bytes, align)?;
            // The piece's own place serves one of two rests.
            (has_place || start == piece.start || start + bytes == piece.end()).then_some(start)
        };
        let with_room = |place: &&mut Option<Piece>| place.as_ref().and_then(place_in).is_some();
        let length = |place: &&mut Option<Piece>| place.as_ref().map_or(0, |piece| piece.bytes);
        let place = self.pieces.iter_mut().filter(with_room).min_by_key(length)?;
        let piece = place.take()?;
        self.bytes -= piece.bytes;
        let start = place_in(&piece)?;
        let end = start + bytes;
        self.put(Piece { bytes: start - piece.start, ..piece });
        self.put(Piece { start: end, bytes: piece.end() - end, ..piece });
        Some(start)
    }

    /// Takes the largest piece, if it is shorter than an allocation and worth making as long: what it holds already needs no page faults.
    pub(super) fn take_to_extend(&mut self, bytes: usize, align: usize) -> Option<Piece> {
        let length = |piece: &Piece| if os::is_aligned(pointer(piece.start), align) { piece.bytes } else { 0 };
        let place = self.pieces.iter_mut().max_by_key(|place| place.as_ref().map_or(0, length))?;
        let piece = place.take_if(|piece| length(piece) >= bytes / EXTENDED_PART && piece.bytes < bytes)?;
        self.bytes -= piece.bytes;
        Some(piece)
    }

    /// Takes the first bytes of the piece that begins at an address, or all it has if it has less; none where mappings stay apart.
    pub(super) fn take_behind(&mut self, start: usize, bytes: usize) -> Option<Piece> {
        if !os::TAKES_PARTS {
            return None;
        }
        let place = self.pieces.iter_mut().find(|place| place.is_some_and(|piece| piece.start == start))?;
        let piece = place.take()?;
        self.bytes -= piece.bytes;
        let bytes = bytes.min(piece.bytes);
        self.put(Piece { start: start + bytes, bytes: piece.bytes - bytes, ..piece });
        Some(Piece { bytes, ..piece })
    }

    /// Keeps what was freed; what cannot be kept, or has to go for it, is handed to `leave`.
    pub(super) fn keep(&mut self, mut freed: Piece, mut leave: impl FnMut(Piece)) {
        // What is too long to be kept drives nothing else out.
        if freed.bytes > KEPT_BYTES {
            return leave(freed);
        }
        while self.bytes + freed.bytes > KEPT_BYTES {
            let Some(oldest) = self.take_oldest(u64::MAX, usize::MAX) else { break };
            leave(oldest);
        }
        if os::TAKES_PARTS && !self.guarded {
            while let Some(neighbour) = self.take_neighbour(&freed) {
                freed = Piece {
                    start: freed.start.min(neighbour.start),
                    bytes: freed.bytes + neighbour.bytes,
                    since: freed.since.min(neighbour.since),
                    holds_memory: freed.holds_memory || neighbour.holds_memory,
                };
            }
        }
        if self.pieces.iter().all(Option::is_some) {
            self.take_oldest(u64::MAX, usize::MAX).into_iter().for_each(leave);
        }
        self.put(freed);
    }

    fn take_neighbour(&mut self, of: &Piece) -> Option<Piece> {
        let touches = |piece: &Piece| piece.end() == of.start || of.end() == piece.start;
        let place = self.pieces.iter_mut().find(|place| place.as_ref().is_some_and(touches))?;
        let piece = place.take()?;
        self.bytes -= piece.bytes;
        Some(piece)
    }

    /// Keeps a piece, if it is one; `false`: there is no place. If the system refused to take it, and then another one, its
    /// space is lost, and no memory.
    pub(super) fn put(&mut self, piece: Piece) -> bool {
        if piece.bytes == 0 {
            return true;
        }
        let place = self.pieces.iter_mut().find(|place| place.is_none());
        place.is_some_and(|place| {
            self.bytes += piece.bytes;
            *place = Some(piece);
            true
        })
    }

    /// Takes the piece that was freed first, or the last of its bytes where it has parts, if that was then or before.
    pub(super) fn take_oldest(&mut self, until: u64, most_bytes: usize) -> Option<Piece> {
        let since = |place: &&mut Option<Piece>| place.as_ref().map_or(u64::MAX, |piece| piece.since);
        let oldest = self.pieces.iter_mut().filter(|place| place.is_some()).min_by_key(since)?;
        let piece = oldest.take_if(|piece| piece.since <= until)?;
        self.bytes -= piece.bytes;
        if !os::TAKES_PARTS || self.guarded || piece.bytes <= most_bytes {
            return Some(piece);
        }
        self.put(Piece { bytes: piece.bytes - most_bytes, ..piece });
        Some(Piece { start: piece.end() - most_bytes, bytes: most_bytes, ..piece })
    }

    /// When the piece was freed that is oldest.
    pub(super) fn oldest_since(&self) -> Option<u64> {
        self.pieces.iter().flatten().map(|piece| piece.since).min()
    }
}
