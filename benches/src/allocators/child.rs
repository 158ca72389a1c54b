//! One process for one case with one allocator, seen from both sides.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use crate::cases::{self, Case};
use crate::cli;
use crate::meter::{Meter, Report};
use crate::peers::{Name, with_subject};
use crate::subject::Subject;
use crate::{os, pthread};

/// Runs a case in this process and prints what came out.
pub(crate) fn serve(case: &str, name: Name, short: bool) -> ExitCode {
    let Some(case) = cases::find(case) else {
        eprintln!("no case is called \"{case}\"");
        return ExitCode::FAILURE;
    };
    if name == Name::Rpmalloc {
        pthread::use_rpmalloc();
    }
    os::limit_seconds(if short { 30 } else { 600 });
    let mut meter = Meter::new(short);
    with_subject!(name, run(&case, &mut meter));
    meter.print();
    os::exit()
}

fn run<S: Subject>(case: &Case, meter: &mut Meter) {
    case.workload.run::<S>(meter);
}

/// Runs a case in a new process and reads what it prints, or says what became of it.
pub(crate) fn measure(case: &Case, name: Name, short: bool) -> Result<Report, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(cli::child_arguments(&case.name, name, short))
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        return Err(format!("{} {last}", describe(output.status)).trim().to_owned());
    }
    Report::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| "printed nonsense".to_owned())
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(libc::SIGALRM) => "took too long".to_owned(),
        Some(signal) => format!("ended by signal {signal}"),
        None => String::new(),
    }
}
