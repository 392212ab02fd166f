//! See `bourn_fuzz::prompt_cache`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bourn_fuzz::prompt_cache(data));
