//! Q8 and Q8R: `w ≈ s·q`, `s = f16(max|w| / 127)`, `q = round-half-even(w / s)` with the rounded `s`, within ±127.

use super::{DoesNotFit, Loss, group_of, max_abs, sum_of};
use bourn_format::Dtype;
use bourn_format::layout::{GROUP, byte_offset, row_byte_offset, row_bytes, scale_offset};
use half::f16;

/// Adding and taking away 1.5 · 2²³ rounds to the nearest integer, halves to even, exactly for |v| < 2²².
const ROUND: f32 = 12_582_912.0;

/// A tile of Q8, or the same values row after row (Q8R).
pub(super) fn tile(dtype: Dtype, x: &[f32], cols: usize, out: &mut [u8]) -> Result<Loss, DoesNotFit> {
    let mut loss = Loss::default();
    for (row, values) in x.chunks_exact(cols).enumerate() {
        for group in 0..cols.div_ceil(GROUP) {
            let x = group_of(values, group);
            let scale = scale_for(max_abs(&x)).ok_or_else(|| DoesNotFit { row, found: max_abs(&x) })?;
            let s = scale.to_f32();
            if s == 0.0 {
                let energy = f64::from(sum_of(|i| x[i] * x[i]));
                loss.add(Loss { error: energy, energy, ..Loss::default() });
                continue;
            }
            let q = x.map(|v| ((v / s + ROUND) - ROUND).clamp(-127.0, 127.0));
            loss.add(Loss {
                error: f64::from(sum_of(|i| (x[i] - s * q[i]) * (x[i] - s * q[i]))),
                energy: f64::from(sum_of(|i| x[i] * x[i])),
                ..Loss::default()
            });
            let by_rows = dtype == Dtype::Q8R;
            let start = row * row_bytes(cols);
            let at = if by_rows { start + 2 * group } else { scale_offset(Dtype::Q8, row, group * GROUP) };
            out[at..at + 2].copy_from_slice(&scale.to_bits().to_le_bytes());
            for (p, word) in q.as_chunks::<4>().0.iter().enumerate() {
                let col = group * GROUP + 4 * p;
                let at = if by_rows { start + row_byte_offset(cols, col) } else { byte_offset(row, col) };
                out[at..at + 4].copy_from_slice(&word.map(|v| v as i8 as u8));
            }
        }
    }
    Ok(loss)
}

/// The f16 nearest to `max / 127`; where f16 is coarse (below 2⁻¹⁴) the next one up if the largest code would be clipped.
/// `None` if f16 has no such number.
fn scale_for(max: f32) -> Option<f16> {
    let mut scale = f16::from_f32(max / 127.0);
    if max > scale.to_f32() * 127.5 {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    scale.is_finite().then_some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bourn_format::layout::tile_bytes;

    #[test]
    fn keeps_integers_times_a_power_of_two() {
        let x: Vec<f32> = (0..96).map(|i| if i % 32 == 0 { 127.0 } else { f32::from(i as i8) - 64.0 } * 0.125).collect();
        let mut out = vec![0; tile_bytes(Dtype::Q8, 96)];
        assert_eq!(tile(Dtype::Q8, &x, 96, &mut out).unwrap().error, 0.0);
        for (col, v) in x.iter().enumerate() {
            assert_eq!(f32::from(out[byte_offset(0, col)] as i8) * 0.125, *v, "column {col}");
        }
    }

    #[test]
    fn tiny_groups_are_not_clipped() {
        for max in [1e-9f32, 3e-8, 6e-8, 7e-6, 1.1e-5, 1e-4] {
            let scale = scale_for(max).unwrap().to_f32();
            assert!(max <= 127.5 * scale || scale == 0.0, "{max} {scale}");
        }
        assert_eq!(scale_for(0.0).unwrap().to_bits(), 0);
        assert!(scale_for(1e7).is_none());
    }

    #[test]
    fn rounds_halves_to_even() {
        let x = [127.0f32, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.49];
        let mut out = vec![0; tile_bytes(Dtype::Q8, 8)];
        tile(Dtype::Q8, &x, 8, &mut out).unwrap();
        let q: Vec<i8> = (0..8).map(|col| out[byte_offset(0, col)] as i8).collect();
        assert_eq!(q, [127, 0, 2, 2, 0, -2, -2, 3]);
    }
}
