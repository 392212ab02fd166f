//! The way back: weights as floats, straight from the layout's definition (FORMAT.md §4) and no kernel.

use bourn_format::layout::{
    Dtype, GROUP, TILE_ROWS, byte_offset, code_offset, float_index, min_offset, nibble_offset, row_byte_offset, row_bytes,
    scale_offset, tile_bytes,
};
use bourn_format::{Image, Role, Tensor};
use half::{bf16, f16};

/// Row `row` of a tensor (of this part of it) as floats, from the tensor's own bytes; `None` if there is no such row or
/// `bytes` has another length than the tensor.
///
/// `Q4: s·t[q]`, `Q4M: s·t[q] + m` (one rounding), `Q8: s·q`; floats as they are.
pub fn unpack_row(tensor: &Tensor<'_>, bytes: &[u8], row: usize) -> Option<Vec<f32>> {
    if row >= tensor.rows || bytes.len() as u64 != tensor.bytes {
        return None;
    }
    if tensor.role.is_flat() {
        return Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    let size = tile_bytes(tensor.dtype, tensor.cols);
    let tile = &bytes[row / TILE_ROWS * size..][..size];
    let row = row % TILE_ROWS;
    let half_at = |at: usize| u16::from_le_bytes([tile[at], tile[at + 1]]);
    let by_row = &tile[row % TILE_ROWS * row_bytes(tensor.cols).min(tile.len() / TILE_ROWS)..];
    let scale = |col: usize| f16::from_bits(half_at(scale_offset(tensor.dtype, row, col / GROUP * GROUP))).to_f32();
    let level = |col: usize| {
        let (at, shift) = nibble_offset(tensor.dtype, row, col);
        f32::from(tensor.table[usize::from(tile[at] >> shift & 15)])
    };
    let value = |col: usize| match tensor.dtype {
        Dtype::F32 => {
            let at = 4 * float_index(row, col);
            f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]])
        }
        Dtype::F16 => f16::from_bits(half_at(2 * float_index(row, col))).to_f32(),
        Dtype::Bf16 => bf16::from_bits(half_at(2 * float_index(row, col))).to_f32(),
        Dtype::Q8 => scale(col) * f32::from(tile[byte_offset(row, col)] as i8),
        Dtype::Q8R => {
            let s = f16::from_le_bytes([by_row[col / GROUP * 2], by_row[col / GROUP * 2 + 1]]).to_f32();
            s * f32::from(by_row[row_byte_offset(tensor.cols, col)] as i8)
        }
        Dtype::U4 => {
            let (at, shift) = code_offset(row, col);
            f32::from(tile[at] >> shift & 15)
        }
        Dtype::Q4 => scale(col) * level(col),
        Dtype::Q4M => scale(col) * level(col) + f16::from_bits(half_at(min_offset(row, col))).to_f32(),
    };
    Some((0..tensor.cols).map(value).collect())
}

/// Row `row` of a whole matrix or vector of an image in memory: of `role` in `layer`, or of the embedding or head with
/// `layer` `None`, whose parts are looked through. `file` is the whole image.
pub fn unpack_row_of(image: &Image<'_>, file: &[u8], role: Role, layer: Option<usize>, row: usize) -> Option<Vec<f32>> {
    let tensor = match layer {
        Some(layer) if layer < image.n_layers() => image.layer(layer).get(role)?,
        Some(_) => return None,
        None if role == Role::FinalNorm => image.final_norm(),
        None => image.parts(role).find(|t| (t.first_row..t.first_row + t.rows).contains(&row))?,
    };
    let start = usize::try_from(tensor.offset).ok()?;
    let bytes = file.get(start..start.checked_add(usize::try_from(tensor.bytes).ok()?)?)?;
    unpack_row(&tensor, bytes, row - tensor.first_row)
}
