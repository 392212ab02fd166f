//! The screened head (FORMAT.md §5): a coarse look at all rows by codes of 4 bits, exact rows for the candidates.

use super::float::half_of;
use super::head::{best_unit, better};
use super::matvec::q8_dot;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Units of a workgroup here.
pub const UNITS: u32 = 256;
/// Sub-quantizers whose tables a workgroup holds at a time: 8 KiB.
const SUBS: u32 = 128;
/// Tiles of 16 rows that a workgroup scores: a unit looks up one word, 4 rows of two codes, at a time.
pub const TILES: u32 = UNITS / 4;
/// Candidates whose rows a workgroup reads: 16 units share a row.
pub const ROWS: u32 = 16;
/// Words of `chosen` before the candidates: their number, bits of the threshold, two zeros.
pub const CHOSEN_WORDS: u32 = 4;
/// Largest values of tables.
const NARROW: f32 = 63.0;
const WIDE: f32 = 4063.0;

/// `out = h − mean`; `params[0]`: where the mean begins in `vectors`.
#[cube(launch_unchecked)]
pub fn centre(h: &[f32], vectors: &[f32], params: &[u32], out: &mut [f32], #[comptime] cols: u32) {
    let col = CUBE_POS_X * UNITS + UNIT_POS_X;
    if col < cols {
        out[col as usize] = h[col as usize] - vectors[(params[0] + col) as usize];
    }
}

/// The tables `t_s[e]` of `n` sub-quantizers, the first `wide` of them wide, as floats that are whole numbers: `out` `[n][16]`; `scales`:
/// lsb and base. One workgroup.
///
/// `w` holds the books; `subs`: for each sub-quantizer the first word of its book, its first dimension of `y`, its dimensions, and 0.
#[cube(launch_unchecked)]
pub fn tables(
    w: &[u32],
    y: &[f32],
    subs: &[u32],
    out: &mut [f32],
    scales: &mut [f32],
    #[comptime] n: u32,
    #[comptime] wide: u32,
) {
    let (of_round, entry) = (UNIT_POS_X / 16u32, UNIT_POS_X % 16u32);
    let unit = UNIT_POS_X as usize;
    let mut most = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut least = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut middles = Shared::<[f32]>::new_slice(comptime!(n as usize));
    let mut halves = Shared::<[f32]>::new_slice(comptime!(n as usize));
    let mut factor = Shared::<[f32]>::new_slice(1usize);
    for round in 0..comptime!(n.div_ceil(16)) {
        let s = round * 16u32 + of_round;
        let mut v = 0.0f32;
        if s < n {
            let book = subs[(4u32 * s) as usize];
            let first = subs[(4u32 * s + 1u32) as usize];
            for i in 0..subs[(4u32 * s + 2u32) as usize] {
                v = fma(f32::reinterpret(w[(book + i * 16u32 + entry) as usize]), y[(first + i) as usize], v);
            }
        }
        most[unit] = v;
        least[unit] = v;
        sync_cube();
        #[unroll]
        for i in 0..4u32 {
            let step = comptime!(8u32 >> i);
            if entry < step {
                let other = (UNIT_POS_X + step) as usize;
                most[unit] = max(most[unit], most[other]);
                least[unit] = min(least[unit], least[other]);
            }
            sync_cube();
        }
        let (top, bottom) = (most[(of_round * 16u32) as usize], least[(of_round * 16u32) as usize]);
        let middle = 0.5f32 * (top + bottom);
        if s < n {
            out[(s * 16u32 + entry) as usize] = v - middle;
            if entry == 0u32 {
                middles[s as usize] = middle;
                halves[s as usize] = top - middle;
            }
        }
        sync_cube();
    }
    if UNIT_POS_X == 0u32 {
        let mut base = 0.0f32;
        let mut of_wide = 0.0f32;
        let mut of_narrow = 0.0f32;
        for s in 0..n {
            base += middles[s as usize];
            if s < wide {
                of_wide = max(of_wide, halves[s as usize]);
            } else {
                of_narrow = max(of_narrow, halves[s as usize]);
            }
        }
        let lsb = max(of_narrow / NARROW, of_wide / WIDE);
        scales[0] = lsb;
        scales[1] = base;
        factor[0] = select(lsb > 1e-30f32, 1.0f32 / lsb, 0.0f32);
    }
    sync_cube();
    let inverse = factor[0];
    for round in 0..comptime!(n.div_ceil(16)) {
        let s = round * 16u32 + of_round;
        if s < n {
            let at = (s * 16u32 + entry) as usize;
            let bound = select(s < wide, WIDE, NARROW);
            out[at] = f32::round(max(min(out[at] * inverse, bound), -bound));
        }
    }
}

/// `y[r] = fma(Σ_s t_s[code(r, s)], lsb, bias[r] + base)` of all rows of some parts; `y`: `[rows]`.
///
/// `params`: tiles, tiles of a part, first words of codes and of biases, words from part to part, first row.
#[cube(launch_unchecked)]
pub fn scores(w: &[u32], tables: &[f32], scales: &[f32], params: &[u32], y: &mut [f32], #[comptime] n: u32) {
    let wanted = CUBE_POS_X * TILES + UNIT_POS_X / 4u32;
    let quad = UNIT_POS_X % 4u32;
    let tile = min(wanted, params[0] - 1u32);
    let part = tile / params[1];
    let in_part = tile - part * params[1];
    let codes = params[2] + part * params[4] + in_part * comptime!(2 * n) + quad;
    let mut table = Shared::<[f32]>::new_slice(comptime!(16 * SUBS.min(n) as usize));
    let mut sums = Array::<f32>::new(4usize);
    #[unroll]
    for j in 0..4usize {
        sums[j] = 0.0f32;
    }
    #[unroll]
    for chunk in 0..comptime!(n.div_ceil(SUBS)) {
        let first = comptime!(chunk * SUBS);
        let subs = comptime!(SUBS.min(n - chunk * SUBS));
        sync_cube();
        for i in 0..comptime!(subs.div_ceil(16)) {
            let at = i * UNITS + UNIT_POS_X;
            if at < comptime!(16 * subs) {
                table[at as usize] = tables[(comptime!(16 * first) + at) as usize];
            }
        }
        sync_cube();
        for p in 0..comptime!(subs / 2) {
            let word = w[(codes + (comptime!(first / 2) + p) * 4u32) as usize];
            #[unroll]
            for j in 0..4usize {
                let shift = comptime!(8 * j as u32);
                let low = p * 32u32 + ((word >> shift) & 15u32);
                let high = p * 32u32 + 16u32 + ((word >> comptime!(shift + 4)) & 15u32);
                sums[j] += table[low as usize] + table[high as usize];
            }
        }
    }
    if wanted < params[0] {
        let (lsb, base) = (scales[0], scales[1]);
        let row = in_part * 16u32 + quad * 4u32;
        let bias = params[3] + part * params[4] + row / 2u32;
        let out = params[5] + tile * 16u32 + quad * 4u32;
        #[unroll]
        for j in 0..4usize {
            let bias = half_of(w[(bias + comptime!(j as u32 / 2)) as usize], comptime!(j as u32 % 2).runtime());
            y[(out + comptime!(j as u32)) as usize] = fma(sums[j], lsb, bias + base);
        }
    }
}

/// The candidates' logits from their exact rows: `y[i]` of candidate `i`, and in the place of its score among `logits`.
///
/// `params`: first row of some parts, their rows, rows of a part, first word, words from part to part. Candidates of other parts are
/// left alone.
#[cube(launch_unchecked)]
pub fn exact(
    w: &[u32],
    x: &[Vector<u32, Const<4>>],
    scales: &[f32],
    params: &[u32],
    chosen: &[u32],
    y: &mut [f32],
    logits: &mut [f32],
    #[comptime] cols: u32,
) {
    let groups = comptime!(cols.div_ceil(64) * 2);
    let row_words = comptime!((bourn_format::layout::row_bytes(cols as usize) / 4) as u32);
    let (of_row, split) = (UNIT_POS_X / ROWS, UNIT_POS_X % ROWS);
    let mut dots = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut factors = Shared::<[f32]>::new_slice(UNITS as usize);
    let n = chosen[0];
    if CUBE_POS_X * ROWS < n {
        let candidate = CUBE_POS_X * ROWS + of_row;
        let id = chosen[(CHOSEN_WORDS + min(candidate, n - 1u32)) as usize];
        let row = id - params[0];
        let here = candidate < n && row < params[1];
        let row = select(here, row, 0u32);
        let part = row / params[2];
        let base = params[3] + part * params[4] + (row - part * params[2]) * row_words;
        let mut acc = 0.0f32;
        let mut first = 0u32;
        while first < groups {
            let g = first + split;
            if g < groups {
                dots[UNIT_POS_X as usize] = q8_dot(w, base + comptime!(groups / 2) + g * 8u32, x, g);
                factors[UNIT_POS_X as usize] = half_of(w[(base + g / 2u32) as usize], g % 2u32) * scales[(2u32 * g) as usize];
            }
            sync_cube();
            if split == 0u32 {
                for s in 0..min(ROWS, groups - first) {
                    let at = (UNIT_POS_X + s) as usize;
                    acc = fma(dots[at], factors[at], acc);
                }
            }
            sync_cube();
            first += ROWS;
        }
        if split == 0u32 {
            if here {
                y[candidate as usize] = acc;
                logits[id as usize] = acc;
            }
        }
    }
}

/// The best candidate: `out`: bits of its logit (of infinity if one is not a number), its row, candidates, bits of the threshold.
#[cube(launch_unchecked)]
pub fn best_of(y: &[f32], chosen: &[u32], out: &mut [u32]) {
    let mut values = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut rows = Shared::<[u32]>::new_slice(UNITS as usize);
    let n = chosen[0];
    let mut best = f32::new(-3.4e38f32);
    let mut best_row = 0xffff_ffffu32;
    let mut i = UNIT_POS_X;
    while i < n {
        let mut value = y[i as usize];
        if (u32::reinterpret(value) & 0x7fff_ffffu32) > 0x7f80_0000u32 {
            value = f32::reinterpret(chosen[2] | 0x7f80_0000u32);
        }
        let row = chosen[(CHOSEN_WORDS + i) as usize];
        if better(value, row, best, best_row) {
            best = value;
            best_row = row;
        }
        i += UNITS;
    }
    best_unit(best, best_row, &mut values, &mut rows);
    if UNIT_POS_X == 0u32 {
        out[0] = u32::reinterpret(values[0]);
        out[1] = rows[0];
        out[2] = n;
        out[3] = chosen[1];
    }
}

/// Where the best logit does not pass the threshold: no row that was not read wins over one that was. `best` as `best_of` leaves it.
#[cube(launch_unchecked)]
pub fn cap(best: &[u32], x: &mut [f32], #[comptime] n: u32) {
    let bits = best[0];
    let top = f32::reinterpret(bits);
    if top <= f32::reinterpret(best[3]) {
        let row = CUBE_POS_X * UNITS + UNIT_POS_X;
        if row < n {
            let value = x[row as usize];
            if value > top || (value == top && row < best[1]) {
                let mut below = select(bits >= 0x8000_0000u32, bits + 1u32, bits - 1u32);
                if (bits & 0x7fff_ffffu32) == 0u32 {
                    below = 0x8000_0001u32.runtime();
                }
                x[row as usize] = f32::reinterpret(below);
            }
        }
    }
}
