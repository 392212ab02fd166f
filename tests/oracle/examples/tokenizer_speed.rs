//! Encoding speed beside the tokenizers crate, one thread, the same text, in one run: folders of tokenizer.json as arguments.
//!
//! `cargo run --release -p bourn-oracle --features tokenizers --example tokenizer_speed -- FOLDER…`

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use bourn_core::text::EncodeOptions;
use bourn_oracle::text::{Image, mixed};

/// Rounds; the fastest counts, for both.
const ROUNDS: usize = 7;

fn main() -> Result<()> {
    let text = mixed(1 << 20, 1);
    for folder in std::env::args().skip(1) {
        let image = Image::of_folder(Path::new(&folder))?;
        let theirs = tokenizers::Tokenizer::from_file(Path::new(&folder).join("tokenizer.json")).map_err(|e| anyhow!("{e}"))?;
        let ours = image.tokenizer();
        let mut scratch = vec![0; ours.scratch_bytes(text.len())];
        let options = EncodeOptions { add_special: false, parse_special: true };
        for (name, pieces) in [("whole", vec![&text[..]]), ("lines", text.split_inclusive('\n').collect())] {
            let (mut fastest, mut their_fastest) = (f64::MAX, f64::MAX);
            let mut ids = Vec::with_capacity(text.len());
            let mut need = Vec::new();
            for _ in 0..ROUNDS {
                ids.clear();
                let start = Instant::now();
                for piece in &pieces {
                    ours.encode(piece, options, &mut scratch, &mut |id| ids.push(id))?;
                }
                fastest = fastest.min(start.elapsed().as_secs_f64());
                let start = Instant::now();
                let encodings: Vec<_> = pieces.iter().map(|&piece| theirs.encode_fast(piece, false)).collect();
                their_fastest = their_fastest.min(start.elapsed().as_secs_f64());
                need.clear();
                for encoding in encodings {
                    need.extend_from_slice(encoding.map_err(|e| anyhow!("{e}"))?.get_ids());
                }
            }
            ensure!(ids == need, "other ids");
            let speed = |seconds: f64| text.len() as f64 / seconds / 1e6;
            println!(
                "{folder} {name}: {:.1} MB/s, tokenizers {:.1} MB/s, ratio {:.2}, {} ids",
                speed(fastest),
                speed(their_fastest),
                their_fastest / fastest,
                ids.len()
            );
        }
    }
    Ok(())
}
