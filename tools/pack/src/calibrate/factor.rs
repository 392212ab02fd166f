//! What the error of one weight should do to the next: `H = U·D·Uᵀ` with a unit upper triangular `U`.
//!
//! A row `w` and its quantized `ŵ` cost `(w − ŵ)·H·(w − ŵ)ᵀ = Σ_k D_k·η_k²` with `η_k = e_k + Σ_{j<k} e_j·U[j][k]`, `e = w − ŵ`: so
//! each column is rounded to what makes good the errors of all before it (LDLQ, which is GPTQ).
//! Source: Frantar et al., "GPTQ" (2022); Chee et al., "QuIP" (2023), theorem 6.

use super::moments::{Moments, shared, spans};

/// What is added to the diagonal, as a part of its mean: moments of few tokens are not trusted to the last digit.
const DAMP: f64 = 0.01;
/// Columns that are eliminated together.
const PANEL: usize = 32;

/// The factor of one span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// First column.
    pub start: usize,
    /// Columns, whole groups.
    pub len: usize,
    /// Column `k` of `U` above the diagonal is `unit[k·len..][..k]`; the rest is 0.
    pub unit: Vec<f32>,
    /// `D`: cost of a squared error of column `k` when what is made good later is taken off.
    pub cost: Vec<f32>,
}

/// The factor of the moments of one product.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    pub spans: Vec<Span>,
}

/// The factors of several products, on `threads` threads.
pub(crate) fn factors(moments: &[Moments], threads: usize) -> Vec<Factor> {
    let jobs: Vec<(usize, usize)> =
        moments.iter().enumerate().flat_map(|(m, moments)| (0..spans(moments.cols()).len()).map(move |s| (m, s))).collect();
    let done = shared(&jobs, threads, |&(m, s)| factor(&moments[m], s));
    let mut factors: Vec<Factor> = moments.iter().map(|_| Factor { spans: Vec::new() }).collect();
    for ((m, _), span) in jobs.iter().zip(done) {
        factors[*m].spans.push(span);
    }
    factors
}

/// The factor of a span: columns are eliminated from the last to the first.
fn factor(moments: &Moments, span: usize) -> Span {
    let range = &spans(moments.cols())[span];
    let n = range.len();
    let diagonal = moments.diagonal(span);
    let mean = diagonal.iter().sum::<f64>() / n as f64;
    let damp = if mean > 0.0 { DAMP * mean } else { 1.0 };
    // Row c holds H[j][c] for j up to c.
    let mut h: Vec<Vec<f64>> = (0..n).map(|c| (0..=c).map(|j| moments.at(span, j, c)).collect()).collect();
    h.iter_mut().for_each(|row| *row.last_mut().unwrap_or(&mut 0.0) += damp);
    let mut cost = vec![0.0f32; n];
    let mut end = n;
    while end > 0 {
        let first = end.saturating_sub(PANEL);
        let (left, panel) = h[..end].split_at_mut(first);
        // Within the panel, then the panel's columns from all to the left of it.
        for k in (0..panel.len()).rev() {
            let (before, rest) = panel.split_at_mut(k);
            let column = &mut rest[0];
            // Never below what was added: rounding must not make it negative.
            let d = column[first + k].max(damp);
            cost[first + k] = d as f32;
            let scaled: Vec<f64> = column.iter().map(|v| v / d).collect();
            for (c, row) in before.iter_mut().enumerate() {
                take(row, column, scaled[first + c]);
            }
            *column = scaled;
        }
        let d = &cost[first..end];
        for (c, row) in left.iter_mut().enumerate() {
            let times: Vec<f64> = panel.iter().zip(d).map(|(column, d)| column[c] * f64::from(*d)).collect();
            for (columns, times) in panel.chunks(4).zip(times.chunks(4)) {
                match (columns, times) {
                    ([a, b, e, f], [ta, tb, te, tf]) => {
                        let len = row.len();
                        let others = a[..len].iter().zip(&b[..len]).zip(e[..len].iter().zip(&f[..len]));
                        for (v, ((a, b), (e, f))) in row.iter_mut().zip(others) {
                            *v -= (ta * a + tb * b) + (te * e + tf * f);
                        }
                    }
                    _ => columns.iter().zip(times).for_each(|(column, t)| take(row, column, *t)),
                }
            }
        }
        end = first;
    }
    let mut unit = vec![0.0f32; n * n];
    for (k, column) in h.iter().enumerate() {
        unit[k * n..][..k].iter_mut().zip(column).for_each(|(u, v)| *u = *v as f32);
    }
    Span { start: range.start, len: n, unit, cost }
}

/// `row −= t·column` as far as the row reaches.
fn take(row: &mut [f64], column: &[f64], t: f64) {
    row.iter_mut().zip(column).for_each(|(v, c)| *v -= t * c);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs whose columns hang together.
    fn moments(cols: usize, n: usize) -> Moments {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut x = vec![0.0; n * cols];
        for row in x.chunks_exact_mut(cols) {
            let common = next();
            row.iter_mut().for_each(|v| *v = next() + 0.7 * common);
        }
        let mut moments = Moments::new(cols);
        moments.add(&x, bourn_kernels::best(), &bourn_kernels::OneCore);
        moments
    }

    #[test]
    fn the_product_of_the_factors_is_the_matrix() {
        for cols in [32, 70, 200] {
            let moments = moments(cols, 300);
            let factors = factors(std::slice::from_ref(&moments), 2);
            let [Factor { spans }] = &factors[..] else { panic!("one product") };
            let [Span { len, unit, cost, .. }] = &spans[..] else { panic!("one span") };
            let damp = DAMP * moments.diagonal(0).iter().sum::<f64>() / *len as f64;
            let u = |i: usize, k: usize| match i.cmp(&k) {
                std::cmp::Ordering::Less => f64::from(unit[k * len + i]),
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => 0.0,
            };
            for c in 0..*len {
                for j in 0..=c {
                    let found: f64 = (0..*len).map(|k| u(j, k) * f64::from(cost[k]) * u(c, k)).sum();
                    let want = moments.at(0, j, c) + if j == c { damp } else { 0.0 };
                    assert!((found - want).abs() < 1e-5, "{cols}: {j}, {c}: {found} for {want}");
                }
            }
        }
    }

    #[test]
    fn inputs_that_are_all_zero_do_no_harm() {
        let mut moments = Moments::new(40);
        moments.add(&[0.0; 80], bourn_kernels::best(), &bourn_kernels::OneCore);
        let factors = factors(&[moments], 1);
        assert!(factors[0].spans[0].cost.iter().all(|d| *d == 1.0));
        assert!(factors[0].spans[0].unit.iter().all(|u| *u == 0.0));
    }
}
