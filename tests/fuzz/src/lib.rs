//! The doors for foreign bytes, each as a function that must return for every input, quickly and without a panic.
//!
//! libFuzzer calls them from `fuzz_targets`, an ordinary test from `tests/smoke.rs`.

mod checkpoint;
mod device;
mod image;
mod prompt_cache;
mod template;
mod tokenizer;

pub use checkpoint::{config_json, gguf, safetensors, tokenizer_json};
pub use device::{device, frame};
pub use image::image;
pub use prompt_cache::prompt_cache;
pub use template::chat_template;
pub use tokenizer::tokenizer_section;

/// One door.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Its name: that of the fuzz target and of the folder of its corpus.
    pub name: &'static str,
    /// What is behind it.
    pub enter: fn(&[u8]),
    /// Files of `tests/fixtures`, by the end of their name, that are good seeds for it.
    pub seeds: &'static [&'static str],
}

/// Every door.
pub const DOORS: &[Door] = &[
    Door { name: "image", enter: image, seeds: &[".bourn"] },
    Door { name: "tokenizer_section", enter: tokenizer_section, seeds: &[] },
    Door { name: "safetensors", enter: safetensors, seeds: &[".safetensors"] },
    Door { name: "gguf", enter: gguf, seeds: &[".gguf"] },
    Door { name: "config_json", enter: config_json, seeds: &["/config.json"] },
    Door { name: "tokenizer_json", enter: tokenizer_json, seeds: &["/tokenizer.json"] },
    Door { name: "chat_template", enter: chat_template, seeds: &[] },
    Door { name: "frame", enter: frame, seeds: &[] },
    Door { name: "device", enter: device, seeds: &[] },
    Door { name: "prompt_cache", enter: prompt_cache, seeds: &[] },
];
