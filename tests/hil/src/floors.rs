//! How fast a board must be: `boards/<name>/board.toml`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The least that a model must reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Floor {
    /// Its name in the catalogue.
    pub model: String,
    /// Keys of `bourn bench --json` and the least they may be.
    pub least: Vec<(String, f64)>,
}

/// What is stated of one board.
#[derive(Clone, Debug, PartialEq)]
pub struct Stated {
    /// Its folder's name.
    pub name: String,
    /// Parts of what its variants call themselves.
    pub models: Vec<String>,
    /// One for each model.
    pub floors: Vec<Floor>,
}

/// Every board of the repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known(Vec<Stated>);

impl Known {
    /// Reads `*/board.toml` below `boards`; none where there is no such folder.
    ///
    /// # Errors
    /// If a file is not TOML.
    pub fn read(boards: &Path) -> Result<Self> {
        let Ok(entries) = std::fs::read_dir(boards) else { return Ok(Self::default()) };
        let mut known = Vec::new();
        for entry in entries {
            let folder = entry?.path();
            let Ok(text) = std::fs::read_to_string(folder.join("board.toml")) else { continue };
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            known.push(Stated::parse(name, &text).with_context(|| folder.join("board.toml").display().to_string())?);
        }
        known.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(known))
    }

    /// How many boards there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The board of this folder name; without a name the one that knows most of what the board calls itself.
    pub fn find(&self, name: &str, model: &str) -> Option<&Stated> {
        if !name.is_empty() {
            return self.0.iter().find(|board| board.name == name);
        }
        let known = |board: &Stated| board.models.iter().filter(|part| model.contains(part.as_str())).map(String::len).max();
        self.0.iter().filter(|board| known(board).is_some()).max_by_key(|board| known(board))
    }
}

impl Stated {
    fn parse(name: String, text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let variants = table.get("variant").and_then(toml::Value::as_array).into_iter().flatten();
        let models = variants.filter_map(|variant| variant.get("models")?.as_array()).flatten();
        let models = models.filter_map(|model| model.as_str().map(str::to_owned)).collect();
        let mut floors = Vec::new();
        for (model, least) in table.get("floors").and_then(toml::Value::as_table).into_iter().flatten() {
            let least = least.as_table().with_context(|| format!("floors.{model}: need a table of numbers"))?;
            let number = |value: &toml::Value| value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            let least = least.iter().filter_map(|(key, value)| Some((key.clone(), number(value)?))).collect();
            floors.push(Floor { model: model.clone(), least });
        }
        Ok(Self { name, models, floors })
    }
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
    fn floors_are_keyed_by_model() {
        let text = "[[variant]]\nmodels = [\"Raspberry Pi 5\", \"Raspberry Pi 500\"]\n[floors.smollm2-135m-instruct]\ndecode_tok_s = 100\nprefill_tok_s = 200.5\n";
        let pi5 = Stated::parse("rpi5".to_owned(), text).unwrap();
        let least = vec![("decode_tok_s".to_owned(), 100.0), ("prefill_tok_s".to_owned(), 200.5)];
        assert_eq!(pi5.floors, [Floor { model: "smollm2-135m-instruct".to_owned(), least }]);
        let pi = Stated::parse("rpi".to_owned(), "[[variant]]\nmodels = [\"Raspberry\"]").unwrap();
        let known = Known(vec![pi, pi5]);
        assert_eq!(known.find("", "Raspberry Pi 5 Model B Rev 1.0").map(|b| b.name.as_str()), Some("rpi5"));
        assert_eq!(known.find("", "Raspberry Pi 4 Model B").map(|b| b.name.as_str()), Some("rpi"));
        assert_eq!(known.find("rpi5", "").map(|b| b.name.as_str()), Some("rpi5"));
        assert_eq!(known.find("", "QEMU"), None);
        assert!(Stated::parse("x".to_owned(), "[floors]\nm = 3").is_err());
    }

    #[test]
    fn every_board_of_the_repository_can_be_read() {
        let boards = crate::programs::root().join("boards");
        let folders = std::fs::read_dir(&boards).into_iter().flatten().flatten();
        let files = folders.filter(|entry| entry.path().join("board.toml").is_file()).count();
        assert_eq!(Known::read(&boards).unwrap().len(), files);
    }
}
