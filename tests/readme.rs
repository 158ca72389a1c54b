//! What README.md says that its first program prints.

#![cfg(not(any(miri, feature = "_faults")))]

use family_alloc::{Box, Family, Vec, family};
use hashbrown::{DefaultHashBuilder, HashMap};

family! {
    struct Session;
}

#[test]
#[cfg_attr(not(target_pointer_width = "64"), ignore = "slabs are shorter there, and the figures less")]
fn the_first_program_prints_what_the_readme_says() {
    let readme = include_str!("../README.md");
    let block = readme.split("```text\n").nth(1).expect("a block of text");
    let (said, _) = block.split_once("```").expect("its end");
    // As in the program, on a thread of its own, so that nothing else has used the thread's caches.
    let printed = std::thread::spawn(|| {
        let mut numbers: Vec<u32, Session> = Vec::new_in(Session);
        numbers.extend(0..100);
        let boxed = Box::new_in([0_u8; 100], Session);
        let mut map: HashMap<u64, u64, DefaultHashBuilder, Session> = HashMap::new_in(Session);
        map.insert(1, 2);
        let printed = Session::stats().to_string();
        drop((numbers, boxed, map));
        printed
    });
    assert_eq!(printed.join().expect("no panic").trim_end(), said.trim_end());
}
