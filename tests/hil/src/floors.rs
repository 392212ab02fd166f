//! How fast a board must be: the floors of `boards/<name>/board.toml`.

use std::path::{Path, PathBuf};

use bourn_host::board::{self, Board};

/// What is stated of the board of this folder name; without a name of the one that calls itself so in its device tree.
pub fn stated(name: &str, model: &str) -> Option<&'static Board> {
    if name.is_empty() { board::by_model(model).map(|(board, _)| board) } else { board::by_name(name) }
}

/// An image to measure a model with: `BOURN_BOARD_MODEL` if its name begins with the model's, else the newest in the cache.
///
/// # Errors
/// The reason why there is none.
pub fn image(model: &str) -> Result<PathBuf, String> {
    let is_it = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(model));
    if let Some(path) = std::env::var_os("BOURN_BOARD_MODEL").map(PathBuf::from).filter(|path| is_it(path)) {
        return Ok(path);
    }
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = set("BOURN_CACHE").or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("bourn")));
    let cache = cache.or_else(|| set("HOME").map(|home| home.join(".cache/bourn"))).unwrap_or_default();
    let images = std::fs::read_dir(cache.join("images")).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = images.filter(|path| is_it(path)).max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    newest.ok_or_else(|| format!("no image of {model} here: cargo run --release -- run {model} Hello"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_what_the_board_calls_itself() {
        let found = |name, model| stated(name, model).map(|board| board.name.as_str());
        assert_eq!(found("", "Raspberry Pi 5 Model B Rev 1.0"), Some("rpi5"));
        assert_eq!(found("rpi4", "Raspberry Pi 5 Model B Rev 1.0"), Some("rpi4"));
        assert_eq!((found("", "QEMU"), found("no-such", "Raspberry Pi 4")), (None, None));
    }

    #[test]
    fn floors_are_keys_of_bench() {
        for (board, floors) in board::all().iter().flat_map(|board| board.floors.values().map(move |floors| (board, floors))) {
            let known = ["decode_tok_s", "prefill_tok_s"];
            assert!(floors.keys().all(|key| known.contains(&key.as_str())), "{}: {floors:?}", board.name);
        }
    }
}
