//! How many bits each dimension gets, and the centroids its rows are coded with.

use super::Random;

/// Bits of one code.
const CODE_BITS: f64 = 4.0;
/// A dimension with more bits than this gets two codes, the second for what the first leaves.
const TWO_STAGES: f64 = 4.6;
/// Most dimensions of a group.
const MOST_DIMS: usize = 8;
/// Steps of Lloyd's algorithm.
const STEPS: usize = 20;
/// Entries of a book.
pub(crate) const ENTRIES: usize = 16;

/// Dimensions `first..first + n`, coded by one book, or by two in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub first: usize,
    pub n: usize,
    pub stages: usize,
}

/// Groups of dimensions for about `bits` bits a row, the dimensions' variances falling.
///
/// Reverse water-filling: a dimension of variance λ gets `max(0, ½·log₂(λ/θ))` bits, θ such that all get `bits`; neighbours are
/// gathered until they hold what a code can say. Source: Cover and Thomas, Elements of Information Theory, 10.3.3.
pub(crate) fn groups(variances: &[f64], bits: f64) -> Vec<Group> {
    let of = |theta: f64, v: f64| (0.5 * (v / theta).log2()).max(0.0);
    let most = variances.iter().fold(0.0, |m: f64, v| m.max(*v));
    if most.is_nan() || most <= 0.0 {
        return vec![Group { first: 0, n: 1, stages: 1 }];
    }
    let (mut low, mut high) = (most * 1e-14, most);
    for _ in 0..100 {
        let theta = (low * high).sqrt();
        let sum: f64 = variances.iter().map(|v| of(theta, v.max(1e-300))).sum();
        if sum > bits { low = theta } else { high = theta }
    }
    let bits: Vec<f64> = variances.iter().map(|v| of(high, v.max(1e-300))).take_while(|b| *b > 0.0).collect();
    let mut groups = Vec::new();
    let mut first = 0;
    while first < bits.len() {
        if bits[first] > TWO_STAGES {
            groups.push(Group { first, n: 1, stages: 2 });
            first += 1;
            continue;
        }
        let (mut sum, mut end) = (0.0, first);
        while end < bits.len() && end - first < MOST_DIMS && sum + bits[end] / 2.0 < CODE_BITS {
            sum += bits[end];
            end += 1;
        }
        let end = end.max(first + 1);
        groups.push(Group { first, n: end - first, stages: 1 });
        first = end;
    }
    groups
}

/// 16 centroids of `points [m, n]`: seeded by distance (k-means++), then Lloyd's steps. `[16][n]`.
pub(crate) fn centroids(points: &[f32], n: usize, random: &mut Random) -> Vec<f32> {
    let m = points.len() / n;
    let point = |i: usize| &points[i * n..][..n];
    let mut book = point(random.below(m)).to_vec();
    let mut nearest = vec![f32::INFINITY; m];
    while book.len() < ENTRIES * n {
        let last = book[book.len() - n..].to_vec();
        let mut sum = 0.0f64;
        for (i, d) in nearest.iter_mut().enumerate() {
            *d = d.min(distance(point(i), &last));
            sum += f64::from(*d);
        }
        let mut left = random.unit() * sum;
        let chosen = nearest.iter().position(|d| {
            left -= f64::from(*d);
            left < 0.0
        });
        book.extend_from_slice(point(chosen.unwrap_or_else(|| random.below(m))));
    }
    for _ in 0..STEPS {
        let (mut sums, mut counts) = (vec![0.0f64; ENTRIES * n], [0u32; ENTRIES]);
        for i in 0..m {
            let e = assign(point(i), &book);
            counts[e] += 1;
            sums[e * n..][..n].iter_mut().zip(point(i)).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (e, &count) in counts.iter().enumerate() {
            for d in 0..n {
                book[e * n + d] =
                    if count == 0 { point(random.below(m))[d] } else { (sums[e * n + d] / f64::from(count)) as f32 };
            }
        }
    }
    book
}

/// The nearest centroid of a book `[16][n]`, the first of equals.
pub(crate) fn assign(x: &[f32], book: &[f32]) -> usize {
    let (mut best, mut least) = (0, f32::INFINITY);
    for (e, c) in book.chunks_exact(x.len()).enumerate() {
        let d = distance(x, c);
        if d < least {
            (best, least) = (e, d);
        }
    }
    best
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_first_dimensions_once() {
        let variances: Vec<f64> = (0..200).map(|i| 1000.0 * 0.93f64.powi(i)).collect();
        // The first dimension then gets 5 bits, more than one code says well.
        let groups = groups(&variances, 240.0);
        let mut next = 0;
        for g in &groups {
            assert_eq!(g.first, next);
            assert!(g.n >= 1 && g.n <= MOST_DIMS);
            next += g.n;
        }
        let codes: usize = groups.iter().map(|g| g.stages).sum();
        assert!((55..90).contains(&codes), "{codes} codes for 240 bits");
        assert_eq!(groups[0].stages, 2);
    }

    #[test]
    fn sixteen_centroids_leave_little_of_sixteen_lumps() {
        let mut random = Random::new(1);
        let points: Vec<f32> = (0..1600)
            .flat_map(|i| [(i % 4) as f32 * 10.0, (i / 4 % 4) as f32 * 10.0])
            .map(|v| v + random.unit() as f32)
            .collect();
        let book = centroids(&points, 2, &mut random);
        let error: f32 = points.chunks(2).map(|p| distance(p, &book[2 * assign(p, &book)..][..2])).sum::<f32>() / 1600.0;
        // Of a variance of 250. Lloyd's steps need not find every lump: two may share a centroid.
        assert!(error < 10.0, "{error}");
    }
}
