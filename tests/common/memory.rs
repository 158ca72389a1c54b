//! Readings of this process's memory, taken without allocating, so that they do not change what they measure.

#[cfg(target_os = "linux")]
use std::ffi::CStr;

/// Bytes of memory of this process, from `/proc/self/smaps_rollup`, or as Windows counts them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    /// All pages present.
    pub(crate) all: usize,
    /// Pages that this process has written, or committed.
    pub(crate) private_dirty: usize,
}

/// Reads the memory that is present now.
#[cfg(target_os = "linux")]
pub(crate) fn resident() -> Resident {
    let mut buffer = [0; 4096];
    let text = read_file(c"/proc/self/smaps_rollup", &mut buffer);
    Resident { all: kibibytes(text, b"Rss:"), private_dirty: kibibytes(text, b"Private_Dirty:") }
}

/// Bytes of memory present now.
#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes() -> usize {
    resident().all
}

/// Bytes of address space mapped now.
#[cfg(target_os = "linux")]
pub(crate) fn mapped_bytes() -> usize {
    let mut buffer = [0; 4096];
    kibibytes(read_file(c"/proc/self/status", &mut buffer), b"VmSize:")
}

/// The same on Windows.
#[cfg(windows)]
pub(crate) fn resident() -> Resident {
    let counters = counters();
    Resident { all: counters.WorkingSetSize, private_dirty: counters.PagefileUsage }
}

/// Bytes of memory present now.
#[cfg(windows)]
pub(crate) fn resident_bytes() -> usize {
    resident().all
}

#[cfg(windows)]
fn counters() -> windows_sys::Win32::System::ProcessStatus::PROCESS_MEMORY_COUNTERS {
    use windows_sys::Win32::System::ProcessStatus::K32GetProcessMemoryInfo;
    use windows_sys::Win32::System::Threading::GetCurrentProcess;

    let mut counters = windows_sys::Win32::System::ProcessStatus::PROCESS_MEMORY_COUNTERS::default();
    let length = u32::try_from(size_of_val(&counters)).expect("a few bytes");
    // SAFETY: no preconditions.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: writes one record of that length to a live one.
    assert_ne!(unsafe { K32GetProcessMemoryInfo(process, &raw mut counters, length) }, 0);
    counters
}

/// Bytes that this process has committed now, without what is mapped from files.
#[cfg(windows)]
pub(crate) fn committed_bytes() -> usize {
    use windows_sys::Win32::System::Memory::MEM_COMMIT;

    private_bytes(|state| state == MEM_COMMIT)
}

/// Bytes of address space that it has reserved or committed now, without what is mapped from files.
#[cfg(windows)]
pub(crate) fn mapped_bytes() -> usize {
    private_bytes(|_| true)
}

/// As the system says of each page.
#[cfg(windows)]
fn private_bytes(counts: impl Fn(u32) -> bool) -> usize {
    use windows_sys::Win32::System::Memory::{MEM_PRIVATE, MEMORY_BASIC_INFORMATION, VirtualQuery};

    let (mut at, mut sum) = (0_usize, 0);
    loop {
        let mut pages = MEMORY_BASIC_INFORMATION::default();
        let place = std::ptr::without_provenance(at);
        // SAFETY: writes one record of that length to a live one; the address is only looked up.
        if unsafe { VirtualQuery(place, &raw mut pages, size_of_val(&pages)) } == 0 {
            return sum;
        }
        if pages.Type == MEM_PRIVATE && counts(pages.State) {
            sum += pages.RegionSize;
        }
        at = pages.BaseAddress.addr() + pages.RegionSize;
    }
}

pub(crate) fn page_bytes() -> usize {
    #[cfg(unix)]
    // SAFETY: `sysconf` has no preconditions.
    let bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page has a size");
    // Of Windows where it runs on these machines, and made up elsewhere.
    #[cfg(not(unix))]
    let bytes = 4096;
    bytes
}

/// Whether the system has guards: pages that may not be touched and cost no mapping.
#[cfg(any(not(target_os = "linux"), feature = "portable"))]
pub(crate) fn has_guards() -> bool {
    cfg!(all(windows, not(feature = "portable")))
}

/// As above.
#[cfg(all(target_os = "linux", not(feature = "portable")))]
pub(crate) fn has_guards() -> bool {
    const INSTALL: libc::c_int = 102;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), page_bytes(), access, kind, -1, 0) };
    // SAFETY: a mapping of that length, if there is one, which nobody uses.
    let guarded = unsafe { libc::madvise(page, page_bytes(), INSTALL) } == 0;
    // SAFETY: as above.
    unsafe { libc::munmap(page, page_bytes()) };
    guarded
}

/// Page faults of the calling thread so far that needed no input.
#[cfg(target_os = "linux")]
pub(crate) fn minor_faults() -> usize {
    // SAFETY: zero is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `getrusage` writes one `rusage` to a live one.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usize::try_from(usage.ru_minflt).expect("a count")
}

#[cfg(target_os = "linux")]
fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: a path that ends with a zero byte.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    assert!(file >= 0, "cannot open {path:?}");
    // SAFETY: `read` writes at most `buffer.len()` bytes to a live slice.
    let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
    // SAFETY: opened above.
    unsafe { libc::close(file) };
    &buffer[..usize::try_from(length).expect("the file can be read")]
}

#[cfg(target_os = "linux")]
fn kibibytes(text: &[u8], name: &[u8]) -> usize {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name));
    number(line.expect("the kernel reports this figure")) << 10
}

/// The first number in a text.
#[cfg(target_os = "linux")]
fn number(text: &[u8]) -> usize {
    let digits = text.iter().skip_while(|byte| !byte.is_ascii_digit()).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
