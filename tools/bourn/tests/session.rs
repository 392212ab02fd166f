//! A session stays usable after whatever it refused.

mod support;

use bourn::{Finish, GenerateOptions, Model, OpenOptions, SessionOptions, Threads};
use std::ops::ControlFlow;
use std::path::Path;

fn model() -> Option<Model> {
    let open = OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() };
    Some(Model::open(Path::new(support::image()?), &open).unwrap())
}

fn on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_refused_text_leaves_an_answer_to_ask_for() {
    let Some(model) = model() else { return };
    let mut session = model.session(&SessionOptions { context: Some(16), ..SessionOptions::default() }).unwrap();
    let options = GenerateOptions { max_tokens: Some(4), ignore_eos: true, ..GenerateOptions::default() };
    session.generate(&[1, 2, 3], &options, &mut on).unwrap();
    let answer = session.answer().to_vec();
    assert_eq!(answer.len(), 4);
    assert!(session.generate_from(&[9; 17], &options, &mut on).is_err());
    assert!(session.answer().is_empty());
    session.generate_from(&[1, 2, 3], &options, &mut on).unwrap();
    assert_eq!(session.answer(), answer);
    assert!(session.generate_from(&[], &options, &mut on).is_err());
    assert!(session.generate_from(&[1, 4_000_000], &options, &mut on).is_err());
    assert!(session.answer().is_empty());
}

#[test]
fn a_long_prompt_can_be_cancelled_and_read_on() {
    let Some(model) = model() else { return };
    let fresh = || model.session(&SessionOptions { prefill_block: Some(2), ..SessionOptions::default() }).unwrap();
    let options = GenerateOptions { max_tokens: Some(4), ignore_eos: true, ..GenerateOptions::default() };
    let prompt: Vec<u32> = (1..50).collect();
    let mut whole = fresh();
    whole.generate(&prompt, &options, &mut on).unwrap();
    let mut session = fresh();
    let stats = session.generate(&prompt, &options, &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!((stats.finish, stats.generated_tokens), (Finish::Cancelled, 0));
    assert!(stats.prompt_tokens > 0 && stats.prompt_tokens < prompt.len());
    assert!(session.answer().is_empty());
    session.generate_from(&prompt, &options, &mut on).unwrap();
    assert_eq!(session.answer(), whole.answer());
}
