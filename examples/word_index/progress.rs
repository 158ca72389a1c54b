//! A line that says how far a run is, for a person who watches; nothing where nobody does.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);

pub(crate) struct Progress {
    label: &'static str,
    total: usize,
    /// `None` where standard error is no terminal.
    last_shown: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(label: &'static str, total: usize) -> Self {
        let last_shown = io::stderr().is_terminal().then(Instant::now);
        Self { label, total, last_shown }
    }

    pub(crate) fn show(&mut self, done: usize) {
        let Some(last_shown) = &mut self.last_shown else {
            return;
        };
        if last_shown.elapsed() < INTERVAL {
            return;
        }
        *last_shown = Instant::now();
        let percent = done * 100 / self.total.max(1);
        write_to_terminal(&format!("{}: {done} of {} files, {percent} %", self.label, self.total));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.last_shown.is_some() {
            write_to_terminal("");
        }
    }
}

/// Replaces the line. A terminal that went away is no reason to stop the work.
fn write_to_terminal(line: &str) {
    const START_OF_LINE_AND_ERASE: &str = "\r\x1b[K";
    let mut terminal = io::stderr().lock();
    let _ = write!(terminal, "{START_OF_LINE_AND_ERASE}{line}").and_then(|()| terminal.flush());
}
