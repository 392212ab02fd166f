//! What goes to stdout and stderr: data, progress, errors.

use bourn_format::Error as FormatError;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// An error with a hint of what to do about it.
#[derive(Debug)]
pub struct Hinted {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hinted {}

/// An error with a hint.
pub fn hinted(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted { what: what.into(), hint: hint.into() }.into()
}

/// Writes to stdout and flushes.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to stdout.
pub fn line(text: &str) -> io::Result<()> {
    print(&format!("{text}\n"))
}

/// Writes one JSON object.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(value)?)?)
}

/// Whether the reader of stdout has gone: no failure of ours.
pub fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one line; a cause that was told already is left out.
pub fn one_line(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain().map(|c| c.to_string().replace('\n', " ")) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What may help.
pub fn hint(e: &anyhow::Error) -> Option<String> {
    for cause in e.chain() {
        if let Some(h) = cause.downcast_ref::<Hinted>() {
            return Some(h.hint.clone());
        }
        if let Some(text) = crate::gpu::hint(cause) {
            return Some(text);
        }
        let host = match cause.downcast_ref::<bourn::Error>() {
            Some(bourn::Error::Host(host)) => Some(host),
            _ => cause.downcast_ref::<bourn_host::Error>(),
        };
        match host {
            Some(bourn_host::Error::Ram { need, .. }) => {
                return Some(format!(
                    "the smallest that works here: --ram {}M; a smaller --context or --kv i8 takes less",
                    need.div_ceil(1 << 20)
                ));
            }
            Some(bourn_host::Error::Lock { .. }) => {
                return Some("allow more: ulimit -l unlimited, or LimitMEMLOCK= of the service".to_owned());
            }
            _ => {}
        }
        let format = match host {
            Some(bourn_host::Error::Image { source, .. }) => Some(source),
            _ => match cause.downcast_ref::<bourn_core::Error>() {
                Some(bourn_core::Error::Format(source)) => Some(source),
                _ => cause.downcast_ref::<FormatError>(),
            },
        };
        let text = match format {
            Some(FormatError::NotAnImage) => "to make an image of a checkpoint: bourn pack SRC -o OUT.bourn",
            Some(FormatError::NewerVersion { .. }) => "the image was made by a newer bourn: update this one",
            Some(FormatError::Truncated { .. } | FormatError::Checksum { .. } | FormatError::Invalid { .. }) => {
                "the file is damaged: copy, fetch or pack it again"
            }
            _ => continue,
        };
        return Some(text.to_owned());
    }
    None
}

/// A progress bar on a terminal, nothing in a pipe.
pub fn bar(quiet: bool, total: u64, what: &str) -> ProgressBar {
    let target = if quiet || !io::stderr().is_terminal() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent}% {msg} ({eta})");
    let bar = ProgressBar::with_draw_target(Some(total), target);
    bar.set_prefix(what.to_owned());
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Milliseconds with microseconds behind the point.
pub fn ms(d: std::time::Duration) -> f64 {
    d.as_micros() as f64 / 1e3
}

/// Rounded to three decimals: enough for speeds, and stable to read.
pub fn round3(v: f64) -> f64 {
    (v * 1e3).round() / 1e3
}

/// `12.3 MB`, decimal units as in the roofline.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// A note on stderr unless quiet.
pub fn note(quiet: bool, text: &str) {
    if !quiet {
        eprintln!("{text}");
    }
}
