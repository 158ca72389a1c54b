//! All of a family is freed at once: while others have caches of it, and while somebody looks after it.

use core::alloc::Layout;
use core::ptr::NonNull;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

use crate::Family;
use crate::front::{allocate, deallocate};
use crate::size_class::SizeClass;
use crate::sync::Sleep;
use crate::world::{HALF, One, QUARTER, disown, explore, let_others_go_first, own, spawn};

fn layout(class: SizeClass) -> Layout {
    Layout::from_size_align(class.slot_bytes(), 1).expect("a layout")
}

fn take(class: SizeClass) -> usize {
    let memory = allocate(One, layout(class)).expect("there is memory");
    let address = memory.cast::<u8>().as_ptr().expose_provenance();
    own(address);
    address
}

fn free(address: usize, class: SizeClass) {
    disown(address);
    let memory = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).expect("not null");
    // SAFETY: a live slot of this layout.
    unsafe { deallocate(One, memory, layout(class)) };
}

/// Live allocations, bytes of slabs and cached slots. A call: the figures of all classes are long, and a model's stack is short.
#[inline(never)]
fn figures() -> (usize, usize, usize) {
    let stats = One::stats();
    (stats.live_allocations, stats.slab_bytes, stats.cached_slots)
}

/// As [`Family::reset`], in a call of its own too.
///
/// # Safety
/// The same.
#[inline(never)]
unsafe fn reset() {
    // SAFETY: the same contract.
    unsafe { One::reset() };
}

/// Of a slab one slot is live and one free, whose pages somebody is giving back when the family is reset.
pub fn what_is_claimed_is_waited_for() {
    explore(Sleep::Lightly, || {
        let (kept, freed) = (take(HALF), take(HALF));
        free(freed, HALF);
        One::__core().flush_all(One::__core().slot().get(One::CLASSES.count(One::SLAB_BYTES)));
        let keeper = spawn(|| {
            let_others_go_first();
            One::__core().trim();
        });
        disown(kept);
        // SAFETY: nobody has anything of it; the other thread looks after the family and has no cache.
        unsafe { reset() };
        keeper.join();
        assert_eq!(figures(), (0, 0, 0));
        let slots = [take(HALF), take(HALF), take(HALF)];
        assert_eq!(figures().0, slots.len());
    });
}

/// A thread has a cache with slots in it, waits while another resets the family, and goes on.
pub fn caches_of_others_are_emptied() {
    explore(Sleep::Lightly, || {
        let turn = Arc::new(AtomicUsize::new(0));
        let other = {
            let turn = turn.clone();
            spawn(move || {
                let (left, freed) = (take(QUARTER), take(QUARTER));
                free(freed, QUARTER);
                disown(left);
                turn.store(1, Ordering::Release);
                while turn.load(Ordering::Acquire) != 2 {
                    loom::thread::yield_now();
                }
                take(QUARTER);
                take(QUARTER);
            })
        };
        while turn.load(Ordering::Acquire) != 1 {
            loom::thread::yield_now();
        }
        let left = take(QUARTER);
        disown(left);
        // SAFETY: the other thread waits, and nobody has anything of it.
        unsafe { reset() };
        assert_eq!(figures(), (0, 0, 0));
        turn.store(2, Ordering::Release);
        take(QUARTER);
        take(QUARTER);
        other.join();
        assert_eq!(figures().0, 4);
    });
}
