//! Attention of some query heads over one KV head, as an online softmax over runs of 64 positions.
//!
//! A run is positions `[64j, 64j + 64)`: aligned to the position, whatever block the token came in, so that a token
//! alone and a token in a block give the same bits. Per run and query:
//!
//! ```text
//! s[i] = Σ_d q[d]·k[i][d]        lanes are positions, d rising, fused        (i8: · k_scale[i]; softcap)
//! m'   = max(m, max s)           if larger: l, out ·= e^(m − m')
//! p[i] = e^(s[i] − m)            0 where the token does not see position i
//! l   += p                       16 lanes (i mod 16)
//! out[d] = fma(p[i](·v_scale[i]), v[i][d], out[d])      i rising, positions seen only
//! ```
//! and at the end `out / Σ l`, lanes by halves. Scores and values are both products "few rows × a matrix of lanes", so several
//! queries share each load of a key or value.

use super::elem::{Elem, F16, F32, I8};
use super::kv::element_bytes;
use super::pointwise::cap;
use crate::lanes::{Lanes, first, first_mut};
use crate::rows::Block;
use crate::table::{Attend, KvDtype, KvView};

/// Positions of a run.
const RUN: usize = 64;
/// Queries that walk over the cache together.
const PASS: usize = 16;

/// See [`crate::table::Kernels::attend`].
#[inline(always)]
pub(crate) fn attend<L: Lanes>(kv: &KvView<'_>, a: &Attend<'_>, out: &mut Block<'_>) {
    let hd = kv.head_dim;
    let (n, need) = (out.n(), kv.slots * hd * element_bytes(kv.dtype));
    assert!(a.window > 0 && hd > 0 && kv.slots > 0 && kv.slots.is_multiple_of(RUN));
    assert!(kv.k.len() == need && kv.v.len() == need);
    assert!(out.len() == a.n_heads * hd);
    assert!(n == 0 || (n - 1) * a.q_stride + a.n_heads * hd <= a.q.len());
    assert!(kv.dtype != KvDtype::I8 || (kv.k_scale.len() == kv.slots && kv.v_scale.len() == kv.slots));
    let mut query = 0;
    while query < n * a.n_heads {
        let count = (n * a.n_heads - query).min(PASS);
        pass::<L>(kv, a, out, query, count);
        query += count;
    }
}

/// What a pass knows of its queries in the current run.
struct Pass<L> {
    /// Running maximum and sum.
    max: [f32; PASS],
    sum: [L; PASS],
    /// Offsets in the run that the query sees: `from..to`.
    from: [usize; PASS],
    to: [usize; PASS],
    /// Scores, then weights.
    s: [[f32; RUN]; PASS],
}

/// Queries `first..first + count` (token-major) over all they see.
#[inline(always)]
fn pass<L: Lanes>(kv: &KvView<'_>, a: &Attend<'_>, out: &mut Block<'_>, first_query: usize, count: usize) {
    let hd = kv.head_dim;
    let mut pass = Pass {
        max: [f32::NEG_INFINITY; PASS],
        sum: [L::splat(0.0); PASS],
        from: [0; PASS],
        to: [0; PASS],
        s: [[0.0; RUN]; PASS],
    };
    for i in 0..count {
        out_of(out, a, hd, first_query + i).fill(0.0);
    }
    let (from, _) = seen(a, first_query);
    let (_, to) = seen(a, first_query + count - 1);
    let mut run = from / RUN;
    while run * RUN < to {
        let base = run * RUN;
        let slot = base % kv.slots;
        for i in 0..count {
            let (f, t) = seen(a, first_query + i);
            (pass.from[i], pass.to[i]) = (f.saturating_sub(base).min(RUN), t.saturating_sub(base).min(RUN));
        }
        match kv.dtype {
            KvDtype::F32 => score_queries::<L, F32>(kv, a, &mut pass, first_query, count, slot),
            KvDtype::F16 => score_queries::<L, F16>(kv, a, &mut pass, first_query, count, slot),
            KvDtype::I8 => score_queries::<L, I8>(kv, a, &mut pass, first_query, count, slot),
        }
        for i in 0..count {
            if pass.from[i] < pass.to[i] {
                softmax(kv, a, slot, &mut pass, i, out_of(out, a, hd, first_query + i));
            }
        }
        match kv.dtype {
            KvDtype::F32 => sum_queries::<L, F32>(kv, a, &pass, out, first_query, count, slot),
            KvDtype::F16 => sum_queries::<L, F16>(kv, a, &pass, out, first_query, count, slot),
            KvDtype::I8 => sum_queries::<L, I8>(kv, a, &pass, out, first_query, count, slot),
        }
        run += 1;
    }
    for (i, sum) in pass.sum.iter().take(count).enumerate() {
        let sum = L::splat(sum.reduce_add());
        let (o, tail) = out_of(out, a, hd, first_query + i).as_chunks_mut::<16>();
        for o in o {
            L::load(o).div(sum).store(o);
        }
        L::load_part(tail, 0.0).div(sum).store_part(tail);
    }
}

/// Positions `from..to` that a query sees.
#[inline(always)]
fn seen(a: &Attend<'_>, query: usize) -> (usize, usize) {
    let to = a.pos + query / a.n_heads + 1;
    (to.saturating_sub(a.window), to)
}

#[inline(always)]
fn out_of<'o>(out: &'o mut Block<'_>, a: &Attend<'_>, hd: usize, query: usize) -> &'o mut [f32] {
    &mut out.row(query / a.n_heads)[(query % a.n_heads) * hd..][..hd]
}

/// Queries that share loads next, of `left`.
#[inline(always)]
fn together<L: Lanes>(left: usize) -> usize {
    if left < L::QUERIES { left } else { L::QUERIES }
}

/// Scores of all queries with one run of keys.
#[inline(always)]
fn score_queries<L: Lanes, E: Elem>(
    kv: &KvView<'_>,
    a: &Attend<'_>,
    pass: &mut Pass<L>,
    first_query: usize,
    count: usize,
    slot: usize,
) {
    let tile_bytes = kv.head_dim * 16 * E::BYTES;
    let keys = &kv.k[slot / 16 * tile_bytes..][..RUN / 16 * tile_bytes];
    let mut i = 0;
    while i < count {
        let q = together::<L>(count - i);
        if L::QUERIES >= 4 && q == 4 {
            scores::<L, E, 4>(keys, kv.head_dim, a, pass, first_query, i);
        } else if L::QUERIES >= 3 && q == 3 {
            scores::<L, E, 3>(keys, kv.head_dim, a, pass, first_query, i);
        } else if L::QUERIES >= 2 && q == 2 {
            scores::<L, E, 2>(keys, kv.head_dim, a, pass, first_query, i);
        } else {
            scores::<L, E, 1>(keys, kv.head_dim, a, pass, first_query, i);
        }
        i += q;
    }
}

/// Scores of queries `at..at + Q` of the pass.
#[inline(always)]
fn scores<L: Lanes, E: Elem, const Q: usize>(
    keys: &[u8],
    hd: usize,
    a: &Attend<'_>,
    pass: &mut Pass<L>,
    first_query: usize,
    at: usize,
) {
    let mut q = [a.q; Q];
    let (mut first_seen, mut last_seen) = (RUN, 0);
    for j in 0..Q {
        let query = first_query + at + j;
        q[j] = &a.q[(query / a.n_heads) * a.q_stride + (query % a.n_heads) * hd..][..hd];
        if pass.from[at + j] < pass.to[at + j] {
            (first_seen, last_seen) = (first_seen.min(pass.from[at + j]), last_seen.max(pass.to[at + j]));
        }
    }
    let s: &mut [[f32; RUN]; Q] = first_mut(&mut pass.s[at..]);
    let (mut tile, tiles) = (first_seen / 16, last_seen.div_ceil(16));
    while tile < tiles {
        if L::VECTORS == 4 && tiles - tile >= 4 {
            score_tiles::<L, E, Q, 4>(keys, hd, &q, tile, s);
            tile += 4;
        } else if L::VECTORS == 2 && tiles - tile >= 2 {
            score_tiles::<L, E, Q, 2>(keys, hd, &q, tile, s);
            tile += 2;
        } else {
            score_tiles::<L, E, Q, 1>(keys, hd, &q, tile, s);
            tile += 1;
        }
    }
}

/// `s[j][16·tile..] = Σ_d q[j][d] · k[d][16]` for `C` tiles of keys.
#[inline(always)]
fn score_tiles<L: Lanes, E: Elem, const Q: usize, const C: usize>(
    keys: &[u8],
    hd: usize,
    q: &[&[f32]; Q],
    tile: usize,
    s: &mut [[f32; RUN]; Q],
) {
    let width = 16 * E::BYTES;
    let mut k = [keys; C];
    for (c, k) in k.iter_mut().enumerate() {
        *k = &keys[(tile + c) * hd * width..][..hd * width];
    }
    let mut acc = [[L::splat(0.0); C]; Q];
    let mut d = 0;
    // Four dimensions at a time: one check of bounds for all of them.
    while hd - d >= 4 {
        let mut k4 = k;
        for k in &mut k4 {
            *k = &k[d * width..][..4 * width];
        }
        let mut q4 = [[0.0; 4]; Q];
        for j in 0..Q {
            q4[j] = *first(&q[j][d..]);
        }
        for i in 0..4 {
            for c in 0..C {
                let kc: L = E::load(&k4[c][i * width..][..width]);
                for j in 0..Q {
                    acc[j][c] = kc.fma(L::splat(q4[j][i]), acc[j][c]);
                }
            }
        }
        d += 4;
    }
    while d < hd {
        for c in 0..C {
            let kc: L = E::load(&k[c][d * width..][..width]);
            for j in 0..Q {
                acc[j][c] = kc.fma(L::splat(q[j][d]), acc[j][c]);
            }
        }
        d += 1;
    }
    for j in 0..Q {
        for c in 0..C {
            acc[j][c].store(first_mut(&mut s[j][(tile + c) * 16..]));
        }
    }
}

/// Turns query `i`'s scores into weights, `p` or for i8 `p · v_scale`, updates its maximum and sum and, if the maximum
/// has grown, shrinks `out`, what was summed before.
#[inline(always)]
fn softmax<L: Lanes>(kv: &KvView<'_>, a: &Attend<'_>, slot: usize, pass: &mut Pass<L>, i: usize, out: &mut [f32]) {
    let (from, to, s) = (pass.from[i], pass.to[i], &mut pass.s[i]);
    let tiles = from / 16..to.div_ceil(16);
    let i8_scaled = kv.dtype == KvDtype::I8;
    if i8_scaled || a.softcap != 0.0 {
        for tile in tiles.clone() {
            let s = first_mut(&mut s[tile * 16..]);
            let mut x = L::load(s);
            if i8_scaled {
                x = x.mul(L::load(first(&kv.k_scale[slot + tile * 16..])));
            }
            if a.softcap != 0.0 {
                x = cap(x, L::splat(a.softcap));
            }
            x.store(s);
        }
    }
    s[tiles.start * 16..from].fill(f32::NEG_INFINITY);
    s[to..tiles.end * 16].fill(f32::NEG_INFINITY);
    let mut top = L::splat(f32::NEG_INFINITY);
    for tile in tiles.clone() {
        top = L::load(first(&s[tile * 16..])).max(top);
    }
    let top = top.reduce_max();
    if top > pass.max[i] {
        let c = L::splat(pass.max[i] - top).exp();
        pass.max[i] = top;
        pass.sum[i] = pass.sum[i].mul(c);
        let (o, tail) = out.as_chunks_mut::<16>();
        for o in o {
            L::load(o).mul(c).store(o);
        }
        L::load_part(tail, 0.0).mul(c).store_part(tail);
    }
    let m = L::splat(pass.max[i]);
    for tile in tiles {
        let s = first_mut(&mut s[tile * 16..]);
        let mut p = L::load(s).sub(m).exp();
        pass.sum[i] = pass.sum[i].add(p);
        if i8_scaled {
            p = p.mul(L::load(first(&kv.v_scale[slot + tile * 16..])));
        }
        p.store(s);
    }
}

/// Adds one run of values to every query's output.
#[inline(always)]
fn sum_queries<L: Lanes, E: Elem>(
    kv: &KvView<'_>,
    a: &Attend<'_>,
    pass: &Pass<L>,
    out: &mut Block<'_>,
    first_query: usize,
    count: usize,
    slot: usize,
) {
    let hd = kv.head_dim;
    let values = &kv.v[slot * hd * E::BYTES..][..RUN * hd * E::BYTES];
    let mut i = 0;
    while i < count {
        let q = together::<L>(count - i);
        // Positions that all `q` see are read once for all; before and after them each query has its own.
        let (mut from, mut to) = (0, RUN);
        for j in i..i + q {
            (from, to) = (from.max(pass.from[j]), to.min(pass.to[j]));
        }
        if q == 1 || from >= to {
            (from, to) = (RUN, RUN);
        }
        for part in 0..3 {
            if part != 1 {
                for j in i..i + q {
                    let (f, t) = if part == 0 { (pass.from[j], pass.to[j].min(from)) } else { (to, pass.to[j]) };
                    add_values::<L, E, 1>(values, a, hd, first(&pass.s[j..]), out, first_query + j, f, t);
                }
            } else if L::QUERIES >= 4 && q == 4 {
                add_values::<L, E, 4>(values, a, hd, first(&pass.s[i..]), out, first_query + i, from, to);
            } else if L::QUERIES >= 3 && q == 3 {
                add_values::<L, E, 3>(values, a, hd, first(&pass.s[i..]), out, first_query + i, from, to);
            } else if L::QUERIES >= 2 && q == 2 {
                add_values::<L, E, 2>(values, a, hd, first(&pass.s[i..]), out, first_query + i, from, to);
            }
        }
        i += q;
    }
}

/// `out[j][d] += Σ_i p[j][i] · v[i][d]` for `Q` queries from `query` on, `from ≤ i < to`.
#[inline(always)]
fn add_values<L: Lanes, E: Elem, const Q: usize>(
    values: &[u8],
    a: &Attend<'_>,
    hd: usize,
    p: &[[f32; RUN]; Q],
    out: &mut Block<'_>,
    query: usize,
    from: usize,
    to: usize,
) {
    if from >= to {
        return;
    }
    let mut d = 0;
    while hd - d >= 16 {
        if L::VECTORS >= 4 && hd - d >= 64 {
            value_lanes::<L, E, Q, 4>(values, a, hd, p, out, query, d, (from, to));
            d += 64;
        } else if L::VECTORS == 2 && hd - d >= 32 {
            value_lanes::<L, E, Q, 2>(values, a, hd, p, out, query, d, (from, to));
            d += 32;
        } else {
            value_lanes::<L, E, Q, 1>(values, a, hd, p, out, query, d, (from, to));
            d += 16;
        }
    }
    if d < hd {
        for (j, p) in p.iter().enumerate() {
            let o = &mut out_of(out, a, hd, query + j)[d..];
            let mut acc = L::load_part(o, 0.0);
            for i in from..to {
                let v: L = E::load_part(&values[(i * hd + d) * E::BYTES..(i + 1) * hd * E::BYTES]);
                acc = v.fma(L::splat(p[i]), acc);
            }
            acc.store_part(o);
        }
    }
}

/// [`add_values`] on elements `d..d + 16·C`.
#[inline(always)]
fn value_lanes<L: Lanes, E: Elem, const Q: usize, const C: usize>(
    values: &[u8],
    a: &Attend<'_>,
    hd: usize,
    p: &[[f32; RUN]; Q],
    out: &mut Block<'_>,
    query: usize,
    d: usize,
    (from, to): (usize, usize),
) {
    let mut acc = [[L::splat(0.0); C]; Q];
    for j in 0..Q {
        let o = &out_of(out, a, hd, query + j)[d..];
        for c in 0..C {
            acc[j][c] = L::load(first(&o[16 * c..]));
        }
    }
    let width = 16 * E::BYTES;
    let stride = hd * E::BYTES;
    let mut i = from;
    // Four positions at a time, as above.
    while to - i >= 4 {
        let at = i * stride + d * E::BYTES;
        let mut v4 = [values; 4];
        for (x, v) in v4.iter_mut().enumerate() {
            *v = &values[at + x * stride..][..C * width];
        }
        let mut p4 = [[0.0; 4]; Q];
        for j in 0..Q {
            p4[j] = *first(&p[j][i..]);
        }
        for x in 0..4 {
            for c in 0..C {
                let vc: L = E::load(&v4[x][c * width..][..width]);
                for j in 0..Q {
                    acc[j][c] = vc.fma(L::splat(p4[j][x]), acc[j][c]);
                }
            }
        }
        i += 4;
    }
    while i < to {
        let v = &values[i * stride + d * E::BYTES..][..C * width];
        for c in 0..C {
            let vc: L = E::load(&v[c * width..][..width]);
            for j in 0..Q {
                acc[j][c] = vc.fma(L::splat(p[j][i]), acc[j][c]);
            }
        }
        i += 1;
    }
    for j in 0..Q {
        let o = &mut out_of(out, a, hd, query + j)[d..];
        for c in 0..C {
            acc[j][c].store(first_mut(&mut o[16 * c..]));
        }
    }
}
