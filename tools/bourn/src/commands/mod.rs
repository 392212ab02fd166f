//! One file for each command.

mod bench;
mod board;
mod chat;
mod device;
mod eval;
mod fetch;
mod inspect;
mod logits;
mod pack;
mod run;
mod tokenize;
mod turns;

use crate::args::{Cli, Command};
use anyhow::Result;
use std::process::ExitCode;

/// Does what was asked for.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let quiet = cli.quiet;
    match cli.command {
        Command::Fetch(a) => fetch::fetch(&a, quiet),
        Command::Pack(a) => pack::pack(&a, quiet),
        Command::Inspect(a) => inspect::inspect(&a, quiet),
        Command::Run(a) => run::run(&a, quiet),
        Command::Chat(a) => chat::chat(&a, quiet),
        Command::Tokenize(a) => tokenize::tokenize(&a, quiet),
        Command::Logits(a) => logits::logits(&a, quiet),
        Command::Eval(a) => eval::eval(&a, quiet),
        Command::Bench(a) => bench::bench(&a, quiet),
        Command::Board(a) => board::board(&a, quiet),
        Command::Device(a) => device::device(&a, quiet),
    }
}
