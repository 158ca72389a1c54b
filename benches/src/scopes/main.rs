//! What scopes cost: instructions of their calls, counted by callgrind, and the processor time of a service that answers each request
//! in a scope, or in a heap of its own, beside the same service without scopes, with a plain family and with the system's allocator.
//!
//! The counts are taken as those of the fast paths are. The service runs in a process of its own for each way, and the ways take
//! turns; a ratio is one of two processes of the same turn.

#[path = "../common/counted.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod counted;
#[path = "../fastpath/counter.rs"]
mod counter;
#[path = "../fastpath/golden.rs"]
mod golden;
mod loops;
#[path = "../common/os.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod os;
mod peers;
mod service;
mod switch;

use std::process::ExitCode;

use peers::{ALL, Name};

const HELP: &str = "\
What scopes cost: `cargo bench --bench scopes -- [OPTIONS]`

  --rotations N    turns of the service, each way once in each
  --plain          only the instructions, as lines \"way loop instructions\"
  --compare FILE   only the instructions, compared to such lines; fails if a count differs";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).filter(|&word| word != "--bench").collect::<Vec<_>>()[..] {
        ["--run", name] => named(name).map(serve),
        ["--serve", requests] => number(requests).map(service::serve),
        ["--compare", file] => compare(file),
        ["--plain"] => counter::count(&ALL).map(|counts| print!("{}", golden::text(&counts))),
        ["--rotations", turns] => number(turns).and_then(report),
        ["--help"] => Err(HELP.to_owned()),
        [] => report(service::TURNS),
        // Options of other benchmarks, which `cargo bench` gives to all.
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// How often it is counted, where a count differs.
const TRIES: usize = 4;

/// Compares to a file's lines. Families are looked after by the clock, some ten thousand instructions at once, which fall into any of
/// the runs: so what differs must do so each time.
fn compare(file: &str) -> Result<(), String> {
    let mut differences: Option<Vec<String>> = None;
    for _ in 0..TRIES {
        let Err(message) = counter::count(&ALL).and_then(|counts| golden::compare(file, &counts)) else {
            return Ok(());
        };
        let row = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let now: Vec<String> = message.lines().map(str::to_owned).collect();
        let is_there = |line: &String| now.iter().any(|other| row(other) == row(line));
        let left =
            differences.take().map_or_else(|| now.clone(), |before| before.into_iter().filter(is_there).collect());
        if left.is_empty() {
            return Ok(());
        }
        differences = Some(left);
    }
    Err(differences.unwrap_or_default().join("\n"))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|error| format!("{text}: {error}\n\n{HELP}"))
}

fn named(text: &str) -> Result<Name, String> {
    Name::parse(text).ok_or_else(|| format!("no way is called \"{text}\""))
}

/// Runs the loops of one way for callgrind.
fn serve(name: Name) {
    extern "C" fn run<const WAY: usize>(which: usize, times: usize) {
        loops::run(ALL[WAY], which, times);
    }
    let run = [run::<0>, run::<1>, run::<2>, run::<3>][name as usize];
    // A thread earns its caches before anything is counted.
    (0..loops::COUNT).for_each(|which| run(which, counter::ITERATIONS));
    counter::serve(run, &loops::NAMES);
}

fn report(turns: usize) -> Result<(), String> {
    match counter::count(&ALL) {
        Ok(counts) => counter::print(&counts),
        Err(message) => println!("instructions are not counted: {message}"),
    }
    println!();
    service::report(turns)
}
