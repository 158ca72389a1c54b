//! `fork` in the middle of everything: all locks are held while the process is copied, so the child finds none of them taken by
//! a thread that it does not have.
//!
//! The child has only the forking thread; what the caches of the others held stays out there,
//! counted as cached. A heap that another thread was looking after is let go for it.

use super::FamilyCore;
use super::caches;
use super::heaps::{self, shared_pools};
use super::names;
use super::registry::{NUMBERS, cores};
use crate::bin::Bin;
use crate::header::{Directory, lock_of_noted};
use crate::sync::{AtomicU32, Relaxed};
use crate::{marks, slab, thread_pages};

/// Installs the handlers, once per process, with no lock held: some systems run the handlers under a lock of their own that
/// `pthread_atfork` takes as well. Should there be no room for them, `fork` is as risky as with any lock.
pub(super) fn install() {
    static INSTALLED: AtomicU32 = AtomicU32::new(0);
    // Relaxed: whoever comes second does not wait, so a fork between here and the next line finds no handlers. Waiting would
    // be worse: in the child of such a fork it would never end.
    if INSTALLED.swap(1, Relaxed) != 0 {
        return;
    }
    // SAFETY: the handlers take and free locks only, which is all that a handler in the child may do here.
    unsafe { libc::pthread_atfork(Some(hold_all), Some(release_all), Some(begin_child)) };
}

/// A number that a child does not share with its parent.
#[cfg(feature = "std")]
pub(crate) fn process() -> u32 {
    install();
    caches::process()
}

/// Takes every lock in the order of `sync`.
extern "C" fn hold_all() {
    NUMBERS.hold();
    for family in cores() {
        family.caches.hold();
        family.large.hold();
        family.all_bins().for_each(|bin| bin.lock().hold());
        family.pool.hold();
    }
    shared_pools().for_each(|(_, pool)| pool.hold());
    Directory::locks().for_each(|lock| lock.hold());
    lock_of_noted().hold();
    thread_pages::lock().hold();
    names::lock().hold();
    heaps::lock().hold();
}

/// What the child does.
extern "C" fn begin_child() {
    release_all();
    // What a hardened family does and what stands behind its allocations must not be what the
    // parent knows.
    marks::begin_child();
    slab::begin_child();
    caches::begin_child();
    for family in cores() {
        family.large.begin_child();
        family.reseed();
        family.adopt_caches();
        family.survive_fork();
        family.all_bins().for_each(Bin::begin_child);
    }
    // Some may end by this, and all must have begun for that.
    cores().for_each(FamilyCore::end_look);
}

/// Frees what [`hold_all`] took, in the parent and in the child.
extern "C" fn release_all() {
    // SAFETY: held by `hold_all` on this thread, or on the one that this is a fork of; so are all below. No family can have
    // been added meanwhile, because the registry is locked until the end.
    unsafe { heaps::lock().release() };
    // SAFETY: as above.
    unsafe { names::lock().release() };
    // SAFETY: as above.
    unsafe { thread_pages::lock().release() };
    // SAFETY: as above.
    unsafe { lock_of_noted().release() };
    // SAFETY: as above.
    Directory::locks().for_each(|lock| unsafe { lock.release() });
    // SAFETY: as above.
    shared_pools().for_each(|(_, pool)| unsafe { pool.release() });
    for family in cores() {
        // SAFETY: as above.
        unsafe { family.pool.release() };
        // SAFETY: as above.
        family.all_bins().for_each(|bin| unsafe { bin.lock().release() });
        // SAFETY: as above.
        unsafe { family.large.release() };
        // SAFETY: as above.
        unsafe { family.caches.release() };
    }
    // SAFETY: as above.
    unsafe { NUMBERS.release() };
}
