//! A process of its own for a test that looks at all families, or that ends its process.

#![forbid(unsafe_code)]

use std::process::{Command, Output};

/// Runs the test of this name again in a process that runs nothing else; what came of it. `None` in that process.
pub(crate) fn run(name: &str) -> Option<Output> {
    const CHILD: &str = "FAMILY_ALLOC_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    Some(command.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap())
}
