//! Model arguments → images: a path is opened as it is, a catalogue name is fetched and packed on first use.

use crate::args::{self, Head, PackHead, Stream, Weights};
use crate::output::{bar, hinted, note};
use crate::{cache, catalogue, fetch, ram, signal};
use anyhow::{Context, Result, bail};
use bourn::{HeadMode, KvDtype, Model, OpenOptions, Ram, SamplerOptions, SessionOptions, Speculate, StreamKind, Threads};
use bourn_checkpoint::Checkpoint;
use bourn_format::{Dtype, checksum};
use bourn_pack::{Report, Screening};
use std::fs;
use std::path::{Path, PathBuf};

impl Weights {
    /// The packer's word for it.
    fn packed(self) -> bourn_pack::Weights {
        match self {
            Self::Q4 => bourn_pack::Weights::Q4,
            Self::Q8 => bourn_pack::Weights::Q8,
            Self::F16 => bourn_pack::Weights::F16,
            Self::Bf16 => bourn_pack::Weights::Bf16,
            Self::F32 => bourn_pack::Weights::F32,
        }
    }
}

impl PackHead {
    /// The packer's words for it: the screen, or the type of all rows.
    fn packed(self) -> (Screening, Option<Dtype>) {
        match self {
            Self::Screen => (Screening::Standard, None),
            Self::Precise => (Screening::Precise, None),
            Self::Q8 => (Screening::Never, Some(Dtype::Q8)),
            Self::Q4 => (Screening::Never, Some(Dtype::Q4)),
            Self::F16 => (Screening::Never, Some(Dtype::F16)),
            Self::Bf16 => (Screening::Never, Some(Dtype::Bf16)),
            Self::F32 => (Screening::Never, Some(Dtype::F32)),
        }
    }
}

/// Options of the packer.
pub fn pack_options(weights: Weights, head: Option<PackHead>) -> bourn_pack::Options {
    let (screening, head) = head.map_or((None, None), |head| {
        let (screening, head) = head.packed();
        (Some(screening), head)
    });
    bourn_pack::Options { weights: weights.packed(), head, screening, cancel: signal::flag(), ..bourn_pack::Options::default() }
}

/// Packs with a progress bar.
pub fn pack(src: &Checkpoint, out: &Path, options: &bourn_pack::Options, quiet: bool) -> Result<Report> {
    let progress = bar(quiet, 0, "pack");
    let report = bourn_pack::pack(src, out, options, &mut |p| {
        progress.set_length(p.total);
        progress.set_position(p.done);
        progress.set_message(p.tensor.to_owned());
    });
    progress.finish_and_clear();
    Ok(report?)
}

/// The checkpoint of a folder, .gguf file or catalogue name.
pub fn checkpoint(src: &str, quiet: bool) -> Result<Checkpoint> {
    let path = Path::new(src);
    if path.exists() {
        return Ok(Checkpoint::open(path)?);
    }
    let Some(model) = catalogue::find(src)? else { return Err(not_found(src)) };
    let _lock = cache::lock(&model.name, quiet)?;
    fetched(&model, quiet)
}

/// The checkpoint of a catalogue entry, with the sampling of its card where the source recommends none.
fn fetched(model: &catalogue::Model, quiet: bool) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(&fetch::fetch(model, quiet)?.path)?;
    if let (Some(card), None) = (model.sampling, checkpoint.generation.temperature) {
        checkpoint.generation.temperature = Some(card.temperature);
        checkpoint.generation.top_p = Some(card.top_p);
    }
    Ok(checkpoint)
}

fn not_found(what: &str) -> anyhow::Error {
    hinted(
        format!("{what}: need a file or a name of the catalogue, found neither"),
        format!("the catalogue has {}", catalogue::names()),
    )
}

/// The image of a path or a catalogue name.
pub fn image(model: &str, quiet: bool) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() || path.extension().is_some_and(|e| e == "gguf" || e == "safetensors") && path.exists() {
        return Err(hinted(
            format!("{model}: a checkpoint, not an image"),
            format!("pack it first: bourn pack {model} -o OUT.bourn"),
        ));
    }
    if path.exists() {
        return Ok(path.to_owned());
    }
    let Some(model) = catalogue::find(model)? else { return Err(not_found(model)) };
    let options = pack_options(Weights::Q4, None);
    // Another version of format, packer or options makes another name, so an old image is never taken for a new one.
    let recipe = format!(
        "{} {} {:?} {:?} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        bourn_format::VERSION,
        options.weights,
        options.head,
        options.method,
        model.sampling
    );
    let hash = checksum(recipe.as_bytes()) >> 32;
    let out = cache::folder("images")?.join(format!(
        "{}-{}-v{}-{hash:08x}.bourn",
        model.name,
        options.weights.name(),
        bourn_format::VERSION
    ));
    if out.exists() {
        return Ok(out);
    }
    let _lock = cache::lock(&model.name, quiet)?;
    if out.exists() {
        return Ok(out);
    }
    let checkpoint = fetched(&model, quiet)?;
    note(quiet, &format!("packing {} once into {}", model.name, out.display()));
    pack(&checkpoint, &out, &options, quiet)?;
    Ok(out)
}

/// An image that is removed when dropped.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The image of anything: an image as it is, else a checkpoint packed in float for as long as the guard lives.
pub fn float_image(src: &str, quiet: bool) -> Result<(PathBuf, Option<Temporary>)> {
    let is_image = |p: &Path| {
        use std::io::Read;
        let mut first = [0; 8];
        p.is_file()
            && fs::File::open(p).and_then(|mut f| f.read_exact(&mut first)).is_ok()
            && first == bourn_format::superblock::MAGIC
    };
    if is_image(Path::new(src)) {
        return Ok((src.into(), None));
    }
    let checkpoint = checkpoint(src, quiet)?;
    // bf16 sources lose nothing in bf16; anything else, de-quantized, only nothing in f32.
    let bf16 = checkpoint.tensors().iter().filter(|t| t.rows > 1).all(|t| t.dtype == bourn_checkpoint::Dtype::Bf16);
    let weights = if bf16 { Weights::Bf16 } else { Weights::F32 };
    let out = cache::folder("tmp")?.join(format!("against-{}.bourn", std::process::id()));
    let guard = Temporary(out.clone());
    note(quiet, &format!("packing {src} in {} to compare with", weights.packed().name()));
    pack(&checkpoint, &out, &pack_options(weights, None), quiet)?;
    Ok((out, Some(guard)))
}

/// Opens a model as the arguments say.
pub fn open(model: &str, open: &args::Open, quiet: bool) -> Result<Model> {
    let path = image(model, quiet)?;
    if open.device == args::Compute::Auto {
        let (device, why) = crate::auto::choose(&path, open, quiet)?;
        note(quiet, &why);
        return open_image(&path, &args::Open { device: args::Compute::Given(device), ..open.clone() });
    }
    open_image(&path, open)
}

/// Opens an image as the arguments say.
pub fn open_image(path: &Path, open: &args::Open) -> Result<Model> {
    let options = OpenOptions {
        threads: open.threads.map(|n| Threads::both(usize::from(n))),
        stream: match open.stream {
            Stream::Mapped => StreamKind::Mapped,
            Stream::Resident => StreamKind::Resident,
        },
        isa: open.isa.clone(),
        head: match open.head {
            Head::Screen => HeadMode::Screened,
            Head::Exact => HeadMode::Exact,
        },
        compute: match &open.device {
            args::Compute::Given(compute) => compute.clone(),
            args::Compute::Auto => bourn::Compute::Cpu,
        },
        ram: open.ram.map(|budget| Ram { budget, lock: open.lock, throttle: open.throttle, cancel: Some(signal::flag()) }),
    };
    let model = Model::open(path, &options)?;
    crate::gpu::tune(&model)?;
    Ok(model)
}

impl args::Kv {
    /// The core's word for it.
    pub fn dtype(self) -> KvDtype {
        match self {
            Self::F32 => KvDtype::F32,
            Self::F16 => KvDtype::F16,
            Self::I8 => KvDtype::I8,
        }
    }
}

/// Name of a KV type.
pub fn kv_name(kv: KvDtype) -> &'static str {
    match kv {
        KvDtype::F32 => "f32",
        KvDtype::F16 => "f16",
        KvDtype::I8 => "i8",
    }
}

/// Options of a session as the arguments say.
pub fn session_options(s: &args::Session, speculate: Speculate) -> SessionOptions {
    SessionOptions {
        context: s.context.map(|n| n as usize),
        kv: s.kv.map(args::Kv::dtype),
        prefill_block: s.prefill_block.map(|n| n as usize),
        logit_rows: None,
        speculate,
        rewindable: false,
    }
}

/// A session for the logits of every position: under a RAM budget it computes as many at once, up to `most`, as still fit.
pub fn many_logits<'m>(model: &'m Model, options: &SessionOptions, most: usize) -> Result<bourn::Session<'m>> {
    let with = |rows: usize| SessionOptions { logit_rows: Some(rows), ..*options };
    let mut rows = most;
    while rows > 1 && model.ram_plan(&with(rows)).is_err() {
        rows /= 2;
    }
    let plain = model.ram_plan(&with(rows)).is_ok_and(|plan| plan.is_none());
    Ok(model.session(&if plain { *options } else { with(rows) })?)
}

/// What went wrong while tokens were computed; under a RAM budget with the file and device that were read.
pub fn failed(model: &Model, e: bourn::Error) -> anyhow::Error {
    use bourn_core::Error::{Format, Read, Stalled};
    let reading = matches!(e, bourn::Error::Core(Read { .. } | Stalled { .. } | Format(_)));
    match model.file().pager().filter(|_| reading) {
        Some(pager) => {
            let device = pager.device().unwrap_or("an unknown device");
            anyhow::Error::from(e).context(format!("{} on {device}", model.file().path().display()))
        }
        None => e.into(),
    }
}

/// Whether a Ctrl-C ended the wait for weights.
pub fn was_cancelled(e: &bourn::Error) -> bool {
    matches!(e, bourn::Error::Core(bourn_core::Error::Cancelled))
}

/// The draft model, held in memory.
pub fn draft(s: &args::Speculation, open: &args::Open, quiet: bool) -> Result<Option<Model>> {
    let Some(name) = &s.draft else { return Ok(None) };
    let device = args::Compute::Given(bourn::Compute::Cpu);
    let open = args::Open { stream: Stream::Resident, ram: None, lock: false, throttle: None, device, ..open.clone() };
    Ok(Some(self::open(name, &open, quiet)?))
}

/// Context under a RAM budget with a draft model, if none is given: both have a cache of it.
const DRAFTED_CONTEXT: u32 = 512;

/// A session that speculates as the arguments say, where they say nothing as `default` does; with a prompt cache one that can
/// return anywhere.
pub fn speculating<'m>(
    model: &'m Model,
    draft: Option<&'m Model>,
    s: &args::Session,
    speculation: &args::Speculation,
    default: Speculate,
    rewindable: bool,
) -> Result<bourn::Session<'m>> {
    let speculate = speculation.speculate.unwrap_or(if draft.is_some() { Speculate::Auto } else { default });
    let mut s = s.clone();
    if model.file().kind() == StreamKind::Paged {
        let mut others = 0;
        if let Some(draft) = draft {
            // The draft model's weights are in memory by now; its cache comes when the budget is shared out.
            let context = *s.context.get_or_insert(DRAFTED_CONTEXT.min(model.image().shape().max_context));
            let options =
                SessionOptions { context: Some(context as usize), speculate: Speculate::Off, ..SessionOptions::default() };
            others += bourn_core::workspace_bytes(draft.image(), &options.core(draft))? as u64;
        }
        if rewindable {
            others += model.prompt_cache_bytes(s.kv.map(args::Kv::dtype));
        }
        model.reserve(others);
    }
    let mut session = model.session(&SessionOptions { rewindable, ..session_options(&s, speculate) })?;
    if let Some(draft) = draft {
        session.use_draft(draft)?;
    }
    Ok(session)
}

/// Sampling as the arguments say, for the rest as the model's authors do.
pub fn sampling(model: &Model, s: &args::Sampling) -> SamplerOptions {
    let d = model.sampling();
    SamplerOptions {
        temperature: s.temperature.unwrap_or(d.temperature),
        top_k: s.top_k.unwrap_or(d.top_k),
        top_p: s.top_p.unwrap_or(d.top_p),
        min_p: s.min_p.unwrap_or(d.min_p),
        repetition_penalty: s.repetition_penalty.unwrap_or(d.repetition_penalty),
        seed: s.seed,
        ..d
    }
}

/// The line that says what was decided.
pub fn announce(model: &Model, session: &bourn::Session<'_>, quiet: bool) {
    note(
        quiet,
        &format!(
            "{} stream={} image=v{} {} head={} kv={}",
            if model.is_on_gpu() {
                format!("device={}", model.device())
            } else {
                format!("isa={} threads={}", model.kernels().isa, session.threads())
            },
            ram::stream_name(model),
            model.image().superblock().version,
            model.weights().name(),
            match (model.image().screen(), model.head()) {
                (None, _) => "whole",
                (_, HeadMode::Screened) => "screen",
                (_, HeadMode::Exact) => "exact",
            },
            kv_name(session.kv()),
        ),
    );
    if let Some(line) = ram::forecast(model) {
        note(quiet, &line);
    }
}

/// Fails unless every id is a token of the model.
pub fn check_ids(model: &Model, ids: &[u32]) -> Result<()> {
    let vocab = model.image().shape().vocab;
    match ids.iter().find(|&&id| id >= vocab) {
        Some(id) => bail!("token id {id} out of range: the model has {vocab}"),
        None => Ok(()),
    }
}

/// Reads all of stdin.
pub fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).context("stdin: read")?;
    Ok(bytes)
}

/// Text out of bytes.
pub fn utf8(bytes: Vec<u8>, from: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        anyhow::anyhow!(
            "{from}: not UTF-8: byte {} is {:#04x}",
            e.utf8_error().valid_up_to(),
            e.as_bytes()[e.utf8_error().valid_up_to()]
        )
    })
}
