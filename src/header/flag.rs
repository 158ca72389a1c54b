//! A yes or no that is one whatever somebody writes over it: not every byte is a `bool`.

#![forbid(unsafe_code)]

use crate::sync::Cell;

/// The yes or no.
pub(crate) struct Flag(Cell<u8>);

impl Flag {
    pub(crate) fn get(&self) -> bool {
        self.0.get() != 0
    }

    pub(crate) fn set(&self, is: bool) {
        self.0.set(u8::from(is));
    }
}
