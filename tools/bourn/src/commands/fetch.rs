//! `bourn fetch`: a checkpoint into the cache.

use crate::args::Fetch;
use crate::output::{bytes, hinted, json, line};
use crate::{cache, catalogue, fetch as sources};
use anyhow::Result;
use serde_json::json as object;
use std::process::ExitCode;

/// Fetches and says where the checkpoint lies.
pub fn fetch(a: &Fetch, quiet: bool) -> Result<ExitCode> {
    let Some(model) = catalogue::find(&a.name)? else {
        return Err(hinted(
            format!("{}: not a name of the catalogue", a.name),
            format!("the catalogue has {}", catalogue::names()),
        ));
    };
    let _lock = cache::lock(&model.name, quiet)?;
    let f = sources::fetch(&model, quiet)?;
    if a.json {
        json(&object!({
            "name": model.name,
            "path": f.path,
            "source": f.source,
            "bytes": f.bytes,
            "sha256": f.sha256,
            "license": model.license,
        }))?;
    } else {
        line(&format!("{}\t{}\t{}\tlicence {}", f.path.display(), bytes(f.bytes), f.source, model.license))?;
    }
    Ok(ExitCode::SUCCESS)
}
