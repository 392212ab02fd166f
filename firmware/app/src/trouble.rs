use bourn_protocol::MAX_TEXT;
use bourn_protocol::message::Why;
use core::fmt::{self, Write};
use heapless::String;

/// Why something was not done: a word, and what was needed and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In a word.
    pub why: Why,
    /// In lower case, without a full stop.
    pub text: String<MAX_TEXT>,
}

/// Keeps what fits.
struct Cut<'a>(&'a mut String<MAX_TEXT>);

impl Write for Cut<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Trouble {
    /// What is wrong; a longer text is cut off.
    pub fn new(why: Why, text: fmt::Arguments<'_>) -> Self {
        let mut kept = String::new();
        // Never fails: what does not fit is left out.
        let _ = Cut(&mut kept).write_fmt(text);
        Self { why, text: kept }
    }

    /// A card's own words.
    pub fn card(doing: &str, block: u32, error: &dyn fmt::Display) -> Self {
        Self::new(Why::Card, format_args!("the card failed to {doing} block {block}: {error}"))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl core::error::Error for Trouble {}

impl From<bourn_format::Error> for Trouble {
    fn from(e: bourn_format::Error) -> Self {
        Self::new(Why::Image, format_args!("{e}"))
    }
}

impl From<bourn_flash::Error> for Trouble {
    fn from(e: bourn_flash::Error) -> Self {
        let why = match e {
            bourn_flash::Error::Device { .. } => Why::Card,
            bourn_flash::Error::Buffer { .. } => Why::Memory,
            _ => Why::Image,
        };
        Self::new(why, format_args!("{e}"))
    }
}

impl From<bourn_core::Error> for Trouble {
    fn from(e: bourn_core::Error) -> Self {
        use bourn_core::Error as E;
        let why = match e {
            E::Format(_) => Why::Image,
            E::Read { .. } | E::Stalled { .. } => Why::Card,
            E::Option { .. } | E::Sampling { .. } => Why::Option,
            E::Workspace { .. } => Why::Memory,
            E::ContextFull { .. } => Why::Context,
            E::Token { .. } | E::Empty => Why::Prompt,
            _ => Why::Compute,
        };
        Self::new(why, format_args!("{e}"))
    }
}
