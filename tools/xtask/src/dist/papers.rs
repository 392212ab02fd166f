//! What goes into the package beside the program: manual, completions, units, copyright, changelog.

use std::path::Path;

use anyhow::{Context, Result};

use super::deb::{Entry, Package, gzip};
use super::maybe;
use crate::process::{cargo, command, root, run};

/// Which commit this is.
pub struct Version {
    /// As in file names: `0.1.0`, or `0.1.0-g1234567` between releases.
    pub text: String,
    /// As Debian orders it: between releases it is older than the release to come.
    pub debian: String,
    /// The commit's date in seconds since 1970, or `SOURCE_DATE_EPOCH`.
    pub epoch: u64,
}

impl Version {
    /// # Errors
    /// If the workspace has no version or `SOURCE_DATE_EPOCH` is no number.
    pub fn of_checkout() -> Result<Self> {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
        let manifest: toml::Table = manifest.parse()?;
        let release = manifest["workspace"]["package"]["version"].as_str().context("the workspace has no version")?.to_owned();
        let git = |args: &[&str]| maybe(command("git").args(args));
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch.parse().with_context(|| format!("SOURCE_DATE_EPOCH: need seconds since 1970, found {epoch}"))?,
            Err(_) => git(&["log", "-1", "--format=%ct"]).and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
        };
        let tagged =
            git(&["tag", "--points-at", "HEAD"]).is_some_and(|tags| tags.lines().any(|tag| tag == format!("v{release}")));
        let commit = git(&["log", "-1", "--format=%h", "--abbrev=7"]).filter(|_| !tagged);
        Ok(match commit {
            None => Self { text: release.clone(), debian: release, epoch },
            Some(commit) => {
                let (y, m, d) = date(epoch);
                Self { text: format!("{release}-g{commit}"), debian: format!("{release}~git{y}{m:02}{d:02}.{commit}"), epoch }
            }
        })
    }
}

impl Version {
    /// The name of the program's file.
    pub fn program(&self) -> String {
        format!("bourn-{}-aarch64-linux", self.text)
    }
}

/// The package with `program` in it; `scratch` is where the manual is written.
///
/// # Errors
/// If the manual cannot be made.
pub fn package(version: &Version, program: Vec<u8>, scratch: &Path) -> Result<Package> {
    const MAINTAINER: &str = "The Bourn authors <bourn-rs@users.noreply.github.com>";
    const HOMEPAGE: &str = "https://github.com/bourn-rs/bourn";
    let mut bourn = Entry::new("usr/bin/bourn", program);
    bourn.mode = 0o755;
    let mut files = vec![bourn];
    // Without the hub: its TLS need not be built for the arguments.
    let manual = ["run", "--locked", "--quiet", "--package", "bourn-cli", "--no-default-features", "--example", "manual", "--"];
    run(cargo(&manual).arg(scratch))?;
    for page in std::fs::read_dir(scratch.join("man1"))? {
        let page = page?;
        let name = page.file_name().to_string_lossy().into_owned();
        files.push(Entry::new(format!("usr/share/man/man1/{name}.gz"), gzip(&std::fs::read(page.path())?)?));
    }
    for (made, place) in [
        ("bourn.bash", "usr/share/bash-completion/completions/bourn"),
        ("_bourn", "usr/share/zsh/vendor-completions/_bourn"),
        ("bourn.fish", "usr/share/fish/vendor_completions.d/bourn.fish"),
    ] {
        files.push(Entry::new(place, std::fs::read(scratch.join("completions").join(made))?));
    }
    for unit in ["bourn-chat.socket", "bourn-chat@.service"] {
        let text = std::fs::read(root().join("tools/bourn/package").join(unit))?;
        files.push(Entry::new(format!("usr/lib/systemd/system/{unit}"), text));
    }
    let overrides = "# One file for every distribution and for boards without one.\nbourn: statically-linked-binary\n";
    files.push(Entry::new("usr/share/lintian/overrides/bourn", overrides));
    let changes = std::fs::read_to_string(root().join("CHANGELOG.md"))?;
    let changelog = changelog(&version.debian, &changes, MAINTAINER, version.epoch);
    files.push(Entry::new("usr/share/doc/bourn/changelog.gz", gzip(changelog.as_bytes())?));
    files.push(Entry::new("usr/share/doc/bourn/copyright", copyright(HOMEPAGE)?));
    Ok(Package {
        version: version.debian.clone(),
        arch: "arm64".to_owned(),
        epoch: version.epoch,
        maintainer: MAINTAINER.to_owned(),
        homepage: HOMEPAGE.to_owned(),
        files,
    })
}

/// Machine-readable copyright with the licence texts of the repository. Source: DEP-5.
fn copyright(homepage: &str) -> Result<String> {
    let mit = std::fs::read_to_string(root().join("LICENSE-MIT"))?;
    let holder = mit.lines().find_map(|line| line.strip_prefix("Copyright (c) ")).context("LICENSE-MIT names no holder")?;
    let indented = |text: &str| -> String {
        text.lines()
            .map(|line| if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {}\n", line.trim_end()) })
            .collect()
    };
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: bourn\nSource: {homepage}\n\n\
         Files: *\nCopyright: {holder}\nLicense: MIT or Apache-2.0\n\n\
         License: MIT\n{}\nLicense: Apache-2.0\n On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.\n",
        indented(mit.split_once("\n\n").map_or(mit.as_str(), |(_, terms)| terms))
    ))
}

/// The newest section of CHANGELOG.md as Debian writes it. Source: Debian Policy 4.4.
fn changelog(version: &str, changes: &str, maintainer: &str, epoch: u64) -> String {
    let newest = changes.split("\n## ").nth(1).unwrap_or_default();
    let mut items: Vec<String> = Vec::new();
    for line in newest.lines() {
        if let Some(item) = line.strip_prefix("- ") {
            items.push(item.to_owned());
        } else if let (Some(item), true) = (items.last_mut(), line.starts_with("  ")) {
            *item += &format!(" {}", line.trim());
        }
    }
    let mut text = format!("bourn ({version}) unstable; urgency=medium\n\n");
    for item in items {
        text += &wrapped(&item, "  * ", "    ");
    }
    text + &format!("\n -- {maintainer}  {}\n", rfc2822(epoch))
}

/// Lines of at most 78 characters.
fn wrapped(text: &str, first: &str, rest: &str) -> String {
    let (mut out, mut line) = (String::new(), first.to_owned());
    for word in text.split_whitespace() {
        if line.len() + word.len() >= 78 && line.trim_end().len() > first.trim_end().len() {
            out += line.trim_end();
            out.push('\n');
            line = rest.to_owned();
        }
        line += word;
        line.push(' ');
    }
    out + line.trim_end() + "\n"
}

/// Year, month and day of a time in UTC. Source: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
fn date(epoch: u64) -> (u64, u64, u64) {
    let days = epoch / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

fn rfc2822(epoch: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (y, m, d) = date(epoch);
    let (day, second) = (epoch / 86_400, epoch % 86_400);
    let (h, min, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}, {d:02} {} {y} {h:02}:{min:02}:{s:02} +0000", DAYS[(day % 7) as usize], MONTHS[(m - 1) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(rfc2822(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc2822(951_827_696), "Tue, 29 Feb 2000 12:34:56 +0000");
        assert_eq!(rfc2822(1_795_471_122), "Mon, 23 Nov 2026 21:58:42 +0000");
    }

    #[test]
    fn the_newest_changes_become_debians() {
        let long = "word ".repeat(20);
        let changes = format!("# Changelog\n\n## Unreleased\n\n### Added\n- One\n  more.\n- {long}\n\n## 0.1\n- Old.\n");
        let text = changelog("1.0", &changes, "A <a@b>", 0);
        assert_eq!(
            text,
            format!(
                "bourn (1.0) unstable; urgency=medium\n\n  * One more.\n  * {}\n    {}\n\n -- A <a@b>  Thu, 01 Jan 1970 00:00:00 +0000\n",
                "word ".repeat(14).trim_end(),
                "word ".repeat(6).trim_end()
            )
        );
    }
}
