//! Files that are named must exist.

use crate::Violation;
use crate::files::{Files, SourceFile};
use crate::tokens::Tokens;

/// A path that begins with one of these is one of ours.
const OUR_DIRECTORIES: [&str; 8] = [".ci/", "benches/", "compat/", "docs/", "examples/", "fuzz/", "src/", "tests/"];

/// A name without a directory that ends so is a file's.
const ENDINGS: [&str; 3] = [".rs", ".md", ".toml"];

pub(crate) fn all_lines(file: &SourceFile) -> Vec<(usize, String)> {
    file.text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned())).collect()
}

pub(crate) fn comment_lines(file: &SourceFile) -> Vec<(usize, String)> {
    Tokens::of(&file.text).comments
}

/// Names in these lines of a file that are no file's.
pub(crate) fn dead_names(file: &SourceFile, lines: Vec<(usize, String)>, files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (line, text) in lines {
        let dead = names(&text).filter(|name| !exists(name, &file.path, files));
        violations.extend(dead.map(|name| Violation::new(file, line, format!("there is no {name}"))));
    }
    violations
}

/// A name may be meant from any directory that the file is in: the project's, a package's, its own.
fn exists(name: &str, path: &str, files: &Files) -> bool {
    if !name.contains('/') {
        return files.has_name(name);
    }
    let directories = path.match_indices('/').map(|(end, _)| &path[..=end]);
    files.has(name) || directories.into_iter().any(|directory| files.has(&format!("{directory}{name}")))
}

/// The names of files of this project, as far as they can be told from other words.
fn names(line: &str) -> impl Iterator<Item = &str> {
    let is_in_name = |character: char| character.is_ascii_alphanumeric() || "_-./*".contains(character);
    line.split_whitespace()
        .filter(|word| !word.contains("://"))
        .flat_map(move |word| word.split(move |character| !is_in_name(character)))
        .map(|name| name.trim_end_matches('.').trim_start_matches("./"))
        .filter(|name| is_ours(name))
}

fn is_ours(name: &str) -> bool {
    if name.contains('*') {
        return false;
    }
    if name.contains('/') {
        return OUR_DIRECTORIES.iter().any(|directory| name.starts_with(directory));
    }
    ENDINGS.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(line: &str) -> Vec<String> {
        let files = Files::with_paths(&["README.md", "src", "src/slab.rs", "docs", "docs/a/notes.md", "docs/src/x.rs"]);
        let file = SourceFile::new("docs/a/notes.md", line);
        dead_names(&file, all_lines(&file), &files).into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn dead_names_are_found() {
        assert_eq!(dead("see `src/slabs.rs`."), ["there is no src/slabs.rs"]);
        assert_eq!(dead("[notes](docs/note.md#top), slabs.rs"), ["there is no docs/note.md", "there is no slabs.rs"]);
    }

    #[test]
    fn files_that_exist_and_other_words_are_not() {
        for line in [
            "`src/slab.rs`, [notes](./docs/a/notes.md#top) and README.md.",
            "`slab.rs` in src/, tests/*.rs, src/….rs, *.md, 1/2 and/or …/other.txt",
            "in the directory above this document's: src/x.rs",
            "https://example.org/src/gone.rs",
        ] {
            assert_eq!(dead(line), Vec::<String>::new(), "{line}");
        }
    }
}
