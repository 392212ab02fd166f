//! The checked view of a whole image: sections, tensors, segments, page sums (FORMAT.md §2, §5).
//!
//! Works on the *head* (everything before the weights), so that a reader without memory for the weights can use it.

use crate::bytes::{array, f32_at, slice, u8_at, u16_at, u32_at, u64_at};
use crate::layout::Dtype;
use crate::screen::Screen;
use crate::shape::{Generation, Rope, Shape};
use crate::superblock::{BYTES as SUPERBLOCK_BYTES, SECTION_BYTES, Superblock};
pub use crate::tensor::{NO_LAYER, Role, SEGMENT_BYTES, Segment, SegmentKind, TENSOR_ALIGN, TENSOR_BYTES, Tensor};
use crate::tokenizer::Tables;
use crate::{Error, checksum};

/// Kinds of sections (section directory entry: kind u32, zero u32, offset u64, bytes u64).
pub mod section {
    #![allow(missing_docs)]
    pub const SHAPE: u32 = 1;
    pub const LAYERS: u32 = 2;
    pub const ROPE: u32 = 3;
    pub const TENSORS: u32 = 4;
    pub const SEGMENTS: u32 = 5;
    pub const PAGE_SUMS: u32 = 6;
    pub const NAMES: u32 = 7;
    pub const SCREEN: u32 = 8;
    pub const TOKENIZER: u32 = 16;
    pub const CHAT_TEMPLATE: u32 = 17;
    pub const GENERATION: u32 = 18;
    pub const PROVENANCE: u32 = 19;
    pub const LICENSE: u32 = 20;
}

/// Bytes of a LAYERS record: flags u32 (bit 0: sliding), first tensor u32, n tensors u32, attention segment u32, ffn segment u32, zero u32.
pub const LAYER_BYTES: usize = 24;

/// The tensors of one layer, ready for the decoder.
#[derive(Clone, Copy, Debug)]
pub struct LayerTensors<'a> {
    pub(crate) image: Image<'a>,
    pub(crate) first: usize,
    pub(crate) n: usize,
    /// Whether attention sees only the window.
    pub sliding: bool,
    /// Index of the attention segment.
    pub attention: usize,
    /// Index of the feed-forward segment.
    pub feed_forward: usize,
}

impl<'a> LayerTensors<'a> {
    /// The layer's tensor of that role, if it has one.
    pub fn get(&self, role: Role) -> Option<Tensor<'a>> {
        (self.first..self.first + self.n)
            .find(|&i| u16_at(self.image.tensors, i * TENSOR_BYTES) == role as u16)
            .map(|i| self.image.tensor(i))
    }
}

/// A checked image head.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    pub(crate) superblock: Superblock,
    pub(crate) shape: Shape,
    pub(crate) screen: Option<Screen<'a>>,
    pub(crate) layers: &'a [u8],
    pub(crate) rope: &'a [u8],
    pub(crate) tensors: &'a [u8],
    pub(crate) segments: &'a [u8],
    pub(crate) page_sums: &'a [u8],
    pub(crate) names: &'a str,
    pub(crate) tokenizer: Option<Tables<'a>>,
    pub(crate) chat_template: Option<&'a str>,
    pub(crate) generation: Generation<'a>,
    pub(crate) provenance: &'a str,
    pub(crate) license: &'a str,
}

impl<'a> Image<'a> {
    /// Checks a head: the first [`Superblock::head_bytes`] bytes of a file or more.
    ///
    /// # Errors
    /// [`Error`]; every field is checked here, so that nothing can fail later.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let superblock = Superblock::new_checked(bytes)?;
        if (bytes.len() as u64) < superblock.head_bytes {
            return Err(Error::Truncated { need: superblock.head_bytes, have: bytes.len() as u64 });
        }
        let head = slice(bytes, 0, superblock.head_bytes);
        let found = checksum(slice(head, SUPERBLOCK_BYTES as u64, superblock.head_bytes - SUPERBLOCK_BYTES as u64));
        if found != superblock.head_sum {
            return Err(Error::Checksum { what: "head", index: 0, need: superblock.head_sum, found });
        }
        let find = |kind: u32| -> Result<Option<&'a [u8]>, Error> {
            for i in 0..superblock.n_sections as usize {
                let at = SUPERBLOCK_BYTES + i * SECTION_BYTES;
                if u32_at(head, at) == kind {
                    let (offset, len) = (u64_at(head, at + 8), u64_at(head, at + 16));
                    if offset.checked_add(len).is_none_or(|end| end > superblock.head_bytes) {
                        return Err(Error::Invalid { what: "section offset", found: offset });
                    }
                    return Ok(Some(slice(head, offset, len)));
                }
            }
            Ok(None)
        };
        let need = |kind, what| find(kind)?.ok_or(Error::Missing { what, layer: 0 });
        let text = |kind, what| match find(kind)? {
            Some(b) => core::str::from_utf8(b).map(Some).map_err(|e| Error::Invalid { what, found: e.valid_up_to() as u64 }),
            None => Ok(None),
        };
        let generation = need(section::GENERATION, "generation section")?;
        let n_eos = u64::from(u32_at(generation, 20));
        if (generation.len() as u64) < Generation::HEADER_BYTES as u64 + 4 * n_eos {
            return Err(Error::Invalid { what: "n_eos", found: n_eos });
        }
        let shape = Shape::new_checked(need(section::SHAPE, "shape section")?)?;
        let screen = find(section::SCREEN)?.filter(|_| superblock.version >= 2);
        let image = Self {
            superblock,
            shape,
            screen: screen.map(|b| Screen::new_checked(b, &shape)).transpose()?,
            layers: need(section::LAYERS, "layers section")?,
            rope: need(section::ROPE, "rope section")?,
            tensors: need(section::TENSORS, "tensors section")?,
            segments: need(section::SEGMENTS, "segments section")?,
            page_sums: need(section::PAGE_SUMS, "page sums section")?,
            names: text(section::NAMES, "names section")?.unwrap_or(""),
            tokenizer: find(section::TOKENIZER)?.map(Tables::new_checked).transpose()?,
            chat_template: text(section::CHAT_TEMPLATE, "chat template")?,
            generation: Generation {
                temperature: f32_at(generation, 0),
                top_k: u32_at(generation, 4),
                top_p: f32_at(generation, 8),
                min_p: f32_at(generation, 12),
                repetition_penalty: f32_at(generation, 16),
                eos: slice(generation, Generation::HEADER_BYTES as u64, 4 * n_eos),
            },
            provenance: text(section::PROVENANCE, "provenance")?.unwrap_or(""),
            license: text(section::LICENSE, "license")?.unwrap_or(""),
        };
        image.check_tables()?;
        image.check_tensors()?;
        image.check_layers()?;
        image.check_screen()?;
        Ok(image)
    }

    pub(crate) fn final_norm_index(&self) -> Option<usize> {
        (0..self.n_tensors()).find(|&i| u16_at(self.tensors, i * TENSOR_BYTES) == Role::FinalNorm as u16)
    }

    /// The superblock.
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Sizes and constants.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The screened head, if this image has one.
    pub const fn screen(&self) -> Option<&Screen<'a>> {
        self.screen.as_ref()
    }

    /// Layers.
    pub const fn n_layers(&self) -> usize {
        self.shape.n_layers as usize
    }

    /// TENSORS records.
    pub const fn n_tensors(&self) -> usize {
        self.tensors.len() / TENSOR_BYTES
    }

    /// Record `i`; a zeroed record when out of range.
    pub fn tensor(&self, i: usize) -> Tensor<'a> {
        let at = i.saturating_mul(TENSOR_BYTES);
        let b = self.tensors;
        let name = u32_at(b, at + 24) as usize;
        let name_end = name.saturating_add(u32_at(b, at + 28) as usize);
        Tensor {
            role: Role::ALL.get(usize::from(u16_at(b, at))).copied().unwrap_or(Role::Embed),
            layer: u16_at(b, at + 2),
            dtype: Dtype::from_code(u8_at(b, at + 4)).unwrap_or(Dtype::F32),
            rows: u32_at(b, at + 8) as usize,
            cols: u32_at(b, at + 12) as usize,
            first_row: u32_at(b, at + 16) as usize,
            segment: u32_at(b, at + 20) as usize,
            offset: u64_at(b, at + 32),
            bytes: u64_at(b, at + 40),
            table: array::<16>(b, at + 48).map(|v| v as i8),
            name: self.names.get(name..name_end).unwrap_or(""),
        }
    }

    /// The final norm's weight.
    pub fn final_norm(&self) -> Tensor<'a> {
        self.tensor(self.final_norm_index().unwrap_or(0))
    }

    /// The screened head's mean, map or books; a zeroed record in an image without.
    pub fn screen_tensor(&self, role: Role) -> Tensor<'a> {
        self.parts(role).next().unwrap_or_else(|| self.tensor(usize::MAX))
    }

    /// The parts of the embedding, the head, or the screen's codes and biases, by rows. For a tied image embedding and head are
    /// both the head's parts.
    pub fn parts(&self, role: Role) -> impl Iterator<Item = Tensor<'a>> + Clone + '_ {
        let role = if self.shape.tied && role == Role::Embed { Role::Head } else { role };
        (0..self.n_tensors()).filter(move |&i| u16_at(self.tensors, i * TENSOR_BYTES) == role as u16).map(|i| self.tensor(i))
    }

    /// Layer `i`.
    pub fn layer(&self, i: usize) -> LayerTensors<'a> {
        let at = i.saturating_mul(LAYER_BYTES);
        LayerTensors {
            image: *self,
            sliding: u32_at(self.layers, at) & 1 == 1,
            first: u32_at(self.layers, at + 4) as usize,
            n: u32_at(self.layers, at + 8) as usize,
            attention: u32_at(self.layers, at + 12) as usize,
            feed_forward: u32_at(self.layers, at + 16) as usize,
        }
    }

    /// SEGMENTS records.
    pub const fn n_segments(&self) -> usize {
        self.segments.len() / SEGMENT_BYTES
    }

    /// Segment `i`; an empty one when out of range.
    pub fn segment(&self, i: usize) -> Segment {
        let at = i.saturating_mul(SEGMENT_BYTES);
        Segment {
            kind: SegmentKind::from_code(u32_at(self.segments, at)).unwrap_or(SegmentKind::Embed),
            layer: u32_at(self.segments, at + 4),
            offset: u64_at(self.segments, at + 8),
            bytes: u64_at(self.segments, at + 16),
        }
    }

    /// Bytes that decoding one token reads: all segments but an untied embedding (one row of it: not counted). Of a screened
    /// head all of the coarse part and as many exact rows as there may be candidates.
    pub fn bytes_per_token(&self) -> u64 {
        let exact = self.screen.map(|s| s.candidate_bytes(self.shape.hidden as usize) as u64);
        let skipped = |role| role == Role::Embed || (role == Role::Head && exact.is_some());
        let read = |t: &Tensor<'_>| !skipped(t.role);
        (0..self.n_tensors()).map(|i| self.tensor(i)).filter(read).map(|t| t.bytes).sum::<u64>() + exact.unwrap_or(0)
    }

    /// Weights: elements of all tensors, a tied embedding counted once, the screen not at all.
    pub fn parameters(&self) -> u64 {
        let weights = |t: &Tensor<'_>| !t.role.is_screen();
        (0..self.n_tensors()).map(|i| self.tensor(i)).filter(weights).map(|t| t.rows as u64 * t.cols as u64).sum()
    }

    /// Pages of the payload.
    pub const fn n_pages(&self) -> usize {
        self.page_sums.len() / 8
    }

    /// Checks one page of the payload (`bytes` is the whole page).
    ///
    /// # Errors
    /// [`Error::Checksum`].
    pub fn check_page(&self, page: usize, bytes: &[u8]) -> Result<(), Error> {
        let (need, found) = (u64_at(self.page_sums, page.saturating_mul(8)), checksum(bytes));
        if need == found { Ok(()) } else { Err(Error::Checksum { what: "page", index: page as u64, need, found }) }
    }

    /// The rope tables.
    pub fn ropes(&self) -> impl Iterator<Item = Rope<'a>> + '_ {
        let n = u32_at(self.rope, 0) as usize;
        (0..n).map(move |i| {
            let at = 16 + 32 * i;
            let start = (16 + 32 * n) as u64 + 4 * u64::from(u32_at(self.rope, at + 12));
            Rope {
                sliding: u32_at(self.rope, at) == 1,
                min_context: u32_at(self.rope, at + 4),
                factor: f32_at(self.rope, at + 8),
                inv_freq: slice(self.rope, start, 4 * u64::from(u32_at(self.rope, at + 16))),
            }
        })
    }

    /// The tokenizer's tables; images of bare weights have none.
    pub const fn tokenizer(&self) -> Option<Tables<'a>> {
        self.tokenizer
    }

    /// The chat template (Jinja).
    pub const fn chat_template(&self) -> Option<&'a str> {
        self.chat_template
    }

    /// Sampling defaults and end-of-text ids.
    pub const fn generation(&self) -> &Generation<'a> {
        &self.generation
    }

    /// Where the weights came from and how they were packed (JSON).
    pub const fn provenance(&self) -> &'a str {
        self.provenance
    }

    /// The licence text or name.
    pub const fn license(&self) -> &'a str {
        self.license
    }
}
