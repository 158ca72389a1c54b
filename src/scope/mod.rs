//! Scopes: what code allocates that knows no family, it allocates from the one that its thread has entered.
//!
//! ```text
//!   heap.scope(…) ──► the thread's current family ◄── looked at by each allocation of `Scoped`
//!   heap.enter()                                      a free finds its family by the tag, and looks at nothing else
//!   future.in_heap(…), at each poll
//! ```
//!
//! **V3** A thread-local holds a handle of the family that is current, and each guard one of what was current before it. So
//! whatever order guards are dropped in, none of them refers to a heap that has ended.

mod future;
mod global;
mod owner;
mod spaced;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(test)]
mod tests;

use core::marker::PhantomData;
use std::thread::JoinHandle;

pub use future::{InHeap, InHeapFuture};
pub use global::Scoped;
#[cfg(feature = "tracing")]
pub use spans::{OutsideScopes, ScopeLayer};

use crate::family::{FamilyCore, FamilyRef, Held};
use crate::heap::{Heap, Parent};
use crate::thread::scopes::{self, Entry};

/// What a thread can enter: a [`Heap`], or a static family by its value. Heaps have the same functions themselves.
///
/// ```
/// use family_alloc::{Enter, Family, Scoped, family};
///
/// family! { struct Home; struct Session; }
///
/// #[global_allocator]
/// static GLOBAL: Scoped<Home> = Scoped::new();
///
/// let text = Session.scope(|| "of the session".to_string());
/// assert_eq!(Session::live_bytes(), 16);
/// drop(text);
/// assert_eq!(Session::live_bytes(), 0);
/// ```
pub trait Enter: Parent {
    /// Enters the family's scope: what this thread allocates through a [`Scoped`] global allocator is the family's, until the guard is
    /// dropped. As [`Heap::enter`].
    fn enter(&self) -> Entered {
        Entered::new(Some(Held::new(self.core())))
    }

    /// Calls a function in the family's scope. As [`Heap::scope`].
    fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let entered = Enter::enter(self);
        let result = work();
        // A handler of limits may panic here: the result is dropped then, which would be forgotten if it were returned already.
        drop(entered);
        result
    }
}

impl<P: Parent> Enter for P {}

/// A scope that a thread is in, from [`Heap::enter`] or [`Enter::enter`]; dropped, the thread is where it was before.
///
/// It stays with its thread, and holds its heap: a heap does not end while a scope of it is open. Guards are dropped in the reverse order,
/// as locals are. One that is dropped before those that were entered after it ends their scopes as well.
///
/// ```compile_fail
/// fn is_send<T: Send>() {}
/// is_send::<family_alloc::Entered>();
/// ```
#[must_use = "a scope is left when its guard is dropped"]
pub struct Entered {
    previous: Option<Held>,
    depth: u32,
    /// Which entry of the thread's it was: another scope may be open at the same depth when this guard is dropped.
    entry: u32,
    stays: PhantomData<*mut ()>,
}

impl Entered {
    /// Makes a family current, or none.
    fn new(family: Option<Held>) -> Self {
        let Entry { before, depth, number } = scopes::enter(family.map(Held::keep));
        // V3: the handle that the thread-local had.
        Self { previous: before.map(Held::kept), depth, entry: number, stays: PhantomData }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.previous.take();
        if !scopes::is_open(self.depth, self.entry) {
            // It was left with one that it was entered in: the handle goes.
            return;
        }
        let left = scopes::leave(previous.map(Held::keep), self.depth);
        if let Some(left) = left.map(Held::kept) {
            left.tell_of_crossings();
        }
    }
}

impl core::fmt::Debug for Entered {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Entered").finish_non_exhaustive()
    }
}

impl Heap {
    /// Calls a function in the heap's scope: what it allocates on this thread through a [`Scoped`] global allocator is the heap's,
    /// whichever crate it is that allocates. Without a `Scoped` nothing is different inside.
    ///
    /// Scopes nest, are left by panics too, and any number of threads can be in scopes of one heap. What was allocated may
    /// outlive scope and heap, and is freed from anywhere. What is not routed: what C code allocates, what other threads do for
    /// the function, and what lives elsewhere already: a buffer that grows in a scope stays in its own family.
    ///
    /// ```
    /// use family_alloc::{Heap, Scoped, family};
    ///
    /// family! { struct Home; }
    ///
    /// #[global_allocator]
    /// static GLOBAL: Scoped<Home> = Scoped::new();
    ///
    /// let request = Heap::new("request")?;
    /// let page: String = request.scope(|| format!("<p>{}</p>", "text ".repeat(100)));
    /// assert_eq!(request.live_bytes(), 1024);
    /// drop(page);
    /// assert_eq!(request.live_bytes(), 0);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        Enter::scope(self, work)
    }

    /// Enters the heap's scope, as [`scope`](Self::scope), until the guard is dropped.
    ///
    /// ```
    /// use family_alloc::{Heap, Scoped, current_scope, family};
    ///
    /// family! { struct Home; }
    ///
    /// #[global_allocator]
    /// static GLOBAL: Scoped<Home> = Scoped::new();
    ///
    /// let query = Heap::new("query")?;
    /// {
    ///     let _here = query.enter();
    ///     assert_eq!(current_scope().map(|family| family.name()), Some("query"));
    /// }
    /// assert_eq!(current_scope(), None);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn enter(&self) -> Entered {
        Enter::enter(self)
    }

    /// Calls a function outside of all scopes: for what must not be charged to whoever happens to come first.
    ///
    /// ```
    /// use std::sync::OnceLock;
    ///
    /// use family_alloc::{Heap, Scoped, family};
    ///
    /// family! { struct Home; }
    ///
    /// #[global_allocator]
    /// static GLOBAL: Scoped<Home> = Scoped::new();
    ///
    /// static CACHE: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// let request = Heap::new("request")?;
    /// request.scope(|| Heap::outside(|| CACHE.get_or_init(|| (0..1000).collect())).len());
    /// assert_eq!(request.live_bytes(), 0);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    pub fn outside<T>(work: impl FnOnce() -> T) -> T {
        let _outside = Entered::new(None);
        work()
    }
}

/// The family whose scope the calling thread is in.
///
/// ```
/// use family_alloc::{Heap, current_scope};
///
/// let heap = Heap::new("request")?;
/// let name = heap.scope(|| current_scope().map(|family| family.name()));
/// assert_eq!((name, current_scope()), (Some("request"), None));
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
#[must_use]
pub fn current_scope() -> Option<FamilyRef> {
    scopes::core().map(FamilyCore::reference)
}

/// A function that does what another does, in the scope that the thread is in now, on whatever thread it is called. It holds
/// the scope's heap for as long as it lives.
///
/// ```
/// use family_alloc::{Heap, carry_scope, current_scope};
///
/// let heap = Heap::new("request")?;
/// let name = heap.scope(|| {
///     let work = carry_scope(|| current_scope().map(|family| family.name()));
///     std::thread::Builder::new().spawn(work).unwrap().join().unwrap()
/// });
/// assert_eq!(name, Some("request"));
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
pub fn carry_scope<T, F: FnOnce() -> T>(work: F) -> impl FnOnce() -> T + use<T, F> {
    let carried = scopes::core().map(Held::new);
    move || {
        let entered = Entered::new(carried);
        let result = work();
        // As in `Enter::scope`.
        drop(entered);
        result
    }
}

/// Spawns a thread that is in the scope that this one is in now, as [`std::thread::spawn`] with [`carry_scope`].
///
/// # Panics
///
/// The system has no thread to give.
///
/// ```
/// use family_alloc::{Heap, Scoped, family, spawn_in_scope};
///
/// family! { struct Home; }
///
/// #[global_allocator]
/// static GLOBAL: Scoped<Home> = Scoped::new();
///
/// let query = Heap::new("query")?;
/// let rows = query.scope(|| spawn_in_scope(|| vec![0_u8; 1000]).join().unwrap());
/// assert!(query.live_bytes() >= 1024);
/// # drop(rows);
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
pub fn spawn_in_scope<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(carry_scope(work))
}
