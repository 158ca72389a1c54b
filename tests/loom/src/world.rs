//! What every model is made of: executions that begin alike, threads that end as threads do, families, and slots that have one owner.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::family::FamilyCore;
use crate::fatal::Line;
use crate::header::Directory;
use crate::magazine::CacheSlot;
use crate::size_class::SizeClass;
use crate::sync::{self, Sleep};
use crate::{Checks, Family, os};

/// Bytes of a slab in all models: the smallest.
pub(crate) const SLAB_BYTES: usize = 64 << 10;
/// The largest class: two slots are a slab, and slots come back to it at once, because it has no depot.
pub(crate) const HALF: SizeClass = SizeClass::natural(15);
/// Four slots are a slab, and the depot takes one batch of one slot.
pub(crate) const QUARTER: SizeClass = SizeClass::natural(14);

/// How often a thread is preempted at most, where `LOOM_MAX_PREEMPTIONS` does not say.
const PREEMPTIONS: usize = 2;

/// The crate has statics, and so there is one model at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

std::thread_local! {
    static OWNED: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
    static CORES: [Cell<Option<&'static FamilyCore>>; 3] = const { [const { Cell::new(None) }; 3] };
}

/// Runs a model through all its executions.
pub(crate) fn explore(sleep: Sleep, model: impl Fn() + Send + Sync + 'static) {
    explore_within(sleep, PREEMPTIONS, model);
}

/// The same, where a thread is preempted at most so often.
pub(crate) fn explore_within(sleep: Sleep, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    std::panic::set_hook(Box::new(print_failure));
    static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);
    EXECUTIONS.store(0, Ordering::Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = builder.max_branches.max(20_000);
    builder.check(move || {
        EXECUTIONS.fetch_add(1, Ordering::Relaxed);
        sync::reset();
        sync::set_sleep(sleep);
        os::reset();
        OWNED.take();
        CORES.with(|cores| cores.iter().for_each(|core| core.set(None)));
        Directory::forget_noted();
        model();
        sync::end_thread();
    });
    println!("{} executions", EXECUTIONS.load(Ordering::Relaxed));
}

/// Without a backtrace, for which loom's threads have too little stack, and without what loom ends its coroutines with.
fn print_failure(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    if payload.is::<&str>() || payload.is::<String>() {
        eprintln!("{panic}");
    }
}

/// A thread whose thread-locals are destroyed at its end.
pub(crate) struct Thread<T>(loom::thread::JoinHandle<Result<T, String>>);

pub(crate) fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Thread<T> {
    let whole = || {
        let result = body();
        sync::end_thread();
        result
    };
    let thread = loom::thread::Builder::new().stack_size(256 << 10);
    Thread(thread.spawn(|| catch_unwind(AssertUnwindSafe(whole)).map_err(line)).expect("loom has a thread left"))
}

impl<T> Thread<T> {
    /// What the thread's body returned, or the line with which it would have ended the process.
    pub(crate) fn join_or_line(self) -> Result<T, String> {
        self.0.join().expect("nothing unwinds out of a thread")
    }

    #[track_caller]
    pub(crate) fn join(self) -> T {
        self.join_or_line().unwrap_or_else(|line| panic!("no misuse, but: {line}"))
    }
}

/// Lets loom begin with other threads. It remembers only the last access to an atomic: a load that several threads begin with would
/// otherwise not be tried after their stores.
pub(crate) fn let_others_go_first() {
    loom::thread::yield_now();
}

/// The line with which a call would have ended the process.
pub(crate) fn line_of(call: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(call)).err().map(line)
}

fn line(unwound: Box<dyn Any + Send>) -> String {
    match unwound.downcast::<Line>() {
        Ok(line) => line.0,
        Err(other) => resume_unwind(other),
    }
}

/// A value that lives until the execution ends. It is not dropped.
pub(crate) fn place<T>(value: T) -> &'static T {
    let bytes = size_of::<T>().next_multiple_of(os::page_bytes());
    let memory = os::place(bytes, os::page_bytes().max(align_of::<T>())).cast::<T>();
    // SAFETY: room for a `T`, aligned to a page.
    unsafe { memory.write(value) };
    // SAFETY: written just now, and nobody else has it until the arena is cleared, when no thread is left.
    unsafe { memory.as_ref() }
}

/// Says that the calling thread has a slot. Fails if another has it, or had it and was not done when it gave it up.
#[track_caller]
pub(crate) fn own(address: usize) {
    sync::touch(address);
    assert!(OWNED.with_borrow_mut(|owned| owned.insert(address)), "{address:#x} was handed out twice");
}

/// Says that the calling thread is done with a slot.
#[track_caller]
pub(crate) fn disown(address: usize) {
    sync::touch(address);
    assert!(OWNED.with_borrow_mut(|owned| owned.remove(&address)), "{address:#x} is nobody's");
}

macro_rules! families {
    ($($(#[$doc:meta])* $name:ident $index:literal $checks:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub(crate) struct $name;

            // SAFETY: the same core at each call of an execution, which outlives its threads; the same slot at each call of a thread.
            unsafe impl Family for $name {
                const NAME: &'static str = stringify!($name);
                const SLAB_BYTES: usize = SLAB_BYTES;
                const CHECKS: Checks = Checks::$checks;
                const HUGE_PAGES: crate::huge_pages::HugePages = crate::huge_pages::HugePages::Adaptive;

                fn __core() -> &'static FamilyCore {
                    let new = || place(FamilyCore::new(Self::NAME, Self::SLAB_BYTES, Self::CHECKS, Self::__slot));
                    let core = CORES.with(|cores| cores[$index].get()).unwrap_or_else(new);
                    CORES.with(|cores| cores[$index].set(Some(core)));
                    core
                }

                fn __slot() -> *const CacheSlot {
                    sync::thread_local! {
                        static SLOT: CacheSlot = const { CacheSlot::new() };
                    }
                    SLOT.with(core::ptr::from_ref)
                }
            }

            impl core::hash::Hash for $name {
                fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
            }
        )*
    };
}

families! {
    One 0 Default;
    Two 1 Default;
    Checked 2 Checked;
}
