//! Replays the committed corpus, as a fuzzer would run it but without one.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use family_alloc_fuzz::{heaps, layouts, misuse, operations, schedules, scopes};

/// The targets share their families, and compare what these count: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Runs every input of a target, those in its directory and a few that need no file; returns the sum of what each gives.
fn replay(target: &str, mut run: impl FnMut(&[u8]) -> usize) -> usize {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry of the directory").path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "{}: {} inputs", directory.display(), paths.len());
    let mut sum = run(&[]) + run(&[0xFF; 200]) + run(&[0; 200]);
    for path in paths {
        sum += run(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    println!("{target}: {sum}");
    sum
}

#[test]
fn operations_keep_every_promise() {
    assert!(replay("operations", operations) > 500, "hardly any steps");
}

#[test]
fn layouts_are_served_or_refused() {
    assert!(replay("layouts", layouts) > 20, "hardly any layout is served");
}

#[test]
fn schedules_keep_every_promise() {
    assert!(replay("schedules", schedules) > 100, "hardly any thread gets a turn");
}

#[test]
fn heaps_come_and_go() {
    assert!(replay("heaps", heaps) > 500, "hardly any steps");
}

#[test]
fn scopes_are_entered_and_left() {
    assert!(replay("scopes", scopes) > 500, "hardly any steps");
}

#[test]
fn misuses_are_reported_or_harmless() {
    let mut kinds = 0;
    let reported = replay("misuse", |data| {
        let misuses = misuse(data);
        kinds |= misuses.kinds;
        misuses.reported
    });
    assert!(reported > 20, "{reported} reports");
    assert_eq!(kinds, 0b111_1111, "every kind of fault is among them");
}
