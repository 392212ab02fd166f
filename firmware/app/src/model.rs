//! An image on the card → head, stream, session in the memory that the board lends.

use crate::card::{Counted, Place, TRIES};
use crate::trouble::Trouble;
use bourn_core::{KvDtype, Options, WeightStream, workspace_bytes};
use bourn_flash::{BlockSource, Source, head, stream};
use bourn_format::superblock::Superblock;
use bourn_format::{Image, PAGE, Role};
use bourn_protocol::message::{Load, Weights, Why};
use embedded_sdmmc::BlockDevice;

/// Default context where model and memory allow more.
const DEFAULT_CONTEXT: usize = 4096;
/// Shortest context that weights are left on the card for.
const LEAST_RESIDENT_CONTEXT: usize = 512;
const LEAST_CONTEXT: usize = 64;
/// Tokens that prefill takes at once.
const BLOCK: usize = 64;
/// Bytes of prompt, and of answer, for each position.
const PROMPT_BYTES: usize = 8;
const TEXT_BYTES: usize = 16;
/// Bytes read from the card between two looks at the line.
const STEP: usize = 1 << 18;

/// The lent memory, handed out piece by piece.
#[derive(Debug)]
pub(crate) struct Arena<'m> {
    rest: &'m mut [u8],
    lent: usize,
}

impl<'m> Arena<'m> {
    pub const fn new(memory: &'m mut [u8]) -> Self {
        let lent = memory.len();
        Self { rest: memory, lent }
    }

    /// `n` bytes at a multiple of 64.
    pub fn take(&mut self, n: usize) -> Result<&'m mut [u8], Trouble> {
        let rest = core::mem::take(&mut self.rest);
        let skip = rest.as_ptr().align_offset(64);
        let have = rest.len().saturating_sub(skip);
        let Some(aligned) = rest.get_mut(skip..).filter(|r| r.len() >= n) else {
            return Err(Trouble::new(Why::Memory, format_args!("memory too small: need {n} bytes more, have {have}")));
        };
        let (taken, rest) = aligned.split_at_mut(n);
        self.rest = rest;
        Ok(taken)
    }

    /// `n` words.
    pub fn words(&mut self, n: usize) -> Result<&'m mut [u32], Trouble> {
        let bytes = self.take(n.saturating_mul(4))?;
        // Of the right length at a multiple of 64.
        Ok(bytemuck::try_cast_slice_mut(bytes).unwrap_or_default())
    }

    /// All that is left.
    pub fn rest(self) -> &'m mut [u8] {
        self.rest
    }

    /// Bytes handed out.
    pub const fn taken(&self) -> usize {
        self.lent - self.rest.len()
    }
}

/// What will be held in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub options: Options,
    pub resident: bool,
    pub workspace: usize,
    pub weights: usize,
    pub prompt: usize,
    pub scratch: usize,
    pub text: usize,
}

impl Plan {
    fn with(image: &Image<'_>, context: usize, resident: bool) -> Result<Self, Trouble> {
        let quantized = image.layer(0).get(Role::Down).is_some_and(|t| t.dtype.is_quantized());
        let kv = if quantized { KvDtype::F16 } else { KvDtype::F32 };
        let options = Options { context, prefill_block: BLOCK, kv, retain: 0, logit_rows: 1 };
        let s = image.superblock();
        let weights = if resident { s.file_bytes - s.payload_offset } else { stream::buffer_bytes(image) as u64 };
        let prompt = context * PROMPT_BYTES;
        let scratch = image.tokenizer().map_or(0, |t| bourn_core::text::Tokenizer::new(t).scratch_bytes(prompt));
        Ok(Self {
            options,
            resident,
            workspace: workspace_bytes(image, &options)?,
            weights: usize::try_from(weights).unwrap_or(usize::MAX),
            prompt,
            scratch,
            text: context * TEXT_BYTES,
        })
    }

    /// Words for ids: the text known, the prompt that came, those written, ends of text.
    pub const fn words(&self) -> usize {
        self.options.context + 1
    }

    fn bytes(&self) -> usize {
        // Ten pieces at most, each at a multiple of 64.
        [self.workspace, self.weights, self.prompt, self.scratch, self.text, 4 * 4 * self.words(), 10 * 64]
            .iter()
            .fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The largest plan that fits `have` bytes.
    pub fn choose(image: &Image<'_>, load: &Load, have: usize) -> Result<Self, Trouble> {
        let most = image.shape().max_context as usize;
        let first = if load.context == 0 { DEFAULT_CONTEXT.min(most) } else { load.context as usize };
        let mut least: Option<usize> = None;
        for resident in [true, false] {
            if load.weights == if resident { Weights::Paged } else { Weights::Resident } {
                continue;
            }
            let floor = match (load.context, resident && load.weights == Weights::Auto) {
                (0, true) => LEAST_RESIDENT_CONTEXT.min(first),
                (0, false) => LEAST_CONTEXT.min(first),
                _ => first,
            };
            let mut context = first;
            loop {
                let plan = Self::with(image, context, resident)?;
                if plan.bytes() <= have {
                    return Ok(plan);
                }
                least = Some(least.map_or(plan.bytes(), |l| l.min(plan.bytes())));
                if context <= floor {
                    break;
                }
                context = (context / 2).max(floor);
            }
        }
        let need = least.unwrap_or(usize::MAX);
        Err(Trouble::new(Why::Memory, format_args!("memory too small for this model: need {need} bytes, have {have}")))
    }
}

/// The superblock and the head of the image at `place`.
pub(crate) fn read_head<'m, D: BlockDevice>(
    source: &mut BlockSource<'_, Counted<'_, D>>,
    place: &Place,
    arena: &mut Arena<'m>,
) -> Result<&'m [u8], Trouble> {
    let superblock = head::superblock(source)?;
    fits(&superblock, place)?;
    let memory = arena.take(usize::try_from(superblock.head_bytes.next_multiple_of(256)).unwrap_or(usize::MAX))?;
    let mut tries = 1;
    loop {
        match head::read(source, memory) {
            Ok(_) => break,
            Err(e) if tries == TRIES => return Err(e.into()),
            Err(_) => tries += 1,
        }
    }
    Ok(&memory[..superblock.head_bytes as usize])
}

/// Whether an image lies within its place.
pub(crate) fn fits(superblock: &Superblock, place: &Place) -> Result<(), Trouble> {
    let (need, have) = (superblock.file_bytes, place.bytes);
    if need > have {
        return Err(bourn_format::Error::Truncated { need, have }.into());
    }
    Ok(())
}

/// Weights in memory, every page checked when they were read.
#[derive(Debug)]
pub(crate) struct Resident<'a> {
    image: &'a Image<'a>,
    payload: &'a [u8],
}

impl<'a> Resident<'a> {
    /// Reads all weights; `step(done, of)` is called now and then and may end it.
    pub fn read<D: BlockDevice>(
        image: &'a Image<'a>,
        source: &mut BlockSource<'_, Counted<'_, D>>,
        memory: &'a mut [u8],
        step: &mut dyn FnMut(u64, u64) -> Result<(), Trouble>,
    ) -> Result<Self, Trouble> {
        read_pages(image, source, memory, step)?;
        Ok(Self { image, payload: memory })
    }

    fn bytes(&self, offset: u64, bytes: u64) -> Result<&[u8], bourn_core::Error> {
        let start = offset.checked_sub(self.image.superblock().payload_offset).and_then(|at| usize::try_from(at).ok());
        let range = start.and_then(|at| Some(at..at.checked_add(usize::try_from(bytes).ok()?)?));
        range.and_then(|range| self.payload.get(range)).ok_or(bourn_core::Error::Read { offset, bytes, code: 0 })
    }
}

impl WeightStream for Resident<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], bourn_core::Error> {
        let segment = self.image.segment(index);
        self.bytes(segment.offset, segment.bytes)
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], bourn_core::Error> {
        self.bytes(offset, bytes as u64)
    }
}

/// Reads the image's pages into `memory`, over and over into the same if it is shorter than all, and checks each.
pub(crate) fn read_pages<S: Source>(
    image: &Image<'_>,
    source: &mut S,
    memory: &mut [u8],
    step: &mut dyn FnMut(u64, u64) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let s = image.superblock();
    let of = s.file_bytes - s.payload_offset;
    let all = usize::try_from(of).unwrap_or(usize::MAX);
    let keep = memory.len() >= all;
    let room = if keep { STEP } else { (memory.len() / PAGE * PAGE).min(STEP) };
    if room == 0 {
        let have = memory.len();
        return Err(Trouble::new(
            Why::Memory,
            format_args!("memory too small to check an image: need {PAGE} bytes, have {have}"),
        ));
    }
    let mut done = 0;
    source.next(s.payload_offset, of);
    while done < all {
        step(done as u64, of)?;
        let n = room.min(all - done);
        let at = if keep { done } else { 0 };
        let memory = &mut memory[at..at + n];
        let offset = s.payload_offset + done as u64;
        read_tries(source, offset, memory)?;
        for (i, page) in memory.chunks_mut(PAGE).enumerate() {
            let mut tries = 1;
            while let Err(corrupt) = image.check_page(done / PAGE + i, page) {
                if tries == TRIES {
                    return Err(corrupt.into());
                }
                tries += 1;
                read_tries(source, offset + (i * PAGE) as u64, page)?;
            }
        }
        done += n;
    }
    step(of, of)
}

fn read_tries<S: Source>(source: &mut S, offset: u64, bytes: &mut [u8]) -> Result<(), Trouble> {
    let mut tries = 1;
    while source.read(offset, bytes).is_err() {
        if tries == TRIES {
            return Err(bourn_flash::Error::Device { offset, bytes: bytes.len() as u64 }.into());
        }
        tries += 1;
    }
    Ok(())
}

/// A stream that looks at the line before each segment.
pub(crate) struct Watched<'a> {
    pub inner: &'a mut dyn WeightStream,
    /// Whether to stop.
    pub look: &'a mut dyn FnMut() -> bool,
}

impl WeightStream for Watched<'_> {
    fn segment(&mut self, index: usize) -> Result<&[u8], bourn_core::Error> {
        if (self.look)() { Err(bourn_core::Error::Cancelled) } else { self.inner.segment(index) }
    }

    fn read(&mut self, offset: u64, bytes: usize) -> Result<&[u8], bourn_core::Error> {
        self.inner.read(offset, bytes)
    }

    fn turn(&mut self, after: usize, to: usize) {
        self.inner.turn(after, to);
    }
}
