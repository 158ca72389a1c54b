//! The run: every case with every allocator, in rotation, so that whatever drifts hits all alike.

use std::path::Path;
use std::process::ExitCode;

use crate::cases::{self, Case};
use crate::cli::Options;
use crate::outcome::Outcome;
use crate::peers::{ALL, Name};
use crate::progress::Progress;
use crate::{child, json, machine, os, plot, proof, table};

/// Measures, prints, writes.
pub(crate) fn run(options: &Options) -> ExitCode {
    let cases = chosen_cases(options);
    let names = chosen_names(options);
    if options.list {
        list(&cases, &names);
        return ExitCode::SUCCESS;
    }
    let machine = machine::describe();
    println!("{machine}\n");
    let lines = if is_chosen("proof-of-concept", options) && names.contains(&Name::Ours) {
        proof::run(options)
    } else {
        Vec::new()
    };
    let outcomes = measure(&cases, &names, options);
    let json = options.json.as_deref().map(|file| (file, json::write(&machine, options.short, &lines, &outcomes)));
    let svg = options.svg.as_deref().map(|file| (file, plot::draw(&machine, &names, &outcomes)));
    let written = [json, svg].into_iter().flatten().all(|(file, text)| write(file, &text));
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_chosen(case: &str, options: &Options) -> bool {
    options.filters.is_empty() || options.filters.iter().any(|filter| case.contains(filter.as_str()))
}

fn chosen_cases(options: &Options) -> Vec<Case> {
    let mut cases = cases::all(options.short);
    cases.retain(|case| is_chosen(&case.name, options));
    if let Some(rotations) = options.rotations {
        cases.iter_mut().for_each(|case| case.rotations = rotations);
    }
    cases
}

fn chosen_names(options: &Options) -> Vec<Name> {
    let is_chosen = |name: &Name| if options.only.is_empty() { name.is_default() } else { options.only.contains(name) };
    ALL.into_iter().filter(is_chosen).collect()
}

fn list(cases: &[Case], names: &[Name]) {
    println!("proof-of-concept");
    for case in cases {
        println!("{}", case.name);
    }
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    println!("\nallocators: {}", names.join(", "));
}

fn measure(cases: &[Case], names: &[Name], options: &Options) -> Vec<Outcome> {
    if cases.is_empty() {
        return Vec::new();
    }
    table::print_head(names);
    let mut progress = Progress::new(cases.iter().map(|case| case.rotations * entrants(case, names).len()).sum());
    let mut outcomes = Vec::new();
    for case in cases {
        let outcome = measure_case(case, names, options, &mut progress);
        progress.clear();
        table::print_outcome(&outcome, names);
        outcomes.push(outcome);
    }
    table::print_verdict(&outcomes);
    outcomes
}

/// Who takes part in a case.
fn entrants(case: &Case, names: &[Name]) -> Vec<Name> {
    names.iter().copied().filter(|name| name.frees() || case.workload.suits_arena()).collect()
}

/// One process after the other; each rotation begins with another allocator.
fn measure_case(case: &Case, names: &[Name], options: &Options, progress: &mut Progress) -> Outcome {
    let mut outcome = Outcome::new(case.clone());
    let mut entrants = entrants(case, names);
    for _ in 0..case.rotations {
        for &name in &entrants {
            progress.step(&format!("{}, {name}", case.name));
            if !outcome.failures.contains_key(&name) {
                os::warm(case.workload.fresh_bytes());
                outcome.add(name, child::measure(case, name, options.short));
            }
        }
        if !entrants.is_empty() {
            entrants.rotate_left(1);
        }
    }
    outcome
}

fn write(file: &Path, text: &str) -> bool {
    let written = std::fs::write(file, text);
    match &written {
        Ok(()) => println!("wrote {}", file.display()),
        Err(error) => eprintln!("{}: {error}", file.display()),
    }
    written.is_ok()
}
