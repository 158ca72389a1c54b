//! The misuses of `docs/misuse.md`, by the same names, of an allocator that knows neither families nor modes.

use std::sync::Barrier;
use std::thread;

use crate::heap::{Heap, read, write};
use crate::peers::{Name, with_subject};
use crate::subject::Subject;

/// What a case has found out itself; otherwise what follows is looked at.
type Verdict = Option<&'static str>;

/// One misuse, for every allocator.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) sizes: &'static [usize],
    run: fn(Name, usize),
}

impl Case {
    /// Misuses an allocator, looks at what follows, and ends the process if nothing else has.
    pub(crate) fn run(&self, name: Name, size: usize) {
        (self.run)(name, size);
    }
}

pub(crate) fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

fn finish<S: Subject>(size: usize, body: fn(&mut Heap<S>) -> Verdict) {
    let mut heap = Heap::new(size);
    let verdict = body(&mut heap);
    heap.end(verdict);
}

const ALL: &[usize] = &[8, 100, 4096, 65_536, 1 << 20, 4 << 20];
const SLABS: &[usize] = &[8, 100, 4096, 65_536, 1 << 20];
const ABOVE_A_STEP: &[usize] = &[100, 4096, 65_536, 1 << 20, 4 << 20];
const LARGE: &[usize] = &[4 << 20];
const LINE: &[usize] = &[64];
const SLACK: &[usize] = &[24, 100, 5000, 700_000, 5_000_000];

macro_rules! cases {
    ($($name:ident in $sizes:ident |$heap:ident| $body:block)*) => {
        pub(crate) const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            sizes: $sizes,
            run: |name, size| with_subject!(name, $name::run(size)),
        }),*];

        $(mod $name {
            use super::*;

            pub(super) fn run<S: Subject>(size: usize) {
                finish::<S>(size, body);
            }

            fn body<S: Subject>($heap: &mut Heap<S>) -> Verdict $body
        })*
    };
}

fn on_thread(work: impl FnOnce() + Send + 'static) {
    thread::spawn(work).join().expect("the thread ends");
}

/// Frees on a thread of its own what is an allocation of that size, or no longer.
fn free_on_thread<S: Subject>(address: usize, size: usize) {
    on_thread(move || Heap::<S>::dealloc(address, size, 1));
}

/// An address with others of its size around it, so that what it lies in stays.
fn among_others<S: Subject>(heap: &mut Heap<S>) -> usize {
    let slots: Vec<usize> = (0..4).map(|_| heap.allocate()).collect();
    slots[1]
}

/// An address that a thread which has ended allocated and freed.
fn freed_by_another<S: Subject>(size: usize) -> usize {
    let work = move || {
        let address = Heap::<S>::alloc(size, 1);
        Heap::<S>::dealloc(address, size, 1);
        address
    };
    thread::spawn(work).join().expect("the thread ends")
}

static STATIC: [u64; 8] = [7; 8];

fn static_address() -> usize {
    (&raw const STATIC).expose_provenance()
}

/// A mapping that nobody has allocated, with this access.
fn mapping(bytes: usize, access: libc::c_int) -> usize {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) }.expose_provenance()
}

fn foreign<S: Subject>(heap: &mut Heap<S>, address: usize) -> Verdict {
    heap.allocate();
    heap.free_again(address);
    None
}

fn overflow<S: Subject>(heap: &mut Heap<S>, length: usize) -> usize {
    let address = heap.allocate();
    (address + heap.size..address + heap.size + length).for_each(|at| write(at, !read(at)));
    address
}

cases! {
    df_same_thread_immediate in ALL |heap| {
        let address = heap.allocate();
        heap.free(address);
        heap.free_again(address);
        None
    }
    df_same_thread_one_between in ALL |heap| {
        let (address, other) = (heap.allocate(), heap.allocate());
        heap.free(address);
        heap.free(other);
        heap.free_again(address);
        None
    }
    df_same_thread_delayed in ALL |heap| {
        let (address, _keep) = (heap.allocate(), heap.allocate());
        let others: Vec<usize> = (0..heap.many()).map(|_| heap.allocate()).collect();
        heap.free(address);
        others.into_iter().for_each(|other| heap.free(other));
        heap.free_again(address);
        None
    }
    df_after_flush_to_shared in ALL |heap| {
        let slots: Vec<usize> = (0..heap.many()).map(|_| heap.allocate()).collect();
        let (address, keep) = (slots[slots.len() / 2], slots[slots.len() / 2 + 1]);
        slots.into_iter().filter(|&slot| slot != keep).for_each(|slot| heap.free(slot));
        heap.free_again(address);
        None
    }
    df_two_remote_threads in ALL |heap| {
        let address = among_others(heap);
        heap.forget(address);
        free_on_thread::<S>(address, heap.size);
        free_on_thread::<S>(address, heap.size);
        None
    }
    df_owner_then_remote in ALL |heap| {
        let address = among_others(heap);
        heap.free(address);
        free_on_thread::<S>(address, heap.size);
        None
    }
    df_remote_then_owner in ALL |heap| {
        let address = among_others(heap);
        heap.forget(address);
        free_on_thread::<S>(address, heap.size);
        heap.free_again(address);
        None
    }
    df_racing_threads_same_instant in SLABS |heap| {
        static START: Barrier = Barrier::new(2);
        let (address, size) = (among_others(heap), heap.size);
        heap.forget(address);
        let free = move || {
            START.wait();
            Heap::<S>::dealloc(address, size, 1);
        };
        let threads = [thread::spawn(free), thread::spawn(free)];
        threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
        None
    }
    df_after_owner_thread_exit in ALL |heap| {
        let address = freed_by_another::<S>(heap.size);
        heap.free_again(address);
        None
    }
    df_after_slab_reused_by_other_class in SLABS |heap| {
        let address = freed_by_another::<S>(heap.size);
        heap.allocate_of(if heap.size == 4096 { 512 } else { 4096 }, 1);
        heap.free_again(address);
        None
    }
    stale_free_after_reuse in SLABS |heap| {
        let address = heap.allocate();
        heap.free(address);
        heap.allocate();
        heap.free_again(address);
        None
    }
    stale_free_found_at_the_next in SLABS |heap| {
        let address = heap.allocate();
        heap.free(address);
        let again = heap.allocate();
        heap.free_again(address);
        if again == address {
            heap.free(again);
        }
        None
    }
    size_wrong_class_smaller in ALL |heap| {
        let address = heap.allocate();
        heap.free_as(address, heap.size / 2, 1);
        None
    }
    size_wrong_class_larger in ALL |heap| {
        let address = heap.allocate();
        heap.free_as(address, heap.size * 2, 1);
        None
    }
    size_off_by_one_at_every_class_edge in SLABS |heap| {
        let edge = heap.size.next_power_of_two();
        let address = heap.allocate_of(edge, 1);
        heap.free_as(address, edge + 1, 1);
        None
    }
    size_small_as_large in SLABS |heap| {
        let address = heap.allocate();
        heap.free_as(address, 8 << 20, 1);
        None
    }
    size_large_as_small in LARGE |heap| {
        let address = heap.allocate();
        heap.free_as(address, 64, 1);
        None
    }
    size_large_as_other_large in LARGE |heap| {
        let address = heap.allocate();
        heap.free_as(address, heap.size + 1, 1);
        None
    }
    size_isize_max in ALL |heap| {
        let address = heap.allocate();
        heap.free_as(address, isize::MAX as usize, 1);
        None
    }
    size_overflow_round_up in ALL |heap| {
        let address = heap.allocate();
        heap.free_as(address, (1 << (usize::BITS - 2)) + 1, 1);
        None
    }
    align_wrong_on_dealloc in ALL |heap| {
        let address = heap.allocate();
        heap.free_as(address, heap.size, heap.size.next_power_of_two() * 2);
        None
    }
    overaligned_freed_as_default in SLABS |heap| {
        let address = heap.allocate_of(heap.size, heap.size.next_power_of_two() * 2);
        heap.free_as(address, heap.size, 1);
        None
    }
    global_vs_family_mixup in ALL |heap| {
        foreign(heap, (&raw const *Box::leak(vec![0_u64; heap.size / 8].into_boxed_slice())).expose_provenance())
    }
    foreign_stack in ALL |heap| {
        let local = [0_u64; 4];
        foreign(heap, (&raw const local).expose_provenance())
    }
    foreign_static in ALL |heap| { foreign(heap, static_address()) }
    foreign_mmap in ALL |heap| {
        let address = mapping(heap.size, libc::PROT_READ);
        foreign(heap, address)
    }
    foreign_mmap_none in ALL |heap| {
        let address = mapping(heap.size, libc::PROT_NONE);
        foreign(heap, address)
    }
    foreign_wild in ALL |heap| { foreign(heap, 0x0123_4560_0000) }
    foreign_null_page in ALL |heap| { foreign(heap, 0x10) }
    foreign_high_bits in ALL |heap| {
        let address = heap.allocate();
        heap.free_again(address | 1 << 60);
        None
    }
    interior_plus_1 in ALL |heap| {
        let address = heap.allocate();
        heap.forget(address);
        heap.free_again(address + 1);
        None
    }
    interior_plus_16 in ABOVE_A_STEP |heap| {
        let address = heap.allocate();
        heap.forget(address);
        heap.free_again(address + 16);
        None
    }
    interior_large_plus_page in LARGE |heap| {
        let address = heap.allocate();
        heap.forget(address);
        heap.free_again(address + 4096);
        None
    }
    uninitialised_allocator_free in ALL |heap| {
        heap.free_again(static_address());
        None
    }
    realloc_wrong_old_size in ALL |heap| {
        let address = heap.allocate();
        heap.resize(address, heap.size * 4, heap.size * 8);
        None
    }
    realloc_wrong_align in ALL |heap| {
        let address = heap.allocate();
        heap.resize_from(address, (heap.size, heap.size.next_power_of_two() * 2), heap.size * 2);
        None
    }
    realloc_dangling in ALL |heap| {
        heap.allocate();
        heap.resize(std::ptr::NonNull::<u64>::dangling().addr().get(), heap.size, heap.size * 2);
        None
    }
    realloc_after_free in ALL |heap| {
        let address = among_others(heap);
        heap.free(address);
        heap.resize(address, heap.size, heap.size * 2);
        None
    }
    realloc_foreign in ALL |heap| {
        heap.allocate();
        heap.resize(static_address(), heap.size, heap.size * 2);
        None
    }
    shrink_then_free_old_layout in ABOVE_A_STEP |heap| {
        let address = heap.allocate();
        let shrunk = heap.resize(address, heap.size, heap.size / 4);
        heap.free_as(shrunk, heap.size, 1);
        None
    }
    grow_then_free_old_layout in SLABS |heap| {
        let address = heap.allocate();
        let grown = heap.resize(address, heap.size, 8 << 20);
        heap.free_as(grown, heap.size, 1);
        None
    }
    alloc_zeroed_after_dirty_free in ALL |heap| {
        for _ in 0..((16 << 20) / heap.size).clamp(10, 200) {
            let address = heap.allocate_zeroed();
            if (0..heap.size).any(|at| read(address + at) != 0) {
                return Some("not zero");
            }
            (0..heap.size).for_each(|at| write(address + at, 0xA5));
            heap.free(address);
        }
        Some("passes")
    }
    uaf_write in SLABS |heap| {
        let slots: Vec<usize> = (0..heap.many()).map(|_| heap.allocate()).collect();
        let address = slots[slots.len() / 2];
        slots.into_iter().for_each(|slot| heap.free(slot));
        // Where a list would have its link.
        write(address + 5, 0x41);
        None
    }
    uaf_write_link_word_local in SLABS |heap| {
        let slots: Vec<usize> = (0..heap.many()).map(|_| heap.allocate()).collect();
        let (address, keep) = (slots[slots.len() / 2], slots[slots.len() / 2 + 1]);
        slots.into_iter().filter(|&slot| slot != keep).for_each(|slot| heap.free(slot));
        (address..address + 8).for_each(|at| write(at, 0x41));
        None
    }
    uaf_write_link_word_remote in SLABS |heap| {
        let slots: Vec<usize> = (0..heap.many()).map(|_| heap.allocate()).collect();
        let (address, keep, size) = (slots[slots.len() / 2], slots[slots.len() / 2 + 1], heap.size);
        slots.iter().filter(|&&slot| slot != keep).for_each(|&slot| heap.forget(slot));
        on_thread(move || {
            slots.into_iter().filter(|&slot| slot != keep).for_each(|slot| Heap::<S>::dealloc(slot, size, 1));
        });
        (address..address + 8).for_each(|at| write(at, 0x41));
        None
    }
    uaf_write_large in LARGE |heap| {
        let address = heap.allocate();
        heap.free(address);
        write(address, 1);
        None
    }
    uaf_read_no_stale_secret in SLABS |heap| {
        let address = among_others(heap);
        let last = address + heap.size - 1;
        write(last, 0x5A);
        heap.free(address);
        Some(if read(last) == 0x5A { "not found" } else { "passes" })
    }
    overflow_1 in SLACK |heap| {
        let address = overflow(heap, 1);
        heap.free(address);
        None
    }
    overflow_1_zero in SLACK |heap| {
        let address = heap.allocate();
        write(address + heap.size, 0);
        heap.free(address);
        None
    }
    overflow_8 in SLACK |heap| {
        let address = overflow(heap, 8);
        heap.free(address);
        None
    }
    overflow_found_by_realloc in SLACK |heap| {
        let address = overflow(heap, 1);
        heap.resize(address, heap.size, heap.size + 1);
        None
    }
    overflow_into_freed_neighbour_192b in LINE |heap| {
        let slots: Vec<usize> = (0..1024).map(|_| heap.allocate()).collect();
        let live = slots[512];
        slots.into_iter().filter(|&slot| slot != live).for_each(|slot| heap.free(slot));
        (live + heap.size..live + 4 * heap.size).for_each(|at| write(at, 0x41));
        None
    }
    overflow_past_large_1 in LARGE |heap| {
        let end = heap.allocate() + heap.size;
        write(end, 1);
        None
    }
    underflow_before_large_1 in LARGE |heap| {
        let start = heap.allocate();
        write(start - 1, 1);
        None
    }
}
