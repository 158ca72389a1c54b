//! A thousand families, declared by a macro, the one with unchecked frees, and the one with spaced classes.

use std::alloc::GlobalAlloc;

use crate::subject::Door;

family_alloc::family! {
    /// A family whose frees are not checked.
    pub(crate) struct Raw { checks: Unchecked }
    /// A family whose slots are hardly longer than what is asked for.
    pub(crate) struct Spaced { classes: Spaced }
}

/// The door to one family.
fn door<F: GlobalAlloc + Default>() -> Door {
    Door {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        alloc: |layout| unsafe { F::default().alloc(layout) },
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        dealloc: |ptr, layout| unsafe { F::default().dealloc(ptr, layout) },
    }
}

/// One family in a module of its own.
macro_rules! member {
    () => {
        family_alloc::family! {
            /// One of a thousand.
            pub(crate) struct Member;
        }

        pub(super) fn collect(doors: &mut Vec<super::Door>) {
            doors.push(super::door::<Member>());
        }
    };
}

/// Ten modules, each made by the macro that is named.
macro_rules! ten {
    ($inner:ident: $($digit:ident)*) => {
        use super::{Door, door};

        pub(super) fn collect(doors: &mut Vec<Door>) {
            $($digit::collect(doors);)*
        }

        $(mod $digit { $inner!(); })*
    };
}

/// Ten families.
macro_rules! tens {
    () => { ten!(member: d0 d1 d2 d3 d4 d5 d6 d7 d8 d9); };
}

/// A hundred families.
macro_rules! hundreds {
    () => { ten!(tens: d0 d1 d2 d3 d4 d5 d6 d7 d8 d9); };
}

/// A thousand families.
mod thousand {
    ten!(hundreds: d0 d1 d2 d3 d4 d5 d6 d7 d8 d9);
}

/// Doors to `count` different families.
pub(super) fn doors(count: usize) -> Vec<Door> {
    let mut doors = Vec::with_capacity(1000);
    thousand::collect(&mut doors);
    assert!(count <= doors.len(), "only {} families are declared", doors.len());
    doors.truncate(count);
    doors
}
