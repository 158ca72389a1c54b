//! [`ScopeLayer`]: spans of `tracing` that name a heap are scopes of it; and [`OutsideScopes`], which keeps a
//! subscriber's own memory out of them.
//!
//! ```text
//!   new_span, record ──field `heap`──► find ──► a handle, in the span's extensions until it is closed
//!   enter ──► a guard, on top of the thread's stack of them
//!   exit  ──► the span's guard is dropped, once all above it are: so the scope is that of the innermost
//!             span that is still entered
//! ```

use core::any::TypeId;
use core::cell::RefCell;
use core::fmt;
use std::vec::Vec;

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Current, Id, Record};
use tracing_core::subscriber::Interest;
use tracing_core::{Dispatch, Event, LevelFilter, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::Entered;
use crate::heap::Heap;

/// The field that names a heap, unless [`ScopeLayer::with_field`] says another.
const FIELD: &str = "heap";

/// A layer for [`tracing-subscriber`](tracing_subscriber) (feature `tracing`): a span with a field `heap` is a
/// [scope](Heap::scope) of the heap of that name, whenever and wherever it is entered. So code that has spans anyway need not
/// know of heaps: what an instrumented future allocates at each poll, on whatever thread, is its tenant's.
///
/// Names are looked up by a function, once for each span, where it is made or the field is recorded. `None` means that the span
/// is no scope: what is allocated in it goes where the span around it has it go. The span holds the heap until it is closed. Spans
/// may be left in another order than they were entered in: the scope is that of the innermost which is still entered.
///
/// # What the subscriber itself allocates
///
/// A registry keeps memory for the next spans, and a formatter its buffer: made in a scope, they would be charged to the
/// heap that happens to be there, and keep it as an orphan. [`OutsideScopes`] around the whole subscriber is for that. The layer itself
/// allocates outside of all scopes.
///
/// ```
/// use std::collections::HashMap;
///
/// use family_alloc::{Heap, OutsideScopes, ScopeLayer, Scoped, family};
/// use tracing_subscriber::layer::SubscriberExt;
///
/// family! { struct Home; }
///
/// #[global_allocator]
/// static GLOBAL: Scoped<Home> = Scoped::new();
///
/// let tenants = HashMap::from([("ada", Heap::new("ada")?), ("brook", Heap::new("brook")?)]);
/// let ada = tenants["ada"].clone();
/// let layer = ScopeLayer::new(move |name: &str| tenants.get(name).cloned());
/// let subscriber = OutsideScopes::new(tracing_subscriber::registry().with(layer));
///
/// tracing::subscriber::with_default(subscriber, || {
///     let request = tracing::info_span!("request", heap = "ada");
///     let page = request.in_scope(|| "text ".repeat(100));
///     assert_eq!(ada.live_bytes(), 512);
///     drop(page);
/// });
/// # Ok::<(), family_alloc::HeapError>(())
/// ```
pub struct ScopeLayer<F> {
    field: &'static str,
    find: F,
}

impl<F: Fn(&str) -> Option<Heap> + 'static> ScopeLayer<F> {
    /// A layer that asks a function for the heaps that spans name. The function is called outside of all scopes, and may be called by
    /// any thread.
    pub const fn new(find: F) -> Self {
        Self { field: FIELD, find }
    }

    /// The same, with another name for the field.
    ///
    /// ```
    /// use family_alloc::{Heap, ScopeLayer};
    ///
    /// let tenant = Heap::new("tenant")?;
    /// let layer = ScopeLayer::new(move |name: &str| (name == "42").then(|| tenant.clone())).with_field("tenant_id");
    /// # drop(layer);
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    pub fn with_field(self, field: &'static str) -> Self {
        Self { field, ..self }
    }

    /// The heap that some values name.
    fn named(&self, record: impl FnOnce(&mut Named<'_, F>)) -> Option<Heap> {
        let mut named = Named { layer: self, heap: None };
        record(&mut named);
        named.heap
    }
}

impl<F> fmt::Debug for ScopeLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeLayer").field("field", &self.field).finish_non_exhaustive()
    }
}

/// Looks for the field.
struct Named<'layer, F> {
    layer: &'layer ScopeLayer<F>,
    heap: Option<Heap>,
}

impl<F: Fn(&str) -> Option<Heap> + 'static> Visit for Named<'_, F> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.layer.field {
            self.heap = (self.layer.find)(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == self.layer.field {
            // What `%` and `?` give, and numbers.
            self.record_str(field, &std::format!("{value:?}"));
        }
    }
}

/// What a span is a scope of; in its extensions.
struct InSpan(Heap);

/// A span that is entered.
struct Open {
    id: Id,
    guard: Entered,
    /// Whether it was exited before one that was entered after it.
    is_left: bool,
}

std::thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
}

/// Takes the next guard off the stack that is not needed any more. It is dropped where the stack is not borrowed: leaving a scope
/// may call a handler of limits, which may use spans.
fn next_left() -> Option<Open> {
    OPEN.try_with(|open| {
        let mut open = open.borrow_mut();
        if open.last()?.is_left { open.pop() } else { None }
    })
    .ok()
    .flatten()
}

impl<S, F> Layer<S> for ScopeLayer<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn(&str) -> Option<Heap> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Heap::outside(|| {
            if let (Some(heap), Some(span)) = (self.named(|named| attributes.record(named)), context.span(id)) {
                span.extensions_mut().replace(InSpan(heap));
            }
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Heap::outside(|| {
            if let (Some(heap), Some(span)) = (self.named(|named| values.record(named)), context.span(id)) {
                // Where it is entered already it stays in the scope that it is in.
                let before = span.extensions_mut().replace(InSpan(heap));
                drop(before);
            }
        });
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let heap = context.span(id).and_then(|span| span.extensions().get::<InSpan>().map(|span| span.0.clone()));
        let Some(heap) = heap else { return };
        // A thread that is ending has no stack any more, and then no scopes.
        let has_room = OPEN.try_with(|open| Heap::outside(|| open.borrow_mut().reserve(1))).is_ok();
        if has_room {
            let entered = Open { id: id.clone(), guard: heap.enter(), is_left: false };
            _ = OPEN.try_with(|open| open.borrow_mut().push(entered));
        }
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        _ = OPEN.try_with(|open| {
            let mut open = open.borrow_mut();
            if let Some(open) = open.iter_mut().rev().find(|open| open.id == *id && !open.is_left) {
                open.is_left = true;
            }
        });
        while let Some(open) = next_left() {
            drop(open.guard);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        // The last handle may be among them: the heap ends when nothing of the span is borrowed.
        let closed = context.span(&id).and_then(|span| span.extensions_mut().remove::<InSpan>());
        drop(closed);
    }
}

/// A `tracing` subscriber whose own memory is in no [scope](Heap::scope): what it allocates when spans are made and
/// closed, and events recorded, goes to the home. It goes around the whole subscriber, a [`ScopeLayer`] included.
///
/// Entering and exiting spans is passed on as it is: the scopes that a layer enters must stay.
#[derive(Debug)]
pub struct OutsideScopes<S>(S);

impl<S> OutsideScopes<S> {
    /// The same subscriber, outside of all scopes.
    pub const fn new(subscriber: S) -> Self {
        Self(subscriber)
    }
}

impl<S: Subscriber> Subscriber for OutsideScopes<S> {
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        Heap::outside(|| self.0.on_register_dispatch(subscriber));
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        Heap::outside(|| self.0.register_callsite(metadata))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        Heap::outside(|| self.0.new_span(span))
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        Heap::outside(|| self.0.record(span, values));
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        Heap::outside(|| self.0.record_follows_from(span, follows));
    }

    fn event_enabled(&self, event: &Event<'_>) -> bool {
        self.0.event_enabled(event)
    }

    fn event(&self, event: &Event<'_>) {
        Heap::outside(|| self.0.event(event));
    }

    fn enter(&self, span: &Id) {
        self.0.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.0.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        Heap::outside(|| self.0.try_close(id))
    }

    fn current_span(&self) -> Current {
        self.0.current_span()
    }

    unsafe fn downcast_raw(&self, id: TypeId) -> Option<*const ()> {
        if id == TypeId::of::<Self>() {
            return Some(core::ptr::from_ref(self).cast());
        }
        // SAFETY: the same contract: what is asked for lives as long as this does.
        unsafe { self.0.downcast_raw(id) }
    }
}
