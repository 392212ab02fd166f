//! Writes `tests/fixtures`: a tiny checkpoint with made-up weights, its images in the current format version, and the
//! checksums of their logits on the scalar tier. Images of older versions stay as they are, to be read for ever.
#![deny(unsafe_code)]

mod folder;
mod gguf;

use std::path::Path;

use anyhow::{Context, Result};
use bourn_checkpoint::Checkpoint;
use bourn_format::VERSION;
use bourn_kernels::KvDtype;
use bourn_oracle::place;
use bourn_oracle::runner::{Runner, Setup};
use bourn_pack::{Options, Screening};
use serde_json::json;

use folder::{VOCAB, write_json};

fn main() -> Result<()> {
    let fixtures = place::fixtures();
    let source = fixtures.join("tiny");
    std::fs::create_dir_all(&source)?;
    folder::write(&source)?;
    gguf::write(&fixtures.join("tiny.gguf"))?;
    write_section(&source, &fixtures.join("../fuzz/corpus/tokenizer_section/tiny"))?;

    let prompt: Vec<u32> = (0..40).map(|i| (i * 67 + 5) % VOCAB as u32).collect();
    let generate = 8;
    let name = format!("v{VERSION}-screen.bourn");
    let options = Options { screening: Some(Screening::Standard), ..Options::default() };
    bourn_pack::pack(&Checkpoint::open(&source)?, &fixtures.join(&name), &options, &mut |_| {})?;
    let runner = Runner::open(&fixtures.join(&name))?;
    let sum = |kv| -> Result<String> {
        let kernels = bourn_kernels::by_name("scalar").context("the scalar tier is always there")?;
        let setup = Setup { kernels, kv, block: 16, ..Setup::default() };
        Ok(format!("{:016x}", runner.checksum(&prompt, generate, &setup)?))
    };
    let images = json!({ name: { "kv_f16": sum(KvDtype::F16)?, "kv_i8": sum(KvDtype::I8)? } });
    let golden = json!({ "prompt": prompt, "generate": generate, "images": images });
    write_json(&fixtures.join(format!("v{VERSION}.json")), &golden)
}

/// A seed for the fuzz target of the tokenizer section: the section, a text, and the text's length.
fn write_section(source: &Path, seed: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(source)?;
    let mut bytes =
        bourn_pack::tokenizer::section(checkpoint.tokenizer.as_ref().context("the tiny checkpoint has a tokenizer")?)?;
    let text = "The 2nd wind, on  the\nhere\u{e9} <|im_end|>";
    bytes.extend(text.as_bytes());
    bytes.extend((text.len() as u16).to_le_bytes());
    std::fs::create_dir_all(seed.parent().context("a seed lies in a folder")?)?;
    std::fs::write(seed, bytes).with_context(|| seed.display().to_string())
}
