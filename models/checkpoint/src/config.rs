//! config.json in both spellings, and GGUF keys respelled as one.

use serde_json::{Map, Value};

use crate::Error;
use crate::error::clip;

/// An object with typed getters. A key that is null counts as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a> {
    /// For messages: the file, and the object inside it.
    pub(crate) place: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    fn wrong<T>(&self, key: &str, needed: &str, value: &Value) -> Result<T, Error> {
        Err(Error::invalid(format!("{}: {}", self.place, clip(key)), needed, value))
    }

    /// An integer, also when written as a whole float.
    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(v) if v >= 0.0 && v <= f64::from(u32::MAX) && v.fract() == 0.0 => Ok(Some(v as u32)),
            _ => self.wrong(key, "an integer of 32 bits", value),
        }
    }

    /// A size: from 1 to `most`.
    pub(crate) fn size(&self, key: &str, default: Option<u32>, most: u32) -> Result<u32, Error> {
        match self.u32(key)?.or(default) {
            Some(v) if v >= 1 && v <= most => Ok(v),
            Some(v) => Err(Error::invalid(format!("{}: {key}", self.place), format!("1 to {most}"), v)),
            None => Err(Error::missing(key, self.place)),
        }
    }

    /// A finite number.
    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(v) if v.is_finite() => Ok(Some(v)),
            _ => self.wrong(key, "a finite number", value),
        }
    }

    /// A number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.f64(key)? {
            Some(v) if v <= 0.0 => self.wrong(key, "a number above 0", &Value::from(v)),
            other => Ok(other),
        }
    }

    /// A list of numbers above 0, as f32.
    pub(crate) fn positives(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = |v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
        match value.as_array().and_then(|list| list.iter().map(number).collect()) {
            Some(list) => Ok(Some(list)),
            None => self.wrong(key, "a list of numbers above 0", value),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_bool() {
            Some(v) => Ok(Some(v)),
            None => self.wrong(key, "true or false", value),
        }
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_str() {
            Some(v) => Ok(Some(v)),
            None => self.wrong(key, "a string", value),
        }
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_array() {
            Some(v) => Ok(Some(v)),
            None => self.wrong(key, "a list", value),
        }
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_object() {
            Some(map) => Ok(Some(Keys { place: self.place, map })),
            None => self.wrong(key, "an object", value),
        }
    }

    /// Ids written as one integer or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<u32>, Error> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        let ids = match value.as_array() {
            Some(list) => list.iter().map(id).collect(),
            None => id(value).map(|v| vec![v]),
        };
        match ids {
            Some(ids) => Ok(ids),
            None => self.wrong(key, "an id or a list of ids", value),
        }
    }
}

/// A JSON object and the file it came from.
#[derive(Debug)]
pub(crate) struct Json {
    file: String,
    map: Map<String, Value>,
}

impl Json {
    pub(crate) fn parse(bytes: &[u8], file: &str) -> Result<Self, Error> {
        let map = serde_json::from_slice(bytes).map_err(|e| Error::Json { file: file.to_owned(), message: e.to_string() })?;
        Ok(Self { file: file.to_owned(), map })
    }

    pub(crate) fn new(file: &str, map: Map<String, Value>) -> Self {
        Self { file: file.to_owned(), map }
    }

    pub(crate) fn keys(&self) -> Keys<'_> {
        Keys { place: &self.file, map: &self.map }
    }
}

/// A model's config: the decoder's part of it, and the wrapper's when there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config<'a> {
    /// `text_config`, or the whole when nothing is wrapped.
    pub(crate) text: Keys<'a>,
    /// The whole.
    pub(crate) top: Keys<'a>,
}

impl<'a> Config<'a> {
    pub(crate) fn new(json: &'a Json) -> Result<Self, Error> {
        let top = json.keys();
        Ok(Self { text: top.object("text_config")?.unwrap_or(top), top })
    }

    /// The decoder's `model_type`; the wrapper's when the decoder does not say.
    pub(crate) fn model_type(&self) -> Result<&'a str, Error> {
        match self.text.str("model_type")?.or(self.top.str("model_type")?) {
            Some(name) => Ok(name),
            None => Err(Error::missing("model_type", self.top.place)),
        }
    }

    /// Ids that end a text, wherever the config has them.
    pub(crate) fn eos(&self) -> Result<Vec<u32>, Error> {
        let mut ids = self.text.ids("eos_token_id")?;
        ids.extend(self.top.ids("eos_token_id")?);
        Ok(ids)
    }
}
