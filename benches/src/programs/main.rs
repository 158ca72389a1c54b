//! `cargo bench --bench programs`: starts the package in `benches/programs` with the same arguments.
//!
//! What its programs are made of is more than two hundred crates. They have a package and a lock file of their own, so that
//! whoever builds the other benchmarks need not build them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let told = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--locked", "--bench", "programs", "--manifest-path"]).arg(package.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(package.join("target")).arg("--").args(told);
    match cargo.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
