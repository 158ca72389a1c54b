//! One process, seen from outside.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use family_alloc_programs::child::Figures;
use family_alloc_programs::jobs::Job;

use crate::allocators::Allocator;

/// What is known of a process that has ended well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Processor time of all its threads, user and system, from its start to its end.
    pub(crate) cpu_seconds: f64,
    /// Page faults that needed no disk.
    pub(crate) faults: u64,
    /// What it said of itself.
    pub(crate) told: Figures,
}

/// Runs a job with an allocator.
pub(crate) fn run(allocator: &Allocator, job: &Job, input: &Path) -> Result<Seen, String> {
    let mut command = Command::new(allocator.program);
    command.arg(job.name).arg(input).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut text = String::new();
    let output = child.stdout.as_mut().expect("a pipe");
    output.read_to_string(&mut text).map_err(|error| error.to_string())?;
    // SAFETY: `rusage` is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    let number = libc::pid_t::try_from(child.id()).expect("a process's number");
    // SAFETY: our child, which nobody else waits for; both places live as long as the call.
    let ended = unsafe { libc::wait4(number, &raw mut status, 0, &raw mut usage) };
    if ended != number || status != 0 {
        return Err(format!("ended with status {status}"));
    }
    let told = Figures::parse(&text).ok_or_else(|| format!("printed nonsense: {text}"))?;
    let cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    Ok(Seen { cpu_seconds, faults: usage.ru_minflt.unsigned_abs(), told })
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}
