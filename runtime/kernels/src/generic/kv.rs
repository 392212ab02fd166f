//! Writing the KV cache.

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
    let key = &mut kv.k[((slot / 16) * hd * 16 + slot % 16) * bytes..];
    let value = &mut kv.v[slot * hd * bytes..][..hd * bytes];
    let mut d = 0;
    while d < hd {
        let n = (hd - d).min(16);
        let (k, v) = (L::load_part(&k[d..d + n], 0.0), L::load_part(&v[d..d + n], 0.0));
        let mut ks = [0; 64];
        let mut vs = [0; 64];
        encode(kv.dtype, k, k_factor, &mut ks);
        encode(kv.dtype, v, v_factor, &mut vs);
        value[d * bytes..][..n * bytes].copy_from_slice(&vs[..n * bytes]);
        for i in 0..n {
            key[(d + i) * 16 * bytes..][..bytes].copy_from_slice(&ks[i * bytes..][..bytes]);
        }
        d += n;
    }
}

/// 16 elements to bytes.
#[inline(always)]
fn encode<L: Lanes>(dtype: KvDtype, x: L, factor: f32, out: &mut [u8; 64]) {
    match dtype {
        KvDtype::F32 => {
            let mut f = [0.0; 16];
            x.store(&mut f);
            for (o, f) in out.as_chunks_mut::<4>().0.iter_mut().zip(f) {
                *o = f.to_le_bytes();
            }
        }
        KvDtype::F16 => out[..32].copy_from_slice(&x.to_f16()),
        KvDtype::I8 => {
            if factor != 0.0 {
                let q = x.mul(L::splat(factor)).add(L::splat(ROUNDER)).low_bytes();
                for (o, q) in out.iter_mut().zip(q) {
                    *o = q as u8;
                }
            }
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
