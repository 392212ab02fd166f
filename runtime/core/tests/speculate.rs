//! Drafts out of the text, and how many of them a pass takes.

use bourn_core::speculate::{MAX_DRAFT, Plan, Policy, Speculator, lookup};
use proptest::prelude::*;

fn drafted(history: &[u32], n: usize) -> (usize, Vec<u32>) {
    let mut out = vec![u32::MAX; n];
    (lookup(history, &mut out), out)
}

#[test]
fn a_draft_is_what_followed_the_longest_repeated_end() {
    assert_eq!(drafted(&[1, 2, 3, 9, 2, 3, 7, 1, 2, 3], 2), (3, vec![9, 2]));
    // Of ends of the same length the last counts.
    assert_eq!(drafted(&[2, 3, 9, 2, 3, 7, 2, 3], 2), (2, vec![7, 2]));
    assert_eq!(drafted(&[5, 1, 6, 1], 3), (1, vec![6, 1, 6]));
}

#[test]
fn a_draft_goes_around_where_the_text_does() {
    assert_eq!(drafted(&[8, 1, 2, 3, 1, 2, 3], 7), (3, vec![1, 2, 3, 1, 2, 3, 1]));
    assert_eq!(drafted(&[4, 4, 4], 3), (2, vec![4, 4, 4]));
}

#[test]
fn a_new_token_drafts_nothing() {
    for history in [&[][..], &[1], &[1, 2, 3, 4]] {
        assert_eq!(drafted(history, 2), (0, vec![u32::MAX; 2]));
    }
}

proptest! {
    #[test]
    fn lookup_is_what_a_plain_search_finds(history in prop::collection::vec(0u32..4, 0..60), n in 0usize..8) {
        let (found, out) = drafted(&history, n);
        let length = |at: usize| {
            (0..16).take_while(|i| at > *i && history[at - 1 - i] == history[history.len() - 1 - i]).count()
        };
        let best = (1..history.len()).rev().max_by_key(|&at| (length(at), at)).filter(|&at| length(at) > 0);
        prop_assert_eq!(found, best.map_or(0, length));
        if let Some(at) = best {
            let mut text = history.clone();
            for (i, id) in out.iter().enumerate() {
                text.push(text[at + i]);
                prop_assert_eq!(text.last(), Some(id));
            }
        }
    }
}

/// A speculator whose passes cost `one` and `further` for each token more.
fn timed(one: f32, further: f32) -> Speculator {
    let mut s = Speculator::new(Policy::Auto);
    s.pass_took(1, one);
    s.pass_took(5, one + 4.0 * further);
    s
}

#[test]
fn the_first_pass_is_plain_and_dear_drafts_are_left_out() {
    assert_eq!(Speculator::new(Policy::Auto).plan(16, 8, false), Plan::Plain);
    assert_eq!(timed(1.0, 1.0).plan(16, 8, false), Plan::Plain);
    assert_eq!(timed(1.0, 0.1).plan(0, 8, false), Plan::Plain);
    assert_eq!(timed(1.0, 0.1).plan(16, 0, false), Plan::Plain);
}

#[test]
fn drafts_grow_as_they_get_cheaper_and_surer() {
    let n = |found, further| match timed(1.0, further).plan(found, MAX_DRAFT, false) {
        Plan::Lookup(n) => n,
        _ => 0,
    };
    assert!(n(16, 0.3) > 0);
    assert!(n(16, 0.01) > n(16, 0.3));
    assert!(n(16, 0.1) > n(2, 0.1));
    assert_eq!(n(16, 0.0), MAX_DRAFT);
}

#[test]
fn drafts_that_fail_are_given_up_and_taken_up_again_when_they_would_have_been_right() {
    let mut s = timed(1.0, 0.4);
    assert_ne!(s.plan(3, 8, false), Plan::Plain);
    for _ in 0..40 {
        s.judge_lookup(3, 0, false);
    }
    assert_eq!(s.plan(3, 8, false), Plan::Plain);
    for _ in 0..100 {
        s.judge_lookup(3, 0, true);
    }
    assert_ne!(s.plan(3, 8, false), Plan::Plain);
}

#[test]
fn a_draft_model_is_tried_kept_while_it_pays_and_retried() {
    let mut s = timed(1.0, 0.1);
    assert_eq!(s.plan(0, 8, true), Plan::Model(4));
    s.model_took(0.05);
    assert!(matches!(s.plan(0, 8, true), Plan::Model(n) if n > 0));
    for _ in 0..100 {
        s.judge_model(false);
    }
    let tried = (0..200).filter(|_| matches!(s.plan(0, 8, true), Plan::Model(_))).count();
    assert!((1..=4).contains(&tried), "{tried}");
    assert!(matches!(s.plan(16, 8, true), Plan::Lookup(_)));
}

#[test]
fn a_fixed_number_is_drafted_whatever_it_costs() {
    let mut s = Speculator::new(Policy::Always);
    assert_eq!(s.plan(1, 4, false), Plan::Lookup(4));
    assert_eq!(s.plan(0, 4, false), Plan::Plain);
    assert_eq!(s.plan(1, 4, true), Plan::Model(4));
}

#[test]
fn a_first_pass_that_read_from_storage_does_not_count_for_long() {
    let mut s = Speculator::new(Policy::Auto);
    s.pass_took(1, 1.0);
    s.pass_took(1, 0.01);
    s.pass_took(5, 0.01 + 4.0 * 0.01);
    assert_eq!(s.plan(16, 8, false), Plan::Plain);
}
