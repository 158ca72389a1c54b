//! Which workloads are run, under which names, how often.

use crate::workload::Workload;

/// One workload with its parameters: measured in one process per allocator and rotation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    /// What `--filter` looks at.
    pub(crate) name: String,
    pub(crate) workload: Workload,
    /// In how many processes each allocator does it.
    pub(crate) rotations: usize,
}

/// The cases of a run, in the order of the table.
pub(crate) fn all(short: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    single_thread(&mut cases, short);
    several_threads(&mut cases, short);
    growth(&mut cases, short);
    cases
}

/// The case of that name, whether the run has it or not: what a child process is asked for.
pub(crate) fn find(name: &str) -> Option<Case> {
    if let Some(numbers) = name.strip_prefix("proof-of-concept/") {
        let (size, count) = numbers.split_once(" × ")?;
        return Some(proof(count.parse().ok()?, size.parse().ok()?));
    }
    all(false).into_iter().chain(all(true)).find(|case| case.name == name)
}

/// The proof of concept's benchmark for one size: not among [`all`], since it has a table of its own.
pub(crate) fn proof(count: usize, size: usize) -> Case {
    case(format!("proof-of-concept/{size} × {count}"), Workload::Proof { size, count }, 1)
}

fn case(name: impl Into<String>, workload: Workload, rotations: usize) -> Case {
    Case { name: name.into(), workload, rotations }
}

fn single_thread(cases: &mut Vec<Case>, short: bool) {
    use Workload as W;
    let often = if short { 3 } else { 7 };
    cases.extend([
        case("pair/constant", W::PairConstant, often),
        case("pair/run-time", W::PairRunTime, often),
        case("pair/box", W::PairBoxed, often),
    ]);
    let sizes: &[usize] = if short { &[8, 64, 1024] } else { &[8, 16, 64, 256, 1024, 4096] };
    cases.extend(sizes.iter().map(|&size| case(format!("bulk/{size}"), W::Bulk { size }, often)));
    let churns: &[(usize, usize)] = if short {
        &[(64, 10_000), (64, 1_000_000)]
    } else {
        &[(16, 10_000), (64, 10_000), (256, 10_000), (16, 1_000_000), (64, 1_000_000), (256, 1_000_000)]
    };
    for &(size, live) in churns {
        cases.push(case(format!("churn/{size}, {} live", amount(live)), W::Churn { size, live }, often));
    }
    let lives: &[usize] = if short { &[100_000] } else { &[10_000, 100_000, 1_000_000] };
    cases.extend(
        lives
            .iter()
            .map(|&live| case(format!("churn/8 to 1024, {} live", amount(live)), W::ChurnMixed { live }, often)),
    );
    let often = if short { 2 } else { 7 };
    cases.extend([
        case("linked/list", W::List, often),
        case("linked/tree", W::Tree, often),
        case("collections/hash map", W::HashMap, often),
        case("collections/vector", W::Vector, often),
        case("collections/strings", W::Strings, often),
        case("bytes/zeroed", W::Zeroed, often),
        case("bytes/grow", W::Grow, often),
        case("bytes/large", W::Large, often),
        case("bytes/grow large", W::GrowLarge, often),
    ]);
}

fn several_threads(cases: &mut Vec<Case>, short: bool) {
    use Workload as W;
    let often = if short { 2 } else { 7 };
    cases.extend([
        case("threads/two churn 64", W::TwoThreads, often),
        case("threads/two churn 8 to 1024", W::TwoThreadsMixed, often),
        case("threads/producer consumer", W::ProducerConsumer, often),
        case("threads/larson", W::Larson, often),
        case("threads/mstress", W::Stress, often),
        case("threads/xmalloc-test", W::Xmalloc, often),
        case("threads/cache-scratch", W::CacheScratch, often),
        case("threads/cache-thrash", W::CacheThrash, often),
        case("short-lived/one family", W::ThreadsOneFamily, often),
        case("short-lived/one of 20 families", W::ThreadsAmongFamilies, often),
        case("short-lived/20 families", W::ThreadsAllFamilies, often),
    ]);
}

fn growth(cases: &mut Vec<Case>, short: bool) {
    let most = if short { 1_000_000 } else { 100_000_000 };
    let mut live = 1000;
    while live <= most {
        let rotations = if short || live > 10_000_000 { 1 } else { 3 };
        cases.push(case(format!("growth/live {}", amount(live)), Workload::GrowthLive { live }, rotations));
        live *= 10;
    }
    let rotations = if short { 2 } else { 5 };
    for count in [1, 10, 100, 1000] {
        cases.push(case(format!("growth/families {count}"), Workload::GrowthFamilies { count }, rotations));
    }
    let counts: &[usize] = if short { &[1, 4, 64] } else { &[1, 2, 4, 8, 16, 32, 64] };
    for &count in counts {
        cases.push(case(format!("growth/threads {count}"), Workload::GrowthThreads { count }, rotations));
    }
}

/// `10000` as `10k`.
fn amount(count: usize) -> String {
    match count {
        count if count >= 1_000_000 => format!("{}M", count / 1_000_000),
        count if count >= 1000 => format!("{}k", count / 1000),
        count => count.to_string(),
    }
}
