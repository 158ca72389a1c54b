//! Regular expressions, compiled and matched.

use regex::{Captures, Regex, RegexSet};

use super::{Job, part, text};
use crate::input;
use crate::random::Random;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "regex",
    what: "regex: 700 patterns compiled, all of them held, matched and replaced in 200 KiB of text",
    prepare,
    run,
};

/// What stands between the patterns and the text.
const SEPARATOR: char = '\0';

fn prepare(percent: usize) -> Vec<u8> {
    let words = input::words();
    let mut random = Random::new(4);
    let patterns: Vec<String> = (0..part(700, percent)).map(|number| pattern(&mut random, &words, number)).collect();
    let text: String = input::documents().concat().chars().take(200 << 10).collect();
    format!("{}{SEPARATOR}{text}", patterns.join("\n")).into_bytes()
}

/// Patterns as they are written for logs, tokens and searches.
fn pattern(random: &mut Random, words: &[String], number: usize) -> String {
    let word = |random: &mut Random| words[random.below(words.len())].clone();
    match number % 6 {
        0 => format!(r"(?i)\b(?:{})\b", (0..12).map(|_| word(random)).collect::<Vec<_>>().join("|")),
        1 => format!(r"(?P<key>\w+)\s*[:=]\s*(?P<value>{}|\d+(?:\.\d+)?)", word(random)),
        2 => format!(r"(\d{{1,{}}})\s+(?:ns|MiB|KiB|{})", random.between(2, 9), word(random)),
        3 => format!(r"[\p{{Lu}}][\p{{Ll}}]+\s+{}", word(random)),
        4 => format!(r"`([^`]*{}[^`]*)`", &word(random)[..3]),
        _ => format!(r"(?m)^\s*[-*|]\s+.*\b{}\w*\b.*$", word(random)),
    }
}

fn run(input: Vec<u8>) -> u64 {
    let input = text(input);
    let (patterns, text) = input.split_once(SEPARATOR).expect("patterns and text");
    let patterns: Vec<&str> = patterns.lines().collect();
    let compiled: Vec<Regex> = patterns.iter().map(|pattern| Regex::new(pattern).expect("a pattern")).collect();
    let mut sum = Sum::new();
    for (number, regex) in compiled.iter().enumerate() {
        let part = &text[window(text, number)..];
        let part = &part[..window(part, 1)];
        sum.number(regex.find_iter(part).map(|found| found.len() as u64).sum());
        let groups = regex.captures_iter(part).map(|captures| captures.iter().flatten().count() as u64);
        sum.number(groups.sum());
        let replaced = regex.replace_all(part, |captures: &Captures<'_>| captures[0].to_uppercase());
        sum.number(replaced.len() as u64);
    }
    for some in patterns.chunks(20) {
        let set = RegexSet::new(some).expect("patterns");
        sum.number(text.lines().step_by(7).map(|line| set.matches(line).iter().count() as u64).sum());
    }
    sum.value()
}

/// Where a part of the text begins: at a line.
fn window(text: &str, number: usize) -> usize {
    let wanted = text.len() * (number % 8) / 9;
    text[..text.floor_char_boundary(wanted)].rfind('\n').map_or(0, |end| end + 1)
}
