//! WebAssembly without a host: memory grows by itself, so nothing need be given; whoever loads the module calls `run_all`.

/// Memory of the program's own that it gives besides.
static mut GIVEN: [u64; 4096] = [0; 4096];

pub(crate) fn memory() -> core::ptr::NonNull<[u8]> {
    let start = core::ptr::NonNull::new((&raw mut GIVEN).cast::<u8>()).unwrap_or(core::ptr::NonNull::dangling());
    core::ptr::NonNull::slice_from_raw_parts(start, 4096 * 8)
}

/// 1 if all was right.
#[unsafe(no_mangle)]
extern "C" fn run_all() -> u32 {
    u32::from(crate::run())
}

/// The linker wants a beginning; nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn _start() {}

pub(crate) fn end(_: bool) -> ! {
    core::arch::wasm32::unreachable()
}
