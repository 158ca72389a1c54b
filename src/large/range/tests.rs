//! A range beside a model that knows each page.

#![forbid(unsafe_code)]

use super::*;

const PAGES: u32 = 4096;

fn range() -> Range {
    let runs = vec![
        Run {
            since: 0,
            first: 0,
            pages: 0,
            before: NONE,
            after: NONE,
            previous: NONE,
            next: NONE,
            older: NONE,
            newer: NONE,
            state: State::Unused,
            grows: false,
            is_cleared: false,
        };
        900
    ];
    let (firsts, freed) = (vec![NONE; PAGES as usize / BUCKET_PAGES], vec![0; PAGES as usize / 64]);
    let mut range = Range::new(1 << 30, PAGES, 0, runs.leak(), firsts.leak(), freed.leak());
    range.committed = PAGES;
    range
}

/// R1 to R4, and that each list holds what it should.
fn verify(range: &Range) {
    let all: Vec<Id> = range.all().collect();
    let mut end = 0;
    for (place, &id) in all.iter().enumerate() {
        let run = *range.run(id);
        assert_eq!(run.first, end, "R1");
        assert!(run.pages > 0 && run.state != State::Unused);
        assert_eq!(run.before, if place == 0 { NONE } else { all[place - 1] });
        let before = place.checked_sub(1).map(|before| range.run(all[before]).state);
        let is_free = matches!(run.state, State::Dirty | State::Clean);
        assert!(!is_free || before != Some(run.state), "R2");
        assert_eq!(range.find(range.address(id)), Some(id));
        end = run.end();
    }
    assert_eq!(end, range.top, "R1");
    assert!(all.last().is_none_or(|&last| range.run(last).state != State::Clean), "R2");
    let cleared: Vec<&Run> = all.iter().map(|&id| range.run(id)).filter(|run| run.is_cleared).collect();
    assert!(cleared.iter().all(|run| run.state == State::Live));
    assert_eq!(range.cleared_pages, cleared.iter().map(|run| run.pages).sum::<u32>());
    for (state, bins) in [(State::Dirty, &range.dirty), (State::Clean, &range.clean)] {
        let mut in_bins: Vec<Id> = Vec::new();
        for bin in 0..BIN_COUNT {
            let mut id = bins.heads[bin];
            assert_eq!(bins.filled >> bin & 1 == 1, id != NONE);
            while id != NONE {
                assert_eq!((bin_of(range.run(id).pages), range.run(id).state), (bin, state));
                in_bins.push(id);
                id = range.run(id).next;
            }
        }
        let mut expected: Vec<Id> = all.iter().copied().filter(|&id| range.run(id).state == state).collect();
        in_bins.sort_unstable();
        expected.sort_unstable();
        assert_eq!(in_bins, expected, "{state:?}");
        if state == State::Dirty {
            let mut id = range.oldest;
            let mut by_age = Vec::new();
            while id != NONE {
                by_age.push(id);
                id = range.run(id).newer;
            }
            assert!(by_age.iter().map(|&id| range.run(id).since).is_sorted(), "in the order of age");
            by_age.sort_unstable();
            assert_eq!(by_age, expected);
            assert_eq!(range.dirty_pages, expected.iter().map(|&id| range.run(id).pages).sum::<u32>());
        }
    }
}

/// What a page is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Page {
    Zero,
    Written,
    Live(u32),
}

#[test]
fn random_runs_beside_a_model_of_pages() {
    for seed in 1..=12_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = |bound: u32| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) as u32 % bound
        };
        let mut range = range();
        let mut pages = [Page::Zero; PAGES as usize];
        let mut live: Vec<u32> = Vec::new();
        let mut leaving: Vec<Id> = Vec::new();
        let take = |range: &Range, pages: &mut [Page], id: Id, want_zero: bool| {
            let run = *range.run(id);
            for page in &mut pages[run.first as usize..run.end() as usize] {
                assert!(matches!(page, Page::Zero) || *page == Page::Written && !want_zero, "{page:?}");
                *page = Page::Live(run.first);
            }
            assert!(!range.was_freed(range.address(id)), "R4");
            run.first
        };
        for step in 0..3000_u64 {
            match below(12) {
                0..5 => {
                    let most = if below(9) == 0 { 600 } else { 40 };
                    let (count, grows) = (1 + below(most), below(4) == 0);
                    let align = os::page_bytes() << [0, 0, 0, 1, 4, 6][below(6) as usize];
                    let want_zero = below(3) == 0;
                    let states = if want_zero { &[State::Clean][..] } else { &[State::Dirty, State::Clean] };
                    let found = states.iter().find_map(|&state| range.choose(state, count, align, grows));
                    let id = match found {
                        Some((id, at)) => range.carve(id, at, count, grows),
                        None => match range.take_above(count, align, grows) {
                            Above::Taken(id) => Some(id),
                            above => {
                                assert_eq!(above, Above::NoRoom);
                                None
                            }
                        },
                    };
                    if let Some(id) = id {
                        assert_eq!((range.run(id).pages, range.address(id) % align), (count, 0));
                        if below(4) == 0 {
                            range.note_cleared(id);
                        }
                        live.push(take(&range, &mut pages, id, want_zero));
                    }
                }
                5..8 if !live.is_empty() => {
                    let first = live.swap_remove(below(live.len() as u32) as usize);
                    let address = range.start + first as usize * os::page_bytes();
                    let id = range.find(address).unwrap();
                    for page in range.run(id).first..range.run(id).end() {
                        assert_eq!(pages[page as usize], Page::Live(first));
                        pages[page as usize] = Page::Written;
                    }
                    range.free(id, step);
                    assert!(range.was_freed(address));
                }
                8 | 9 if !live.is_empty() => {
                    let first = live[below(live.len() as u32) as usize];
                    let id = range.find(range.start + first as usize * os::page_bytes()).unwrap();
                    let (old, count, want_zero) = (range.run(id).end(), 1 + below(200), below(2) == 0);
                    if count < range.run(id).pages {
                        if range.shorten(id, count, step) {
                            pages[(first + count) as usize..old as usize].fill(Page::Written);
                        }
                    } else if count > range.run(id).pages {
                        match range.lengthen(id, count, want_zero) {
                            Above::Taken(same) => {
                                assert_eq!(same, id);
                                for page in &mut pages[old as usize..(first + count) as usize] {
                                    assert!(*page == Page::Zero || *page == Page::Written && !want_zero);
                                    *page = Page::Live(first);
                                }
                            }
                            above => assert_eq!(above, Above::NoRoom),
                        }
                    }
                }
                10 => {
                    if let Some((id, _)) = range.oldest() {
                        range.let_leave(id);
                        leaving.push(id);
                    }
                }
                _ if !leaving.is_empty() => {
                    let id = leaving.swap_remove(below(leaving.len() as u32) as usize);
                    let (run, is_clean) = (*range.run(id), below(4) > 0);
                    if is_clean {
                        pages[run.first as usize..run.end() as usize].fill(Page::Zero);
                    }
                    let (first, end) = range.come_back(id, is_clean, step);
                    assert!(first <= run.first && run.end() <= end);
                }
                _ => {}
            }
            if step % 16 == 0 {
                verify(&range);
            }
        }
        // All of it is one again.
        for first in live {
            let id = range.find(range.start + first as usize * os::page_bytes()).unwrap();
            range.free(id, 3000);
        }
        leaving.into_iter().for_each(|id| _ = range.come_back(id, true, 3000));
        while let Some((id, _)) = range.oldest() {
            range.let_leave(id);
            range.come_back(id, true, 3000);
        }
        verify(&range);
        assert_eq!((range.top, range.all().count(), range.places), (0, 0, 899));
    }
}
