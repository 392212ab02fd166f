//! One suite for every tier this machine can run: the same bits as `scalar`; and for `scalar` itself: a formula in f64.
//!
//! A tier joins by being in `available()`.

mod attention;
mod inputs;
mod matrices;
mod screen;
mod vectors;

use bourn_kernels::{available, best, by_name};

#[test]
fn lists_the_fastest_tier_first_and_scalar_last() {
    let names: Vec<_> = available().map(|k| k.isa).collect();
    println!("tiers: {names:?}");
    assert_eq!(names.first(), Some(&best().isa));
    assert_eq!(names.last(), Some(&"scalar"));
    for name in names {
        assert_eq!(by_name(name).map(|k| k.isa), Some(name));
    }
    assert!(by_name("no such tier").is_none());
}
