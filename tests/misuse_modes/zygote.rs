//! The long form: a process that is as new as one that was just started forks once for each repetition, which costs a tenth of
//! starting a program. It has used no family and started no thread but the harness's; both begin in the forks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::{end_of, judge};

/// Both ends of a pipe: what is written to the second is read from the first.
fn pipe() -> [File; 2] {
    let mut ends = [0; 2];
    // SAFETY: writes two numbers to live ones.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "there are files left to open");
    // SAFETY: opened just now, and nobody else's.
    ends.map(|end| unsafe { File::from_raw_fd(end) })
}

/// How one fork ended, and what it printed.
fn fork(body: impl Fn()) -> (ExitStatus, String, String) {
    let (out, err) = (pipe(), pipe());
    // SAFETY: the only other thread is the harness's, which waits for this one and leaves nothing half done.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "the process can be forked");
    if child == 0 {
        for (pipe, file) in [(&out[1], libc::STDOUT_FILENO), (&err[1], libc::STDERR_FILENO)] {
            // SAFETY: both are open.
            assert_eq!(unsafe { libc::dup2(pipe.as_raw_fd(), file) }, file);
        }
        end_of(body);
    }
    let mut texts = [String::new(), String::new()];
    for (text, [mut here, there]) in texts.iter_mut().zip([out, err]) {
        drop(there);
        here.read_to_string(text).expect("a pipe can be read");
    }
    let mut status = 0;
    // SAFETY: writes one status to a live one.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    let [out, err] = texts;
    (ExitStatus::from_raw(status), out, err)
}

/// Runs `body` in `repeats` forks and prints how often each outcome was seen, for [`counts`].
pub(crate) fn repeat(repeats: usize, body: impl Fn()) {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert!(threads <= 2, "a fork has only the thread that forks");
    std::io::stdout().flush().expect("it can be printed");
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..repeats {
        let (status, out, err) = fork(&body);
        let outcome = judge(status, &out, &err).map_or_else(|wrong| format!("wrong: {wrong:?}"), str::to_owned);
        *seen.entry(outcome).or_default() += 1;
    }
    println!();
    seen.iter().for_each(|(outcome, count)| println!("seen {count} times: {outcome}"));
}

/// What [`repeat`] printed.
pub(crate) fn counts(out: &str) -> BTreeMap<String, usize> {
    let lines = out.lines().filter_map(|line| line.strip_prefix("seen ")?.split_once(" times: "));
    lines.map(|(count, outcome)| (outcome.to_owned(), count.parse().expect("a number"))).collect()
}
