//! One line on the terminal that says how far it is; nothing where nobody looks.

use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

/// The line.
pub(crate) struct Progress {
    shown: bool,
    done: usize,
    total: usize,
    start: Instant,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self { shown: stderr().is_terminal(), done: 0, total, start: Instant::now() }
    }

    /// Says what is done next.
    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        if self.shown {
            let seconds = self.start.elapsed().as_secs();
            let left = (self.total - self.done.min(self.total)) as u64 * seconds / self.done as u64;
            eprint!("\r\x1b[K[{}/{}] {seconds} s, {left} s to go: {what}", self.done, self.total);
            let _ = stderr().flush();
        }
    }

    /// Makes room for something else on the line.
    pub(crate) fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
            let _ = stderr().flush();
        }
    }
}
