//! The runner, as cargo calls it, against a board that is a thread of this test: names, exit status, what a failure says.

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bourn_protocol::frame::{MAX_WIRE, encode, encode_log};
use bourn_protocol::message::{Answer, Build, Hello, LogKind, Outcome, Request, Stats};
use bourn_protocol::{Receiver, VERSION};
use support::{elf, packed};

/// What a board of these tests is.
#[derive(Clone)]
struct Played {
    build: Build,
    /// The file in which its loader finds firmware.
    boot: Option<std::path::PathBuf>,
    /// The version of its protocol.
    version: u8,
}

const TESTS: [(&str, Outcome, &str); 3] = [
    ("rows/every_piece_once", Outcome::Passed, ""),
    ("rope/neon", Outcome::Failed, "differs from scalar"),
    ("image/every_page", Outcome::Skipped, "no model is open"),
];

impl Played {
    /// Answers a host until it goes.
    fn serve(&mut self, mut line: UnixStream) {
        let mut receiver = Receiver::new();
        let (mut bytes, mut wire) = ([0; 512], [0; MAX_WIRE]);
        while let Ok(n @ 1..) = line.read(&mut bytes) {
            for &byte in &bytes[..n] {
                if !receiver.push(byte) {
                    continue;
                }
                let Some(frame) = receiver.frame() else { continue };
                let Ok(request) = postcard::from_bytes::<Request<'_>>(frame.body) else { continue };
                let sequence = frame.sequence;
                let mut send = |answer: &Answer<'_>| {
                    let frame = encode(sequence, answer, &mut wire).unwrap().to_vec();
                    let frame = if self.version == VERSION { frame } else { of_version(self.version, &frame) };
                    line.write_all(&frame).unwrap();
                };
                match request {
                    Request::Hello { nonce } => {
                        let hello = Hello { nonce, board: "played", firmware: "9", log: LogKind::Defmt, build: self.build };
                        send(&Answer::Hello(hello));
                    }
                    Request::SelfTest { index, run } => {
                        let (name, outcome, text) = TESTS[usize::from(index)];
                        let outcome = if run { outcome } else { Outcome::Named };
                        send(&Answer::Test { index, of: TESTS.len() as u16, name, outcome, text, micros: 1 });
                        if run {
                            let said = packed(&[&7_u16.to_le_bytes()[..], &2_000_000_u64.to_le_bytes()].concat());
                            line.write_all(encode_log(&said, &mut [0; MAX_WIRE])).unwrap();
                            // Time for it to be on its way before the next question.
                            line.flush().unwrap();
                        }
                    }
                    Request::Stats => {
                        let faults = receiver.faults();
                        let frames_bad = faults.corrupt + faults.oversized;
                        send(&Answer::Stats(Stats { frames_bad, ..Stats::default() }));
                    }
                    Request::Reboot { .. } => {
                        send(&Answer::Accepted);
                        if let Some(boot) = &self.boot {
                            self.build = Build::of(&std::fs::read(boot).unwrap());
                        }
                    }
                    _ => send(&Answer::Accepted),
                }
            }
        }
    }
}

/// The same frame from a board of another version.
fn of_version(version: u8, frame: &[u8]) -> Vec<u8> {
    let mut plain = frame[1..frame.len() - 1].to_vec();
    let n = cobs::decode_in_place(&mut plain).unwrap() - 4;
    plain.truncate(n);
    plain[0] = version;
    plain.extend(crc32fast::hash(&plain).to_le_bytes());
    let mut coded = vec![0; plain.len() + 8];
    let n = cobs::encode(&plain, &mut coded);
    [&[0], &coded[..n], &[0]].concat()
}

/// Runs the program on firmware with this board at the other end of its line.
fn ran(played: Played, boot: Option<&Path>, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (socket, firmware) = (folder.path().join("line"), folder.path().join("bourn-played"));
    std::fs::write(&firmware, elf("4", "rzcobs")).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let board = Arc::new(Mutex::new(played));
    std::thread::spawn(move || {
        while let Ok((line, _)) = listener.accept() {
            board.lock().unwrap().serve(line);
        }
    });
    let mut runner = Command::new(env!("CARGO_BIN_EXE_bourn-hil-runner"));
    runner.arg(&firmware).args(args).env("BOURN_BOARD", format!("unix:{}", socket.display()));
    runner.env_remove("BOURN_BOOT_DIR").env_remove("BOURN_BAUD");
    if let Some(boot) = boot {
        runner.env("BOURN_BOOT_DIR", boot);
    }
    runner.output().unwrap()
}

fn unknown() -> Played {
    Played { build: Build::default(), boot: None, version: VERSION }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn tests_of_the_board_have_its_names_and_a_failure_says_what_the_board_said() {
    let listed = text(&ran(unknown(), None, &["--list"]).stdout);
    assert!(listed.contains("self_test::rope/neon: test") && listed.contains("log::every_frame"), "{listed}");
    let all = ran(unknown(), None, &["self_test"]);
    let printed = text(&all.stdout);
    assert_eq!(all.status.code(), Some(101), "{printed}");
    for part in [
        "played, firmware 9",
        "self_test::rows/every_piece_once ... ok",
        "self_test::rope/neon             ... FAILED",
        "Failed: differs from scalar\n  board: 2.000000 INFO  plain {braces}",
        "Skipped: no model is open",
        "test result: FAILED. 1 passed; 2 failed",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let good = ran(unknown(), None, &["rows", "--nocapture"]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stdout));
    assert!(text(&good.stderr).contains("does not tell which firmware it runs"), "{}", text(&good.stderr));
    let noise = ran(unknown(), None, &["faults"]);
    assert!(text(&noise.stdout).contains("1 passed; 0 failed"), "{}", text(&noise.stdout));
}

#[test]
fn other_firmware_is_told_from_this_and_replaced_where_it_boots_from() {
    let folder = tempfile::tempdir().unwrap();
    let other = Played { build: Build::of(b"old"), boot: Some(folder.path().join("kernel8.img")), version: VERSION };
    let refused = ran(other.clone(), None, &[]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for part in ["the board runs other firmware: need build", "found build", "BOURN_BOOT_DIR"] {
        assert!(said.contains(part), "{said}");
    }
    let replaced = ran(other, Some(folder.path()), &["rows"]);
    assert_eq!(replaced.status.code(), Some(0), "{}", text(&replaced.stderr));
    let old = ran(Played { version: VERSION - 1, ..unknown() }, None, &[]);
    let said = text(&old.stderr);
    assert!(said.contains(&format!("speaks version {} of the protocol", VERSION - 1)), "{said}");
}

#[test]
fn what_is_missing_is_told() {
    let run = |args: &[&str], board: &str| {
        let mut runner = Command::new(env!("CARGO_BIN_EXE_bourn-hil-runner"));
        let out = runner.args(args).env("BOURN_BOARD", board).output().unwrap();
        (out.status.code(), text(&out.stderr))
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["bourn-rpi3", "bourn-rpi5", "program"] {
        std::fs::write(at(name), elf("4", "rzcobs")).unwrap();
    }
    std::fs::write(at("text"), "no firmware").unwrap();
    assert_eq!(run(&[], "").0, Some(2));
    for (file, board, need) in [
        ("absent", "qemu-virt", "No such file"),
        ("text", "qemu-virt", "need a firmware's ELF file or kernel8.img"),
        ("bourn-rpi3", "qemu-virt", "need firmware of qemu-virt, found that of rpi3"),
        ("bourn-rpi3", "ssh:pi@host", "cargo test -p bourn-hil --test board"),
        ("bourn-rpi3", "qemu-rpi9", "need qemu-virt[:CPU]"),
        ("bourn-rpi5", "", "no emulator for board rpi5"),
        ("program", "", "does not tell the board"),
        ("bourn-rpi3", "serial:/dev/there-is-no-such-port", "No such file"),
        ("bourn-rpi3", "unix:/no/such/socket", "No such file"),
    ] {
        let (code, said) = run(&[&at(file)], board);
        assert!(code == Some(1) && said.contains(need), "{file} {board}: {code:?} {said}");
    }
}
