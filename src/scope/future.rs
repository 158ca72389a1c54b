//! Futures that are in a scope whenever they are polled.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::{Enter, Entered};
use crate::family::Held;

/// Puts a future into a scope; for all futures.
pub trait InHeap: Future + Sized {
    /// The same future, which enters a heap's scope, or a static family's, at each poll and leaves it at each return, also by a
    /// panic. It may move from thread to thread between polls, and holds the heap for as long as it lives.
    ///
    /// ```
    /// use core::future::Future;
    /// use core::pin::pin;
    /// use core::task::{Context, Poll, Waker};
    ///
    /// use family_alloc::{Heap, InHeap, current_scope};
    ///
    /// async fn handle(request: &str) -> usize {
    ///     assert_eq!(current_scope().unwrap().name(), "tenant 42");
    ///     request.len()
    /// }
    ///
    /// let tenant = Heap::new("tenant 42")?;
    /// let mut task = pin!(handle("GET /").in_heap(&tenant));
    /// assert_eq!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(5));
    /// assert_eq!(current_scope(), None);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    fn in_heap(self, heap: &impl Enter) -> InHeapFuture<Self> {
        InHeapFuture { heap: Held::new(heap.core()), future: self }
    }
}

impl<F: Future> InHeap for F {}

/// A future in a scope; from [`InHeap::in_heap`].
#[must_use = "futures do nothing unless they are polled"]
pub struct InHeapFuture<F> {
    /// Dropped before the handle: what it has allocated goes back to a heap that is alive, not to an orphan, which is slower.
    future: F,
    heap: Held,
}

impl<F: Future> Future for InHeapFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let entered = Entered::new(Some(Held::new(*self.heap)));
        // SAFETY: the future is pinned where this one is: it is never moved out, and this type has no `Drop` and is `Unpin` only if it is.
        let future = unsafe { self.map_unchecked_mut(|this| &mut this.future) };
        let polled = future.poll(context);
        // As in `Enter::scope`.
        drop(entered);
        polled
    }
}

impl<F> core::fmt::Debug for InHeapFuture<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InHeapFuture").finish_non_exhaustive()
    }
}
