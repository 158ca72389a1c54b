//! Spans that name heaps: entered, polled, left in any order, and what the subscriber itself allocates.

mod common;

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use common::heaps::{ends, listed};
use family_alloc::{FamilyRef, Heap, OutsideScopes, ScopeLayer, Scoped, current_scope, family};
use tracing::dispatcher::{Dispatch, with_default};
use tracing::field::Empty;
use tracing::{Instrument, info, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

family! { struct Home; }

#[global_allocator]
static GLOBAL: Scoped<Home> = Scoped::new();

fn name() -> Option<&'static str> {
    current_scope().map(FamilyRef::name)
}

fn live(heap: &Heap) -> usize {
    heap.stats().live_allocations
}

/// Keeps the names of all events and spans, as a layer that writes them somewhere would.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        self.0.lock().unwrap().push(format!("span {}", attributes.metadata().name()));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.lock().unwrap().push(format!("event of {} at {}", event.metadata().target(), event.metadata().level()));
    }
}

/// Heaps by name, and a dispatch whose spans find them.
fn tenants(names: &[&str]) -> (HashMap<String, Heap>, Dispatch, Log) {
    let heaps: HashMap<String, Heap> = names.iter().map(|&name| (name.to_string(), Heap::new(name).unwrap())).collect();
    let (found, log) = (heaps.clone(), Log::default());
    let layer = ScopeLayer::new(move |name: &str| {
        assert_eq!(current_scope(), None, "the function is called outside of all scopes");
        found.get(name).cloned()
    });
    let subscriber = OutsideScopes::new(tracing_subscriber::registry().with(log.clone()).with(layer));
    (heaps, Dispatch::new(subscriber), log)
}

#[test]
fn a_span_with_the_field_is_a_scope() {
    let (heaps, dispatch, _) = tenants(&["ada", "brook"]);
    let (ada, brook) = (&heaps["ada"], &heaps["brook"]);
    with_default(&dispatch, || {
        let span = info_span!("request", heap = "ada", path = "/index");
        assert_eq!(name(), None, "made, not entered");
        let text = span.in_scope(|| {
            let text = "x".repeat(100);
            // One without the field, and one that names nothing, stay in the scope that is there.
            info_span!("inner").in_scope(|| assert_eq!(name(), Some("ada")));
            info_span!("unknown", heap = "nobody").in_scope(|| assert_eq!(name(), Some("ada")));
            info_span!("other", heap = %"brook").in_scope(|| assert_eq!((name(), live(brook)), (Some("brook"), 0)));
            assert_eq!(name(), Some("ada"));
            text
        });
        assert_eq!((name(), live(ada), live(brook)), (None, 1, 0));
        drop(text);
        assert_eq!(live(ada), 0);
    });
}

#[test]
fn the_field_may_come_later_and_be_another() {
    let tenant = Heap::new("later").unwrap();
    let found = tenant.clone();
    let layer = ScopeLayer::new(move |name: &str| (name == "42").then(|| found.clone())).with_field("tenant");
    with_default(&Dispatch::new(OutsideScopes::new(tracing_subscriber::registry().with(layer))), || {
        let span = info_span!("request", heap = "42", tenant = Empty);
        span.in_scope(|| assert_eq!(name(), None));
        span.record("tenant", 42);
        span.in_scope(|| assert_eq!(name(), Some("later")));
    });
}

#[test]
fn spans_are_left_in_any_order() {
    let (heaps, dispatch, _) = tenants(&["first", "second", "third"]);
    with_default(&dispatch, || {
        let [first, second, third] = ["first", "second", "third"].map(|heap| info_span!("span", heap));
        let (one, two, three) = (first.enter(), second.enter(), third.enter());
        assert_eq!(name(), Some("third"));
        drop(one);
        assert_eq!(name(), Some("third"), "the innermost is still entered");
        drop(three);
        assert_eq!(name(), Some("second"));
        drop(two);
        assert_eq!(name(), None);
        // The same span twice.
        let (outer, inner) = (first.enter(), first.enter());
        drop(outer);
        assert_eq!(name(), Some("first"));
        drop(inner);
        assert_eq!(name(), None);
    });
    assert!(heaps.values().all(|heap| live(heap) == 0));
}

#[test]
fn a_panic_leaves_its_spans() {
    let (_heaps, dispatch, _) = tenants(&["panics"]);
    with_default(&dispatch, || {
        let span = info_span!("span", heap = "panics");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            span.in_scope(|| std::panic::resume_unwind(Box::new("no message")))
        }));
        assert!(result.is_err() && name().is_none());
    });
}

/// Gives the processor away so often, and allocates in between.
struct Steps {
    left: usize,
    made: Vec<String>,
    heap: &'static str,
}

impl Future for Steps {
    type Output = usize;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<usize> {
        assert_eq!(name(), Some(self.heap));
        let text = "step ".repeat(20 + self.left);
        self.made.push(text);
        if self.left == 0 {
            return Poll::Ready(self.made.len());
        }
        self.left -= 1;
        Poll::Pending
    }
}

#[test]
fn futures_are_polled_in_turn_and_on_many_threads() {
    let (heaps, dispatch, _) = tenants(&["one", "two"]);
    let future = |heap: &'static str| {
        with_default(&dispatch, || {
            Box::pin(Steps { left: 8, made: Vec::new(), heap }.instrument(info_span!("task", heap)))
        })
    };
    let tasks: Vec<_> = (0..8).map(|index| future(["one", "two"][index % 2])).collect();
    let queue = Mutex::new(tasks);
    let done = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                with_default(&dispatch, || {
                    // Each poll is on whichever thread comes next.
                    while let Some(mut task) = { queue.lock().unwrap().pop() } {
                        match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                            Poll::Ready(made) => *done.lock().unwrap() += made,
                            Poll::Pending => queue.lock().unwrap().insert(0, task),
                        }
                        assert_eq!(name(), None);
                    }
                });
            });
        }
    });
    assert_eq!(*done.lock().unwrap(), 8 * 9);
    assert!(heaps.values().all(|heap| live(heap) == 0 && heap.stats().total_frees > 0));
}

#[test]
fn tasks_that_wait_keep_what_is_theirs() {
    let (heaps, dispatch, _) = tenants(&["waits"]);
    with_default(&dispatch, || {
        let mut task =
            pin!(Steps { left: 2, made: Vec::new(), heap: "waits" }.instrument(info_span!("task", heap = "waits")));
        for polled in 1..3 {
            assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // The vector and its texts.
            assert_eq!((live(&heaps["waits"]), name()), (1 + polled, None));
        }
    });
    assert_eq!(live(&heaps["waits"]), 0);
}

#[test]
fn a_span_holds_its_heap_until_it_is_closed() {
    let heap = Mutex::new(Some(Heap::new("until closed").unwrap()));
    let layer = ScopeLayer::new(move |_: &str| heap.lock().unwrap().take());
    with_default(&Dispatch::new(OutsideScopes::new(tracing_subscriber::registry().with(layer))), || {
        let span = info_span!("request", heap = "the only one");
        let other = span.clone();
        span.in_scope(|| drop("text ".repeat(10)));
        drop(span);
        assert!(listed("until closed").is_some());
        drop(other);
        assert!(ends("until closed"), "the span was the last to hold it");
    });
}

/// Each thread, span and event makes the registry and the log allocate: nothing of it is the heap's.
#[test]
fn what_a_subscriber_allocates_is_in_no_scope() {
    let (heaps, dispatch, log) = tenants(&["busy"]);
    let busy = &heaps["busy"];
    let work = || {
        with_default(&dispatch, || {
            let span = info_span!("request", heap = "busy");
            span.in_scope(|| {
                let before = live(busy);
                let spans: Vec<_> = Heap::outside(|| {
                    (0..200).map(|index| busy.scope(|| info_span!("inner", heap = "busy", index))).collect()
                });
                for span in &spans {
                    span.in_scope(|| info!(answer = 42, "an event"));
                }
                Heap::outside(|| drop(spans));
                assert_eq!(live(busy), before);
            });
        });
    };
    std::thread::scope(|scope| {
        let threads = [0, 1, 2].map(|_| scope.spawn(work));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!((live(busy), log.0.lock().unwrap().len()), (0, 3 * 401));
}
