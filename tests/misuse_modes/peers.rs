//! What other allocators do in the same cases, as it was seen once: they are no dependencies of the tests.

use std::collections::BTreeSet;

/// Written by `benches/src/misuse/main.rs`.
const SEEN: &str = include_str!("../../docs/misuse-peers.txt");

/// The allocators of the page, as they are called there and in the file.
pub(crate) const PEERS: [(&str, &str); 4] =
    [("glibc", "system"), ("jemalloc", "jemalloc"), ("mimalloc", "mimalloc"), ("rusty_alloc", "rusty_alloc")];

/// One line: what was seen of an allocator in a case.
struct Line {
    case: &'static str,
    allocator: &'static str,
    size: usize,
    outcomes: &'static str,
}

fn lines() -> impl Iterator<Item = Line> {
    SEEN.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().expect("case, allocator, size and outcomes");
        let (case, allocator, size) = (word(), word(), word().parse().expect("a size"));
        Line { case, allocator, size, outcomes: word() }
    })
}

/// All that was seen of an allocator in a case, with the size.
pub(crate) fn outcomes(case: &str, allocator: &str) -> Vec<(usize, &'static str)> {
    let wanted = lines().filter(|line| line.case == case && line.allocator == allocator);
    wanted.flat_map(|line| line.outcomes.split("; ").map(move |outcome| (line.size, outcome))).collect()
}

/// Which allocators they were.
pub(crate) fn versions() -> &'static str {
    let line = SEEN.lines().nth(1).expect("the second line names them");
    line.trim_start_matches("# ").trim_end_matches('.')
}

/// The cases after which two live allocations of our default mode shared memory.
pub(crate) fn our_overlaps() -> BTreeSet<&'static str> {
    let ours = lines().filter(|line| line.allocator == "family-alloc" && line.outcomes.contains("overlap"));
    ours.map(|line| line.case).collect()
}

#[test]
fn what_was_seen_is_of_cases_that_exist() {
    let known: BTreeSet<&str> = crate::cases::CASES.iter().map(|case| case.name).collect();
    let unknown: Vec<&str> = lines().map(|line| line.case).filter(|case| !known.contains(case)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for (_, allocator) in PEERS {
        assert!(lines().filter(|line| line.allocator == allocator).count() > 150, "{allocator}");
    }
}
