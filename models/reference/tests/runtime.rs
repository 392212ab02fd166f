//! What the runtime's observer sees, of which calibrated packing makes its statistics, is what the reference's matrices are fed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bourn_checkpoint::Checkpoint;
use bourn_core::{Engine, KvDtype, Options, Site as Seen};
use bourn_host::{ImageFile, OwnedSession, StreamKind};
use bourn_kernels::OneCore;
use bourn_oracle::place;
use bourn_pack::Weights;
use bourn_reference::{Input, Reference, Site, Statistics, device};

/// Inputs of the runtime are those of the reference up to f32's rounding in another order, which moments double.
const TOLERANCE: f64 = 1e-5;

#[test]
fn observations_have_the_moments_of_the_reference() {
    let oracle = match place::oracle() {
        Ok(oracle) => oracle,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    for name in ["gemma3", "qwen3_tied", "llama32"] {
        let checkpoint = Arc::new(Checkpoint::open(&oracle.join("dev").join(name)).unwrap());
        let ids: Vec<u32> = (0..40).map(|i| (2 + i * 13) % checkpoint.spec.vocab).collect();
        let mut statistics = Statistics::default();
        Reference::open(&checkpoint, &device("ndarray").unwrap()).unwrap().observe(&ids, &mut statistics).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f32.bourn");
        let options = bourn_pack::Options { weights: Weights::F32, ..bourn_pack::Options::default() };
        bourn_pack::pack(&checkpoint, &path, &options, &mut |_| {}).unwrap();
        let file = ImageFile::open(&path, StreamKind::Mapped).unwrap();
        let image = file.image();
        let core = Options { context: ids.len(), prefill_block: 16, kv: KvDtype::F32, logit_rows: 1, retain: 0 };
        let mut session = OwnedSession::new(image, &core).unwrap();
        let mut stream = file.stream();
        let kernels = bourn_kernels::best();
        let mut engine = Engine { image, stream: &mut stream, kernels, decode: &OneCore, prefill: &OneCore };
        let mut sums: BTreeMap<Site, (u64, Vec<f64>)> = BTreeMap::new();
        let mut observer = |seen: bourn_core::Observed<'_>| {
            let input = match seen.site {
                Seen::Attention => Input::Qkv,
                Seen::Output => Input::Output,
                Seen::FeedForward => Input::GateUp,
                Seen::Down => Input::Down,
                Seen::Head => Input::Head,
            };
            let site = Site { layer: (input != Input::Head).then_some(seen.layer), input };
            let x = seen.values;
            let (n, sum) = sums.entry(site).or_insert_with(|| (0, vec![0.0; x.len() * x.len()]));
            *n += 1;
            for (row, a) in sum.chunks_exact_mut(x.len()).zip(x) {
                row.iter_mut().zip(x).for_each(|(sum, b)| *sum += f64::from(*a) * f64::from(*b));
            }
        };
        session.observe(&mut engine, &ids, &mut observer).unwrap();
        assert_eq!(sums.len(), statistics.iter().count(), "{name}");
        for (site, moments) in statistics.iter() {
            let (n, sum) = &sums[&site];
            assert_eq!(*n, moments.n, "{name}: {site}");
            let apart = moments.relative_difference(sum, *n).unwrap();
            assert!(apart < TOLERANCE, "{name}: {site}: {apart:e} apart");
        }
    }
}
