//! What the system knows about this process, and arrays that no measured allocator sees.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::{fs, io};

/// Bytes of anonymous memory that are resident now.
///
/// `smaps_rollup` walks the page tables, so unlike the counters in `statm` and `status` it is exact, and it tells memory of
/// the program from pages of its executable.
pub(crate) fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Page faults of this process so far that needed no disk.
pub(crate) fn page_faults() -> u64 {
    // SAFETY: `rusage` is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a live `rusage`.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage.ru_minflt.unsigned_abs()
}

/// The processor time of all threads of this process so far, in nanoseconds.
pub(crate) fn processor_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Ends this process after that many seconds, whatever it is doing.
pub(crate) fn limit_seconds(seconds: u32) {
    // SAFETY: sets a timer; no handler is installed, so its signal ends the process.
    unsafe { libc::alarm(seconds) };
}

/// Ends this process without what allocators do at the end of one: rpmalloc takes memory from threads that still end.
pub(crate) fn exit() -> ! {
    // SAFETY: everything has been printed, nothing else is to be done.
    unsafe { libc::_exit(0) }
}

/// An array straight from the system, every page of it touched, so that it neither disturbs the allocator that is measured
/// (the C library's is one of them) nor faults inside a measurement.
pub(crate) struct Table<T: Copy> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its memory as a `Vec` does.
unsafe impl<T: Copy + Send> Send for Table<T> {}

impl<T: Copy> Table<T> {
    /// `len` times `value`.
    pub(crate) fn new(len: usize, value: T) -> Self {
        let start = map(len * size_of::<T>()).expect("memory for an array of the benchmark").cast::<T>();
        for index in 0..len {
            // SAFETY: `index` is inside the mapping.
            let slot = unsafe { start.add(index) };
            // SAFETY: the mapping is writable, aligned to a page, and nothing else refers to it.
            unsafe { slot.write(value) };
        }
        Self { start, len }
    }
}

impl<T: Copy> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` has written all `len` elements.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` has written all `len` elements, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, and nobody refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), (self.len * size_of::<T>()).max(1)) };
    }
}

/// Touches that much memory and gives it back, so that whoever needs fresh memory next gets pages that the host of a virtual
/// machine has already backed. The first touch of others costs several times more, and hits whoever comes first.
pub(crate) fn warm(bytes: usize) {
    if bytes > 0 {
        drop(Table::new(bytes / size_of::<u64>(), 0_u64));
    }
}

/// Maps memory, in huge pages where they are to be had.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping wherever the system likes.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: advice about the mapping just made; a refusal changes nothing.
    unsafe { libc::madvise(start, bytes.max(1), libc::MADV_HUGEPAGE) };
    NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)
}
