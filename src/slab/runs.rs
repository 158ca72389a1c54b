//! Slots that come back in the order of their addresses, forwards or backwards: how many of them lie one after another.

#![forbid(unsafe_code)]

/// Addresses that are looked at together.
const AT_ONCE: usize = 16;

/// How many of the first addresses lie one after another, and whether they ascend (or it is just one).
#[inline(always)]
pub(super) fn run_length(addresses: &[usize], slot_bytes: usize) -> (usize, bool) {
    let [first, second, ..] = *addresses else { return (1, true) };
    let step = second.wrapping_sub(first);
    if step != slot_bytes && step != slot_bytes.wrapping_neg() {
        return (1, true);
    }
    let mut length = 2;
    // Several at once, which the compiler makes into wide registers: each is as far from the first of them as its place says.
    let distances: [usize; AT_ONCE] = core::array::from_fn(|place| place.wrapping_mul(step));
    while let Some(several) = addresses[length..].first_chunk::<AT_ONCE>() {
        let expected = first.wrapping_add(length.wrapping_mul(step));
        let mut wrong = 0;
        for place in 0..AT_ONCE {
            wrong |= several[place].wrapping_sub(distances[place]) ^ expected;
        }
        if wrong != 0 {
            break;
        }
        length += AT_ONCE;
    }
    while length < addresses.len() && addresses[length].wrapping_sub(addresses[length - 1]) == step {
        length += 1;
    }
    (length, step == slot_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_where_the_step_changes() {
        for length in (1..40).chain([100, 1000]) {
            for (step, rises) in [(24_isize, true), (-24, false)] {
                let mut addresses: Vec<usize> =
                    (0..length).map(|n| (1_isize << 20).wrapping_add(n * step) as usize).collect();
                let expected = (addresses.len(), rises || length == 1);
                assert_eq!(run_length(&addresses, 24), expected);
                // What comes behind is another run, or is one too long.
                let last = addresses[addresses.len() - 1];
                addresses.extend([last.wrapping_add_signed(2 * step), last.wrapping_add_signed(3 * step)]);
                assert_eq!(run_length(&addresses, 24), expected);
                assert_eq!(run_length(&addresses, 8), (1, true), "no neighbours");
            }
        }
    }
}
