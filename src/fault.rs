//! What is known of a misuse, the line that says it, and the hook for test harnesses.
//!
//! A fault ends the process: its line goes to standard error, then the hook is called, then the process aborts. Nothing
//! is allocated on the way. No lock of this crate is held while the hook runs; so what a bin finds out under its lock
//! ([`report_under_lock`]) ends the process without the hook.

use core::fmt;

use crate::sync::{Acquire, AtomicPtr, Release};
#[cfg(any(feature = "std", loom))]
use crate::sync::{Cell, thread_local};
use crate::{fatal, os};

/// What was done wrongly; see [`Fault::kind`].
///
/// ```
/// use family_alloc::FaultKind;
///
/// family_alloc::set_fault_handler(|fault| {
///     if fault.kind == FaultKind::WriteAfterFree {
///         std::eprintln!("look for who still holds {:#x}", fault.address);
///     }
/// });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// What came back is no allocation of this family and class.
    InvalidFree,
    /// A large allocation came back with another length than its own.
    WrongSize,
    /// What came back is free already.
    DoubleFree,
    /// What came back points into a slot, not at its first byte.
    InteriorPointer,
    /// What came back is a slot that has not been allocated since its slab belongs to the class.
    NeverAllocated,
    /// A free slot was written to; found when it was to be handed out again.
    WriteAfterFree,
    /// Something was written behind the end of an allocation; found when it came back.
    Overflow,
}

/// One misuse, as a handler set with [`set_fault_handler`] is told of it. [`Display`](fmt::Display) prints the line of the report.
///
/// ```
/// use family_alloc::Fault;
///
/// fn report(fault: &Fault) {
///     std::eprintln!("{:?} in {}, {:?} bytes", fault.kind, fault.family, fault.size);
/// }
///
/// family_alloc::set_fault_handler(report);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// What was done wrongly.
    pub kind: FaultKind,
    /// The address that came back, or of the slot that was found damaged.
    pub address: usize,
    /// The size of the layout, where the fault was found in a call that has one.
    pub size: Option<usize>,
    /// Bytes of the slots of the class; `None` for large allocations.
    pub class_bytes: Option<usize>,
    /// The name of the family that found it; its path, where several families in use have that name.
    pub family: &'static str,
    pub(crate) truth: Truth,
}

/// What the address really is, or where the damage lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Truth {
    /// The fault's kind says it all.
    Said,
    /// A slab of this family and class holds the address.
    Slab { family: &'static str, slot_bytes: usize },
    /// A live large allocation holds the address.
    Large { family: &'static str, address: usize, bytes: usize },
    /// Nobody's memory.
    Nobody,
    /// The large allocation has this many bytes.
    Length(usize),
    /// The slot begins here.
    SlotAt(usize),
    /// At this offset.
    Offset(usize),
    /// The allocation has that many bytes, and this many behind it are as they were.
    Behind(usize, usize),
    /// Not the first byte of a slot, as its bin found out.
    NoSlot,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said => Ok(()),
            Self::Slab { family, slot_bytes } => {
                write!(f, ": it belongs to the {slot_bytes}-byte class of family {family}")
            }
            Self::Large { family, address, bytes } => {
                write!(f, ": it lies in the large allocation of {bytes} bytes at {address:#x} of family {family}")
            }
            Self::Nobody => f.write_str(": no family has allocated it"),
            Self::Length(bytes) => write!(f, ": it was allocated with {bytes} bytes"),
            Self::SlotAt(address) => write!(f, ": its slot begins at {address:#x}"),
            Self::Offset(offset) => write!(f, ": at offset {offset}"),
            Self::Behind(size, offset) => write!(f, ": {size} bytes long, written at offset {}", size + offset),
            Self::NoSlot => f.write_str(": it is no slot; found when it went back to its slab"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::InvalidFree => "invalid free of",
            FaultKind::WrongSize => "wrong size at the free of",
            FaultKind::DoubleFree => "double free of",
            FaultKind::InteriorPointer => "free of interior pointer",
            FaultKind::NeverAllocated => "free of never allocated",
            FaultKind::WriteAfterFree => "write after free of",
            FaultKind::Overflow => "overflow past the end of",
        };
        write!(f, "family_alloc: {what} {:#x} (", self.address)?;
        if let Some(size) = self.size {
            write!(f, "size {size}, ")?;
        }
        match self.class_bytes {
            Some(bytes) => write!(f, "{bytes}-byte class")?,
            None => f.write_str("large")?,
        }
        write!(f, ", family {}){}", self.family, self.truth)
    }
}

/// Called with a fault before the process ends.
///
/// ```
/// let handler: family_alloc::FaultHandler = |fault| std::eprintln!("{:?}", fault.kind);
/// family_alloc::set_fault_handler(handler);
/// ```
pub type FaultHandler = fn(&Fault);

static HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

#[cfg(any(feature = "std", loom))]
thread_local! {
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in the handler already, and from now on it is.
#[cfg(any(feature = "std", loom))]
fn enter_handler() -> bool {
    IN_HANDLER.replace(true)
}

/// Whether anybody is in the handler: nobody knows threads here.
#[cfg(not(any(feature = "std", loom)))]
fn enter_handler() -> bool {
    use crate::sync::{AtomicU32, Relaxed};

    static IS_ENTERED: AtomicU32 = AtomicU32::new(0);
    // Relaxed: whoever comes second ends the program, whatever the first is at.
    IS_ENTERED.swap(1, Relaxed) != 0
}

/// Sets what is called when a misuse has been found, after its line was written and before the process aborts; for test
/// harnesses and crash reporters. The last one set counts.
///
/// What is found wrong only in a slab's list, when a slot goes back to it or its free slots are put in order (possible with
/// `Unchecked` and `Default`), is not told. Otherwise it runs on the thread that made the call, or that
/// looks after all families, with no lock of this crate held. It must not use the family that found the
/// fault, which may be in the middle of an exchange. It cannot save the process: if it returns or unwinds,
/// the process aborts. A further fault on the same thread while it runs aborts at once. A
/// library that has the handler stays loaded (glibc).
///
/// ```
/// family_alloc::set_fault_handler(|fault| std::eprintln!("{:?} in {}", fault.kind, fault.family));
/// ```
pub fn set_fault_handler(handler: FaultHandler) {
    // A report may come when the library that set it would have been unloaded.
    os::stay_loaded((handler as *const ()).addr());
    // Release: publishes what the handler relies on to the thread that calls it (`report`).
    HANDLER.store(handler as *mut (), Release);
}

/// Ends the process when dropped, so that a handler cannot unwind out of here.
struct EndOnDrop;

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        fatal::end()
    }
}

/// Ends the process with the fault's line at once, where a lock is held and no handler can be called.
#[cold]
#[inline(never)]
pub(crate) fn report_under_lock(fault: &Fault) -> ! {
    fatal::say(format_args!("{fault}"));
    fatal::end_after(format_args!("{fault}"))
}

/// Ends the process with the fault's line. Called without any lock held.
#[cold]
#[inline(never)]
pub(crate) fn report(fault: &Fault) -> ! {
    fatal::say(format_args!("{fault}"));
    tell(fault);
    fatal::end_after(format_args!("{fault}"))
}

/// Calls the handler, if there is one and it is not what has found the fault.
fn tell(fault: &Fault) {
    let end = EndOnDrop;
    if !enter_handler() {
        // Acquire: pairs with the Release in `set_fault_handler`.
        let handler = HANDLER.load(Acquire);
        if !handler.is_null() {
            // SAFETY: only `set_fault_handler` stores here, and only a `FaultHandler`.
            let handler = unsafe { core::mem::transmute::<*mut (), FaultHandler>(handler) };
            handler(fault);
        }
    }
    core::mem::forget(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_prints_its_line() {
        let fault = Fault {
            kind: FaultKind::DoubleFree,
            address: 0x1000,
            size: None,
            class_bytes: Some(64),
            family: "Session",
            truth: Truth::Said,
        };
        assert_eq!(fault.to_string(), "family_alloc: double free of 0x1000 (64-byte class, family Session)");
        let fault = Fault { kind: FaultKind::InvalidFree, size: Some(33), truth: Truth::Nobody, ..fault };
        assert_eq!(
            fault.to_string(),
            "family_alloc: invalid free of 0x1000 (size 33, 64-byte class, family Session): no family has allocated it"
        );
    }
}
