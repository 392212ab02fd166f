//! Checkpoints: safetensors, config.json, tokenizer.json, GGUF. What is accepted is read to the last row.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use bourn_checkpoint::{Checkpoint, TokenizerSpec};
use bourn_format::tokenizer::Tables;
use tempfile::TempDir;

const CONFIG: &[u8] = include_bytes!("../../fixtures/tiny/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../fixtures/tiny/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../../fixtures/tiny/tokenizer.json");
const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../fixtures/tiny/tokenizer_config.json");
/// Rows read of each tensor: the first, and as many as fit in a small buffer.
const MAX_ROW: usize = 1 << 16;
const TEXT: &str = "A text, über 12 345 \u{1F600} <s>\n\n  it's <|im_end|> x";

thread_local! {
    /// A folder with the tiny checkpoint, of which a door overwrites one file.
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// `model.safetensors` under the tiny config.
pub fn safetensors(data: &[u8]) {
    open_with("model.safetensors", data);
}

/// `config.json` over the tiny weights.
pub fn config_json(data: &[u8]) {
    open_with("config.json", data);
}

/// A GGUF file.
pub fn gguf(data: &[u8]) {
    in_folder(|folder| {
        let file = folder.join("model.gguf");
        write(&file, data);
        read(&file);
    });
}

/// `tokenizer.json`, then the section that is packed from it, then text through that.
pub fn tokenizer_json(data: &[u8]) {
    for config in [None, Some(TOKENIZER_CONFIG)] {
        if let Ok(spec) = TokenizerSpec::from_tokenizer_json(data, config) {
            pack_and_use(&spec);
        }
    }
}

fn pack_and_use(spec: &TokenizerSpec) {
    let Ok(section) = bourn_pack::tokenizer::section(spec) else { return };
    match Tables::new_checked(&section) {
        Ok(tables) => crate::tokenizer::round_trip(tables, TEXT),
        Err(error) => panic!("a packed section is refused: {error}"),
    }
}

fn open_with(name: &str, data: &[u8]) {
    in_folder(|folder| {
        write(&folder.join(name), data);
        read(folder);
    });
}

/// Every tensor of what is accepted, and its tokenizer.
fn read(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let mut row = vec![0.0; MAX_ROW];
    for tensor in checkpoint.tensors() {
        let rows = (MAX_ROW / tensor.cols.max(1)).min(tensor.rows);
        // An error is an answer; only a panic is a finding.
        let _ = checkpoint.rows_f32(tensor, 0..rows, &mut row[..rows * tensor.cols.min(MAX_ROW)]);
    }
    if let Some(spec) = &checkpoint.tokenizer {
        pack_and_use(spec);
    }
}

fn in_folder(run: impl FnOnce(&Path)) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| {
            let memory = PathBuf::from("/dev/shm");
            let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            let folder = folder.expect("a temporary folder can be made");
            let files = [("config.json", CONFIG), ("model.safetensors", WEIGHTS), ("tokenizer.json", TOKENIZER)];
            for (name, bytes) in files {
                write(&folder.path().join(name), bytes);
            }
            write(&folder.path().join("tokenizer_config.json"), TOKENIZER_CONFIG);
            folder
        });
        run(folder.path());
    });
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the temporary folder can be written");
}
