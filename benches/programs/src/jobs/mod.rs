//! The jobs, by name.

mod csv_groups;
mod graph;
mod index;
mod json;
mod markdown;
mod messages;
mod patterns;
mod photos;
mod scripts;
mod service;
mod sources;

/// A piece of work.
pub struct Job {
    /// What it is called in tables and on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub what: &'static str,
    /// Makes what it reads, once for all allocators. The size is a percentage.
    pub prepare: fn(usize) -> Vec<u8>,
    /// Does the work and returns the checksum of what came out.
    pub run: fn(Vec<u8>) -> u64,
}

/// All of them, in the order of the tables.
pub static ALL: [Job; 11] = [
    json::JOB,
    messages::JOB,
    sources::JOB,
    index::JOB,
    patterns::JOB,
    service::JOB,
    csv_groups::JOB,
    scripts::JOB,
    markdown::JOB,
    graph::JOB,
    photos::JOB,
];

/// The job of that name.
pub fn find(name: &str) -> Option<&'static Job> {
    ALL.iter().find(|job| job.name == name)
}

/// So many percent of a number, at least one.
fn part(number: usize, percent: usize) -> usize {
    (number * percent / 100).max(1)
}

/// A job's input as the text that it was made as.
fn text(input: Vec<u8>) -> String {
    String::from_utf8(input).expect("a text")
}
