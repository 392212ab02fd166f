//! Transfer of rows that are stored in 4 bits already: same scales, same codes, other places.

use bourn_format::Dtype;
use bourn_format::layout::{GROUP, min_offset, nibble_offset, scale_offset};
use half::f16;

/// A row of Q4_0 or Q4_1 blocks: bits of each group's f16 scale and (Q4_1) minimum, a code 0…15 per column.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    pub scales: Vec<u16>,
    pub mins: Vec<u16>,
    pub codes: Vec<u8>,
}

/// Puts one row into its tile: `w = s·t[q]` with the linear table (Q4), `w = s·q + m` with the table 0…15 (Q4M).
/// `Err`: a scale or minimum that is not a number.
pub(crate) fn transfer(dtype: Dtype, blocks: &Blocks, row: usize, out: &mut [u8]) -> Result<(), f32> {
    let mut put = |at: usize, bits: u16| {
        let value = f16::from_bits(bits);
        if !value.is_finite() {
            return Err(value.to_f32());
        }
        out[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        Ok(())
    };
    for (group, scale) in blocks.scales.iter().enumerate() {
        put(scale_offset(dtype, row, group * GROUP), *scale)?;
    }
    if dtype == Dtype::Q4M {
        for (group, min) in blocks.mins.iter().enumerate() {
            put(min_offset(row, group * GROUP), *min)?;
        }
    }
    for (col, code) in blocks.codes.iter().enumerate() {
        let (at, shift) = nibble_offset(dtype, row, col);
        out[at] |= code << shift;
    }
    Ok(())
}
