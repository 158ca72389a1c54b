//! Tests that need a process of their own: the test program runs itself again with one test and one case selected.

use std::env;
use std::process::{Command, ExitStatus, Output, Stdio};

const CASE: &str = "FAMILY_ALLOC_TEST_CASE";

/// The case that this process was started for, if it was started by [`run`].
pub(crate) fn case() -> Option<String> {
    env::var(CASE).ok()
}

/// A command that starts this program again: by an emulator where this one runs under it.
fn this_program() -> Command {
    let program = env::current_exe().expect("the test program knows its own path");
    let runner = env::var("FAMILY_ALLOC_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// Runs the test `test` of this program in a process of its own, with `case` as its [`case`].
pub(crate) fn run(test: &str, case: &str) -> Output {
    let mut command = this_program();
    command
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .stdin(Stdio::null());
    // One arena, because glibc reserves 64 MiB of address space for each; and no backtraces of panics that are told again.
    command.env("MALLOC_ARENA_MAX", "1").env("RUST_BACKTRACE", "0");
    let mut output =
        command.output().unwrap_or_else(|error| panic!("{test}: the child process did not start: {error}"));
    // What an emulator says of a program that aborted is not the program's.
    let lines = output.stderr.split_inclusive(|&byte| byte == b'\n');
    output.stderr =
        lines.filter(|line| !line.starts_with(b"qemu: uncaught target signal")).flatten().copied().collect();
    output
}

/// Runs `body` in a process of its own, in which nothing else runs; fails if it fails there. `test` is the calling test's name.
#[track_caller]
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    if case().is_some() {
        body();
        return;
    }
    print!("{}", assert_passed(test, "isolated"));
}

/// Runs a test with a case and fails unless it passes there; returns what it printed.
#[track_caller]
pub(crate) fn assert_passed(test: &str, case: &str) -> String {
    let output = run(test, case);
    let (out, err) = texts(&output);
    assert!(
        output.status.success() && out.contains("test result: ok. 1 passed"),
        "{test}, case {case}: {}\n--- standard output\n{out}--- standard error\n{err}---",
        output.status,
    );
    out
}

/// Runs a test with a case and fails unless it ends by `abort`; returns the lines on standard error.
#[track_caller]
pub(crate) fn assert_aborted(test: &str, case: &str) -> Vec<String> {
    let output = run(test, case);
    let (out, err) = texts(&output);
    assert!(
        is_abort(output.status),
        "{test}, case {case}: {} instead of an abort\n--- standard output\n{out}--- standard error\n{err}---",
        output.status,
    );
    err.lines().map(str::to_owned).collect()
}

/// Whether a process ended by `abort`.
#[cfg(unix)]
fn is_abort(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGABRT)
}

#[cfg(not(unix))]
fn is_abort(status: ExitStatus) -> bool {
    // What Windows says of a process that ends itself at once.
    const STATUS_STACK_BUFFER_OVERRUN: u32 = 0xC000_0409;
    status.code() == Some(STATUS_STACK_BUFFER_OVERRUN as i32)
}

/// Says which line must follow on standard error, for [`wrong_end`].
pub(crate) fn expect(line: &str) {
    println!("\nexpected: family_alloc: {line}");
}

/// Runs a test with a case that says what to [`expect`]; what is wrong with the way it ended, if it was not an abort with that line.
pub(crate) fn wrong_end(test: &str, case: &str) -> Option<String> {
    let output = run(test, case);
    let (out, err) = texts(&output);
    let expected =
        out.lines().find_map(|line| line.strip_prefix("expected: ")).unwrap_or("(the case did not get so far)");
    let is_right = is_abort(output.status) && err == format!("{expected}\n");
    (!is_right).then(|| format!("{case}: {}\n  expected: {expected}\n  standard error: {err}", output.status))
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// What [`set_limit`] takes for the kind of limit: libc's types differ.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) type Resource = libc::__rlimit_resource_t;
#[cfg(all(unix, not(all(target_os = "linux", target_env = "gnu"))))]
pub(crate) type Resource = libc::c_int;

/// Sets a limit of this process (the soft one, so that it can be lifted again); returns the old value.
#[cfg(unix)]
#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_fallible_conversions,
    reason = "limits have other types elsewhere"
)]
pub(crate) fn set_limit(resource: Resource, bytes: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `getrlimit` writes one `rlimit` to a live one.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    let old = limit.rlim_cur;
    limit.rlim_cur = libc::rlim_t::try_from(bytes).unwrap_or(libc::RLIM_INFINITY).min(limit.rlim_max);
    // SAFETY: `setrlimit` reads one `rlimit` from a live one.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
    u64::try_from(old).unwrap_or(u64::MAX)
}

/// Spares a process that is going to abort the writing of a core file.
pub(crate) fn leave_no_core() {
    #[cfg(unix)]
    set_limit(libc::RLIMIT_CORE, 0);
}
