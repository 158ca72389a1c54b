//! Rust sources as syntax trees.

use syn::visit::{self, Visit};

use super::{Job, part, text};
use crate::input;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "rust sources",
    what: "syn: this crate's sources and tests, five times, as syntax trees that are walked",
    prepare,
    run,
};

/// What stands between two files.
const SEPARATOR: char = '\0';

fn prepare(percent: usize) -> Vec<u8> {
    let sources = input::rust_sources();
    let count = part(sources.len() * 5, percent);
    let files: Vec<_> = sources.iter().cycle().take(count).map(String::as_str).collect();
    files.join(&SEPARATOR.to_string()).into_bytes()
}

fn run(input: Vec<u8>) -> u64 {
    let text = text(input);
    let files: Vec<syn::File> =
        text.split(SEPARATOR).map(|source| syn::parse_file(source).expect("a file that compiles")).collect();
    let mut names = Names { sum: Sum::new(), functions: 0 };
    files.iter().for_each(|file| names.visit_file(file));
    names.sum.number(names.functions);
    names.sum.value()
}

/// Sums the names of a tree up and counts its functions.
struct Names {
    sum: Sum,
    functions: u64,
}

impl<'tree> Visit<'tree> for Names {
    fn visit_ident(&mut self, name: &'tree proc_macro2::Ident) {
        self.sum.bytes(name.to_string().as_bytes());
    }

    fn visit_signature(&mut self, signature: &'tree syn::Signature) {
        self.functions += 1;
        visit::visit_signature(self, signature);
    }
}
