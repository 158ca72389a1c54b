//! [`Housekeeper`]: a thread that gives memory back while the rest of the program is silent.

#![forbid(unsafe_code)]

use std::io;
use std::mem;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::family::{LOOK_MILLISECONDS, Left, look_after_all, process};
use crate::heap::Heap;
use crate::os;

/// The engine's clock is a coarse one, which may be so much behind.
const CLOCK_MILLISECONDS: u64 = 10;
/// Until the next look, if something waits to be given back.
const LOOK: Duration = Duration::from_millis(LOOK_MILLISECONDS as u64 + CLOCK_MILLISECONDS);
/// The same, if nothing is known to wait: only a look tells what families have done since.
const QUIET: Duration = Duration::from_secs(1);

/// Enough for one look, also without optimisation.
const STACK_BYTES: usize = 128 << 10;

/// A thread that gives memory back which nobody has needed for a second, also while the program is silent.
///
/// Without one, whoever calls a family next does that, four times a second at most. So a program whose threads all sleep
/// right after its peak keeps what it held then. This thread looks after all families, static ones and heaps, about as
/// often; while nothing is left to give back it looks once a second, and families in which nothing has happened cost it a load.
/// Large families with pages that cannot go back keep it looking a few times a second.
/// What it gives back is the same, and so is what it leaves: what the caches of other threads hold, and pages with
/// a live allocation.
///
/// Libraries should leave it to the program to start one. A second does no harm, and nothing else. The
/// thread ends when this is dropped, or with the program after [`detach`](Self::detach). A child of a fork has none, and may
/// start one. Signals go to other threads: all are blocked in this one. What a look finds wrong is reported by this
/// thread, so a [fault handler](crate::set_fault_handler) may run on it.
/// As an option, it is what jemalloc calls `background_thread`.
///
/// ```
/// use std::thread::sleep;
/// use std::time::Duration;
///
/// use family_alloc::{Family, Housekeeper, Vec, family};
///
/// family! { struct Import; }
///
/// let housekeeper = Housekeeper::start()?;
/// drop(Vec::<u8, _>::with_capacity_in(64 << 20, Import));
/// // Nobody calls the family from here on.
/// while Import::stats().kept_bytes > 0 {
///     sleep(Duration::from_millis(50));
/// }
/// drop(housekeeper);
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
#[must_use = "the thread ends when this is dropped: `detach` lets it run on"]
pub struct Housekeeper {
    /// The thread ends when the sender is dropped. `None` once it has been detached.
    thread: Option<(Sender<()>, JoinHandle<()>)>,
    /// The process that it was started in: a child of a fork has the guard, but not the thread.
    process: u32,
}

impl Housekeeper {
    /// Starts the thread, called `family-alloc`, outside of all scopes.
    ///
    /// # Errors
    /// The system's, if it starts no thread: [`thread::Builder::spawn`].
    pub fn start() -> io::Result<Self> {
        Heap::outside(|| {
            let (running, ended) = mpsc::channel();
            let builder = thread::Builder::new().name("family-alloc".into()).stack_size(STACK_BYTES);
            let thread = os::without_signals(|| builder.spawn(move || keep_house(&ended)))?;
            Ok(Self { thread: Some((running, thread)), process: process() })
        })
    }

    /// Lets the thread run for as long as the program does.
    ///
    /// ```no_run
    /// fn main() -> std::io::Result<()> {
    ///     family_alloc::Housekeeper::start()?.detach();
    ///     // What the program does.
    ///     Ok(())
    /// }
    /// ```
    pub fn detach(mut self) {
        if let Some((running, thread)) = self.thread.take() {
            mem::forget(running);
            if self.process != process() {
                mem::forget(thread);
            }
        }
    }
}

impl Drop for Housekeeper {
    /// Ends the thread, and waits until it has.
    fn drop(&mut self) {
        let Some((running, thread)) = self.thread.take() else { return };
        if self.process != process() {
            // The thread may have had the channel's lock, and another may stand where it stood.
            mem::forget((running, thread));
            return;
        }
        drop(running);
        // It does not panic, and what it would say nobody waits for.
        let _ = thread.join();
    }
}

fn keep_house(ended: &Receiver<()>) {
    let mut pause = QUIET;
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = match look_after_all() {
            Left::Due => Duration::ZERO,
            Left::Waiting => LOOK,
            Left::Nothing => QUIET,
        };
    }
}
