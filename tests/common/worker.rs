//! A thread that makes calls on behalf of another, one at a time.

use std::sync::mpsc;
use std::thread::JoinHandle;

pub(crate) struct Worker {
    calls: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn start() -> Self {
        let (calls, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        Self { calls, thread: std::thread::spawn(move || inbox.into_iter().for_each(|call| call())) }
    }

    /// Makes a call there and waits for what it returns; a panic there becomes a panic here.
    pub(crate) fn call<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let call = move || {
            let _ = sender.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)));
        };
        self.calls.send(Box::new(call)).expect("the worker listens");
        receiver.recv().expect("the worker answers").unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(crate) fn end(self) {
        drop(self.calls);
        self.thread.join().expect("a worker does not panic");
    }
}
