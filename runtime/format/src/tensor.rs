//! TENSORS and SEGMENTS records: what each tensor is for, what it holds, where it lies (FORMAT.md §5).

use crate::bytes::slice;
use crate::layout::Dtype;
use crate::screen::Screen;
use crate::shape::Shape;

/// Bytes of a TENSORS record.
pub const TENSOR_BYTES: usize = 80;
/// Bytes of a SEGMENTS record.
pub const SEGMENT_BYTES: usize = 32;
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
    ScreenMean = 20,
    ScreenMap = 21,
    ScreenBooks = 22,
    ScreenBias = 23,
    ScreenCodes = 24,
}

impl Role {
    pub(crate) const ALL: [Self; 25] = [
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
        Self::ScreenMean,
        Self::ScreenMap,
        Self::ScreenBooks,
        Self::ScreenBias,
        Self::ScreenCodes,
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
            Self::ScreenMean => "screen_mean",
            Self::ScreenMap => "screen_map",
            Self::ScreenBooks => "screen_books",
            Self::ScreenBias => "screen_bias",
            Self::ScreenCodes => "screen_codes",
        }
    }

    /// Rows and columns that `shape` asks of it; rows 1 means a flat vector. Of the screen's, what depends on the SCREEN
    /// section is 0 here: see [`Screen`].
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
            Self::ScreenMean => (1, hidden),
            Self::ScreenMap => (0, hidden),
            Self::ScreenBooks => (1, 0),
            Self::ScreenBias => (s.vocab as usize, 1),
            Self::ScreenCodes => (s.vocab as usize, 0),
        }
    }

    /// [`Self::dims`] in an image with this screen.
    pub fn dims_with(self, s: &Shape, screen: Option<&Screen<'_>>) -> (usize, usize) {
        match (self, screen) {
            (Self::ScreenMap, Some(screen)) => (screen.dims(), s.hidden as usize),
            (Self::ScreenBooks, Some(screen)) => (1, screen.book_values()),
            (Self::ScreenCodes, Some(screen)) => (s.vocab as usize, screen.n_subs()),
            _ => self.dims(s),
        }
    }

    /// Whether it is a vector (f32, flat) and not a matrix (tiled).
    pub const fn is_flat(self) -> bool {
        matches!(
            self,
            Self::AttnNorm
                | Self::Bq
                | Self::Bk
                | Self::Bv
                | Self::QNorm
                | Self::KNorm
                | Self::Bo
                | Self::PostAttnNorm
                | Self::FfnNorm
                | Self::PostFfnNorm
                | Self::FinalNorm
                | Self::ScreenMean
                | Self::ScreenBooks
        )
    }

    /// Whether it belongs to the screened head (version 2).
    pub const fn is_screen(self) -> bool {
        matches!(self, Self::ScreenMean | Self::ScreenMap | Self::ScreenBooks | Self::ScreenBias | Self::ScreenCodes)
    }

    /// Whether it comes in parts of whole tiles, each in a segment with others of the same rows.
    pub const fn is_parted(self) -> bool {
        matches!(self, Self::Embed | Self::Head | Self::ScreenBias | Self::ScreenCodes)
    }

    /// Whether a tensor of this role may have that element type.
    pub const fn allows(self, dtype: Dtype) -> bool {
        match self {
            Self::ScreenMap | Self::ScreenBias => matches!(dtype, Dtype::F16),
            Self::ScreenCodes => matches!(dtype, Dtype::U4),
            Self::Embed | Self::Head => !matches!(dtype, Dtype::U4),
            _ if self.is_flat() => matches!(dtype, Dtype::F32),
            _ => !matches!(dtype, Dtype::U4 | Dtype::Q8R),
        }
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
    /// Mean, map and books of the screened head.
    Screen = 5,
    /// Codes and biases of some rows of the screened head.
    ScreenCodes = 6,
}

impl SegmentKind {
    /// The kind of a stored code, if there is one.
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Embed,
            1 => Self::Attention,
            2 => Self::FeedForward,
            3 => Self::FinalNorm,
            4 => Self::Head,
            5 => Self::Screen,
            6 => Self::ScreenCodes,
            _ => return None,
        })
    }
}

/// A run of whole pages that the decoder reads as one: SEGMENTS record {kind u32, layer u32, offset u64, bytes u64, zero u64}.
/// Records are in the order in which the decoder reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What it holds.
    pub kind: SegmentKind,
    /// Layer, or part number for embeddings and heads.
    pub layer: u32,
    /// Where in the file; a multiple of [`crate::PAGE`].
    pub offset: u64,
    /// Length; a multiple of [`crate::PAGE`].
    pub bytes: u64,
}
