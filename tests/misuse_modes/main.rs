//! Every misuse × mode × door × size, each in a process of its own that must end with exactly one line and `SIGABRT`.
//!
//! The outcomes are the table in `docs/misuse.md`; `FAMILY_ALLOC_WRITE_DOCS=1` writes it anew. `FAMILY_ALLOC_MISUSE_RUNS=1000`
//! repeats each so often in forks of one child, and `FAMILY_ALLOC_MISUSE_CASE=name` runs only that one. A case runs in a child,
//! which prints what it expects before it does it.

#![cfg(all(target_os = "linux", not(miri)))]

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
mod heaps;
mod layouts;
mod peers;
mod pointers;
mod resizes;
mod scopes;
mod stale;
mod subject;
mod table;
mod twice;
mod zygote;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::CASES;
use common::child;
use common::memory::has_guards;
use family_alloc::family;
use subject::{Door, HAS_GUARDS, NOT_FOUND, NOTHING, OR, SIGSEGV, THIS_TIME};

family! {
    struct Plain { slab_bytes: 2 << 20 }
    struct PlainOther { slab_bytes: 2 << 20 }
    struct Watched { checks: Checked, slab_bytes: 2 << 20 }
    struct WatchedOther { checks: Checked, slab_bytes: 2 << 20 }
    struct Guarded { checks: Hardened, slab_bytes: 2 << 20 }
    struct GuardedOther { checks: Hardened, slab_bytes: 2 << 20 }
    struct Spaced { classes: Spaced, slab_bytes: 2 << 20 }
    struct SpacedOther { classes: Spaced, slab_bytes: 2 << 20 }
    struct WatchedSpaced { checks: Checked, classes: Spaced, slab_bytes: 2 << 20 }
    struct WatchedSpacedOther { checks: Checked, classes: Spaced, slab_bytes: 2 << 20 }
    struct GuardedSpaced { checks: Hardened, classes: Spaced, slab_bytes: 2 << 20 }
    struct GuardedSpacedOther { checks: Hardened, classes: Spaced, slab_bytes: 2 << 20 }
}

/// Those of the table, and behind them the same with spaced classes.
const MODES: [&str; 3] = ["default", "checked", "hardened"];
const ALL_MODES: usize = 2 * MODES.len();

/// One misuse, for each mode.
struct Case {
    name: &'static str,
    sizes: Sizes,
    /// The doors that it concerns, if not both.
    only: &'static [Door],
    bodies: [fn(Door, usize); ALL_MODES],
}

/// The sizes that a case makes sense for.
#[derive(Clone, Copy)]
enum Sizes {
    All,
    /// Served from slabs.
    Slabs,
    /// Served from slabs, with spaced classes as well.
    SpacedSlabs,
    /// Above the largest slot.
    Large,
    /// Larger than what is called an interior step in the case.
    AboveAStep,
    /// With slack behind it.
    Slack,
    /// One for each class: its slot.
    Edges,
    /// One cache line, of which a case needs many.
    Line,
}

const MIB: usize = 1 << 20;

/// The slots of all classes.
const EDGES: [usize; 21] = {
    let mut edges = [1; 21];
    let mut class = 1;
    while class < edges.len() {
        edges[class] = 2 * edges[class - 1];
        class += 1;
    }
    edges
};

impl Sizes {
    fn of_mode(self, mode: usize) -> &'static [usize] {
        if mode < MODES.len() { self.natural() } else { self.spaced() }
    }

    /// Few, but some of each kind: 24 bytes are three words, and slots of 1792 bytes lie across the ends of pages.
    fn spaced(self) -> &'static [usize] {
        match self {
            Self::All => &[24, 1792, 81_920, 4 * MIB],
            Self::Slabs => &[24, 1792, 81_920],
            Self::SpacedSlabs => &[24, 56, 1792, 81_920],
            Self::AboveAStep => &[1792, 81_920, 4 * MIB],
            Self::Large => &[MIB / 4 + 4096, 4 * MIB],
            Self::Slack => &[22, 100, 5000, 70_000, 300_001],
            Self::Edges => &[24, 40, 128, 144, 1792, 65_536, 73_728, 262_144],
            Self::Line => &[64],
        }
    }

    fn natural(self) -> &'static [usize] {
        match self {
            Self::All => &[8, 100, 4096, 65_536, MIB, 4 * MIB],
            Self::Slabs => &[8, 100, 4096, 65_536, MIB],
            Self::SpacedSlabs => &[8, 56, 100, 4096, 65_536],
            Self::AboveAStep => &[100, 4096, 65_536, MIB, 4 * MIB],
            Self::Large => &[MIB + 4096, 4 * MIB],
            Self::Slack => &[24, 100, 5000, 700_000, 5_000_000],
            Self::Edges => &EDGES,
            Self::Line => &[64],
        }
    }
}

/// What a mode is called.
fn name_of(mode: usize) -> String {
    let spaced = if mode < MODES.len() { "" } else { " and spaced" };
    format!("{}{spaced}", MODES[mode % MODES.len()])
}

/// Which case, mode, door and size.
#[derive(Clone, Copy)]
struct Run {
    case: usize,
    mode: usize,
    door: Door,
    size: usize,
}

fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    // Addresses of 32 bits have no bits that are always zero.
    let can_be = |name: &str| usize::BITS == 64 || !name.contains("high_bits");
    for (case, known) in CASES.iter().enumerate().filter(|(_, known)| can_be(known.name)) {
        for mode in 0..ALL_MODES {
            for door in [Door::Allocator, Door::Global] {
                if known.only.is_empty() || known.only.contains(&door) {
                    runs.extend(known.sizes.of_mode(mode).iter().map(|&size| Run { case, mode, door, size }));
                }
            }
        }
    }
    runs
}

/// What a child is told: the run's number, how often to repeat it in forks (0: do it), and whether to do without guards.
fn case_of(index: usize, repeats: usize, guards: bool) -> String {
    format!("{index} {repeats} {}", usize::from(guards))
}

fn in_child(case: &str) {
    child::leave_no_core();
    let told: Vec<usize> = case.split(' ').map(|figure| figure.parse().expect("a number")).collect();
    #[cfg(target_os = "linux")]
    if told[2] == 0 {
        common::forbid::guards();
    }
    HAS_GUARDS.store(has_guards(), Ordering::Relaxed);
    let run = runs()[told[0]];
    let body = || (CASES[run.case].bodies[run.mode])(run.door, run.size);
    if told[1] == 0 {
        end_of(body);
    }
    zygote::repeat(told[1], body);
}

/// Does it, and ends the process.
fn end_of(body: impl Fn()) -> ! {
    // One that hangs has failed: `SIGALRM` ends it.
    // SAFETY: no handler is set.
    unsafe { libc::alarm(120) };
    body();
    println!("\nthe end");
    // Nothing that a case has damaged is looked at again.
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(0) }
}

/// What the end of a run says; `Err` tells what is wrong with it.
fn judge(status: ExitStatus, out: &str, err: &str) -> Result<&'static str, String> {
    let expected = out.lines().find_map(|line| line.strip_prefix("expected: ")).unwrap_or("(it did not get so far)");
    let ended = out.contains("\nthe end\n");
    let this_time = expected.strip_prefix(THIS_TIME);
    let found = this_time.unwrap_or(expected).split(OR).find_map(|one| judge_one(one, status, ended, err));
    match found {
        Some(_) if this_time.is_some() => Ok("by chance"),
        Some(found) => Ok(found),
        None => Err(format!("{status}\n  expected: {expected}\n  standard error: {err}")),
    }
}

/// What a run that ended in this way is called, if that was expected.
fn judge_one(expected: &str, status: ExitStatus, ended: bool, err: &str) -> Option<&'static str> {
    let signal = status.signal();
    match expected {
        NOTHING => (status.success() && ended && err.is_empty()).then_some("passes"),
        // What follows is undefined.
        NOT_FOUND => Some("not found"),
        // Where the system has no guards, what follows is undefined.
        SIGSEGV => (signal == Some(libc::SIGSEGV) || cfg!(feature = "portable")).then_some("SIGSEGV"),
        line => (signal == Some(libc::SIGABRT) && err == format!("{line}\n")).then_some("reported"),
    }
}

/// Runs one in a child and says how it ended, then so often in forks of another, which must all end in the same way.
fn outcome(test: &str, index: usize, repeats: usize, guards: bool) -> Result<&'static str, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = child::run(test, &case_of(index, 0, guards));
    let found = judge(output.status, &text(&output.stdout), &text(&output.stderr))?;
    if repeats > 1 {
        let counts = zygote::counts(&child::assert_passed(test, &case_of(index, repeats, guards)));
        if counts != BTreeMap::from([(found.to_owned(), repeats)]) {
            return Err(format!("{found} at first, but of {repeats} forks: {counts:#?}"));
        }
    }
    Ok(found)
}

/// The outcomes of a case in a mode, by size.
type Outcomes = BTreeMap<(usize, usize), Vec<(usize, &'static str)>>;

/// Runs all that are wanted, two at once; fails if one does not end as it should.
fn run_all(test: &str, guards: bool, wanted: impl Fn(&Run) -> bool + Sync) -> Outcomes {
    let repeats = std::env::var("FAMILY_ALLOC_MISUSE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1);
    let (all, next) = (runs(), AtomicUsize::new(0));
    let (outcomes, failures) = (Mutex::new(Outcomes::new()), Mutex::new(Vec::new()));
    let one = |index: usize, Run { case, mode, door, size }: Run| {
        let what = format!("{}, {}, {door:?}, size {size}", CASES[case].name, name_of(mode));
        match outcome(test, index, repeats, guards) {
            Ok(found) => {
                if repeats > 1 {
                    println!("{what}: {found}");
                }
                outcomes.lock().expect("no panic").entry((case, mode)).or_default().push((size, found));
            }
            Err(wrong) => failures.lock().expect("no panic").push(format!("{what}: {wrong}")),
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&run) = all.get(index) else { break };
                    if wanted(&run) {
                        one(index, run);
                    }
                }
            });
        }
    });
    let (outcomes, failures) = (outcomes.into_inner().expect("no panic"), failures.into_inner().expect("no panic"));
    let count: usize = outcomes.values().map(Vec::len).sum();
    println!("{count} runs, each {repeats} times, as they should be; {} not", failures.len());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), count + failures.len(), failures.join("\n"));
    outcomes
}

#[test]
fn every_misuse_ends_as_the_table_says() {
    const TEST: &str = "every_misuse_ends_as_the_table_says";
    if let Some(case) = child::case() {
        return in_child(&case);
    }
    let only = std::env::var("FAMILY_ALLOC_MISUSE_CASE").ok();
    let is_wanted = |run: &Run| run.mode < MODES.len() && only.as_ref().is_none_or(|only| CASES[run.case].name == only);
    let outcomes = run_all(TEST, true, is_wanted);
    if only.is_none() {
        table::compare_or_write(&outcomes, has_guards());
    }
}

/// Linux before 6.13: freed slots are not guarded, so what was written to them is found when they are handed out again.
#[test]
#[cfg(target_os = "linux")]
fn hardened_families_do_without_guards() {
    const TEST: &str = "hardened_families_do_without_guards";
    if let Some(case) = child::case() {
        return in_child(&case);
    }
    run_all(TEST, false, |run| MODES[run.mode % MODES.len()] == "hardened" && run.size >= 64 << 10);
}

#[test]
fn families_with_spaced_classes_find_as_much() {
    const TEST: &str = "families_with_spaced_classes_find_as_much";
    if let Some(case) = child::case() {
        return in_child(&case);
    }
    run_all(TEST, true, |run| run.mode >= MODES.len());
}
