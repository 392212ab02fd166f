//! Two ends that speak different versions find out by their first words.

#![allow(clippy::result_large_err, reason = "that of the protocol, which has no heap")]

use bourn_protocol::client::{Patience, Transport};
use bourn_protocol::message::{Answer, Build, Hello, LogKind, Request, Why};
use bourn_protocol::{Client, Error, Receiver, VERSION};
use serde::Serialize;

/// A frame of any version, by its layout (README.md).
fn sealed(version: u8, sequence: u16, message: &impl Serialize) -> Vec<u8> {
    let mut plain = vec![version, 0];
    plain.extend(sequence.to_le_bytes());
    let mut body = [0; 256];
    plain.extend(&*postcard::to_slice(message, &mut body).unwrap());
    plain.extend(crc32fast::hash(&plain).to_le_bytes());
    let mut coded = vec![0; plain.len() + 8];
    let n = cobs::encode(&plain, &mut coded);
    [&[0], &coded[..n], &[0]].concat()
}

/// A board of some version that answers every request alike.
struct Old {
    version: u8,
    answer: Answer<'static>,
    receiver: Receiver,
    waiting: Vec<u8>,
    now: u64,
}

impl Transport for Old {
    type Error = String;

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            if self.receiver.push(byte) {
                let sequence = self.receiver.frame().unwrap().sequence;
                self.waiting.extend(sealed(self.version, sequence, &self.answer));
            }
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8], limit_us: u64) -> Result<usize, String> {
        self.now += limit_us.max(1);
        let n = bytes.len().min(self.waiting.len());
        bytes[..n].copy_from_slice(&self.waiting[..n]);
        self.waiting.drain(..n);
        Ok(n)
    }

    fn now_us(&self) -> u64 {
        self.now
    }
}

fn greeted(version: u8, answer: Answer<'static>) -> Result<(), Error<String>> {
    let old = Old { version, answer, receiver: Receiver::new(), waiting: Vec::new(), now: 0 };
    Client::new(old, Patience { answer_us: 1000, tries: 2 }).hello(7, &mut |_| {})
}

#[test]
fn hello_tells_which_versions_met() {
    let refusal = Answer::Refused { why: Why::Version, text: "whatever it says" };
    for version in [VERSION - 1, VERSION + 1] {
        // Refused, as a board does, or answered by one that thinks nothing of it.
        for answer in [refusal, Answer::Accepted] {
            let error = greeted(version, answer).unwrap_err();
            assert_eq!(error, Error::Version { need: VERSION, found: version });
            let text = format!("the firmware speaks version {version} of the protocol, this program version {VERSION}");
            assert_eq!(error.to_string(), text);
        }
    }
    let build = Build::of(b"firmware");
    let hello = Hello { nonce: 7, board: "b", firmware: "1", log: LogKind::Text, build };
    assert_eq!(greeted(VERSION, Answer::Hello(hello)), Ok(()));
}

#[test]
fn a_firmware_is_known_by_what_was_loaded() {
    let build = Build::of(b"code and constants");
    assert_eq!(build.is_of(b"code and constants, then data"), Some(true));
    assert_eq!(build.is_of(b"code and constantz, then data"), Some(false));
    assert_eq!(build.is_of(b"code"), Some(false));
    assert_eq!(Build::default().is_of(b"code"), None);
}

#[test]
fn a_request_of_any_version_is_read_as_far_as_its_header() {
    let mut receiver = Receiver::new();
    let whole =
        sealed(VERSION - 1, 300, &Request::Hello { nonce: 1 }).iter().fold(false, |whole, byte| receiver.push(*byte) | whole);
    assert!(whole);
    assert_eq!(receiver.frame().map(|f| (f.version, f.sequence)), Some((VERSION - 1, 300)));
}
