//! The float models that everything is judged against, as F16 GGUF files that both readers take.
//!
//! `published` is the catalogue's GGUF de-quantized. Its weights lie on a grid that a quantizer could find again, so
//! `dithered` has noise added to each: uniform, half a step of that grid to either side, with a fixed seed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bourn_checkpoint::Dtype;
use bourn_checkpoint::dtype::dequantize;
use half::f16;

use super::gguf::Gguf;
use crate::data;

/// Of the noise.
const SEED: u64 = 0x6265_726e_6521;

/// The names of the kinds.
pub(super) const KINDS: &[&str] = &["dithered", "published"];

/// The model's float weights of that kind in `folder`, made now if they are missing.
pub(super) fn model(name: &str, kind: &str, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("{name}-{kind}-f16.gguf"));
    if !path.exists() {
        let source = Gguf::open(&data::weights(name)?)?;
        let part = path.with_extension("part");
        let mut noise = (kind == "dithered").then_some(Noise(SEED));
        source.write_f16(&part, |i| values(&source, i, noise.as_mut()))?;
        std::fs::rename(part, &path)?;
    }
    Ok(path)
}

/// A matrix de-quantized, with noise where the source has a grid.
fn values(source: &Gguf, i: usize, noise: Option<&mut Noise>) -> Result<Vec<f32>> {
    let tensor = &source.tensors[i];
    let dtype = Dtype::from_ggml(tensor.kind).with_context(|| format!("{}: ggml type {}", tensor.name, tensor.kind))?;
    let mut values = vec![0.0; tensor.len()];
    let bytes = source.bytes(i)?.get(..tensor.len() / dtype.block_len() * dtype.block_bytes());
    let bytes = bytes.with_context(|| format!("{}: truncated", tensor.name))?;
    dequantize(dtype, bytes, &mut values);
    if let Some(noise) = noise {
        let mut steps = [0.0; 256];
        let steps = &mut steps[..dtype.block_len()];
        for (block, values) in bytes.chunks_exact(dtype.block_bytes()).zip(values.chunks_exact_mut(dtype.block_len())) {
            grid(dtype, block, steps);
            values.iter_mut().zip(&*steps).for_each(|(x, step)| *x += step * noise.next());
        }
    }
    Ok(values)
}

/// The distance between neighbouring values of a block's grid, for each of its columns; 0 for floats.
/// Source: ggml-common.h (block layouts), ggml-quants.c.
fn grid(dtype: Dtype, block: &[u8], steps: &mut [f32]) {
    let scale = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32().abs();
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => steps.fill(0.0),
        Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q5_0 | Dtype::Q5_1 | Dtype::Q8_0 => steps.fill(scale(0)),
        Dtype::Q4K | Dtype::Q5K => {
            let packed = &block[4..16];
            for (j, steps) in steps.chunks_mut(32).enumerate() {
                let of_group = if j < 4 { packed[j] & 63 } else { packed[j + 4] & 15 | packed[j - 4] >> 6 << 4 };
                steps.fill(scale(0) * f32::from(of_group));
            }
        }
        Dtype::Q6K => {
            for (steps, &of_group) in steps.chunks_mut(16).zip(&block[192..208]) {
                steps.fill(scale(208) * f32::from(of_group.cast_signed()).abs());
            }
        }
    }
}

/// SplitMix64 as floats in −½…½.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbouring codes of a block differ by the step that `grid` says, in every column.
    #[test]
    fn a_step_is_what_one_more_in_the_code_adds() {
        let two = f16::from_f32(2.0).to_le_bytes();
        let check = |dtype: Dtype, block: &[u8], other: &[u8], columns: &[usize]| {
            let (mut a, mut b, mut steps) =
                (vec![0.0; dtype.block_len()], vec![0.0; dtype.block_len()], vec![0.0; dtype.block_len()]);
            dequantize(dtype, block, &mut a);
            dequantize(dtype, other, &mut b);
            grid(dtype, block, &mut steps);
            for &c in columns {
                assert_eq!((b[c] - a[c]).abs(), steps[c], "{dtype:?} column {c}");
                assert!(steps[c] > 0.0);
            }
        };
        // The first code byte after the head of the block, one more in its low nibble.
        for (dtype, codes_at) in [(Dtype::Q4_0, 2), (Dtype::Q4_1, 4), (Dtype::Q5_0, 6), (Dtype::Q5_1, 8), (Dtype::Q8_0, 2)] {
            let mut block = vec![0; dtype.block_bytes()];
            block[..2].copy_from_slice(&two);
            let mut other = block.clone();
            other[codes_at] += 1;
            check(dtype, &block, &other, &[0]);
        }
        for (dtype, codes_at) in [(Dtype::Q4K, 16), (Dtype::Q5K, 48)] {
            let mut block = vec![0; dtype.block_bytes()];
            block[..2].copy_from_slice(&two);
            block[4..16].copy_from_slice(&[0x41, 0x82, 0xC3, 0x04, 0, 0, 0, 0, 0x05, 0x06, 0x07, 0x08]);
            let mut other = block.clone();
            // Low nibbles are groups 0, 2, 4, 6 and high ones the odd groups, 32 bytes each pair.
            (0..4).for_each(|pair| other[codes_at + 32 * pair] += 0x11);
            check(dtype, &block, &other, &[0, 32, 64, 96, 128, 160, 192, 224]);
        }
        let mut block = vec![0; Dtype::Q6K.block_bytes()];
        block[208..].copy_from_slice(&two);
        (0..16u8).for_each(|i| block[192 + usize::from(i)] = if i % 2 == 0 { i + 1 } else { 0u8.wrapping_sub(i) });
        let mut other = block.clone();
        (0..128).for_each(|i| other[i] += 0x11);
        check(Dtype::Q6K, &block, &other, &(0..256).collect::<Vec<_>>());
    }

    #[test]
    fn noise_fills_half_a_step_to_either_side() {
        let mut noise = Noise(SEED);
        let all: Vec<f32> = (0..10_000).map(|_| noise.next()).collect();
        assert!(all.iter().all(|x| (-0.5..0.5).contains(x)));
        let mean = all.iter().sum::<f32>() / 1e4;
        let square = all.iter().map(|x| x * x).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.01 && (square - 1.0 / 12.0).abs() < 0.003, "{mean} {square}");
    }
}
