//! Atomics of the size and with the zero value of the real ones; what they hold is in loom's object of their address.

use core::marker::PhantomData;
use core::sync::atomic::{self, Ordering};
use std::rc::Rc;

use super::cells::find_memory;
use super::objects::{atomic_at, atomics_in};
use super::orders;

macro_rules! atomic {
    ($name:ident, $real:ident, $value:ty) => {
        #[repr(transparent)]
        pub(crate) struct $name(atomic::$real);

        #[allow(dead_code, clippy::unnecessary_cast, reason = "one text for all sizes")]
        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                assert!(value == 0, "the crate's atomics begin as 0");
                Self(atomic::$real::new(value))
            }

            fn object(&self) -> Rc<loom::sync::atomic::AtomicUsize> {
                atomic_at(core::ptr::from_ref(self).addr())
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.object().load(orders::order(order)) as $value
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.object().store(value as usize, orders::order(order));
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                self.object().swap(value as usize, orders::order(order)) as $value
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let exchanged = self.object().compare_exchange(
                    current as usize,
                    new as usize,
                    orders::order(success),
                    orders::order(failure),
                );
                exchanged.map(|value| value as $value).map_err(|value| value as $value)
            }
        }
    };
}

atomic!(AtomicU8, AtomicU8, u8);
atomic!(AtomicU32, AtomicU32, u32);
atomic!(AtomicI32, AtomicI32, i32);
atomic!(AtomicUsize, AtomicUsize, usize);

impl AtomicU8 {
    #[track_caller]
    pub(crate) fn fetch_or(&self, value: u8, order: Ordering) -> u8 {
        self.object().fetch_or(value as usize, orders::order(order)) as u8
    }
}

impl AtomicU32 {
    #[track_caller]
    pub(crate) fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.object().fetch_sub(value as usize, orders::order(order)) as u32
    }

    #[track_caller]
    pub(crate) fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
        self.object().fetch_or(value as usize, orders::order(order)) as u32
    }

    #[track_caller]
    pub(crate) fn fetch_max(&self, value: u32, order: Ordering) -> u32 {
        self.object().fetch_max(value as usize, orders::order(order)) as u32
    }
}

impl AtomicUsize {
    #[track_caller]
    pub(crate) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        self.object().fetch_add(value, orders::order(order))
    }

    #[track_caller]
    pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        self.object().fetch_sub(value, orders::order(order))
    }

    #[track_caller]
    pub(crate) fn fetch_max(&self, value: usize, order: Ordering) -> usize {
        self.object().fetch_max(value, orders::order(order))
    }
}

#[repr(transparent)]
pub(crate) struct AtomicPtr<T>(AtomicUsize, PhantomData<*mut T>);

// SAFETY: as the real one: a number in an atomic.
unsafe impl<T> Sync for AtomicPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Send for AtomicPtr<T> {}

impl<T> AtomicPtr<T> {
    pub(crate) const fn new(pointer: *mut T) -> Self {
        assert!(pointer.is_null(), "the crate's atomics begin as 0");
        Self(AtomicUsize::new(0), PhantomData)
    }

    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> *mut T {
        let address = self.0.load(order);
        if address != 0 {
            find_memory(address);
        }
        core::ptr::with_exposed_provenance_mut(address)
    }

    #[track_caller]
    pub(crate) fn store(&self, pointer: *mut T, order: Ordering) {
        self.0.store(pointer.expose_provenance(), order);
    }

    #[track_caller]
    pub(crate) fn swap(&self, pointer: *mut T, order: Ordering) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.0.swap(pointer.expose_provenance(), order))
    }

    #[track_caller]
    pub(crate) fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        let (current, new) = (current.expose_provenance(), new.expose_provenance());
        let exchanged = self.0.compare_exchange(current, new, success, failure);
        exchanged.map(core::ptr::with_exposed_provenance_mut).map_err(core::ptr::with_exposed_provenance_mut)
    }
}

/// What the crate does to a range of bytes at once.
///
/// # Safety
/// As the crate's.
#[track_caller]
pub(crate) unsafe fn clear(first: *mut AtomicU8, count: usize) {
    for address in atomics_in(first.addr()..first.addr() + count) {
        atomic_at(address).store(0, Ordering::Relaxed);
    }
}
