//! Look-ups one by one: the definition.

use super::lanes::Scalar;
use crate::generic::screen::{LookUp, TILES};

impl LookUp for Scalar {
    fn sums(tiles: [&[[u8; 16]]; TILES], tables: &[[[u8; 16]; 2]]) -> [[u16; 16]; TILES] {
        tiles.map(|tile| {
            let mut sums = [0u16; 16];
            for (codes, [low, high]) in tile.iter().zip(tables) {
                for (sum, code) in sums.iter_mut().zip(codes) {
                    let pair = u16::from(low[usize::from(code & 15)]) + u16::from(high[usize::from(code >> 4)]);
                    *sum = sum.wrapping_add(pair);
                }
            }
            sums
        })
    }
}
