//! The programs: what each does, and what may be resident at which of its moments.

mod caches;
mod fragments;
mod global;
mod idle;
mod large;
mod space;
mod threads;

use std::time::Duration;

use crate::heap::Heap;
use crate::moments::Moments;
use crate::peers::Name;
use crate::random::Random;
use crate::targets::Bound::{self, AtMost, Best, BestAt, Live, Of};

/// How much of a program is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// In percent of what the program does by itself.
    pub(crate) scale: usize,
    /// In percent of what the program waits by itself.
    pub(crate) time: usize,
    pub(crate) seed: u64,
    /// Whether other programs may be started that look at this one.
    pub(crate) looks: bool,
}

impl Settings {
    pub(crate) fn count(&self, full: usize) -> usize {
        (full * self.scale / 100).max(1)
    }

    pub(crate) fn seconds(&self, full: u64) -> Duration {
        Duration::from_millis(full * 10 * self.time as u64)
    }

    pub(crate) fn random(&self) -> Random {
        Random::new(self.seed)
    }

    /// Another sequence for each thread.
    pub(crate) fn random_of(&self, thread: usize) -> Random {
        Random::new(self.seed + 1 + thread as u64)
    }
}

/// One program, which runs in a process of its own for each allocator.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Heap, &Settings, &mut Moments),
    /// Figures that have a bound.
    pub(crate) targets: &'static [(&'static str, Bound)],
    /// Whether the allocator is the global one of the process.
    pub(crate) is_global: bool,
}

impl Program {
    const fn new(
        name: &'static str,
        what: &'static str,
        run: fn(&Heap, &Settings, &mut Moments),
        targets: &'static [(&'static str, Bound)],
    ) -> Self {
        Self { name, what, run, targets, is_global: false }
    }

    const fn as_global(self) -> Self {
        Self { is_global: true, ..self }
    }
}

/// What most programs may keep.
const IDLE: Bound = Best { times: 1.2, more_mib: 10.0 };
/// What must have come back by itself as if by `trim`.
const AS_TRIMMED: Bound = BestAt { figure: "trim", times: 1.2, more_mib: 10.0 };
const SPARSE: Bound = Of { name: Name::System, times: 1.2, more_mib: 1.0 };
const DROPPED: Bound = Best { times: 1.3, more_mib: 0.0 };
const PAGES: Bound = Live { times: 1.05 };

/// Every program, in the order of the output.
pub(crate) const ALL: &[Program] = &[
    Program::new(
        "idle_pool",
        "200 sleeping threads; each has served one request with 4 buffers of each size from 1 KiB to 1 MiB",
        idle::idle_pool,
        &[("all asleep", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "parked_threads",
        "512 MiB of 256 B, freed at random by 8 workers that wait; 3 s of silence",
        |heap, settings, moments| idle::parked_threads(heap, settings, moments, false),
        &[("trim", IDLE)],
    ),
    Program::new(
        "parked_threads/trickle",
        "the same, and one thread makes 20 pairs a millisecond for 5 s",
        |heap, settings, moments| idle::parked_threads(heap, settings, moments, true),
        &[("trickle of 5 s", AS_TRIMMED), ("trim", IDLE)],
    ),
    Program::new(
        "peak_then_idle",
        "600 MiB in 4 threads that stay, freed; silence, then another thread trickles",
        |heap, settings, moments| idle::peak_then_idle(heap, settings, moments, idle::Then::Trickle),
        &[("trickle of 10 s", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "peak_then_idle/same_thread",
        "one thread alone has the peak and then makes tight pairs",
        |heap, settings, moments| idle::peak_then_idle(heap, settings, moments, idle::Then::SameThread),
        &[("trickle of 10 s", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "peak_then_idle/other_family",
        "as the first, but another family trickles",
        |heap, settings, moments| idle::peak_then_idle(heap, settings, moments, idle::Then::OtherFamily),
        &[("trickle of 10 s", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "peak_then_idle/tight_loop",
        "as the first, but the other thread makes pairs without a pause",
        |heap, settings, moments| idle::peak_then_idle(heap, settings, moments, idle::Then::TightLoop),
        &[("trickle of 10 s", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "peak_then_idle/in_turn",
        "64 MiB in 256 B allocated and freed in turn every 100 ms: page faults a round",
        idle::in_turn,
        // A tenth of its pages.
        &[("page faults, later rounds", AtMost(1638))],
    ),
    Program::new(
        "one_big_buffer",
        "200 MiB freed at the start, then another family works for 8 s",
        large::one_big_buffer,
        &[("work of 8 s", IDLE)],
    ),
    Program::new(
        "one_big_buffer/many",
        "500 buffers of 64 KiB to 1 MiB instead",
        large::many_buffers,
        &[("work of 8 s", IDLE)],
    ),
    Program::new(
        "one_big_buffer/grown",
        "16 buffers that grow by `realloc` to 16 MiB and are shrunk to 1 KiB, then another family works for 8 s",
        large::grown_buffers,
        &[("work of 8 s", IDLE)],
    ),
    Program::new(
        "many_threads",
        "1000 threads at once, 20 families, four small objects of each",
        threads::many_threads,
        &[("all there", Best { times: 2.0, more_mib: 0.0 })],
    ),
    Program::new(
        "short_threads",
        "1000 threads one after the other; each is the only one to use a family of its own",
        threads::short_threads,
        &[("all ended", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "pool_of_families",
        "a pool grows to 64 threads and shrinks to 1, each time with four other families of twenty",
        threads::pool_of_families,
        &[("at rest", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "caches_stay",
        "200 threads at once use 5 families and end",
        threads::caches_stay,
        &[("trim", Of { name: Name::System, times: 1.2, more_mib: 1.0 })],
    ),
    Program::new("sparse/table", "a zeroed table of 2 GiB, a byte in each 2 MiB", large::table, &[("touched", SPARSE)]),
    Program::new("sparse/buffers", "1000 zeroed MiB, a byte in each", large::buffers, &[("touched", SPARSE)]),
    Program::new("sparse/reserved", "1000 buffers of 3 MiB, a byte in each", large::reserved, &[("touched", SPARSE)]),
    Program::new("sparse/stacks", "1000 stacks of 256 KiB, a page of each", large::stacks, &[("touched", SPARSE)]),
    Program::new("sparse/aligned", "500 × 64 B aligned to 2 MiB", large::aligned, &[("touched", SPARSE)]),
    Program::new("sparse/aligned-64k", "5000 × 64 B aligned to 64 KiB", large::aligned_64k, &[("touched", SPARSE)]),
    Program::new(
        "advice_stays/fresh",
        "one slot of each of 19 classes in a new family",
        |heap, settings, moments| caches::advice_stays(heap, settings, moments, false),
        &[("19 slots", SPARSE)],
    ),
    Program::new(
        "advice_stays/peak",
        "the same after a peak of 400 MiB that was given back",
        |heap, settings, moments| caches::advice_stays(heap, settings, moments, true),
        &[("19 slots", SPARSE)],
    ),
    Program::new(
        "states_stay/checked",
        "100 MiB of 16 B in a checked family, freed",
        caches::checked,
        &[("trim", IDLE)],
    ),
    Program::new("states_stay/hardened", "the same in a hardened family", caches::hardened, &[("trim", IDLE)]),
    Program::new(
        "slots/random_90",
        "a million slots of 64 B, 90 % freed at random",
        |heap, settings, moments| fragments::slots(heap, settings, moments, 64, fragments::Keep::OneIn(10)),
        &[("trim", PAGES)],
    ),
    Program::new(
        "slots/random_99.9",
        "a million slots of 64 B, 99.9 % freed at random",
        |heap, settings, moments| fragments::slots(heap, settings, moments, 64, fragments::Keep::OneIn(1000)),
        &[("trim", PAGES)],
    ),
    Program::new(
        "slots/one_a_page",
        "a million slots of 64 B, all but one of each page freed",
        |heap, settings, moments| fragments::slots(heap, settings, moments, 64, fragments::Keep::OneEvery(1)),
        &[("trim", PAGES)],
    ),
    Program::new(
        "slots/one_in_4_pages",
        "a million slots of 64 B, all but one of each fourth page freed",
        |heap, settings, moments| fragments::slots(heap, settings, moments, 64, fragments::Keep::OneEvery(4)),
        &[("trim", PAGES)],
    ),
    Program::new(
        "slots/16_bytes",
        "four million slots of 16 B, all but one of each eighth page freed",
        |heap, settings, moments| fragments::slots(heap, settings, moments, 16, fragments::Keep::OneEvery(8)),
        &[("trim", PAGES)],
    ),
    Program::new(
        "slots/1000_bytes",
        "64 000 slots of 1000 B, 95 % freed at random",
        |heap, settings, moments| fragments::slots(heap, settings, moments, 1000, fragments::Keep::OneIn(20)),
        &[("trim", PAGES)],
    ),
    Program::new(
        "survivors",
        "2 million objects of 8 to 1024 B, one in a thousand stays; `trim`",
        |heap, settings, moments| fragments::survivors(heap, settings, moments, false),
        &[("trim", Live { times: 1.3 })],
    ),
    Program::new(
        "survivors/light_load",
        "the same, and 10 s of light load instead",
        |heap, settings, moments| fragments::survivors(heap, settings, moments, true),
        &[("light load of 10 s", Live { times: 2.0 })],
    ),
    Program::new(
        "fragments",
        "mixed sizes in waves: each wave frees a random half of what is live and brings larger objects",
        fragments::waves,
        &[("all freed, light load of 5 s", IDLE), ("trim", IDLE)],
    ),
    Program::new(
        "cache",
        "a cache of 256 MiB whose entries change from 100 to 300 B, evicted at random",
        caches::cache,
        &[
            ("worst moment", Of { name: Name::Jemalloc, times: 1.1, more_mib: 0.0 }),
            ("end", Of { name: Name::Jemalloc, times: 1.1, more_mib: 0.0 }),
        ],
    ),
    Program::new(
        "cache/spaced",
        "the same in a family with `classes: Spaced`",
        caches::spaced_cache,
        &[
            ("worst moment", Of { name: Name::Jemalloc, times: 1.1, more_mib: 0.0 }),
            ("end", Of { name: Name::Jemalloc, times: 1.1, more_mib: 0.0 }),
        ],
    ),
    Program::new(
        "blocking_pool",
        "`tokio` with a blocking pool of 300 threads that comes and goes three times (global allocator)",
        global::blocking_pool,
        &[("at rest", Best { times: 1.2, more_mib: 0.0 })],
    )
    .as_global(),
    Program::new(
        "dropped/cache",
        "a map of 200 MiB of mixed sizes, used, then dropped (global allocator)",
        global::map_dropped,
        &[("dropped", DROPPED), ("dropped, light load of 3 s", DROPPED)],
    )
    .as_global(),
    Program::new(
        "dropped/service",
        "8 threads answer requests with strings, lists and maps, then all ends (global allocator)",
        global::service_dropped,
        &[("dropped", DROPPED), ("dropped, light load of 3 s", DROPPED)],
    )
    .as_global(),
    Program::new(
        "dropped/tables",
        "hash tables that grow to a million entries and are dropped, six times (global allocator)",
        global::tables_dropped,
        &[("dropped", DROPPED), ("dropped, light load of 3 s", DROPPED)],
    )
    .as_global(),
    Program::new(
        "map_count",
        "150 000 blobs of 40 kB in a family of 64 KiB slabs, every second freed, twice",
        space::map_count,
        &[
            ("mappings, all live", AtMost(1000)),
            ("mappings, half freed", AtMost(1000)),
            ("refused", AtMost(0)),
            ("small objects refused", AtMost(0)),
            ("threads refused", AtMost(0)),
            ("address space lost by the second time", AtMost(1 << 20)),
        ],
    ),
    Program::new(
        "core_size",
        "three families with a few objects: what a core file has",
        space::core_size,
        &[("dumped", AtMost(20_000_000)), ("gcore", AtMost(20_000_000))],
    ),
];

/// The program of that name.
pub(crate) fn find(name: &str) -> Option<&'static Program> {
    ALL.iter().find(|program| program.name == name)
}
