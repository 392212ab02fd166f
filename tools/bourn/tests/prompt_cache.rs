//! A prompt cache gives the same bits as reading anew, and is used only when every byte of it is right.

mod support;

use bourn::{Error, GenerateOptions, KvDtype, Model, OpenOptions, Session, SessionOptions, Speculate, Threads};
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

const FIXTURES: [&str; 3] = ["v1-q4.bourn", "v1-quantized.bourn", "v1-f16.bourn"];

fn open(name: &str) -> Model {
    let open = OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() };
    Model::open(&fixture(name), &open).unwrap()
}

fn options(rewindable: bool) -> SessionOptions {
    SessionOptions { rewindable, speculate: Speculate::Off, ..SessionOptions::default() }
}

fn text(model: &Model, n: u32) -> Vec<u32> {
    (0..n).map(|i| i * i * 31 % model.image().shape().vocab).collect()
}

/// Bits of the logits after the last token, and 20 tokens after it.
fn go_on(session: &mut Session<'_>, text: &[u32]) -> (usize, Vec<u32>) {
    let sampling = bourn::SamplerOptions { temperature: 1.0, seed: 3, ..Default::default() };
    let options = GenerateOptions { max_tokens: Some(20), ignore_eos: true, sampling, ..GenerateOptions::default() };
    let stats = session.generate_from(text, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    (stats.prompt_tokens, session.answer().to_vec())
}

fn logits_after(session: &mut Session<'_>, token: u32) -> Vec<u32> {
    let mut bits = Vec::new();
    session.logits_of_all(&[token], &mut |_, logits| bits.extend(logits.iter().map(|l| l.to_bits()))).unwrap();
    bits
}

#[test]
fn what_was_loaded_has_the_bits_of_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    for name in FIXTURES {
        let model = open(name);
        for kv in [KvDtype::F32, KvDtype::F16, KvDtype::I8] {
            for (n, block, rewindable) in
                [(1, 64, false), (63, 7, false), (64, 64, true), (65, 1, false), (200, 5, false), (200, 64, true)]
            {
                let all = text(&model, n + 1);
                let options = SessionOptions { kv: Some(kv), prefill_block: Some(block), ..options(rewindable) };
                let mut read = model.session(&options).unwrap();
                go_on(&mut read, &all[..n as usize]);
                // After an answer as well as before it, where the session can return.
                let _ = fs::remove_file(&file);
                if !rewindable {
                    read.clear().unwrap();
                    read.logits_of_all(&all[..n as usize], &mut |_, _| {}).unwrap();
                }
                read.save_prompt(&file, n as usize).unwrap();
                let mut plain = model.session(&options).unwrap();
                plain.logits_of_all(&all[..n as usize], &mut |_, _| {}).unwrap();
                // Into a session of another block, so with other rings.
                let mut loaded = model.session(&SessionOptions { prefill_block: Some(17), ..options }).unwrap();
                let what = format!("{name} {kv:?} {n} tokens in blocks of {block}");
                assert_eq!(loaded.load_prompt(&file, &all).unwrap(), n as usize, "{what}");
                assert_eq!(loaded.load_prompt(&file, &all).unwrap(), 0, "it is known already");
                let last = all[n as usize];
                assert!(logits_after(&mut loaded, last) == logits_after(&mut plain, last), "{what}");
            }
        }
    }
}

#[test]
fn any_beginning_is_used_where_all_positions_were_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    for name in FIXTURES {
        let model = open(name);
        let all = text(&model, 180);
        let mut read = model.session(&options(true)).unwrap();
        go_on(&mut read, &all);
        read.save_prompt(&file, 180).unwrap();
        for same in [1, 2, 50, 64, 100, 179] {
            let mut other = all[..same].to_vec();
            other.extend([all[same] + 1, 7, 9]);
            for rewindable in [false, true] {
                let mut plain = model.session(&options(false)).unwrap();
                let mut loaded = model.session(&options(rewindable)).unwrap();
                assert_eq!(loaded.load_prompt(&file, &other).unwrap(), same, "{name}");
                let ((n, found), (_, expected)) = (go_on(&mut loaded, &other), go_on(&mut plain, &other));
                assert_eq!((n, found), (3, expected), "{name} {same}");
            }
        }
    }
}

/// With rings as short as windows need, a beginning that slid out of them is read anew, with the same answer.
#[test]
fn a_ring_gives_what_it_still_has() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let mut sliding = 0;
    for name in FIXTURES {
        let model = open(name);
        let all = text(&model, 240);
        sliding += usize::from(
            (0..model.image().n_layers()).any(|i| model.image().layer(i).sliding) && model.image().shape().window < 100,
        );
        let mut read = model.session(&SessionOptions { prefill_block: Some(1), ..options(false) }).unwrap();
        read.logits_of_all(&all, &mut |_, _| {}).unwrap();
        read.save_prompt(&file, 240).unwrap();
        for same in [10, 150, 230, 239] {
            let mut other = all[..same].to_vec();
            other.extend([1, 2, 3]);
            let mut loaded = model.session(&options(false)).unwrap();
            let taken = loaded.load_prompt(&file, &other).unwrap();
            assert!(taken == 0 || taken >= same, "{name}: {taken} of {same}");
            let (found, expected) = (go_on(&mut loaded, &other).1, go_on(&mut model.session(&options(false)).unwrap(), &other).1);
            assert_eq!(found, expected, "{name} {same}");
            // Back behind what the snapshot had: all is read anew.
            let found = go_on(&mut loaded, &all[..40]).1;
            assert_eq!(found, go_on(&mut model.session(&options(false)).unwrap(), &all[..40]).1, "{name} {same}");
        }
    }
    assert!(sliding > 0, "no fixture has a ring");
}

#[test]
fn a_file_that_was_changed_is_refused_wherever() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let model = open(FIXTURES[0]);
    let all = text(&model, 101);
    let mut session = model.session(&options(true)).unwrap();
    go_on(&mut session, &all);
    session.save_prompt(&file, 100).unwrap();
    let good = fs::read(&file).unwrap();
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let found = session.load_prompt(&file, &all);
        assert!(matches!(found, Err(Error::PromptCache { .. })), "{what}: {found:?}");
        assert!(session.tokens().is_empty());
    };
    session_forgets(&mut refused, &good, &mut random);
    fs::write(&file, &good).unwrap();
    session.clear().unwrap();
    assert_eq!(session.load_prompt(&file, &all).unwrap(), 100);
}

fn session_forgets(refused: &mut dyn FnMut(&[u8], &str), good: &[u8], random: &mut dyn FnMut(usize) -> usize) {
    for bit in (0..8 * 80).chain((0..1000).map(|_| random(8 * good.len()))) {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        refused(&bad, &format!("bit {bit}"));
    }
    for length in (0..40).map(|_| random(good.len())).chain([0, 1, 71, 72, good.len() - 1]) {
        refused(&good[..length], &format!("{length} bytes"));
    }
    refused(&[good, &[0]].concat(), "a byte too many");
    refused(&vec![0; good.len()], "zeros");
}

#[test]
fn a_cache_of_another_image_or_kind_of_session_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let (model, other) = (open(FIXTURES[0]), open(FIXTURES[1]));
    let all = text(&model, 70);
    let f16 = |model: &Model| SessionOptions { kv: Some(KvDtype::F16), ..options(model.image().n_layers() > 0) };
    let mut session = model.session(&f16(&model)).unwrap();
    go_on(&mut session, &all);
    session.save_prompt(&file, 70).unwrap();
    let why = |session: &mut Session<'_>| session.load_prompt(&file, &all).unwrap_err().to_string();
    assert!(why(&mut other.session(&f16(&other)).unwrap()).contains("image checksum"));
    let i8 = SessionOptions { kv: Some(KvDtype::I8), ..f16(&model) };
    assert!(why(&mut model.session(&i8).unwrap()).contains("element type: need 2, found 1"));
}

#[test]
fn writers_and_readers_at_once_see_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let model = open(FIXTURES[0]);
    let all = text(&model, 120);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (model, file, all) = (&model, &file, &all);
            scope.spawn(move || {
                let mut session = model.session(&options(true)).unwrap();
                go_on(&mut session, all);
                for i in 0..40 {
                    session.save_prompt(file, 30 + writer + 2 * i).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let mut session = model.session(&options(true)).unwrap();
            for _ in 0..200 {
                session.clear().unwrap();
                session.load_prompt(&file, &all).unwrap();
            }
        });
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no file but the cache is left");
}

#[test]
fn run_takes_the_prompt_from_the_file_and_survives_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let (file, image) = (dir.path().join("cache"), fixture(FIXTURES[0]));
    let (cache, image) = (file.to_str().unwrap(), image.to_str().unwrap());
    let ids = (0..150).map(|i| (i * 7 % 200).to_string()).collect::<Vec<_>>().join(",");
    let run = |ids: &str, cache: &str| {
        let args = ["run", image, "--ids", ids, "-n", "8", "--ignore-eos", "-t", "1", "--json", "--prompt-cache", cache];
        let out = support::ran(&args);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{stderr}");
        (serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap(), stderr)
    };
    let (first, _) = run(&ids, cache);
    assert_eq!((&first["cached_tokens"], &first["prompt_tokens"]), (&0.into(), &150.into()));
    let (again, _) = run(&ids, cache);
    assert_eq!((&again["cached_tokens"], &again["prompt_tokens"]), (&149.into(), &1.into()));
    assert_eq!(again["ids"], first["ids"]);
    // Another question after the same words.
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    let (other, _) = run(&format!("{ids},5,6,7"), cache);
    assert_eq!((&other["cached_tokens"], &other["prompt_tokens"]), (&150.into(), &3.into()));
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written, "too little is new to write it again");
    // A bad file is told of, and replaced.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).unwrap();
    let (bad, told) = run(&ids, cache);
    assert!(told.contains("checksum of a block") && told.contains("reading the prompt anew"), "{told}");
    assert_eq!((&bad["cached_tokens"], &bad["ids"]), (&0.into(), &first["ids"]));
    assert_eq!(run(&ids, cache).0["cached_tokens"], 149);
    // A file that cannot be written costs a note.
    let nowhere = dir.path().join("no/such/folder/cache");
    let (answer, told) = run(&ids, nowhere.to_str().unwrap());
    assert!(told.contains("write prompt cache") && told.contains("the answer is not affected"), "{told}");
    assert_eq!(answer["ids"], first["ids"]);
}

#[test]
fn chat_keeps_the_conversation() {
    let Some(image) = support::image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache");
    let chat = |turns: &str| {
        let args =
            ["chat", image, "--system", "You are a mill on a river.", "-n", "6", "-t", "1", "--temperature", "0", "--json"];
        let mut chat = support::bourn(&args);
        let mut child =
            chat.args(["--prompt-cache", file.to_str().unwrap()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(turns.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        let answers = String::from_utf8(out.stdout).unwrap();
        answers.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()).collect::<Vec<_>>()
    };
    let first = chat("Hello\nAnd then?\n");
    assert_eq!(first[0]["cached_tokens"], 0);
    let held = fs::metadata(&file).unwrap().len();
    let second = chat("Hello\nAnd then?\n/clear\nHello\n");
    assert!(second[0]["cached_tokens"].as_u64().unwrap() > 10, "{second:?}");
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(a["ids"], b["ids"]);
    }
    assert_eq!(second[2]["ids"], first[0]["ids"]);
    assert!(fs::metadata(&file).unwrap().len() <= held, "the last conversation is a shorter one");
}
