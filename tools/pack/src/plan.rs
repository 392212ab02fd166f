//! Where everything will lie: which element type each tensor gets, in which segment, at which offset (FORMAT.md §5).
//!
//! All of it follows from the shape and the names, before a single weight is read; so the head's length is known, and
//! the payload can be written in one pass.

use crate::screen::Screen;
use crate::wide::Wide;
use crate::{Error, Options, Screening, Weights};
use bourn_format::image::{NO_LAYER, TENSOR_ALIGN};
use bourn_format::layout::{self, Dtype, LINEAR, TILE_ROWS};
use bourn_format::{PAGE, Role, SegmentKind, Shape};
use std::ops::Range;

/// Wanted length of a part of an embedding or head.
const PART_BYTES: usize = 4 << 20;
/// The table of a Q4M tensor: its minimum takes the sign.
const COUNTING: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A tensor of the checkpoint, as the image sees it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub role: Role,
    pub layer: Option<usize>,
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// [`Dtype::Q4`] for a Q4_0 source, [`Dtype::Q4M`] for Q4_1: the type that holds it exactly.
    pub exact: Option<Dtype>,
    /// Whether floats lie on the grid of a Q4_0 quantization: they are packed on it, without loss.
    pub on_grid: bool,
    /// Index in the checkpoint.
    pub index: usize,
}

/// A tensor, or a part of one, as it will be written.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub role: Role,
    /// Layer, or [`NO_LAYER`].
    pub layer: u16,
    pub name: String,
    pub dtype: Dtype,
    /// Codes and scales move as they are.
    pub transferred: bool,
    /// Lies on the grid of the table already.
    pub on_grid: bool,
    pub table: [i8; 16],
    /// Rows of the source.
    pub rows: Range<usize>,
    pub cols: usize,
    pub segment: usize,
    /// From the start of the payload.
    pub offset: u64,
    pub bytes: u64,
    /// Index in the checkpoint.
    pub index: usize,
}

/// A segment as it will be written.
#[derive(Clone, Debug)]
pub(crate) struct PlannedSegment {
    pub kind: SegmentKind,
    pub layer: u32,
    /// From the start of the payload.
    pub offset: u64,
    pub bytes: u64,
}

/// A layer's entry: tensors `first..first + n`, two segments.
#[derive(Clone, Debug)]
pub(crate) struct PlannedLayer {
    pub tensors: Range<usize>,
    pub attention: usize,
    pub feed_forward: usize,
}

/// The whole payload.
#[derive(Debug)]
pub(crate) struct Plan {
    pub tensors: Vec<Planned>,
    pub segments: Vec<PlannedSegment>,
    pub layers: Vec<PlannedLayer>,
    /// A whole number of pages.
    pub payload_bytes: u64,
    /// The SCREEN section, if the head is screened.
    pub screen: Option<Vec<u8>>,
    wide: Wide,
}

/// Roles of a layer's attention segment and of its feed-forward segment, in the order of the file.
const ATTENTION: [Role; 12] = [
    Role::AttnNorm,
    Role::Wq,
    Role::Wk,
    Role::Wv,
    Role::Bq,
    Role::Bk,
    Role::Bv,
    Role::QNorm,
    Role::KNorm,
    Role::Wo,
    Role::Bo,
    Role::PostAttnNorm,
];
const FEED_FORWARD: [Role; 5] = [Role::FfnNorm, Role::Gate, Role::Up, Role::Down, Role::PostFfnNorm];

impl Plan {
    pub(crate) fn new(
        shape: &Shape,
        sources: &[Source],
        options: &Options,
        wide: &Wide,
        screen: Option<&Screen>,
    ) -> Result<Self, Error> {
        let mut plan = Self {
            tensors: Vec::new(),
            segments: Vec::new(),
            layers: Vec::new(),
            payload_bytes: 0,
            screen: screen.map(Screen::section),
            wide: wide.clone(),
        };
        let find = |role, layer| sources.iter().find(|s| s.role == role && s.layer == layer);
        let need = |role, layer| find(role, layer).ok_or(Error::Missing { role, layer });
        if !shape.tied {
            plan.parts(need(Role::Embed, None)?, Role::Embed, SegmentKind::Embed, shape, options)?;
        }
        for layer in 0..shape.n_layers as usize {
            let first = plan.tensors.len();
            let mut halves = [0; 2];
            for (half, kind, roles) in
                [(0, SegmentKind::Attention, &ATTENTION[..]), (1, SegmentKind::FeedForward, &FEED_FORWARD[..])]
            {
                halves[half] = plan.begin(kind, layer as u32);
                for &role in roles {
                    match find(role, Some(layer)) {
                        Some(source) => plan.whole(source, shape, options)?,
                        None if is_required(role) => return Err(Error::Missing { role, layer: Some(layer) }),
                        None => {}
                    }
                }
                plan.end();
            }
            plan.layers.push(PlannedLayer { tensors: first..plan.tensors.len(), attention: halves[0], feed_forward: halves[1] });
        }
        plan.begin(SegmentKind::FinalNorm, 0);
        plan.whole(need(Role::FinalNorm, None)?, shape, options)?;
        plan.end();
        if let Some(screen) = screen {
            plan.screened(screen, shape);
        }
        let head = head(shape, sources).ok_or(Error::Missing { role: Role::Head, layer: None })?;
        plan.parts(head, Role::Head, SegmentKind::Head, shape, options)?;
        Ok(plan)
    }

    /// What the head is, if the options or their defaults say so.
    pub(crate) fn head_name(&self, options: &Options) -> Option<&'static str> {
        match (&self.screen, options.screening) {
            (Some(_), Some(Screening::Precise)) => Some("precise"),
            (Some(_), _) => Some("screen"),
            _ => options.head.map(Dtype::name),
        }
    }

    fn begin(&mut self, kind: SegmentKind, layer: u32) -> usize {
        self.segments.push(PlannedSegment { kind, layer, offset: self.payload_bytes, bytes: 0 });
        self.segments.len() - 1
    }

    fn end(&mut self) {
        self.payload_bytes = self.payload_bytes.next_multiple_of(PAGE as u64);
        if let Some(segment) = self.segments.last_mut() {
            segment.bytes = self.payload_bytes - segment.offset;
        }
    }

    /// Mean, map and books in a segment of their own, then biases and codes in parts.
    fn screened(&mut self, screen: &Screen, shape: &Shape) {
        let (hidden, vocab) = (shape.hidden as usize, shape.vocab as usize);
        self.begin(SegmentKind::Screen, 0);
        self.made(Role::ScreenMean, Dtype::F32, 0..1, hidden);
        self.made(Role::ScreenMap, Dtype::F16, 0..screen.dims, hidden);
        self.made(Role::ScreenBooks, Dtype::F32, 0..1, screen.books.len());
        self.end();
        let n_subs = screen.subs.len();
        let rows_of_part = (PART_BYTES / layout::tile_bytes(Dtype::U4, n_subs)).max(1) * TILE_ROWS;
        for (part, first) in (0..vocab).step_by(rows_of_part).enumerate() {
            let rows = first..(first + rows_of_part).min(vocab);
            self.begin(SegmentKind::ScreenCodes, part as u32);
            self.made(Role::ScreenBias, Dtype::F16, rows.clone(), 1);
            self.made(Role::ScreenCodes, Dtype::U4, rows, n_subs);
            self.end();
        }
    }

    /// A tensor of the screen, which no checkpoint has.
    fn made(&mut self, role: Role, dtype: Dtype, rows: Range<usize>, cols: usize) {
        let bytes = if role.is_flat() { 4 * cols } else { layout::matrix_bytes(dtype, rows.len(), cols) } as u64;
        self.payload_bytes = self.payload_bytes.next_multiple_of(TENSOR_ALIGN as u64);
        self.tensors.push(Planned {
            role,
            layer: NO_LAYER,
            name: role.name().to_owned(),
            dtype,
            transferred: false,
            on_grid: false,
            table: [0; 16],
            rows,
            cols,
            segment: self.segments.len() - 1,
            offset: self.payload_bytes,
            bytes,
            index: usize::MAX,
        });
        self.payload_bytes += bytes;
    }

    /// A matrix in parts of whole tiles, each its own segment.
    fn parts(&mut self, source: &Source, role: Role, kind: SegmentKind, shape: &Shape, options: &Options) -> Result<(), Error> {
        let (dtype, ..) = choose(source, role, options, self.screen.is_some());
        let rows_of_part = (PART_BYTES / layout::tile_bytes(dtype, source.cols.max(1))).max(1) * TILE_ROWS;
        for (part, first) in (0..source.rows).step_by(rows_of_part).enumerate() {
            self.begin(kind, part as u32);
            self.push(source, role, first..(first + rows_of_part).min(source.rows), shape, options)?;
            self.end();
        }
        Ok(())
    }

    fn whole(&mut self, source: &Source, shape: &Shape, options: &Options) -> Result<(), Error> {
        self.push(source, source.role, 0..source.rows, shape, options)
    }

    fn push(&mut self, source: &Source, role: Role, rows: Range<usize>, shape: &Shape, options: &Options) -> Result<(), Error> {
        let need = role.dims(shape);
        let found = (source.rows, source.cols);
        if need != found {
            return Err(Error::Sizes { tensor: source.name.clone(), need, found });
        }
        let (mut dtype, transferred, mut table) = choose(source, role, options, self.screen.is_some());
        if self.wide.contains(source) {
            (dtype, table) = (Dtype::Q8, [0; 16]);
        }
        let bytes = if role.is_flat() { source.cols * 4 } else { layout::matrix_bytes(dtype, rows.len(), source.cols) } as u64;
        self.payload_bytes = self.payload_bytes.next_multiple_of(TENSOR_ALIGN as u64);
        self.tensors.push(Planned {
            role,
            layer: source.layer.map_or(NO_LAYER, |l| l as u16),
            name: source.name.clone(),
            dtype,
            transferred,
            on_grid: source.on_grid,
            table,
            rows,
            cols: source.cols,
            segment: self.segments.len() - 1,
            offset: self.payload_bytes,
            bytes,
            index: source.index,
        });
        self.payload_bytes += bytes;
        Ok(())
    }
}

/// Whether a matrix of the layers is rounded to 4 bits.
pub(crate) fn rounds(sources: &[Source], options: &Options) -> bool {
    sources.iter().any(|s| is_rounded(s, options))
}

/// Whether a source is a matrix of a layer that is rounded to 4 bits, with loss.
pub(crate) fn is_rounded(source: &Source, options: &Options) -> bool {
    let matrix = source.layer.is_some() && !source.role.is_flat() && !source.on_grid;
    let (dtype, transferred, _) = choose(source, source.role, options, false);
    matrix && dtype == Dtype::Q4 && !transferred
}

/// The matrix that is the head: a tied checkpoint may spell its one matrix either way.
pub(crate) fn head<'s>(shape: &Shape, sources: &'s [Source]) -> Option<&'s Source> {
    let find = |role| sources.iter().find(|s| s.role == role && s.layer.is_none());
    let embed = if shape.tied { find(Role::Embed) } else { None };
    embed.or_else(|| find(Role::Head))
}

fn is_required(role: Role) -> bool {
    matches!(
        role,
        Role::AttnNorm | Role::Wq | Role::Wk | Role::Wv | Role::Wo | Role::FfnNorm | Role::Gate | Role::Up | Role::Down
    )
}

/// Element type, whether the source's codes move as they are, and the level table.
fn choose(source: &Source, role: Role, options: &Options, screened: bool) -> (Dtype, bool, [i8; 16]) {
    const NONE: [i8; 16] = [0; 16];
    if role.is_flat() {
        return (Dtype::F32, false, NONE);
    }
    if screened && role == Role::Head {
        return (Dtype::Q8R, false, NONE);
    }
    let is_head = matches!(role, Role::Embed | Role::Head);
    let wanted = match (options.head, is_head) {
        (Some(dtype), true) => dtype,
        _ => match options.weights {
            Weights::Q4 if is_head && source.exact.is_none() => Dtype::Q8,
            Weights::Q4 => Dtype::Q4,
            Weights::Q8 => Dtype::Q8,
            Weights::F16 => Dtype::F16,
            Weights::Bf16 => Dtype::Bf16,
            Weights::F32 => Dtype::F32,
        },
    };
    match (wanted, source.exact) {
        (Dtype::Q4 | Dtype::Q4M, Some(Dtype::Q4M)) => (Dtype::Q4M, true, COUNTING),
        (Dtype::Q4 | Dtype::Q4M, Some(_)) => (Dtype::Q4, true, LINEAR),
        (Dtype::Q4 | Dtype::Q4M, None) if source.on_grid => (Dtype::Q4, false, LINEAR),
        (Dtype::Q4 | Dtype::Q4M, None) => (Dtype::Q4, false, options.levels.table()),
        (other, _) => (other, false, NONE),
    }
}
