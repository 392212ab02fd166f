//! Everything on single vectors.

use crate::inputs::{Activations, Floats, Random, assert_same, others, scalar};
use bourn_kernels::{Kernels, available};

const LENGTHS: [usize; 16] = [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 127, 576, 1000];

/// Numbers that break things.
const NASTY: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    88.3,
    88.8,
    -87.0,
    -87.1,
    -103.9,
    1e-30,
];

fn le(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Runs `f` on every tier with ordinary and nasty inputs of every length.
fn same_everywhere(what: &str, f: impl Fn(&Kernels, &[f32], &[f32]) -> Vec<f32>) {
    let mut r = Random::new(11);
    for n in LENGTHS {
        for scale in [1e-6, 1.0, 20.0, 1e4] {
            let (a, b) = (r.floats(n, scale), r.floats(n, 2.0));
            let want = f(scalar(), &a, &b);
            others().for_each(|k| assert_same(k.isa, what, &f(k, &a, &b), &want));
        }
        let a: Vec<_> = (0..n).map(|_| NASTY[r.next() as usize % NASTY.len()]).collect();
        let b: Vec<_> = (0..n).map(|_| NASTY[r.next() as usize % NASTY.len()]).collect();
        let want = f(scalar(), &a, &b);
        others().for_each(|k| assert_same(k.isa, what, &f(k, &a, &b), &want));
        for nasty in NASTY {
            let mut a = r.floats(n, 1.0);
            a[r.next() as usize % n] = nasty;
            let want = f(scalar(), &a, &b);
            others().for_each(|k| assert_same(k.isa, what, &f(k, &a, &b), &want));
        }
    }
}

#[test]
fn rms_norm_has_the_bits_of_scalar() {
    same_everywhere("rms_norm", |k, x, w| {
        let mut y = vec![7.0; 2 * x.len()];
        let (y0, y1) = y.split_at_mut(x.len());
        (k.rms_norm)(x, &le(w), 1e-6, y0);
        (k.rms_norm)(x, &[], 1e-5, y1);
        y
    });
}

#[test]
fn pointwise_kernels_have_the_bits_of_scalar() {
    for (what, f) in [("add", 0), ("silu_mul", 1), ("gelu_mul", 2), ("softcap", 3)] {
        same_everywhere(what, |k, a, b| {
            let mut y = a.to_vec();
            match f {
                0 => (k.add)(&mut y, b),
                1 => (k.silu_mul)(&mut y, b),
                2 => (k.gelu_mul)(&mut y, b),
                _ => (k.softcap)(&mut y, 30.0),
            }
            y
        });
    }
}

#[test]
fn rope_has_the_bits_of_scalar() {
    let mut r = Random::new(12);
    for (head_dim, n) in [(2, 1), (26, 13), (32, 16), (64, 32), (64, 16), (80, 20), (96, 48), (128, 64), (256, 128), (10, 0)] {
        let (x, cos, sin) = (r.floats(3 * head_dim, 1.0), r.floats(n, 1.0), r.floats(n, 1.0));
        let run = |k: &Kernels| {
            let mut y = x.clone();
            (k.rope)(&mut y, head_dim, &cos, &sin, 0.125);
            y
        };
        let want = run(scalar());
        for k in others() {
            assert_same(k.isa, "rope", &run(k), &want);
        }
        for (y, x) in want.chunks(head_dim).zip(x.chunks(head_dim)) {
            for i in 0..n {
                let (a, b) = (x[i] * cos[i] - x[n + i] * sin[i], x[n + i] * cos[i] + x[i] * sin[i]);
                assert_eq!((y[i], y[n + i]), (a * 0.125, b * 0.125));
            }
            assert!((2 * n..head_dim).all(|i| y[i] == x[i] * 0.125));
        }
    }
}

#[test]
fn quantize_has_the_bits_of_scalar() {
    same_everywhere("quantize", |k, x, _| {
        let a = Activations::quantize(k, x, x.len());
        let q = a.q.iter().map(|&q| f32::from(q));
        q.chain(a.scale.iter().copied()).chain(a.sum.iter().map(|&s| s as f32)).collect()
    });
}

#[test]
fn quantize_is_the_formula() {
    let mut r = Random::new(13);
    for n in LENGTHS {
        let x = r.floats(n, 3.0);
        for k in available() {
            let a = Activations::quantize(k, &x, n);
            assert!(a.q[n..].iter().all(|&q| q == 0));
            for (g, x) in x.chunks(32).enumerate() {
                let max = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                assert_eq!(a.scale[g], max / 127.0);
                for (i, x) in x.iter().enumerate() {
                    assert_eq!(f32::from(a.q[g * 32 + i]), (x * (127.0 / max)).round_ties_even());
                }
                let sum: i32 = a.q[g * 32..][..32].iter().map(|&q| i32::from(q)).sum();
                assert_eq!(a.sum[g], sum);
            }
        }
    }
}

#[test]
fn a_group_that_is_not_finite_shows() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 5, 31] {
            let mut x = [1.0; 64];
            x[at] = bad;
            for k in available() {
                let a = Activations::quantize(k, &x, 64);
                assert!(a.scale[0].is_nan() && a.scale[1] == 1.0 / 127.0 && a.sum == [0, 32 * 127]);
                assert!(a.q[..32].iter().all(|&q| q == 0));
            }
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals_and_never_nan() {
    let mut r = Random::new(14);
    for k in available() {
        assert_eq!((k.argmax)(&[]), 0);
        assert_eq!((k.argmax)(&[f32::NAN; 40]), 0);
        assert_eq!((k.argmax)(&[f32::NEG_INFINITY; 40]), 0);
        assert_eq!((k.argmax)(&[f32::NAN, f32::NEG_INFINITY, f32::NAN]), 1);
        for n in LENGTHS.into_iter().chain([255, 256, 257, 5000]) {
            let mut x: Vec<f32> = r.floats(n, 1.0).iter().map(|x| (x * 8.0).round()).collect();
            x[r.next() as usize % n] = f32::NAN;
            let mut want = None::<usize>;
            for (i, v) in x.iter().enumerate() {
                if !v.is_nan() && want.is_none_or(|w| *v > x[w]) {
                    want = Some(i);
                }
            }
            assert_eq!((k.argmax)(&x), want.unwrap_or(0), "{} n={n}", k.isa);
        }
    }
}

#[test]
fn count_at_least_counts_equals_and_never_nan() {
    let mut r = Random::new(16);
    for k in available() {
        assert_eq!((k.count_at_least)(&[], 0.0), 0);
        for n in LENGTHS.into_iter().chain([255, 256, 257, 5000]) {
            let mut x: Vec<f32> = r.floats(n, 1.0).iter().map(|x| (x * 8.0).round()).collect();
            x[r.next() as usize % n] = f32::NAN;
            for threshold in [f32::NEG_INFINITY, -3.0, 0.0, 2.5, f32::INFINITY, f32::NAN] {
                let want = x.iter().filter(|&&x| x >= threshold).count();
                assert_eq!((k.count_at_least)(&x, threshold), want, "{} n={n} {threshold}", k.isa);
            }
        }
    }
}

#[test]
fn max_sum_exp_has_the_bits_of_scalar() {
    same_everywhere("max_sum_exp", |k, x, _| {
        let (max, sum) = (k.max_sum_exp)(x);
        vec![max, sum]
    });
    let x = Random::new(15).floats(5000, 9.0);
    let (max, sum) = (scalar().max_sum_exp)(&x);
    let want: f64 = x.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
    assert!((f64::from(sum) / want - 1.0).abs() < 1e-5);
    assert_eq!(max, x.iter().copied().fold(f32::MIN, f32::max));
}

/// `f(x)` of scalar on one number.
fn at(f: fn(&mut [f32], &[f32]), x: f32) -> f64 {
    let mut y = [x];
    f(&mut y, &[1.0]);
    f64::from(y[0])
}

#[test]
fn activations_are_near_the_formula() {
    let k = scalar();
    for i in -12_000..=12_000 {
        let x = i as f32 * 1e-3;
        let d = f64::from(x);
        let near = |y: f64, want: f64, slack: f64| assert!((y - want).abs() <= slack, "f({x}) is {y}, should be {want}");
        let silu = d / (1.0 + (-d).exp());
        near(at(k.silu_mul, x), silu, 1e-6 * silu.abs() + 1e-7);
        let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044_715 * d * d * d);
        let gelu = 0.5 * d * (1.0 + u.tanh());
        near(at(k.gelu_mul, x), gelu, 1e-6 * gelu.abs() + 1e-7 + 1e-6 * d.abs() * (-u.abs()).exp() * u.abs());
        let mut y = [x];
        (k.softcap)(&mut y, 5.0);
        near(f64::from(y[0]), 5.0 * (d / 5.0).tanh(), 2e-6);
    }
    for (x, silu) in [(f32::NEG_INFINITY, None), (-1e30, None), (-100.0, Some(0.0)), (100.0, Some(100.0)), (1e30, Some(1e30))] {
        for k in available() {
            let y = at(k.silu_mul, x);
            assert!(!y.is_nan() && silu.is_none_or(|want: f64| (y - want).abs() <= 1e-6 * want + 1e-20), "silu({x}) is {y}");
        }
    }
}

#[test]
fn rms_norm_is_near_the_formula() {
    let mut r = Random::new(16);
    for n in LENGTHS {
        let (x, w) = (r.floats(n, 3.0), r.floats(n, 2.0));
        let mut y = vec![0.0; n];
        (scalar().rms_norm)(&x, &le(&w), 1e-6, &mut y);
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
        for i in 0..n {
            let want = f64::from(x[i]) / (mean + 1e-6).sqrt() * f64::from(w[i]);
            assert!((f64::from(y[i]) - want).abs() <= 2e-6 * want.abs());
        }
    }
}
