//! The files of the project, read once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A text file, its path relative to the project's directory and with `/` on every system.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

pub(crate) struct Files {
    texts: Vec<SourceFile>,
    /// Every file and directory, whatever it holds.
    paths: BTreeSet<String>,
}

impl Files {
    pub(crate) fn read(root: &Path) -> Self {
        let mut files = Self { texts: Vec::new(), paths: BTreeSet::new() };
        files.search(root, "");
        files
    }

    #[cfg(test)]
    pub(crate) fn with_paths(paths: &[&str]) -> Self {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Self { texts: Vec::new(), paths }
    }

    fn search(&mut self, directory: &Path, prefix: &str) {
        let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut entries: Vec<_> = entries.map(|entry| entry.expect("a directory's entry")).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().expect("names of our files are UTF-8");
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().expect("the kind of a directory's entry");
            if kind.is_dir() && name != "target" && name != ".git" {
                self.search(&entry.path(), &format!("{path}/"));
            }
            if kind.is_file() && [".rs", ".md"].iter().any(|end| name.ends_with(end)) {
                let text = fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
                self.texts.push(SourceFile { path: path.clone(), text });
            }
            self.paths.insert(path);
        }
    }

    /// The Rust files whose path begins so.
    pub(crate) fn rust_below(&self, prefix: &'static str) -> impl Iterator<Item = &SourceFile> {
        self.texts.iter().filter(move |file| file.path.starts_with(prefix) && file.path.ends_with(".rs"))
    }

    /// All documents but the history, which may name what is gone.
    pub(crate) fn documents(&self) -> impl Iterator<Item = &SourceFile> {
        self.texts.iter().filter(|file| file.path.ends_with(".md") && file.path != "CHANGELOG.md")
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// Whether some file has this name, in whatever directory.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.paths.iter().any(|path| path.rsplit('/').next() == Some(name))
    }
}
