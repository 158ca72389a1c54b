//! The programs and the names of their allocators.

/// A program, and what it is linked with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Allocator {
    /// The name in the tables and on the command line.
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    /// Whether it is another's, that ours is compared with.
    pub(crate) is_peer: bool,
}

/// Every allocator, in the order of the tables.
pub(crate) static ALL: [Allocator; 9] = [
    Allocator { name: "ours, Spaced", program: env!("CARGO_BIN_EXE_spaced"), is_peer: false },
    Allocator { name: "ours, Spaced, Housekeeper", program: env!("CARGO_BIN_EXE_housekeeper"), is_peer: false },
    Allocator { name: "ours, Natural", program: env!("CARGO_BIN_EXE_natural"), is_peer: false },
    Allocator { name: "system", program: env!("CARGO_BIN_EXE_system"), is_peer: true },
    Allocator { name: "mimalloc", program: env!("CARGO_BIN_EXE_mimalloc"), is_peer: true },
    Allocator { name: "jemalloc", program: env!("CARGO_BIN_EXE_jemalloc"), is_peer: true },
    Allocator { name: "snmalloc", program: env!("CARGO_BIN_EXE_snmalloc"), is_peer: true },
    Allocator { name: "rpmalloc", program: env!("CARGO_BIN_EXE_rpmalloc"), is_peer: true },
    Allocator { name: "rusty_alloc", program: env!("CARGO_BIN_EXE_rusty_alloc"), is_peer: true },
];

/// The mimalloc that is linked.
pub(crate) fn mimalloc_version() -> String {
    // SAFETY: a function without arguments that returns a constant.
    let version = unsafe { libmimalloc_sys::mi_version() };
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}
