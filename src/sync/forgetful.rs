//! Thread-local state where nothing is known of threads: whoever looks finds the first value, and
//! what is stored is forgotten. So nothing is shared, and no thread ever has a cache.

#![forbid(unsafe_code)]

use core::cell::Cell;

/// Makes first values.
pub(crate) struct LocalKey<T: 'static>(fn() -> T);

impl<T> LocalKey<T> {
    pub(crate) const fn new(first: fn() -> T) -> Self {
        Self(first)
    }

    pub(crate) fn with<R>(&'static self, look: impl FnOnce(&T) -> R) -> R {
        look(&(self.0)())
    }
}

impl<T> LocalKey<Cell<T>> {
    pub(crate) fn get(&'static self) -> T {
        (self.0)().into_inner()
    }

    /// Forgets the value.
    pub(crate) fn set(&'static self, _: T) {}
}

/// As `std`'s.
macro_rules! forgetful_local {
    ($(static $name:ident: $type:ty = const $first:block;)*) => {
        $(static $name: $crate::sync::LocalKey<$type> = $crate::sync::LocalKey::new(|| const $first);)*
    };
}
pub(crate) use forgetful_local;
