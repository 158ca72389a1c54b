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
    write_to_stderr(&line.bytes[..=line.len]);
}

/// Ends the process, whatever is on the stack.
pub(crate) fn end() -> ! {
    std::process::abort()
}

#[cfg(unix)]
fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: `write` reads `bytes.len()` bytes from a live slice. Its result does not matter: the process ends either way.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(not(unix))]
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
