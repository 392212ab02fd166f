//! Chat templates render as transformers renders them, character for character, on every golden of the oracle.

use bourn::template::Template;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The oracle's folder, if this machine has it.
fn oracle() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    let path = std::env::var_os("BOURN_ORACLE").map_or(beside, PathBuf::from);
    path.join("dev").is_dir().then_some(path)
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn token(config: &Value, key: &str) -> Value {
    match &config[key] {
        Value::Object(o) => o.get("content").cloned().unwrap_or_default(),
        other => other.clone(),
    }
}

/// How many goldens of `cases` were compared.
fn compare(name: &str, config: &Value, cases: &Value) -> usize {
    let Some(source) = config["chat_template"].as_str() else { return 0 };
    let template = Template::new(source).unwrap();
    let chats = cases["chat"].as_array().cloned().unwrap_or_default();
    for (i, chat) in chats.iter().enumerate() {
        let mut variables = Map::new();
        for key in ["bos_token", "eos_token"] {
            if !token(config, key).is_null() {
                variables.insert(key.to_owned(), token(config, key));
            }
        }
        variables.insert("messages".to_owned(), chat["messages"].clone());
        if let Value::Object(kwargs) = chat["kwargs"].clone() {
            variables.extend(kwargs);
        }
        assert_eq!(template.render(&variables).unwrap(), chat["rendered"].as_str().unwrap(), "{name} chat {i}");
    }
    chats.len()
}

#[test]
fn renders_every_golden_of_the_fixtures() {
    let Some(oracle) = oracle() else {
        println!("skipped: no oracle on this machine (set BOURN_ORACLE)");
        return;
    };
    let mut n = 0;
    for entry in std::fs::read_dir(oracle.join("dev")).unwrap() {
        let dir = entry.unwrap().path();
        let (config, cases) = (read(&dir.join("tokenizer_config.json")), read(&dir.join("golden/cases.json")));
        if let (Some(config), Some(cases)) = (config, cases) {
            n += compare(&dir.display().to_string(), &config, &cases);
        }
    }
    println!("{n} chats rendered");
    assert!(n > 30);
}

/// The templates of the real tokenizers: `BOURN_TOKENIZERS/<name>/tokenizer_config.json`, else where `cargo xtask fetch-test-data` puts them.
#[test]
fn renders_every_golden_of_the_real_tokenizers() {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let folder = std::env::var_os("BOURN_TOKENIZERS").map(PathBuf::from);
    let folder = folder.or_else(|| cache.map(|c| c.join("bourn/test-data/tokenizers"))).unwrap_or_default();
    for name in ["gemma3", "qwen3"] {
        let config = read(&folder.join(name).join("tokenizer_config.json"));
        let cases = oracle().and_then(|o| read(&o.join(format!("tokenizers/{name}.dev.json"))));
        match (config, cases) {
            (Some(config), Some(cases)) => assert!(compare(name, &config, &cases) >= 3),
            _ => println!("skipped {name}: no tokenizer_config.json or golden here (set BOURN_TOKENIZERS, BOURN_ORACLE)"),
        }
    }
}
