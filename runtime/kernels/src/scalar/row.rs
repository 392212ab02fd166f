//! One row out of a tile: the embedding of a token.

use super::mul_quantized::half_at;
use crate::table::Tiles;
use bourn_format::Dtype;
use bourn_format::layout::{
    GROUP, TILE_ROWS, byte_offset, code_offset, float_index, min_offset, nibble_offset, row_byte_offset, row_bytes, scale_offset,
    tile_bytes,
};
use half::{bf16, f16};

/// `out[c]` = the weight at `(row, c)` of one tile, as f32: a product and for Q4M a sum, rounded one by one.
///
/// # Panics
/// If `tile` is not one tile, `row` not below 16 or `out` not `[cols]`.
pub fn row_f32(tile: &Tiles<'_>, row: usize, out: &mut [f32]) {
    assert!(row < TILE_ROWS && out.len() == tile.cols && tile.bytes.len() == tile_bytes(tile.dtype, tile.cols));
    let b = tile.bytes;
    for (c, out) in out.iter_mut().enumerate() {
        let i = float_index(row, c);
        let scale = |dtype| half_at(b, scale_offset(dtype, row, c), 0);
        let level = |dtype| {
            let (at, shift) = nibble_offset(dtype, row, c);
            f32::from(tile.table[usize::from((b[at] >> shift) & 15)])
        };
        *out = match tile.dtype {
            Dtype::F32 => f32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]]),
            Dtype::F16 => f16::from_le_bytes([b[2 * i], b[2 * i + 1]]).to_f32_const(),
            Dtype::Bf16 => bf16::from_le_bytes([b[2 * i], b[2 * i + 1]]).to_f32_const(),
            Dtype::Q8 => scale(Dtype::Q8) * f32::from(b[byte_offset(row, c)] as i8),
            Dtype::Q8R => {
                let row = &b[row * row_bytes(tile.cols)..];
                half_at(row, 0, c / GROUP) * f32::from(row[row_byte_offset(tile.cols, c)] as i8)
            }
            Dtype::U4 => {
                let (at, shift) = code_offset(row, c);
                f32::from((b[at] >> shift) & 15)
            }
            Dtype::Q4 => scale(Dtype::Q4) * level(Dtype::Q4),
            Dtype::Q4M => scale(Dtype::Q4M) * level(Dtype::Q4M) + half_at(b, min_offset(row, c), 0),
        };
    }
}
