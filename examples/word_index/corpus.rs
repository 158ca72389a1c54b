//! The files to index: finding them and reading their text.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use family_alloc::allocator_api2::alloc::Allocator;
use family_alloc::allocator_api2::vec::Vec as VecIn;

use crate::progress::Progress;

/// The regular files below some roots, in an order that does not depend on the file system.
pub(crate) struct Corpus {
    pub(crate) files: Vec<PathBuf>,
    /// What all paths begin with and no name repeats.
    common_root: PathBuf,
    /// One line for every directory that could not be searched.
    pub(crate) warnings: Vec<String>,
}

/// What a file turned out to hold.
pub(crate) enum Contents<'a> {
    Text(&'a str),
    /// Has a NUL byte or is not UTF-8.
    Binary,
}

pub(crate) fn check_roots(roots: &[PathBuf]) -> Result<(), String> {
    for root in roots {
        let metadata = fs::metadata(root).map_err(|error| warning(root, &error))?;
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(format!("{}: neither a file nor a directory", printable(root)));
        }
    }
    Ok(())
}

impl Corpus {
    pub(crate) fn find(roots: &[PathBuf]) -> Self {
        let common_root = match roots {
            [root] if root.is_dir() => root.clone(),
            _ => PathBuf::new(),
        };
        let mut corpus = Self { files: Vec::new(), common_root, warnings: Vec::new() };
        for root in roots {
            if root.is_dir() {
                corpus.search(root);
            } else {
                corpus.files.push(root.clone());
            }
        }
        corpus
    }

    /// The name under which a file is indexed.
    pub(crate) fn name(&self, file: &Path) -> String {
        printable(file.strip_prefix(&self.common_root).unwrap_or(file))
    }

    /// Reads everything once, so that the system holds it in memory and no run waits for a disk.
    pub(crate) fn warm_up(&self) {
        let mut progress = Progress::new("reading", self.files.len());
        let mut buffer = VecIn::new();
        for (done, path) in self.files.iter().enumerate() {
            progress.show(done);
            // A file that can't be read is reported by the runs.
            let _ = read(path, &mut buffer);
        }
    }

    fn search(&mut self, directory: &Path) {
        let entries = match sorted_entries(directory) {
            Ok(entries) => entries,
            Err(error) => return self.warnings.push(warning(directory, &error)),
        };
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_passed_over(&entry) => self.search(&entry.path()),
                Ok(kind) if kind.is_file() => self.files.push(entry.path()),
                // Links are not followed: they could lead in circles, or to a file twice.
                Ok(_) => {}
                Err(error) => self.warnings.push(warning(&entry.path(), &error)),
            }
        }
    }
}

fn sorted_entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// Directories of generated files.
fn is_passed_over(entry: &fs::DirEntry) -> bool {
    entry.file_name() == "target" || entry.file_name() == ".git"
}

/// Reads the whole file into `buffer`, which stays as long as the longest file needed it.
pub(crate) fn read<'a, A: Allocator>(path: &Path, buffer: &'a mut VecIn<u8, A>) -> io::Result<Contents<'a>> {
    let mut file = File::open(path)?;
    let mut length = 0;
    loop {
        if length == buffer.len() {
            grow(buffer)?;
        }
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = &buffer[..length];
    if bytes.contains(&0) {
        return Ok(Contents::Binary);
    }
    Ok(std::str::from_utf8(bytes).map_or(Contents::Binary, Contents::Text))
}

/// A file for which there is no memory is an error like any other, not the end of the program.
fn grow<A: Allocator>(buffer: &mut VecIn<u8, A>) -> io::Result<()> {
    const SHORTEST: usize = 64 * 1024;
    let additional = buffer.len().max(SHORTEST);
    buffer.try_reserve_exact(additional).map_err(|_| ErrorKind::OutOfMemory)?;
    buffer.resize(buffer.len() + additional, 0);
    Ok(())
}

pub(crate) fn warning(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", printable(path))
}

/// The path as text that can't disturb a terminal or a report.
pub(crate) fn printable(path: &Path) -> String {
    path.to_string_lossy().replace(char::is_control, "\u{fffd}")
}
