//! See `bourn_fuzz::tokenizer_section`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bourn_fuzz::tokenizer_section(data));
