//! The statistics of a small fixture against sums made here, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bourn_checkpoint::Checkpoint;
use bourn_oracle::place;
use bourn_reference::{Input, Reference, Site, Statistics, Tap, device};
use burn::tensor::Tensor;

/// Keeps every input as it is.
#[derive(Default)]
struct Inputs(BTreeMap<Site, Vec<Vec<f32>>>);

impl Tap for Inputs {
    fn input(&mut self, site: Site, x: &Tensor<2>) {
        let cols = x.dims()[1];
        let values = x.to_data().try_into_vec::<f32>().unwrap();
        self.0.entry(site).or_default().extend(values.chunks(cols).map(<[f32]>::to_vec));
    }
}

/// The fixture's model; `None`, and said, where it is not there.
fn model() -> Option<Reference> {
    let folder = match place::oracle() {
        Ok(oracle) => oracle.join("dev/gemma3"),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return None;
        }
    };
    let checkpoint = Arc::new(Checkpoint::open(&folder).unwrap());
    Some(Reference::open(&checkpoint, &device("ndarray").unwrap()).unwrap())
}

#[test]
fn moments_are_the_sums_of_outer_products_over_all_texts() {
    let Some(model) = model() else { return };
    let texts: [&[u32]; 2] = [&[2, 17, 300, 5, 41, 99, 7], &[2, 250, 251, 252]];
    let (mut statistics, mut inputs) = (Statistics::default(), Inputs::default());
    for text in texts {
        model.observe(text, &mut statistics).unwrap();
        model.forward(text, &mut inputs).unwrap();
    }
    assert_eq!(statistics.iter().count(), 4 * model.spec().n_layers as usize + 1);
    for (site, moments) in statistics.iter() {
        let vectors = &inputs.0[&site];
        assert_eq!((moments.n, vectors.len()), (11, 11), "{site}");
        let mut sum = vec![0.0f64; moments.cols * moments.cols];
        for x in vectors {
            for (r, &a) in x.iter().enumerate() {
                for (c, &b) in x.iter().enumerate() {
                    sum[r * moments.cols + c] += f64::from(a) * f64::from(b);
                }
            }
        }
        let apart = moments.relative_difference(&sum, moments.n).unwrap();
        assert!(apart < 1e-6, "{site}: {apart:e} apart");
        assert!((moments.mean_squares()[3] - sum[3 * moments.cols + 3] / 11.0).abs() <= 1e-5 * sum[3 * moments.cols + 3].abs());
        assert!(moments.relative_difference(&sum[1..], 1).is_err());
    }
    let head = Site { layer: None, input: Input::Head };
    assert_eq!(statistics.get(head).map(|m| m.cols), Some(model.spec().hidden as usize));
}

#[test]
fn refuses_what_it_cannot_compute() {
    let Some(model) = model() else { return };
    let error = |ids: &[u32]| model.logits(ids).unwrap_err().to_string();
    assert_eq!(error(&[]), "no tokens: need at least 1, have 0");
    assert_eq!(error(&[2, 588]), "token 588 outside the vocabulary of 588");
    let long = vec![2; model.spec().max_context as usize + 1];
    assert_eq!(error(&long), "context too short: need 32769 positions, have 32768");
}
