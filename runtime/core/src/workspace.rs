//! How many bytes a session needs, and how they are shared out.

use crate::Error;
use crate::decoder::GATHER;
use crate::kv::KvPlan;
use bourn_format::{Image, Role, layout};
use bourn_kernels::table::KvDtype;

/// What a session is made for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Positions: prompt and generated tokens together.
    pub context: usize,
    /// Tokens that prefill pushes through each layer at once.
    pub prefill_block: usize,
    /// Element type of the KV cache.
    pub kv: KvDtype,
    /// Positions that sliding layers keep beyond their window and a block, so that the session can return to them; it can
    /// return anywhere where this is the context.
    pub retain: usize,
    /// Positions whose logits are computed in one pass over the head (`Session::logits_of_all`); at least 1.
    pub logit_rows: usize,
}

/// Lengths of every buffer of a session: the only place that computes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub block: usize,
    pub hidden: usize,
    /// Hidden rounded up to whole tiles: stride of projection outputs.
    pub hidden_rows: usize,
    pub q_rows: usize,
    pub kv_rows: usize,
    /// Stride of the stacked q, k, v output.
    pub qkv_stride: usize,
    pub ffn_rows: usize,
    pub vocab_rows: usize,
    pub logit_rows: usize,
    /// Widest input of a matrix, in whole blocks of 64.
    pub widest: usize,
    pub half_rotary: usize,
    pub kv: KvPlan,
    pub head: HeadPlan,
}

/// Lengths of the buffers of a screened head; all 0 for any other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadPlan {
    logit_rows: usize,
    hidden: usize,
    dims: usize,
    n_subs: usize,
    n_wide: usize,
    row_bytes: usize,
}

impl HeadPlan {
    fn new(image: &Image<'_>, logit_rows: usize) -> Self {
        let hidden = image.shape().hidden as usize;
        image.screen().map_or_else(Self::default, |s| Self {
            logit_rows,
            hidden,
            dims: layout::padded_rows(s.dims()),
            n_subs: s.n_subs(),
            n_wide: s.n_wide(),
            row_bytes: layout::row_bytes(hidden),
        })
    }

    /// Bytes of: centred states, mapped states, table values, table scales, candidates' logits (all f32), low tables, high
    /// tables, candidates' rows.
    pub fn lengths(&self) -> [usize; 8] {
        let n = self.logit_rows;
        let gather = if self.row_bytes == 0 { 0 } else { GATHER };
        let f32s = |n: usize| n.saturating_mul(4);
        [
            f32s(n * self.hidden),
            f32s(n * self.dims),
            f32s(16 * self.n_subs),
            f32s(2 * n),
            f32s(gather),
            16 * n * self.n_subs,
            16 * n * self.n_wide,
            gather * self.row_bytes,
        ]
    }
}

const ALIGN: usize = 64;

impl Plan {
    pub fn new(image: &Image<'_>, options: &Options) -> Result<Self, Error> {
        let s = image.shape();
        let limit = |what, need: usize, found: usize| Err(Error::Option { what, need: need as u64, found: found as u64 });
        if options.context == 0 {
            return limit("context", 1, 0);
        }
        if options.context > s.max_context as usize {
            return limit("context", s.max_context as usize, options.context);
        }
        if options.prefill_block == 0 || options.prefill_block > 4096 {
            return limit("prefill_block", 4096, options.prefill_block);
        }
        if options.logit_rows == 0 || options.logit_rows > 4096 {
            return limit("logit_rows", 4096, options.logit_rows);
        }
        let block = options.prefill_block.min(options.context);
        let (hidden, ffn) = (s.hidden as usize, s.ffn as usize);
        let (q_rows, kv_rows) = (s.q_rows(), s.kv_rows());
        let head_rows = image.parts(Role::Head).map(|t| layout::padded_rows(t.rows)).sum();
        Ok(Self {
            block,
            hidden,
            hidden_rows: layout::padded_rows(hidden),
            q_rows,
            kv_rows,
            qkv_stride: layout::padded_rows(q_rows) + 2 * layout::padded_rows(kv_rows),
            ffn_rows: layout::padded_rows(ffn),
            vocab_rows: head_rows,
            logit_rows: options.logit_rows,
            widest: layout::padded_cols(hidden.max(q_rows).max(ffn)),
            half_rotary: s.rotary_dim as usize / 2,
            kv: KvPlan::new(image, options.kv, options.context, block, options.retain),
            head: HeadPlan::new(image, options.logit_rows),
        })
    }

    /// Lengths in bytes of the buffers, in the order in which [`Buffers::carve`] takes them.
    fn lengths(&self) -> [usize; 14] {
        let t = self.block;
        let rows = t.max(self.logit_rows);
        let f32s = |n: usize| n.saturating_mul(4);
        [
            f32s(t * self.hidden),
            f32s(rows * self.hidden),
            f32s(t * self.qkv_stride),
            f32s(t * self.q_rows),
            f32s(t * self.hidden_rows),
            f32s(t * 2 * self.ffn_rows),
            f32s(self.logit_rows.saturating_mul(self.vocab_rows)),
            f32s(4 * t * self.half_rotary),
            rows * self.widest,
            f32s(rows * self.widest / layout::GROUP),
            f32s(rows * self.widest / layout::GROUP),
            self.kv.bytes(),
            self.kv.scale_bytes(),
            self.head.lengths().iter().sum(),
        ]
    }

    pub fn bytes(&self) -> usize {
        self.lengths().iter().fold(ALIGN, |sum, &n| sum.saturating_add(n.div_ceil(ALIGN).saturating_mul(ALIGN)))
    }
}

/// Bytes that the shell must lend to a session: activations, logits, KV cache, and slack for alignment.
///
/// # Errors
/// [`Error::Option`] when an option is outside what the image allows.
pub fn workspace_bytes(image: &Image<'_>, options: &Options) -> Result<usize, Error> {
    Plan::new(image, options).map(|plan| plan.bytes())
}

/// A session's buffers, carved out of the workspace. Shapes are row-major; `T` is the prefill block.
#[derive(Debug)]
pub(crate) struct Buffers<'w> {
    /// Residual stream `[T, hidden]`.
    pub residual: &'w mut [f32],
    /// Normed input of a matrix `[max(T, logit_rows), hidden]`.
    pub normed: &'w mut [f32],
    /// Stacked queries, keys, values `[T, qkv_stride]`.
    pub qkv: &'w mut [f32],
    /// Attention output `[T, q_rows]`.
    pub attended: &'w mut [f32],
    /// Output of the output and down projections `[T, hidden_rows]`.
    pub projected: &'w mut [f32],
    /// Stacked gate and up `[T, 2·ffn_rows]`.
    pub ffn: &'w mut [f32],
    /// `[logit_rows, vocab_rows]`.
    pub logits: &'w mut [f32],
    /// cos, sin of full layers, cos, sin of sliding layers: `[4, T, rotary/2]`.
    pub angles: &'w mut [f32],
    /// int8 activations.
    pub q8: &'w mut [i8],
    /// Scales of `q8`.
    pub q8_scale: &'w mut [f32],
    /// Sums of `q8`.
    pub q8_sum: &'w mut [i32],
    /// KV cache.
    pub kv: &'w mut [u8],
    /// Scales of an int8 KV cache.
    pub kv_scale: &'w mut [f32],
    /// What a screened head needs: see [`HeadPlan`].
    pub head: &'w mut [u8],
}

impl<'w> Buffers<'w> {
    pub fn carve(plan: &Plan, workspace: &'w mut [u8]) -> Result<Self, Error> {
        let have = workspace.len();
        let too_small = Error::Workspace { need: plan.bytes() as u64, have: have as u64 };
        let slack = workspace.as_ptr().align_offset(ALIGN);
        let mut rest = workspace.get_mut(slack..).ok_or(too_small)?;
        let mut parts = plan.lengths().map(|n| (n, None));
        for (n, part) in &mut parts {
            let (head, tail) = rest.split_at_mut_checked(n.div_ceil(ALIGN) * ALIGN).ok_or(too_small)?;
            *part = head.get_mut(..*n);
            rest = tail;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = parts.map(|(_, part)| part.unwrap_or_default());
        let f32s = |bytes: &'w mut [u8]| bytemuck::try_cast_slice_mut::<u8, f32>(bytes).map_err(|_| too_small);
        Ok(Self {
            residual: f32s(a)?,
            normed: f32s(b)?,
            qkv: f32s(c)?,
            attended: f32s(d)?,
            projected: f32s(e)?,
            ffn: f32s(f)?,
            logits: f32s(g)?,
            angles: f32s(h)?,
            q8: bytemuck::try_cast_slice_mut(i).map_err(|_| too_small)?,
            q8_scale: f32s(j)?,
            q8_sum: bytemuck::try_cast_slice_mut(k).map_err(|_| too_small)?,
            kv: l,
            kv_scale: f32s(m)?,
            head: n,
        })
    }
}
