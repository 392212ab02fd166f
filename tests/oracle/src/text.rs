//! Tokenizers to test, and text to test them on.

use std::path::Path;

use anyhow::{Context, Result};
use bourn_checkpoint::TokenizerSpec;
use bourn_checkpoint::gguf::Gguf;
use bourn_checkpoint::tokenizer::Normalizer;
use bourn_core::text::{Decoder, EncodeOptions, Tokenizer};
use bourn_format::tokenizer::Tables;
use unicode_normalization::UnicodeNormalization;

/// A TOKENIZER section with its specification.
pub struct Image {
    section: Vec<u8>,
    spec: TokenizerSpec,
}

impl Image {
    /// From the files of a Hugging Face folder.
    ///
    /// # Errors
    /// What was wrong with them.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let config = std::fs::read(folder.join("tokenizer_config.json")).ok();
        let json = std::fs::read(folder.join("tokenizer.json")).context("tokenizer.json")?;
        Self::of_spec(TokenizerSpec::from_tokenizer_json(&json, config.as_deref())?)
    }

    /// From the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// What was wrong with it.
    pub fn of_gguf(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file)?;
        Self::of_spec(TokenizerSpec::from_gguf(&Gguf::parse(&bytes)?.metadata)?)
    }

    fn of_spec(spec: TokenizerSpec) -> Result<Self> {
        Ok(Self { section: bourn_pack::tokenizer::section(&spec)?, spec })
    }

    /// The TOKENIZER section.
    pub fn section(&self) -> &[u8] {
        &self.section
    }

    /// The tokenizer.
    ///
    /// # Panics
    /// Never: the section was checked when it was made.
    pub fn tokenizer(&self) -> Tokenizer<'_> {
        Tokenizer::new(Tables::new_checked(&self.section).expect("a section that was checked"))
    }

    /// Ids of a text.
    ///
    /// # Errors
    /// When what the tokenizer said it needs was not enough.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer();
        let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
        let mut ids = Vec::new();
        tokenizer.encode(text, EncodeOptions { add_special, parse_special }, &mut scratch, &mut |id| ids.push(id))?;
        Ok(ids)
    }

    /// Text of all ids at once.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut text = String::new();
        self.tokenizer().decode(ids, skip_special, &mut |part| text.push_str(part));
        text
    }

    /// Text of ids one after another.
    pub fn stream(&self, ids: &[u32], skip_special: bool) -> String {
        let tokenizer = self.tokenizer();
        let mut text = String::new();
        let mut decoder = Decoder::new(&tokenizer, skip_special);
        for &id in ids {
            decoder.push(&tokenizer, id, &mut |part| text.push_str(part));
        }
        decoder.finish(&mut |part| text.push_str(part));
        text
    }

    /// Ids of all kinds, those of bytes and some past the last one among them, always the same for a seed.
    pub fn random_ids(&self, seed: u64, n: usize) -> Vec<u32> {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1));
        let bytes: Vec<u32> = self.spec.bytes.iter().flatten().copied().collect();
        let n_tokens = self.spec.tokens.len() as u64 + 2;
        let byte = |random: &mut Random| bytes[random.below(bytes.len() as u64) as usize];
        (0..n).map(|_| if random.below(2) == 0 { byte(&mut random) } else { random.below(n_tokens) as u32 }).collect()
    }

    /// Whether every text comes back as it was, in normal form.
    pub fn is_lossless(&self) -> bool {
        !self.spec.byte_fallback
            && self.spec.bytes.iter().all(Option::is_some)
            && self.spec.added.iter().all(|added| !added.lstrip && !added.rstrip)
    }

    /// The normal form that the tokenizer gives a text before it cuts it, added tokens apart.
    pub fn normal_form(&self, text: &str) -> String {
        if self.spec.normalizer == Normalizer::Nfc { text.nfc().collect() } else { text.to_owned() }
    }
}

/// Numbers that look random and are the same everywhere (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn pick<'l, T: ?Sized>(&mut self, list: &[&'l T]) -> &'l T {
        list[self.below(list.len() as u64) as usize]
    }
}

const WORDS: &[&str] = &[
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "was",
    "he",
    "it's",
    "IT'S",
    "don't",
    "we'll",
    "they'RE",
    "I'd",
    "I'ſ",
    "you've",
    "Stream",
    "bourn",
    "quantization",
    "internationalization",
    "HTTPServer",
    "camelCase",
    "snake_case",
    "naïve",
    "café",
    "Ünïcödé",
    "straße",
    "ΑΒΓ",
    "λόγος",
    "привет",
    "мир",
    "Ёлка",
    "ǅungla",
    "don’t",
    "O'Neil",
    "rock'n'roll",
    "a.b.c",
    "e.g.",
    "U.S.A.",
    "3.14159",
    "1,000,000",
    "2024-11-23",
    "0x1F",
    "v2",
    "x86_64",
    "https://example.org/a?b=c&d=%20",
];
const OTHER: &[&str] = &[
    "世界",
    "你好，世界！",
    "東京都は日本の首都です。",
    "안녕하세요 세계",
    "각",
    "مرحبا بالعالم",
    "السَّلامُ",
    "עִבְרִית",
    "नमस्ते दुनिया",
    "ภาษาไทย",
    "ქართული",
    "Tiếng Việt",
    "Việt",
    "👨‍👩‍👧",
    "🏳️‍🌈",
    "👍🏽",
    "🇩🇪",
    "😀😀😀",
    "e\u{301}",
    "a\u{308}\u{304}",
    "q\u{323}\u{307}",
    "q\u{307}\u{323}",
    "\u{1e9b}\u{323}",
    "\u{1100}\u{1161}\u{11a8}",
    "\u{212b}",
    "\u{2126}",
    "ﬁ",
    "²³",
    "Ⅷ",
    "½",
    "٣٤٥",
    "१२३",
    "\u{2581}",
    "\u{2581}\u{2581}x",
    "𠮷野家",
    "𝔘𝔫𝔦",
    "\u{0958}",
    "\u{1d160}",
    "\u{fb1d}",
    "\u{0344}",
    "\u{f900}",
];
const MARKS: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<think>",
    "</think>",
    "<table>",
    "</td>",
    "<|end|>",
    "<s>",
    "</s>",
    "<|user|>",
    "[INST]",
    "<unused7>",
    "<0x41>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<｜User｜>",
    "<",
    "<|",
    "<|im_",
    "> </",
    ">  </b>",
];
const SPACES: &[&str] = &[
    " ", " ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", " \n ", "\u{a0}", "\u{3000}", "\u{2028}",
    "        ", "\n    ", "", "\u{85}", "\u{1c}", "\u{b}",
];
const CODE: &[&str] = &[
    "fn main() {\n    println!(\"{}\", 1 + 2);\n}\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n",
    "def f(x):\n    return x**2  # square\n",
    "{\"key\": [1, 2.5e-3, null, true]}",
    "<div class=\"a\">text</div>\n",
    "SELECT * FROM t WHERE id='x';",
    "#!/bin/sh\nset -eu\n",
    "// ----------\n",
    "== != <= >= && || -> => ::",
    "/*\n * x\n */\n",
];

/// About `bytes` of text of every kind, the same for a seed: prose, code, scripts, emoji, combining marks, runs of white
/// space, digits, marks, and any characters at all.
pub fn mixed(bytes: usize, seed: u64) -> String {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut text = String::with_capacity(bytes + 4096);
    while text.len() < bytes {
        match random.below(40) {
            0 => text.push_str(random.pick(CODE)),
            1 | 2 => {
                for _ in 0..1 + random.below(6) {
                    text.push_str(random.pick(OTHER));
                }
            }
            3 => text.push_str(random.pick(MARKS)),
            4 => {
                for _ in 0..random.below(12) {
                    text.push(char::from(b'0' + random.below(10) as u8));
                }
            }
            5 => {
                for _ in 0..random.below(8) {
                    text.push_str(random.pick(SPACES));
                }
            }
            6 => {
                // Any character; half of them from the planes where most are.
                for _ in 0..1 + random.below(4) {
                    let top = if random.below(2) == 0 { 0x3000 } else { 0x11_0000 };
                    text.extend(char::from_u32(random.below(top) as u32));
                }
            }
            7 => {
                // A base with marks in any order.
                text.push(char::from(b'a' + random.below(26) as u8));
                for _ in 0..random.below(5) {
                    text.extend(char::from_u32(0x300 + random.below(0x70) as u32));
                }
            }
            8 => {
                // A word that is none.
                let most = if random.below(50) == 0 { 3000 } else { 20 };
                for _ in 0..random.below(most) {
                    let case = if random.below(9) == 0 { b'A' } else { b'a' };
                    text.push(char::from(case + random.below(26) as u8));
                }
            }
            _ => {
                text.push_str(random.pick(WORDS));
                text.push_str(
                    random.pick(&[" ", " ", " ", ", ", ". ", "; ", "! ", "? ", " (", ") ", "\n", ": ", "-", "'", "\" "]),
                );
            }
        }
    }
    text
}
