//! Cells whose every access loom sees, as one to data that must not race.

use super::objects::cell_at;

/// Tells loom that this thread writes at an address.
#[track_caller]
pub(crate) fn touch(address: usize) {
    cell_at(address).with_mut(|_| ());
}

/// What stands for the memory that begins at an address being there: no cell's address.
fn existence(address: usize) -> usize {
    address | 1 << (usize::BITS - 1)
}

/// Tells loom that memory which begins at an address has been made by this thread.
#[track_caller]
pub(crate) fn make_memory(address: usize) {
    touch(existence(address));
}

/// Tells loom that this thread has a pointer to an address, and so must have seen that memory made.
#[track_caller]
pub(super) fn find_memory(address: usize) {
    look(existence(address));
}

#[track_caller]
pub(crate) fn look(address: usize) {
    cell_at(address).with(|_| ());
}

#[repr(transparent)]
#[derive(Default)]
pub(crate) struct Cell<T: ?Sized>(core::cell::Cell<T>);

#[allow(dead_code, reason = "the same functions as the real one's")]
impl<T> Cell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::Cell::new(value))
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    #[track_caller]
    pub(crate) fn set(&self, value: T) {
        touch(self.address());
        self.0.set(value);
    }

    #[track_caller]
    pub(crate) fn replace(&self, value: T) -> T {
        touch(self.address());
        self.0.replace(value)
    }

    #[track_caller]
    pub(crate) fn get(&self) -> T
    where
        T: Copy,
    {
        look(self.address());
        self.0.get()
    }

    #[track_caller]
    pub(crate) fn take(&self) -> T
    where
        T: Default,
    {
        touch(self.address());
        self.0.take()
    }
}

/// For the value of a lock, which only its holder reaches: every access counts as a write.
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[track_caller]
    pub(crate) fn get(&self) -> *mut T {
        // One byte further, because a value may begin with a `Cell`.
        touch(core::ptr::from_ref(self).addr() + 1);
        self.0.get()
    }
}
