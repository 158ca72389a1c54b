//! Rules that look at one file, or at a file and those below it.

use crate::Violation;
use crate::files::SourceFile;
use crate::tokens::Tokens;

/// Files that never have unsafe code, whatever else changes.
const PURE_FILES: [&str; 2] = ["src/size_class.rs", "src/stats/mod.rs"];

const MOST_LINES: usize = 500;

/// So many lines of one statement may stand between an explanation and the `unsafe` that it is for.
const MOST_LINES_BETWEEN: usize = 4;

/// Files without `unsafe`, in themselves and in the files below them, that don't forbid it.
pub(crate) fn missing_forbid(sources: &[&SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in sources.iter().filter(|file| file.path != "src/lib.rs") {
        let forbids = file.text.lines().any(|line| line == "#![forbid(unsafe_code)]");
        let below = directory_of_submodules(&file.path);
        let mut with_submodules =
            sources.iter().filter(|other| other.path == file.path || other.path.starts_with(&below));
        if forbids {
            continue;
        }
        if PURE_FILES.contains(&file.path.as_str()) {
            violations.push(Violation::new(file, 1, "a pure file: begin with #![forbid(unsafe_code)]"));
        } else if !with_submodules.any(|file| has_unsafe(file)) {
            violations.push(Violation::new(file, 1, "has no unsafe code: begin with #![forbid(unsafe_code)]"));
        }
    }
    violations
}

fn directory_of_submodules(path: &str) -> String {
    let stem = path.strip_suffix("mod.rs").or_else(|| path.strip_suffix(".rs")).unwrap_or(path);
    format!("{}/", stem.trim_end_matches('/'))
}

fn has_unsafe(file: &SourceFile) -> bool {
    Tokens::of(&file.text).code.iter().any(|(_, token)| token.is_word("unsafe"))
}

/// Every `unsafe` block and `unsafe impl` without a `SAFETY:` comment directly before its statement.
pub(crate) fn unexplained_unsafe(file: &SourceFile) -> Vec<Violation> {
    let tokens = Tokens::of(&file.text);
    let lines: Vec<_> = file.text.lines().map(str::trim).collect();
    let unsafe_code = (0..tokens.code.len())
        .filter(|&place| tokens.matches(place, "unsafe {") || tokens.matches(place, "unsafe impl"))
        .map(|place| tokens.code[place].0);
    unsafe_code
        .filter(|&line| !is_explained(&lines, line - 1))
        .map(|line| Violation::new(file, line, "unsafe code without a `// SAFETY:` comment before it"))
        .collect()
}

fn is_explained(lines: &[&str], unsafe_line: usize) -> bool {
    let mut between = 0;
    for (index, line) in lines[..unsafe_line].iter().enumerate().rev() {
        if line.starts_with("//") {
            return comment_ending_at(lines, index).any(|line| line.contains("SAFETY: "));
        }
        between += 1;
        let is_end_of_statement = line.is_empty() || line.ends_with([';', '}']);
        if is_end_of_statement || between > MOST_LINES_BETWEEN {
            break;
        }
    }
    false
}

/// The lines of one comment, from its last one up.
fn comment_ending_at<'a>(lines: &'a [&str], last: usize) -> impl Iterator<Item = &'a str> {
    lines[..=last].iter().rev().copied().take_while(|line| line.starts_with("//"))
}

/// What is left in code that somebody wanted to come back to.
pub(crate) fn unfinished(file: &SourceFile) -> Vec<Violation> {
    const LEFTOVERS: [(&str, &str); 4] = [
        ("todo !", "todo!"),
        ("unimplemented !", "unimplemented!"),
        ("dbg !", "dbg!"),
        ("# [ ignore ]", "#[ignore] without a reason"),
    ];
    let tokens = Tokens::of(&file.text);
    let found = (0..tokens.code.len()).filter_map(|place| {
        let (_, name) = LEFTOVERS.iter().find(|(pattern, _)| tokens.matches(place, pattern))?;
        Some(Violation::new(file, tokens.code[place].0, format!("{name} is left")))
    });
    found.collect()
}

/// Calls of functions of the C library at which a thread that was cancelled ends: it would keep
/// what it has, a lock for one.
pub(crate) fn cancellable(file: &SourceFile) -> Vec<Violation> {
    /// What of the cancellation points of POSIX a library for memory could come to call.
    const POINTS: [&str; 23] = [
        "close",
        "fcntl",
        "fsync",
        "getrandom",
        "msync",
        "nanosleep",
        "open",
        "openat",
        "pause",
        "poll",
        "pread",
        "pthread_join",
        "pthread_testcancel",
        "pwrite",
        "read",
        "readv",
        "select",
        "sleep",
        "usleep",
        "wait",
        "waitpid",
        "write",
        "writev",
    ];
    /// There the thread has been told not to end before.
    const LAST_WORDS: &str = "src/fatal.rs";
    let tokens = Tokens::of(&file.text);
    // Where tests are a file of their own the parent goes on behind their name.
    let tests = if file.path.ends_with("/tests.rs") {
        Some(0)
    } else {
        (0..tokens.code.len()).find(|&place| tokens.matches(place, "mod tests {"))
    };
    let tests = tests.unwrap_or(tokens.code.len());
    let is_point = |&place: &usize| POINTS.iter().any(|name| tokens.matches(place, &format!("libc : : {name} (")));
    let points = (0..tests).filter(is_point).map(|place| tokens.code[place].0);
    let message = "a cancellation point: call the system itself";
    points.filter(|_| file.path != LAST_WORDS).map(|line| Violation::new(file, line, message)).collect()
}

pub(crate) fn too_long(file: &SourceFile) -> Option<Violation> {
    let count = file.text.lines().count();
    let message = format!("{count} lines: more than {MOST_LINES}");
    (count > MOST_LINES).then(|| Violation::new(file, count, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(violations: &[Violation]) -> Vec<usize> {
        violations.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_cancellation_point_is_found_but_in_tests() {
        let text = "\
fn f() { unsafe { libc::write(1, p, 1) }; }
fn g() { libc::syscall(libc::SYS_write, 1); libc::munmap(p, 1); }
mod tests { fn f() { libc::read(1, p, 1); } }";
        assert_eq!(lines_of(&cancellable(&SourceFile::new("src/a.rs", text))), [1]);
        assert_eq!(cancellable(&SourceFile::new("src/fatal.rs", text)), []);
        assert_eq!(cancellable(&SourceFile::new("src/a/tests.rs", text)), []);
        let before = "mod tests;\nfn f() { unsafe { libc::write(1, p, 1) }; }";
        assert_eq!(lines_of(&cancellable(&SourceFile::new("src/a/mod.rs", before))), [2]);
    }

    #[test]
    fn a_safe_file_must_forbid_unsafe_code() {
        let safe = SourceFile::new("src/a.rs", "// no unsafe here\nfn f() {}");
        assert_eq!(missing_forbid(&[&safe]).len(), 1);
        let forbidding = SourceFile::new("src/a.rs", "#![forbid(unsafe_code)]\nfn f() {}");
        assert_eq!(missing_forbid(&[&forbidding]), []);
        let parent = SourceFile::new("src/a/mod.rs", "mod b;");
        let child = SourceFile::new("src/a/b.rs", "unsafe fn f() {}");
        assert_eq!(missing_forbid(&[&parent, &child]), []);
    }

    #[test]
    fn a_pure_file_must_forbid_unsafe_code_even_when_it_has_some() {
        let impure = SourceFile::new("src/size_class.rs", "unsafe fn f() {}");
        assert_eq!(missing_forbid(&[&impure]).len(), 1);
    }

    #[test]
    fn unsafe_code_without_a_reason_is_found() {
        let text = "\
fn f() {
    unsafe { g() };
    // SAFETY: explains the next, and only the next.
    unsafe { g() };
    unsafe { g() };
    // A comment that is no proof.
    unsafe { g() };
    // SAFETY: too far away.

    unsafe { g() };
}
unsafe impl Send for T {}";
        let file = SourceFile::new("src/a.rs", text);
        assert_eq!(lines_of(&unexplained_unsafe(&file)), [2, 5, 7, 10, 12]);
    }

    #[test]
    fn unsafe_code_with_a_reason_is_not() {
        let text = "\
// SAFETY: a reason that
// goes on.
#[cfg(unix)]
unsafe impl Send for T {}
fn f() -> u8 {
    // SAFETY: a reason for a part of a longer statement.
    let value = Some(
        unsafe { g() }
    );
    \"unsafe { g() }\" // unsafe { g() }
}
unsafe fn g() {}";
        assert_eq!(unexplained_unsafe(&SourceFile::new("src/a.rs", text)), []);
    }

    #[test]
    fn leftovers_are_found() {
        let text = "\
fn f() { todo!() }
#[ignore]
fn g() { dbg!(1); unimplemented!(\"x\") }
#[ignore = \"needs a day\"]
fn h() { \"todo!()\"; } // todo!()";
        assert_eq!(lines_of(&unfinished(&SourceFile::new("src/a.rs", text))), [1, 2, 3, 3]);
    }

    #[test]
    fn long_files_are_found() {
        let file = |count| SourceFile::new("src/a.rs", &"\n".repeat(count));
        assert_eq!(too_long(&file(MOST_LINES)), None);
        assert!(too_long(&file(MOST_LINES + 1)).is_some());
    }
}
