//! The workloads: each allocates and touches, through any [`Subject`].

mod bulk;
mod bytes;
mod cache;
mod churn;
mod collections;
mod growth;
mod linked;
mod memory;
mod pair;
mod proof;
mod relay;
mod short_lived;
mod stress;
mod team;
mod threads;

use crate::meter::Meter;
use crate::subject::Subject;

/// Every workload, with what it takes to run it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Workload {
    PairConstant,
    PairRunTime,
    PairBoxed,
    Bulk { size: usize },
    Churn { size: usize, live: usize },
    ChurnMixed { live: usize },
    List,
    Tree,
    HashMap,
    Vector,
    Strings,
    Zeroed,
    Grow,
    Large,
    GrowLarge,
    TwoThreads,
    TwoThreadsMixed,
    ProducerConsumer,
    Larson,
    Stress,
    Xmalloc,
    CacheScratch,
    CacheThrash,
    ThreadsOneFamily,
    ThreadsAmongFamilies,
    ThreadsAllFamilies,
    GrowthLive { live: usize },
    GrowthFamilies { count: usize },
    GrowthThreads { count: usize },
    Proof { size: usize, count: usize },
}

impl Workload {
    /// Whether one thread does it and it frees in rounds, so that an arena can take part.
    pub(crate) const fn suits_arena(self) -> bool {
        use Workload as W;
        matches!(
            self,
            W::PairConstant
                | W::PairRunTime
                | W::PairBoxed
                | W::Bulk { .. }
                | W::List
                | W::Tree
                | W::Vector
                | W::Strings
        )
    }

    /// About how much memory it takes fresh from the system and times doing so.
    pub(crate) const fn fresh_bytes(self) -> usize {
        match self {
            Self::Bulk { size } => bulk::count(size) * size,
            Self::Proof { size, count } => count * size.next_power_of_two(),
            Self::GrowthLive { live } => live * 16,
            Self::Large | Self::GrowLarge => 128 << 20,
            Self::List | Self::HashMap | Self::Vector | Self::Strings | Self::Zeroed | Self::Grow => 32 << 20,
            _ => 0,
        }
    }

    /// Runs it.
    pub(crate) fn run<S: Subject>(self, meter: &mut Meter) {
        S::start();
        match self {
            Self::PairConstant => pair::constant::<S>(meter),
            Self::PairRunTime => pair::run_time::<S>(meter),
            Self::PairBoxed => pair::boxed::<S>(meter),
            Self::Bulk { size } => bulk_of_size::<S>(meter, size),
            Self::Churn { size, live } => churn_of_size::<S>(meter, size, live),
            Self::ChurnMixed { live } => churn::mixed::<S>(meter, live),
            Self::List => linked::list::<S>(meter),
            Self::Tree => linked::tree::<S>(meter),
            Self::HashMap => collections::hash_map::<S>(meter),
            Self::Vector => collections::vector::<S>(meter),
            Self::Strings => collections::strings::<S>(meter),
            Self::Zeroed => bytes::zeroed::<S>(meter),
            Self::Grow => bytes::grow::<S>(meter),
            Self::Large => bytes::large::<S>(meter),
            Self::GrowLarge => bytes::grow_large::<S>(meter),
            Self::TwoThreads => threads::churn::<S>(meter),
            Self::TwoThreadsMixed => threads::churn_mixed::<S>(meter),
            Self::ProducerConsumer => relay::producer_consumer::<S>(meter),
            Self::Larson => threads::larson::<S>(meter),
            Self::Stress => stress::run::<S>(meter),
            Self::Xmalloc => relay::xmalloc::<S>(meter),
            Self::CacheScratch => cache::cache_scratch::<S>(meter),
            Self::CacheThrash => cache::cache_thrash::<S>(meter),
            Self::ThreadsOneFamily => short_lived::one_family::<S>(meter),
            Self::ThreadsAmongFamilies => short_lived::among_families::<S>(meter),
            Self::ThreadsAllFamilies => short_lived::all_families::<S>(meter),
            Self::GrowthLive { live } => growth::live_set::<S>(meter, live),
            Self::GrowthFamilies { count } => growth::families::<S>(meter, count),
            Self::GrowthThreads { count } => growth::threads::<S>(meter, count),
            Self::Proof { size, count } => proof::run::<S>(meter, size, count),
        }
    }
}

/// The sizes of the bulk workload are constants.
fn bulk_of_size<S: Subject>(meter: &mut Meter, size: usize) {
    match size {
        8 => bulk::run::<S, 8>(meter),
        16 => bulk::run::<S, 16>(meter),
        64 => bulk::run::<S, 64>(meter),
        256 => bulk::run::<S, 256>(meter),
        1024 => bulk::run::<S, 1024>(meter),
        4096 => bulk::run::<S, 4096>(meter),
        _ => unreachable!("no case has that size"),
    }
}

/// The sizes of the churn workload are constants.
fn churn_of_size<S: Subject>(meter: &mut Meter, size: usize, live: usize) {
    match size {
        16 => churn::fixed::<S, 16>(meter, live),
        64 => churn::fixed::<S, 64>(meter, live),
        256 => churn::fixed::<S, 256>(meter, live),
        _ => unreachable!("no case has that size"),
    }
}
