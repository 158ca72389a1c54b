//! Contents by which a slot is recognised: a sequence without short periods, begun at a place that the slot's seed gives.

use std::ops::Range;
use std::ptr::NonNull;

const PERIOD: usize = 251; // a prime: shifted by any power of two the contents differ
const LINE: usize = 32 << 10;

/// The sequence, long enough to compare by the line from every start.
fn line(seed: usize, position: usize, len: usize) -> &'static [u8] {
    static SEQUENCE: [u8; LINE + PERIOD] = {
        let mut bytes = [0; LINE + PERIOD];
        let mut index = 0;
        while index < bytes.len() {
            bytes[index] = (index % PERIOD) as u8 + 1;
            index += 1;
        }
        bytes
    };
    let start = (seed + position) % PERIOD;
    &SEQUENCE[start..start + len]
}

/// Fills memory with the contents of `seed`.
pub(crate) fn fill(memory: NonNull<[u8]>, seed: usize) {
    fill_part(memory, 0..memory.len(), seed);
}

/// Fills a part of memory as [`fill`] does.
pub(crate) fn fill_part(memory: NonNull<[u8]>, part: Range<usize>, seed: usize) {
    let memory = part_of(memory, &part);
    // SAFETY: the tests only fill allocations that they hold, and nobody else uses them meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), part.len()) };
    for (index, piece) in bytes.chunks_mut(LINE).enumerate() {
        piece.copy_from_slice(line(seed, part.start + index * LINE, piece.len()));
    }
}

/// Whether the first `len` bytes of the memory at `start` have the contents of `seed`.
pub(crate) fn holds(start: NonNull<u8>, len: usize, seed: usize) -> bool {
    holds_part(NonNull::slice_from_raw_parts(start, len), 0..len, seed)
}

/// Whether a part of the memory has the contents of `seed`.
pub(crate) fn holds_part(memory: NonNull<[u8]>, part: Range<usize>, seed: usize) -> bool {
    let pieces = bytes(memory, &part).chunks(LINE).enumerate();
    pieces.into_iter().all(|(index, piece)| piece == line(seed, part.start + index * LINE, piece.len()))
}

/// Whether the bytes from `from` to the end of the memory are zero.
pub(crate) fn is_zero_from(memory: NonNull<[u8]>, from: usize) -> bool {
    is_zero(memory, from..memory.len())
}

/// Whether a part of the memory is zero.
pub(crate) fn is_zero(memory: NonNull<[u8]>, part: Range<usize>) -> bool {
    static ZERO: [u8; LINE] = [0; LINE];
    bytes(memory, &part).chunks(LINE).all(|piece| piece == &ZERO[..piece.len()])
}

fn bytes<'a>(memory: NonNull<[u8]>, part: &Range<usize>) -> &'a [u8] {
    let start = part_of(memory, part);
    // SAFETY: the tests only look at initialised parts of allocations that they hold; the slice does not outlive the look.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), part.len()) }
}

fn part_of(memory: NonNull<[u8]>, part: &Range<usize>) -> NonNull<u8> {
    assert!(part.start <= part.end && part.end <= memory.len(), "{part:?} of {} bytes", memory.len());
    // SAFETY: inside the memory or at its end, as just asserted.
    unsafe { memory.cast::<u8>().add(part.start) }
}
