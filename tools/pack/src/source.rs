//! What the checkpoint has, in the image's terms: its roles, shape and texts mapped one to one.

use crate::head::{Parts, RopeTable, Sampling};
use crate::plan::{Plan, Source};
use crate::quantize::Blocks;
use crate::{Error, Method, Options, tokenizer};
use bourn_checkpoint as from;
use bourn_checkpoint::Checkpoint;
use bourn_format::layout::GROUP;
use bourn_format::shape::{Activation, Family};
use bourn_format::{Dtype, Role, Shape};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

/// All tensors, by the image's roles.
pub(crate) fn tensors(src: &Checkpoint) -> Vec<Source> {
    let source = |(index, t): (usize, &from::TensorInfo)| Source {
        role: role(t.role),
        layer: t.layer.map(|l| l as usize),
        name: t.name.clone(),
        rows: t.rows,
        cols: t.cols,
        exact: match t.dtype {
            from::Dtype::Q4_0 => Some(Dtype::Q4),
            from::Dtype::Q4_1 => Some(Dtype::Q4M),
            _ => None,
        },
        on_grid: false,
        index,
    };
    src.tensors().iter().enumerate().map(source).collect()
}

/// Rows of a matrix that are looked at before it is said to lie on a grid.
const LOOKED_AT: usize = 64;

/// Finds the float matrices that lie on the grid of Q4_0: what quantization-aware training for it leaves when its result is stored as
/// floats.
pub(crate) fn find_grids(src: &Checkpoint, sources: &mut [Source], options: &Options) -> Result<(), Error> {
    for source in sources.iter_mut().filter(|s| !s.role.is_flat() && s.exact.is_none()) {
        if options.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let dtype = src.tensors()[source.index].dtype;
        if !matches!(dtype, from::Dtype::F32 | from::Dtype::F16 | from::Dtype::Bf16) || !source.cols.is_multiple_of(GROUP) {
            continue;
        }
        let mut row = vec![0.0; source.cols];
        let mut on_grid = true;
        for at in (0..source.rows).step_by((source.rows / LOOKED_AT).max(1)) {
            rows(src, source.index, at..at + 1, &mut row)?;
            on_grid &= row.as_chunks::<GROUP>().0.iter().all(is_on_grid);
            if !on_grid {
                break;
            }
        }
        source.on_grid = on_grid;
    }
    Ok(())
}

/// Whether a group is `s·q` with whole `q` of −8…7, the largest of them −8, each product rounded to no less than bfloat16's eight bits.
fn is_on_grid(x: &[f32; GROUP]) -> bool {
    let most = x.iter().fold(0.0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    let scale = most / -8.0;
    let near = |v: &f32| {
        let q = v / scale;
        (-8.1..7.1).contains(&q) && (q - q.round()).abs() <= q.abs() / 64.0
    };
    most == 0.0 || (most.is_finite() && x.iter().all(near))
}

/// Rows of tensor `index` as floats, as the decoder wants them.
pub(crate) fn rows(src: &Checkpoint, index: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
    Ok(src.rows_f32(&src.tensors()[index], rows, out)?)
}

/// One row of a Q4_0 (`dtype` Q4) or Q4_1 (Q4M) tensor as it is stored.
pub(crate) fn blocks(src: &Checkpoint, index: usize, dtype: Dtype, row: usize, out: &mut Blocks) -> Result<(), Error> {
    let t = &src.tensors()[index];
    out.scales.resize(t.cols / GROUP, 0);
    out.mins.resize(t.cols / GROUP, 0);
    out.codes.resize(t.cols, 0);
    match dtype {
        Dtype::Q4M => src.q4_1_row(t, row, &mut out.scales, &mut out.mins, &mut out.codes)?,
        _ => src.q4_0_row(t, row, &mut out.scales, &mut out.codes)?,
    }
    Ok(())
}

/// Tells the checkpoint that tensor `index` has been read.
pub(crate) fn release(src: &Checkpoint, index: usize) {
    src.release(&src.tensors()[index]);
}

const fn role(role: from::Role) -> Role {
    match role {
        from::Role::Embed => Role::Embed,
        from::Role::AttnNorm => Role::AttnNorm,
        from::Role::Wq => Role::Wq,
        from::Role::Wk => Role::Wk,
        from::Role::Wv => Role::Wv,
        from::Role::Bq => Role::Bq,
        from::Role::Bk => Role::Bk,
        from::Role::Bv => Role::Bv,
        from::Role::QNorm => Role::QNorm,
        from::Role::KNorm => Role::KNorm,
        from::Role::Wo => Role::Wo,
        from::Role::Bo => Role::Bo,
        from::Role::PostAttnNorm => Role::PostAttnNorm,
        from::Role::FfnNorm => Role::FfnNorm,
        from::Role::Gate => Role::Gate,
        from::Role::Up => Role::Up,
        from::Role::Down => Role::Down,
        from::Role::PostFfnNorm => Role::PostFfnNorm,
        from::Role::FinalNorm => Role::FinalNorm,
        from::Role::Head => Role::Head,
    }
}

/// The SHAPE section's contents.
pub(crate) fn shape(spec: &from::ModelSpec) -> Result<Shape, Error> {
    let shape = Shape {
        family: match spec.family {
            from::Family::Llama => Family::Llama,
            from::Family::Qwen2 => Family::Qwen2,
            from::Family::Qwen3 => Family::Qwen3,
            from::Family::Gemma3 => Family::Gemma3,
            from::Family::Phi3 => Family::Phi3,
            from::Family::Ministral3 => Family::Ministral3,
            from::Family::PaliGemma2 => Family::PaliGemma2,
        },
        n_layers: spec.n_layers,
        hidden: spec.hidden,
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        head_dim: spec.head_dim,
        ffn: spec.ffn,
        vocab: spec.vocab,
        max_context: spec.max_context,
        activation: match spec.activation {
            from::Activation::Silu => Activation::Silu,
            from::Activation::GeluTanh => Activation::GeluTanh,
        },
        window: spec.window,
        rotary_dim: spec.rotary_dim,
        tied: spec.tied,
        norm_eps: spec.norm_eps,
        embed_scale: spec.embed_scale,
        attn_scale: spec.attn_scale,
        attn_softcap: spec.attn_softcap,
        final_softcap: spec.final_softcap,
        attn_temperature_beta: spec.attn_temperature_beta,
        attn_temperature_context: spec.attn_temperature_context,
    };
    // The reader's own check, before sizes are multiplied.
    Shape::new_checked(&shape.to_bytes()).map_err(Error::Image)
}

/// All of the head besides the plan.
pub(crate) fn parts(src: &Checkpoint, shape: Shape, plan: &Plan, options: &Options) -> Result<Parts, Error> {
    let rope = |r: &from::RopeSpec| RopeTable {
        sliding: r.sliding,
        min_context: r.min_context,
        factor: r.factor,
        inv_freq: r.inv_freq.clone(),
    };
    Ok(Parts {
        shape,
        sliding: src.spec.layer_sliding.clone(),
        rope: src.spec.ropes.iter().map(rope).collect(),
        sampling: sampling(&src.generation),
        tokenizer: src.tokenizer.as_ref().map(tokenizer::section).transpose()?.filter(|bytes| !bytes.is_empty()),
        chat_template: src.chat_template.clone(),
        provenance: provenance(src, plan, options)?,
        license: license(src.license.as_deref(), src.license_text.as_deref()),
    })
}

/// The licence's name on the first line; its text, if the checkpoint has it, after an empty one.
fn license(name: Option<&str>, text: Option<&str>) -> Option<String> {
    match (name, text) {
        (Some(name), Some(text)) if !text.starts_with(name) => Some(format!("{name}\n\n{text}")),
        (name, text) => text.or(name).map(str::to_owned),
    }
}

/// The authors' sampling values. What they leave out while giving others has transformers' default, which is what they tried
/// their values with; where they give none at all, values that small models write well with.
fn sampling(g: &from::GenerationSpec) -> Sampling {
    let silent = (g.temperature, g.top_k, g.top_p, g.min_p) == (None, None, None, None);
    let (temperature, top_k, top_p, min_p) = if silent { (0.7, 40, 0.95, 0.05) } else { (1.0, 50, 1.0, 0.0) };
    Sampling {
        temperature: g.temperature.unwrap_or(temperature),
        top_k: g.top_k.unwrap_or(top_k),
        top_p: g.top_p.unwrap_or(top_p),
        min_p: g.min_p.unwrap_or(min_p),
        repetition_penalty: g.repetition_penalty.unwrap_or(1.0),
        eos: g.eos.clone(),
    }
}

/// Where the weights came from and what was done to them: JSON without times or paths, so that the same input gives the same bytes.
fn provenance(src: &Checkpoint, plan: &Plan, options: &Options) -> Result<String, Error> {
    let mut files = Vec::new();
    for (name, bytes) in &src.source.files {
        let path = if src.source.path.is_dir() { src.source.path.join(name) } else { src.source.path.clone() };
        files.push(json!({"name": name, "bytes": bytes, "sha256": sha256(&path, options)?}));
    }
    let mut dtypes = Map::new();
    for t in &plan.tensors {
        let entry = dtypes.entry(t.dtype.name()).or_insert_with(|| json!({"weights": 0, "bytes": 0, "transferred": 0}));
        let weights = t.rows.len() as u64 * t.cols as u64;
        for (key, more) in [("weights", weights), ("bytes", t.bytes), ("transferred", if t.transferred { weights } else { 0 })] {
            entry[key] = Value::from(entry[key].as_u64().unwrap_or(0) + more);
        }
    }
    let provenance = json!({
        "packer": concat!("bourn-pack ", env!("CARGO_PKG_VERSION")),
        "source": {
            "format": match src.source.format {
                from::SourceFormat::HuggingFace => "huggingface",
                from::SourceFormat::Gguf => "gguf",
            },
            "name": src.source.name,
            "files": files,
        },
        "options": {
            "weights": options.weights.name(),
            "head": plan.head_name(options),
            "method": options.method.map(Method::name),
            "bits": options.bits,
            "levels": options.levels.table(),
        },
        "dtypes": dtypes,
    });
    Ok(provenance.to_string())
}

/// A file's digest in hexadecimal, as `sha256sum` prints it.
fn sha256(path: &Path, options: &Options) -> Result<String, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), what: "read", source };
    let mut file = File::open(path).map_err(failed)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if options.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => digest.update(&buffer[..n]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
