//! Look-ups by TBL: 16 rows a vector; two looked-up bytes are added in 8 bits, then widened to 16.

use super::NeonLanes;
use crate::generic::screen::{LookUp, TILES};
use core::arch::aarch64::*;

impl LookUp for NeonLanes {
    #[inline(always)]
    fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
        // SAFETY: NEON, as every caller is reached through a tier's token.
        unsafe { sums(tiles, tables) }
    }
}

/// 34 instructions for 4 tiles × 2 codes: 2 loads of tables, then per tile LDR AND USHR TBL TBL ADD UADDW UADDW2.
#[inline]
#[target_feature(enable = "neon")]
fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
    let mut acc = [[vdupq_n_u16(0); 2]; TILES];
    let [a, b, c, d] = tiles;
    for ((((pair, a), b), c), d) in tables.iter().zip(a).zip(b).zip(c).zip(d) {
        let (low, high) = (load16(&pair[0]), load16(&pair[1]));
        for (acc, codes) in acc.iter_mut().zip([a, b, c, d]) {
            let codes = load16(codes);
            let two = vaddq_u8(vqtbl1q_u8(low, vandq_u8(codes, vdupq_n_u8(15))), vqtbl1q_u8(high, vshrq_n_u8::<4>(codes)));
            acc[0] = vaddw_u8(acc[0], vget_low_u8(two));
            acc[1] = vaddw_high_u8(acc[1], two);
        }
    }
    let mut out = [[0; 16]; TILES];
    for (out, acc) in out.iter_mut().zip(acc) {
        for (out, acc) in out.as_chunks_mut::<8>().0.iter_mut().zip(acc) {
            store8(acc, out);
        }
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn store8(v: uint16x8_t, x: &mut [u16; 8]) {
    // SAFETY: 16 writable bytes.
    unsafe { vst1q_u16(x.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load16(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(x.as_ptr()) }
}
