//! What a user says: one prompt, or the turns of a conversation.

use crate::args::Prompt;
use crate::models;
use crate::output::{note, print};
use anyhow::{Context, Result};
use bourn::Message;
use std::io::{self, BufRead, IsTerminal};

/// The prompt's text; `-` is all of stdin.
pub fn text(a: &Prompt) -> Result<String> {
    match a.prompt.as_deref() {
        Some("-") => models::utf8(models::stdin()?, "stdin"),
        text => Ok(text.unwrap_or_default().to_owned()),
    }
}

/// The prompt as a conversation of one turn.
pub fn messages(a: &Prompt, text: &str) -> Vec<Message> {
    let system = a.system.iter().map(|s| Message::new("system", s));
    system.chain([Message::new("user", text)]).collect()
}

/// A conversation, typed a line a turn.
pub struct Conversation<'a> {
    system: Option<&'a str>,
    /// All that was said.
    pub messages: Vec<Message>,
    /// A person sits at both ends.
    pub terminal: bool,
}

impl<'a> Conversation<'a> {
    /// Nothing was said but what the model is told first.
    pub fn new(system: Option<&'a str>, quiet: bool) -> Self {
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        if terminal {
            note(quiet, "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer");
        }
        let mut conversation = Self { system, messages: Vec::new(), terminal };
        conversation.forget();
        conversation
    }

    /// Forgets what was said.
    pub fn forget(&mut self) {
        self.messages = self.system.iter().map(|s| Message::new("system", s)).collect();
    }

    /// Forgets what was said before the last turn; false if nothing was.
    pub fn forget_earlier(&mut self) -> bool {
        let before = self.messages.len();
        let last = self.messages.pop();
        self.forget();
        self.messages.extend(last);
        self.messages.len() < before
    }

    /// Waits for the next turn; false when the input ends.
    ///
    /// # Errors
    /// If stdin cannot be read or is no text.
    pub fn turn(&mut self) -> Result<bool> {
        loop {
            if self.terminal {
                print("> ")?;
            }
            let mut bytes = Vec::new();
            if io::stdin().lock().read_until(b'\n', &mut bytes).context("stdin: read")? == 0 {
                return Ok(false);
            }
            match models::utf8(bytes, "stdin")?.trim() {
                "" => {}
                "/exit" | "/quit" => return Ok(false),
                "/clear" => self.forget(),
                said => {
                    self.messages.push(Message::new("user", said));
                    return Ok(true);
                }
            }
        }
    }

    /// The model's turn.
    pub fn answered(&mut self, text: &str) {
        self.messages.push(Message::new("assistant", text));
    }
}
