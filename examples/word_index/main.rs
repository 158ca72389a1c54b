//! An inverted index over the words of a directory tree, built twice: with its memory in three
//! families, and over the system allocator.
//!
//! ```text
//! cargo run --release --example word_index -- PATH…
//! ```
//!
//! What each part of the index holds differs in size and in how long it lives, so each part has a
//! family of its own, which can be measured by itself:
//!
//! | family | holds | lives |
//! | --- | --- | --- |
//! | [`Dictionary`] | the words, their table, the names of the documents | with the index |
//! | [`Postings`] | for each word its documents and lines, compressed | with the index |
//! | [`Scratch`] | the text of one document, where each of its words stands | one document |
//!
//! The code of the index knows none of them: it is generic over a [`Memory`](index::Memory).
//!
//! # Why two child processes
//!
//! Peak resident memory belongs to a process and never falls, so two runs in one process would both
//! report the larger figure. Each run is therefore a child process of its own: this program again,
//! with a hidden argument. Linux starts the count (`VmHWM`) afresh with every `exec`, which is not
//! true of `getrusage`'s `ru_maxrss`.
//!
//! # How to check the result
//!
//! The parent compares all counts, a checksum over the index and the answers to the queries, and
//! fails where the two runs differ. A word here is what `grep -w` takes for one, without regard to
//! case: `grep -iow WORD FILE | wc -l` gives the count that a query prints for a file, and
//! `grep -inw WORD FILE` the line.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::{env, io};

use family_alloc::allocator_api2::alloc::Global;
use family_alloc::family;

use crate::corpus::Corpus;
use crate::index::Memory;
use crate::options::{Options, Request};
use crate::report::Report;

mod answers;
mod corpus;
mod index;
mod options;
mod postings;
mod progress;
mod report;
mod resident;
mod run;
mod words;

family! {
    /// The words, their table and the names of the documents.
    pub(crate) struct Dictionary;
    /// The compressed postings of every word.
    pub(crate) struct Postings;
    /// What is needed for one document or one query only.
    pub(crate) struct Scratch;
}

/// Each part of the index in a family of its own.
struct Families;

impl Memory for Families {
    type Dictionary = Dictionary;
    type Postings = Postings;
    type Scratch = Scratch;
}

/// Everything in the heap that Rust programs use anyway.
struct System;

impl Memory for System {
    type Dictionary = Global;
    type Postings = Global;
    type Scratch = Global;
}

const FAILURE: u8 = 1;
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let outcome = match options::parse(&arguments) {
        Ok(Request::Help) => print(options::USAGE),
        Ok(Request::Compare(options)) => compare(&options),
        Ok(Request::Run(options, side)) => run_one(&options, &side),
        Err(message) => {
            eprintln!("word_index: {message}\nTry --help.");
            return ExitCode::from(USAGE_ERROR);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nothing where a child has said it already.
            if !message.is_empty() {
                eprintln!("word_index: {message}");
            }
            ExitCode::from(FAILURE)
        }
    }
}

/// Runs both sides in child processes, prints what they found, and fails where they differ.
fn compare(options: &Options) -> Result<(), String> {
    corpus::check_roots(&options.roots)?;
    Corpus::find(&options.roots).warm_up();
    let families = child(options, "families")?;
    let system = child(options, "system")?;
    for warning in families.warnings.lines() {
        eprintln!("word_index: {warning}");
    }
    let roots: Vec<_> = options.roots.iter().map(|root| corpus::printable(root)).collect();
    print(&format!(
        "word_index of {}\n\n{}\n{}{}\n",
        roots.join(", "),
        report::side_by_side(&families, &system),
        families.answers,
        families.tables
    ))?;
    let differences = report::differences(&families, &system);
    if !differences.is_empty() {
        return Err(format!("the two runs differ in {}", differences.join(", ")));
    }
    print("The two runs agree in every count, in the checksum and in the answers.\n")
}

/// Runs one side in a process of its own and reads its report. An empty error: the child has said what is wrong.
fn child(options: &Options, side: &str) -> Result<Report, String> {
    let program = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let output = Command::new(program)
        .args(options::arguments_of_child(options, side))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("the run over {side} did not start: {error}"))?;
    if output.status.code() == Some(FAILURE.into()) {
        return Err(String::new());
    }
    if !output.status.success() {
        return Err(format!("the run over {side} failed: {}", output.status));
    }
    String::from_utf8(output.stdout)
        .ok()
        .and_then(|text| Report::decode(&text))
        .ok_or_else(|| format!("the run over {side} gave no readable report"))
}

/// The child's part: one run, its report to standard output.
fn run_one(options: &Options, side: &str) -> Result<(), String> {
    let report = match side {
        "families" => run::run::<Families>(options)?,
        "system" => run::run::<System>(options)?,
        _ => return Err(format!("no such side: {side}")),
    };
    run::check_all_freed()?;
    print(&report.encode())
}

/// Prints, and takes a reader that has seen enough (`| head`) for no failure.
fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// The directory that is indexed when none is named.
fn default_root() -> PathBuf {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    if sources.is_dir() { sources } else { PathBuf::from(".") }
}
