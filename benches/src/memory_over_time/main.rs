//! Memory over time: what stays resident when little is live, beside the peers.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `cli` | the arguments |
//! | `programs` | what is done, and the targets |
//! | `heap` | the allocator as the programs see it, blocks, lists |
//! | `trim` | each allocator's own way to give memory back |
//! | `global` | the global allocator, where it is the measured one |
//! | `moments` | the figures that a process notes and prints |
//! | `child` | one process: its start, its end, what it printed |
//! | `outcome`, `targets`, `report` | figures by allocator, bounds, tables |

mod child;
mod cli;
mod global;
mod heap;
#[path = "../common/machine.rs"]
mod machine;
mod moments;
#[path = "../common/os.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod os;
mod outcome;
#[path = "../common/peers/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other benchmarks need more of it")]
mod peers;
mod programs;
#[path = "../common/pthread.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod pthread;
#[path = "../common/random.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod random;
mod report;
#[path = "../common/subject.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod subject;
mod targets;
mod trim;

use std::process::ExitCode;

use cli::Options;
use outcome::Outcome;
use programs::Program;

fn main() -> ExitCode {
    let told: Vec<String> = std::env::args().skip(1).collect();
    if told.first().is_some_and(|first| first == "--child") {
        return child::serve(&told[1..]);
    }
    match cli::parse(told.into_iter()).and_then(|options| act(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn act(options: &Options) -> Result<(), String> {
    let is_chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|text| name.contains(text));
    let chosen = programs::ALL.iter().filter(|program| !options.left_out && is_chosen(program.name));
    if options.list {
        chosen.for_each(|program| println!("{}", program.name));
        return Ok(());
    }
    let outcomes: Vec<Outcome> = chosen.map(|program| measure(program, options)).collect();
    if outcomes.is_empty() {
        return Ok(());
    }
    println!("\n{}", report::verdict(&outcomes));
    if let Some(file) = &options.write {
        let text = report::markdown(&machine::describe(), &options.words, &outcomes);
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("wrote {}", file.display());
    }
    // A process that fails has found a fault; a target that is missed has not.
    let mut results = outcomes.iter().flat_map(|outcome| &outcome.results);
    if results.any(|(_, result)| result.is_err()) { Err("some processes failed".to_owned()) } else { Ok(()) }
}

/// Runs a program with all allocators at once: memory is not shared, and most of the time is waiting.
fn measure(program: &'static Program, options: &Options) -> Outcome {
    let names = options.names.iter().filter(|name| !program.is_global || global::is_possible(**name));
    let started: Vec<_> = names.map(|&name| (name, child::start_process(program, name, &options.settings))).collect();
    let results = started.into_iter().map(|(name, child)| (name, child.and_then(child::Started::finish))).collect();
    let outcome = Outcome { program, results };
    report::print(&outcome);
    outcome
}
