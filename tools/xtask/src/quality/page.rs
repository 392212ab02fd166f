//! docs/quality.md and its pictures, from what is known.

use anyhow::Result;

use super::{Plan, Results, Row, plot, rows};
use crate::compare::VERSION;
use crate::process::root;

/// Writes the page and a picture for every float model that has figures.
pub(super) fn write(plan: &Plan, results: &Results) -> Result<()> {
    let folder = root().join("docs/quality");
    std::fs::create_dir_all(&folder)?;
    let mut page = intro(plan);
    for model in &plan.models {
        for kind in &plan.kinds {
            let rows = rows(plan, results, model, kind);
            if rows.is_empty() {
                continue;
            }
            let picture = format!("{model}-{kind}.svg");
            plot::write(&folder.join(&picture), &rows)?;
            page +=
                &format!("\n## {model}, {kind}\n\n![KL divergence and perplexity against bytes per token](quality/{picture})\n");
            page += &tables(plan, &rows);
        }
    }
    std::fs::write(root().join("docs/quality.md"), page)?;
    Ok(())
}

fn intro(plan: &Plan) -> String {
    let texts: Vec<String> = plan.texts.iter().map(|text| format!("`{}` ({})", text.name, text.title)).collect();
    let windows = match plan.windows {
        8 => String::new(),
        n => format!(" --windows {n}"),
    };
    format!(
        "# What 4 bits cost

Made by `cargo xtask quality{windows}`: Bourn's settings and llama.cpp's (of llama-cpp-python {VERSION}) on the same float
weights over the same windows of text.

- **Float weights.** Both read one F16 GGUF. *published* is the catalogue's GGUF de-quantized: those weights were quantized
  once already, and a quantizer that finds their grid again loses nothing. *dithered* is the same with uniform noise of half a
  step of that grid to either side of every weight (fixed seed), so that there is no grid to find. Judge by it.
- **Texts** that no calibration saw, of the Canterbury corpus (public domain, out of the test data of PyPI's brotli 1.2.1):
  {}.
- **Windows**: the first {} of 512 tokens, the second half of each scored, {} positions in all, as llama-perplexity does with
  `-c 512`; ours by `bourn eval --window 512 --stride 512 --score 255`. Each program's KL divergence is from the float weights in
  its own arithmetic.
- **MB per token**: what decoding one token reads: for llama.cpp every tensor once, the embedding only where it is the head too;
  for Bourn what `bourn inspect` says (a screened head: its coarse plane and the rows it may read exactly at most).
- **KL**: mean, median and 99th percentile of the KL divergence of a position's distribution from the float model's, in nats;
  **top-1**: positions whose likeliest token is the float model's. Lower left is better in the pictures.
",
        texts.join(",\n  "),
        plan.windows,
        plan.windows * 255,
    )
}

fn tables(plan: &Plan, rows: &[Row]) -> String {
    let mut page = String::new();
    for (i, text) in plan.texts.iter().enumerate() {
        let float: Vec<String> = [true, false]
            .iter()
            .filter_map(|&ours| {
                let row = rows.iter().find(|row| row.ours == ours)?;
                Some(format!("{:.2} in {}", row.figures[i].float_perplexity, if ours { "Bourn" } else { "llama.cpp" }))
            })
            .collect();
        page += &format!("\n`{}`; float perplexity {}:\n\n", text.name, float.join(", "));
        page += "| | setting | MB per token | mean KL | median | 99 % | top-1 | perplexity |\n|---|---|---:|---:|---:|---:|---:|---:|\n";
        let mut sorted: Vec<&Row> = rows.iter().collect();
        sorted.sort_by_key(|row| row.figures[i].bytes_per_token);
        for row in sorted {
            let f = row.figures[i];
            page += &format!(
                "| {} | {} | {:.1} | {:.4} | {:.4} | {:.3} | {:.1} % | {:.2} |\n",
                if row.ours { "**Bourn**" } else { "llama.cpp" },
                row.setting,
                f.bytes_per_token as f64 / 1e6,
                f.kl_mean,
                f.kl_median,
                f.kl_p99,
                100.0 * f.top1,
                f.perplexity,
            );
        }
    }
    page
}
