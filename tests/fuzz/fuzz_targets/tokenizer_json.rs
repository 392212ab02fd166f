//! See `bourn_fuzz::tokenizer_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bourn_fuzz::tokenizer_json(data));
