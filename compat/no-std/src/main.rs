//! A program without operating system, `std` and `alloc` that uses families: linked for the targets that have none of them, and
//! run on an emulated board with a Cortex-M4, and as WebAssembly.

#![no_std]
#![no_main]

use core::alloc::{GlobalAlloc, Layout};

use family_alloc::{Family, family, give_memory};

#[cfg(target_arch = "arm")]
mod board;
#[cfg(target_arch = "wasm32")]
#[path = "wasm.rs"]
mod board;
#[cfg(target_arch = "x86_64")]
#[path = "bare.rs"]
mod board;

family! {
    struct Nodes;
    struct Text { classes: Spaced }
    struct Safe { checks: Checked }
}

const NODE: Layout = Layout::new::<[u32; 6]>();
const COUNT: usize = 1000;

/// Allocates, writes, reads and frees nodes; whether all was right.
fn is_right<F: Family + GlobalAlloc>(family: F) -> bool {
    let mut nodes = [core::ptr::null_mut::<[u32; 6]>(); COUNT];
    let mut right = true;
    for round in 0..3 {
        for (number, node) in nodes.iter_mut().enumerate() {
            // SAFETY: the size is not zero.
            *node = unsafe { family.alloc_zeroed(NODE) }.cast();
            // SAFETY: live, aligned and zero, if it is not null.
            right &= !node.is_null() && unsafe { **node } == [0; 6];
            if right {
                // SAFETY: as above.
                unsafe { node.write([number as u32 + round; 6]) };
            }
        }
        for (number, node) in nodes.iter().enumerate().filter(|(_, node)| !node.is_null()) {
            // SAFETY: written above.
            right &= unsafe { **node } == [number as u32 + round; 6];
            // SAFETY: allocated above with this layout.
            unsafe { family.dealloc(node.cast(), NODE) };
        }
    }
    right && F::stats().live_allocations == 0
}

/// A large allocation that grows; whether all was right.
fn grows<F: Family + GlobalAlloc>(family: F) -> bool {
    let layout = |bytes| Layout::from_size_align(bytes, 8).unwrap_or(NODE);
    // SAFETY: the size is not zero.
    let start = unsafe { family.alloc_zeroed(layout(100_000)) };
    // SAFETY: live with this layout, if it is not null.
    let grown = if start.is_null() { start } else { unsafe { family.realloc(start, layout(100_000), 300_000) } };
    if grown.is_null() {
        return false;
    }
    // SAFETY: live, so many bytes of it zero.
    let right = unsafe { core::slice::from_raw_parts(grown, 100_000) }.iter().all(|&byte| byte == 0);
    // SAFETY: live with this layout.
    unsafe { family.dealloc(grown, layout(300_000)) };
    right
}

/// What the board calls once memory and stack are there; whether all was right.
fn run() -> bool {
    // SAFETY: the board's memory, which nothing else uses; this is called once.
    let bytes = unsafe { give_memory(board::memory()) };
    bytes > 0 && is_right(Nodes) && is_right(Text) && is_right(Safe) && grows(Nodes)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    board::end(false)
}
