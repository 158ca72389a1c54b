//! What all loops have in common whose instructions are counted.
#![forbid(unsafe_code)]

use std::alloc::Layout;
use std::hint::black_box;

/// A loop and its name.
pub(crate) struct Loop {
    pub(crate) name: &'static str,
    pub(crate) run: fn(usize),
}

/// Does `work` that often, in a loop that is neither unrolled nor guessed.
#[inline(always)]
pub(crate) fn repeat(times: usize, mut work: impl FnMut(usize)) {
    let mut left = times;
    while left != 0 {
        work(left);
        left = black_box(left - 1);
    }
}

/// So many bytes, as whole words.
pub(crate) const fn words(size: usize) -> Layout {
    match Layout::from_size_align(size, 8) {
        Ok(layout) => layout,
        Err(_) => panic!("no loop is that large"),
    }
}
