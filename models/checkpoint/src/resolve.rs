//! Names in a file → tensors by role, each of the shape that the config asks for.

use std::collections::{HashMap, HashSet};

use crate::Error;
use crate::checkpoint::{Order, TensorInfo};
use crate::dtype::Dtype;
use crate::error::clip;
use crate::families::{Mapping, Pattern};
use crate::spec::{ModelSpec, Role};

/// A tensor of a container.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    /// Outermost first.
    pub(crate) shape: Vec<u64>,
    /// The file's spelling when it is a type that is not read.
    pub(crate) dtype: Result<Dtype, String>,
}

/// How a container spells names.
struct Dialect {
    embed: String,
    final_norm: String,
    heads: &'static [&'static str],
    /// Before a layer's number.
    layers: String,
    patterns: &'static [&'static [Pattern]],
    norm_add: f32,
    pairs: bool,
}

/// Where the decoder's names begin: bare, wrapped, wrapped since transformers 4.52, without a head.
const HF_PREFIXES: [&str; 4] = ["model.", "language_model.model.", "model.language_model.", ""];

/// Names of a Hugging Face checkpoint.
///
/// # Errors
/// A tensor is missing, has another shape or dtype, or a layer has one that the family does not.
pub(crate) fn hugging_face(
    mapping: &Mapping,
    spec: &mut ModelSpec,
    found: &HashMap<String, Found>,
) -> Result<Vec<TensorInfo>, Error> {
    let has_embedding = |prefix: &&str| found.contains_key(&format!("{prefix}embed_tokens.weight"));
    let prefix = HF_PREFIXES.into_iter().find(has_embedding).unwrap_or(HF_PREFIXES[0]);
    let dialect = Dialect {
        embed: format!("{prefix}embed_tokens.weight"),
        final_norm: format!("{prefix}norm.weight"),
        heads: &["lm_head.weight", "language_model.lm_head.weight"],
        layers: format!("{prefix}layers."),
        patterns: mapping.hf,
        norm_add: mapping.hf_norm_add,
        pairs: false,
    };
    resolve(&dialect, spec, found)
}

/// Names of a GGUF file.
///
/// # Errors
/// As [`hugging_face`].
pub(crate) fn gguf(mapping: &Mapping, spec: &mut ModelSpec, found: &HashMap<String, Found>) -> Result<Vec<TensorInfo>, Error> {
    let dialect = Dialect {
        embed: "token_embd.weight".to_owned(),
        final_norm: "output_norm.weight".to_owned(),
        heads: &["output.weight"],
        layers: "blk.".to_owned(),
        patterns: mapping.gguf,
        norm_add: 0.0,
        pairs: mapping.gguf_pairs,
    };
    resolve(&dialect, spec, found)
}

fn resolve(dialect: &Dialect, spec: &mut ModelSpec, found: &HashMap<String, Found>) -> Result<Vec<TensorInfo>, Error> {
    let vocab = found.get(&dialect.embed).map_or(0, |t| t.shape.first().copied().unwrap_or(0));
    if found.contains_key(&dialect.embed) && !(1..=1 << 24).contains(&vocab) {
        return Err(Error::invalid("rows of the embedding", "1 to 16777216", vocab));
    }
    spec.vocab = vocab as u32;
    let mut tensors = Vec::new();
    let mut taken = HashSet::new();
    let mut take = |name: &str, roles: &[Role], layer, spec: &ModelSpec| {
        let Some(tensor) = found.get(name) else { return Ok(false) };
        taken.insert(name.to_owned());
        parts(dialect, name, tensor, roles, layer, spec).map(|parts| tensors.extend(parts)).map(|()| true)
    };
    let missing = |name: &str| Error::missing(format!("tensor {name}"), "the checkpoint");
    for (name, role) in [(&dialect.embed, Role::Embed), (&dialect.final_norm, Role::FinalNorm)] {
        if !take(name, &[role], None, spec)? {
            return Err(missing(name));
        }
    }
    if !spec.tied {
        let head = dialect.heads.iter().find(|head| found.contains_key(**head));
        match head {
            Some(head) => drop(take(head, &[Role::Head], None, spec)?),
            None => spec.tied = true,
        }
    }
    for layer in 0..spec.n_layers {
        for pattern in dialect.patterns.iter().copied().flatten() {
            let name = format!("{}{layer}.{}", dialect.layers, pattern.name);
            if !take(&name, pattern.roles, Some(layer), spec)? && pattern.required {
                return Err(missing(&name));
            }
        }
    }
    let strange =
        |name: &&String| name.starts_with(&dialect.layers) && !taken.contains(*name) && !name.ends_with("rotary_emb.inv_freq");
    if let Some(name) = found.keys().filter(strange).min() {
        let supported = format!("{} layers of the tensors this family has", spec.n_layers);
        return Err(Error::Unsupported { what: format!("tensor {}", clip(name)), supported });
    }
    tensors.sort_by_key(|t: &TensorInfo| (t.layer.map_or(if t.role == Role::Embed { 0 } else { u32::MAX }, |l| l + 1), t.role));
    Ok(tensors)
}

/// The entries of one source tensor: one for each role, by row ranges.
fn parts(
    dialect: &Dialect,
    name: &str,
    tensor: &Found,
    roles: &[Role],
    layer: Option<u32>,
    spec: &ModelSpec,
) -> Result<Vec<TensorInfo>, Error> {
    let dtype = match &tensor.dtype {
        Ok(dtype) => *dtype,
        Err(found) => return Err(Error::Dtype { tensor: clip(name), found: found.clone() }),
    };
    let dims: Vec<(usize, usize)> = roles.iter().map(|role| spec.dims(*role)).collect();
    let (rows, cols) = (dims.iter().map(|d| d.0 as u64).sum(), dims[0].1 as u64);
    let needed = if roles[0].is_vector() { vec![cols] } else { vec![rows, cols] };
    if tensor.shape != needed {
        return Err(Error::Shape { tensor: clip(name), needed, found: tensor.shape.clone() });
    }
    // The container's parser has checked that the whole tensor lies in the mapped file, so its offsets fit in usize.
    let mut offset = tensor.offset as usize;
    let mut entries = Vec::with_capacity(roles.len());
    for (&role, (rows, cols)) in roles.iter().zip(dims) {
        let turned = matches!(role, Role::Wq | Role::Wk | Role::Bq | Role::Bk);
        let entry = TensorInfo {
            role,
            layer,
            rows,
            cols,
            name: name.to_owned(),
            dtype,
            file: tensor.file,
            offset,
            order: if dialect.pairs && turned { Order::Pairs(spec.head_dim as usize) } else { Order::Plain },
            add: if role.is_norm() { dialect.norm_add } else { 0.0 },
        };
        offset += rows * entry.row_bytes();
        entries.push(entry);
    }
    Ok(entries)
}
