//! Instructions of the fast paths, counted by callgrind: no clock, so no noise.
//!
//! The program runs itself once per allocator under `valgrind --tool=callgrind`. There every loop runs twice, the second time
//! with twice the iterations, and callgrind writes down its count at the end of each. The difference is what the iterations
//! cost, whatever came before; the same loop around nothing is taken off.

#[path = "../common/counted.rs"]
mod counted;
mod counter;
mod golden;
mod loops;
#[path = "../common/peers/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other benchmark needs more of it")]
mod peers;
#[path = "../common/pthread.rs"]
#[allow(dead_code, reason = "the other benchmark needs more of it")]
mod pthread;
#[path = "../common/subject.rs"]
#[allow(dead_code, reason = "the other benchmark needs more of it")]
mod subject;

use std::process::ExitCode;

use peers::{ALL, Name, with_subject};
use subject::Subject;

const HELP: &str = "\
Counts the instructions of the fast paths: `cargo bench --bench fastpath -- [OPTIONS]`

  --only NAME,...  only these allocators
  --short          only family-alloc and the peers that inline or are best known
  --plain          lines \"allocator loop instructions\" instead of a table
  --compare FILE   compare to such lines and fail if a count differs";

/// What the user asked for.
#[derive(Default)]
struct Options {
    only: Vec<Name>,
    short: bool,
    plain: bool,
    compare: Option<String>,
    run: Option<Name>,
    /// The user asked for cases of the other benchmark.
    left_out: bool,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(act) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments; those of the other benchmark, which `cargo bench` gives to all benchmarks, mean nothing here.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n{HELP}"));
        match argument.as_str() {
            "--short" => options.short = true,
            "--plain" => options.plain = true,
            "--compare" => options.compare = Some(value()?),
            "--only" => options.only = value()?.split(',').map(named).collect::<Result<_, _>>()?,
            "--run" => options.run = Some(named(&value()?)?),
            "--filter" => options.left_out = !value()?.split(',').any(|text| "fastpath".contains(text.trim())),
            "--list" => options.left_out = true,
            "--json" | "--svg" | "--rotations" | "--step" => drop(value()?),
            "--bench" | "--every-size" | "--whole-gib" => {}
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(options)
}

fn named(text: &str) -> Result<Name, String> {
    Name::parse(text.trim()).ok_or_else(|| format!("no allocator is called \"{text}\""))
}

fn act(options: Options) -> Result<(), String> {
    if let Some(name) = options.run {
        with_subject!(name, serve());
        return Ok(());
    }
    if options.left_out {
        return Ok(());
    }
    let counts = match counter::count(&chosen(&options)) {
        Ok(counts) => counts,
        Err(message) if options.compare.is_some() => return Err(message),
        Err(message) => {
            println!("the instructions of the fast paths are not counted: {message}");
            return Ok(());
        }
    };
    match (&options.compare, options.plain) {
        (Some(file), _) => golden::compare(file, &counts)?,
        (None, true) => print!("{}", golden::text(&counts)),
        (None, false) => counter::print(&counts),
    }
    Ok(())
}

fn chosen(options: &Options) -> Vec<Name> {
    match (options.only.as_slice(), options.short) {
        ([], true) => vec![Name::Ours, Name::RustyAlloc, Name::Mimalloc],
        ([], false) => ALL.to_vec(),
        (only, _) => only.to_vec(),
    }
}

/// Runs the loops of one allocator for callgrind.
fn serve<S: Subject>() {
    extern "C" fn run<S: Subject>(which: usize, times: usize) {
        (loops::all::<S>()[which].run)(times);
    }
    S::start();
    counter::serve(run::<S>, &loops::all::<S>().map(|each| each.name));
}
