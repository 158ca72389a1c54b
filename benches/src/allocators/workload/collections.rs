//! Collections: a hash table of boxes, a vector that grows, and strings.

use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;

use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use hashbrown::HashMap;

use crate::meter::Meter;
use crate::random::Random;
use crate::subject::Subject;

/// A multiplication: cheap, and the same in every process.
#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline(always)]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

type Boxed<S> = Box<[u64; 4], <S as Subject>::Collections>;
type Map<S> = HashMap<u64, Boxed<S>, BuildHasherDefault<Multiply>, <S as Subject>::Collections>;

/// hashbrown's table with boxed values: it grows from empty, then entries come and go.
pub(crate) fn hash_map<S: Subject>(meter: &mut Meter) {
    let count = meter.pick(100_000, 500_000);
    meter.ready();
    for _ in 0..meter.pick(3, 5) {
        let mut map = meter.time("insert from empty", count, || filled::<S>(count));
        meter.peak();
        meter.time("remove and insert", count, || exchange::<S>(&mut map, count));
        meter.time("walk", count, || black_box(map.values().map(|value| value[0]).fold(0, u64::wrapping_add)));
        meter.time("drop", count, || drop(map));
        S::reset();
    }
}

fn filled<S: Subject>(count: usize) -> Map<S> {
    let mut map = Map::<S>::with_hasher_in(BuildHasherDefault::default(), S::collections());
    for key in 0..count as u64 {
        map.insert(key, Box::new_in([key; 4], S::collections()));
    }
    map
}

fn exchange<S: Subject>(map: &mut Map<S>, count: usize) {
    let mut random = Random::new(5);
    for new in count as u64..2 * count as u64 {
        map.remove(&(random.next() % new));
        map.insert(new, Box::new_in([new; 4], S::collections()));
    }
}

/// A vector pushed from empty to a million, and many short ones.
pub(crate) fn vector<S: Subject>(meter: &mut Meter) {
    let count = 1_000_000;
    meter.ready();
    for _ in 0..meter.pick(5, 20) {
        let vec = meter.time("push 0 to a million", count, || pushed::<S>(count));
        meter.peak();
        drop(vec);
        S::reset();
    }
    let vectors = meter.pick(2000, 10_000);
    for _ in 0..meter.pick(5, 20) {
        meter.time("push 0 to 100, again and again", vectors * 100, || {
            for _ in 0..vectors {
                drop(black_box(pushed::<S>(100)));
            }
        });
        S::reset();
    }
}

fn pushed<S: Subject>(count: usize) -> Vec<u64, S::Collections> {
    let mut vec = Vec::new_in(S::collections());
    for value in 0..count as u64 {
        vec.push(value);
    }
    vec
}

type Text<S> = Vec<u8, <S as Subject>::Collections>;

/// Strings of 1 to 100 bytes: made piece by piece, cloned, sorted, dropped.
pub(crate) fn strings<S: Subject>(meter: &mut Meter) {
    let count = meter.pick(50_000, 300_000);
    meter.ready();
    for _ in 0..meter.pick(3, 5) {
        let texts = meter.time("build", count, || written::<S>(count));
        let mut copy = meter.time("clone", count, || texts.clone());
        meter.peak();
        meter.time("sort", count, || copy.sort_unstable());
        meter.time("drop", 2 * count, || drop((texts, copy)));
        S::reset();
    }
}

fn written<S: Subject>(count: usize) -> Vec<Text<S>, S::Collections> {
    let mut random = Random::new(6);
    let mut texts = Vec::new_in(S::collections());
    for _ in 0..count {
        let mut text = Text::<S>::new_in(S::collections());
        for _ in 0..=random.below(10) {
            let word = random.next().to_le_bytes();
            text.extend_from_slice(&word[..=random.below(8)]);
        }
        texts.push(text);
    }
    texts
}
