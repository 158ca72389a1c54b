//! Real programs: jobs over well-kept crates, each with one allocator as the global one of its process.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `jobs` | what is done, one file for each job |
//! | `input` | what the jobs read: texts of this repository, and generated tables |
//! | `sum` | the checksum of a job's results |
//! | `child` | one process: a job from its start to its rest, and the figures of its memory |
//! | `random` | random numbers that are the same in every run |
//!
//! Each file in `src/bin` is a program with another allocator; `src/driver` starts them and prints
//! the tables. Only what links an allocator knows which it is: everything here is compiled once.
#![forbid(unsafe_code)]

pub mod child;
mod input;
pub mod jobs;
#[path = "../../src/common/random.rs"]
#[allow(dead_code, reason = "the other benchmarks need more of it")]
mod random;
mod sum;

/// Declares a program: its global allocator, what runs before, and a `main` that runs the job that it is told.
#[macro_export]
macro_rules! program {
    ($allocator:expr, $type:ty $(, $before:stmt)?) => {
        #[global_allocator]
        static GLOBAL: $type = $allocator;

        fn main() -> std::process::ExitCode {
            $($before)?
            family_alloc_programs::child::serve()
        }
    };
}
