//! See `bourn_fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bourn_fuzz::device(data));
