//! How far two sets of logits are apart.

/// The largest `|a − b|` and where it is.
///
/// # Panics
/// If the lengths differ.
pub fn worst(found: &[f32], golden: &[f32]) -> (f32, usize) {
    assert_eq!(found.len(), golden.len(), "as many logits as golden ones");
    let mut worst = (0.0, 0);
    for (i, (a, b)) in found.iter().zip(golden).enumerate() {
        let apart = (a - b).abs();
        // A NaN is the worst of all, and stays so.
        if apart > worst.0 || apart.is_nan() {
            worst = (apart, i);
        }
    }
    worst
}

/// `max − min`: what tolerances are relative to.
pub fn range(logits: &[f32]) -> f32 {
    let (low, high) = logits.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    high - low
}

/// Index of the largest, the first of equals.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = i;
        }
    }
    best
}

/// `ln Σ exp(x)` in f64.
pub fn logsumexp(logits: &[f32]) -> f64 {
    let top = f64::from(logits[argmax(logits)]);
    top + logits.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_the_worst() {
        assert_eq!(worst(&[1.0, 2.0], &[1.5, 2.0]), (0.5, 0));
        assert!(worst(&[1.0, f32::NAN, 3.0], &[9.0, 2.0, 3.0]).0.is_nan());
    }

    #[test]
    fn logsumexp_of_equal_logits_adds_the_log_of_their_number() {
        assert!((logsumexp(&[3.0; 8]) - (3.0 + 8f64.ln())).abs() < 1e-12);
    }
}
