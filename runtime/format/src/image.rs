//! The checked view of a whole image: sections, tensors, segments, page sums (FORMAT.md §2, §5).
//!
//! Works on the *head* (everything before the weights), so that a reader without memory for the weights can use it.

use crate::bytes::{array, f32_at, slice, u8_at, u16_at, u32_at, u64_at};
use crate::layout::{self, Dtype};
use crate::shape::{Generation, Rope, Shape};
use crate::superblock::{BYTES as SUPERBLOCK_BYTES, SECTION_BYTES, Superblock};
use crate::tokenizer::Tables;
use crate::{Error, PAGE, checksum};

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
    pub const TOKENIZER: u32 = 16;
    pub const CHAT_TEMPLATE: u32 = 17;
    pub const GENERATION: u32 = 18;
    pub const PROVENANCE: u32 = 19;
    pub const LICENSE: u32 = 20;
}

/// Bytes of a TENSORS record.
pub const TENSOR_BYTES: usize = 80;
/// Bytes of a SEGMENTS record.
pub const SEGMENT_BYTES: usize = 32;
/// Bytes of a LAYERS record: flags u32 (bit 0: sliding), first tensor u32, n tensors u32, attention segment u32, ffn segment u32, zero u32.
pub const LAYER_BYTES: usize = 24;
/// `layer` of a tensor or segment that belongs to no layer.
pub const NO_LAYER: u16 = u16::MAX;
/// Alignment of a tensor's bytes in the file.
pub const TENSOR_ALIGN: usize = 64;

/// What a tensor is for. In a layer, records are sorted by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Role {
    Embed = 0,
    AttnNorm = 1,
    Wq = 2,
    Wk = 3,
    Wv = 4,
    Bq = 5,
    Bk = 6,
    Bv = 7,
    QNorm = 8,
    KNorm = 9,
    Wo = 10,
    Bo = 11,
    PostAttnNorm = 12,
    FfnNorm = 13,
    Gate = 14,
    Up = 15,
    Down = 16,
    PostFfnNorm = 17,
    FinalNorm = 18,
    Head = 19,
}

impl Role {
    const ALL: [Self; 20] = [
        Self::Embed,
        Self::AttnNorm,
        Self::Wq,
        Self::Wk,
        Self::Wv,
        Self::Bq,
        Self::Bk,
        Self::Bv,
        Self::QNorm,
        Self::KNorm,
        Self::Wo,
        Self::Bo,
        Self::PostAttnNorm,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::PostFfnNorm,
        Self::FinalNorm,
        Self::Head,
    ];

    /// The field's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::AttnNorm => "attn_norm",
            Self::Wq => "attn_q",
            Self::Wk => "attn_k",
            Self::Wv => "attn_v",
            Self::Bq => "attn_q_bias",
            Self::Bk => "attn_k_bias",
            Self::Bv => "attn_v_bias",
            Self::QNorm => "attn_q_norm",
            Self::KNorm => "attn_k_norm",
            Self::Wo => "attn_o",
            Self::Bo => "attn_o_bias",
            Self::PostAttnNorm => "post_attn_norm",
            Self::FfnNorm => "ffn_norm",
            Self::Gate => "ffn_gate",
            Self::Up => "ffn_up",
            Self::Down => "ffn_down",
            Self::PostFfnNorm => "post_ffn_norm",
            Self::FinalNorm => "final_norm",
            Self::Head => "head",
        }
    }

    /// Rows and columns that `shape` asks of it; rows 1 means a flat vector.
    pub const fn dims(self, s: &Shape) -> (usize, usize) {
        let (hidden, ffn, q, kv) = (s.hidden as usize, s.ffn as usize, s.q_rows(), s.kv_rows());
        match self {
            Self::Embed | Self::Head => (s.vocab as usize, hidden),
            Self::AttnNorm | Self::PostAttnNorm | Self::FfnNorm | Self::PostFfnNorm | Self::FinalNorm | Self::Bo => (1, hidden),
            Self::Wq => (q, hidden),
            Self::Wk | Self::Wv => (kv, hidden),
            Self::Bq => (1, q),
            Self::Bk | Self::Bv => (1, kv),
            Self::QNorm | Self::KNorm => (1, s.head_dim as usize),
            Self::Wo => (hidden, q),
            Self::Gate | Self::Up => (ffn, hidden),
            Self::Down => (hidden, ffn),
        }
    }

    /// Whether it is a vector (f32, flat) and not a matrix (tiled).
    pub const fn is_flat(self) -> bool {
        !matches!(self, Self::Embed | Self::Wq | Self::Wk | Self::Wv | Self::Wo | Self::Gate | Self::Up | Self::Down | Self::Head)
    }
}

/// One TENSORS record: a matrix in tiles or a flat vector; embeddings and heads come in parts of whole tiles.
///
/// Bytes: role u16, layer u16, dtype u8, flat u8, zero u16, rows u32 (of this part), cols u32, first_row u32, segment u32,
/// name offset u32, name length u32, offset u64, bytes u64, table [i8; 16], zero to 80.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Its place in the decoder.
    pub role: Role,
    /// Layer, or [`NO_LAYER`].
    pub layer: u16,
    /// Element type.
    pub dtype: Dtype,
    /// Rows in this part; 1 for vectors.
    pub rows: usize,
    /// Columns; length of a vector.
    pub cols: usize,
    /// First row of this part (a multiple of 16).
    pub first_row: usize,
    /// The segment that holds it.
    pub segment: usize,
    /// Where in the file.
    pub offset: u64,
    /// Length in the file.
    pub bytes: u64,
    /// The 16 levels of a 4-bit tensor.
    pub table: [i8; 16],
    /// Name in the checkpoint.
    pub name: &'a str,
}

impl Tensor<'_> {
    /// Its bytes within the bytes of its segment; empty if `segment_bytes` is not that segment.
    pub fn within<'s>(&self, segment: &Segment, segment_bytes: &'s [u8]) -> &'s [u8] {
        slice(segment_bytes, self.offset.wrapping_sub(segment.offset), self.bytes)
    }
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SegmentKind {
    /// A part of an untied embedding.
    Embed = 0,
    /// Norms and projections of a layer's attention.
    Attention = 1,
    /// Norms and matrices of a layer's feed-forward half.
    FeedForward = 2,
    /// The final norm.
    FinalNorm = 3,
    /// A part of the head (of the tied embedding).
    Head = 4,
}

/// A run of whole pages that the decoder reads as one: SEGMENTS record {kind u32, layer u32, offset u64, bytes u64, zero u64}.
/// Records are in the order in which the decoder reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What it holds.
    pub kind: SegmentKind,
    /// Layer, or part number for embeddings and heads.
    pub layer: u32,
    /// Where in the file; a multiple of [`PAGE`].
    pub offset: u64,
    /// Length; a multiple of [`PAGE`].
    pub bytes: u64,
}

/// The tensors of one layer, ready for the decoder.
#[derive(Clone, Copy, Debug)]
pub struct LayerTensors<'a> {
    image: Image<'a>,
    first: usize,
    n: usize,
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
    superblock: Superblock,
    shape: Shape,
    layers: &'a [u8],
    rope: &'a [u8],
    tensors: &'a [u8],
    segments: &'a [u8],
    page_sums: &'a [u8],
    names: &'a str,
    tokenizer: Option<Tables<'a>>,
    chat_template: Option<&'a str>,
    generation: Generation<'a>,
    provenance: &'a str,
    license: &'a str,
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
        let image = Self {
            superblock,
            shape: Shape::new_checked(need(section::SHAPE, "shape section")?)?,
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
        Ok(image)
    }

    fn check_tables(&self) -> Result<(), Error> {
        let invalid = |what, found: usize| Err(Error::Invalid { what, found: found as u64 });
        if self.layers.len() != self.shape.n_layers as usize * LAYER_BYTES {
            return invalid("layers section length", self.layers.len());
        }
        if !self.tensors.len().is_multiple_of(TENSOR_BYTES) {
            return invalid("tensors section length", self.tensors.len());
        }
        if !self.segments.len().is_multiple_of(SEGMENT_BYTES) {
            return invalid("segments section length", self.segments.len());
        }
        let pages = (self.superblock.file_bytes - self.superblock.payload_offset) / PAGE as u64;
        if self.page_sums.len() as u64 != pages * 8 {
            return invalid("page sums section length", self.page_sums.len());
        }
        let n_rope = u32_at(self.rope, 0) as usize;
        if n_rope > 8 || self.rope.len() < 16 + 32 * n_rope {
            return invalid("rope count", n_rope);
        }
        let mut kinds = [false; 2];
        for i in 0..n_rope {
            let at = 16 + 32 * i;
            let (kind, first, n) = (u32_at(self.rope, at), u32_at(self.rope, at + 12), u32_at(self.rope, at + 16));
            let factor = f32_at(self.rope, at + 8);
            if kind > 1 {
                return invalid("rope kind", kind as usize);
            }
            if n != self.shape.rotary_dim / 2 {
                return invalid("rope length", n as usize);
            }
            if !factor.is_finite() {
                return invalid("rope factor", factor.to_bits() as usize);
            }
            let end = (16 + 32 * n_rope) as u64 + 4 * (u64::from(first) + u64::from(n));
            if end > self.rope.len() as u64 {
                return invalid("rope first", first as usize);
            }
            // A table for every context: the smallest threshold of a kind is 0.
            kinds[kind as usize] |= u32_at(self.rope, at + 4) == 0;
        }
        for i in 0..self.n_layers() {
            let sliding = u32_at(self.layers, i * LAYER_BYTES) & 1 == 1;
            if !kinds[usize::from(sliding)] {
                return Err(Error::Missing { what: "rope table", layer: i as u32 });
            }
            if sliding && self.shape.window == 0 {
                return invalid("window", 0);
            }
        }
        for i in 0..self.n_segments() {
            let at = i * SEGMENT_BYTES;
            let (kind, offset, bytes) =
                (u32_at(self.segments, at), u64_at(self.segments, at + 8), u64_at(self.segments, at + 16));
            if kind > SegmentKind::Head as u32 {
                return invalid("segment kind", kind as usize);
            }
            let page = PAGE as u64;
            let end = offset.checked_add(bytes);
            if offset % page != 0
                || bytes % page != 0
                || offset < self.superblock.payload_offset
                || end.is_none_or(|e| e > self.superblock.file_bytes)
            {
                return Err(Error::Invalid { what: "segment offset", found: offset });
            }
        }
        Ok(())
    }

    fn check_tensors(&self) -> Result<(), Error> {
        let invalid = |what, found: u64| Err(Error::Invalid { what, found });
        for i in 0..self.n_tensors() {
            let at = i * TENSOR_BYTES;
            let role_code = u16_at(self.tensors, at);
            let Some(&role) = Role::ALL.get(usize::from(role_code)) else {
                return invalid("tensor role", u64::from(role_code));
            };
            if Dtype::from_code(u8_at(self.tensors, at + 4)).is_none() {
                return invalid("tensor dtype", u64::from(u8_at(self.tensors, at + 4)));
            }
            let name_end = u64::from(u32_at(self.tensors, at + 24)) + u64::from(u32_at(self.tensors, at + 28));
            if usize::try_from(name_end).is_ok_and(|e| self.names.get(u32_at(self.tensors, at + 24) as usize..e).is_none()) {
                return invalid("tensor name", name_end);
            }
            let t = self.tensor(i);
            let (rows, cols) = role.dims(&self.shape);
            let part = matches!(role, Role::Embed | Role::Head);
            let rows_fit = if part {
                t.first_row.is_multiple_of(layout::TILE_ROWS) && t.first_row + t.rows <= rows && t.rows > 0
            } else {
                t.rows == rows && t.first_row == 0
            };
            if t.cols != cols || !rows_fit {
                return invalid("tensor rows or columns", (t.rows as u64) << 32 | t.cols as u64);
            }
            let bytes = if role.is_flat() {
                if t.dtype != Dtype::F32 {
                    return invalid("dtype of a vector", t.dtype as u64);
                }
                cols * 4
            } else {
                layout::matrix_bytes(t.dtype, t.rows, cols)
            };
            if t.bytes != bytes as u64 {
                return invalid("tensor bytes", t.bytes);
            }
            if t.table.iter().any(|&level| level.unsigned_abs() > layout::MAX_LEVEL as u8) {
                return invalid("level table of tensor", i as u64);
            }
            if t.segment >= self.n_segments() {
                return invalid("tensor segment", t.segment as u64);
            }
            let s = self.segment(t.segment);
            let inside = t.offset >= s.offset && t.offset.checked_add(t.bytes).is_some_and(|e| e <= s.offset + s.bytes);
            if !inside || !t.offset.is_multiple_of(TENSOR_ALIGN as u64) {
                return invalid("tensor offset", t.offset);
            }
        }
        Ok(())
    }

    fn check_layers(&self) -> Result<(), Error> {
        let invalid = |what, found: usize| Err(Error::Invalid { what, found: found as u64 });
        for i in 0..self.n_layers() {
            let layer = self.layer(i);
            if layer.first.checked_add(layer.n).is_none_or(|e| e > self.n_tensors()) || layer.n > 64 {
                return invalid("tensors of a layer", layer.n);
            }
            for (what, index, kind) in [
                ("attention segment", layer.attention, SegmentKind::Attention),
                ("feed-forward segment", layer.feed_forward, SegmentKind::FeedForward),
            ] {
                if index >= self.n_segments() || self.segment(index).kind != kind {
                    return invalid(what, index);
                }
            }
            for (j, role) in (layer.first..layer.first + layer.n).map(|t| (t, self.tensor(t).role)) {
                let segment = if role < Role::FfnNorm && role != Role::Embed { layer.attention } else { layer.feed_forward };
                if self.tensor(j).segment != segment {
                    return invalid("segment of a layer's tensor", j);
                }
            }
            for role in [Role::AttnNorm, Role::Wq, Role::Wk, Role::Wv, Role::Wo, Role::FfnNorm, Role::Gate, Role::Up, Role::Down]
            {
                if layer.get(role).is_none() {
                    return Err(Error::Missing { what: role.name(), layer: i as u32 });
                }
            }
        }
        if self.final_norm_index().is_none() {
            return Err(Error::Missing { what: Role::FinalNorm.name(), layer: 0 });
        }
        let parts = if self.shape.tied { &[Role::Head][..] } else { &[Role::Embed, Role::Head][..] };
        for &role in parts {
            let mut next = 0;
            for t in self.parts(role) {
                if t.first_row != next {
                    return invalid("first row of an embedding part", t.first_row);
                }
                next += t.rows;
            }
            if next != self.shape.vocab as usize {
                return Err(Error::Missing { what: role.name(), layer: 0 });
            }
        }
        Ok(())
    }

    fn final_norm_index(&self) -> Option<usize> {
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

    /// The parts of the embedding or head, by rows. For a tied image both are the head's parts.
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
            kind: match u32_at(self.segments, at) {
                0 => SegmentKind::Embed,
                1 => SegmentKind::Attention,
                2 => SegmentKind::FeedForward,
                3 => SegmentKind::FinalNorm,
                _ => SegmentKind::Head,
            },
            layer: u32_at(self.segments, at + 4),
            offset: u64_at(self.segments, at + 8),
            bytes: u64_at(self.segments, at + 16),
        }
    }

    /// Bytes that decoding one token reads: all segments but an untied embedding (one row of it: not counted).
    pub fn bytes_per_token(&self) -> u64 {
        (0..self.n_tensors()).map(|i| self.tensor(i)).filter(|t| t.role != Role::Embed).map(|t| t.bytes).sum()
    }

    /// Weights: elements of all tensors, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        (0..self.n_tensors()).map(|i| self.tensor(i)).map(|t| t.rows as u64 * t.cols as u64).sum()
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
