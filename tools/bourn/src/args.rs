//! What may be said on the command line.

#[path = "args/compute.rs"]
mod compute;
#[path = "args/device.rs"]
pub mod device;

use bourn::Speculate;
use bourn_core::speculate::MAX_DRAFT;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub use compute::Compute;
use std::path::PathBuf;

/// Runs small language models on small machines: packs a checkpoint into one int4 image and streams it.
#[derive(Debug, Parser)]
#[command(name = "bourn", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Nothing on stderr but errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch a checkpoint into the cache
    Fetch(Fetch),
    /// Pack a checkpoint into an image
    Pack(Pack),
    /// Show what an image holds
    Inspect(Inspect),
    /// Answer a prompt, or write on from it
    Run(Run),
    /// Chat in the terminal with the model's own template
    Chat(Chat),
    /// Text to token ids and back
    Tokenize(Tokenize),
    /// Logits of every position
    Logits(Logits),
    /// Perplexity of a text, and how far the image is from the float model
    Eval(Eval),
    /// Measure speed and memory
    Bench(Bench),
    /// Describe this machine and predict its speed
    Board(Board),
    /// Talk to a board without an operating system
    Device(device::Device),
}

/// How to open a model.
#[derive(Args, Clone, Debug)]
pub struct Open {
    /// Threads for decode and prefill [default: found by a short timed run]
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Where the image's bytes lie
    #[arg(long, value_enum, default_value_t)]
    pub stream: Stream,
    /// Stay within so much resident memory, all told, and stream what does not fit: 64M, 64MiB, 1G, bytes
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub ram: Option<u64>,
    /// With --ram: keep pinned weights from being swapped out
    #[arg(long, requires = "ram", hide_short_help = true)]
    pub lock: bool,
    /// With --ram: read at most SIZE bytes per second, as a slower device would
    #[arg(long, value_name = "SIZE", requires = "ram", value_parser = size, hide = true)]
    pub throttle: Option<u64>,
    /// What computes: cpu, gpu, gpu:NAME (software only by its name), or auto: whichever writes faster here
    #[arg(long, value_name = "cpu|gpu|gpu:NAME|auto", default_value = "cpu", value_parser = compute::parse)]
    pub device: Compute,
    /// Force a tier of kernels (scalar, avx2, avx512vnni, neon, dotprod …)
    #[arg(long, hide_short_help = true)]
    pub isa: Option<String>,
    /// Rows of a screened head that are read
    #[arg(long, value_enum, default_value_t, hide_short_help = true)]
    pub head: Head,
}

/// Which rows of the head are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Head {
    /// The coarse part and the candidates' rows, where the image has a screen
    #[default]
    Screen,
    /// All rows
    Exact,
}

/// Where bytes lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// Mapped from the file
    #[default]
    Mapped,
    /// Read into memory and checked at opening
    Resident,
}

/// The session.
#[derive(Args, Clone, Debug)]
pub struct Session {
    /// Positions, prompt and answer together [default: the model's, at most 4096]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Type of the KV cache [default: f16, for float images f32]
    #[arg(long, value_enum)]
    pub kv: Option<Kv>,
    /// Tokens that prefill takes at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096), hide_short_help = true)]
    pub prefill_block: Option<u32>,
}

/// Several tokens per pass over the weights; the text stays the same to the byte.
#[derive(Args, Clone, Debug)]
pub struct Speculation {
    /// Draft likely next tokens and verify them in one pass: auto (as many as pay), off, or at most N (1 to 31) in every pass
    #[arg(long, value_name = "auto|off|N", value_parser = speculate)]
    pub speculate: Option<Speculate>,
    /// Draft with this small model of the same vocabulary, kept in memory: an image or a name of the catalogue
    #[arg(long, value_name = "IMAGE")]
    pub draft: Option<String>,
}

fn speculate(text: &str) -> Result<Speculate, String> {
    match text {
        "auto" => Ok(Speculate::Auto),
        "off" => Ok(Speculate::Off),
        _ => match text.parse() {
            Ok(n) if (1..=MAX_DRAFT).contains(&n) => Ok(Speculate::Tokens(n)),
            _ => Err(format!("need auto, off or a number from 1 to {MAX_DRAFT}")),
        },
    }
}

/// Type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    F32,
    F16,
    I8,
}

/// How to choose tokens; what is not given is as the model's authors recommend.
#[derive(Args, Clone, Debug, Default)]
pub struct Sampling {
    /// 0: always the most likely token
    #[arg(long, value_parser = at_least_0)]
    pub temperature: Option<f32>,
    /// Keep the K most likely; 0: all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep the fewest tokens whose probability reaches P
    #[arg(long, value_name = "P", value_parser = above_0_to_1)]
    pub top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the most likely
    #[arg(long, value_name = "P", value_parser = from_0_to_1)]
    pub min_p: Option<f32>,
    /// Make tokens of the last 64 less likely; 1: off
    #[arg(long, value_name = "X", value_parser = above_0)]
    pub repetition_penalty: Option<f32>,
    /// Same seed, same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A text that ends the answer and is not part of it; may be given again
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// One prompt, and how it is answered.
#[derive(Args, Debug)]
pub struct Prompt {
    /// The prompt; - reads it from stdin
    #[arg(required_unless_present = "ids")]
    pub prompt: Option<String>,
    /// Token ids instead of a text
    #[arg(long, value_delimiter = ',', conflicts_with = "prompt")]
    pub ids: Option<Vec<u32>>,
    /// Most tokens to write [default: until the text ends]
    #[arg(short = 'n', long = "max-tokens", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Write on after the end of the text
    #[arg(long)]
    pub ignore_eos: bool,
    /// Write on from the bare prompt even if the model has a chat template
    #[arg(long)]
    pub raw: bool,
    /// What the model is told before the prompt
    #[arg(long, conflicts_with_all = ["raw", "ids"])]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// A conversation, and how it is held.
#[derive(Args, Debug, Default)]
pub struct Turns {
    /// What the model is told before the first turn
    #[arg(long)]
    pub system: Option<String>,
    /// Most tokens of an answer [default: until it ends]
    #[arg(short = 'n', long = "max-tokens", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// A number of bytes: `64M`, `64MiB` (both 2²⁰), `64MB` (10⁶), `65536`.
fn size(text: &str) -> Result<u64, String> {
    let need = || "need a number of bytes such as 64M, 64MiB, 64MB or 67108864".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (letter, rest) = unit.split_at(unit.chars().next().map_or(0, char::len_utf8));
    let power = match letter.to_ascii_lowercase().as_str() {
        "" | "b" if rest.is_empty() => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        _ => return Err(need()),
    };
    let base: u64 = match rest.to_ascii_lowercase().as_str() {
        "" | "i" | "ib" => 1024,
        "b" => 1000,
        _ => return Err(need()),
    };
    let bytes = number.parse::<f64>().map_err(|_| need())? * base.pow(power) as f64;
    if (1.0..(1u64 << 50) as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(need()) }
}

/// A number that `allowed` takes, else what is needed.
fn number(text: &str, need: &str, allowed: impl FnOnce(f32) -> bool) -> Result<f32, String> {
    let value = text.parse::<f32>().ok().filter(|v| v.is_finite() && allowed(*v));
    value.ok_or_else(|| format!("need a number {need}"))
}

fn at_least_0(text: &str) -> Result<f32, String> {
    number(text, "of at least 0", |v| v >= 0.0)
}

fn above_0(text: &str) -> Result<f32, String> {
    number(text, "above 0", |v| v > 0.0)
}

fn from_0_to_1(text: &str) -> Result<f32, String> {
    number(text, "from 0 to 1", |v| (0.0..=1.0).contains(&v))
}

fn above_0_to_1(text: &str) -> Result<f32, String> {
    number(text, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0)
}

/// `bourn fetch`
#[derive(Args, Debug)]
pub struct Fetch {
    /// A name of the catalogue
    pub name: String,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Element type of the packed matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    #[default]
    Q4,
    Q8,
    F16,
    Bf16,
    F32,
}

/// How a head is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PackHead {
    /// A coarse look at every row, exact 8-bit rows for the best 6 144 at most
    Screen,
    /// The same with more bits for the look and more exact rows
    Precise,
    /// 8 bits, every row read for every token
    #[value(alias = "exact")]
    Q8,
    Q4,
    F16,
    Bf16,
    F32,
}

/// How matrices are quantized to 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Error feedback, by what a calibration run shows that the matrices meet
    Gptq,
    /// Round to nearest, each group's scale searched for least error: needs no calibration
    Rtn,
}

/// `bourn pack`
#[derive(Args, Debug)]
pub struct Pack {
    /// A Hugging Face folder, a .gguf file, or a name of the catalogue
    pub src: String,
    /// The image to write
    #[arg(long, short)]
    pub out: PathBuf,
    /// Element type of the matrices
    #[arg(long, value_enum, default_value_t)]
    pub weights: Weights,
    /// The head: screened, or of one element type (then the embedding's too) [default: under q4 screen, or q8 where the
    /// vocabulary is small; else as --weights]
    #[arg(long, value_enum)]
    pub head: Option<PackHead>,
    /// A text for the calibration run, best of the kind the model will meet [default: built in]
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// How matrices are quantized to 4 bits [default: gptq; rtn for checkpoints without a tokenizer]
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Bits per weight of the layers, 4.5 to 8.5: what is more than 4.5 goes to the matrices that gain most by 8 bits, which takes a
    /// longer calibration run [default: 4.5, and 8 bits for small projections of values and keys]
    #[arg(long, value_name = "N")]
    pub bits: Option<f64>,
    /// Write what each tensor cost to this file: one page of HTML
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn inspect`
#[derive(Args, Debug)]
pub struct Inspect {
    /// An image or a name of the catalogue
    pub model: String,
    /// Read every page and check it
    #[arg(long)]
    pub verify: bool,
    /// Show what would be pinned and what streamed within so much memory
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub ram: Option<u64>,
    #[command(flatten)]
    pub session: Session,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn run`
#[derive(Args, Debug)]
pub struct Run {
    /// An image or a name of the catalogue
    pub model: String,
    #[command(flatten)]
    pub ask: Prompt,
    #[command(flatten)]
    pub open: Open,
    #[command(flatten)]
    pub session: Session,
    #[command(flatten)]
    pub speculation: Speculation,
    /// Keep what was read of the prompt in this file, and take it from there the next time
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn chat`
#[derive(Args, Debug)]
pub struct Chat {
    /// An image or a name of the catalogue
    pub model: String,
    #[command(flatten)]
    pub turns: Turns,
    #[command(flatten)]
    pub open: Open,
    #[command(flatten)]
    pub session: Session,
    #[command(flatten)]
    pub speculation: Speculation,
    /// Keep what was read of the prompt in this file, and take it from there the next time
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
    /// One JSON object for each answer on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn tokenize`
#[derive(Args, Debug)]
pub struct Tokenize {
    /// An image or a name of the catalogue
    pub model: String,
    /// The text; - reads stdin byte for byte
    #[arg(required_unless_present_any = ["decode", "chat"])]
    pub text: Option<String>,
    /// Put the ids of the model's post-processor around the text
    #[arg(long)]
    pub add_special: bool,
    /// Read spellings of special tokens in the text as text
    #[arg(long)]
    pub no_parse_special: bool,
    /// Ids to turn back into text
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["text", "chat"])]
    pub decode: Option<Vec<u32>>,
    /// With --decode: leave special tokens out
    #[arg(long, requires = "decode")]
    pub skip_special: bool,
    /// A message list through the model's template: {"messages": […], …template variables}
    #[arg(long, value_name = "FILE.json", conflicts_with = "text")]
    pub chat: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn logits`
#[derive(Args, Debug)]
pub struct Logits {
    /// An image or a name of the catalogue
    pub model: String,
    /// Token ids
    #[arg(long, value_delimiter = ',', required = true)]
    pub ids: Vec<u32>,
    /// Write the tensor `logits` f32 [n, vocab]
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: Option<PathBuf>,
    /// How many of the best to print for each position
    #[arg(long, value_name = "K", default_value_t = 10)]
    pub top: usize,
    /// Print the XXH3 of all logits' bits instead
    #[arg(long)]
    pub checksum: bool,
    #[command(flatten)]
    pub open: Open,
    #[command(flatten)]
    pub session: Session,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn eval`
#[derive(Args, Debug)]
pub struct Eval {
    /// An image or a name of the catalogue
    pub model: String,
    /// The text
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Compare with this: an image, a folder, a .gguf file or a name, which is packed in float
    #[arg(long, value_name = "SRC")]
    pub against: Option<String>,
    /// Tokens of a window; the incomplete last one is dropped
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub window: u32,
    /// Begin a window every N tokens, with the id that begins a text in place of its first [default: windows side by side]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub stride: Option<u32>,
    /// Score only the last N predictions of each window [default: with --stride its N, else all]; `--window 512 --stride 512
    /// --score 255` is what llama-perplexity does with -c 512
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub score: Option<u32>,
    /// Read only this many bytes of the text
    #[arg(long, value_name = "N")]
    pub bytes: Option<usize>,
    /// Judge only this many windows
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    #[command(flatten)]
    pub open: Open,
    /// Type of the KV cache [default: f16, for float images f32]
    #[arg(long, value_enum)]
    pub kv: Option<Kv>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn bench`
#[derive(Args, Debug)]
pub struct Bench {
    /// An image or a name of the catalogue
    pub model: String,
    /// Tokens to read
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub prompt: u32,
    /// Tokens to write
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    pub generate: u32,
    /// Runs; the best counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    #[command(flatten)]
    pub open: Open,
    #[command(flatten)]
    pub session: Session,
    #[command(flatten)]
    pub speculation: Speculation,
    /// Also what each kernel of the GPU takes, by its own clock
    #[arg(long)]
    pub profile: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `bourn board`
#[derive(Args, Debug)]
pub struct Board {
    /// Measure how fast this file is read past the page cache [default: the largest image in the cache]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Predict the speed of this image or catalogue name instead of the whole catalogue's
    #[arg(long, value_name = "MODEL")]
    pub image: Option<String>,
    /// Predictions for every board that is known, as Markdown
    #[arg(long, conflicts_with_all = ["json", "file", "image", "root"])]
    pub table: bool,
    /// Describe the machine whose /proc and /sys were copied to this folder; nothing is measured
    #[arg(long, value_name = "DIR", hide_short_help = true, conflicts_with = "file")]
    pub root: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn reads_sizes() {
        let good = [
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("64Mi", 64 << 20),
            ("64m", 64 << 20),
            ("1G", 1 << 30),
            ("25MB", 25_000_000),
        ];
        for (text, bytes) in good.into_iter().chain([("7", 7), ("7b", 7), ("1.5k", 1536)]) {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "64X", "64MM", "-1", "0", "1e9", "99999999G", "6 4M", "64Mé"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
