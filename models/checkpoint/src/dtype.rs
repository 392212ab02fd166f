//! How a source stores its elements, and the way back to f32.
//!
//! Each format is blocks of [`Dtype::block_len`] columns; a row is a whole number of blocks. The conversions repeat
//! ggml's `dequantize_row_*` operation by operation, so every value is the same f32.
//!
//! Source: ggml-common.h (block layouts), ggml-quants.c (the reference dequantizers).

/// Element type of a source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Dtype {
    /// By ggml's number of the type.
    pub const fn from_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// The name its makers use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Columns in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// De-quantizes whole blocks: `out.len() / block_len` of them, or as many as `bytes` holds.
pub fn dequantize(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => zip(bytes, out, |b: &[u8; 4], [y]: &mut [f32; 1]| *y = f32::from_le_bytes(*b)),
        Dtype::F16 => zip(bytes, out, |b: &[u8; 2], [y]: &mut [f32; 1]| *y = half(*b)),
        Dtype::Bf16 => {
            zip(bytes, out, |b: &[u8; 2], [y]: &mut [f32; 1]| *y = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
        }
        Dtype::Q4_0 => zip(bytes, out, q4_0),
        Dtype::Q4_1 => zip(bytes, out, q4_1),
        Dtype::Q5_0 => zip(bytes, out, q5_0),
        Dtype::Q5_1 => zip(bytes, out, q5_1),
        Dtype::Q8_0 => zip(bytes, out, q8_0),
        Dtype::Q4K => zip(bytes, out, q4_k),
        Dtype::Q5K => zip(bytes, out, q5_k),
        Dtype::Q6K => zip(bytes, out, q6_k),
    }
}

/// Each block of `B` bytes with its `N` values.
fn zip<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, values) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<N>().0) {
        convert(block, values);
    }
}

/// f16 bits as f32, exactly: the exponent is rebased by a multiplication, which also makes subnormals right. No branch, so
/// that a loop over it becomes vector code.
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits((254 - 15) << 23);
    let special = 0u32.wrapping_sub(u32::from(bits & 0x7C00 == 0x7C00)) & 0x7F80_0000;
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// `y = (q − 8) · d`; low nibbles are the first 16 columns.
fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    for j in 0..16 {
        y[j] = (i32::from(b[2 + j] & 15) - 8) as f32 * d;
        y[j + 16] = (i32::from(b[2 + j] >> 4) - 8) as f32 * d;
    }
}

/// `y = q · d + m`.
fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half([b[0], b[1]]), half([b[2], b[3]]));
    for j in 0..16 {
        y[j] = f32::from(b[4 + j] & 15) * d + m;
        y[j + 16] = f32::from(b[4 + j] >> 4) * d + m;
    }
}

/// The fifth bit of column `j`, in place; bit `j` of the 32.
fn fifth(bits: u32, j: usize) -> u8 {
    ((bits >> j) as u8 & 1) << 4
}

/// `y = (q − 16) · d`; the fifth bits lie apart.
fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    for j in 0..16 {
        y[j] = (i32::from(b[6 + j] & 15 | fifth(high, j)) - 16) as f32 * d;
        y[j + 16] = (i32::from(b[6 + j] >> 4 | fifth(high, j + 16)) - 16) as f32 * d;
    }
}

/// `y = q · d + m`; the fifth bits lie apart.
fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half([b[0], b[1]]), half([b[2], b[3]]));
    let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    for j in 0..16 {
        y[j] = f32::from(b[8 + j] & 15 | fifth(high, j)) * d + m;
        y[j + 16] = f32::from(b[8 + j] >> 4 | fifth(high, j + 16)) * d + m;
    }
}

/// `y = q · d`.
fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    for (y, &q) in y.iter_mut().zip(&b[2..]) {
        *y = f32::from(q as i8) * d;
    }
}

/// Six-bit scale and minimum of sub-block `j` of eight.
fn scale_min(j: usize, s: &[u8; 12]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// The four fields of a Q4_K or Q5_K block: `d`, `dmin`, the packed scales.
fn k_scales(b: &[u8]) -> (f32, f32, [u8; 12]) {
    let mut scales = [0; 12];
    scales.copy_from_slice(&b[4..16]);
    (half([b[0], b[1]]), half([b[2], b[3]]), scales)
}

/// `y = d·scale(j)·q − dmin·min(j)`: eight sub-blocks of 32, two to each 32 bytes of nibbles.
fn q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin, scales) = k_scales(b);
    let (quads, _) = b[16..].as_chunks::<32>();
    for (j, (q, y)) in quads.iter().zip(y.as_chunks_mut::<64>().0).enumerate() {
        let ((s1, m1), (s2, m2)) = (scale_min(2 * j, &scales), scale_min(2 * j + 1, &scales));
        let (d1, m1, d2, m2) = (d * s1, dmin * m1, d * s2, dmin * m2);
        for l in 0..32 {
            y[l] = d1 * f32::from(q[l] & 15) - m1;
            y[l + 32] = d2 * f32::from(q[l] >> 4) - m2;
        }
    }
}

/// As [`q4_k`] with a fifth bit: bit `2j` of byte `l` for sub-block `2j`.
fn q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin, scales) = k_scales(b);
    let mut high = [0; 32];
    high.copy_from_slice(&b[16..48]);
    let (quads, _) = b[48..].as_chunks::<32>();
    for (j, (q, y)) in quads.iter().zip(y.as_chunks_mut::<64>().0).enumerate() {
        let ((s1, m1), (s2, m2)) = (scale_min(2 * j, &scales), scale_min(2 * j + 1, &scales));
        let (d1, m1, d2, m2) = (d * s1, dmin * m1, d * s2, dmin * m2);
        for l in 0..32 {
            y[l] = d1 * f32::from(q[l] & 15 | (high[l] >> (2 * j) & 1) << 4) - m1;
            y[l + 32] = d2 * f32::from(q[l] >> 4 | (high[l] >> (2 * j + 1) & 1) << 4) - m2;
        }
    }
}

/// `y = d·scale(j)·(q − 32)`: sixteen sub-blocks of 16; four low bits, then two high bits, then signed scales, then `d`.
fn q6_k(b: &[u8; 210], y: &mut [f32; 256]) {
    let d = half([b[208], b[209]]);
    for (n, y) in y.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (low, high, scales) = (&b[64 * n..][..64], &b[128 + 32 * n..][..32], &b[192 + 8 * n..][..8]);
        for half in 0..2 {
            let scale = |i: usize| d * f32::from(scales[2 * i + half] as i8);
            let (d1, d2, d3, d4) = (scale(0), scale(1), scale(2), scale(3));
            for l in 16 * half..16 * half + 16 {
                let value = |low: u8, shift: u8| (i32::from(low | (high[l] >> shift & 3) << 4) - 32) as f32;
                y[l] = d1 * value(low[l] & 15, 0);
                y[l + 32] = d2 * value(low[l + 32] & 15, 2);
                y[l + 64] = d3 * value(low[l] >> 4, 4);
                y[l + 96] = d4 * value(low[l + 32] >> 4, 6);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of blocks with every pattern but infinite scales.
    fn blocks(dtype: Dtype, n: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut bytes = Vec::new();
        for _ in 0..n * dtype.block_bytes() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push((state >> 24) as u8);
        }
        let high: &[usize] = match dtype {
            Dtype::F32 => &[3],
            Dtype::F16 | Dtype::Bf16 | Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0 => &[1],
            Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4K | Dtype::Q5K => &[1, 3],
            Dtype::Q6K => &[209],
        };
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            high.iter().for_each(|&i| block[i] &= 0xBB);
        }
        bytes
    }

    /// Of the f32 bits: FNV-1a over words.
    fn checksum(values: &[f32]) -> u64 {
        values.iter().fold(0xCBF2_9CE4_8422_2325, |h, v| (h ^ u64::from(v.to_bits())).wrapping_mul(0x100_0000_01B3))
    }

    #[test]
    fn equals_the_reference_bit_by_bit() {
        // Checksums of what gguf-py's `dequantize` (ggml's own Python package) makes of the same bytes.
        let golden = [
            (Dtype::F32, 0x842AF07EFBFE9837),
            (Dtype::F16, 0xD9129C45BF372825),
            (Dtype::Bf16, 0x8A71555D25C00825),
            (Dtype::Q4_0, 0xD2C7ED4189C91725),
            (Dtype::Q4_1, 0x4C67B0A6EE87D00F),
            (Dtype::Q5_0, 0x71FA8CF75F21C525),
            (Dtype::Q5_1, 0x72937CA172107977),
            (Dtype::Q8_0, 0xE994CCDF2A8D8265),
            (Dtype::Q4K, 0x3E58E049435AFE8D),
            (Dtype::Q5K, 0x1D132968AA8E1FDB),
            (Dtype::Q6K, 0xEF8F4EF5848CD44B),
        ];
        for (dtype, want) in golden {
            let n = 64;
            let mut out = vec![f32::NAN; n * dtype.block_len()];
            dequantize(dtype, &blocks(dtype, n), &mut out);
            assert!(out.iter().all(|v| v.is_finite()), "{dtype:?}");
            assert_eq!(checksum(&out), want, "{dtype:?}");
        }
    }

    #[test]
    fn half_is_exact_for_every_pattern() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, mantissa) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => mantissa * 2f64.powi(-24),
                31 if mantissa == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                e => (1.0 + mantissa / 1024.0) * 2f64.powi(e - 15),
            };
            let value = half(bits.to_le_bytes());
            assert!(f64::from(value.abs()) == magnitude || value.is_nan() && magnitude.is_nan(), "{bits:04x}");
            assert_eq!(value.is_sign_negative(), sign == 1, "{bits:04x}");
        }
    }

    /// 1.0 as f16.
    const ONE: [u8; 2] = [0, 0x3C];
    /// 0.5 as f16.
    const HALF: [u8; 2] = [0, 0x38];

    fn one_block<const N: usize>(dtype: Dtype, bytes: &[u8]) -> [f32; N] {
        assert_eq!((dtype.block_bytes(), dtype.block_len()), (bytes.len(), N));
        let mut out = [f32::NAN; N];
        dequantize(dtype, bytes, &mut out);
        out
    }

    #[test]
    fn unpacks_floats() {
        assert_eq!(one_block(Dtype::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(one_block(Dtype::F16, &[0, 0xC2]), [-3.0]);
        assert_eq!(one_block(Dtype::Bf16, &[0xC0, 0x3F]), [1.5]);
    }

    #[test]
    fn unpacks_q4_0_and_q4_1() {
        let codes: Vec<u8> = (0..16).map(|j| j | (15 - j) << 4).collect();
        let y: [f32; 32] = one_block(Dtype::Q4_0, &[&HALF[..], &codes].concat());
        assert_eq!((y[0], y[15], y[16], y[31]), (-4.0, 3.5, 3.5, -4.0));
        let y: [f32; 32] = one_block(Dtype::Q4_1, &[&HALF[..], &ONE, &codes].concat());
        assert_eq!((y[0], y[15], y[16], y[31]), (1.0, 8.5, 8.5, 1.0));
    }

    #[test]
    fn unpacks_q5_0_q5_1_and_q8_0() {
        let codes = [0x21; 16];
        let high = 0x8000_0001u32.to_le_bytes();
        let y: [f32; 32] = one_block(Dtype::Q5_0, &[&ONE[..], &high, &codes].concat());
        assert_eq!((y[0], y[1], y[16], y[31]), (1.0, -15.0, -14.0, 2.0));
        let y: [f32; 32] = one_block(Dtype::Q5_1, &[&ONE[..], &HALF, &high, &codes].concat());
        assert_eq!((y[0], y[1], y[16], y[31]), (17.5, 1.5, 2.5, 18.5));
        let y: [f32; 32] = one_block(Dtype::Q8_0, &[&HALF[..], &[0x80; 32]].concat());
        assert_eq!(y, [-64.0; 32]);
    }

    #[test]
    fn unpacks_q4_k_and_q5_k() {
        // Scale j + 1 and minimum 33 + j of sub-block j, in six bits each: the upper four share their two top bits' bytes.
        let mut scales = [0u8; 12];
        for j in 0..8u8 {
            let (scale, min) = (j + 1, 33 + j);
            if j < 4 {
                scales[j as usize] |= scale;
                scales[j as usize + 4] |= min;
            } else {
                scales[j as usize + 4] = (scale & 15) | (min & 15) << 4;
                scales[j as usize - 4] |= scale >> 4 << 6;
                scales[j as usize] |= min >> 4 << 6;
            }
        }
        let nibbles = [0x31; 128];
        let y: [f32; 256] = one_block(Dtype::Q4K, &[&ONE[..], &HALF, &scales, &nibbles].concat());
        for j in 0..8 {
            let q = [1.0, 3.0][j % 2];
            let want = (j + 1) as f32 * q - 0.5 * (33 + j) as f32;
            assert_eq!(y[32 * j..32 * (j + 1)], [want; 32], "sub-block {j}");
        }
        let mut high = [0; 32];
        high[5] = 0b1000_0001;
        let y: [f32; 256] = one_block(Dtype::Q5K, &[&ONE[..], &HALF, &scales, &high, &nibbles].concat());
        assert_eq!((y[4], y[5]), (1.0 - 16.5, 17.0 - 16.5));
        assert_eq!((y[32 * 7 + 4], y[32 * 7 + 5]), (8.0 * 3.0 - 20.0, 8.0 * 19.0 - 20.0));
    }

    #[test]
    fn unpacks_q6_k() {
        let scales: Vec<u8> = (0..16u8).map(|j| j.wrapping_sub(8)).collect();
        let mut low = [0u8; 128];
        let mut high = [0u8; 64];
        (low[0], high[0]) = (0x5A, 0b11_10_01_00);
        let y: [f32; 256] = one_block(Dtype::Q6K, &[&low[..], &high, &scales, &ONE].concat());
        // Column 0: low nibble 10, high bits 0; 32: byte 32 (0), 1; 64: high nibble 5, 2; 96: byte 32's high nibble, 3.
        assert_eq!((y[0], y[32], y[64], y[96]), (-8.0 * -22.0, -6.0 * -16.0, -4.0 * 5.0, -2.0 * 16.0));
        assert_eq!((y[16], y[255]), (-7.0 * -32.0, 7.0 * -32.0));
    }
}
