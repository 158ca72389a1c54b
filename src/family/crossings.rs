//! What is said of a limit that was crossed, and to whom.

use super::registry::FamilyRef;
use crate::sync::{Acquire, AtomicPtr, Release};

/// A [soft limit](crate::Scoped#limits-are-soft) that was crossed, as a handler set with [`set_limit_handler`] is told of it.
///
/// ```
/// use family_alloc::LimitCrossing;
///
/// fn warn(crossing: &LimitCrossing) {
///     std::eprintln!("{} holds {} bytes of {}", crossing.limit.name(), crossing.charged_bytes, crossing.limit_bytes);
/// }
///
/// family_alloc::set_limit_handler(warn);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LimitCrossing {
    /// The family whose limit it is.
    pub limit: FamilyRef,
    /// The limit, in bytes.
    pub limit_bytes: usize,
    /// Bytes that are charged to it when the handler is called; no longer above the limit, perhaps.
    pub charged_bytes: usize,
}

/// A function that is told of limits that are crossed; see [`set_limit_handler`].
pub type LimitHandler = fn(&LimitCrossing);

static HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets the function that is told of heaps and families that have no [handler of their own](crate::HeapBuilder::limit_handler), once for each time that a family comes to hold more than its limit. That happens where
/// limits are [soft](crate::Scoped#limits-are-soft), and where a limit is set below what is held; a refusal is no crossing. Nobody is told
/// when a family is below its limit again.
///
/// The function is called where a thread leaves a scope of the family or of one under it, the first that does: outside of any lock
/// and of any allocation, with the scope left. It may do anything, allocate and enter scopes as well. A family that crosses its limit more than
/// once before that is told of once.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
///
/// use family_alloc::{Heap, Scoped, family, set_limit_handler};
///
/// family! { struct Home; }
///
/// #[global_allocator]
/// static GLOBAL: Scoped<Home> = Scoped::new();
///
/// static CROSSED: AtomicUsize = AtomicUsize::new(0);
///
/// set_limit_handler(|crossing| {
///     assert_eq!(crossing.limit.name(), "tenant 42");
///     CROSSED.fetch_add(1, Relaxed);
/// });
/// let tenant = Heap::builder("tenant 42").limit(1 << 20).build()?;
/// let text = tenant.scope(|| "too long ".repeat(1 << 20));
/// assert!(tenant.over_limit() && CROSSED.load(Relaxed) == 1);
/// drop(text);
/// assert!(!tenant.over_limit());
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
pub fn set_limit_handler(handler: LimitHandler) {
    // Release: pairs with the Acquire in `call`.
    HANDLER.store(handler as *mut (), Release);
}

/// Tells the handler, if there is one.
pub(super) fn call(crossing: &LimitCrossing) {
    // Acquire: pairs with the Release above.
    let handler = HANDLER.load(Acquire);
    if !handler.is_null() {
        // SAFETY: only `LimitHandler`s are stored there.
        let handler = unsafe { core::mem::transmute::<*mut (), LimitHandler>(handler) };
        handler(crossing);
    }
}
