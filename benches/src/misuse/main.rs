//! What the peers do when they are misused: the cases of `docs/misuse.md`, each in processes of its own.
//!
//! Nothing is measured. What is seen stands in `docs/misuse-peers.txt`, from which the tests of the crate make that page, so
//! that they need not build the peers.

mod cases;
mod heap;
#[path = "../common/peers/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other benchmarks need more of it")]
mod peers;
#[path = "../common/pthread.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod pthread;
#[path = "../common/subject.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod subject;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Output};

use cases::{CASES, Case};
use peers::Name;

const HELP: &str = "\
Misuses the allocators: `cargo bench --bench misuse -- [OPTIONS]`

  --misuse TEXT  only cases whose name contains the text
  --only NAME,…  only these allocators
  --runs N       processes per case, allocator and size (3)
  --write FILE   write what is seen, instead of printing it
  --words        print what the allocators say as well";

/// Those whose behaviour stands in the page.
const SHOWN: [Name; 5] = [Name::Ours, Name::System, Name::Jemalloc, Name::Mimalloc, Name::RustyAlloc];

/// After so many seconds a process hangs.
const SECONDS: u32 = 10;

/// What the user asked for.
struct Options {
    only: Vec<Name>,
    misuse: String,
    runs: usize,
    write: Option<String>,
    words: bool,
    /// The user asked for the other benchmarks.
    left_out: bool,
}

fn main() -> ExitCode {
    let told: Vec<String> = std::env::args().skip(1).collect();
    if told.first().is_some_and(|first| first == "--child") {
        return serve(&told[1..]);
    }
    match parse(told.into_iter()).and_then(|options| act(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments; those of the other benchmarks, which `cargo bench` gives to all, mean that this one is not wanted.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options =
        Options { only: SHOWN.to_vec(), misuse: String::new(), runs: 3, write: None, words: false, left_out: false };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n{HELP}"));
        match argument.as_str() {
            "--misuse" => options.misuse = value()?,
            "--only" => options.only = value()?.split(',').map(named).collect::<Result<_, _>>()?,
            "--runs" => options.runs = value()?.parse().map_err(|_| HELP.to_owned())?,
            "--write" => options.write = Some(value()?),
            "--words" => options.words = true,
            "--filter" | "--json" | "--svg" | "--rotations" | "--step" | "--compare" => {
                options.left_out = true;
                value()?;
            }
            "--short" | "--list" | "--every-size" | "--whole-gib" | "--plain" => options.left_out = true,
            "--bench" => {}
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(options)
}

fn named(text: &str) -> Result<Name, String> {
    let name = Name::parse(text.trim()).filter(|name| name.frees());
    name.ok_or_else(|| format!("no allocator that frees is called \"{text}\""))
}

/// Misuses an allocator in this process, which is not expected to survive it.
fn serve(told: &[String]) -> ExitCode {
    let [case, name, size] = told else { return ExitCode::FAILURE };
    let (Some(case), Some(name), Ok(size)) = (cases::find(case), Name::parse(name), size.parse()) else {
        return ExitCode::FAILURE;
    };
    if name == Name::Rpmalloc {
        pthread::use_rpmalloc();
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads one `rlimit`; a process that is going to abort leaves no core file then.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    // SAFETY: no handler is set.
    unsafe { libc::alarm(SECONDS) };
    case.run(name, size);
    ExitCode::FAILURE
}

fn run(case: &Case, name: Name, size: usize) -> Result<Output, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let arguments = ["--child", case.name, name.as_str(), &size.to_string()];
    // One arena for glibc, as in the tests of the crate.
    let mut command = Command::new(program);
    command.args(arguments).env("MALLOC_ARENA_MAX", "1").env("RUST_BACKTRACE", "0");
    command.output().map_err(|error| error.to_string())
}

/// How a process ended, in the words of the page.
fn outcome(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let later = if out.contains("misused") { " later" } else { "" };
    match output.status.signal() {
        Some(libc::SIGABRT) if !output.stderr.is_empty() => format!("reported{later}"),
        Some(libc::SIGALRM) => "hangs".to_owned(),
        Some(libc::SIGABRT) => format!("SIGABRT{later}"),
        Some(libc::SIGSEGV) => format!("SIGSEGV{later}"),
        Some(libc::SIGBUS) => format!("SIGBUS{later}"),
        Some(libc::SIGILL | libc::SIGTRAP) => format!("trap{later}"),
        Some(signal) => format!("signal {signal}{later}"),
        None if !output.status.success() => format!("exit {}{later}", output.status.code().unwrap_or(-1)),
        None if out.contains("overlap") => "overlap".to_owned(),
        None if !output.stderr.is_empty() => "told, goes on".to_owned(),
        None if out.contains("went on") => "not found".to_owned(),
        None => out.trim().to_owned(),
    }
}

/// A line `case allocator size outcome, outcome …` for each that was wanted, all outcomes that were seen.
fn lines(options: &Options) -> Result<String, String> {
    let mut lines = String::new();
    for case in CASES.iter().filter(|case| case.name.contains(&options.misuse)) {
        for &name in &options.only {
            if case.name == "global_vs_family_mixup" && name == Name::System {
                continue;
            }
            for &size in case.sizes {
                let mut seen = BTreeSet::new();
                for _ in 0..options.runs {
                    let output = run(case, name, size)?;
                    seen.insert(outcome(&output));
                    if options.words && !output.stderr.is_empty() {
                        eprintln!("{} {name} {size}: {}", case.name, String::from_utf8_lossy(&output.stderr).trim());
                    }
                }
                let seen = seen.into_iter().collect::<Vec<_>>().join("; ");
                let _ = writeln!(lines, "{} {name} {size} {seen}", case.name);
            }
        }
    }
    Ok(lines)
}

/// The version of a package that the benchmarks are built with.
fn version(package: &str) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let name = format!("name = \"{package}\"\nversion = \"");
    let rest = lock.split_once(&name).map_or("", |(_, rest)| rest);
    format!("{package} {}", rest.split_once('"').map_or("?", |(version, _)| version))
}

fn glibc_version() -> String {
    // SAFETY: a function without arguments that returns a constant.
    let version = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: a text that ends with a zero byte and is never changed.
    unsafe { std::ffi::CStr::from_ptr(version) }.to_string_lossy().into_owned()
}

fn act(options: &Options) -> Result<(), String> {
    if options.left_out {
        return Ok(());
    }
    let lines = lines(options)?;
    let Some(file) = &options.write else {
        print!("{lines}");
        return Ok(());
    };
    let text = format!(
        "# What allocators do when they are misused: case, allocator, size, all that was seen in {} processes each.\n\
         # glibc {}, {}, mimalloc {} ({}), {}.\n\
         # cargo bench -p family-alloc-benches --bench misuse -- --runs {} --write \"$PWD/docs/misuse-peers.txt\"\n{lines}",
        options.runs,
        glibc_version(),
        version("tikv-jemallocator"),
        peers::mimalloc_version(),
        version("mimalloc"),
        version("rusty_alloc-api"),
        options.runs,
    );
    std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}
