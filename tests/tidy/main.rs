//! Style is a test: what the project says about its own files is true.
//!
//! Each rule is a function from text to the violations in it, tested on a text that breaks it, and one
//! test here that holds it against the files of this project.

use std::fmt;
use std::path::Path;

mod documents;
mod files;
mod layers;
mod rules;
mod tokens;

use files::{Files, SourceFile};

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl Violation {
    fn new(file: &SourceFile, line: usize, message: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// The project's files; fails where there are none, so that no rule holds for want of something to check.
fn project() -> Files {
    let files = Files::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(files.rust_below("src/").count() > 5, "the sources were not found");
    files
}

#[track_caller]
fn assert_none(violations: &[Violation]) {
    let lines: Vec<_> = violations.iter().map(|violation| format!("\n  {violation}")).collect();
    assert!(violations.is_empty(), "{} untidy:{}", violations.len(), lines.concat());
}

#[test]
fn modules_use_only_lower_layers() {
    let files = project();
    let design = files.documents().find(|file| file.path == "DESIGN.md").expect("the design");
    let sources: Vec<_> = files.rust_below("src/").collect();
    assert_none(&layers::violations(design, &sources));
}

#[test]
fn files_without_unsafe_code_forbid_it() {
    let files = project();
    let sources: Vec<_> = files.rust_below("src/").collect();
    assert_none(&rules::missing_forbid(&sources));
}

#[test]
fn unsafe_code_says_why_it_is_right() {
    let files = project();
    let violations: Vec<_> = files.rust_below("src/").flat_map(rules::unexplained_unsafe).collect();
    assert_none(&violations);
}

#[test]
fn nothing_unfinished_is_left() {
    let files = project();
    let violations: Vec<_> = files.rust_below("").flat_map(rules::unfinished).collect();
    assert_none(&violations);
}

#[test]
fn no_thread_is_cancelled_inside_of_the_crate() {
    let files = project();
    // A module of tests, as a whole.
    let sources = files.rust_below("src/").filter(|file| file.path != "src/front/flips.rs");
    assert_none(&sources.flat_map(rules::cancellable).collect::<Vec<_>>());
}

#[test]
fn source_files_are_short() {
    let files = project();
    let violations: Vec<_> = files.rust_below("src/").flat_map(rules::too_long).collect();
    assert_none(&violations);
}

#[test]
fn documents_and_comments_name_files_that_exist() {
    let files = project();
    let documents = files.documents().flat_map(|file| documents::dead_names(file, documents::all_lines(file), &files));
    let comments =
        files.rust_below("").flat_map(|file| documents::dead_names(file, documents::comment_lines(file), &files));
    assert_none(&documents.chain(comments).collect::<Vec<_>>());
}
