//! The line to a board: frames, and the board's service behind them over a card in memory.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;

use bourn_app::slots::Area;
use bourn_app::{Board, Memory, Parts};
use bourn_core::Candidate;
use bourn_kernels::OneCore;
use bourn_protocol::frame::{MAX_WIRE, encode};
use bourn_protocol::message::{Answer, Request};
use bourn_protocol::{Receiver, VERSION};
use embedded_io::{ErrorType, Read, ReadReady, Write};
use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};

const IMAGE: &[u8] = include_bytes!("../../fixtures/v1-quantized.bourn");
/// Of the card: 6 MiB.
const BLOCKS: u32 = 6 * 2048;
const RAM: usize = 8 << 20;

/// Bytes as they come over a line, and as the body of a frame whose CRC is right.
pub fn frame(data: &[u8]) {
    let mut receiver = Receiver::new();
    for &byte in data {
        if receiver.push(byte) {
            let frame = receiver.frame().expect("a frame that was announced");
            read(frame.body);
        }
    }
    read(data);
    // What was lost before does not hide the next frame.
    let mut wire = [0; MAX_WIRE];
    let bytes = encode(7, &Request::Hello { nonce: 9 }, &mut wire).expect("a short message");
    let complete = bytes.iter().fold(false, |_, byte| receiver.push(*byte));
    assert!(complete, "a frame after noise is lost");
    assert_eq!(receiver.frame().map(|f| (f.version, f.sequence)), Some((VERSION, 7)));
}

/// What can be read is written as something that reads the same.
fn read(body: &[u8]) {
    let mut wire = [0; MAX_WIRE];
    if let Ok(request) = postcard::from_bytes::<Request<'_>>(body) {
        let _ = encode(1, &request, &mut wire);
    }
    if let Ok(answer) = postcard::from_bytes::<Answer<'_>>(body) {
        let _ = encode(1, &answer, &mut wire);
    }
}

/// Runs of bytes, each after its length: bodies of frames, and where the length is 255 bytes of the line as they are.
pub fn device(data: &[u8]) {
    let mut line = VecDeque::new();
    let mut rest = data;
    let mut sequence = 0;
    while let Some((&n, after)) = rest.split_first() {
        let (run, left) = after.split_at(after.len().min(usize::from(n)));
        if n == 255 {
            line.extend(run);
        } else {
            line.extend(sealed(sequence, run));
            sequence += u16::from(n % 2);
        }
        rest = left;
    }
    let line = Rc::new(RefCell::new(line));
    let (mut arena, mut blocks) = (vec![0; RAM], vec![Block::new(); 8]);
    let mut candidates = vec![Candidate::default(); 64];
    let tiers: Vec<_> = bourn_kernels::available().collect();
    bourn_app::run(Parts {
        name: "fuzzed",
        firmware: "0",
        build: Default::default(),
        board: Fuzzed { line: Rc::clone(&line), now: 0.into() },
        serial: Serial(line),
        card: Some(Card::new()),
        ahead: None,
        tiers: &tiers,
        decode: &OneCore,
        prefill: &OneCore,
        memory: Memory { arena: &mut arena, blocks: &mut blocks, candidates: &mut candidates },
        window: 4,
    });
}

/// A frame around a body, by its layout (firmware/protocol/README.md).
fn sealed(sequence: u16, body: &[u8]) -> Vec<u8> {
    let mut plain = vec![VERSION, 0];
    plain.extend(sequence.to_le_bytes());
    plain.extend(body);
    plain.extend(crc32fast::hash(&plain).to_le_bytes());
    let mut frame = vec![0];
    frame.extend(cobs::encode_vec(&plain));
    frame.push(0);
    frame
}

/// A board that ends with its input.
struct Fuzzed {
    line: Rc<RefCell<VecDeque<u8>>>,
    now: std::cell::Cell<u64>,
}

impl Board for Fuzzed {
    fn now_us(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    fn wants_reboot(&mut self) -> bool {
        self.line.borrow().is_empty()
    }
}

struct Serial(Rc<RefCell<VecDeque<u8>>>);

impl ErrorType for Serial {
    type Error = Infallible;
}

impl Read for Serial {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, Infallible> {
        let mut line = self.0.borrow_mut();
        let n = to.len().min(line.len());
        to.iter_mut().zip(line.drain(..n)).for_each(|(to, from)| *to = from);
        Ok(n)
    }
}

impl ReadReady for Serial {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.borrow().is_empty())
    }
}

impl Write for Serial {
    fn write(&mut self, from: &[u8]) -> Result<usize, Infallible> {
        Ok(from.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Blocks that were written; all others are zeros.
#[derive(Default)]
struct Card(RefCell<HashMap<u32, [u8; 512]>>);

impl Card {
    /// Two slots, the image in the first.
    fn new() -> Self {
        let card = Self::default();
        let area = Area::on_new_card(&card, BLOCKS).expect("there is room for two slots");
        for (block, bytes) in (area.place(0).first.0..).zip(IMAGE.as_chunks::<512>().0) {
            card.0.borrow_mut().insert(block, *bytes);
        }
        card
    }
}

impl BlockDevice for Card {
    type Error = io::Error;

    fn read(&self, blocks: &mut [Block], first: BlockIdx) -> io::Result<()> {
        for (i, block) in (first.0..).zip(blocks) {
            block.contents = self.0.borrow().get(&i).copied().unwrap_or([0; 512]);
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], first: BlockIdx) -> io::Result<()> {
        for (i, block) in (first.0..).zip(blocks) {
            assert!(i < BLOCKS, "a write beyond the card");
            self.0.borrow_mut().insert(i, block.contents);
        }
        Ok(())
    }

    fn num_blocks(&self) -> io::Result<BlockCount> {
        Ok(BlockCount(BLOCKS))
    }
}
