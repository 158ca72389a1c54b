//! Measures `family-alloc` beside its peers: `cargo bench`, `cargo bench -- --short`, `cargo bench --bench allocators -- --help`.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `cli` | the arguments: parent or child, and what is asked for |
//! | `driver` | the run: cases × rotations × allocators, a process each |
//! | `cases` | names, parameters and rotations of the cases |
//! | `child` | one process: its start, its end, what it printed |
//! | `meter` | the stopwatch inside a child, and the lines it prints |
//! | `os` | resident memory, page faults, arrays outside any allocator |
//! | `random` | random numbers that are the same in every run |
//! | `subject`, `peers` | the interface to an allocator, and the allocators |
//! | `pthread` | how threads start, so that one peer does not meddle with the others |
//! | `workload` | what is done with an allocator |
//! | `figures`, `outcome`, `targets` | medians, rows, ratios, and what they should be |
//! | `proof`, `table`, `json`, `plot` | what is printed and written |

mod cases;
mod child;
mod cli;
mod driver;
mod figures;
mod json;
#[path = "../common/machine.rs"]
mod machine;
mod meter;
#[path = "../common/os.rs"]
mod os;
mod outcome;
#[path = "../common/peers/mod.rs"]
mod peers;
mod plot;
mod progress;
mod proof;
#[path = "../common/pthread.rs"]
mod pthread;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/subject.rs"]
mod subject;
mod table;
mod targets;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(std::env::args().skip(1)) {
        cli::Role::Parent(options) => driver::run(&options),
        cli::Role::Child { case, name, short } => child::serve(&case, name, short),
        cli::Role::Help { asked: true, message } => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        cli::Role::Help { asked: false, message } => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
