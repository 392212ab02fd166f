//! Float tiles: `[cols][16 rows]` elements, rounded to nearest even.

use super::{DoesNotFit, Loss};
use bourn_format::layout::float_index;
use half::{bf16, f16};

pub(super) fn f32_tile(x: &[f32], cols: usize, out: &mut [u8]) -> Loss {
    let mut energy = 0.0;
    for (row, values) in x.chunks_exact(cols).enumerate() {
        for (col, v) in values.iter().enumerate() {
            let at = 4 * float_index(row, col);
            out[at..at + 4].copy_from_slice(&v.to_le_bytes());
            energy += f64::from(*v) * f64::from(*v);
        }
    }
    Loss { energy, ..Loss::default() }
}

pub(super) fn f16_tile(x: &[f32], cols: usize, out: &mut [u8]) -> Result<Loss, DoesNotFit> {
    half_tile(x, cols, out, |v| {
        let h = f16::from_f32(v);
        (v.abs() <= 65504.0).then_some((h.to_bits(), h.to_f32()))
    })
}

pub(super) fn bf16_tile(x: &[f32], cols: usize, out: &mut [u8]) -> Result<Loss, DoesNotFit> {
    half_tile(x, cols, out, |v| {
        let h = bf16::from_f32(v);
        h.is_finite().then_some((h.to_bits(), h.to_f32()))
    })
}

fn half_tile(x: &[f32], cols: usize, out: &mut [u8], round: impl Fn(f32) -> Option<(u16, f32)>) -> Result<Loss, DoesNotFit> {
    let mut loss = Loss::default();
    for (row, values) in x.chunks_exact(cols).enumerate() {
        for (col, &v) in values.iter().enumerate() {
            let (bits, value) = round(v).ok_or(DoesNotFit { row, found: v })?;
            let at = 2 * float_index(row, col);
            out[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            let error = f64::from(v) - f64::from(value);
            loss.add(Loss { error: error * error, energy: f64::from(v) * f64::from(v), ..Loss::default() });
        }
    }
    Ok(loss)
}
