//! The proof of concept's own benchmark, for one size: allocate a million, walk them, free them.

use std::alloc::Layout;
use std::hint::black_box;

use super::memory::{look, obtain};
use crate::meter::Meter;
use crate::os::Table;
use crate::subject::Subject;

pub(crate) fn run<S: Subject>(meter: &mut Meter, size: usize, count: usize) {
    let mut table = Table::new(count, std::ptr::null_mut());
    let layout = black_box(Layout::from_size_align(size, 1).expect("small"));
    meter.ready();
    meter.time("allocate", count, || allocate::<S>(&mut table, layout));
    meter.peak();
    meter.time("walk", count, || walk(&table));
    meter.time("free", count, || free::<S>(&table, layout));
}

fn allocate<S: Subject>(table: &mut [*mut u8], layout: Layout) {
    for slot in table {
        // SAFETY: no size is 0.
        let ptr = unsafe { obtain::<S>(layout) };
        for offset in (0..layout.size()).step_by(4096) {
            // SAFETY: inside the allocation.
            let page = unsafe { ptr.add(offset) };
            // SAFETY: inside the allocation.
            unsafe { page.write_volatile(1) };
        }
        *slot = ptr;
    }
}

fn walk(table: &[*mut u8]) {
    let mut sum = 0_usize;
    for &ptr in table {
        // SAFETY: every entry is live and was written to.
        sum += unsafe { look(ptr) };
    }
    assert_eq!(sum, table.len(), "every first byte is 1");
}

fn free<S: Subject>(table: &[*mut u8], layout: Layout) {
    for &ptr in table {
        // SAFETY: live, of that layout, visited once.
        unsafe { S::dealloc(ptr, layout) };
    }
}
