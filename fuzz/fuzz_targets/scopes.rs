//! libFuzzer's door to `family_alloc_fuzz::scopes`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    family_alloc_fuzz::scopes(data);
});
