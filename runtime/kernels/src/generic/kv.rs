//! Writing the KV cache.

use super::elem::{F16, F32, I8};
use super::quantize::scale_and_factor;
use crate::lanes::{Lanes, ROUNDER};
use crate::table::{KvDtype, KvViewMut};

/// Bytes of one element.
pub(crate) const fn element_bytes(dtype: KvDtype) -> usize {
    match dtype {
        KvDtype::F32 => 4,
        KvDtype::F16 => 2,
        KvDtype::I8 => 1,
    }
}

/// Stores one position: keys transposed within tiles of 16 slots, values as they are.
#[inline(always)]
pub(crate) fn kv_store<L: Lanes>(kv: &mut KvViewMut<'_>, slot: usize, k: &[f32], v: &[f32]) {
    let (hd, bytes) = (kv.head_dim, element_bytes(kv.dtype));
    assert!(k.len() == hd && v.len() == hd && slot < kv.slots && kv.slots.is_multiple_of(64));
    let need = kv.slots * hd * bytes;
    assert!(kv.k.len() == need && kv.v.len() == need);
    let (mut k_factor, mut v_factor) = (1.0, 1.0);
    if kv.dtype == KvDtype::I8 {
        assert!(kv.k_scale.len() == kv.slots && kv.v_scale.len() == kv.slots);
        (kv.k_scale[slot], k_factor) = scale::<L>(k);
        (kv.v_scale[slot], v_factor) = scale::<L>(v);
    }
    match kv.dtype {
        KvDtype::F32 => store::<L, F32, 4>(kv, slot, (k, k_factor), (v, v_factor)),
        KvDtype::F16 => store::<L, F16, 2>(kv, slot, (k, k_factor), (v, v_factor)),
        KvDtype::I8 => store::<L, I8, 1>(kv, slot, (k, k_factor), (v, v_factor)),
    }
}

/// 16 numbers, multiplied by a factor if the type has one, to elements of `B` bytes.
trait Encode<const B: usize> {
    fn encode<L: Lanes>(x: L, factor: f32) -> [[u8; B]; 16];
}

impl Encode<4> for F32 {
    #[inline(always)]
    fn encode<L: Lanes>(x: L, _: f32) -> [[u8; 4]; 16] {
        let mut f = [0.0; 16];
        x.store(&mut f);
        f.map(f32::to_le_bytes)
    }
}

impl Encode<2> for F16 {
    #[inline(always)]
    fn encode<L: Lanes>(x: L, _: f32) -> [[u8; 2]; 16] {
        let mut out = [[0; 2]; 16];
        out.copy_from_slice(x.to_f16().as_chunks().0);
        out
    }
}

impl Encode<1> for I8 {
    #[inline(always)]
    fn encode<L: Lanes>(x: L, factor: f32) -> [[u8; 1]; 16] {
        if factor == 0.0 {
            return [[0]; 16];
        }
        x.mul(L::splat(factor)).add(L::splat(ROUNDER)).low_bytes().map(|q| [q as u8])
    }
}

/// [`kv_store`] for elements of `B` bytes.
#[inline(always)]
fn store<L: Lanes, E: Encode<B>, const B: usize>(
    kv: &mut KvViewMut<'_>,
    slot: usize,
    (k, k_factor): (&[f32], f32),
    (v, v_factor): (&[f32], f32),
) {
    let hd = kv.head_dim;
    let (keys, _) = kv.k[slot / 16 * hd * 16 * B..][..hd * 16 * B].as_chunks_mut::<B>();
    let (values, _) = kv.v[slot * hd * B..][..hd * B].as_chunks_mut::<B>();
    let columns = keys.chunks_exact_mut(16 * 16);
    let full = hd / 16 * 16;
    let parts = k.as_chunks::<16>().0.iter().zip(v.as_chunks::<16>().0).zip(values.as_chunks_mut::<16>().0);
    for (((k, v), value), columns) in parts.zip(columns) {
        let k = E::encode::<L>(L::load(k), k_factor);
        *value = E::encode::<L>(L::load(v), v_factor);
        for (column, k) in columns.as_chunks_mut::<16>().0.iter_mut().zip(k) {
            column[slot % 16] = k;
        }
    }
    if full < hd {
        let k = E::encode::<L>(L::load_part(&k[full..], 0.0), k_factor);
        let v = E::encode::<L>(L::load_part(&v[full..], 0.0), v_factor);
        for i in 0..hd - full {
            values[full + i] = v[i];
            keys[(full + i) * 16 + slot % 16] = k[i];
        }
    }
}

/// Scale and factor of a whole vector.
#[inline(always)]
fn scale<L: Lanes>(x: &[f32]) -> (f32, f32) {
    let zero = L::splat(0.0);
    let (mut max, mut poison) = (zero, zero);
    let (xs, tail) = x.as_chunks::<16>();
    for x in xs {
        let x = L::load(x);
        max = x.abs().max(max);
        poison = x.fma(zero, poison);
    }
    let x = L::load_part(tail, 0.0);
    max = x.abs().max(max);
    poison = x.fma(zero, poison);
    scale_and_factor(max.reduce_max(), poison.reduce_add())
}
