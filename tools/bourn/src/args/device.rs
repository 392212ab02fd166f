//! `bourn device`

use super::{Prompt, Turns, size};
use bourn_protocol::port::Line;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `bourn device`
#[derive(Args, Debug)]
#[command(subcommand_negates_reqs = true)]
pub struct Device {
    /// Where the board is: a serial port (/dev/ttyUSB0), tcp:HOST:PORT or unix:PATH
    #[arg(required = true)]
    pub line: Option<Line>,
    /// Bits per second of a serial port
    #[arg(long, default_value_t = 115_200)]
    pub baud: u32,
    /// One JSON object on stdout (chat: one a turn)
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do [default: chat]
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do with a board.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Chat with the model's own template
    Chat(Turns),
    /// Answer a prompt, or write on from it
    Run(Run),
    /// What the board is, and the model that is open
    Info,
    /// What it has done, how warm it is
    Stats,
    /// Let the board test itself: every kernel, its cores, its clock, the image
    SelfTest,
    /// Send a new image into the slot that is not in use, and switch to it
    Flash(Flash),
    /// Open the model anew, with its weights or its context otherwise
    Load(Load),
    /// Show the board's log until Ctrl-C
    Logs(Logs),
    /// Start the board anew
    Reboot(Reboot),
    /// Be a board: the firmware's own program over a card that is a file
    Simulate(Simulate),
}

/// `bourn device … run`
#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    pub ask: Prompt,
    /// Have the board keep a checksum of all logits
    #[arg(long)]
    pub checksum: bool,
}

/// `bourn device … flash`
#[derive(Args, Debug)]
pub struct Flash {
    /// The image
    pub image: PathBuf,
}

/// Where weights are to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// In memory if they fit
    #[default]
    Auto,
    /// In memory
    Resident,
    /// On the card, read for every token
    Paged,
}

/// `bourn device … load`
#[derive(Args, Debug)]
pub struct Load {
    /// Where the weights are to lie
    #[arg(long, value_enum, default_value_t)]
    pub weights: Weights,
    /// Positions, prompt and answer together [default: as many as fit, at most 4096]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// The image in this slot [default: the one in use, else the first file]
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub slot: Option<u8>,
}

/// `bourn device … logs`
#[derive(Args, Debug)]
pub struct Logs {
    /// The firmware's ELF file: its defmt frames become lines
    #[arg(long, value_name = "FILE")]
    pub elf: Option<PathBuf>,
    /// Write the bytes as they come, for another decoder of defmt
    #[arg(long, conflicts_with = "elf")]
    pub raw: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
}

/// `bourn device … reboot`
#[derive(Args, Debug)]
pub struct Reboot {
    /// Stay in the loader, if there is one, to be given other firmware
    #[arg(long)]
    pub loader: bool,
}

/// `bourn device simulate`
#[derive(Args, Debug)]
pub struct Simulate {
    /// The image in the first slot of a new card
    #[arg(long, required_unless_present = "card")]
    pub image: Option<PathBuf>,
    /// The card, which is made if there is none (with --image) [default: a new one that nobody keeps]
    #[arg(long, value_name = "FILE")]
    pub card: Option<PathBuf>,
    /// Where to listen: unix:PATH, tcp:HOST:PORT (port 0: any), or pty
    #[arg(long, default_value = "pty")]
    pub listen: String,
    /// Memory of the board
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "512M")]
    pub ram: u64,
    /// Size of each slot of a new card [default: a quarter more than the image]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub slot: Option<u64>,
    /// Cores that rows are shared over [default: all]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Force a tier of kernels
    #[arg(long, hide_short_help = true)]
    pub isa: Option<String>,
    /// End when the first host has gone
    #[arg(long, hide = true)]
    pub once: bool,
}
