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
    let mut query = 0;
    while query < n * a.n_heads {
        let count = (n * a.n_heads - query).min(PASS);
        match kv.dtype {
            KvDtype::F32 => pass::<L, F32>(kv, a, out, query, count),
            KvDtype::F16 => pass::<L, F16>(kv, a, out, query, count),
            KvDtype::I8 => {
                assert!(kv.k_scale.len() == kv.slots && kv.v_scale.len() == kv.slots);
                pass::<L, I8>(kv, a, out, query, count);
            }
        }
        query += count;
    }
}

/// Running maximum and sum of the queries of a pass.
struct State<L> {
    max: [f32; PASS],
    sum: [L; PASS],
}

/// Queries `first..first + count` (token-major) over all they see.
#[inline(always)]
fn pass<L: Lanes, E: Elem>(kv: &KvView<'_>, a: &Attend<'_>, out: &mut Block<'_>, first_query: usize, count: usize) {
    let hd = kv.head_dim;
    let mut state = State { max: [f32::NEG_INFINITY; PASS], sum: [L::splat(0.0); PASS] };
    for i in 0..count {
        out_of(out, a, hd, first_query + i).fill(0.0);
    }
    let (from, _) = seen(a, first_query);
    let (_, to) = seen(a, first_query + count - 1);
    let mut run = from / RUN;
    while run * RUN < to {
        let mut i = 0;
        while i < count {
            let left = count - i;
            let q = if left < L::QUERIES { left } else { L::QUERIES };
            match q {
                1 => step::<L, E, 1>(kv, a, out, &mut state, first_query, i, run),
                2 => step::<L, E, 2>(kv, a, out, &mut state, first_query, i, run),
                3 => step::<L, E, 3>(kv, a, out, &mut state, first_query, i, run),
                _ => step::<L, E, 4>(kv, a, out, &mut state, first_query, i, run),
            }
            i += q;
        }
        run += 1;
    }
    for (i, sum) in state.sum.iter().take(count).enumerate() {
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

/// `Q` queries (`first_query + at ..`) times one run.
#[inline(always)]
fn step<L: Lanes, E: Elem, const Q: usize>(
    kv: &KvView<'_>,
    a: &Attend<'_>,
    out: &mut Block<'_>,
    state: &mut State<L>,
    first_query: usize,
    at: usize,
    run: usize,
) {
    let (hd, base) = (kv.head_dim, run * RUN);
    let slot = base % kv.slots;
    let mut q = [a.q; Q];
    let (mut from, mut to) = ([0; Q], [0; Q]);
    let (mut first_seen, mut last_seen) = (RUN, 0);
    for j in 0..Q {
        let query = first_query + at + j;
        q[j] = &a.q[(query / a.n_heads) * a.q_stride + (query % a.n_heads) * hd..][..hd];
        let (f, t) = seen(a, query);
        (from[j], to[j]) = (f.saturating_sub(base).min(RUN), t.saturating_sub(base).min(RUN));
        if from[j] < to[j] {
            (first_seen, last_seen) = (first_seen.min(from[j]), last_seen.max(to[j]));
        }
    }
    if first_seen >= last_seen {
        return;
    }
    let mut s = [[0.0; RUN]; Q];
    let tile_bytes = hd * 16 * E::BYTES;
    let keys = &kv.k[slot / 16 * tile_bytes..][..RUN / 16 * tile_bytes];
    let (mut tile, tiles) = (first_seen / 16, last_seen.div_ceil(16));
    while tile < tiles {
        if L::VECTORS >= 4 && tiles - tile >= 4 {
            scores::<L, E, Q, 4>(keys, hd, &q, tile, &mut s);
            tile += 4;
        } else if L::VECTORS >= 2 && tiles - tile >= 2 {
            scores::<L, E, Q, 2>(keys, hd, &q, tile, &mut s);
            tile += 2;
        } else {
            scores::<L, E, Q, 1>(keys, hd, &q, tile, &mut s);
            tile += 1;
        }
    }
    for j in 0..Q {
        if from[j] < to[j] {
            let rescale = softmax(kv, a, slot, &mut s[j], (from[j], to[j]), &mut state.max[at + j], &mut state.sum[at + j]);
            if let Some(c) = rescale {
                let c = L::splat(c);
                let (o, tail) = out_of(out, a, hd, first_query + at + j).as_chunks_mut::<16>();
                for o in o {
                    L::load(o).mul(c).store(o);
                }
                L::load_part(tail, 0.0).mul(c).store_part(tail);
            }
        }
    }
    // Positions that all of the queries see are read once for all; before and after them each query has its own.
    let (mut shared_from, mut shared_to) = (0, RUN);
    for j in 0..Q {
        (shared_from, shared_to) = (shared_from.max(from[j]), shared_to.min(to[j]));
    }
    let values = &kv.v[slot * hd * E::BYTES..][..RUN * hd * E::BYTES];
    let query = first_query + at;
    if Q == 1 || shared_from >= shared_to {
        for j in 0..Q {
            add_values::<L, E, 1>(values, a, hd, first(&s[j..]), out, query + j, from[j], to[j]);
        }
        return;
    }
    for j in 0..Q {
        add_values::<L, E, 1>(values, a, hd, first(&s[j..]), out, query + j, from[j], shared_from);
    }
    add_values::<L, E, Q>(values, a, hd, &s, out, query, shared_from, shared_to);
    for j in 0..Q {
        add_values::<L, E, 1>(values, a, hd, first(&s[j..]), out, query + j, shared_to, to[j]);
    }
}

/// `s[j][16·tile..] = Σ_d q[j][d] · k[d][16]` for `C` tiles of keys.
#[inline(always)]
fn scores<L: Lanes, E: Elem, const Q: usize, const C: usize>(
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
    for d in 0..hd {
        for c in 0..C {
            let kc: L = E::load(&k[c][d * width..][..width]);
            for j in 0..Q {
                acc[j][c] = kc.fma(L::splat(q[j][d]), acc[j][c]);
            }
        }
    }
    for j in 0..Q {
        for c in 0..C {
            acc[j][c].store(first_mut(&mut s[j][(tile + c) * 16..]));
        }
    }
}

/// Turns scores into weights, `p[i]` or for i8 `p[i] · v_scale[i]`, and updates maximum and sum.
/// Gives the factor by which what was summed before has to shrink, if it has to.
#[inline(always)]
fn softmax<L: Lanes>(
    kv: &KvView<'_>,
    a: &Attend<'_>,
    slot: usize,
    s: &mut [f32; RUN],
    (from, to): (usize, usize),
    max: &mut f32,
    sum: &mut L,
) -> Option<f32> {
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
    let mut rescale = None;
    if top > *max {
        let c = L::splat(*max - top).exp();
        *sum = sum.mul(c);
        let mut all = [0.0; 16];
        c.store(&mut all);
        rescale = Some(all[0]);
        *max = top;
    }
    let m = L::splat(*max);
    for tile in tiles {
        let s = first_mut(&mut s[tile * 16..]);
        let mut p = L::load(s).sub(m).exp();
        *sum = sum.add(p);
        if i8_scaled {
            p = p.mul(L::load(first(&kv.v_scale[slot + tile * 16..])));
        }
        p.store(s);
    }
    rescale
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
        } else if L::VECTORS >= 2 && hd - d >= 32 {
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
    for i in from..to {
        let v = &values[(i * hd + d) * E::BYTES..][..C * width];
        for c in 0..C {
            let vc: L = E::load(&v[c * width..][..width]);
            for j in 0..Q {
                acc[j][c] = vc.fma(L::splat(p[j][i]), acc[j][c]);
            }
        }
    }
    for j in 0..Q {
        let o = &mut out_of(out, a, hd, query + j)[d..];
        for c in 0..C {
            acc[j][c].store(first_mut(&mut o[16 * c..]));
        }
    }
}
