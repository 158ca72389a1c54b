//! One process: a program with one allocator, seen from both sides.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use crate::heap::Heap;
use crate::moments::{self, Figure, Moments};
use crate::peers::{Name, with_subject};
use crate::programs::{self, Program, Settings};
use crate::subject::Subject;
use crate::{global, os, pthread};

/// After so many seconds a process has failed.
const SECONDS: u32 = 300;

/// Runs a program in this process and prints what it noted.
pub(crate) fn serve(told: &[String]) -> ExitCode {
    let Some((program, name, settings)) = parse(told) else {
        eprintln!("no arguments of a child: {told:?}");
        return ExitCode::FAILURE;
    };
    if name == Name::Rpmalloc {
        pthread::use_rpmalloc();
    }
    os::limit_seconds(SECONDS);
    let heap = with_subject!(name, start(name));
    let mut moments = Moments::new();
    (program.run)(&heap, &settings, &mut moments);
    moments.print();
    os::exit()
}

fn start<S: Subject>(name: Name) -> Heap {
    S::start();
    Heap::of::<S>(name)
}

fn parse(told: &[String]) -> Option<(&'static Program, Name, Settings)> {
    let [program, name, scale, time, seed, looks] = told else { return None };
    let (scale, time, seed) = (scale.parse().ok()?, time.parse().ok()?, seed.parse().ok()?);
    let settings = Settings { scale, time, seed, looks: looks == "true" };
    Some((programs::find(program)?, Name::parse(name)?, settings))
}

/// A process that has been started.
pub(crate) struct Started(Child);

/// Starts a program in a new process.
pub(crate) fn start_process(program: &Program, name: Name, settings: &Settings) -> Result<Started, String> {
    let Settings { scale, time, seed, looks } = settings;
    let path = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(path);
    command.args(["--child", program.name, name.as_str()]);
    command.args([scale.to_string(), time.to_string(), seed.to_string(), looks.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if program.is_global {
        command.env(global::VARIABLE.to_str().expect("a name"), name.as_str());
    }
    command.spawn().map(Started).map_err(|error| error.to_string())
}

impl Started {
    /// Reads what the process prints, or says what became of it.
    pub(crate) fn finish(self) -> Result<Vec<Figure>, String> {
        let output = self.0.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            return Err(format!("{} {last}", describe(output.status)).trim().to_owned());
        }
        moments::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| "printed nonsense".to_owned())
    }
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(libc::SIGALRM) => "took too long".to_owned(),
        Some(signal) => format!("ended by signal {signal}"),
        None => String::new(),
    }
}
