//! Second moments of what every matrix of a model is fed by a text, as a safetensors file.
//!
//! `bourn tokenize MODEL --json - < TEXT | cargo run --release -p bourn-reference --example statistics -- CHECKPOINT OUT.safetensors
//! [--window N] [--windows N] [--device NAME]`: reads `{"ids": […]}` on stdin, cuts it into windows, and writes for each site
//! (`layers.0.qkv`, …, `head`) the sum `H = Σ x·xᵀ` as f64 `[cols, cols]`; the metadata's `vectors` says over how many.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bourn_checkpoint::Checkpoint;
use bourn_reference::{Reference, Statistics, device};
use safetensors::tensor::{Dtype, TensorView};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, out, options @ ..] = args.as_slice() else {
        bail!("need CHECKPOINT and OUT.safetensors, found {} arguments", args.len());
    };
    let (mut window, mut windows, mut backend) = (512, usize::MAX, "ndarray");
    for option in options.chunks(2) {
        let [name, value] = option else { bail!("{} needs a value", option[0]) };
        match name.as_str() {
            "--window" => window = value.parse::<usize>()?.max(1),
            "--windows" => windows = value.parse()?,
            "--device" => backend = value,
            _ => bail!("no such option: {name}"),
        }
    }
    let tokens: serde_json::Value = serde_json::from_reader(std::io::stdin()).context("stdin: need {\"ids\": […]}")?;
    let ids = bourn_oracle::golden::ids(&tokens["ids"])?;
    let checkpoint = Arc::new(Checkpoint::open(Path::new(checkpoint)).with_context(|| checkpoint.clone())?);
    let reference = Reference::open(&checkpoint, &device(backend)?)?;
    let mut statistics = Statistics::default();
    let texts: Vec<&[u32]> = ids.chunks(window).take(windows).collect();
    for (i, text) in texts.iter().enumerate() {
        reference.observe(text, &mut statistics)?;
        eprintln!("window {} of {}", i + 1, texts.len());
    }
    let sums: Vec<(String, usize, Vec<u8>)> = statistics
        .iter()
        .map(|(site, m)| (site.to_string(), m.cols, m.sum.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = sums
        .iter()
        .map(|(name, cols, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F64, vec![*cols, *cols], bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let vectors: usize = texts.iter().map(|text| text.len()).sum();
    let metadata = HashMap::from([("vectors".to_owned(), vectors.to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), Path::new(out))?;
    Ok(())
}
