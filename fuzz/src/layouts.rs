//! Layouts that nobody asks for: huge, empty, aligned to more than there is.

use std::alloc::Layout;
use std::ptr::NonNull;

use arbitrary::Result;

use crate::common::doors::{Doors, is_aligned};
use crate::input::Input;
use crate::operations::assert_gone;

/// The most layouts of one input.
const MOST: usize = 3;
/// So much is always to be had.
const MODEST_BYTES: usize = 64 << 20;
/// So much may be copied by one resize.
const COPIED_BYTES: usize = 1 << 20;

/// Tries the layouts that the bytes say; panics if one is served wrongly. Returns how many were served.
pub fn layouts(data: &[u8]) -> usize {
    let mut input = Input::new(data);
    let mut served = Vec::with_capacity(MOST);
    for _ in 0..MOST {
        let Ok(tried) = attempt(&mut input, &served) else { break };
        served.extend(tried);
    }
    let count = served.len();
    // They were all live at once.
    served.into_iter().for_each(Served::free);
    input.used().for_each(assert_gone);
    count
}

/// Any layout there is: its size is any number, one near a power of two, or one near the largest of its alignment.
fn any_layout(input: &mut Input<'_>) -> Result<Option<Layout>> {
    let align = 1_usize << input.below(usize::BITS as usize)?;
    let near = usize::from(input.any::<u8>()?).wrapping_sub(128);
    let size = match input.below(5)? {
        0 => input.size()?,
        1 => input.any()?,
        2 => (1_usize << input.below(usize::BITS as usize)?).wrapping_add(near),
        3 => (isize::MAX as usize + 1).saturating_sub(align).wrapping_add(near),
        _ => align.wrapping_mul(input.below(4)?).wrapping_add(near),
    };
    Ok(Layout::from_size_align(size, align).ok())
}

/// An allocation that was served, with marks at both ends.
struct Served {
    doors: &'static Doors,
    layout: Layout,
    memory: NonNull<[u8]>,
}

impl Served {
    /// Checks what was served, and marks it.
    fn new(doors: &'static Doors, layout: Layout, memory: NonNull<[u8]>) -> Self {
        let served = Self { doors, layout, memory };
        assert!(memory.len() >= layout.size(), "{doors:?}, {layout:?}: {} bytes", memory.len());
        assert_eq!(memory.len(), doors.usable(layout), "{doors:?}, {layout:?}: not the whole slot");
        assert!(is_aligned(memory.addr().get(), doors.promised_align(layout)), "{doors:?}, {layout:?}: at {memory:?}");
        served.mark();
        served
    }

    fn end(&self, at: usize) -> *mut u8 {
        self.memory.cast::<u8>().as_ptr().wrapping_add(at)
    }

    fn mark(&self) {
        if !self.memory.is_empty() {
            // SAFETY: the first byte of a live allocation.
            unsafe { self.end(0).write(0xA5) };
            // SAFETY: its last one.
            unsafe { self.end(self.memory.len() - 1).write(0x5A) };
        }
    }

    fn reads(&self, at: usize) -> u8 {
        // SAFETY: inside a live allocation, and marked or zero.
        unsafe { self.end(at).read() }
    }

    fn verify(&self) {
        let last = self.memory.len().saturating_sub(1);
        if last > 0 {
            assert_eq!((self.reads(0), self.reads(last)), (0xA5, 0x5A), "{:?}, {:?}", self.doors, self.layout);
        }
    }

    fn free(self) {
        self.verify();
        // SAFETY: live, with its own layout, and given up.
        unsafe { (self.doors.deallocate)(self.memory.cast(), self.layout) };
    }

    /// Changes the layout; if that is refused, everything must be as it was.
    fn resize(self, new: Layout) -> Self {
        let grows = new.size() >= self.layout.size();
        let call = if grows { self.doors.grow } else { self.doors.shrink };
        self.verify();
        // SAFETY: live, with its own layout, in the order that the call wants; given up if it is served.
        match unsafe { call(self.memory.cast(), self.layout, new) } {
            Some(memory) => {
                let resized = Self { doors: self.doors, layout: new, memory };
                let kept = self.layout.size().min(new.size());
                assert!(kept == 0 || kept == 1 || resized.reads(0) == 0xA5, "{:?} to {new:?}", self.layout);
                Self::new(self.doors, new, memory)
            }
            None => {
                self.verify();
                self
            }
        }
    }
}

/// Asks for one layout, and resizes what comes to another one.
fn attempt(input: &mut Input<'_>, others: &[Served]) -> Result<Option<Served>> {
    if input.is_empty() {
        return Err(arbitrary::Error::NotEnoughData);
    }
    let doors = input.doors()?;
    let (zeroed, wanted, other) = (input.any::<bool>()?, any_layout(input)?, any_layout(input)?);
    let is_possible = |layout: &Layout| !(doors.is_exact && layout.size() == 0);
    let Some(layout) = wanted.filter(is_possible) else { return Ok(None) };
    let memory = if zeroed { (doors.allocate_zeroed)(layout) } else { (doors.allocate)(layout) };
    let Some(memory) = memory else {
        // Address space may be short while others have terabytes of it; otherwise only what is large is refused.
        let taken = others.iter().map(|other| other.memory.len()).fold(doors.occupied(layout), usize::saturating_add);
        assert!(taken > MODEST_BYTES, "{doors:?}, {layout:?} is refused");
        return Ok(None);
    };
    let is_zero = |at: usize| {
        // SAFETY: inside the allocation, which reads zero if it was asked for so.
        unsafe { memory.cast::<u8>().as_ptr().wrapping_add(at).read() == 0 }
    };
    assert!(!zeroed || memory.is_empty() || is_zero(0) && is_zero(memory.len() - 1), "{doors:?}, {layout:?}: not zero");
    let served = Served::new(doors, layout, memory);
    Ok(Some(match other.filter(is_possible) {
        Some(new)
            if new.size().min(layout.size()) <= COPIED_BYTES && (!doors.is_exact || new.align() == layout.align()) =>
        {
            served.resize(new)
        }
        _ => served,
    }))
}
