//! Speculative decoding writes what plain decoding writes, token for token, and leaves the session in the same state.

mod support;

use bourn::{
    Error, Finish, GenerateOptions, KvDtype, Model, OpenOptions, SamplerOptions, Session, SessionOptions, Speculate, Threads,
};
use bourn_checkpoint::Checkpoint;
use bourn_pack::Weights;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn open(path: &Path) -> Model {
    let open = OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() };
    Model::open(path, &open).unwrap()
}

/// The images of the repository: made-up weights, layers with a window of a few positions and with none.
fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let mut images: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    images.retain(|p| p.extension().is_some_and(|e| e == "bourn"));
    assert!(images.len() >= 3);
    images
}

fn session<'m>(model: &'m Model, speculate: Speculate, prefill_block: usize) -> Session<'m> {
    let kv = Some(KvDtype::F16);
    let options = SessionOptions { kv, speculate, prefill_block: Some(prefill_block), ..SessionOptions::default() };
    model.session(&options).unwrap()
}

/// Prompts that repeat themselves more and less.
fn prompts(vocab: u32) -> Vec<Vec<u32>> {
    let wheel = |n: u32, step: u32, period: u32| (0..n).map(|i| (i % period) * step % vocab).collect::<Vec<u32>>();
    vec![wheel(40, 67, 7), wheel(150, 31, 29), wheel(70, 97, 70), vec![3]]
}

/// Everything that a text leaves behind: pieces of text, ids, how it ended, where it stands.
#[derive(Debug, PartialEq)]
struct Trace {
    pieces: Vec<String>,
    answer: Vec<u32>,
    generated: usize,
    finish: Finish,
}

fn write(session: &mut Session<'_>, prompt: &[u32], options: &GenerateOptions, stop_after: usize) -> (Trace, usize) {
    let mut pieces = Vec::new();
    let stats = session
        .generate_from(prompt, options, &mut |text| {
            pieces.push(text.to_owned());
            if pieces.len() > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert!(stats.accepted <= stats.drafted);
    let trace = Trace { pieces, answer: session.answer().to_vec(), generated: stats.generated_tokens, finish: stats.finish };
    if stats.finish == Finish::Length {
        // Every pass writes the token that is due and those of its drafts that were right.
        assert_eq!(stats.generated_tokens, 1 + stats.passes + stats.accepted);
    }
    (trace, stats.accepted)
}

fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() }
}

const POLICIES: [Speculate; 4] = [Speculate::Auto, Speculate::Tokens(1), Speculate::Tokens(5), Speculate::Tokens(31)];

#[test]
fn greedy_text_is_the_same_with_every_policy_and_block_where_windows_are_shorter_than_the_text() {
    let mut accepted = 0;
    for path in fixtures() {
        let model = open(&path);
        for prompt in prompts(model.image().shape().vocab) {
            for (block, repetition_penalty) in [(2, 1.3), (16, 1.0), (64, 1.3)] {
                let sampling = SamplerOptions { repetition_penalty, ..SamplerOptions::default() };
                let options = GenerateOptions { sampling, ..greedy(200) };
                let (plain, _) = write(&mut session(&model, Speculate::Off, block), &prompt, &options, usize::MAX);
                for speculate in POLICIES {
                    let (found, right) = write(&mut session(&model, speculate, block), &prompt, &options, usize::MAX);
                    assert_eq!(found, plain, "{} {speculate:?} block {block}", path.display());
                    accepted += right;
                }
            }
        }
    }
    assert!(accepted > 1000, "only {accepted} drafts were right: nothing was tested");
}

#[test]
fn the_same_seed_draws_the_same_text() {
    let mut accepted = 0;
    for path in fixtures() {
        let model = open(&path);
        for prompt in prompts(model.image().shape().vocab) {
            for seed in 0..3 {
                let sampling = SamplerOptions {
                    temperature: 0.2 + seed as f32 / 2.0,
                    top_k: 30,
                    top_p: 0.95,
                    repetition_penalty: 1.0 + seed as f32 / 10.0,
                    seed,
                    ..SamplerOptions::default()
                };
                let options = GenerateOptions { sampling, ..greedy(100) };
                let (plain, _) = write(&mut session(&model, Speculate::Off, 64), &prompt, &options, usize::MAX);
                for speculate in POLICIES {
                    let (found, right) = write(&mut session(&model, speculate, 64), &prompt, &options, usize::MAX);
                    assert_eq!(found, plain, "{} {speculate:?} seed {seed}", path.display());
                    accepted += right;
                }
            }
        }
    }
    assert!(accepted > 100, "only {accepted} drafts were right: nothing was tested");
}

/// What ends a text does so in the midst of right drafts as it does without, and the next turn goes on from the same state.
#[test]
fn a_text_that_ends_among_drafts_can_be_gone_on_with() {
    for path in fixtures() {
        let model = open(&path);
        let prompt = &prompts(model.image().shape().vocab)[0];
        let mut plain = session(&model, Speculate::Off, 64);
        let mut drafting = session(&model, Speculate::Tokens(9), 64);
        for stop_after in [1, 2, 3, 5, 8, 13, 21, usize::MAX] {
            for max in [1, 2, 7, 30] {
                let mut both = |turns: &mut dyn FnMut(&mut Session<'_>) -> Vec<Trace>| {
                    assert_eq!(turns(&mut drafting), turns(&mut plain), "{} after {stop_after}, {max}", path.display());
                    assert_eq!(drafting.tokens(), plain.tokens());
                };
                both(&mut |session| {
                    session.clear().unwrap();
                    let (first, _) = write(session, prompt, &greedy(max), stop_after);
                    let mut on: Vec<u32> = session.tokens().to_vec();
                    on.extend([5, 6, 7]);
                    let (second, _) = write(session, &on, &greedy(max), stop_after);
                    vec![first, second]
                });
            }
        }
    }
}

#[test]
fn a_full_context_ends_the_text_at_the_same_token() {
    for path in fixtures() {
        let model = open(&path);
        let prompt = &prompts(model.image().shape().vocab)[0];
        for context in [prompt.len(), prompt.len() + 1, prompt.len() + 10, 90] {
            let run = |speculate| {
                let options = SessionOptions { context: Some(context), speculate, ..SessionOptions::default() };
                let options = (options, GenerateOptions { ignore_eos: true, ..GenerateOptions::default() });
                write(&mut model.session(&options.0).unwrap(), prompt, &options.1, usize::MAX).0
            };
            let plain = run(Speculate::Off);
            assert_eq!(plain.finish, Finish::ContextFull);
            for speculate in POLICIES {
                assert_eq!(run(speculate), plain, "{} {speculate:?} context {context}", path.display());
            }
        }
    }
}

/// A made-up model of the oracle, packed at several precisions: the coarse ones draft for the fine one.
#[test]
fn a_draft_model_changes_no_token_and_saves_passes() {
    let Some(oracle) = support::oracle() else {
        println!("skipped: no oracle on this machine (set BOURN_ORACLE)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let pack = |name: &str, weights: Weights| {
        let out = folder.path().join(format!("{name}-{weights:?}.bourn"));
        let options = bourn_pack::Options { weights, ..bourn_pack::Options::default() };
        bourn_pack::pack(&Checkpoint::open(&oracle.join("dev").join(name)).unwrap(), &out, &options, &mut |_| {}).unwrap();
        open(&out)
    };
    for name in ["gemma3", "smollm2"] {
        let (model, drafts) =
            (pack(name, Weights::F32), [pack(name, Weights::F16), pack(name, Weights::Q8), pack(name, Weights::Q4)]);
        let prompt = model.encode("The stream runs down to the sea, and ", bourn::EncodeOptions::default()).unwrap();
        for temperature in [0.0, 0.8] {
            let sampling = SamplerOptions { temperature, repetition_penalty: 1.1, seed: 7, ..SamplerOptions::default() };
            // More than the windows hold.
            let options = GenerateOptions { sampling, ..greedy(150) };
            let (plain, _) = write(&mut session(&model, Speculate::Off, 64), &prompt, &options, usize::MAX);
            for (i, draft) in drafts.iter().enumerate() {
                for speculate in POLICIES {
                    let mut session = session(&model, speculate, 64);
                    session.use_draft(draft).unwrap();
                    let (found, right) = write(&mut session, &prompt, &options, usize::MAX);
                    assert_eq!(found, plain, "{name} draft {i} {speculate:?} at {temperature}");
                    if i == 0 && speculate == Speculate::Tokens(5) {
                        assert!(right > 90, "an f16 copy draws nearly the same tokens: {right} were right");
                    }
                }
            }
        }
    }
    let (model, other) = (pack("smollm2", Weights::Q4), pack("gemma3", Weights::Q4));
    let refused = session(&model, Speculate::Auto, 64).use_draft(&other);
    assert!(matches!(refused, Err(Error::Vocabulary { .. })), "{refused:?}");
}
