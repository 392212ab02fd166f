//! Checkpoint → image: quantizes a model's weights and writes the one file that Bourn runs (FORMAT.md).
//!
//! Modules in path order: `source` (what the checkpoint has) → `calibrate` (what its matrices meet) → `screen` (a coarse code of every
//! row of a large head) → `plan` (where all will lie) → `quantize` (floats to tiles) → `head` (everything but weights) → `output` (the file, whole or not at all); [`unpack`] goes back.
//!
//! The same checkpoint and options give the same bytes, on any number of threads.
#![deny(unsafe_code)]

mod calibrate;
mod error;
mod head;
mod matrix;
mod output;
mod plan;
mod quantize;
mod report;
mod report_page;
mod screen;
mod source;
mod tiles;
pub mod tokenizer;
pub mod unpack;
mod wide;

pub use error::Error;
pub use quantize::{FITTED, Levels, Method};
pub use report::{Report, TensorReport};
pub use unpack::{unpack_row, unpack_row_of};

use bourn_checkpoint::Checkpoint;
use bourn_format::{Dtype, Image, PAGE, Shape};
use calibrate::Calibration;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wide::Wide;

/// Element type of the matrices (`--weights`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// 4 bits: Q4; embedding and head Q8; Q4_0 and Q4_1 sources as they are.
    #[default]
    Q4,
    /// 8 bits.
    Q8,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// binary32.
    F32,
}

impl Weights {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4 => "q4",
            Self::Q8 => "q8",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// Whether the head is screened: a coarse look at all of its rows and an exact one, in 8 bits, at the best (FORMAT.md §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screening {
    /// All rows are read for every token.
    Never,
    /// About 680 bits a row, and at most 6 144 rows exactly.
    Standard,
    /// About 1 600 bits a row, and at most 24 576 rows exactly.
    Precise,
}

/// Fewest rows of a head that is screened without being asked for.
const SCREENED_VOCAB: u32 = 32_768;

/// How to pack.
#[derive(Clone, Debug)]
pub struct Options {
    /// Element type of the matrices.
    pub weights: Weights,
    /// Element type of the head and of the embedding; `None`: Q8 under [`Weights::Q4`] (but Q4_0 and Q4_1 sources as they
    /// are), else as the other matrices. [`Dtype::Q4M`] means [`Dtype::Q4`] unless the source is Q4_1.
    pub head: Option<Dtype>,
    /// How matrices are quantized to 4 bits; `None`: [`Method::Gptq`] where the checkpoint has a tokenizer for the calibration text.
    pub method: Option<Method>,
    /// Bits of a weight of the layers on average, scales included: what is more than 4.5 is spent on 8-bit matrices, where a calibration
    /// run shows that it buys most. `None`: the values' projections in 8 bits, and the keys', where that is little (a twelfth of the layers' weights at most).
    pub bits: Option<f64>,
    /// Level table of quantized 4-bit tensors.
    pub levels: Levels,
    /// Threads; 0: as many as the machine has cores.
    pub threads: usize,
    /// Whether the head is screened; goes before [`Self::head`]. `None`: large heads of 4-bit models are, if [`Self::head`] says
    /// nothing and the checkpoint has a tokenizer.
    pub screening: Option<Screening>,
    /// A text for the calibration run that [`Method::Gptq`] and a screened head need; `None`: the built-in one.
    pub calibration: Option<Arc<str>>,
    /// Set from elsewhere (a signal), it makes [`pack`] stop and remove what it has written.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            weights: Weights::Q4,
            head: None,
            method: None,
            bits: None,
            levels: Levels::fitted(),
            screening: None,
            calibration: None,
            threads: 0,
            cancel: Arc::default(),
        }
    }
}

/// How far [`pack`] is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor under way.
    pub tensor: &'a str,
    /// Weights written.
    pub done: u64,
    /// Weights in all.
    pub total: u64,
}

/// Packs `src` into the image `out`: temporary file beside it, superblock last, then renamed; nothing is left on failure.
///
/// # Errors
/// [`Error`].
pub fn pack(src: &Checkpoint, out: &Path, options: &Options, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
    let mut sources = source::tensors(src);
    let shape = source::shape(&src.spec)?;
    let options = &options.settled(src, &shape)?;
    if options.weights == Weights::Q4 {
        source::find_grids(src, &mut sources, options)?;
    }
    let head = plan::head(&shape, &sources);
    let screening = budget(&shape, options).zip(head);
    let feedback = options.method == Some(Method::Gptq) && plan::rounds(&sources, options);
    let mut calibration = match screening.is_some() || feedback || options.bits.is_some() {
        true => Some(Calibration::new(src, out, options, progress)?),
        false => None,
    };
    let screen = match (&mut calibration, screening) {
        (Some(calibration), Some((budget, head))) => {
            let statistics = calibration.statistics(progress)?;
            Some(screen::fit(src, head, budget, &statistics, options, progress)?)
        }
        _ => None,
    };
    let screen = screen.as_ref();
    let wide = match (&mut calibration, options.bits) {
        (Some(calibration), Some(bits)) => {
            let costs = calibration.costs(src, &sources, options, progress)?;
            Wide::bought(&costs, &sources, options, bits)
        }
        _ => Wide::by_role(&sources, options),
    };
    let mut calibration = calibration.filter(|_| feedback);
    let plan = plan::Plan::new(&shape, &sources, options, &wide, screen)?;
    let parts = source::parts(src, shape, &plan, options)?;
    // The head with empty sums has its final length, and what the reader would refuse is refused before the long work.
    let no_sums = vec![0; (plan.payload_bytes / PAGE as u64) as usize];
    let draft = head::head(&parts, &plan, &no_sums)?;
    let superblock = *Image::new_checked(&draft).map_err(Error::Image)?.superblock();

    let mut output = output::Output::create(out, superblock.payload_offset, superblock.file_bytes)?;
    let losses = tiles::write(src, &plan, screen, calibration.as_mut(), options, &mut output, progress)?;
    let page_sums = output.page_sums()?;
    let head = head::head(&parts, &plan, &page_sums)?;
    let report =
        Report::new(&Image::new_checked(&head).map_err(Error::Image)?, &plan, &losses, options.method.unwrap_or_default());
    if options.cancel.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    output.finish(&head)?;
    Ok(report)
}

impl Options {
    /// The options with nothing left open.
    fn settled(&self, src: &Checkpoint, shape: &Shape) -> Result<Self, Error> {
        let readable = src.tokenizer.is_some();
        let screened = self.weights == Weights::Q4 && self.head.is_none() && shape.vocab >= SCREENED_VOCAB && readable;
        if let Some(bits) = self.bits
            && !(self.weights == Weights::Q4 && wide::BITS.contains(&bits))
        {
            return Err(Error::Bits { found: bits, weights: self.weights.name() });
        }
        Ok(Self {
            method: Some(self.method.unwrap_or(if readable { Method::Gptq } else { Method::Rtn })),
            screening: Some(self.screening.unwrap_or(if screened { Screening::Standard } else { Screening::Never })),
            ..self.clone()
        })
    }
}

/// What the screen of the head may cost; `None`: no screen.
fn budget(shape: &Shape, options: &Options) -> Option<screen::Budget> {
    match options.screening? {
        Screening::Never => None,
        Screening::Standard => Some(screen::Budget::standard(shape)),
        Screening::Precise => Some(screen::Budget::precise(shape)),
    }
}
