//! Bourn's tokenizer against the goldens of Hugging Face's, and with the feature `tokenizers` against that crate itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bourn_oracle::place;
use bourn_oracle::text::{Image, mixed};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (name, found) in sources() {
        match found {
            Err(reason) => trials.push(Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true)),
            Ok(source) => {
                let source = Arc::new(source);
                let mut add = |what: &str, check: fn(&Source) -> Result<()>| {
                    let source = Arc::clone(&source);
                    let run = move || check(&source).map_err(|error| Failed::from(format!("{error:#}")));
                    trials.push(Trial::test(format!("{name}: {what}"), run));
                };
                if source.golden.is_some() {
                    add("goldens", goldens);
                }
                if source.gguf.is_some() {
                    add("the GGUF file's vocabulary gives the same ids", same_from_gguf);
                }
                add("any ids decode, whole or token by token, to the same", streams_like_whole);
                add("decode(encode(text)) is the text in normal form", round_trip);
                #[cfg(feature = "tokenizers")]
                add("equal to the tokenizers crate on a megabyte of mixed text", against_crate::encode);
                #[cfg(feature = "tokenizers")]
                add("equal to the tokenizers crate on random ids", against_crate::decode);
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A tokenizer to be tested.
struct Source {
    folder: PathBuf,
    golden: Option<PathBuf>,
    gguf: Option<PathBuf>,
}

impl Source {
    fn image(&self) -> Result<Image> {
        Image::of_folder(&self.folder)
    }

    fn is_fixture(&self) -> bool {
        self.golden.as_ref().is_some_and(|golden| golden.ends_with("cases.json"))
    }
}

/// The real tokenizers: `BOURN_TOKENIZERS`, a folder with a folder for each, else the cache.
fn real(name: &str) -> Result<PathBuf, String> {
    let folder = match std::env::var_os("BOURN_TOKENIZERS") {
        Some(folder) => Path::new(&folder).join(name),
        None => place::cached(&format!("test-data/tokenizers/{name}"))?,
    };
    if folder.join("tokenizer.json").exists() {
        Ok(folder)
    } else {
        Err(format!("no tokenizer.json of {name} (BOURN_TOKENIZERS)"))
    }
}

fn sources() -> Vec<(String, Result<Source, String>)> {
    let oracle = match place::oracle() {
        Ok(oracle) => oracle,
        Err(reason) => return vec![("tokenizers".to_owned(), Err(reason))],
    };
    let mut all = Vec::new();
    let folders = std::fs::read_dir(oracle.join("dev")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = folders.filter(|folder| folder.join("tokenizer.json").exists()).collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let golden = Some(folder.join("golden/cases.json"));
        all.push((name, Ok(Source { folder, golden, gguf: None })));
    }
    for (name, file, gguf) in [("gemma3", "gemma3.dev.json", Some("gemma-3-270m-q4_k_m.gguf")), ("qwen3", "qwen3.dev.json", None)]
    {
        let golden = Some(oracle.join("tokenizers").join(file));
        let gguf = gguf.and_then(vocabulary);
        all.push((format!("real {name}"), real(name).map(|folder| Source { folder, golden, gguf })));
    }
    let smollm2 = oracle.join("real/smollm2-135m-instruct");
    let gguf = vocabulary("SmolLM2-135M-Instruct.Q4_1.gguf");
    all.push(("real smollm2".to_owned(), Ok(Source { folder: smollm2, golden: None, gguf })));
    all
}

/// A GGUF file: in `BOURN_GGUF`, else in the cache.
fn vocabulary(file: &str) -> Option<PathBuf> {
    let given = std::env::var_os("BOURN_GGUF").map(|folder| Path::new(&folder).join(file)).filter(|file| file.exists());
    given.or_else(|| place::cached(&format!("test-data/{file}")).ok())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32).collect()
}

fn goldens(source: &Source) -> Result<()> {
    let image = source.image()?;
    let golden = source.golden.as_ref().context("no golden")?;
    let golden: Value = serde_json::from_slice(&std::fs::read(golden)?)?;
    let list = |key: &str| golden[key].as_array().cloned().unwrap_or_default();
    let is_fixture = source.is_fixture();
    let cases = list(if is_fixture { "tokenizer" } else { "cases" });
    ensure!(!cases.is_empty(), "no cases");
    for case in &cases {
        let text = case["text"].as_str().context("a case has no text")?;
        ensure!(
            image.encode(text, false, true)? == ids(&case["ids"]),
            "ids of {text:?}: {:?}, not {}",
            image.encode(text, false, true)?,
            case["ids"]
        );
        ensure!(image.encode(text, true, true)? == ids(&case["ids_special"]), "ids with special of {text:?}");
        decodes(&image, case, "ids")?;
    }
    for case in list("decode_only") {
        decodes(&image, &case, "ids")?;
    }
    for case in list("stream") {
        let ids = ids(&case["ids"]);
        for (n, prefix) in case["prefixes"].as_array().into_iter().flatten().enumerate() {
            ensure!(image.decode(&ids[..n + 1], false) == prefix.as_str().unwrap_or_default(), "prefix {n} of {}", case["text"]);
        }
        ensure!(image.stream(&ids, false) == image.decode(&ids, false), "stream of {}", case["text"]);
    }
    for case in list("chat") {
        let text = case["rendered"].as_str().context("a chat has no text")?;
        ensure!(image.encode(text, false, true)? == ids(&case["ids"]), "ids of chat {text:?}");
    }
    Ok(())
}

fn decodes(image: &Image, case: &Value, key: &str) -> Result<()> {
    let ids = ids(&case[key]);
    for (key, skip) in [("decode", false), ("decode_skip_special", true)] {
        let found = image.decode(&ids, skip);
        ensure!(Some(&*found) == case[key].as_str(), "{key} of {ids:?}: {found:?}, not {}", case[key]);
        ensure!(image.stream(&ids, skip) == found, "stream of {ids:?}");
    }
    Ok(())
}

fn same_from_gguf(source: &Source) -> Result<()> {
    let (json, gguf) = (source.image()?, Image::of_gguf(source.gguf.as_ref().context("no GGUF")?)?);
    for text in parts(&mixed(400_000, 3)) {
        ensure!(json.encode(text, true, true)? == gguf.encode(text, true, true)?, "ids of {:?}", clip(text));
    }
    Ok(())
}

fn streams_like_whole(source: &Source) -> Result<()> {
    let image = source.image()?;
    for seed in 0..200 {
        let ids = image.random_ids(seed, 1 + 3 * seed as usize);
        for skip in [false, true] {
            ensure!(image.stream(&ids, skip) == image.decode(&ids, skip), "stream of {ids:?}");
        }
    }
    Ok(())
}

fn round_trip(source: &Source) -> Result<()> {
    let image = source.image()?;
    if !image.is_lossless() {
        return Ok(());
    }
    for text in parts(&mixed(400_000, 4)) {
        let decoded = image.decode(&image.encode(text, false, true)?, false);
        ensure!(decoded == image.normal_form(text), "round trip of {:?}", clip(text));
    }
    Ok(())
}

/// Pieces of a text of many lengths.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    let mut step = 1usize;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        step = step * 7 % 40_009;
        let mut end = (1 + step % 9001).min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(feature = "tokenizers")]
mod against_crate {
    use super::*;
    use tokenizers::Tokenizer;

    fn open(source: &Source) -> Result<Tokenizer> {
        Tokenizer::from_file(source.folder.join("tokenizer.json")).map_err(|error| anyhow::anyhow!("{error}"))
    }

    pub(super) fn encode(source: &Source) -> Result<()> {
        let (image, theirs) = (source.image()?, open(source)?);
        let text = mixed(1 << 20, 1);
        let same = |text: &str| -> Result<()> {
            for special in [false, true] {
                let need = theirs.encode_fast(text, special).map_err(|error| anyhow::anyhow!("{error}"))?;
                let found = image.encode(text, special, true)?;
                if let Some(at) = (0..found.len().max(need.len())).find(|&i| found.get(i) != need.get_ids().get(i)) {
                    let around = &need.get_ids()[at.saturating_sub(3).min(need.len())..(at + 5).min(need.len())];
                    let ours = &found[at.saturating_sub(3).min(found.len())..(at + 5).min(found.len())];
                    anyhow::bail!(
                        "id {at} of {:?}: need {around:?} {:?}, found {ours:?} {:?}",
                        clip(text),
                        theirs.decode(around, false).unwrap_or_default(),
                        image.decode(ours, false)
                    );
                }
            }
            Ok(())
        };
        parts(&text).try_for_each(same)?;
        same(&text)
    }

    pub(super) fn decode(source: &Source) -> Result<()> {
        let (image, theirs) = (source.image()?, open(source)?);
        for seed in 0..2000 {
            let ids = image.random_ids(seed, 1 + (seed as usize) % 60);
            for skip in [false, true] {
                let need = theirs.decode(&ids, skip).map_err(|error| anyhow::anyhow!("{error}"))?;
                ensure!(image.decode(&ids, skip) == need, "decode of {ids:?}: {:?}, not {need:?}", image.decode(&ids, skip));
            }
        }
        Ok(())
    }
}
