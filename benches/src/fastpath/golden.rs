//! Counts as lines of text, to be kept in a file and compared.

use std::fs;

use crate::counter::Counts;

/// A count may differ by this much: the rare cold step falls into one run or the other.
const TOLERANCE: f64 = 0.5;
/// Or by this part of it: what reads the clock does not always take the same way through it.
const TOLERANCE_PART: f64 = 0.03;

/// One line per allocator and loop.
pub(crate) fn text(all: &[Counts]) -> String {
    let lines = all
        .iter()
        .flat_map(|counts| counts.loops.iter().map(|(name, count)| format!("{} {name} {count:.1}\n", counts.name)));
    lines.collect()
}

/// Compares to such lines, printing what differs; true if nothing does.
pub(crate) fn compare(file: &str, all: &[Counts]) -> Result<(), String> {
    let golden = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let mut differences = String::new();
    for line in golden.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if let Some(difference) = difference(line, all) {
            differences += &format!("{difference}\n");
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// What is wrong with a golden line, if its allocator was counted.
fn difference(line: &str, all: &[Counts]) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [allocator, name, golden] = fields[..] else { return Some(format!("not a golden line: {line}")) };
    let counts = all.iter().find(|counts| counts.name.as_str() == allocator)?;
    let counted = counts.loops.iter().find(|(other, _)| other == name).map(|&(_, count)| count);
    match (counted, golden.parse::<f64>()) {
        (Some(counted), Ok(golden)) if (counted - golden).abs() <= TOLERANCE.max(golden * TOLERANCE_PART) => None,
        (Some(counted), _) => Some(format!("{allocator} {name}: {counted:.1} instructions, golden {golden}")),
        (None, _) => Some(format!("{allocator} {name}: no such loop")),
    }
}
