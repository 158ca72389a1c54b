//! `LocalHeap` beside arenas that only carve, and `Heap` beside mimalloc's heaps: instructions counted by callgrind, and the memory of work that frees as it goes.
//!
//! The counts are taken as those of the fast paths are. The memory is measured in a process of its own for each arena.

#[path = "../common/counted.rs"]
mod counted;
#[path = "../fastpath/counter.rs"]
mod counter;
mod loops;
#[path = "../common/os.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod os;
mod peers;

use std::process::{Command, ExitCode};

use peers::{ALL, Name, Subject, with_arena};

/// Iterations of each loop before any is counted.
const WARM_UP: usize = 400_000;
/// How often one of a thousand strings is replaced.
const REPLACEMENTS: usize = 300_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run", name] => with_name(name, |name| {
            with_arena!(name, serve());
            Ok(())
        }),
        ["--memory", name] => with_name(name, |name| {
            with_arena!(name, memory());
            Ok(())
        }),
        ["--loop", name, which, times] => with_name(name, |name| {
            let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
            let (which, times) = (number(which)?, number(times)?);
            with_arena!(name, time(which % loops::COUNT, times));
            Ok(())
        }),
        // `cargo bench` says so to all benchmarks; another's options are for that one.
        [] | ["--bench"] => report(),
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

fn with_name(name: &str, act: impl FnOnce(Name) -> Result<(), String>) -> Result<(), String> {
    act(Name::parse(name).ok_or_else(|| format!("no arena is called \"{name}\""))?)
}

/// Runs the loops of one arena for callgrind.
fn serve<S: Subject>() {
    extern "C" fn run<S: Subject>(which: usize, times: usize) {
        (loops::all::<S>()[which].run)(times);
    }
    // A thread earns what it may keep of chunks.
    loops::all::<S>().iter().for_each(|each| (each.run)(WARM_UP));
    counter::serve(run::<S>, &loops::all::<S>().map(|each| each.name));
}

/// Runs one loop, and prints how many nanoseconds of the processor an iteration took.
fn time<S: Subject>(which: usize, times: usize) {
    let each = &loops::all::<S>()[which];
    (each.run)(times / 10);
    let before = os::processor_nanoseconds();
    (each.run)(times);
    println!("{} {:.2} ns", each.name, (os::processor_nanoseconds() - before) as f64 / times as f64);
}

/// Prints what is live after many replacements, and how much more is resident than before.
fn memory<S: Subject>() {
    let before = os::resident_bytes();
    let arena = S::new();
    let live = loops::replace(&arena, REPLACEMENTS);
    println!("{live} {}", os::resident_bytes().saturating_sub(before));
}

fn report() -> Result<(), String> {
    match counter::count(&ALL) {
        Ok(counts) => counter::print(&counts),
        Err(message) => println!("instructions are not counted: {message}"),
    }
    println!("\na thousand strings, one of them replaced {REPLACEMENTS} times");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    for name in ALL {
        let output = Command::new(&program).args(["--memory", name.as_str()]).output();
        let output = output.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (live, resident) = text.trim().split_once(' ').ok_or_else(|| format!("{name}: no figures"))?;
        println!("{:22}{live:>13} live {resident:>13} resident", name.as_str());
    }
    Ok(())
}
