//! The few largest of many numbers, in two steps: what cannot be among them is left out by many workgroups, one chooses among the rest.
//!
//! Rows are listed in rising order, so the answer is the same on every run.

use super::head::{SPAN, UNITS};
use super::screen::CHOSEN_WORDS;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Neighbouring rows of a unit.
const EACH: u32 = SPAN / UNITS;
/// Rows of which the largest is looked at when the bound of a list is sought.
pub const STRETCH: u32 = 64;
/// Halvings of the interval in which a screen's threshold lies (FORMAT.md §5).
const HALVINGS: u32 = 24;

/// What is listed: of `n` rows those at least the bound less a margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Rows.
    pub n: u32,
    /// Bits of the margin.
    pub margin: u32,
    /// Rows that are not numbers too.
    pub nans: bool,
}

/// Numbers in the order of `f32::total_cmp` as whole ones; what is not a number is the largest.
#[cube]
fn key(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    let nan = (bits & 0x7fff_ffffu32) > 0x7f80_0000u32;
    let key = select(bits >= 0x8000_0000u32, 0xffff_ffffu32 - bits, bits + 0x8000_0000u32);
    select(nan, 0xffff_ffffu32, key)
}

/// Bits of the number with this key.
#[cube]
fn bits_of(key: u32) -> u32 {
    select(key >= 0x8000_0000u32, key - 0x8000_0000u32, 0xffff_ffffu32 - key)
}

/// The sum of `mine` over the workgroup, to every unit.
#[cube]
fn sum(mine: u32, room: &mut Shared<[u32]>) -> u32 {
    let unit = UNIT_POS_X as usize;
    sync_cube();
    room[unit] = mine;
    sync_cube();
    #[unroll]
    for i in 0..8u32 {
        let step = comptime!(128usize >> i);
        if unit < step {
            let other = room[unit + step];
            room[unit] += other;
        }
        sync_cube();
    }
    room[0]
}

/// The sum of `mine` over the units before this one, and over all.
#[cube]
fn before(mine: u32, room: &mut Shared<[u32]>) -> (u32, u32) {
    let unit = UNIT_POS_X;
    sync_cube();
    room[unit as usize] = mine;
    sync_cube();
    #[unroll]
    for i in 0..8u32 {
        let step = comptime!(1u32 << i);
        let mut left = 0u32;
        if unit >= step {
            left = room[(unit - step) as usize];
        }
        sync_cube();
        room[unit as usize] += left;
        sync_cube();
    }
    (room[unit as usize] - mine, room[(UNITS - 1) as usize])
}

/// The largest key of each stretch of 64 rows. One workgroup a span.
#[cube(launch_unchecked)]
pub fn maxima(x: &[f32], out: &mut [u32], #[comptime] n: u32) {
    let mut room = Shared::<[u32]>::new_slice(UNITS as usize);
    let unit = UNIT_POS_X;
    let first = CUBE_POS_X * SPAN + unit * EACH;
    let mut top = 0u32;
    #[unroll]
    for i in 0..EACH {
        if first + i < n {
            top = max(top, key(x[(first + i) as usize]));
        }
    }
    room[unit as usize] = top;
    sync_cube();
    let units = comptime!(STRETCH / EACH);
    if unit % units == 0u32 {
        for i in 1..units {
            top = max(top, room[(unit + i) as usize]);
        }
        out[(CUBE_POS_X * comptime!(SPAN / STRETCH) + unit / units) as usize] = top;
    }
}

/// A number that at least `wanted[0]` rows reach: as many stretches have one. `n` keys; `out[0]`: its bits. One workgroup.
#[cube(launch_unchecked)]
pub fn bound(keys: &[u32], wanted: &[u32], out: &mut [u32], #[comptime] n: u32) {
    let mut room = Shared::<[u32]>::new_slice(UNITS as usize);
    let k = wanted[0];
    let mut found = 0u32;
    let mut bit = 0x8000_0000u32.runtime();
    while bit > 0u32 {
        let tried = found + bit;
        let mut mine = 0u32;
        for i in 0..comptime!(n.div_ceil(UNITS)) {
            let at = i * UNITS + UNIT_POS_X;
            if at < n {
                mine += u32::cast_from(keys[at as usize] >= tried);
            }
        }
        if sum(mine, &mut room) >= k {
            found = tried;
        }
        bit = bit >> 1u32;
    }
    if UNIT_POS_X == 0u32 {
        // With fewer stretches than rows are wanted: minus infinity, all rows.
        out[0] = select(found < 0x007f_ffffu32, 0xff80_0000u32, bits_of(found));
    }
}

/// Whether a row is listed.
#[cube]
fn reaches(value: f32, least: f32, #[comptime] spec: Spec) -> bool {
    if comptime!(spec.nans) {
        let nan = (u32::reinterpret(value) & 0x7fff_ffffu32) > 0x7f80_0000u32;
        value >= least || nan
    } else {
        value >= least
    }
}

/// How many of this unit's rows are listed.
#[cube]
fn listed(x: &[f32], first: u32, least: f32, #[comptime] spec: Spec) -> u32 {
    let mut mine = 0u32;
    #[unroll]
    for i in 0..EACH {
        if first + i < comptime!(spec.n) {
            mine += u32::cast_from(reaches(x[(first + i) as usize], least, spec));
        }
    }
    mine
}

/// How many rows of each span are listed. One workgroup a span.
#[cube(launch_unchecked)]
pub fn count(x: &[f32], bound: &[u32], counts: &mut [u32], #[comptime] spec: Spec) {
    let mut room = Shared::<[u32]>::new_slice(UNITS as usize);
    let least = f32::reinterpret(bound[0]) - f32::from_bits(comptime!(spec.margin));
    let mine = listed(x, CUBE_POS_X * SPAN + UNIT_POS_X * EACH, least, spec);
    let all = sum(mine, &mut room);
    if UNIT_POS_X == 0u32 {
        counts[CUBE_POS_X as usize] = all;
    }
}

/// The rows that `count` has counted, in rising order. One workgroup a span.
#[cube(launch_unchecked)]
pub fn list(x: &[f32], bound: &[u32], counts: &[u32], rows: &mut [u32], #[comptime] spec: Spec) {
    let mut room = Shared::<[u32]>::new_slice(UNITS as usize);
    let least = f32::reinterpret(bound[0]) - f32::from_bits(comptime!(spec.margin));
    let mut earlier = 0u32;
    let mut span = UNIT_POS_X;
    while span < CUBE_POS_X {
        earlier += counts[span as usize];
        span += UNITS;
    }
    let first = CUBE_POS_X * SPAN + UNIT_POS_X * EACH;
    let begin = sum(earlier, &mut room);
    let (before, _) = before(listed(x, first, least, spec), &mut room);
    let mut at = begin + before;
    #[unroll]
    for i in 0..EACH {
        if first + i < comptime!(spec.n) {
            if reaches(x[(first + i) as usize], least, spec) {
                rows[at as usize] = first + i;
                at += 1u32;
            }
        }
    }
}

/// Rows in the list.
#[cube]
fn total(counts: &[u32], room: &mut Shared<[u32]>, #[comptime] spans: u32) -> u32 {
    let mut mine = 0u32;
    for i in 0..comptime!(spans.div_ceil(UNITS)) {
        let at = i * UNITS + UNIT_POS_X;
        if at < spans {
            mine += counts[at as usize];
        }
    }
    sum(mine, room)
}

/// A screen's candidates: at most `most` of the listed rows, by the rule of FORMAT.md §5. One workgroup.
///
/// `top[0]`: bits of the best score; `chosen`: how many, bits of the threshold, two zeros, the rows.
#[cube(launch_unchecked)]
pub fn candidates(
    x: &[f32],
    top: &[u32],
    counts: &[u32],
    rows: &[u32],
    chosen: &mut [u32],
    #[comptime] spans: u32,
    #[comptime] most: u32,
    #[comptime] margin: u32,
) {
    let mut room = Shared::<[u32]>::new_slice(UNITS as usize);
    let n = total(counts, &mut room, spans);
    let mut high = f32::reinterpret(top[0]);
    let mut low = high - f32::from_bits(comptime!(margin));
    let mut threshold = low;
    if n > most {
        let mut halvings = 0u32;
        while halvings < HALVINGS {
            halvings += 1u32;
            let middle = 0.5f32 * (low + high);
            if low < middle && middle < high {
                let mut mine = 0u32;
                let mut i = UNIT_POS_X;
                while i < n {
                    mine += u32::cast_from(x[rows[i as usize] as usize] >= middle);
                    i += UNITS;
                }
                let reach = sum(mine, &mut room);
                if reach > most {
                    low = middle;
                } else {
                    high = middle;
                    if reach >= comptime!(most - most / 16) {
                        halvings = u32::cast_from(HALVINGS);
                    }
                }
            } else {
                halvings = u32::cast_from(HALVINGS);
            }
        }
        threshold = high;
    }
    let mut kept = 0u32;
    let mut first = 0u32;
    while first < n {
        let i = first + UNIT_POS_X;
        let mut row = 0u32;
        let mut mine = 0u32;
        if i < n {
            row = rows[i as usize];
            mine = u32::cast_from(x[row as usize] >= threshold);
        }
        let (before, all) = before(mine, &mut room);
        if mine == 1u32 {
            if kept + before < most {
                chosen[(CHOSEN_WORDS + kept + before) as usize] = row;
            }
        }
        kept += all;
        first += UNITS;
    }
    if UNIT_POS_X == 0u32 {
        chosen[0] = min(kept, most);
        chosen[1] = u32::reinterpret(threshold);
        chosen[2] = 0u32;
        chosen[3] = 0u32;
    }
}

/// The `wanted[0]` largest of the listed rows, of equals the first, or all if there are fewer. One workgroup.
///
/// `chosen`: how many, three zeros, then for each the bits of its number and its row.
#[cube(launch_unchecked)]
pub fn largest(x: &[f32], wanted: &[u32], counts: &[u32], rows: &[u32], chosen: &mut [u32], #[comptime] spans: u32) {
    let mut room = Shared::<[u32]>::new_slice(UNITS as usize);
    let n = total(counts, &mut room, spans);
    let k = min(n, wanted[0]);
    // The key of the last one.
    let mut last = 0u32;
    let mut bit = 0x8000_0000u32.runtime();
    while bit > 0u32 {
        let tried = last + bit;
        let mut mine = 0u32;
        let mut i = UNIT_POS_X;
        while i < n {
            mine += u32::cast_from(key(x[rows[i as usize] as usize]) >= tried);
            i += UNITS;
        }
        if sum(mine, &mut room) >= k {
            last = tried;
        }
        bit = bit >> 1u32;
    }
    let mut kept = 0u32;
    // First all that are larger, then of those that are equal as many as there is room for.
    #[unroll]
    for pass in 0..2u32 {
        let mut first = 0u32;
        while first < n {
            let i = first + UNIT_POS_X;
            let mut row = 0u32;
            let mut bits = 0u32;
            let mut mine = 0u32;
            if i < n {
                row = rows[i as usize];
                bits = u32::reinterpret(x[row as usize]);
                let key = key(x[row as usize]);
                if comptime!(pass == 0) {
                    mine = u32::cast_from(key > last);
                } else {
                    mine = u32::cast_from(key == last);
                }
            }
            let (before, all) = before(mine, &mut room);
            if mine == 1u32 {
                if kept + before < k {
                    chosen[(CHOSEN_WORDS + 2u32 * (kept + before)) as usize] = bits;
                    chosen[(CHOSEN_WORDS + 2u32 * (kept + before) + 1u32) as usize] = row;
                }
            }
            kept += all;
            first += UNITS;
        }
    }
    if UNIT_POS_X == 0u32 {
        chosen[0] = k;
        chosen[1] = 0u32;
        chosen[2] = 0u32;
        chosen[3] = 0u32;
    }
}
