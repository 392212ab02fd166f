//! The tables of docs/boards.md: what every board that is known should reach, as `bourn board --table` has it.

use anyhow::{Context, Result, bail};

use crate::process::{cargo, output, root};

const PAGE: &str = "docs/boards.md";
const BEGIN: &str = "<!-- begin: cargo xtask predict -->\n";
const END: &str = "<!-- end -->";

/// Writes the tables into the page; with `check` fails where that would change it.
pub fn predict(check: bool) -> Result<()> {
    let tables = output(&mut cargo(&["run", "--locked", "--quiet", "--package", "bourn-cli", "--", "board", "--table"]))?;
    let path = root().join(PAGE);
    let page = std::fs::read_to_string(&path).context(PAGE)?;
    let written = between_marks(&page, &tables)?;
    if check && written != page {
        bail!("{PAGE} is not up to date: `cargo xtask predict` writes it");
    }
    std::fs::write(&path, written).context(PAGE)
}

fn between_marks(page: &str, tables: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_what_is_between_the_marks() {
        let page = format!("a\n{BEGIN}old\n{END}\nb\n");
        assert_eq!(between_marks(&page, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n\n{END}\nb\n"));
        assert!(between_marks("a", "new").is_err());
    }
}
