//! One answer everywhere: the same bits on every tier of every ISA, on one thread and on four.
//!
//! The checksums in `tests/fixtures` were made by the scalar tier. This test runs on the machine at hand, and under
//! emulation once per ARM CPU (`cargo xtask arm`), where `BOURN_EXPECT_ISA` names the tier that must be the best.

use bourn_host::Pool;
use bourn_kernels::KvDtype;
use bourn_oracle::golden::{self, ids};
use bourn_oracle::place;
use bourn_oracle::runner::{Runner, Setup};
use serde_json::Value;

/// Every golden image with its sums and the file they stand in, of every version of the format.
fn images() -> Vec<(Value, String, Value)> {
    let mut all = Vec::new();
    for version in ["v1", "v2"] {
        let expected =
            golden::json(&place::fixtures().join(version).with_extension("json")).expect("the golden file can be read");
        for (name, sums) in expected["images"].as_object().expect("golden images") {
            all.push((expected.clone(), name.clone(), sums.clone()));
        }
    }
    all
}

#[test]
fn every_tier_and_thread_count_gives_the_golden_bits() {
    let pool = Pool::new(4);
    let mut runs = 0;
    for (expected, name, sums) in images() {
        let prompt = ids(&expected["prompt"]).expect("a prompt");
        let n = expected["generate"].as_u64().expect("a number of tokens") as usize;
        let runner = Runner::open(&place::fixtures().join(&name)).expect("a fixture of any version opens for ever");
        for (kv, key) in [(KvDtype::F16, "kv_f16"), (KvDtype::I8, "kv_i8")] {
            for kernels in bourn_kernels::available() {
                for threads in [1, 4] {
                    let rows = pool.limited(threads);
                    let setup = Setup { kernels, rows: &rows, kv, block: 16, context: 0 };
                    let found = runner.checksum(&prompt, n, &setup).expect("the fixture runs");
                    let golden = sums[key].as_str().expect("a checksum");
                    assert_eq!(format!("{found:016x}"), golden, "{name} {key} isa={} threads={threads}", kernels.isa);
                    runs += 1;
                }
            }
        }
    }
    let tiers: Vec<&str> = bourn_kernels::available().map(|kernels| kernels.isa).collect();
    println!("{runs} runs, isa {}: the same bits", tiers.join(", "));
}

#[test]
fn the_best_tier_is_the_one_this_cpu_is_known_for() {
    if let Ok(expected) = std::env::var("BOURN_EXPECT_ISA") {
        assert_eq!(bourn_kernels::best().isa, expected);
    }
}

#[test]
fn prefill_and_decode_give_the_same_bits() {
    for (expected, name, _) in images() {
        let prompt = ids(&expected["prompt"]).expect("a prompt");
        let runner = Runner::open(&place::fixtures().join(&name)).expect("a fixture opens");
        let in_blocks_of = |block| {
            let setup = Setup { block, kv: KvDtype::F16, ..Setup::default() };
            let logits = runner.logits(&prompt, &setup).expect("the fixture runs");
            logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = in_blocks_of(1);
        for block in [2, 5, 16, 64] {
            assert!(in_blocks_of(block) == one, "{name}: blocks of {block} differ from single tokens");
        }
    }
}
