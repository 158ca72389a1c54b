//! The end of the process on misuse: one line on standard error, written without allocating, then abort.

use core::fmt::{self, Write};

/// Room for one line; what does not fit is cut.
const LINE_BYTES: usize = 400;

struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_BYTES - 1 - self.len;
        let taken = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.len..self.len + taken.len()].copy_from_slice(taken);
        self.len += taken.len();
        Ok(())
    }
}

/// Writes the message as one line to standard error. Allocates nothing, unwinds nothing.
#[cold]
#[inline(never)]
pub(crate) fn say(message: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
    // Writing into `Line` cannot fail, and nothing better could be done here if it did.
    let _ = line.write_fmt(message);
    line.bytes[line.len] = b'\n';
    stay_alive();
    write_to_stderr(&line.bytes[..=line.len]);
}

/// Keeps a thread that was cancelled from ending before the process does: what is called from here
/// on may be a point where it would.
#[cfg(all(
    any(
        target_os = "linux",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly",
        target_os = "illumos",
        target_os = "solaris"
    ),
    not(miri)
))]
fn stay_alive() {
    use core::ffi::c_int;

    /// `PTHREAD_CANCEL_DISABLE`.
    const DISABLE: c_int = if cfg!(target_vendor = "apple") { 0 } else { 1 };
    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
    }
    let mut old = 0;
    // SAFETY: the C library's function: writes one number to a live one.
    unsafe { pthread_setcancelstate(DISABLE, &raw mut old) };
}

/// Elsewhere no thread can be cancelled, or it is not known how to prevent it.
#[cfg(not(all(
    any(
        target_os = "linux",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly",
        target_os = "illumos",
        target_os = "solaris"
    ),
    not(miri)
)))]
fn stay_alive() {}

/// Ends the process, whatever is on the stack.
#[cfg(any(feature = "std", test))]
pub(crate) fn end() -> ! {
    std::process::abort()
}

#[cfg(all(unix, not(any(feature = "std", test))))]
pub(crate) fn end() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}

/// Where nobody knows how to end the program its panic handler is asked. It does not return, and by this function's ABI nothing
/// unwinds out of here.
#[cfg(not(any(unix, feature = "std", test)))]
pub(crate) extern "C" fn end() -> ! {
    panic!("family_alloc: the state of memory is not what it should be")
}

/// Ends the process after a message was said.
#[cfg(any(unix, feature = "std", test))]
pub(crate) fn end_after(_: fmt::Arguments<'_>) -> ! {
    end()
}

/// Ends the program with the message that nobody could say: its panic handler gets it.
#[cfg(not(any(unix, feature = "std", test)))]
#[allow(improper_ctypes_definitions, reason = "no foreign code calls it: nothing unwinds out of it")]
pub(crate) extern "C" fn end_after(message: fmt::Arguments<'_>) -> ! {
    panic!("{message}")
}

/// By the system call, because the C library's `write` ends a thread that was cancelled.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: the call reads `bytes.len()` bytes from a live slice. Its result does not matter: the
    // process ends either way.
    unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, bytes.as_ptr(), bytes.len()) };
}

#[cfg(all(unix, not(all(any(target_os = "linux", target_os = "android"), not(miri)))))]
fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: `write` reads `bytes.len()` bytes from a live slice. Its result does not matter: the process ends either way.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// By the system call: `std` takes a lock.
#[cfg(all(windows, feature = "std", not(miri)))]
fn write_to_stderr(bytes: &[u8]) {
    use windows_sys::Win32::Storage::FileSystem::WriteFile;
    use windows_sys::Win32::System::Console::{GetStdHandle, STD_ERROR_HANDLE};

    let mut written = 0;
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    // SAFETY: no preconditions.
    let handle = unsafe { GetStdHandle(STD_ERROR_HANDLE) };
    // SAFETY: reads that many bytes of a live slice, and writes one number to a live one. Without such a handle nothing is written.
    unsafe { WriteFile(handle, bytes.as_ptr(), length, &raw mut written, core::ptr::null_mut()) };
}

/// There is no standard error: [`end_after`] has the message.
#[cfg(not(any(unix, feature = "std", test)))]
fn write_to_stderr(_: &[u8]) {}

#[cfg(all(not(any(unix, all(windows, feature = "std", not(miri)))), any(feature = "std", test)))]
fn write_to_stderr(bytes: &[u8]) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_cut_not_overrun() {
        let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
        for _ in 0..LINE_BYTES {
            line.write_str("0123456789").unwrap();
        }
        assert_eq!(line.len, LINE_BYTES - 1);
        assert_eq!(&line.bytes[..10], b"0123456789");
    }
}
