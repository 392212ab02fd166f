//! See `bourn_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bourn_fuzz::frame(data));
