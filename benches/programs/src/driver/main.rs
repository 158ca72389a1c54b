//! Runs every job with every allocator and prints what it cost.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `cli` | the arguments |
//! | `allocators` | the programs and the names of their allocators |
//! | `process` | one process, seen from outside |
//! | `outcome` | the figures of a job by allocator: medians, ratios |
//! | `report` | tables, on the terminal and in Markdown |

mod allocators;
mod cli;
#[path = "../../../src/common/machine.rs"]
mod machine;
#[path = "../../../src/common/os.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod os;
mod outcome;
mod process;
mod report;

/// What `machine` asks of the peers.
mod peers {
    pub(crate) use crate::allocators::mimalloc_version;
}

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use allocators::Allocator;
use cli::Options;
use family_alloc_programs::jobs::{self, Job};
use outcome::Outcome;

/// What is touched before a job's first process, whose peak is not known.
const WARM_BYTES: usize = 512 << 20;

fn main() -> ExitCode {
    match cli::parse(std::env::args().skip(1)).and_then(|options| act(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn act(options: &Options) -> Result<(), String> {
    let is_chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|text| name.contains(text));
    let chosen: Vec<&Job> = jobs::ALL.iter().filter(|job| is_chosen(job.name)).collect();
    if options.list {
        chosen.iter().for_each(|job| println!("{}: {}", job.name, job.what));
        return Ok(());
    }
    if chosen.is_empty() {
        return Err(format!("no job is called {:?}", options.only));
    }
    let (directory, before) = (Directory::new()?, load());
    let outcomes = chosen.iter().map(|job| measure(job, options, &directory)).collect::<Result<Vec<_>, _>>()?;
    println!("{}", report::means(&outcomes));
    if let Some(file) = &options.write {
        let text = report::markdown(&machine::describe(), [&before, &load()], options, &outcomes);
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("wrote {}", file.display());
    }
    Ok(())
}

/// How many threads wanted to run in the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Runs a job with all allocators in turn: A B C, B C A, C A B, …
fn measure(job: &'static Job, options: &Options, directory: &Directory) -> Result<Outcome, String> {
    let input = directory.0.join("input");
    std::fs::write(&input, (job.prepare)(options.scale)).map_err(|error| format!("{}: {error}", input.display()))?;
    let mut outcome = Outcome::new(job, &options.allocators);
    let count = options.allocators.len();
    for rotation in 0..options.rotations {
        for place in 0..count {
            let allocator: &Allocator = options.allocators[(place + rotation) % count];
            os::warm(outcome.most_bytes().unwrap_or(WARM_BYTES));
            let seen = process::run(allocator, job, &input);
            outcome.add(allocator, seen.map_err(|error| format!("{} with {}: {error}", job.name, allocator.name))?)?;
        }
    }
    println!("{}", report::table(&outcome));
    Ok(outcome)
}

/// A directory of this process that goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, String> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What can't be removed stays in `target`, which is what that is for.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
