//! An open image with everything that runs it: kernels, workers, tokenizer, chat template.

use crate::Error;
use crate::device::{self, Compute, OnGpu};
use crate::ram::Ram;
use crate::session::{Session, SessionOptions};
use crate::template::Template;
use bourn_core::text::{EncodeOptions, Tokenizer};
use bourn_core::{HeadMode, KvDtype, SamplerOptions};
use bourn_format::{Dtype, Image, Role};
use bourn_host::{ImageFile, Pool, StreamKind, Threads, machine};
use bourn_kernels::Kernels;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Threads; `None`: found by a short timed run when the first session opens.
    pub threads: Option<Threads>,
    /// Where the image's bytes lie.
    pub stream: StreamKind,
    /// A tier of kernels by name; `None`: the fastest this CPU has.
    pub isa: Option<String>,
    /// Within so much memory, whatever `stream` says; there is room for one session at a time.
    pub ram: Option<Ram>,
    /// Which rows of a screened head are read.
    pub head: HeadMode,
    /// What computes.
    pub compute: Compute,
}

/// An open model. Sessions borrow from it; any number may be open.
#[derive(Debug)]
pub struct Model {
    file: ImageFile,
    kernels: &'static Kernels,
    pool: Pool,
    threads: OnceLock<Threads>,
    template: OnceLock<Template>,
    opened_in: Duration,
    ram: Option<Ram>,
    head: HeadMode,
    gpu: Option<OnGpu>,
    /// Whether a session has the room that a budget leaves for one.
    taken: AtomicBool,
    /// Bytes of the budget that are left to others.
    reserved: AtomicU64,
}

impl Model {
    /// Opens an image. With [`StreamKind::Mapped`] no weight is read yet.
    ///
    /// # Errors
    /// [`Error::Host`], which names the path; [`Error::Isa`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, Error> {
        let start = Instant::now();
        let kernels = match &options.isa {
            None => bourn_kernels::best(),
            Some(name) => bourn_kernels::by_name(name).ok_or_else(|| Error::Isa {
                name: name.clone(),
                available: bourn_kernels::available().map(|k| k.isa).collect(),
            })?,
        };
        if options.ram.is_some() && options.compute != Compute::Cpu {
            return Err(Error::GpuRam);
        }
        let kind = if options.ram.is_some() { StreamKind::Paged } else { options.stream };
        let file = ImageFile::open(path, kind)?;
        let gpu = device::open(&options.compute, &file)?;
        let threads = OnceLock::new();
        // Under a budget no pass is short enough to be timed for the count; the device is what is waited for.
        let wanted = options.threads.or_else(|| options.ram.as_ref().map(|_| Threads::both(machine::usable_cores())));
        let most = match wanted {
            Some(t) => {
                let t = Threads { decode: t.decode.max(1), prefill: t.prefill.max(1) };
                let _ = threads.set(t);
                t.decode.max(t.prefill)
            }
            None => machine::usable_cores(),
        };
        let pool = Pool::new(most);
        Ok(Self {
            file,
            kernels,
            pool,
            threads,
            template: OnceLock::new(),
            opened_in: start.elapsed(),
            ram: options.ram.clone(),
            head: options.head,
            gpu,
            taken: AtomicBool::new(false),
            reserved: AtomicU64::new(0),
        })
    }

    /// The checked head of the image.
    pub fn image(&self) -> &Image<'_> {
        self.file.image()
    }

    /// The file and its bytes.
    pub fn file(&self) -> &ImageFile {
        &self.file
    }

    /// Which rows of a screened head are read.
    pub fn head(&self) -> HeadMode {
        self.head
    }

    /// The GPU that holds the weights.
    #[cfg(feature = "gpu")]
    pub(crate) fn gpu(&self) -> Option<&OnGpu> {
        self.gpu.as_ref()
    }

    /// What computes: `cpu`, or the GPU's name.
    pub fn device(&self) -> String {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = &self.gpu {
            return gpu.device().adapter().name.clone();
        }
        "cpu".to_owned()
    }

    /// What choices measured on the GPU are kept under; `None` on the CPU.
    pub fn gpu_fingerprint(&self) -> Option<String> {
        #[cfg(feature = "gpu")]
        return self.gpu.as_ref().map(|gpu| gpu.device().adapter().fingerprint());
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// Finds the fastest forms of the GPU's kernels for sessions opened from now on: those that are `known`, of whatever model,
    /// are taken, the others measured. Returns all of them if there are new ones, to be known the next time on the same GPU. On the
    /// CPU there is nothing to find.
    ///
    /// # Errors
    /// What the GPU answers.
    pub fn tune(&self, known: &str) -> Result<Option<String>, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = &self.gpu {
            gpu.set_choices(bourn_gpu::Choices::read(known));
            return Ok(gpu.tune(self.image())?.map(|choices| choices.to_string()));
        }
        let _ = known;
        Ok(None)
    }

    /// Bytes per second that a kernel reads from the memory of the GPU; `None` on the CPU.
    ///
    /// # Errors
    /// What the GPU answers.
    pub fn gpu_bandwidth(&self) -> Result<Option<f64>, Error> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = &self.gpu {
            return Ok(Some(gpu.device().read_bandwidth()?));
        }
        Ok(None)
    }

    /// Whether a GPU computes.
    pub fn is_on_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// The budget.
    pub(crate) fn ram(&self) -> Option<&Ram> {
        self.ram.as_ref()
    }

    /// Leaves so many bytes of the budget to others in this process, which will take them after the first session has opened.
    pub fn reserve(&self, bytes: u64) {
        self.reserved.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// See [`Model::prepare`].
    pub(crate) fn taken(&self) -> &AtomicBool {
        &self.taken
    }

    /// The tier of kernels.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The workers.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How long opening took.
    pub fn opened_in(&self) -> Duration {
        self.opened_in
    }

    /// Threads in use; `None` before the first session has found them.
    pub fn threads(&self) -> Option<Threads> {
        self.threads.get().copied()
    }

    pub(crate) fn threads_cell(&self) -> &OnceLock<Threads> {
        &self.threads
    }

    /// Type of the weights in the layers: `q4`, `bf16` …
    pub fn weights(&self) -> Dtype {
        self.image().layer(0).get(Role::Down).map_or(Dtype::F32, |t| t.dtype)
    }

    /// The KV type that loses nothing worth naming beside these weights: f32 for float weights, else f16.
    pub fn default_kv(&self) -> KvDtype {
        if self.weights().is_quantized() { KvDtype::F16 } else { KvDtype::F32 }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::Missing`] for an image of bare weights.
    pub fn tokenizer(&self) -> Result<Tokenizer<'_>, Error> {
        self.image().tokenizer().map(Tokenizer::new).ok_or(Error::Missing { what: "tokenizer" })
    }

    /// Text → ids.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Core`].
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        let tokenizer = self.tokenizer()?;
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let mut scratch = vec![0; tokenizer.scratch_bytes(text.len())];
        tokenizer.encode(text, options, &mut scratch, &mut |id| ids.push(id))?;
        Ok(ids)
    }

    /// Ids → text, special tokens spelled out unless skipped.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        let mut text = String::new();
        self.tokenizer()?.decode(ids, skip_special, &mut |part| text.push_str(part));
        Ok(text)
    }

    /// Whether the image has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.image().chat_template().is_some()
    }

    /// A conversation through the model's chat template. `variables` hold `messages`; `bos_token` and `eos_token` are filled
    /// in, everything else the template knows may be given.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Template`].
    pub fn render_chat(&self, variables: &Map<String, Value>) -> Result<String, Error> {
        let template = match self.template.get() {
            Some(t) => t,
            None => {
                let source = self.image().chat_template().ok_or(Error::Missing { what: "chat template" })?;
                let compiled = Template::new(source)?;
                self.template.get_or_init(|| compiled)
            }
        };
        let mut all = Map::new();
        let tokenizer = self.tokenizer()?;
        for (key, id) in [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())] {
            if let Some(id) = id {
                all.insert(key.to_owned(), self.decode(&[id], false)?.into());
            }
        }
        all.extend(variables.clone());
        template.render(&all)
    }

    /// Ids of a conversation, ready for an answer.
    ///
    /// # Errors
    /// As [`Self::render_chat`] and [`Self::encode`].
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let messages: Vec<Value> = messages.iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
        let mut variables = Map::new();
        variables.insert("messages".to_owned(), messages.into());
        variables.insert("add_generation_prompt".to_owned(), true.into());
        // Templates write every special token themselves.
        self.encode(&self.render_chat(&variables)?, EncodeOptions { add_special: false, parse_special: true })
    }

    /// What the model's authors recommend for sampling.
    pub fn sampling(&self) -> SamplerOptions {
        let g = self.image().generation();
        SamplerOptions {
            temperature: g.temperature,
            top_k: g.top_k,
            top_p: g.top_p,
            min_p: g.min_p,
            repetition_penalty: g.repetition_penalty,
            ..SamplerOptions::default()
        }
    }

    /// Opens a session: the KV cache and every buffer; nothing is allocated afterwards while it generates.
    ///
    /// # Errors
    /// [`Error::Core`] when an option is outside what the image allows or memory is short.
    pub fn session(&self, options: &SessionOptions) -> Result<Session<'_>, Error> {
        Session::new(self, options)
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: content.to_owned() }
    }
}
