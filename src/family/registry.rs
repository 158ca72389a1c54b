//! All families that have been used, in the order of their numbers, newest first.

use super::{CLASS_BITS, FamilyCore, depot_memory, owners};
use crate::header::Directory;
use crate::marks;
use crate::os;
use crate::size_class::Classes;
use crate::stats::Stats;
use crate::sync::{Acquire, AtomicPtr, Lock, Relaxed, Release};

/// The last number given; the first lock in the order.
pub(super) static NUMBERS: Lock<u32> = Lock::new(0);
static NEWEST: AtomicPtr<FamilyCore> = AtomicPtr::new(core::ptr::null_mut());

/// Numbers are what a tag has room for; the last is left out so that no tag has all bits set.
const NUMBER_MAX: u32 = (1 << (u32::BITS - CLASS_BITS)) - 2;

impl FamilyCore {
    /// Whether the family has been used. Until then none of its locks may be taken (F4): a `fork`
    /// would not hold it, and what a child's first use waits for would never come.
    pub(super) fn is_registered(&self) -> bool {
        // Acquire: pairs with the Release in `register`, so that the depots are seen with what is
        // in them.
        self.number.load(Acquire) != 0
    }

    /// Makes the family known, once, before its first allocation, and opens the directory that its thread caches look into.
    /// `None`: there are no numbers left, or no address space.
    pub(super) fn register(&'static self) -> Option<()> {
        if self.is_registered() {
            return Some(());
        }
        self.stay_loaded();
        #[cfg(all(unix, not(any(miri, loom))))]
        super::fork::install();
        let mut numbers = NUMBERS.lock();
        if self.number.load(Relaxed) != 0 {
            return Some(());
        }
        if *numbers == NUMBER_MAX {
            return None;
        }
        Directory::of(self.unit_shift).open()?;
        // Without memory for the depots the family works without them. A heap's come with its second cache. Where no thread has
        // a cache nothing ever comes to a depot.
        let has_depots = !self.is_heap() && cfg!(any(feature = "std", loom));
        let depots = self.depot_bytes().filter(|_| has_depots).and_then(depot_memory);
        if let Some(depots) = depots {
            self.depots.store(depots.cast().as_ptr(), Relaxed);
        }
        if self.checks.is_hardened() {
            marks::begin();
        }
        *numbers += 1;
        self.next.store(NEWEST.load(Relaxed), Relaxed);
        owners::note(*numbers, self);
        // Release: publishes the depots to the Acquire above.
        self.number.store(*numbers, Release);
        // Release: publishes `next` to `all`.
        NEWEST.store(core::ptr::from_ref(self).cast_mut(), Release);
        Some(())
    }

    /// Lets neither this code nor what holds the family's statics be unloaded: the registry, forks,
    /// reports and the ends of threads reach both.
    fn stay_loaded(&'static self) {
        // Relaxed: whoever comes second, which may be the loader's own need of memory, does not
        // wait.
        if self.pinned.swap(1, Relaxed) == 0 {
            os::stay_loaded(core::ptr::from_ref(self).addr());
        }
    }

    /// The same family, which is declared at this path: the module's, and its name.
    #[must_use]
    pub const fn declared_at(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// What the family is called in a report: by its path where another family in use has the same name.
    pub(super) fn told_name(&self) -> &'static str {
        let name = self.name.get();
        let is_same = |other: FamilyRef| other.name_for_ever().is_some_and(|other| other == name);
        let mut others = families().filter(|family| !core::ptr::eq(family.core, self));
        if !self.is_heap() && others.any(is_same) { self.path } else { name }
    }

    /// The family for those outside of the engine; for who holds it.
    pub(crate) fn reference(&'static self) -> FamilyRef {
        FamilyRef::of(self)
    }

    /// The family with a number.
    pub(super) fn with_number(number: u32) -> Option<FamilyRef> {
        families().find(|family| family.core.number.load(Relaxed) == number)
    }
}

/// A family that has been used, without its type; from [`families`].
///
/// Two are equal if they are the same family. Families of the same name are told apart by [`path`](Self::path) and
/// [`id`](Self::id):
///
/// ```
/// use family_alloc::{Family, families};
///
/// mod users {
///     family_alloc::family! { pub struct Cache; }
/// }
/// mod orders {
///     family_alloc::family! { pub struct Cache; }
/// }
///
/// let boxes = (family_alloc::Box::new_in(1, users::Cache), family_alloc::Box::new_in(2, orders::Cache));
/// let paths: Vec<_> = families().map(|family| family.path()).collect();
/// assert!(paths[0].ends_with("::orders::Cache") && paths[1].ends_with("::users::Cache"));
/// assert_eq!(paths[1], users::Cache::PATH);
/// drop(boxes);
/// ```
#[derive(Clone, Copy)]
pub struct FamilyRef {
    pub(super) core: &'static FamilyCore,
    /// Which of the heaps that the core has been; 0 where it is a static family.
    generation: u32,
}

/// A family while somebody works on it: a heap cannot end meanwhile.
pub(crate) struct Held(&'static FamilyCore);

impl Held {
    /// One handle more, for who holds the family.
    pub(crate) fn new(core: &'static FamilyCore) -> Self {
        core.hold();
        Self(core)
    }

    /// The handle of a family that somebody keeps elsewhere from now on.
    pub(crate) fn keep(self) -> &'static FamilyCore {
        let core = self.0;
        core::mem::forget(self);
        core
    }

    /// The handle that [`keep`](Self::keep) has left.
    pub(crate) fn kept(core: &'static FamilyCore) -> Self {
        Self(core)
    }
}

impl core::ops::Deref for Held {
    type Target = &'static FamilyCore;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// A family while somebody looks after its house, which is one thread at a time if it is a heap.
pub(super) struct LookedAfter(&'static FamilyCore);

impl core::ops::Deref for LookedAfter {
    type Target = &'static FamilyCore;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for LookedAfter {
    fn drop(&mut self) {
        self.0.end_look();
    }
}

impl FamilyRef {
    /// A family that is in use.
    pub(super) fn of(core: &'static FamilyCore) -> Self {
        Self { core, generation: core.living_generation().unwrap_or(0) }
    }

    /// The family, to work on it. `None`: a heap that has ended.
    pub(crate) fn hold(self) -> Option<Held> {
        self.core.hold_if(self.generation).then(|| Held(self.core))
    }

    /// The family, to look after its house. `None`: a heap that has ended, or that another thread
    /// looks after.
    pub(super) fn hold_to_look(self) -> Option<LookedAfter> {
        self.core.hold_to_look(self.generation).then(|| LookedAfter(self.core))
    }

    /// The name, for a report that ends the process: a heap never ends from now on.
    pub(super) fn name_for_ever(self) -> Option<&'static str> {
        let held = self.hold()?;
        let name = held.name.get();
        core::mem::forget(held);
        Some(name)
    }

    /// The name of the family's type, or the one that a heap was given. Other families may have the same. A heap that has ended
    /// has none: `""`.
    ///
    /// ```
    /// use family_alloc::{Box, FamilyAlloc, families};
    ///
    /// let boxed = Box::new_in(1, FamilyAlloc);
    /// assert_eq!(families().next().map(|family| family.name()), Some("FamilyAlloc"));
    /// # drop(boxed);
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        self.hold().map_or("", |family| family.lasting_name())
    }

    /// The path of the family's type: of the crate and the modules that it is declared in, and its name. Only families
    /// that are declared in different functions of one module share theirs. A heap's is its name.
    ///
    /// ```
    /// use family_alloc::{Box, FamilyAlloc, families};
    ///
    /// let boxed = Box::new_in(1, FamilyAlloc);
    /// assert_eq!(families().next().map(|family| family.path()), Some("family_alloc::FamilyAlloc"));
    /// # drop(boxed);
    /// ```
    #[must_use]
    pub fn path(self) -> &'static str {
        self.hold().map_or("", |family| family.lasting_path())
    }

    /// A number that no other family of this process has: 1 for the family that was used first, 2 for the next. Another
    /// run of the program may give other numbers. When a heap has ended, another may get its number.
    ///
    /// ```
    /// use family_alloc::{Box, FamilyAlloc, families};
    ///
    /// let boxed = Box::new_in(1, FamilyAlloc);
    /// assert_eq!(families().next().map(|family| family.id()), Some(1));
    /// # drop(boxed);
    /// ```
    #[must_use]
    pub fn id(self) -> u32 {
        // Relaxed: the number was written before the family came into the list that this reference is from.
        self.core.number.load(Relaxed)
    }

    /// Whether this is a heap whose last handle is gone while something in it was live. Nothing is allocated from it any more, and it ends
    /// when the last of what is live is freed; which can happen where it was allocated in a [scope](crate::Scoped).
    ///
    /// ```
    /// use family_alloc::{Heap, Scoped, families, family};
    ///
    /// family! { struct Home; }
    ///
    /// #[global_allocator]
    /// static GLOBAL: Scoped<Home> = Scoped::new();
    ///
    /// let session = Heap::new("session")?;
    /// let text = session.scope(|| "outlives it".to_string());
    /// drop(session);
    /// let orphan = families().find(|family| family.is_orphan()).unwrap();
    /// assert_eq!((orphan.name(), orphan.live_bytes()), ("session", 16));
    /// drop(text);
    /// assert!(families().all(|family| family.name() != "session"));
    /// # Ok::<(), family_alloc::HeapError>(())
    /// ```
    #[must_use]
    pub fn is_orphan(self) -> bool {
        self.hold().is_some_and(|family| family.is_orphan())
    }

    /// Whether more is charged to the family than its limit; as [`Heap::over_limit`](crate::Heap::over_limit).
    #[must_use]
    pub fn over_limit(self) -> bool {
        self.hold().is_some_and(|family| family.is_over_limit())
    }

    /// What the family holds now; as [`Family::stats`](crate::Family::stats). A heap that has ended holds nothing.
    ///
    /// ```
    /// use family_alloc::{Box, FamilyAlloc, families};
    ///
    /// let boxed = Box::new_in([0_u8; 100], FamilyAlloc);
    /// let total: usize = families().map(|family| family.stats().live_bytes).sum();
    /// assert_eq!(total, 128);
    /// # drop(boxed);
    /// ```
    #[must_use]
    pub fn stats(self) -> Stats {
        self.hold().map_or_else(
            || Stats::new("", "", self.id(), Classes::Natural, core::iter::empty()),
            |family| family.stats(),
        )
    }
}

impl core::fmt::Debug for FamilyRef {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FamilyRef({} {})", self.id(), self.path())
    }
}

impl PartialEq for FamilyRef {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.core, other.core) && self.generation == other.generation
    }
}

impl Eq for FamilyRef {}

impl core::hash::Hash for FamilyRef {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

/// Walks all families that have been used, in the order of their first uses, latest first. A family is used once it
/// has allocated anything, and stays in this list. Heaps are in it from when they are made until they end; one that
/// is made in the memory of another stands where that one stood. Takes no lock.
///
/// ```
/// use family_alloc::{Box, families, family};
///
/// family! { struct First; struct Second; }
///
/// let boxes = (Box::new_in(1, First), Box::new_in(2, Second), Box::new_in(3, First));
/// let names: Vec<_> = families().map(|family| family.name()).collect();
/// assert_eq!(names, ["Second", "First"]);
/// # drop(boxes);
/// ```
#[must_use]
pub fn families() -> Families {
    Families(following(&NEWEST))
}

/// All cores in the registry, also those of heaps that have ended.
pub(super) fn cores() -> impl Iterator<Item = &'static FamilyCore> {
    core::iter::successors(following(&NEWEST), |core| following(&core.next))
}

/// Iterator over the families that have been used; see [`families`].
///
/// ```
/// use family_alloc::{Box, FamilyAlloc, families};
///
/// let boxed = Box::new_in(1, FamilyAlloc);
/// assert_eq!(families().count(), 1);
/// # drop(boxed);
/// ```
#[derive(Clone)]
pub struct Families(Option<&'static FamilyCore>);

impl Iterator for Families {
    type Item = FamilyRef;

    fn next(&mut self) -> Option<FamilyRef> {
        loop {
            let core = self.0?;
            self.0 = following(&core.next);
            if let Some(generation) = core.living_generation() {
                return Some(FamilyRef { core, generation });
            }
        }
    }
}

impl core::iter::FusedIterator for Families {}

impl core::fmt::Debug for Families {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

fn following(link: &AtomicPtr<FamilyCore>) -> Option<&'static FamilyCore> {
    // Acquire: pairs with the Release in `register`.
    let core = link.load(Acquire);
    // SAFETY: the list holds `&'static FamilyCore`s only.
    unsafe { core.as_ref() }
}
