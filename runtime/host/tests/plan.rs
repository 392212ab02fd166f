//! A plan never exceeds its budget, covers every segment once, and streams no more when it may keep more.

mod support;

use bourn_core::KvDtype;
use bourn_host::stream::plan::PROGRAM_BYTES;
use bourn_host::{Error, RamOptions, RamPlan};
use proptest::prelude::*;
use support::{cycle, paged};

const IMAGES: [&str; 3] = ["v1-q4.bourn", "v1-f16.bourn", "v1-quantized.bourn"];

/// A budget for images of a few hundred kilobytes: nearly no program.
fn options(budget: u64) -> RamOptions {
    RamOptions { program_bytes: 64 << 10, ..RamOptions::new(budget, KvDtype::F16) }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_plan_keeps_to_its_budget_and_covers_every_segment_once(
        image in 0..IMAGES.len(),
        budget in 0u64..4 << 20,
        context in proptest::option::of(1usize..200),
        prefill_block in proptest::option::of(1usize..100),
        page in prop_oneof![Just(4096u64), Just(16384), Just(65536)],
    ) {
        let file = paged(IMAGES[image]);
        let options = RamOptions { context, prefill_block, page, ..options(budget) };
        match RamPlan::new(file.image(), &options) {
            Ok(plan) => {
                prop_assert!(plan.total_bytes() <= budget, "{plan:?}");
                let mut all: Vec<usize> = plan.pinned.iter().chain(&plan.streamed).copied().collect();
                all.sort_unstable();
                prop_assert_eq!(all, cycle(file.image()));
                prop_assert!(plan.pinned.is_sorted() && plan.streamed.is_sorted());
                let bytes = |list: &[usize]| list.iter().map(|&i| file.image().segment(i).bytes).sum::<u64>();
                prop_assert_eq!(plan.pinned_bytes, bytes(&plan.pinned));
                prop_assert_eq!(plan.streamed_bytes, bytes(&plan.streamed));
                let largest = plan.streamed.iter().map(|&i| file.image().segment(i).bytes).max();
                prop_assert!(largest.is_none_or(|n| plan.ring_bytes >= 2 * n));
                prop_assert!(context.is_none_or(|c| plan.context == c));
                prop_assert!(prefill_block.is_none_or(|b| plan.prefill_block == b.min(plan.context)));
            }
            Err(Error::Ram { need, have }) => {
                prop_assert_eq!(have, budget);
                prop_assert!(need > budget);
                // What is said to work works, and nothing less does.
                let enough = RamPlan::new(file.image(), &RamOptions { budget: need, ..options });
                prop_assert!(enough.is_ok(), "{need}: {enough:?}");
                let less = RamPlan::new(file.image(), &RamOptions { budget: need - 1, ..options });
                prop_assert!(less.is_err(), "{need}");
            }
            Err(e) => prop_assert!(false, "{}", e),
        }
    }

    #[test]
    fn more_memory_never_streams_more(
        image in 0..IMAGES.len(),
        budget in 64u64 << 10..2 << 20,
        more in 0u64..1 << 20,
        context in 1usize..200,
        prefill_block in 1usize..100,
    ) {
        let file = paged(IMAGES[image]);
        let streamed = |budget| {
            let options = RamOptions { context: Some(context), prefill_block: Some(prefill_block), ..options(budget) };
            RamPlan::new(file.image(), &options).map(|plan| plan.streamed_bytes).ok()
        };
        if let Some(less_memory) = streamed(budget) {
            prop_assert!(streamed(budget + more).is_some_and(|s| s <= less_memory));
        }
    }
}

#[test]
fn a_large_budget_keeps_everything_and_has_no_ring() {
    let file = paged(IMAGES[2]);
    let plan = RamPlan::new(file.image(), &RamOptions::new(1 << 30, KvDtype::F16)).unwrap();
    assert_eq!((plan.streamed_bytes, plan.ring_bytes, plan.tokens_per_second(1e9)), (0, 0, None));
    assert_eq!(plan.context, 512.min(file.image().shape().max_context as usize));
    assert_eq!(plan.program_bytes, PROGRAM_BYTES);
}

#[test]
fn the_speed_is_the_devices_over_the_bytes() {
    let file = paged(IMAGES[2]);
    let plan = support::plan(file.image(), &[]);
    assert_eq!(plan.tokens_per_second(2.0 * plan.streamed_bytes as f64), Some(2.0));
}

#[test]
fn a_context_beyond_the_models_is_refused() {
    let file = paged(IMAGES[0]);
    let options = RamOptions { context: Some(1 << 20), ..RamOptions::new(1 << 30, KvDtype::F16) };
    assert!(matches!(RamPlan::new(file.image(), &options), Err(Error::Core(_))));
}
