//! Everything that was measured, as JSON.

use std::fmt::Write;

use crate::outcome::{ByName, Outcome, Row};
use crate::proof::{Figures, Line};

/// The whole run.
pub(crate) fn write(machine: &str, short: bool, lines: &[Line], outcomes: &[Outcome]) -> String {
    let proof: Vec<String> = lines.iter().map(line).collect();
    let rows: Vec<String> = outcomes.iter().flat_map(Outcome::rows).map(|entry| row(&entry)).collect();
    let failures: Vec<String> = outcomes.iter().flat_map(failures).collect();
    format!(
        "{{\n\"machine\": {},\n\"short\": {short},\n\"proof_of_concept\": [\n{}\n],\n\"rows\": [\n{}\n],\n\"failures\": [\n{}\n]\n}}\n",
        string(machine),
        proof.join(",\n"),
        rows.join(",\n"),
        failures.join(",\n")
    )
}

fn line(line: &Line) -> String {
    let Line { size, count, ours, system } = line;
    format!(
        "{{\"size\": {size}, \"count\": {count}, \"family-alloc\": {}, \"system\": {}}}",
        figures(ours),
        figures(system)
    )
}

fn figures(figures: &Figures) -> String {
    let Figures { allocate, walk, free, bytes } = figures;
    format!("{{\"allocate_ns\": {allocate}, \"walk_ns\": {walk}, \"free_ns\": {free}, \"resident_bytes\": {bytes}}}")
}

fn row(row: &Row) -> String {
    let mut text = format!(
        "{{\"case\": {}, \"figure\": {}, \"unit\": {}, \"medians\": {}, \"quartiles\": {}",
        string(&row.case.name),
        string(&row.label),
        string(row.unit.as_str()),
        medians(&row.figures),
        quartiles(&row.figures)
    );
    if let Some((name, ratio)) = row.best {
        let _ = write!(text, ", \"best_peer\": {}, \"ratio\": {}", string(name.as_str()), number(ratio));
    }
    if let Some(target) = row.target {
        let _ = write!(text, ", \"target\": {target}, \"met\": {}, \"close\": {}", !row.is_short(), row.is_close());
    }
    text + "}"
}

fn medians(figures: &ByName) -> String {
    let fields: Vec<_> = figures
        .iter()
        .map(|(name, figures)| format!("{}: {}", string(name.as_str()), number(figures.median())))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

/// Lower quartile, upper quartile and number of samples.
fn quartiles(figures: &ByName) -> String {
    let fields: Vec<_> = figures
        .iter()
        .map(|(name, figures)| {
            let (lower, upper) = (number(figures.lower_quartile()), number(figures.upper_quartile()));
            format!("{}: [{lower}, {upper}, {}]", string(name.as_str()), figures.len())
        })
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn failures(outcome: &Outcome) -> impl Iterator<Item = String> {
    let case = string(&outcome.case.name);
    outcome.failures.iter().map(move |(name, message)| {
        format!("{{\"case\": {case}, \"allocator\": {}, \"message\": {}}}", string(name.as_str()), string(message))
    })
}

/// JSON has no infinities.
fn number(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { "null".to_owned() }
}

fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => quoted.push(' '),
            character => quoted.push(character),
        }
    }
    quoted + "\""
}
