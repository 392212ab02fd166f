//! `--prompt-cache FILE`: loads before a text, saves after it; nothing about the file is ever fatal.

use crate::output::note;
use bourn::Session;
use std::path::Path;
use std::time::{Duration, Instant};

/// A share of the text that must be new before the file is written again: cards wear out.
const NEW: usize = 4;

/// A prompt cache, if one was asked for.
#[derive(Debug)]
pub struct PromptCache<'a> {
    path: Option<&'a Path>,
    quiet: bool,
    /// The text that the file has.
    held: Vec<u32>,
    loaded: bool,
}

impl<'a> PromptCache<'a> {
    /// The cache in this file.
    pub fn new(path: Option<&'a Path>, quiet: bool) -> Self {
        Self { path, quiet, held: Vec::new(), loaded: false }
    }

    /// Whether there is one: sessions should then be able to return anywhere.
    pub fn asked_for(&self) -> bool {
        self.path.is_some()
    }

    /// Takes what the file has of a first text; returns how many tokens and how long it took.
    pub fn load(&mut self, session: &mut Session<'_>, text: &[u32]) -> (usize, Duration) {
        let (Some(path), false) = (self.path, self.loaded) else { return (0, Duration::ZERO) };
        self.loaded = true;
        let start = Instant::now();
        match session.load_prompt(path, text) {
            Ok(tokens) => self.held.extend_from_slice(&text[..tokens]),
            Err(e) => note(self.quiet, &format!("{e}; reading the prompt anew")),
        }
        (self.held.len(), start.elapsed())
    }

    /// Writes the first `n` tokens, if a good part of them is not in the file, or any where `all` is asked for.
    pub fn save(&mut self, session: &Session<'_>, n: usize, all: bool) {
        let Some(path) = self.path else { return };
        let text = &session.tokens()[..n.min(session.tokens().len())];
        let (n, held) = (text.len(), self.held.iter().zip(text).take_while(|(a, b)| a == b).count());
        let new = n - held;
        if new == 0 || (!all && new * NEW < n) {
            return;
        }
        match session.save_prompt(path, n) {
            Ok(_) => self.held = text.to_vec(),
            Err(e) => note(self.quiet, &format!("{e}; the answer is not affected")),
        }
    }
}
