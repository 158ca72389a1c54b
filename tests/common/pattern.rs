//! Contents by which a slot is recognised: a sequence without short periods, begun at a place that the slot's seed gives.

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
    // SAFETY: the tests only fill allocations that they hold, and nobody else uses them meanwhile.
    let bytes = unsafe { &mut *memory.as_ptr() };
    for (index, part) in bytes.chunks_mut(LINE).enumerate() {
        part.copy_from_slice(line(seed, index * LINE, part.len()));
    }
}

/// Whether the first `len` bytes of the memory at `start` have the contents of `seed`.
pub(crate) fn holds(start: NonNull<u8>, len: usize, seed: usize) -> bool {
    let bytes = bytes(start, len);
    bytes.chunks(LINE).enumerate().all(|(index, part)| part == line(seed, index * LINE, part.len()))
}

/// Whether the bytes from `from` to the end of the memory are zero.
pub(crate) fn is_zero_from(memory: NonNull<[u8]>, from: usize) -> bool {
    static ZERO: [u8; LINE] = [0; LINE];
    bytes(memory.cast(), memory.len())[from..].chunks(LINE).all(|part| part == &ZERO[..part.len()])
}

fn bytes<'a>(start: NonNull<u8>, len: usize) -> &'a [u8] {
    // SAFETY: the tests only look at initialised parts of allocations that they hold; the slice does not outlive the look.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
}
