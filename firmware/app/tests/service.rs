//! The board's service against this machine's own answers.

mod support;

use bourn::{GenerateOptions, Model, OpenOptions, SessionOptions, Threads};
use bourn_protocol::message::{Answer, Finish, Form, From, Generate, Hello, Load, Outcome, Part, Request, Weights, Why};
use bourn_protocol::port::{Written, greedy, prompt_of};
use std::ops::ControlFlow;
use support::{Setup, fixture, slotted, with_board};

const IDS: [u32; 12] = [5, 72, 139, 206, 2, 69, 136, 203, 270, 66, 133, 200];

/// What this machine writes.
fn here(name: &str, ids: &[u32], n: usize) -> Written {
    let options = OpenOptions { threads: Some(Threads::both(1)), ..OpenOptions::default() };
    let model = Model::open(&fixture(name), &options).unwrap();
    let mut session = model.session(&SessionOptions::default()).unwrap();
    let options = GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() };
    let mut text = String::new();
    session
        .generate(ids, &options, &mut |part| {
            text.push_str(part);
            ControlFlow::Continue(())
        })
        .unwrap();
    Written { ids: session.answer().to_vec(), text: text.into_bytes() }
}

#[test]
fn the_board_writes_what_this_machine_writes_resident_and_paged() {
    for name in ["v1-q4.bourn", "v1-f16.bourn", "v1-quantized.bourn", "v2-screen.bourn"] {
        // All of these models know 37 tokens at least.
        let ids = IDS.map(|id| id % 37);
        let want = here(name, &ids, 16);
        let card = slotted(&std::fs::read(fixture(name)).unwrap());
        with_board(Some(card), &Setup::default(), |client, _| {
            let is_sim = |hello: &Hello<'_>| hello.board == "sim" && hello.build.is_of(b"abc, then data") == Some(true);
            client.hello(7, &mut |hello| assert!(is_sim(hello), "{hello:?}")).unwrap();
            let mut sums = Vec::new();
            for weights in [Weights::Resident, Weights::Paged] {
                client.load(Load { weights, ..Load::default() }, &mut |_, _| ControlFlow::Continue(())).unwrap();
                let (written, done, sum) = greedy(client, &ids, 16).unwrap();
                assert_eq!(written, want, "{name} {weights:?}");
                assert_eq!((done.finish, done.prompt_tokens, done.tokens), (Finish::Length, 12, 16));
                sums.push(sum);
                // Once more: the prompt is known but for its last token.
                let (again, done, again_sum) = greedy(client, &ids, 16).unwrap();
                assert_eq!((again, again_sum, done.reused_tokens), (want.clone(), sum, 11));
            }
            assert_eq!(sums[0], sums[1], "{name}: paged and resident differ");
        });
    }
}

#[test]
fn every_test_of_itself_passes() {
    let card = slotted(&std::fs::read(fixture("v1-q4.bourn")).unwrap());
    with_board(Some(card), &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        let (mut index, mut of, mut passed) = (0, 1, 0);
        while index < of {
            of = client
                .ask("self-test", &Request::SelfTest { index, run: true }, &mut |answer| match answer {
                    Answer::Test { of, name, outcome, text, .. } => {
                        assert_eq!(*outcome, Outcome::Passed, "{name}: {text}");
                        passed += 1;
                        Some(*of)
                    }
                    _ => None,
                })
                .unwrap();
            index += 1;
        }
        assert!(passed >= 3, "{passed}");
    });
}

#[test]
fn texts_of_the_image_and_what_is_there_can_be_read() {
    let bytes = std::fs::read(fixture("v1-q4.bourn")).unwrap();
    let card = slotted(&bytes);
    with_board(Some(card), &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        let model = Model::open(&fixture("v1-q4.bourn"), &OpenOptions::default()).unwrap();
        let mut license = Vec::new();
        client.read_part(Part::License, &mut |b| license.extend_from_slice(b)).unwrap();
        assert_eq!(license, model.image().license().as_bytes());
        client
            .ask("info", &Request::Info, &mut |answer| match answer {
                Answer::Info(info) => {
                    let open = info.model.unwrap();
                    assert_eq!((open.bytes, open.resident, open.from), (bytes.len() as u64, true, From::Slot(0)));
                    assert_eq!(info.slots.unwrap().ids, [open.id, 0]);
                    assert_eq!(info.trouble, "");
                    Some(())
                }
                _ => None,
            })
            .unwrap();
    });
}

#[test]
fn a_generation_is_cancelled_and_the_next_goes_on() {
    let card = slotted(&std::fs::read(fixture("v1-q4.bourn")).unwrap());
    with_board(Some(card), &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        let mut written = Written::default();
        let mut looks = 0;
        let done = client
            .generate(&prompt_of(&IDS), &Generate::greedy(Form::Ids, 0), &mut written, &mut || {
                looks += 1;
                looks > 3
            })
            .unwrap();
        assert_eq!(done.finish, Finish::Cancelled);
        let (again, done, _) = greedy(client, &IDS, 4).unwrap();
        assert_eq!(done.tokens, 4);
        assert!(written.ids.starts_with(&again.ids) || again.ids.starts_with(&written.ids));
    });
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason() {
    let refused = |result: Result<(), support::HostError>, why: Why, part: &str| match result {
        Err(bourn_protocol::Error::Refused { why: found, text }) => {
            assert!(found == why && text.contains(part), "need {why:?} {part:?}, found {found:?} {text}");
        }
        other => panic!("need {why:?}, found {other:?}"),
    };
    with_board(None, &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        refused(greedy(client, &IDS, 4).map(|_| ()), Why::NoModel, "no card");
    });
    let card = slotted(&std::fs::read(fixture("v1-q4.bourn")).unwrap());
    with_board(Some(card.clone()), &Setup { ram: 100_000, ..Setup::default() }, |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        refused(greedy(client, &IDS, 4).map(|_| ()), Why::NoModel, "memory too small");
    });
    with_board(Some(card), &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        refused(greedy(client, &[1, u32::MAX], 4).map(|_| ()), Why::Prompt, "token id");
        refused(greedy(client, &[], 4).map(|_| ()), Why::Prompt, "need at least 1");
        let mut hot = Generate::greedy(Form::Ids, 4);
        hot.temperature = -1.0;
        let bad = client.generate(&prompt_of(&IDS), &hot, &mut Written::default(), &mut || false);
        refused(bad.map(|_| ()), Why::Option, "temperature");
        let load = Load { from: From::File, ..Load::default() };
        let missing = client.load(load, &mut |_, _| ControlFlow::Continue(()));
        refused(missing, Why::NoModel, "no image on the card");
    });
}

#[test]
fn the_host_may_start_the_board_anew() {
    let (_, exit) = with_board(None, &Setup::default(), |client, _| {
        client.hello(1, &mut |_| {}).unwrap();
        client.ask("reboot", &Request::Reboot { loader: true }, &mut |_| Some(())).unwrap();
    });
    assert_eq!(exit, bourn_app::Exit::Reboot { loader: true });
}
