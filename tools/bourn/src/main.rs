//! The program `bourn`: fetch, pack, look, run, measure. Modules in path order: arguments → model → command.
#![deny(unsafe_code)]

mod args;
mod auto;
mod cache;
mod catalogue;
mod commands;
mod fetch;
mod gpu;
mod models;
mod output;
mod prompt_cache;
mod ram;
mod signal;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    signal::listen();
    match commands::dispatch(cli) {
        Ok(code) => code,
        Err(e) if output::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", output::one_line(&e));
            if let Some(hint) = output::hint(&e) {
                eprintln!("hint: {hint}");
            }
            if signal::stopped() { ExitCode::from(signal::EXIT) } else { ExitCode::FAILURE }
        }
    }
}
