//! Makes chosen calls to the system fail, so that tests see what follows. Without the feature `_faults` nothing fails here.

#![forbid(unsafe_code)]

/// The calls to the system that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    Reserve,
    ReserveReadable,
    Commit,
    MakeWritable,
    Purge,
    Release,
    Map,
    Remap,
    Guard,
    Unguard,
    Renew,
    Forbid,
}

#[cfg(not(feature = "_faults"))]
pub(super) const fn strikes(_: Call) -> bool {
    false
}

#[cfg(feature = "_faults")]
pub(super) use injected::strikes;
#[cfg(feature = "_faults")]
pub use injected::{count, fail};

#[cfg(feature = "_faults")]
mod injected {
    use core::ops::Range;

    use super::Call;
    use crate::sync::{AtomicUsize, Relaxed};

    /// What is planned for one kind of call, in this process: those with a number in `from..until` fail.
    struct Plan {
        calls: AtomicUsize,
        from: AtomicUsize,
        until: AtomicUsize,
    }

    static PLANS: [Plan; Call::ALL.len()] =
        [const { Plan { calls: AtomicUsize::new(0), from: AtomicUsize::new(0), until: AtomicUsize::new(0) } };
            Call::ALL.len()];

    impl Call {
        /// All kinds, in the order of their numbers.
        pub const ALL: [Self; 12] = [
            Self::Reserve,
            Self::ReserveReadable,
            Self::Commit,
            Self::MakeWritable,
            Self::Purge,
            Self::Release,
            Self::Map,
            Self::Remap,
            Self::Guard,
            Self::Unguard,
            Self::Renew,
            Self::Forbid,
        ];
    }

    // Relaxed throughout: numbers that publish nothing. A test that plans while other threads call gets what it asked for.

    pub(in super::super) fn strikes(call: Call) -> bool {
        let plan = &PLANS[call as usize];
        let number = plan.calls.fetch_add(1, Relaxed);
        (plan.from.load(Relaxed)..plan.until.load(Relaxed)).contains(&number)
    }

    /// Lets the calls of a kind with these numbers fail, counted from now on; an empty range lets none fail.
    pub fn fail(call: Call, numbers: Range<usize>) {
        let plan = &PLANS[call as usize];
        plan.until.store(0, Relaxed);
        plan.from.store(numbers.start, Relaxed);
        plan.calls.store(0, Relaxed);
        plan.until.store(numbers.end, Relaxed);
    }

    /// How many calls of a kind there were since [`fail`] was last told of it.
    #[must_use]
    pub fn count(call: Call) -> usize {
        PLANS[call as usize].calls.load(Relaxed)
    }
}
