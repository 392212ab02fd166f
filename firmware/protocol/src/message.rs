//! What is said: requests of the host, answers of the board.
//!
//! Variants and fields are only ever added at the end, and with them [`crate::VERSION`] rises. An answer carries the sequence number of its request.

use core::fmt;
use serde::{Deserialize, Serialize};

/// What a host asks of a board.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Who are you? Ends whatever an earlier host had begun. Answer: [`Answer::Hello`].
    Hello {
        /// Comes back in the answer.
        nonce: u32,
    },
    /// Ends the generation that has this sequence number, which then answers [`Answer::Done`]; else nothing happens, and
    /// [`Answer::Accepted`] comes.
    Cancel,
    /// What is there? Answer: [`Answer::Info`].
    Info,
    /// What has been done so far? Answer: [`Answer::Stats`].
    Stats,
    /// Opens the model, anew if one is open. Answer: [`Answer::Accepted`].
    Load(Load),
    /// A part of the prompt for the next [`Request::Generate`]. Answer: [`Answer::Accepted`].
    Prompt {
        /// Where it belongs.
        offset: u32,
        /// At most [`crate::frame::CHUNK`].
        bytes: &'a [u8],
    },
    /// Reads the prompt and writes on. Answers: [`Answer::Piece`]s, then [`Answer::Done`].
    Generate(Generate),
    /// Pieces of the answer that has this sequence number were lost: again from here on.
    Resend {
        /// Tokens that are here.
        tokens: u32,
        /// Bytes of text that are here.
        text: u32,
    },
    /// The checksum of the logits of the last generation that was asked to keep one. Answer: [`Answer::Sum`].
    Sum,
    /// A text of the image. Answer: [`Answer::Bytes`].
    Read {
        /// Which.
        part: Part,
        /// From where.
        offset: u32,
    },
    /// One of the board's tests of itself. Answer: [`Answer::Test`].
    SelfTest {
        /// Which, from 0.
        index: u16,
        /// False: only its name.
        run: bool,
    },
    /// A new image will come; the slot not in use is given up to it. Again with the same image: where were we?
    /// Answer: [`Answer::Update`].
    Begin {
        /// Length of the image.
        bytes: u64,
        /// Checksum in the image's superblock, which stands for all of it.
        sum: u64,
    },
    /// The next bytes of the new image. Answer: [`Answer::Update`] with what is wanted next, whatever came.
    Chunk {
        /// Where it belongs.
        offset: u64,
        /// At most [`crate::frame::CHUNK`].
        bytes: &'a [u8],
    },
    /// Reads the new image back and checks all of it. Answer: [`Answer::Update`].
    Verify,
    /// The new image is the one to start with from now on. Answer: [`Answer::Switched`].
    Switch,
    /// Starts the board anew, after [`Answer::Accepted`].
    Reboot {
        /// Stay in the loader, if there is one, to be given other firmware.
        loader: bool,
    },
}

/// How to open the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Which image.
    pub from: From,
    /// Where its weights are to lie.
    pub weights: Weights,
    /// Positions; 0: as many as the memory allows, at most 4096.
    pub context: u32,
}

/// Which image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// The slot in use, else the first file.
    #[default]
    Any,
    /// A slot.
    Slot(u8),
    /// The first file with the ending `.bourn` (or `.brn`) in the root of the first FAT32 partition.
    File,
}

/// Where weights lie while the model is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weights {
    /// In memory if they fit.
    #[default]
    Auto,
    /// In memory.
    Resident,
    /// On the card, read as they are needed.
    Paged,
}

/// What the bytes of a prompt are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// UTF-8.
    Text {
        /// Put the model's own first and last tokens around it.
        add_special: bool,
        /// Read spellings of special tokens as these.
        parse_special: bool,
    },
    /// Token ids, 4 bytes each, little-endian.
    Ids,
}

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Bytes of the prompt.
    pub prompt_bytes: u32,
    /// CRC-32 of the prompt: what was sent in parts is what is read.
    pub prompt_crc: u32,
    /// What they are.
    pub form: Form,
    /// Most tokens; 0: until the text ends or the context is full.
    pub max_tokens: u32,
    /// Logits are divided by this; 0: always the most likely token.
    pub temperature: f32,
    /// Keep the k most likely; 0: all.
    pub top_k: u32,
    /// Keep the fewest tokens whose probability reaches this; 1: all.
    pub top_p: f32,
    /// Keep tokens at least this times as likely as the most likely; 0: all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by this; 1: off.
    pub repetition_penalty: f32,
    /// Same seed, same text.
    pub seed: u64,
    /// Write on after an end-of-text token.
    pub ignore_eos: bool,
    /// Keep a checksum of all logits ([`Request::Sum`]): costs a pass over them per token.
    pub sum: bool,
}

impl Generate {
    /// Always the most likely token, `n` of them whatever they are, and a checksum of the logits: by what machines are compared.
    pub const fn greedy(form: Form, n: u32) -> Self {
        Self {
            prompt_bytes: 0,
            prompt_crc: 0,
            form,
            max_tokens: n,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            ignore_eos: true,
            sum: true,
        }
    }
}

/// A text of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The chat template.
    ChatTemplate,
    /// Where the image comes from.
    Provenance,
    /// Its licence.
    License,
    /// Spelling of the token that begins a text.
    Bos,
    /// Spelling of the token that ends one.
    Eos,
}

/// What a board answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// Who it is.
    Hello(Hello<'a>),
    /// Done, and nothing to tell.
    Accepted,
    /// Not done, and why.
    Refused {
        /// In a word.
        why: Why,
        /// What was needed, what was found.
        text: &'a str,
    },
    /// Still at it.
    Progress {
        /// Of `of`.
        done: u64,
        /// 0: not known.
        of: u64,
    },
    /// What is there.
    Info(Info<'a>),
    /// What has been done.
    Stats(Stats),
    /// Of an answer: a token, or more text of the one before.
    Piece {
        /// Which token, from 0.
        token: u32,
        /// Its id.
        id: u32,
        /// Where its text belongs.
        offset: u32,
        /// Bytes of UTF-8, cut anywhere; may be empty.
        text: &'a [u8],
    },
    /// The answer has ended.
    Done(Done),
    /// Checksum of logits.
    Sum {
        /// Rows of logits in it.
        rows: u32,
        /// Of row after row, little-endian f32: see README.md.
        sum: u64,
    },
    /// Part of a text.
    Bytes {
        /// From where.
        offset: u32,
        /// Length of the whole.
        of: u32,
        /// At most [`crate::frame::CHUNK`]; none at the end.
        bytes: &'a [u8],
    },
    /// How a test went.
    Test {
        /// Which, from 0.
        index: u16,
        /// How many there are.
        of: u16,
        /// Its name.
        name: &'a str,
        /// How it ended.
        outcome: Outcome,
        /// Why it failed or was skipped.
        text: &'a str,
        /// How long it took.
        micros: u64,
    },
    /// How far an update is.
    Update {
        /// The slot that the image goes to.
        slot: u8,
        /// The byte that is wanted next.
        next: u64,
        /// Chunks that may be on the way at once.
        window: u8,
    },
    /// The slot in use.
    Switched {
        /// Which.
        slot: u8,
        /// How many times slots were switched.
        sequence: u32,
    },
}

/// Why something was not done, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The request is none that this version knows.
    Unknown,
    /// The sender speaks another version.
    Version,
    /// Something else is going on.
    Busy,
    /// There is no card.
    NoCard,
    /// There is no image, or none is open.
    NoModel,
    /// The image is broken.
    Image,
    /// The card failed.
    Card,
    /// Memory is short.
    Memory,
    /// The prompt did not arrive, or is none.
    Prompt,
    /// The text is longer than the context.
    Context,
    /// An option is out of range.
    Option,
    /// There is no place for an update, or no update.
    Update,
    /// Broken numbers: a fault of the board or the weights.
    Compute,
}

/// Who a board is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// From the request.
    pub nonce: u32,
    /// The board's name.
    pub board: &'a str,
    /// Version of its firmware.
    pub firmware: &'a str,
    /// What log frames hold.
    pub log: LogKind,
    /// Which firmware it is, to the byte.
    pub build: Build,
}

/// A firmware, told from any other by its code and constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Bytes from the beginning of what was loaded on that never change; 0: not known.
    pub bytes: u32,
    /// Their CRC-32.
    pub crc: u32,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "build {:08x} of {} bytes", self.crc, self.bytes)
    }
}

impl Build {
    /// Of code and constants.
    pub fn of(fixed: &[u8]) -> Self {
        Self { bytes: fixed.len() as u32, crc: crc32fast::hash(fixed) }
    }

    /// Whether this is the firmware that a loader would find in `flat`; nothing where the board does not know.
    pub fn is_of(&self, flat: &[u8]) -> Option<bool> {
        (self.bytes > 0).then(|| flat.get(..self.bytes as usize).is_some_and(|fixed| Self::of(fixed) == *self))
    }
}

/// What log frames hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogKind {
    /// UTF-8.
    Text,
    /// defmt frames in rzCOBS, to be decoded with the firmware's ELF file.
    Defmt,
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info<'a> {
    /// The tier of kernels in use.
    pub isa: &'a str,
    /// Cores that rows are shared over.
    pub cores: u8,
    /// Memory for models.
    pub ram_bytes: u64,
    /// Blocks of 512 bytes of the card; 0: no card.
    pub card_blocks: u32,
    /// The open model.
    pub model: Option<Model>,
    /// Why none is open; empty: all is well.
    pub trouble: &'a str,
    /// The slots, if the card has any.
    pub slots: Option<Slots>,
    /// Tests that the board has.
    pub tests: u16,
}

/// The open model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Checksum in its superblock, which stands for all of it.
    pub id: u64,
    /// Where it was found.
    pub from: From,
    /// Length of the image.
    pub bytes: u64,
    /// Weights.
    pub parameters: u64,
    /// Bytes read per decoded token.
    pub bytes_per_token: u64,
    /// Ids are below this.
    pub vocab: u32,
    /// Positions.
    pub context: u32,
    /// Longest prompt in bytes.
    pub prompt_bytes: u32,
    /// Whether the weights are in memory.
    pub resident: bool,
    /// Memory taken in all.
    pub ram_bytes: u64,
    /// How long opening it took.
    pub open_us: u64,
    /// What the model's authors recommend for sampling: see [`Generate`].
    pub temperature: f32,
    /// See [`Generate`].
    pub top_k: u32,
    /// See [`Generate`].
    pub top_p: f32,
    /// See [`Generate`].
    pub min_p: f32,
    /// See [`Generate`].
    pub repetition_penalty: f32,
}

/// The two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The one in use.
    pub active: u8,
    /// How many times slots were switched.
    pub sequence: u32,
    /// Bytes that fit each.
    pub bytes: [u64; 2],
    /// Checksum in the superblock of the image in each; 0: none.
    pub ids: [u64; 2],
}

/// What has been done since the board was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Time since then.
    pub uptime_us: u64,
    /// Generations.
    pub generations: u32,
    /// Tokens read.
    pub tokens_read: u64,
    /// Tokens written.
    pub tokens_written: u64,
    /// Bytes read from the card.
    pub card_bytes: u64,
    /// Reads of the card that failed and were tried again.
    pub retried_reads: u64,
    /// Pages whose checksum was wrong and that were read again.
    pub reread_pages: u64,
    /// Frames that came whole.
    pub frames_good: u32,
    /// Frames that did not.
    pub frames_bad: u32,
    /// Temperature of the processor in thousandths of a degree Celsius.
    pub millicelsius: Option<i32>,
    /// Clock of the cores.
    pub core_hz: Option<u64>,
    /// The board's own word for under-voltage and throttling; 0: none.
    pub throttled: Option<u32>,
    /// Of the bytes read from the card those that had come before they were asked for.
    pub ahead_bytes: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// The model ended it.
    EndOfText,
    /// As many tokens as asked for.
    Length,
    /// No position is left.
    ContextFull,
    /// The host said so.
    Cancelled,
}

/// What an answer was, and took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt, those that were known already included.
    pub prompt_tokens: u32,
    /// Of these known already.
    pub reused_tokens: u32,
    /// Tokens written, the ending one included.
    pub tokens: u32,
    /// Bytes of text.
    pub text_bytes: u32,
    /// CRC-32 of the ids (4 bytes each, little-endian), then of the text: what has arrived is what was written.
    pub crc: u32,
    /// From the request to the logits of the prompt.
    pub prefill_us: u64,
    /// From the request to the first token.
    pub first_token_us: u64,
    /// From the request to the end.
    pub total_us: u64,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was only named.
    Named,
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It cannot be made here.
    Skipped,
}

/// Of token ids, then text: what [`Done::crc`] holds.
pub fn answer_crc(ids: impl Iterator<Item = u32>, text: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    ids.for_each(|id| crc.update(&id.to_le_bytes()));
    crc.update(text);
    crc.finalize()
}

/// What [`Generate::prompt_crc`] holds.
pub fn prompt_crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
