//! What is said of a pointer that came back wrongly: the call, and what the address really is.

#![forbid(unsafe_code)]

use core::alloc::Layout;
use core::fmt;

use super::registry::families;
use super::{CLASS_BITS, FamilyCore};
use crate::fatal::fatal;
use crate::header::Directory;
use crate::size_class::SizeClass;
use crate::sync::Relaxed;

/// How a layout is served by a family: the class as people read it.
struct Class<'a>(&'a FamilyCore, Layout);

impl fmt::Display for Class<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = SizeClass::of(self.1);
        if class.index() <= FamilyCore::largest_class(1 << self.0.unit_shift) {
            write!(f, "{}-byte class", class.slot_bytes())
        } else {
            f.write_str("large")
        }
    }
}

/// What an address belongs to.
enum Owner {
    Slab { family: &'static str, slot_bytes: usize },
    Large { family: &'static str, address: usize, bytes: usize },
    Nobody,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slab { family, slot_bytes } => {
                write!(f, "it belongs to the {slot_bytes}-byte class of family {family}")
            }
            Self::Large { family, address, bytes } => {
                write!(f, "it lies in the large allocation of {bytes} bytes at {address:#x} of family {family}")
            }
            Self::Nobody => f.write_str("no family has allocated it"),
        }
    }
}

fn owner(address: usize) -> Owner {
    for family in families() {
        let core = family.0;
        let slab = Directory::of(core.unit_shift).slab(address);
        // A small table serves several addresses with one header: only the slab's own memory counts.
        if let Some(slab) =
            slab.filter(|slab| address >> core.unit_shift == slab.memory.get().addr() >> core.unit_shift)
        {
            let tag = slab.tag.load(Relaxed);
            let class = SizeClass::from_index(tag as usize & ((1 << CLASS_BITS) - 1));
            let name = FamilyCore::with_number(tag >> CLASS_BITS).map_or("unknown", |family| family.name());
            return Owner::Slab { family: name, slot_bytes: class.slot_bytes() };
        }
        if let Some((start, bytes)) = core.large.lock().containing(address) {
            return Owner::Large { family: core.name, address: start, bytes };
        }
    }
    Owner::Nobody
}

impl FamilyCore {
    /// Ends the process: `address` is no allocation of this family that the layout fits.
    #[cold]
    #[inline(never)]
    pub(crate) fn report_invalid_free(&self, address: usize, layout: Layout) -> ! {
        let class = Class(self, layout);
        let size = layout.size();
        fatal(format_args!(
            "invalid free of {address:#x} (size {size}, {class}, family {}): {}",
            self.name,
            owner(address)
        ))
    }

    /// Ends the process: a large allocation begins at `address`, but with another length.
    #[cold]
    pub(super) fn report_wrong_length(&self, address: usize, layout: Layout, bytes: usize) -> ! {
        let size = layout.size();
        fatal(format_args!(
            "wrong size at the free of {address:#x} (size {size}, large, family {}): it was allocated with {bytes} bytes",
            self.name
        ))
    }
}
