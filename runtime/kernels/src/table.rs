//! The table of kernels: what a tier hands out, what the decoder calls. `scalar` is the definition of each entry.

use crate::rows::Block;
use bourn_format::{Dtype, Screen};

/// Some whole tiles of a matrix (`bourn_format::layout`).
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Tile bytes, a whole number of tiles.
    pub bytes: &'a [u8],
    /// Columns of the matrix.
    pub cols: usize,
    /// Level table (Q4, Q4M).
    pub table: [i8; 16],
}

/// `n` int8 activation vectors: `x[t][c] ≈ scale[t][c/32] · q[t][c]`, `q` within ±127, padded with zeros to whole blocks of 64.
#[derive(Clone, Copy, Debug)]
pub struct Q8Rows<'a> {
    /// Vectors.
    pub n: usize,
    /// `[n, padded_cols]`.
    pub q: &'a [i8],
    /// `[n, padded_cols / 32]`.
    pub scale: &'a [f32],
    /// `[n, padded_cols / 32]`: Σ q of each group.
    pub sum: &'a [i32],
}

/// Codes and biases of some whole tiles of a screened head.
#[derive(Clone, Copy, Debug)]
pub struct ScreenTiles<'a> {
    /// Tiles of U4: `[n_subs/2][16 rows]` bytes each.
    pub codes: &'a [u8],
    /// An f16 for each row.
    pub bias: &'a [u8],
    /// Codes of a row; even.
    pub n_subs: usize,
}

/// One token's tables for the codes of a screened head: what `screen_tables` makes.
#[derive(Clone, Copy, Debug)]
pub struct ScreenTables<'a> {
    /// `[n_subs][16]`: value + 63.
    pub low: &'a [u8],
    /// `[n_wide][16]`: of the first sub-quantizers the part of the value that counts 64 times, + 63.
    pub high: &'a [u8],
    /// What a step of the values is worth.
    pub lsb: f32,
    /// Added to every score.
    pub base: f32,
}

/// Where `quantize` writes one vector.
#[derive(Debug)]
pub struct Q8RowMut<'a> {
    /// `[padded_cols]`.
    pub q: &'a mut [i8],
    /// `[padded_cols / 32]`.
    pub scale: &'a mut [f32],
    /// `[padded_cols / 32]`.
    pub sum: &'a mut [i32],
}

/// Element type of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KvDtype {
    F32,
    F16,
    /// One f32 scale per position and KV head.
    I8,
}

/// Keys and values of one layer and one KV head. `slots` (a multiple of 64) positions; position `p` lies in slot `p % slots`.
///
/// Keys: `[slots/16][head_dim][16]` elements, so that 16 positions are lanes. Values: `[slots][head_dim]`.
/// Elements are little-endian f32, f16, or i8; for i8 `k_scale`, `v_scale` are `[slots]`, else empty.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct KvView<'a> {
    pub dtype: KvDtype,
    pub slots: usize,
    pub head_dim: usize,
    pub k: &'a [u8],
    pub v: &'a [u8],
    pub k_scale: &'a [f32],
    pub v_scale: &'a [f32],
}

/// The same, to be written.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct KvViewMut<'a> {
    pub dtype: KvDtype,
    pub slots: usize,
    pub head_dim: usize,
    pub k: &'a mut [u8],
    pub v: &'a mut [u8],
    pub k_scale: &'a mut [f32],
    pub v_scale: &'a mut [f32],
}

/// Attention of `out.n()` consecutive tokens' query heads that share one KV head.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// Queries, rotated and scaled: head `h` of token `t` is `q[t·q_stride + h·head_dim ..][..head_dim]`.
    pub q: &'a [f32],
    /// Elements between tokens in `q`.
    pub q_stride: usize,
    /// Query heads of this KV head.
    pub n_heads: usize,
    /// Position of the first token; token `t` stands at `pos + t` and its key and value are stored already.
    pub pos: usize,
    /// A token sees this many positions, its own included; `usize::MAX` = all.
    pub window: usize,
    /// `c·tanh(s/c)` on scores; 0 = none.
    pub softcap: f32,
}

/// See [`Kernels::screen_tables`].
pub type MakeScreenTables =
    fn(screen: &Screen<'_>, books: &[u8], y: &[f32], values: &mut [f32], low: &mut [u8], high: &mut [u8]) -> (f32, f32);

/// The functions of one tier. Every tier returns the same bits.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// `scalar`, `neon`, `dotprod`, `i8mm`, `avx2`, `avx512vnni`.
    pub isa: &'static str,
    /// `y[t][r] = Σ_g (int dot in group g, exact) · (s_w·s_x)`; 16 rows per tile; `y.len() = 16 · tiles`.
    /// Takes Q4, Q4M, Q8. One fused multiply-add per group and row, groups in rising order:
    /// `acc = fma(dot as f32, s_w·s_x, acc)`; Q4M then `acc = fma(m, s_x·(sum as f32), acc)`.
    pub mul_quantized: fn(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>),
    /// The same for rows of Q8R, any number of them, with the bits that `mul_quantized` gives for Q8 tiles of the same values.
    /// `w.bytes`: `[y.len()]` rows of `row_bytes(cols)`.
    pub mul_rows: fn(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>),
    /// `y[t][r] = Σ_c w[r][c]·x[t][c]` for F32, F16, Bf16 tiles; `x`: `[n, x_stride]`. Four running sums over `c mod 4`
    /// by fused multiply-add, then `(a0 + a1) + (a2 + a3)`.
    pub mul_float: fn(w: &Tiles<'_>, x: &[f32], x_stride: usize, y: &mut Block<'_>),
    /// `scale = max|x|/127` per group of 32, `q = round-half-even(x·(127/max|x|))`; a group of zeros has scale 0. Pads with zeros.
    pub quantize: fn(x: &[f32], out: &mut Q8RowMut<'_>),
    /// `y = x / √(mean(x²) + eps) · w`; `w` is little-endian f32. Σx² in 16 lanes (`c mod 16`) by fma, lanes summed by halves. `w` empty = no weight.
    pub rms_norm: fn(x: &[f32], w: &[u8], eps: f32, y: &mut [f32]),
    /// Half-split rope, in place, on the first `2·n` elements of each head of `head_dim`, `n = cos.len()`:
    /// `(a, b) → (a·cos − b·sin, b·cos + a·sin)`, then all elements `· scale`.
    pub rope: fn(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], scale: f32),
    /// `y += x`.
    pub add: fn(y: &mut [f32], x: &[f32]),
    /// `y = silu(g)·u` in `g`'s place.
    pub silu_mul: fn(g: &mut [f32], u: &[f32]),
    /// `y = gelu_tanh(g)·u` in `g`'s place.
    pub gelu_mul: fn(g: &mut [f32], u: &[f32]),
    /// `x = c·tanh(x/c)`.
    pub softcap: fn(x: &mut [f32], c: f32),
    /// Stores one position's key and value in slot `slot`.
    pub kv_store: fn(kv: &mut KvViewMut<'_>, slot: usize, k: &[f32], v: &[f32]),
    /// `out[t][h·head_dim..] = softmax(q·K)·V`, online softmax over aligned runs of positions in rising order; see `scalar`.
    pub attend: fn(kv: &KvView<'_>, a: &Attend<'_>, out: &mut Block<'_>),
    /// Tables of one token: `v_s[e] = Σ_d book_s[d][e]·y[first_s + d]` (fma, `d` rising), `m_s = (max + min)/2` over `e`;
    /// `lsb = max(max|v − m|/63 of narrow sub-quantizers, max|v − m|/4063 of wide ones)`; whole numbers `round((v − m)/lsb)` into `low`,
    /// of wide ones `64·high + low`, all lifted by 63. Returns `(lsb, Σ m_s)`. `books`: little-endian f32 `[sub][d][16]`;
    /// `values`: scratch `[n_subs·16]`.
    pub screen_tables: MakeScreenTables,
    /// `y[r] = fma(Σ_s table_s[code(r, s)], lsb, bias[r] + base)`; the sum is a whole number. `y`: `[16 · tiles]`.
    pub screen_scores: fn(w: &ScreenTiles<'_>, t: &ScreenTables<'_>, y: &mut [f32]),
    /// How many values are at least `threshold`; NaN is not.
    pub count_at_least: fn(x: &[f32], threshold: f32) -> usize,
    /// Index of the largest value, the first of equals; NaN never wins.
    pub argmax: fn(x: &[f32]) -> usize,
    /// `Σ exp(x − max)` in 16 lanes and the maximum: `(max, sum)`; logsumexp = max + ln(sum).
    pub max_sum_exp: fn(x: &[f32]) -> (f32, f32),
}
