//! One process: it reads its input, does its job, drops everything and rests. What it prints is one line.
//!
//! Its processor time is counted from outside, from its start to its end: also what the allocator does at
//! the end of the process, and what the system does to take the memory back.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::jobs;

/// How long the process says nothing once everything is dropped, before its memory is looked at.
pub const REST: Duration = Duration::from_millis(1500);

/// How long it then does a little, as a service does that waits for work: a short text every so often.
pub const LIGHT_LOAD: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(10);

/// What a process says of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The checksum of what the job computed.
    pub checksum: u64,
    /// From the first byte of the input that is read to the last thing that is dropped.
    pub wall_seconds: f64,
    /// The most memory that was resident at a time (`VmHWM`), with pages of the program and its libraries.
    pub peak_kib: u64,
    /// Anonymous memory after [`REST`].
    pub end_kib: u64,
    /// Anonymous memory after [`LIGHT_LOAD`] more.
    pub later_kib: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checksum, wall_seconds, peak_kib, end_kib, later_kib } = self;
        write!(f, "{checksum} {wall_seconds} {peak_kib} {end_kib} {later_kib}")
    }
}

impl Figures {
    /// The figures of a line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split_ascii_whitespace();
        let figures = Self {
            checksum: parts.next()?.parse().ok()?,
            wall_seconds: parts.next()?.parse().ok()?,
            peak_kib: parts.next()?.parse().ok()?,
            end_kib: parts.next()?.parse().ok()?,
            later_kib: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(figures)
    }
}

/// `main` of every program: `NAME INPUT` does a job and rests; a third argument leaves the rest out.
pub fn serve() -> ExitCode {
    let mut told = std::env::args().skip(1);
    let (Some(job), Some(input)) = (told.next().and_then(|name| jobs::find(&name)), told.next()) else {
        eprintln!("no job and input were named");
        return ExitCode::FAILURE;
    };
    let (checksum, wall_seconds) = run(job, Path::new(&input));
    let peak_kib = kib("/proc/self/status", "VmHWM:");
    if told.next().is_some() {
        println!("{checksum} {wall_seconds} {peak_kib}");
        return ExitCode::SUCCESS;
    }
    thread::sleep(REST);
    let end_kib = kib("/proc/self/smaps_rollup", "Anonymous:");
    let light = Instant::now();
    while light.elapsed() < LIGHT_LOAD {
        drop(std::hint::black_box(format!("{:?} of light load", light.elapsed())));
        thread::sleep(PAUSE);
    }
    let later_kib = kib("/proc/self/smaps_rollup", "Anonymous:");
    println!("{}", Figures { checksum, wall_seconds, peak_kib, end_kib, later_kib });
    ExitCode::SUCCESS
}

fn run(job: &jobs::Job, path: &Path) -> (u64, f64) {
    let start = Instant::now();
    let input = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let checksum = (job.run)(input);
    (checksum, start.elapsed().as_secs_f64())
}

/// A line of one of the kernel's texts about this process.
fn kib(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}
