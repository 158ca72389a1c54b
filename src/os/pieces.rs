//! The free memory of a space that no system hands out: pieces in the order of their addresses.
//!
//! ```text
//!   │ in use │ head ░░░ free ░░░ │ in use │ head ░░ free ░░ │ in use │
//!               └── bytes, next ───────────►┘
//! ```
//!
//! **N1** A free piece belongs to this list alone; it is whole pages, and no two touch. What is known
//! of it stands at its start. **N2** Addresses are of memory whose provenance was exposed when it was
//! given.

use core::ptr::NonNull;

/// What stands at the start of a free piece.
#[derive(Clone, Copy)]
struct Head {
    bytes: usize,
    /// The address of the next piece, 0 behind the last.
    next: usize,
}

/// A free piece, and the one before it (0: none).
#[derive(Clone, Copy)]
struct Piece {
    previous: usize,
    start: usize,
    bytes: usize,
}

impl Piece {
    fn end(self) -> usize {
        self.start + self.bytes
    }
}

/// All free pieces.
pub(super) struct Pieces {
    /// The address of the first, 0 if there is none.
    first: usize,
}

fn head_of(start: usize) -> Head {
    let head = core::ptr::with_exposed_provenance::<Head>(start);
    // SAFETY: N1: a free piece, whose start is aligned to a page and holds its head.
    unsafe { *head }
}

fn set_head(start: usize, head: Head) {
    let place = core::ptr::with_exposed_provenance_mut::<Head>(start);
    // SAFETY: N1: the start of a free piece, which is longer than a head.
    unsafe { place.write(head) };
}

impl Pieces {
    pub(super) const fn new() -> Self {
        Self { first: 0 }
    }

    fn all(&self) -> impl Iterator<Item = Piece> + use<> {
        let piece = |previous, start| (start != 0).then(|| Piece { previous, start, bytes: head_of(start).bytes });
        core::iter::successors(piece(0, self.first), move |last| piece(last.start, head_of(last.start).next))
    }

    fn set_next(&mut self, previous: usize, next: usize) {
        match previous {
            0 => self.first = next,
            _ => set_head(previous, Head { next, ..head_of(previous) }),
        }
    }

    /// Takes memory back, or the first time: it is joined with what is free beside it.
    ///
    /// # Safety
    /// Whole pages that may be read and written, and that nobody else uses from now on; their
    /// provenance is exposed.
    pub(super) unsafe fn give(&mut self, start: usize, bytes: usize) {
        let before = self.all().take_while(|piece| piece.start < start).last();
        let next = before.map_or(self.first, |piece| head_of(piece.start).next);
        let joined = if next != 0 && start + bytes == next { Some(head_of(next)) } else { None };
        let (bytes, next) = joined.map_or((bytes, next), |head| (bytes + head.bytes, head.next));
        match before {
            Some(piece) if piece.end() == start => {
                set_head(piece.start, Head { bytes: piece.bytes + bytes, next });
            }
            _ => {
                set_head(start, Head { bytes, next });
                self.set_next(before.map_or(0, |piece| piece.start), start);
            }
        }
    }

    /// Takes the lowest place with an alignment.
    pub(super) fn take_lowest(&mut self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let place_in = |piece: Piece| {
            let start = piece.start.checked_next_multiple_of(align)?;
            (start.checked_add(bytes)? <= piece.end()).then_some((piece, start))
        };
        let (piece, start) = self.all().find_map(place_in)?;
        self.cut(piece, start, bytes)
    }

    /// Takes the end of the shortest piece that has room, so that what begins low can grow.
    pub(super) fn take_from_end(&mut self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let place_in = |piece: Piece| {
            let start = piece.end().checked_sub(bytes)? & !(align - 1);
            (start >= piece.start).then_some((piece, start))
        };
        let (piece, start) = self.all().filter_map(place_in).min_by_key(|(piece, _)| piece.bytes)?;
        self.cut(piece, start, bytes)
    }

    /// Takes memory at an address.
    pub(super) fn take_at(&mut self, start: usize, bytes: usize) -> Option<NonNull<u8>> {
        let end = start.checked_add(bytes)?;
        let piece = self.all().find(|piece| piece.start <= start && end <= piece.end())?;
        self.cut(piece, start, bytes)
    }

    /// Where the free memory before an address begins; the address itself where there is none.
    #[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "for memory that grows"))]
    pub(super) fn tail(&self, end: usize) -> usize {
        self.all().find(|piece| piece.end() == end).map_or(end, |piece| piece.start)
    }

    /// Takes a part of a piece; what is before and behind it stays.
    fn cut(&mut self, piece: Piece, start: usize, bytes: usize) -> Option<NonNull<u8>> {
        let (end, mut next) = (start + bytes, head_of(piece.start).next);
        if end < piece.end() {
            set_head(end, Head { bytes: piece.end() - end, next });
            next = end;
        }
        if start > piece.start {
            set_head(piece.start, Head { bytes: start - piece.start, next });
        } else {
            self.set_next(piece.previous, next);
        }
        NonNull::new(core::ptr::with_exposed_provenance_mut(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;
    const PAGES: usize = if cfg!(miri) { 16 } else { 64 };

    #[repr(align(4096))]
    struct Page(#[allow(dead_code, reason = "only its address is used")] [u8; PAGE]);

    /// Memory for one test, from a page on that is a multiple of eight of them.
    fn memory() -> usize {
        let pages: &'static mut [Page] = Vec::from_iter((0..PAGES + 8).map(|_| Page([1; PAGE]))).leak();
        pages.as_mut_ptr().expose_provenance().next_multiple_of(8 * PAGE)
    }

    fn pieces_of(pieces: &Pieces, base: usize) -> Vec<(usize, usize)> {
        pieces.all().map(|piece| ((piece.start - base) / PAGE, piece.bytes / PAGE)).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "leaks the memory that it tries this with")]
    fn what_comes_back_is_joined() {
        let base = memory();
        let mut pieces = Pieces::new();
        let give = |pieces: &mut Pieces, first: usize, count: usize| {
            // SAFETY: pages of the memory above that are not in the list.
            unsafe { pieces.give(base + first * PAGE, count * PAGE) };
        };
        for (first, count) in [(4, 2), (0, 1), (8, 4), (2, 1)] {
            give(&mut pieces, first, count);
        }
        assert_eq!(pieces_of(&pieces, base), [(0, 1), (2, 1), (4, 2), (8, 4)]);
        give(&mut pieces, 3, 1);
        assert_eq!(pieces_of(&pieces, base), [(0, 1), (2, 4), (8, 4)]);
        give(&mut pieces, 6, 2);
        give(&mut pieces, 1, 1);
        assert_eq!(pieces_of(&pieces, base), [(0, 12)]);
        assert_eq!(pieces.tail(base + 12 * PAGE), base);
        assert_eq!(pieces.tail(base + 13 * PAGE), base + 13 * PAGE);
    }

    #[test]
    #[cfg_attr(miri, ignore = "leaks the memory that it tries this with")]
    fn places_are_where_they_are_asked_for() {
        let base = memory();
        let mut pieces = Pieces::new();
        // SAFETY: pages of the memory above, from the second on.
        unsafe { pieces.give(base + PAGE, 15 * PAGE) };
        let at = |memory: Option<NonNull<u8>>| memory.map(|memory| (memory.addr().get() - base) / PAGE);
        assert_eq!(at(pieces.take_lowest(2 * PAGE, 8 * PAGE)), Some(8));
        // The shorter piece, although the longer one is higher.
        assert_eq!(at(pieces.take_from_end(2 * PAGE, PAGE)), Some(14));
        assert_eq!(at(pieces.take_at(base + 10 * PAGE, PAGE)), Some(10));
        assert_eq!(at(pieces.take_at(base + 10 * PAGE, PAGE)), None);
        assert_eq!(at(pieces.take_at(base + 13 * PAGE, 2 * PAGE)), None);
        assert_eq!(at(pieces.take_from_end(2 * PAGE, 2 * PAGE)), Some(12));
        assert_eq!(at(pieces.take_from_end(8 * PAGE, PAGE)), None);
        assert_eq!(at(pieces.take_lowest(usize::MAX & !(PAGE - 1), PAGE)), None);
        assert_eq!(pieces_of(&pieces, base), [(1, 7), (11, 1)]);
    }

    /// Beside a map of the pages: what is taken was free, and what is free is known.
    #[test]
    #[cfg_attr(miri, ignore = "leaks the memory that it tries this with")]
    fn any_calls_keep_the_pages_apart() {
        let base = memory();
        let mut pieces = Pieces::new();
        // SAFETY: all pages of the memory above.
        unsafe { pieces.give(base, PAGES * PAGE) };
        let (mut free, mut taken) = ([true; PAGES], Vec::<(usize, usize)>::new());
        let mut random = 7_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let [kind, count, align, place] = [60, 54, 48, 40].map(|shift| (random >> shift) as usize % 16);
            let (count, align) = (count % 5 + 1, 1 << (align % 4));
            if kind < 7 && !taken.is_empty() {
                let (first, count) = taken.swap_remove(place % taken.len());
                // SAFETY: taken before, and given once.
                unsafe { pieces.give(base + first * PAGE, count * PAGE) };
                free[first..first + count].fill(true);
                continue;
            }
            let memory = match kind % 3 {
                0 => pieces.take_lowest(count * PAGE, align * PAGE),
                1 => pieces.take_from_end(count * PAGE, align * PAGE),
                _ => pieces.take_at(base + 4 * place * PAGE, count * PAGE),
            };
            let fits = |first: usize| first + count <= PAGES && free[first..first + count].iter().all(|&free| free);
            let Some(memory) = memory else {
                let asked =
                    (0..PAGES).filter(|first| if kind % 3 < 2 { first % align == 0 } else { *first == 4 * place });
                assert!(!asked.into_iter().any(fits), "there was room");
                continue;
            };
            let first = (memory.addr().get() - base) / PAGE;
            assert!(fits(first), "what was taken was free");
            assert!(kind % 3 == 2 || first % align == 0);
            free[first..first + count].fill(false);
            // SAFETY: taken just now.
            unsafe { memory.write_bytes(0xFF, count * PAGE) };
            taken.push((first, count));
        }
        let known: usize = pieces.all().map(|piece| piece.bytes / PAGE).sum();
        assert_eq!(known, free.iter().filter(|&&free| free).count());
    }
}
