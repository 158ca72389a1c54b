//! Every misuse × mode × door × size, each in a process of its own that must end with exactly one line and `SIGABRT`.
//!
//! The outcomes are the table in `docs/misuse.md`; `FAMILY_ALLOC_WRITE_DOCS=1` writes it anew. `FAMILY_ALLOC_MISUSE_RUNS=1000`
//! repeats each so often, and `FAMILY_ALLOC_MISUSE_CASE=name` runs only that one. A case runs in a child, which prints what it expects before it does it.

#[path = "../common/mod.rs"]
mod common;

/// Cases are generic over the families of a mode.
macro_rules! case {
    ($name:ident, |$try:ident| $body:block) => {
        pub(crate) fn $name<F: Subject, Other: Subject>($try: Try<F, Other>) $body
    };
}

mod cases;
mod contents;
mod handler;
mod peer;
mod subject;
mod table;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::CASES;
use common::child;
use family_alloc::family;
use subject::{Door, NOT_FOUND, NOTHING, SIGSEGV};

family! {
    struct Plain;
    struct PlainOther;
    struct Watched { checks: Checked }
    struct WatchedOther { checks: Checked }
    struct Guarded { checks: Hardened }
    struct GuardedOther { checks: Hardened }
}

const MODES: [&str; 3] = ["default", "checked", "hardened"];

/// One misuse, for each mode.
struct Case {
    name: &'static str,
    sizes: Sizes,
    /// The doors that it concerns, if not both.
    only: &'static [Door],
    bodies: [fn(Door, usize); MODES.len()],
}

/// The sizes that a case makes sense for.
#[derive(Clone, Copy, PartialEq)]
enum Sizes {
    All,
    /// Served from slabs.
    Slabs,
    /// Above the largest slot.
    Large,
    /// Larger than what is called an interior step in the case.
    AboveAStep,
    /// With slack behind it.
    Slack,
    /// All, in the modes that look at all bits of an address.
    Checked,
}

const MIB: usize = 1 << 20;

impl Sizes {
    fn list(self) -> &'static [usize] {
        match self {
            Self::All | Self::Checked => &[8, 100, 4096, 65_536, MIB, 4 * MIB],
            Self::Slabs => &[8, 100, 4096, 65_536, MIB],
            Self::AboveAStep => &[100, 4096, 65_536, MIB, 4 * MIB],
            Self::Large => &[4 * MIB],
            Self::Slack => &[24, 100, 5000, 700_000],
        }
    }
}

/// One child process: which case, mode, door and size.
#[derive(Clone, Copy)]
struct Run {
    case: usize,
    mode: usize,
    door: Door,
    size: usize,
}

fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for (case, known) in CASES.iter().enumerate() {
        for mode in 0..MODES.len() {
            if known.sizes == Sizes::Checked && mode == 0 {
                continue;
            }
            for door in [Door::Allocator, Door::Global] {
                if known.only.is_empty() || known.only.contains(&door) {
                    runs.extend(known.sizes.list().iter().map(|&size| Run { case, mode, door, size }));
                }
            }
        }
    }
    runs
}

fn in_child(name: &str) {
    child::leave_no_core();
    let run = runs()[name.parse::<usize>().expect("a number")];
    (CASES[run.case].bodies[run.mode])(run.door, run.size);
    println!("\nthe end");
    // Nothing that a case has damaged is looked at again.
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(0) };
}

/// Runs one and says how it ended; `Err` tells what is wrong with that.
fn outcome(test: &str, index: usize, run: Run) -> Result<&'static str, String> {
    let output = child::run(test, &index.to_string());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let expected = out.lines().find_map(|line| line.strip_prefix("expected: ")).unwrap_or("(it did not get so far)");
    let (signal, ended) = (output.status.signal(), out.contains("\nthe end\n"));
    let found = match expected {
        NOTHING if output.status.success() && ended && err.is_empty() => Some("passes"),
        // What follows is undefined.
        NOT_FOUND => Some("not found"),
        // Where the system has no guards, what follows is undefined.
        SIGSEGV if signal == Some(libc::SIGSEGV) || cfg!(feature = "portable") => Some("SIGSEGV"),
        line if signal == Some(libc::SIGABRT) && err == format!("{line}\n") => Some("reported"),
        _ => None,
    };
    let Run { case, mode, door, size } = run;
    found.ok_or_else(|| {
        let (name, mode, status) = (CASES[case].name, MODES[mode], output.status);
        format!("{name}, {mode}, {door:?}, size {size}: {status}\n  expected: {expected}\n  standard error: {err}")
    })
}

#[test]
fn every_misuse_ends_as_the_table_says() {
    const TEST: &str = "every_misuse_ends_as_the_table_says";
    if let Some(name) = child::case() {
        return in_child(&name);
    }
    let repeats = std::env::var("FAMILY_ALLOC_MISUSE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    let only = std::env::var("FAMILY_ALLOC_MISUSE_CASE").ok();
    let wanted = |run: &Run| only.as_ref().is_none_or(|only| CASES[run.case].name == only);
    let (all, next) = (runs(), AtomicUsize::new(0));
    let outcomes = Mutex::new(BTreeMap::<(usize, usize), Vec<(usize, &'static str)>>::new());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&run) = all.get(index) else { break };
                    if !wanted(&run) {
                        continue;
                    }
                    for _ in 0..repeats {
                        match outcome(TEST, index, run) {
                            Ok(found) => outcomes
                                .lock()
                                .expect("no panic")
                                .entry((run.case, run.mode))
                                .or_default()
                                .push((run.size, found)),
                            Err(wrong) => failures.lock().expect("no panic").push(wrong),
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), all.len() * repeats, failures.join("\n"));
    if only.is_none() {
        table::compare_or_write(&outcomes.into_inner().expect("no panic"));
    }
}
