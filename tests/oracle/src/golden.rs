//! The oracle's files: `cases.json`, `logits.safetensors`, `prompts.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A tiny checkpoint of random weights with its goldens.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Its folder's name.
    pub name: String,
    /// Its folder: a Hugging Face checkpoint with `golden/` inside.
    pub folder: PathBuf,
}

/// A prompt and what transformers answered.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in `cases.json`.
    pub name: String,
    /// The prompt.
    pub ids: Vec<u32>,
    /// The continuation at temperature 0, up to where transformers would change rope tables in mid-text (longrope): a
    /// session fixes its tables when it starts.
    pub greedy_ids: Vec<u32>,
    /// Logits `[ids, vocab]`.
    pub logits: Vec<f32>,
}

/// Every fixture of the folder, sorted by name.
///
/// # Errors
/// If the folder cannot be read.
pub fn fixtures(oracle: &Path) -> Result<Vec<Fixture>> {
    let mut fixtures = Vec::new();
    for entry in std::fs::read_dir(oracle.join("dev"))? {
        let folder = entry?.path();
        if folder.join("golden/cases.json").is_file() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fixtures.push(Fixture { name, folder });
        }
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fixtures)
}

impl Fixture {
    /// `golden/cases.json`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn golden(&self) -> Result<Value> {
        json(&self.folder.join("golden/cases.json"))
    }

    /// Its prompts with golden logits.
    ///
    /// # Errors
    /// If a golden file is not what the oracle's README says.
    pub fn cases(&self) -> Result<Vec<Case>> {
        let golden = self.golden()?;
        let bytes = std::fs::read(self.folder.join("golden/logits.safetensors"))?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let mut cases = Vec::new();
        for case in golden["cases"].as_array().context("cases.json has no cases")? {
            let name = case["name"].as_str().context("a case has no name")?.to_owned();
            let logits = floats(&tensors, &name)?;
            let mut greedy_ids = ids(&case["greedy_ids"])?;
            if let Some(n) = case["greedy_before_crossing"].as_u64() {
                greedy_ids.truncate(usize::try_from(n)?);
            }
            cases.push(Case { name, ids: ids(&case["ids"])?, greedy_ids, logits });
        }
        Ok(cases)
    }
}

/// A JSON file.
///
/// # Errors
/// If it cannot be read.
pub fn json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// A JSON list of token ids.
///
/// # Errors
/// If it is none.
pub fn ids(value: &Value) -> Result<Vec<u32>> {
    let list = value.as_array().context("not a list of ids")?;
    list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).context("not an id")).collect()
}

/// An F32 tensor.
///
/// # Errors
/// If there is none of that name and type.
pub fn floats(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>> {
    words(tensors, name, Dtype::F32).map(|words| words.map(f32::from_le_bytes).collect())
}

/// An I32 tensor of ids.
///
/// # Errors
/// If there is none of that name and type.
pub fn indices(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<u32>> {
    words(tensors, name, Dtype::I32).map(|words| words.map(u32::from_le_bytes).collect())
}

fn words<'a>(tensors: &SafeTensors<'a>, name: &str, dtype: Dtype) -> Result<impl Iterator<Item = [u8; 4]> + use<'a>> {
    let tensor = tensors.tensor(name).with_context(|| name.to_owned())?;
    if tensor.dtype() != dtype {
        bail!("{name}: {:?} where {dtype:?} is needed", tensor.dtype());
    }
    Ok(tensor.data().as_chunks::<4>().0.iter().copied())
}
