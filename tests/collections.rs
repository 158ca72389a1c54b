//! One set of tests for collections, run under each crate's: `allocator_api2`'s vectors and boxes, hashbrown's map, set and
//! table, and, where the compiler has the trait, the standard library's. Each runs with several kinds of family.

#![cfg_attr(all(family_alloc_core_allocator, family_alloc_core_allocator_unstable), feature(allocator_api))]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::random::Random;
use family_alloc::{Family, family};

/// A value that knows how many of its kind there are.
#[derive(Debug)]
struct Counted<'a> {
    number: u64,
    all: &'a AtomicUsize,
}

trait Count {
    fn make(&self, number: u64) -> Counted<'_>;
}

impl Count for AtomicUsize {
    fn make(&self, number: u64) -> Counted<'_> {
        self.fetch_add(1, Relaxed);
        Counted { number, all: self }
    }
}

impl Clone for Counted<'_> {
    fn clone(&self) -> Self {
        self.all.make(self.number)
    }
}

impl PartialEq for Counted<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Relaxed);
    }
}

/// Runs a test with a family and sees that nothing is left in it.
#[track_caller]
fn leaves_nothing<F: Family>(test: impl FnOnce(F)) {
    test(F::default());
    let stats = F::stats();
    assert_eq!((stats.live_allocations, stats.live_bytes), (0, 0), "{stats}");
    assert!(stats.total_allocations > 0, "the collection was in its family: {stats}");
}

/// How many values are moved about; under Miri few.
const MANY: u64 = if cfg!(miri) { 200 } else { 20_000 };
const FEW: u64 = MANY / 4;

/// The tests of a vector and a box, for the two types of one crate and the trait that they want.
macro_rules! vector_tests {
    ($crate_name:ident, $vec:ident, $box:ident, $allocator:path) => {
        mod $crate_name {
            use super::*;
            use $allocator as Allocator;

            fn pushes_and_pops<F: Family + Allocator>(family: F) {
                let all = AtomicUsize::new(0);
                let mut vector = $vec::new_in(family);
                for number in 0..MANY {
                    vector.push(all.make(number));
                }
                assert!(vector.iter().map(|value| value.number).eq(0..MANY));
                for number in (MANY / 2..MANY).rev() {
                    assert_eq!(vector.pop().map(|value| value.number), Some(number));
                }
                assert_eq!(all.load(Relaxed), MANY as usize / 2);
                vector.shrink_to_fit();
                assert_eq!(vector.len(), MANY as usize / 2);
                assert!(vector.iter().map(|value| value.number).eq(0..MANY / 2));
                drop(vector);
                assert_eq!(all.load(Relaxed), 0);
            }

            fn follows_a_model<F: Family + Allocator>(family: F) {
                let all = AtomicUsize::new(0);
                let mut random = Random::new(5);
                let mut vector = $vec::new_in(family);
                let mut model = std::vec::Vec::new();
                for number in 0..MANY / 6 {
                    match random.below(8) {
                        0..4 => {
                            let place = random.below(model.len() + 1);
                            vector.insert(place, all.make(number));
                            model.insert(place, number);
                        }
                        4 if !model.is_empty() => {
                            let place = random.below(model.len());
                            assert_eq!(vector.remove(place).number, model.remove(place));
                        }
                        5 if !model.is_empty() => {
                            let place = random.below(model.len());
                            assert_eq!(vector.swap_remove(place).number, model.swap_remove(place));
                        }
                        6 => {
                            vector.extend((0..5).map(|more| all.make(more)));
                            model.extend(0..5);
                        }
                        _ => {
                            let length = random.below(model.len() + 1).max(model.len() / 2);
                            vector.truncate(length);
                            model.truncate(length);
                            vector.shrink_to_fit();
                        }
                    }
                    assert_eq!(all.load(Relaxed), model.len());
                }
                assert!(vector.iter().map(|value| value.number).eq(model.iter().copied()));
                let copy = vector.clone();
                assert!(copy == vector);
                drop(vector);
                assert!(copy.iter().map(|value| value.number).eq(model.iter().copied()));
            }

            fn reserves_and_clears<F: Family + Allocator>(family: F) {
                let mut vector: $vec<u8, F> = $vec::with_capacity_in(100, family);
                assert!(vector.capacity() >= 100);
                for size in [1_000, 5 * MANY as usize, 250 * MANY as usize] {
                    vector.reserve_exact(size);
                    assert!(vector.capacity() >= size);
                    vector.resize(size, 7);
                    assert!(vector.iter().all(|&byte| byte == 7));
                    vector.clear();
                    vector.shrink_to(size / 10);
                    assert!(vector.capacity() >= size / 10);
                }
                assert!(vector.try_reserve(isize::MAX as usize).is_err(), "more than there can be");
                vector.push(1);
                assert_eq!(vector[..], [1], "usable after an error");
            }

            fn holds_what_has_no_size_or_much_alignment<F: Family + Allocator>(family: F) {
                #[derive(Clone, Copy)]
                #[repr(align(4096))]
                struct Page([u8; 4096]);

                let nothing = (0..1000).fold($vec::new_in(family), |mut vector, _| {
                    vector.push(());
                    vector
                });
                assert_eq!((nothing.len(), F::stats().live_allocations), (1000, 0), "no memory for values of no size");
                let mut pages = $vec::new_in(family);
                for number in 0..100 {
                    pages.push(Page([number; 4096]));
                }
                assert!((&raw const pages[0]).addr() % 4096 == 0);
                assert!(pages.iter().zip(0..).all(|(page, number)| page.0 == [number; 4096]));
            }

            fn boxes<F: Family + Allocator>(family: F) {
                let all = AtomicUsize::new(0);
                let mut boxes = $vec::new_in(family);
                for number in 0..FEW {
                    boxes.push($box::new_in(all.make(number), family));
                }
                assert_eq!(F::stats().live_allocations, FEW as usize + 1);
                boxes.retain(|value| value.number % 3 == 0);
                assert_eq!(all.load(Relaxed), boxes.len());
                assert!(boxes.iter().map(|value| value.number).eq((0..FEW).step_by(3)));
                let large = $box::new_in([1_u64; 20_000], family);
                assert!(large.iter().all(|&number| number == 1));
                let slice: $box<[u8], F> = {
                    let mut vector = $vec::new_in(family);
                    vector.extend_from_slice(b"a slice of some length");
                    vector.into_boxed_slice()
                };
                assert_eq!(&*slice, b"a slice of some length");
                drop(boxes);
                assert_eq!(all.load(Relaxed), 0);
            }

            fn trees<F: Family + Allocator>(family: F) {
                struct Node<F: Allocator> {
                    key: u64,
                    children: [Option<$box<Node<F>, F>>; 2],
                }

                fn insert<F: Family + Allocator>(mut place: &mut Option<$box<Node<F>, F>>, key: u64, family: F) {
                    while let Some(node) = place {
                        let side = usize::from(key > node.key);
                        place = &mut node.children[side];
                    }
                    *place = Some($box::new_in(Node { key, children: [None, None] }, family));
                }

                fn walk<F: Family + Allocator>(tree: &Option<$box<Node<F>, F>>, keys: &mut std::vec::Vec<u64>) {
                    if let Some(node) = tree {
                        walk(&node.children[0], keys);
                        keys.push(node.key);
                        walk(&node.children[1], keys);
                    }
                }

                let mut random = Random::new(8);
                let mut root = None;
                let mut model: std::vec::Vec<u64> = (0..MANY / 10).map(|_| random.next()).collect();
                model.iter().for_each(|&key| insert(&mut root, key, family));
                model.sort_unstable();
                let mut keys = std::vec::Vec::new();
                walk(&root, &mut keys);
                assert_eq!(keys, model);
            }

            #[test]
            fn with_each_kind_of_family() {
                run_with_each_kind_of_family!(
                    pushes_and_pops,
                    follows_a_model,
                    reserves_and_clears,
                    holds_what_has_no_size_or_much_alignment,
                    boxes,
                    trees,
                );
            }
        }
    };
}

/// Runs generic tests with families of their own: the default, small slabs, unchecked.
macro_rules! run_with_each_kind_of_family {
    ($($test:ident),* $(,)?) => {
        $({
            family! {
                struct Default;
                struct SmallSlabs { slab_bytes: 64 * 1024 }
                struct Raw { checks: Unchecked, slab_bytes: 1 << 18 }
            }
            leaves_nothing::<Default>($test);
            leaves_nothing::<SmallSlabs>($test);
            leaves_nothing::<Raw>($test);
        })*
    };
}

use allocator_api2::boxed::Box as PortableBox;
use allocator_api2::vec::Vec as PortableVec;

vector_tests!(allocator_api2_vectors, PortableVec, PortableBox, allocator_api2::alloc::Allocator);

#[cfg(family_alloc_core_allocator)]
mod standard {
    pub(super) use std::boxed::Box as StandardBox;
    pub(super) use std::vec::Vec as StandardVec;
}

#[cfg(family_alloc_core_allocator)]
use standard::{StandardBox, StandardVec};

#[cfg(family_alloc_core_allocator)]
vector_tests!(standard_vectors, StandardVec, StandardBox, std::alloc::Allocator);

#[cfg(family_alloc_core_allocator)]
mod standard_deques {
    use super::*;
    use std::alloc::Allocator;
    use std::collections::VecDeque;

    fn turns_and_grows<F: Family + Allocator>(family: F) {
        let all = AtomicUsize::new(0);
        let mut random = Random::new(6);
        let mut deque = VecDeque::new_in(family);
        let mut model = VecDeque::new();
        for number in 0..MANY {
            match random.below(5) {
                0 | 1 => {
                    deque.push_back(all.make(number));
                    model.push_back(number);
                }
                2 => {
                    deque.push_front(all.make(number));
                    model.push_front(number);
                }
                3 => assert_eq!(deque.pop_front().map(|value| value.number), model.pop_front()),
                _ if number % 100 == 0 => deque.shrink_to_fit(),
                _ => assert_eq!(deque.pop_back().map(|value| value.number), model.pop_back()),
            }
        }
        assert!(deque.iter().map(|value| value.number).eq(model.iter().copied()));
        deque.make_contiguous();
        assert_eq!(all.load(Relaxed), model.len());
        drop(deque);
        assert_eq!(all.load(Relaxed), 0);
    }

    #[test]
    fn with_each_kind_of_family() {
        run_with_each_kind_of_family!(turns_and_grows);
    }
}

mod hashbrown_tables {
    use super::*;
    use allocator_api2::alloc::Allocator;
    use hashbrown::{DefaultHashBuilder, HashMap, HashSet, HashTable};
    use std::collections::BTreeMap;

    fn a_map_follows_a_model<F: Family + Allocator>(family: F) {
        let all = AtomicUsize::new(0);
        let mut random = Random::new(7);
        let mut map: HashMap<u64, Counted<'_>, DefaultHashBuilder, F> = HashMap::new_in(family);
        let mut model = BTreeMap::new();
        for number in 0..MANY {
            let key = random.below(3000) as u64;
            match random.below(4) {
                0..2 => assert_eq!(map.insert(key, all.make(number)).map(|old| old.number), model.insert(key, number)),
                2 => assert_eq!(map.remove(&key).map(|old| old.number), model.remove(&key)),
                _ => assert_eq!(map.get(&key).map(|value| value.number), model.get(&key).copied()),
            }
            if number % 5000 == 0 {
                map.retain(|key, _| key % 2 == 0);
                model.retain(|key, _| key % 2 == 0);
                map.shrink_to_fit();
            }
        }
        let mut entries: Vec<(u64, u64)> = map.iter().map(|(&key, value)| (key, value.number)).collect();
        entries.sort_unstable();
        assert!(entries.into_iter().eq(model.iter().map(|(&key, &number)| (key, number))));
        assert_eq!(all.load(Relaxed), model.len());
        let copy = map.clone();
        drop(map);
        assert_eq!(copy.len(), model.len());
        drop(copy);
        assert_eq!(all.load(Relaxed), 0);
    }

    fn a_map_grows_large<F: Family + Allocator>(family: F) {
        let mut map: HashMap<u64, [u64; 4], DefaultHashBuilder, F> = HashMap::new_in(family);
        map.extend((0..5 * MANY).map(|key| (key, [key; 4])));
        assert!((0..5 * MANY).all(|key| map[&key] == [key; 4]));
        assert!(F::stats().large_bytes > 0 || cfg!(miri), "a table of some megabytes is mapped singly");
        assert!(map.try_reserve(isize::MAX as usize / 64).is_err(), "more than there can be");
        map.retain(|&key, _| key < 10);
        map.shrink_to_fit();
        assert_eq!(map.len(), 10);
        assert_eq!(F::stats().large_bytes, 0);
    }

    fn sets_combine<F: Family + Allocator>(family: F) {
        const COUNT: usize = if cfg!(miri) { 120 } else { 6000 };
        let set = |step: usize| {
            let mut set: HashSet<usize, DefaultHashBuilder, F> = HashSet::new_in(family);
            set.extend((0..COUNT).step_by(step));
            set
        };
        let (twos, threes) = (set(2), set(3));
        assert_eq!(twos.intersection(&threes).count(), COUNT / 6);
        assert_eq!(twos.union(&threes).count(), COUNT / 6 * 4);
        let drained: usize = twos.into_iter().count();
        assert_eq!(drained, COUNT / 2);
    }

    fn a_table_finds_by_hash<F: Family + Allocator>(family: F) {
        let hash = |key: &u64| key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut table: HashTable<(u64, String), F> = HashTable::new_in(family);
        for key in 0..FEW {
            table.insert_unique(hash(&key), (key, key.to_string()), |entry| hash(&entry.0));
        }
        for key in 0..FEW {
            let found = table.find(hash(&key), |entry| entry.0 == key).expect("inserted above");
            assert_eq!(found.1, key.to_string());
        }
        for key in (0..FEW).step_by(2) {
            let entry = table.find_entry(hash(&key), |entry| entry.0 == key).expect("inserted above");
            assert_eq!(entry.remove().0.0, key);
        }
        assert_eq!(table.len() as u64, FEW / 2);
    }

    #[test]
    fn with_each_kind_of_family() {
        run_with_each_kind_of_family!(a_map_follows_a_model, a_map_grows_large, sets_combine, a_table_finds_by_hash,);
    }
}

/// The one bound that generic code needs, as a library would write it.
mod one_bound {
    use family_alloc::{Box, Family, Vec, family};
    use hashbrown::{DefaultHashBuilder, HashMap};
    use std::alloc::Layout;

    struct Cache<F: Family> {
        items: Vec<Box<u32, F>, F>,
        places: HashMap<u32, usize, DefaultHashBuilder, F>,
    }

    impl<F: Family> Cache<F> {
        fn new() -> Self {
            Self { items: Vec::new_in(F::default()), places: HashMap::new_in(F::default()) }
        }

        fn add(&mut self, item: u32) {
            self.places.insert(item, self.items.len());
            self.items.push(Box::new_in(item, F::default()));
        }
    }

    /// The bound implies `GlobalAlloc` as well.
    fn one_pair<F: Family>() -> usize {
        let layout = Layout::new::<[u8; 100]>();
        // SAFETY: the size is not 0.
        let memory = unsafe { F::default().alloc(layout) };
        let live_bytes = F::live_bytes();
        // SAFETY: allocated above with this layout.
        unsafe { F::default().dealloc(memory, layout) };
        live_bytes
    }

    #[test]
    fn it_is_enough() {
        family! { struct Cached; struct Raw { checks: Unchecked } }
        let mut cache = Cache::<Cached>::new();
        (0..100).for_each(|item| cache.add(item));
        assert_eq!(cache.items[cache.places[&7]].as_ref(), &7);
        assert_eq!(Cached::stats().live_allocations, 102);
        drop(cache);
        assert_eq!(Cached::live_bytes(), 0);
        assert_eq!((one_pair::<Cached>(), one_pair::<Raw>()), (128, 128));
    }
}

#[test]
fn collections_in_a_family_are_as_small_as_any() {
    family! { struct Small; }
    assert_eq!(size_of::<PortableVec<u32, Small>>(), size_of::<Vec<u32>>());
    assert_eq!(size_of::<PortableBox<u32, Small>>(), size_of::<Box<u32>>());
    assert_eq!(size_of::<Option<PortableBox<u32, Small>>>(), size_of::<usize>());
    type Map<K, V, F> = hashbrown::HashMap<K, V, hashbrown::DefaultHashBuilder, F>;
    assert_eq!(size_of::<Map<u32, u32, Small>>(), size_of::<hashbrown::HashMap<u32, u32>>());
}
