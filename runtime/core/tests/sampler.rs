//! The sampler chain: what it keeps, what it draws, and how often.

use bourn_core::{Candidate, Error, Sampler, SamplerOptions};
use bourn_kernels::best;

fn draw_many(options: SamplerOptions, logits: &[f32], n: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    let mut sampler = Sampler::new(options).unwrap();
    let mut scratch = vec![Candidate::default(); logits.len()];
    for _ in 0..n {
        let id = sampler.sample(best(), &mut logits.to_vec(), &[], &mut scratch).unwrap();
        counts[id as usize] += 1;
    }
    counts
}

#[test]
fn temperature_zero_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
    let id = sampler.sample(best(), &mut [1.0, 3.0, 2.0, 3.0], &[], &mut []).unwrap();
    assert_eq!(id, 1);
}

#[test]
fn draws_follow_the_distribution() {
    let probabilities: [f32; 5] = [0.4, 0.3, 0.2, 0.08, 0.02];
    let logits = probabilities.map(|p| p.ln() + 5.0);
    let options = SamplerOptions { temperature: 1.0, seed: 7, ..SamplerOptions::default() };
    let n = 20_000;
    for (count, p) in draw_many(options, &logits, n).into_iter().zip(probabilities) {
        // Five standard deviations of a binomial: a right sampler fails once in a million.
        let slack = 5.0 * (n as f32 * p * (1.0 - p)).sqrt();
        assert!((count as f32 - n as f32 * p).abs() < slack, "{count} draws where {} were expected", n as f32 * p);
    }
}

#[test]
fn temperature_two_takes_square_roots() {
    let logits = [0.64f32.ln(), 0.36f32.ln()];
    let options = SamplerOptions { temperature: 2.0, ..SamplerOptions::default() };
    let counts = draw_many(options, &logits, 20_000);
    // 0.8 : 0.6.
    assert!((counts[0] as f32 / 20_000.0 - 0.8 / 1.4).abs() < 0.02, "{counts:?}");
}

#[test]
fn top_k_keeps_k() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 1000) as f32 / 1000.0).collect();
    let options = SamplerOptions { temperature: 1.0, top_k: 5, ..SamplerOptions::default() };
    let counts = draw_many(options, &logits, 3000);
    let mut drawn: Vec<f32> = counts.iter().zip(&logits).filter(|(c, _)| **c > 0).map(|(_, &l)| l).collect();
    drawn.sort_by(f32::total_cmp);
    assert_eq!(drawn, [0.995, 0.996, 0.997, 0.998, 0.999]);
}

#[test]
fn top_p_keeps_the_fewest_that_reach_it() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    let kept = |top_p| {
        let options = SamplerOptions { temperature: 1.0, top_p, ..SamplerOptions::default() };
        draw_many(options, &logits, 3000).iter().filter(|&&c| c > 0).count()
    };
    assert_eq!([kept(0.4), kept(0.6), kept(0.9), kept(1.0)], [1, 2, 3, 4]);
}

#[test]
fn top_p_reaches_past_one_run_of_a_flat_distribution() {
    let logits = vec![0.0; 1000];
    let options = SamplerOptions { temperature: 1.0, top_p: 0.5, ..SamplerOptions::default() };
    let counts = draw_many(options, &logits, 8_000);
    assert!(counts[..500].iter().all(|&c| c > 0));
    assert!(counts[501..].iter().all(|&c| c == 0));
}

#[test]
fn min_p_is_relative_to_the_likeliest() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    let options = SamplerOptions { temperature: 1.0, min_p: 0.25, ..SamplerOptions::default() };
    let counts = draw_many(options, &logits, 3000);
    assert!(counts[2] > 0 && counts[3] == 0, "{counts:?}");
}

#[test]
fn repetition_penalty_counts_a_token_once() {
    let mut sampler = Sampler::new(SamplerOptions { repetition_penalty: 2.0, ..SamplerOptions::default() }).unwrap();
    let mut logits = [4.0, 1.5, -1.0];
    let id = sampler.sample(best(), &mut logits, &[0, 0, 0, 2], &mut []).unwrap();
    assert_eq!((id, logits), (0, [2.0, 1.5, -2.0]));
}

#[test]
fn one_seed_one_text() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
    let text = |seed| draw_many(SamplerOptions { temperature: 1.0, seed, ..SamplerOptions::default() }, &logits, 64);
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
}

#[test]
fn rejects_options_outside_their_range() {
    let ok = SamplerOptions::default();
    for bad in [
        SamplerOptions { temperature: -1.0, ..ok },
        SamplerOptions { temperature: f32::NAN, ..ok },
        SamplerOptions { top_p: 0.0, ..ok },
        SamplerOptions { top_p: 1.5, ..ok },
        SamplerOptions { min_p: 2.0, ..ok },
        SamplerOptions { repetition_penalty: 0.0, ..ok },
    ] {
        assert!(matches!(Sampler::new(bad), Err(Error::Sampling { .. })), "{bad:?}");
    }
}

#[test]
fn rejects_scratch_that_is_too_small() {
    let mut sampler = Sampler::new(SamplerOptions { temperature: 1.0, ..SamplerOptions::default() }).unwrap();
    let result = sampler.sample(best(), &mut [0.0; 8], &[], &mut [Candidate::default(); 7]);
    assert_eq!(result, Err(Error::Workspace { need: 64, have: 56 }));
}

#[test]
fn a_tiny_temperature_is_greedy() {
    let options = SamplerOptions { temperature: 1e-38, ..SamplerOptions::default() };
    assert_eq!(draw_many(options, &[3.0, 7.0, 6.9, 7.0 - 1e-3], 50), [0, 50, 0, 0]);
}

#[test]
fn rejects_logits_that_are_not_numbers() {
    let mut sampler = Sampler::new(SamplerOptions { temperature: 1.0, ..SamplerOptions::default() }).unwrap();
    let result = sampler.sample(best(), &mut [0.0, f32::NAN], &[5, 6], &mut [Candidate::default(); 2]);
    assert_eq!(result, Err(Error::NotFinite { position: 1 }));
}

#[test]
fn the_best_few_draw_what_all_draw() {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let (mut told, n) = (0, 600);
    for case in 0..400 {
        // Every third row has only a few values, so that many are equal.
        let logits: Vec<f32> =
            (0..n).map(|_| if case % 3 == 0 { (noise() * 40.0).floor() } else { noise() * 12.0 - 4.0 }).collect();
        let options = SamplerOptions {
            temperature: [0.0, 0.7, 1.0, 1.3][case % 4],
            top_k: [1, 5, 40][case % 3],
            top_p: [1.0, 0.9][case % 2],
            min_p: if case % 5 == 0 { 0.2 } else { 0.0 },
            repetition_penalty: [1.0, 1.2][case / 2 % 2],
            repeat_last_n: 16,
            seed: case as u64,
        };
        let recent: Vec<u32> = (0..30).map(|_| (noise() * n as f32) as u32).collect();
        let mut whole = Sampler::new(options).unwrap();
        let mut few = whole.clone();
        let want = whole.sample(best(), &mut logits.clone(), &recent, &mut vec![Candidate::default(); n]).unwrap();
        let mut all: Vec<Candidate> = (0..).zip(&logits).map(|(id, &logit)| Candidate { logit, id }).collect();
        all.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
        let before = format!("{few:?}");
        match few.sample_best(&mut all[..few.n_best().unwrap()], &recent).unwrap() {
            Some(id) => {
                told += 1;
                assert_eq!((id, format!("{few:?}")), (want, format!("{whole:?}")), "{options:?}");
            }
            None => assert_eq!(format!("{few:?}"), before),
        }
    }
    assert!(told > 200, "{told} of 400");
    let free = Sampler::new(SamplerOptions { temperature: 1.0, ..SamplerOptions::default() }).unwrap();
    assert_eq!(free.n_best(), None);
}
