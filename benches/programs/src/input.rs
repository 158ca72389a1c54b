//! What the jobs read: texts of this repository, words and paragraphs of them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::random::Random;

/// The directory of the crate that is measured.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this package is two levels deep").to_owned()
}

/// The texts of all files below `src` and `tests` that are Rust.
pub(crate) fn rust_sources() -> Vec<String> {
    texts(&["src", "tests", "examples"], "rs")
}

/// The texts of all documents.
pub(crate) fn documents() -> Vec<String> {
    let mut texts = texts(&["docs"], "md");
    let names = ["README.md", "DESIGN.md", "CHANGELOG.md", "benches/README.md"];
    texts.extend(names.iter().map(|name| read(&root().join(name))));
    texts
}

/// The paragraphs of all documents.
pub(crate) fn paragraphs() -> Vec<String> {
    let documents = documents();
    let parts = documents.iter().flat_map(|text| text.split("\n\n"));
    parts.map(str::trim).filter(|part| part.len() > 40).map(str::to_owned).collect()
}

/// All words of the documents, in alphabetical order.
pub(crate) fn words() -> Vec<String> {
    let documents = documents();
    let parts = documents.iter().flat_map(|text| text.split(|character: char| !character.is_ascii_alphabetic()));
    let mut words: Vec<String> = parts.filter(|word| word.len() > 2).map(str::to_lowercase).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Some words in a row.
pub(crate) fn phrase(random: &mut Random, words: &[String], most: usize) -> String {
    let count = random.between(1, most);
    (0..count).map(|_| words[random.below(words.len())].as_str()).collect::<Vec<_>>().join(" ")
}

fn texts(directories: &[&str], extension: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for directory in directories {
        search(&root().join(directory), extension, &mut paths);
    }
    paths.sort_unstable();
    paths.iter().map(|path| read(path)).collect()
}

fn search(directory: &Path, extension: &str, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            search(&path, extension, paths);
        } else if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
