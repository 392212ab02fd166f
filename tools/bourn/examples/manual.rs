//! `manual FOLDER`: the man pages and shell completions of `bourn`, made from the arguments it takes.
//!
//! An example and not a command, so that the program does not carry what only its package needs.
#![deny(unsafe_code)]

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

#[path = "../src/args.rs"]
#[allow(dead_code, missing_docs, reason = "the program uses what is declared here and documents it")]
mod args;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: manual FOLDER")?);
    let mut command = args::Cli::command();
    let man = folder.join("man1");
    std::fs::create_dir_all(&man)?;
    clap_mangen::generate_to(command.clone(), &man)?;
    let completions = folder.join("completions");
    std::fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "bourn", &completions)?;
    }
    Ok(())
}
