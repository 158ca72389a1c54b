//! Thread-locals of loom's threads: what has a destructor lives until [`end_thread`], everything keeps its place until the
//! execution ends, so that loom sees no two values at one address.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use super::Cell;

struct Local {
    /// Nothing where there is no destructor, or once it has begun.
    destroy: Option<fn(&dyn Any)>,
    exists: bool,
    value: Rc<dyn Any>,
}

/// A value whose destructor is called by hand or never: that of an execution which failed in the middle needs its loom.
struct Place<T>(core::cell::UnsafeCell<ManuallyDrop<T>>);

impl<T: 'static> Place<T> {
    fn destroy(place: &dyn Any) {
        let place: &Self = place.downcast_ref().expect("a key has one type");
        // SAFETY: called once, and nobody finds the value from now on; references are not kept beyond a call.
        unsafe { ManuallyDrop::drop(&mut *place.0.get()) };
    }
}

/// The thread, and the address of the key.
type Owner = (loom::thread::ThreadId, usize);

std::thread_local! {
    static LOCALS: RefCell<HashMap<Owner, Local>> = RefCell::new(HashMap::new());
}

/// Forgets the last execution's.
pub(super) fn reset() {
    LOCALS.take();
}

#[derive(Debug)]
pub(crate) struct Destroyed;

pub(crate) struct LocalKey<T: 'static> {
    new: fn() -> T,
}

impl<T: 'static> LocalKey<T> {
    pub(crate) const fn new(new: fn() -> T) -> Self {
        Self { new }
    }

    fn local(&self) -> Local {
        let destroy: fn(&dyn Any) = Place::<T>::destroy;
        let place = Place(core::cell::UnsafeCell::new(ManuallyDrop::new((self.new)())));
        Local { destroy: core::mem::needs_drop::<T>().then_some(destroy), exists: true, value: Rc::new(place) }
    }

    pub(crate) fn try_with<R>(&'static self, use_it: impl FnOnce(&T) -> R) -> Result<R, Destroyed> {
        let owner = (loom::thread::current().id(), core::ptr::from_ref(self).addr());
        let value = LOCALS.with_borrow_mut(|locals| {
            let local = locals.entry(owner).or_insert_with(|| self.local());
            local.exists.then(|| Rc::clone(&local.value))
        });
        let value = value.ok_or(Destroyed)?;
        let place: &Place<T> = value.downcast_ref().expect("a key has one type");
        // SAFETY: it exists, and only this thread has it.
        Ok(use_it(unsafe { &*place.0.get() }))
    }

    pub(crate) fn with<R>(&'static self, use_it: impl FnOnce(&T) -> R) -> R {
        self.try_with(use_it).expect("a value that still exists")
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    pub(crate) fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    pub(crate) fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }

    pub(crate) fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }
}

/// Destroys the calling thread's values, as the end of a thread does: who looks for one while it is destroyed finds none.
pub(crate) fn end_thread() {
    let thread = loom::thread::current().id();
    let next = || {
        LOCALS.with_borrow_mut(|locals| {
            let living = locals.iter_mut().filter(|(owner, local)| owner.0 == thread && local.destroy.is_some());
            let (_, local) = living.min_by_key(|(owner, _)| owner.1)?;
            local.exists = false;
            Some((local.destroy.take()?, Rc::clone(&local.value)))
        })
    };
    while let Some((destroy, value)) = next() {
        destroy(&*value);
    }
}

macro_rules! local {
    ($($visibility:vis static $name:ident: $type:ty = $value:expr;)*) => {
        $($visibility static $name: $crate::sync::LocalKey<$type> = $crate::sync::LocalKey::new(|| $value);)*
    };
}
pub(crate) use local as thread_local;
