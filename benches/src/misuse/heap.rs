//! An allocator about to be misused: what it has handed out, and whether two of that ever share memory.
//!
//! What is written down here is reserved beforehand and printed without allocating: the system's allocator is one of the misused.

use std::alloc::Layout;
use std::marker::PhantomData;

use crate::subject::Subject;

/// Room for all that is ever live.
const LIVE_MAX: usize = 20_000;

/// The live allocations of one subject.
pub(crate) struct Heap<S> {
    /// The size that the case is about.
    pub(crate) size: usize,
    live: Vec<Slot>,
    subject: PhantomData<S>,
}

#[derive(Clone, Copy)]
struct Slot {
    address: usize,
    size: usize,
    align: usize,
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

fn pointer(address: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address)
}

/// Writes one byte somewhere.
pub(crate) fn write(address: usize, value: u8) {
    // SAFETY: none: a case breaks the contract on purpose, in a process of its own.
    unsafe { pointer(address).write_volatile(value) };
}

pub(crate) fn read(address: usize) -> u8 {
    // SAFETY: as above.
    unsafe { pointer(address).read_volatile() }
}

/// Prints a line without allocating.
fn say(line: &str) {
    // SAFETY: reads a live slice.
    unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) };
}

/// Ends this process without what is done at the end of one: what has been misused is not looked at again.
fn exit() -> ! {
    // SAFETY: everything has been printed.
    unsafe { libc::_exit(0) }
}

impl<S: Subject> Heap<S> {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, live: Vec::with_capacity(LIVE_MAX), subject: PhantomData }
    }

    /// How many allocations fill more than the caches of a thread.
    pub(crate) fn many(&self) -> usize {
        if self.size > 4096 { 20 } else { 1000 }
    }

    /// Allocates; 0 if there is no memory.
    pub(crate) fn alloc(size: usize, align: usize) -> usize {
        // SAFETY: no case allocates nothing.
        unsafe { S::alloc(layout(size, align)) }.expose_provenance()
    }

    pub(crate) fn dealloc(address: usize, size: usize, align: usize) {
        // SAFETY: none: a case breaks the contract on purpose.
        unsafe { S::dealloc(pointer(address), layout(size, align)) };
    }

    pub(crate) fn allocate_of(&mut self, size: usize, align: usize) -> usize {
        let address = Self::alloc(size, align);
        assert!(address != 0, "there is memory");
        self.live.push(Slot { address, size, align });
        address
    }

    pub(crate) fn allocate(&mut self) -> usize {
        self.allocate_of(self.size, 1)
    }

    pub(crate) fn allocate_zeroed(&mut self) -> usize {
        // SAFETY: no case allocates nothing.
        let address = unsafe { S::alloc_zeroed(layout(self.size, 1)) }.expose_provenance();
        assert!(address != 0, "there is memory");
        self.live.push(Slot { address, size: self.size, align: 1 });
        address
    }

    /// Strikes a live allocation off the list.
    pub(crate) fn forget(&mut self, address: usize) {
        self.live.retain(|slot| slot.address != address);
    }

    /// Frees what is live.
    pub(crate) fn free(&mut self, address: usize) {
        self.free_as(address, self.size, 1);
    }

    /// Frees what is live, perhaps as what it is not.
    pub(crate) fn free_as(&mut self, address: usize, size: usize, align: usize) {
        self.forget(address);
        Self::dealloc(address, size, align);
    }

    /// Frees what is not live, or not ours. If it is somebody's allocation by now, that one stays on the list.
    pub(crate) fn free_again(&mut self, address: usize) {
        Self::dealloc(address, self.size, 1);
    }

    pub(crate) fn resize(&mut self, address: usize, old: usize, new: usize) -> usize {
        self.resize_from(address, (old, 1), new)
    }

    /// Changes the size of what has, or has not, this size and alignment.
    pub(crate) fn resize_from(&mut self, address: usize, old: (usize, usize), new: usize) -> usize {
        self.forget(address);
        // SAFETY: none: a case may break the contract on purpose.
        let address = unsafe { S::realloc(pointer(address), layout(old.0, old.1), new) }.expose_provenance();
        if address != 0 {
            self.live.push(Slot { address, size: new, align: 1 });
        }
        address
    }

    /// Whether two live allocations share memory.
    fn overlaps(&mut self) -> bool {
        self.live.sort_unstable_by_key(|slot| slot.address);
        self.live.windows(2).any(|two| two[0].address + two[0].size > two[1].address)
    }

    /// Goes on as a program would that has noticed nothing, says how that went, and ends the process.
    pub(crate) fn end(mut self, verdict: Option<&'static str>) -> ! {
        if let Some(verdict) = verdict {
            say(verdict);
            exit();
        }
        say("misused\n");
        for size in [self.size, self.size * 2, (self.size / 2).max(1)] {
            for _ in 0..2 * self.many() {
                let address = Self::alloc(size, 1);
                if address == 0 {
                    break;
                }
                write(address, 1);
                write(address + size - 1, 1);
                self.live.push(Slot { address, size, align: 1 });
            }
        }
        if self.overlaps() {
            say("overlap\n");
            exit();
        }
        for Slot { address, size, align } in std::mem::take(&mut self.live) {
            Self::dealloc(address, size, align);
        }
        say("went on\n");
        exit()
    }
}
