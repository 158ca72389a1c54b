//! The life of a process: copies of the crate that know nothing of each other, libraries that come and go, forks.

#![cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]

mod calls;
mod cancel;
#[path = "../common/mod.rs"]
mod common;
mod dylib;
mod forks;
mod library;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;

use common::child;
use common::doors::{Doors, layout};
use common::memory::{mapped_bytes, resident_bytes};
use family_alloc::family;
use library::Library;

family! {
    struct Host;
    struct HostSmall { slab_bytes: 64 * 1024 }
    struct HostChecked { checks: Checked }
    struct HostHardened { checks: Hardened }
}

const MIB: usize = 1 << 20;
const SIZES: [usize; 5] = [1, 64, 8192, 512 << 10, 3 << 20];

fn host_families() -> [Doors; 4] {
    [Doors::of::<Host>(), Doors::of::<HostSmall>(), Doors::of::<HostChecked>(), Doors::of::<HostHardened>()]
}

fn allocate(doors: Doors, layout: Layout) -> NonNull<u8> {
    (doors.allocate)(layout).expect("memory").cast()
}

/// [`child::isolated`] with the plugin built.
#[track_caller]
fn isolated(test: &str, body: impl FnOnce()) {
    library::path();
    child::isolated(test, body);
}

/// Runs a test that gives a family a pointer that is none of its own, once for each family and size; each must be reported at the call.
fn refuses(test: &str, give: impl Fn(usize, usize)) {
    if let Some(case) = child::case() {
        child::leave_no_core();
        let (family, size) = case.split_once(' ').expect("a family and a size");
        return give(family.parse().expect("a number"), size.parse().expect("a number"));
    }
    library::path();
    let cases = (0..4).flat_map(|family| SIZES.map(|size| format!("{family} {size}")));
    let failures: Vec<String> = cases.filter_map(|case| child::wrong_end(test, &case)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Says what the family of this name must say of a foreign pointer; it is declared as one of ours.
fn expect_refusal(address: *mut u8, size: usize, name: &str, like: Doors) {
    let layout = layout(size, 1);
    let class =
        if like.is_large(layout) { "large".to_owned() } else { format!("{}-byte class", like.occupied(layout)) };
    child::expect(&format!(
        "invalid free of {address:p} (size {size}, {class}, family {name}): no family has allocated it"
    ));
}

#[test]
fn a_copy_refuses_what_another_copy_allocated() {
    refuses("a_copy_refuses_what_another_copy_allocated", |family, size| {
        let plugin = Library::load(library::path());
        let doors = host_families()[family];
        let own = allocate(doors, layout(size, 1));
        let foreign = NonNull::new((plugin.allocate)(family as u32, size)).expect("memory");
        // SAFETY: allocated above with this layout.
        unsafe { (doors.deallocate)(own, layout(size, 1)) };
        expect_refusal(foreign.as_ptr(), size, doors.name, doors);
        // SAFETY: a misuse that is found before anything is done.
        unsafe { (doors.deallocate)(foreign, layout(size, 1)) };
    });
}

#[test]
fn a_copy_has_its_own_refused_by_another_copy() {
    refuses("a_copy_has_its_own_refused_by_another_copy", |family, size| {
        let plugin = Library::load(library::path());
        let doors = host_families()[family];
        let own = allocate(doors, layout(size, 1));
        let foreign = (plugin.allocate)(family as u32, size);
        (plugin.free)(family as u32, foreign, size);
        expect_refusal(own.as_ptr(), size, &doors.name.replace("Host", "Plugin"), doors);
        (plugin.free)(family as u32, own.as_ptr(), size);
    });
}

#[test]
fn copies_count_and_place_their_own() {
    isolated("copies_count_and_place_their_own", || {
        let plugin = Library::load(library::path());
        // A thread earns its cache by calls that wait for a lock.
        for _ in 0..100 {
            let memory = (plugin.allocate)(0, SIZES[0]);
            (plugin.free)(0, memory, SIZES[0]);
        }
        assert_eq!(plugin.count(), [0, 1, 1], "live allocations, thread caches, families");
        assert_eq!((host_families()[0].stats)().thread_caches, 0, "the host has earned none");
        let mut ranges = Vec::new();
        for size in SIZES {
            let own = allocate(host_families()[0], layout(size, 1));
            ranges.push((own.addr().get(), size));
            ranges.push(((plugin.allocate)(0, size).addr(), size));
        }
        assert_eq!(plugin.count(), [SIZES.len(), 1, 1], "live allocations, thread caches, families");
        assert_eq!((host_families()[0].stats)().live_allocations, SIZES.len());
        assert_eq!(family_alloc::families().count(), 1);
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ranges:x?}");
    });
}

/// The number of the next `pthread` key, which is the lowest that is free.
fn next_key() -> libc::pthread_key_t {
    let mut key = 0;
    // SAFETY: writes one key.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, None) }, 0, "no key is left");
    // SAFETY: created above and used by nobody.
    assert_eq!(unsafe { libc::pthread_key_delete(key) }, 0);
    key
}

#[test]
fn a_library_that_comes_and_goes_leaves_nothing_more_each_time() {
    isolated("a_library_that_comes_and_goes_leaves_nothing_more_each_time", || {
        let figures = |rounds: usize| {
            for _ in 0..rounds {
                let plugin = Library::load(library::path());
                // On threads that have ended when it goes: nothing of theirs keeps it.
                thread::spawn(move || (plugin.use_all)()).join().expect("no panic");
                assert_eq!(plugin.count()[..2], [0, 0], "live allocations and thread caches");
                plugin.unload();
            }
            (mapped_bytes(), resident_bytes(), next_key())
        };
        let (mapped, resident, key) = figures(20);
        let (mapped_after, resident_after, key_after) = figures(500);
        println!(
            "mapped {mapped} then {mapped_after}, resident {resident} then {resident_after}, keys {key} then {key_after}"
        );
        assert_eq!(key_after, key, "each time a key less");
        assert!(mapped_after <= mapped + MIB, "address space grew from {mapped} to {mapped_after}");
        assert!(resident_after <= resident + MIB / 2, "resident memory grew from {resident} to {resident_after}");
    });
}

#[test]
fn threads_end_after_their_library_was_unloaded() {
    isolated("threads_end_after_their_library_was_unloaded", || {
        for _ in 0..100 {
            let plugin = Library::load(library::path());
            let threads = [(); 4].map(|()| {
                let ((ready, is_ready), (end, wait)) = (mpsc::channel(), mpsc::channel::<()>());
                let thread = thread::spawn(move || {
                    (plugin.use_all)();
                    let kept = (plugin.allocate)(0, 100);
                    ready.send(kept.addr()).expect("somebody waits");
                    wait.recv().expect_err("nothing is sent");
                });
                let kept = is_ready.recv().expect("the thread gets so far");
                (kept, end, thread)
            });
            plugin.unload();
            for (_, end, thread) in &threads {
                assert!(!thread.is_finished());
                let _: &mpsc::Sender<()> = end;
            }
            let kept = threads.map(|(kept, end, thread)| {
                drop(end);
                thread.join().expect("no panic");
                kept
            });
            let again = Library::load(library::path());
            assert_eq!(again.count()[..2], [4, 0], "it is the same copy, its threads have given their caches back");
            let free = move || {
                kept.into_iter().for_each(|kept| (again.free)(0, std::ptr::with_exposed_provenance_mut(kept), 100));
            };
            thread::spawn(free).join().expect("no panic");
            again.unload();
        }
    });
}

#[test]
fn a_thread_that_first_uses_its_unloaded_library_when_it_ends() {
    use std::ffi::c_void;
    use std::sync::Mutex;

    static PLUGIN: Mutex<Option<Library>> = Mutex::new(None);
    unsafe extern "C" fn destructor(_: *mut c_void) {
        let plugin = PLUGIN.lock().expect("no panic").take().expect("one thread ends at a time");
        (plugin.use_all)();
        plugin.unload();
    }
    isolated("a_thread_that_first_uses_its_unloaded_library_when_it_ends", || {
        let mut key = 0;
        // SAFETY: writes one key.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(destructor)) }, 0);
        for _ in 0..100 {
            *PLUGIN.lock().expect("no panic") = Some(Library::load(library::path()));
            let ends = move || {
                // SAFETY: the key was created above; a value that is not null has the destructor called.
                assert_eq!(unsafe { libc::pthread_setspecific(key, std::ptr::dangling::<c_void>()) }, 0);
            };
            thread::spawn(ends).join().expect("no panic");
            assert!(PLUGIN.lock().expect("no panic").is_none(), "the destructor ran");
        }
        let plugin = Library::load(library::path());
        assert_eq!(plugin.count()[..2], [0, 0], "live allocations and thread caches");
    });
}
