//! Runs an image through the core, with nothing of the library face in between.

use std::path::Path;

use anyhow::{Context, Result};
use bourn_checkpoint::Checkpoint;
use bourn_core::{Engine, Options, Session, workspace_bytes};
use bourn_format::checksum;
use bourn_host::{ImageFile, StreamKind};
use bourn_kernels::{Kernels, KvDtype, OneCore, Rows};
use bourn_pack::Weights;

use crate::compare::argmax;

/// What a run is made with.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The tier.
    pub kernels: &'static Kernels,
    /// Who shares out the rows.
    pub rows: &'a dyn Rows,
    /// Element type of the KV cache.
    pub kv: KvDtype,
    /// Tokens of a prefill block.
    pub block: usize,
    /// Positions; 0 = as many as the run needs.
    pub context: usize,
}

impl Default for Setup<'_> {
    /// The best tier on one core, nothing rounded in the cache.
    fn default() -> Self {
        Self { kernels: bourn_kernels::best(), rows: &OneCore, kv: KvDtype::F32, block: 32, context: 0 }
    }
}

/// An open image.
#[derive(Debug)]
pub struct Runner {
    file: ImageFile,
}

/// Packs a checkpoint (a folder or a GGUF file) with matrices of one type throughout.
///
/// # Errors
/// If it cannot be read or packed.
pub fn pack(source: &Path, image: &Path, weights: Weights) -> Result<()> {
    let checkpoint = Checkpoint::open(source).with_context(|| source.display().to_string())?;
    let options = bourn_pack::Options { weights, ..bourn_pack::Options::default() };
    bourn_pack::pack(&checkpoint, image, &options, &mut |_| {})?;
    Ok(())
}

impl Runner {
    /// Opens an image and checks every page.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(image: &Path) -> Result<Self> {
        Ok(Self { file: ImageFile::open(image, StreamKind::Resident)? })
    }

    /// The checked head.
    pub fn image(&self) -> &bourn_format::Image<'_> {
        self.file.image()
    }

    /// Calls `sink(position, logits)` after every token of `ids`.
    ///
    /// # Errors
    /// If a token cannot be computed.
    pub fn each(&self, ids: &[u32], setup: &Setup<'_>, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.session(ids.len(), setup, |session, engine| Ok(session.logits_of_all(engine, ids, sink)?))
    }

    /// Logits `[ids, vocab]`.
    ///
    /// # Errors
    /// If a token cannot be computed.
    pub fn logits(&self, ids: &[u32], setup: &Setup<'_>) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(ids.len() * self.image().shape().vocab as usize);
        self.each(ids, setup, &mut |_, logits| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// The prompt, then `n` times the likeliest token; each step's logits are shown to `look`.
    ///
    /// # Errors
    /// If a token cannot be computed.
    pub fn greedy(&self, ids: &[u32], n: usize, setup: &Setup<'_>, look: &mut dyn FnMut(&[f32])) -> Result<Vec<u32>> {
        // The last token is not read back.
        self.session(ids.len() + n.saturating_sub(1), setup, |session, engine| {
            let mut text = Vec::with_capacity(n);
            let mut next = ids.to_vec();
            while text.len() < n {
                let logits = session.prefill(engine, &next)?;
                look(logits);
                next = vec![u32::try_from(argmax(logits))?];
                text.push(next[0]);
            }
            Ok(text)
        })
    }

    /// One number for every bit of the logits of a prompt and of `n` tokens after it.
    ///
    /// # Errors
    /// If a token cannot be computed.
    pub fn checksum(&self, ids: &[u32], n: usize, setup: &Setup<'_>) -> Result<u64> {
        let mut bytes = Vec::new();
        let mut keep = |logits: &[f32]| bytes.extend(logits.iter().flat_map(|x| x.to_bits().to_le_bytes()));
        self.each(ids, setup, &mut |_, logits| keep(logits))?;
        self.greedy(ids, n, setup, &mut keep)?;
        Ok(checksum(&bytes))
    }

    fn session<T>(
        &self,
        need: usize,
        setup: &Setup<'_>,
        run: impl FnOnce(&mut Session<'_>, &mut Engine<'_>) -> Result<T>,
    ) -> Result<T> {
        let image = self.image();
        let context = need.max(setup.context).min(image.shape().max_context as usize);
        let options = Options { context, prefill_block: setup.block, retain: 0, kv: setup.kv, logit_rows: 8 };
        let mut workspace = vec![0; workspace_bytes(image, &options)?];
        let mut session = Session::new(image, &options, &mut workspace)?;
        let mut stream = self.file.stream();
        let (kernels, rows) = (setup.kernels, setup.rows);
        let mut engine = Engine { image, stream: &mut stream, kernels, decode: rows, prefill: rows };
        run(&mut session, &mut engine)
    }
}
