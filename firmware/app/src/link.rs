//! The line: requests in, answers out.

use bourn_protocol::frame::{Channel, Faults, MAX_BODY, MAX_WIRE, Receiver, encode, encode_log};
use bourn_protocol::message::Answer;
use embedded_io::{Read, ReadReady, Write};
use heapless::{Deque, Vec};

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Message {
    pub version: u8,
    pub sequence: u16,
    pub body: Vec<u8, MAX_BODY>,
}

/// A serial line with frames on it.
#[derive(Debug)]
pub(crate) struct Link<S> {
    serial: S,
    receiver: Receiver,
    input: Deque<u8, 2048>,
}

impl<S: Read + Write + ReadReady> Link<S> {
    pub const fn new(serial: S) -> Self {
        Self { serial, receiver: Receiver::new(), input: Deque::new() }
    }

    pub fn into_serial(self) -> S {
        self.serial
    }

    pub const fn faults(&self) -> Faults {
        self.receiver.faults()
    }

    /// Takes what the line has, without waiting. A line that fails is one on which nothing comes.
    fn fill(&mut self) {
        let mut bytes = [0; 64];
        while self.input.capacity() - self.input.len() >= bytes.len() && matches!(self.serial.read_ready(), Ok(true)) {
            let Ok(n) = self.serial.read(&mut bytes) else { return };
            if n == 0 {
                return;
            }
            for &byte in bytes.iter().take(n) {
                // There is room for 64.
                let _ = self.input.push_back(byte);
            }
        }
    }

    /// The next request, if one has come.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            self.fill();
            if self.input.is_empty() {
                return None;
            }
            while let Some(byte) = self.input.pop_front() {
                if !self.receiver.push(byte) {
                    continue;
                }
                if let Some(frame) = self.receiver.frame()
                    && frame.channel() == Some(Channel::Control)
                    && let Ok(body) = Vec::from_slice(frame.body)
                {
                    return Some(Message { version: frame.version, sequence: frame.sequence, body });
                }
            }
        }
    }

    /// Sends an answer. What the line does not take is lost: the host asks again.
    pub fn answer(&mut self, sequence: u16, answer: &Answer<'_>) {
        let mut wire = [0; MAX_WIRE];
        if let Some(bytes) = encode(sequence, answer, &mut wire) {
            self.send(bytes);
        }
    }

    /// Sends bytes of the log.
    pub fn log(&mut self, bytes: &[u8]) {
        let mut wire = [0; MAX_WIRE];
        let bytes = encode_log(bytes, &mut wire);
        self.send(bytes);
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.serial.write_all(bytes).is_ok() {
            let _ = self.serial.flush();
        }
    }
}
