//! Matrices as the image has them (FORMAT.md §4), and what a product does with a group of 32 columns.
//!
//! Activations come in the CPU's int8 form, 16 signed bytes to a vector of four words, and so do weights once they are unpacked: a group is two
//! [`dot`]s of 16 bytes each, whole numbers, exact in any order. Only the sum over groups is rounded, and one unit adds it up in the order of
//! FORMAT.md §4: a GPU whose fused multiply-add is fused gives the CPU's bits.
//!
//! [`dot`]: crate::dot

use super::float::half_of;
use bourn_format::Dtype;
use cubecl_core as cubecl;
use cubecl_core::prelude::*;

/// Words of `params` before the first matrix.
pub const HEADER_WORDS: u32 = 4;
/// Words of `params` for a matrix: first tile, first word, tiles of a part, words from part to part, first row of the output, four
/// words of levels, and zeros.
pub const MATRIX_WORDS: u32 = 12;

/// How a code of 4 bits becomes its level, a signed byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Levels {
    /// By a look into the tensor's table.
    Table,
    /// −8…7, what Q4_0 has: the code in the upper half of a byte is 16 times its level, once its sign is turned.
    Signed,
    /// 0…15, what Q4_1 has: the code is the level.
    Unsigned,
}

impl Levels {
    /// How those of `table` are made.
    pub fn of(table: &[i8; 16]) -> Self {
        let runs_from = |first: i8| table.iter().zip(first..).all(|(&level, i)| level == i);
        match (runs_from(-8), runs_from(0)) {
            (true, _) => Self::Signed,
            (_, true) => Self::Unsigned,
            _ => Self::Table,
        }
    }
}

/// A product's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Type of the matrices.
    pub dtype: Dtype,
    /// Levels, where it has 4 bits.
    pub levels: Levels,
    /// Columns.
    pub cols: u32,
    /// Sets of units that share the columns; of float types 4, as the CPU has four running sums.
    pub splits: u32,
    /// Matrices one after another in the output.
    pub matrices: u32,
    /// Elements between tokens of the output; 0 where there is one token.
    pub stride: u32,
}

impl Spec {
    /// Groups of 32 columns, or columns of a float type.
    pub const fn steps(&self) -> u32 {
        if self.dtype.is_quantized() { self.cols.div_ceil(64) * 2 } else { self.cols }
    }

    /// Words of a tile.
    pub const fn tile_words(&self) -> u32 {
        (bourn_format::layout::tile_bytes(self.dtype, self.cols as usize) / 4) as u32
    }

    /// Words of a block of two groups of 16 rows.
    pub const fn block_words(&self) -> u32 {
        (bourn_format::layout::block_bytes(self.dtype) / 4) as u32
    }

    /// Codes have four bits.
    pub const fn is_four_bits(&self) -> bool {
        matches!(self.dtype, Dtype::Q4 | Dtype::Q4M)
    }

    /// Groups have a minimum.
    pub const fn has_minima(&self) -> bool {
        matches!(self.dtype, Dtype::Q4M)
    }

    /// Levels are looked up.
    pub const fn has_table(&self) -> bool {
        self.is_four_bits() && matches!(self.levels, Levels::Table)
    }

    /// Words of the table in a workgroup's memory: for each byte of a word the 16 levels in their place; 1 where there is none.
    pub const fn table_words(&self) -> usize {
        if self.has_table() { 64 } else { 1 }
    }
}

/// Where the params of the matrix with tile `tile` begin.
#[cube]
pub fn matrix_of(params: &[u32], tile: u32, #[comptime] spec: Spec) -> u32 {
    let mut at = 4u32;
    #[unroll]
    for m in 1..comptime!(spec.matrices) {
        let next = comptime!(HEADER_WORDS + m * MATRIX_WORDS);
        if tile >= params[next as usize] {
            at = u32::cast_from(next);
        }
    }
    at
}

/// The first word of tile `tile`.
#[cube]
pub fn tile_at(params: &[u32], at: u32, tile: u32, #[comptime] spec: Spec) -> u32 {
    let tile = tile - params[at as usize];
    let in_part = params[(at + 2u32) as usize];
    let part = tile / in_part;
    params[(at + 1u32) as usize] + part * params[(at + 3u32) as usize] + (tile - part * in_part) * comptime!(spec.tile_words())
}

/// Fills the table of a workgroup of `units` units. All of them take part.
#[cube]
pub fn fill(table: &mut Shared<[u32]>, params: &[u32], at: u32, #[comptime] units: u32) {
    #[unroll]
    for i in 0..comptime!(64u32.div_ceil(units)) {
        let i = comptime!(i * units) + UNIT_POS_X;
        if i < 64u32 {
            table[i as usize] = level(params, at, i);
        }
    }
    sync_cube();
}

/// Level `i % 16` of the table of 16 signed bytes at `params[at]`, in byte `i / 16` of a word.
#[cube]
fn level(params: &[u32], at: u32, i: u32) -> u32 {
    let word = params[(at + 5u32 + (i % 16u32) / 4u32) as usize];
    ((word >> ((i % 4u32) * 8u32)) & 255u32) << ((i / 16u32) * 8u32)
}

/// The levels of the low halves (`shift` 0) or high halves (4) of the bytes of four words.
#[cube]
pub fn levels_of(
    words: Vector<u32, Const<4>>,
    table: &Shared<[u32]>,
    #[comptime] shift: u32,
    #[comptime] levels: Levels,
) -> Vector<u32, Const<4>> {
    match comptime!(levels) {
        Levels::Unsigned => (words >> Vector::new(shift)) & Vector::new(0x0f0f_0f0fu32),
        Levels::Signed => {
            ((words << Vector::new(comptime!(4 - shift))) & Vector::new(0xf0f0_f0f0u32)) ^ Vector::new(0x8080_8080u32)
        }
        Levels::Table => {
            let mut out = Vector::<u32, Const<4>>::new(0u32);
            #[unroll]
            for p in 0..4usize {
                let word = words.extract(p);
                let mut bytes = table[((word >> shift) & 15u32) as usize];
                #[unroll]
                for j in 1..4u32 {
                    bytes |= table[(((word >> comptime!(8 * j + shift)) & 15u32) + comptime!(16 * j)) as usize];
                }
                out.insert(p, bytes);
            }
            out
        }
    }
}

/// The number that a dot of such bytes stands for.
#[cube]
pub fn number(dot: u32, #[comptime] spec: Spec) -> f32 {
    let number = f32::cast_from(i32::reinterpret(dot));
    if comptime!(spec.is_four_bits() && matches!(spec.levels, Levels::Signed)) { number * 0.0625f32 } else { number }
}

/// The element of a float tile.
#[cube]
pub fn float_at(w: &[u32], base: u32, row: u32, col: u32, #[comptime] spec: Spec) -> f32 {
    match comptime!(spec.dtype) {
        Dtype::F32 => f32::reinterpret(w[(base + col * 16u32 + row) as usize]),
        Dtype::F16 => half_of(w[(base + col * 8u32 + row / 2u32) as usize], row % 2u32),
        _ => f32::reinterpret(((w[(base + col * 8u32 + row / 2u32) as usize] >> ((row % 2u32) * 16u32)) & 0xffffu32) << 16u32),
    }
}
