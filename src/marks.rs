//! The marks behind allocations of hardened families: eight bytes that only this process can make.
//!
//! A mark is SipHash-1-3 (Aumasson and Bernstein, 2012) of the address and the family's number,
//! under a key of 128 random bits: whoever has seen marks cannot make others. A child of a fork has
//! its parent's memory, so its parent knows its key: it gets a new one. What was marked before
//! keeps its mark, so keys are kept as well, and whoever marks an allocation notes the key's
//! *generation*.
//!
//! **K1** The key of a generation is written once, before that generation is [`current`], and never
//! changes. It is written by a thread that has the registry's lock, or is the only one of its
//! process.

#![forbid(unsafe_code)]

use crate::os;
use crate::sync::{AtomicU32, Relaxed};

/// Bytes of a mark, where there is so much room.
pub(crate) const MARK_BYTES: usize = size_of::<usize>();
/// So many keys at most: a fork of a fork of a fork … goes on with the last one.
pub(crate) const GENERATION_COUNT: usize = 64;

/// Which key a mark was made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Generation(u8);

impl Generation {
    /// The generation with a number, if there can be such a one.
    pub(crate) fn new(number: usize) -> Option<Self> {
        if number < GENERATION_COUNT { u8::try_from(number).ok().map(Self) } else { None }
    }

    /// Less than [`GENERATION_COUNT`].
    pub(crate) fn number(self) -> u8 {
        self.0
    }
}

static KEYS: [[AtomicU32; 4]; GENERATION_COUNT] = [const { [const { AtomicU32::new(0) }; 4] }; GENERATION_COUNT];
/// How many generations there are.
static COUNT: AtomicU32 = AtomicU32::new(0);

// Relaxed throughout: who marks has a slot of a family that was registered after the first key was
// written, and the registry publishes both; later keys are written where there is one thread (K1).

/// The generation that marks are made with now.
pub(crate) fn current() -> Generation {
    Generation(COUNT.load(Relaxed).saturating_sub(1) as u8)
}

/// Makes the first key, if there is none. The caller has the registry's lock.
pub(crate) fn begin() {
    if COUNT.load(Relaxed) == 0 {
        renew();
    }
}

/// Makes a new key in the child of a fork, if there was one: as long as it is the child's only
/// thread.
#[cfg(all(unix, not(any(miri, loom))))]
pub(crate) fn begin_child() {
    if COUNT.load(Relaxed) != 0 {
        renew();
    }
}

fn renew() {
    let count = COUNT.load(Relaxed);
    let Some(key) = KEYS.get(count as usize) else { return };
    for halves in key.chunks_exact(2) {
        let bits = os::random();
        halves[0].store(bits as u32, Relaxed);
        halves[1].store((bits >> 32) as u32, Relaxed);
    }
    COUNT.store(count + 1, Relaxed);
}

/// What stands behind an allocation at `address` of the family with this number: nothing that an
/// overflowing copy would write, and never zero at first.
#[inline(never)]
pub(crate) fn mark(address: usize, family: u32, generation: Generation) -> [u8; MARK_BYTES] {
    let word = |place: usize| u64::from(KEYS[generation.0 as usize][place].load(Relaxed));
    let key = [word(0) | word(1) << 32, word(2) | word(3) << 32];
    let mut bytes = (sip_1_3(key, address as u64, family) as usize).to_ne_bytes();
    bytes[0] |= 1;
    bytes
}

/// SipHash-1-3 of twelve bytes.
fn sip_1_3(key: [u64; 2], first: u64, last: u32) -> u64 {
    const BYTES: u64 = 12;
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    for word in [first, BYTES << 56 | u64::from(last)] {
        state[3] ^= word;
        state = round(state);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    let [a, b, c, d] = round(round(round(state)));
    a ^ b ^ c ^ d
}

fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;
    use std::collections::HashSet;
    use std::hash::DefaultHasher;

    use super::*;

    #[test]
    fn the_hash_is_siphash_1_3() {
        // The reference's vector for twelve bytes that count up from 0, under sixteen that do.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let expected = u64::from_le_bytes([0xa2, 0xd9, 0xb4, 0x57, 0xb1, 0x84, 0xa3, 0x78]);
        assert_eq!(sip_1_3(key, 0x0706_0504_0302_0100, 0x0b0a_0908), expected);
        // `std` has the same hash, under the key 0.
        for number in 0..1000_u64 {
            let first = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut hasher = DefaultHasher::new();
            hasher.write(&first.to_le_bytes());
            hasher.write(&(number as u32).to_le_bytes());
            assert_eq!(sip_1_3([0, 0], first, number as u32), hasher.finish());
        }
    }

    #[test]
    fn a_mark_never_begins_as_the_end_of_a_string() {
        begin();
        assert!((0..100_000).all(|place| mark(place * 16, 1, current())[0] != 0));
    }

    #[test]
    fn marks_differ_by_address_family_and_generation() {
        begin();
        let first = Generation(0);
        let marks = (0..1000).flat_map(|place| [1, 2].map(|family| mark(place * 16, family, first)));
        assert_eq!(marks.collect::<HashSet<_>>().len(), 2000);
        // No other generation has a key here: an unset one must not be the same either.
        assert_ne!(mark(4096, 1, first), mark(4096, 1, Generation(1)));
    }

    #[test]
    fn there_are_as_many_generations_as_can_be_noted() {
        assert_eq!(Generation::new(GENERATION_COUNT - 1).map(Generation::number), Some(63));
        assert_eq!(Generation::new(GENERATION_COUNT), None);
    }
}
