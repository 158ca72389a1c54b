//! What is done where memory lies outside of a stretch, so that tags alone do not tell whose a slot is.

use core::alloc::{GlobalAlloc, Layout};

use super::{Enter, Scoped};
use crate::front::Family;
use crate::header::{note_memory, tags_suffice};
use crate::heap::Heap;

crate::family! {
    struct Home;
    struct Narrow { slab_bytes: 64 * 1024 }
}

const SCOPED: Scoped<Home> = Scoped::new();

fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 11) as usize
}

/// Allocates, resizes and frees in scopes and outside; what is written to each block says which it is.
fn make_calls(heaps: &[Heap], seed: u64) {
    let mut random = seed;
    let mut live: Vec<(usize, Layout, u8)> = Vec::new();
    let is_intact = |&(address, layout, byte): &(usize, Layout, u8)| {
        let memory = core::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: a live block of that length, all of which was written.
        unsafe { core::slice::from_raw_parts(memory, layout.size()) }.iter().all(|&there| there == byte)
    };
    for step in 0..20_000 {
        let _entered = match next(&mut random) % (heaps.len() + 2) {
            0 => None,
            1 => Some(Narrow.enter()),
            index => Some(heaps[index - 2].enter()),
        };
        let size =
            1 + next(&mut random) % [64, 1000, 100_000][usize::from(step % 8 == 0) + usize::from(step % 64 == 0)];
        let layout = Layout::from_size_align(size, 1 << (next(&mut random) % 7)).unwrap();
        let index = next(&mut random) % live.len().max(1);
        match next(&mut random) % 4 {
            0 if !live.is_empty() => {
                let block = live.swap_remove(index);
                assert!(is_intact(&block));
                // SAFETY: live, with this layout.
                unsafe { SCOPED.dealloc(core::ptr::with_exposed_provenance_mut(block.0), block.1) };
            }
            1 if !live.is_empty() => {
                let (address, old, byte) = live[index];
                // SAFETY: live, with this layout, and the new size is not 0.
                let memory = unsafe { SCOPED.realloc(core::ptr::with_exposed_provenance_mut(address), old, size) };
                // SAFETY: as long as the new size says.
                let kept = unsafe { core::slice::from_raw_parts(memory, size.min(old.size())) };
                assert!(kept.iter().all(|&there| there == byte));
                // SAFETY: as above.
                unsafe { memory.write_bytes(byte, size) };
                let layout = Layout::from_size_align(size, old.align()).unwrap();
                live[index] = (memory.expose_provenance(), layout, byte);
            }
            _ => {
                // SAFETY: the size is not 0.
                let memory = unsafe { SCOPED.alloc(layout) };
                assert!(!memory.is_null() && memory.addr() % layout.align() == 0);
                // SAFETY: a new block of that length.
                unsafe { memory.write_bytes(step as u8, size) };
                live.push((memory.expose_provenance(), layout, step as u8));
            }
        }
        if live.len() > 500 {
            let block = live.swap_remove(0);
            assert!(is_intact(&block));
            // SAFETY: live, with this layout.
            unsafe { SCOPED.dealloc(core::ptr::with_exposed_provenance_mut(block.0), block.1) };
        }
    }
    for block in live {
        assert!(is_intact(&block));
        // SAFETY: live, with this layout.
        unsafe { SCOPED.dealloc(core::ptr::with_exposed_provenance_mut(block.0), block.1) };
    }
}

/// The same calls before and after; what was noted stays so for the rest of the process, which is one of its own.
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
#[cfg_attr(target_pointer_width = "32", ignore = "a table covers all of so short an address space")]
fn scopes_are_right_where_tags_do_not_suffice() {
    const NAME: &str = "scope::tests::scopes_are_right_where_tags_do_not_suffice";
    if let Some(output) = crate::child::run(NAME) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let heaps = [Heap::new("one").unwrap(), Heap::builder("wide").slab_bytes(2 << 20).build().unwrap()];
    make_calls(&heaps, 0x1234_5678_9abc_def1);
    // A page at each end of what there is.
    note_memory(1 << 12, 1 << 12);
    note_memory((usize::MAX >> 1) & !0xffff, 1 << 12);
    assert!(!tags_suffice());
    std::thread::scope(|scope| {
        let heaps = &heaps;
        // Joined one by one: a scope may end while its threads still give their caches back.
        let threads = [7, 8, 9].map(|seed| scope.spawn(move || make_calls(heaps, seed << 40 | 1)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(heaps.iter().all(|heap| heap.stats().live_allocations == 0));
    assert_eq!((Home::stats().live_allocations, Narrow::stats().live_allocations), (0, 0));
}

/// What heaps hold under the home may have used its limit up before it is first used itself.
#[test]
fn a_home_that_is_over_its_limit_is_begun() {
    crate::family! { struct Tight { slab_bytes: 512 * 1024, limit: 64 } }
    const OVER: Scoped<Tight> = Scoped::new();
    let heap = Heap::builder("all of it").parent(&Tight).build().unwrap();
    let layout = Layout::from_size_align(64, 8).unwrap();
    fn core_of(heap: &impl Enter) -> &'static crate::family::FamilyCore {
        heap.core()
    }
    let (core, class) = (core_of(&heap), crate::size_class::SizeClass::natural(6));
    let (first, _) = core.take_one(class).unwrap();
    let second = heap.scope(|| {
        // SAFETY: the size is not 0.
        unsafe { OVER.alloc(layout) }
    });
    assert!(!second.is_null());
    // SAFETY: allocated above with this layout.
    unsafe { OVER.dealloc(second, layout) };
    // SAFETY: taken above, and not used.
    unsafe { core.give_one(class, first) };
}
