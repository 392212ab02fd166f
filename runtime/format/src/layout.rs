//! How a matrix lies in the image: tiles of 16 rows, blocks of 64 columns, groups of 32 (FORMAT.md §4).
//!
//! A matrix `[rows, cols]` is a sequence of tiles of [`TILE_ROWS`] rows (the last one padded with rows of zeros).
//! Quantized tiles are sequences of blocks of [`BLOCK_COLS`] columns (the last one padded: scale 0, code 0), a block is two groups:
//!
//! ```text
//! Q4   576 B = scale f16 [2 groups][16 rows] · codes [2 groups][4 p][16 rows][4 j]
//! Q4M  640 B = scale f16 [2][16] · min f16 [2][16] · codes as Q4
//! Q8  1088 B = scale f16 [2][16] · codes i8 [2 groups][8 p][16 rows][4 j]
//! ```
//!
//! In Q4 and Q4M the byte `(group, p, row, j)` holds column `32·group + 4p + j` in its low and column
//! `32·group + 16 + 4p + j` in its high nibble; in Q8 the byte `(group, p, row, j)` is column `32·group + 4p + j`.
//! So 4 consecutive columns of one row are one 32-bit word: what SDOT and VPDPBUSD multiply at once; 16 bytes are four
//! rows (NEON), 32 eight (AVX2), 64 sixteen (AVX-512), and a GPU lane is a row.
//! Q8R is Q8 row after row: scales f16 `[groups]`, codes i8 `[padded cols]`, padded to 64 bytes; a tile is 16 such rows. U4 tiles
//! are `[cols/2][16 rows]` bytes, the even column in the low nibble.
//! Float tiles are `[cols][16 rows]` elements, columns not padded. Flat tensors (norms, biases) are plain f32.
//!
//! The value of a weight: Q4 `s·t[q]`, Q4M `s·t[q] + m`, Q8 and Q8R `s·q`, with `t` the tensor's table of 16 levels
//! within ±[`MAX_LEVEL`].

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns that share a scale.
pub const GROUP: usize = 32;
/// Columns of a block: two groups, so that every block is a whole number of 64-byte cache lines.
pub const BLOCK_COLS: usize = 64;
/// Largest absolute value of a level: eight products with an int8 activation then fit 16 bits (31·127·8 = 31 496).
pub const MAX_LEVEL: i8 = 31;
/// The linear table: what Q4_0 checkpoints are made of.
pub const LINEAR: [i8; 16] = [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Dtype {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// The upper half of binary32.
    Bf16 = 2,
    /// Groups of 32 signed bytes with one f16 scale: 8.5 bits per weight.
    Q8 = 3,
    /// Groups of 32 4-bit codes with one f16 scale and the tensor's level table: 4.5 bits per weight.
    Q4 = 4,
    /// As Q4 with one f16 minimum per group: 5 bits per weight.
    Q4M = 5,
    /// As Q8, row after row: a row can be read alone (version 2).
    Q8R = 6,
    /// Codes 0…15 without scale: the screened head's (version 2).
    U4 = 7,
}

impl Dtype {
    /// The type of a stored code, if there is one.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Bf16,
            3 => Self::Q8,
            4 => Self::Q4,
            5 => Self::Q4M,
            6 => Self::Q8R,
            7 => Self::U4,
            _ => return None,
        })
    }

    /// The name on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::Q4M => "q4m",
            Self::Q8R => "q8r",
            Self::U4 => "u4",
        }
    }

    /// Whether the kernels for it take int8 activations.
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4 | Self::Q4M | Self::Q8R)
    }

    /// The version of the format that brought it.
    pub const fn version(self) -> u32 {
        if matches!(self, Self::Q8R | Self::U4) { 2 } else { 1 }
    }
}

/// Tiles of a matrix with `rows` rows.
pub const fn n_tiles(rows: usize) -> usize {
    rows.div_ceil(TILE_ROWS)
}

/// Columns rounded up to whole blocks: the length of a quantized activation vector.
pub const fn padded_cols(cols: usize) -> usize {
    cols.div_ceil(BLOCK_COLS) * BLOCK_COLS
}

/// Rows rounded up to whole tiles: the length of an output vector.
pub const fn padded_rows(rows: usize) -> usize {
    n_tiles(rows) * TILE_ROWS
}

/// Bytes of a row of a Q8R matrix with `cols` columns: f16 scales, one per group, then signed bytes, padded to a cache line.
pub const fn row_bytes(cols: usize) -> usize {
    let padded = padded_cols(cols);
    (padded / GROUP * 2 + padded).next_multiple_of(64)
}

/// Byte offset, within a row of a Q8R matrix with `cols` columns, of the signed byte of `col`; scale of group `g`: `2·g`.
pub const fn row_byte_offset(cols: usize, col: usize) -> usize {
    padded_cols(cols) / GROUP * 2 + col
}

/// Byte offset within a tile and bit shift (0 or 4) of the code of `(row, col)` in a U4 matrix.
pub const fn code_offset(row: usize, col: usize) -> (usize, u32) {
    (col / 2 * TILE_ROWS + row, if col.is_multiple_of(2) { 0 } else { 4 })
}

/// Bytes of one block of a tiled quantized type (64 columns × 16 rows); of one column (× 16 rows) of a float type; of two
/// columns (× 16 rows) of U4. Q8R has no blocks: 64 columns of 16 rows without their scales.
pub const fn block_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 64,
        Dtype::F16 | Dtype::Bf16 => 32,
        Dtype::Q8 => 1088,
        Dtype::Q4 => 576,
        Dtype::Q4M => 640,
        Dtype::Q8R => 1024,
        Dtype::U4 => 16,
    }
}

/// Bytes of one tile of a matrix with `cols` columns.
pub const fn tile_bytes(dtype: Dtype, cols: usize) -> usize {
    match dtype {
        Dtype::Q8R => TILE_ROWS * row_bytes(cols),
        Dtype::U4 => cols.div_ceil(2) * block_bytes(dtype),
        _ if dtype.is_quantized() => cols.div_ceil(BLOCK_COLS) * block_bytes(dtype),
        _ => cols * block_bytes(dtype),
    }
}

/// Bytes of a tiled matrix.
pub const fn matrix_bytes(dtype: Dtype, rows: usize, cols: usize) -> usize {
    n_tiles(rows) * tile_bytes(dtype, cols)
}

/// Byte offset, within a tile of a quantized matrix, of the f16 scale of `row` (0..16) for the group that holds `col`.
pub const fn scale_offset(dtype: Dtype, row: usize, col: usize) -> usize {
    (col / BLOCK_COLS) * block_bytes(dtype) + ((col % BLOCK_COLS) / GROUP) * 32 + row * 2
}

/// Byte offset, within a tile of a Q4M matrix, of the f16 minimum of `row` for the group that holds `col`.
pub const fn min_offset(row: usize, col: usize) -> usize {
    scale_offset(Dtype::Q4M, row, col) + 64
}

/// Byte offset within a tile and bit shift (0 or 4) of the 4-bit code of `(row, col)` in a Q4 or Q4M matrix.
pub const fn nibble_offset(dtype: Dtype, row: usize, col: usize) -> (usize, u32) {
    let header = if matches!(dtype, Dtype::Q4M) { 128 } else { 64 };
    let in_group = col % GROUP;
    let word = in_group % 16;
    let byte = (col / BLOCK_COLS) * block_bytes(dtype)
        + header
        + ((col % BLOCK_COLS) / GROUP) * 256
        + (word / 4) * 64
        + row * 4
        + word % 4;
    (byte, if in_group < 16 { 0 } else { 4 })
}

/// Byte offset within a tile of the signed byte of `(row, col)` in a Q8 matrix.
pub const fn byte_offset(row: usize, col: usize) -> usize {
    (col / BLOCK_COLS) * block_bytes(Dtype::Q8)
        + 64
        + ((col % BLOCK_COLS) / GROUP) * 512
        + ((col % GROUP) / 4) * 64
        + row * 4
        + col % 4
}

/// Element index (not bytes) within a tile of a float matrix.
pub const fn float_index(row: usize, col: usize) -> usize {
    col * TILE_ROWS + row
}
