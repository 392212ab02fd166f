//! See `bourn_fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bourn_fuzz::image(data));
