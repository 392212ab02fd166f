//! The KV cache and attention.

use crate::inputs::{Floats, Random, assert_same, others, scalar};
use bourn_kernels::{Attend, Block, Kernels, KvDtype, KvView, KvViewMut, available};
use half::f16;

const DTYPES: [KvDtype; 3] = [KvDtype::F32, KvDtype::F16, KvDtype::I8];

/// An owned cache. Slots never written hold garbage, as a ring's do.
#[derive(Clone)]
struct Cache {
    dtype: KvDtype,
    slots: usize,
    head_dim: usize,
    k: Vec<u8>,
    v: Vec<u8>,
    k_scale: Vec<f32>,
    v_scale: Vec<f32>,
}

impl Cache {
    fn new(dtype: KvDtype, slots: usize, head_dim: usize) -> Self {
        let bytes = slots * head_dim * [4, 2, 1][dtype as usize];
        let scales = if dtype == KvDtype::I8 { slots } else { 0 };
        Self {
            dtype,
            slots,
            head_dim,
            k: vec![0xff; bytes],
            v: vec![0xff; bytes],
            k_scale: vec![f32::NAN; scales],
            v_scale: vec![f32::NAN; scales],
        }
    }

    fn store(&mut self, kernels: &Kernels, position: usize, k: &[f32], v: &[f32]) {
        let slot = position % self.slots;
        let Self { dtype, slots, head_dim, .. } = *self;
        let Self { k: keys, v: values, k_scale, v_scale, .. } = self;
        let mut view = KvViewMut { dtype, slots, head_dim, k: keys, v: values, k_scale, v_scale };
        (kernels.kv_store)(&mut view, slot, k, v);
    }

    fn view(&self) -> KvView<'_> {
        let Self { dtype, slots, head_dim, .. } = *self;
        KvView { dtype, slots, head_dim, k: &self.k, v: &self.v, k_scale: &self.k_scale, v_scale: &self.v_scale }
    }
}

/// What a stored vector reads back as.
fn stored(dtype: KvDtype, x: &[f32]) -> Vec<f64> {
    let max = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    x.iter()
        .map(|&x| match dtype {
            KvDtype::F32 => f64::from(x),
            KvDtype::F16 => f64::from(f16::from_f32(x).to_f32()),
            KvDtype::I8 => f64::from((x * (127.0 / max)).round_ties_even()) * f64::from(max / 127.0),
        })
        .collect()
}

struct Case {
    dtype: KvDtype,
    head_dim: usize,
    slots: usize,
    n_heads: usize,
    /// First token of the block and tokens.
    pos: usize,
    n: usize,
    window: usize,
    softcap: f32,
}

/// A case's cache, keys and values by position, queries.
struct Made {
    cache: Cache,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    q: Vec<f32>,
    q_stride: usize,
}

impl Case {
    fn make(&self, seed: u64) -> Made {
        let mut r = Random::new(seed);
        let mut cache = Cache::new(self.dtype, self.slots, self.head_dim);
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for p in 0..self.pos + self.n {
            k.push(r.floats(self.head_dim, 2.0));
            v.push(r.floats(self.head_dim, 2.0));
            cache.store(scalar(), p, &k[p], &v[p]);
        }
        let q_stride = self.n_heads * self.head_dim + 5;
        Made { cache, k, v, q: r.floats(self.n * q_stride, 6.0 / (self.head_dim as f32).sqrt()), q_stride }
    }

    /// Tokens `from..from + n` of the block in one call.
    fn run(&self, kernels: &Kernels, made: &Made, from: usize, n: usize) -> Vec<f32> {
        let width = self.n_heads * self.head_dim;
        let mut out = vec![7.0; n * (width + 1)];
        let attend = Attend {
            q: &made.q[from * made.q_stride..],
            q_stride: made.q_stride,
            n_heads: self.n_heads,
            pos: self.pos + from,
            window: self.window,
            softcap: self.softcap,
        };
        (kernels.attend)(&made.cache.view(), &attend, &mut Block::new(&mut out, n, width + 1, width));
        assert!(out.chunks(width + 1).all(|o| o[width] == 7.0));
        out.chunks(width + 1).flat_map(|o| &o[..width]).copied().collect()
    }

    /// The formula in f64.
    fn reference(&self, made: &Made) -> Vec<f64> {
        let mut out = Vec::new();
        for t in 0..self.n {
            let p = self.pos + t;
            let seen = (p + 1).saturating_sub(self.window)..p + 1;
            for h in 0..self.n_heads {
                let q = &made.q[t * made.q_stride + h * self.head_dim..][..self.head_dim];
                let score = |i: usize| {
                    let k = stored(self.dtype, &made.k[i]);
                    let s: f64 = q.iter().zip(&k).map(|(&q, k)| f64::from(q) * k).sum();
                    let c = f64::from(self.softcap);
                    if c == 0.0 { s } else { c * (s / c).tanh() }
                };
                let scores: Vec<f64> = seen.clone().map(score).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let mut o = vec![0.0; self.head_dim];
                for (s, i) in scores.iter().zip(seen.clone()) {
                    for (o, v) in o.iter_mut().zip(stored(self.dtype, &made.v[i])) {
                        *o += (s - max).exp() / sum * v;
                    }
                }
                out.extend(o);
            }
        }
        out
    }
}

fn cases() -> Vec<Case> {
    let all = usize::MAX;
    let mut cases = Vec::new();
    for dtype in DTYPES {
        for (head_dim, slots, n_heads, pos, n, window, softcap) in [
            (64, 64, 1, 0, 1, all, 0.0),
            (64, 128, 3, 5, 1, all, 0.0),
            (64, 256, 3, 0, 70, all, 0.0),
            (64, 192, 2, 62, 9, all, 0.0),
            (128, 128, 2, 64, 5, all, 50.0),
            (256, 256, 4, 130, 3, 100, 0.0),
            (16, 128, 1, 127, 1, all, 0.0),
            (26, 128, 3, 100, 20, 40, 0.0),
            (26, 128, 5, 60, 7, all, 0.0),
            (2, 64, 7, 10, 4, all, 0.0),
            (48, 128, 2, 33, 4, all, 20.0),
            (112, 64, 1, 3, 4, 2, 0.0),
            (512, 64, 2, 20, 2, all, 0.0),
            // Rings that have gone round, whole or within a run.
            (64, 192, 3, 500, 40, 100, 0.0),
            (32, 128, 2, 1000, 17, 64, 0.0),
            (32, 128, 2, 257, 60, 7, 0.0),
            (40, 64, 1, 129, 1, 64, 0.0),
            (40, 64, 4, 128, 8, 1, 0.0),
        ] {
            cases.push(Case { dtype, head_dim, slots, n_heads, pos, n, window, softcap });
        }
    }
    cases
}

#[test]
fn attention_has_the_bits_of_scalar_and_is_near_the_formula() {
    for (seed, case) in cases().iter().enumerate() {
        let made = case.make(seed as u64);
        let want = case.run(scalar(), &made, 0, case.n);
        let what = format!("attend {:?} head_dim={} pos={} n={}", case.dtype, case.head_dim, case.pos, case.n);
        for k in others() {
            assert_same(k.isa, &what, &case.run(k, &made, 0, case.n), &want);
        }
        for (got, want) in want.iter().zip(case.reference(&made)) {
            assert!((f64::from(*got) - want).abs() <= 2e-5, "{what}: {got} instead of {want}");
        }
    }
}

#[test]
fn a_token_alone_has_the_bits_it_has_in_a_block() {
    for (seed, case) in cases().iter().enumerate() {
        let made = case.make(seed as u64);
        let width = case.n_heads * case.head_dim;
        for k in available() {
            let all = case.run(k, &made, 0, case.n);
            for t in 0..case.n {
                assert_same(k.isa, "a token alone", &case.run(k, &made, t, 1), &all[t * width..][..width]);
            }
            let half = case.n / 2;
            let parts = [case.run(k, &made, 0, half), case.run(k, &made, half, case.n - half)].concat();
            assert_same(k.isa, "two blocks", &parts, &all);
        }
    }
}

#[test]
fn kv_store_has_the_bytes_of_scalar() {
    let mut r = Random::new(21);
    for dtype in DTYPES {
        for head_dim in [2, 16, 26, 64, 100, 256] {
            let mut caches: Vec<_> = available().map(|k| (k, Cache::new(dtype, 128, head_dim))).collect();
            for position in [0, 1, 15, 16, 17, 63, 64, 127] {
                let (mut k, mut v) = (r.floats(head_dim, 100.0), r.floats(head_dim, 1e-3));
                match position {
                    1 => k.fill(0.0),
                    15 => v[1] = 1e30,
                    16 => k[0] = f32::INFINITY,
                    17 => v.fill(1e-40),
                    _ => {}
                }
                for (kernels, cache) in &mut caches {
                    cache.store(kernels, position, &k, &v);
                }
                if position == 0 || position == 127 {
                    let cache = &caches[0].1;
                    let got: Vec<f64> = (0..head_dim).map(|d| value_of(cache, position, d)).collect();
                    assert_eq!(got, stored(dtype, &v));
                }
            }
            let want = caches.pop().expect("scalar is the last").1;
            for (kernels, cache) in caches {
                assert!(cache.k == want.k && cache.v == want.v, "kv_store {dtype:?}/{}", kernels.isa);
                assert_same(kernels.isa, "k_scale", &cache.k_scale, &want.k_scale);
                assert_same(kernels.isa, "v_scale", &cache.v_scale, &want.v_scale);
            }
        }
    }
}

fn value_of(cache: &Cache, slot: usize, d: usize) -> f64 {
    let i = slot * cache.head_dim + d;
    match cache.dtype {
        KvDtype::F32 => f64::from(f32::from_le_bytes([0, 1, 2, 3].map(|b| cache.v[4 * i + b]))),
        KvDtype::F16 => f64::from(f16::from_le_bytes([0, 1].map(|b| cache.v[2 * i + b])).to_f32()),
        KvDtype::I8 => f64::from(cache.v[i] as i8) * f64::from(cache.v_scale[slot]),
    }
}

#[test]
fn scores_that_are_not_finite_do_not_panic() {
    for dtype in DTYPES {
        let case = Case { dtype, head_dim: 32, slots: 64, n_heads: 2, pos: 20, n: 3, window: usize::MAX, softcap: 0.0 };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut made = case.make(3);
            made.q[7] = bad;
            made.k[9][4] = bad;
            made.cache.store(scalar(), 9, &made.k[9], &made.v[9]);
            let want = case.run(scalar(), &made, 0, 3);
            for k in others() {
                assert_same(k.isa, "attend", &case.run(k, &made, 0, 3), &want);
            }
        }
    }
}
