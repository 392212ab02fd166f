//! Messages → prompt: the model's own chat template, run as transformers runs it.
//!
//! Source: transformers `utils/chat_template_utils.py` (`_compile_jinja_template`): trim_blocks, lstrip_blocks, loop controls,
//! `raise_exception`, `strftime_now`, and a `tojson` that escapes nothing of HTML.

use crate::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Steps (and 64-byte pieces of text) that a template may take: a thousand times a usual one, and an end to endless loops.
const FUEL: u64 = 4_000_000;
/// Deepest value that `tojson` writes.
const MAX_DEPTH: usize = 64;
/// Longest JSON that one `tojson` writes: a list that holds itself twice, sixty deep, has no end.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Largest template taken.
const MAX_SOURCE_BYTES: usize = 1 << 20;
const NAME: &str = "chat template";

/// A compiled chat template.
pub struct Template {
    env: Environment<'static>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template")
    }
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Template`] with the line that is wrong.
    pub fn new(source: &str) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::Template(format!("larger than {MAX_SOURCE_BYTES} bytes: {}", source.len())));
        }
        let mut env = Environment::new();
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(told)?);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(100);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", tojson);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", |format: String| strftime(&format, now()));
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(told)?;
        Ok(Self { env })
    }

    /// The text of a conversation. `variables` hold `messages` and whatever else the template knows
    /// (`add_generation_prompt`, `bos_token`, `eos_token`, `tools`, `enable_thinking`, `date_string` …).
    ///
    /// # Errors
    /// [`Error::Template`]: what the template raised, or that it does not end.
    pub fn render(&self, variables: &Map<String, Json>) -> Result<String, Error> {
        let template = self.env.get_template(NAME).map_err(told)?;
        template.render(Serde(variables)).map_err(told)
    }
}

fn told(e: minijinja::Error) -> Error {
    let mut text = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    if let Some(line) = e.line() {
        let _ = write!(text, " (line {line})");
    }
    Error::Template(text)
}

/// transformers marks the assistant's words for training with `{% generation %}` … `{% endgeneration %}`; here they mean nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let end = tag.find("%}").map_or(tag.len(), |i| i + 2);
        let (tag, after) = tag.split_at(end);
        match tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

/// `json.dumps(value, ensure_ascii=False, indent=…, separators=…, sort_keys=…)`.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sort_keys: bool = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let mut writer = JsonWriter { out: String::new(), indent: indent.map(|n| n.min(16)), item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from_safe_string(writer.out))
}

struct JsonWriter {
    out: String,
    indent: Option<usize>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), minijinja::Error> {
        let refuse = |what: String| Err(minijinja::Error::new(ErrorKind::InvalidOperation, what));
        if depth > MAX_DEPTH {
            return refuse(format!("tojson: nested deeper than {MAX_DEPTH}"));
        }
        match value.kind() {
            ValueKind::None => self.push("null")?,
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" })?,
            ValueKind::Number if value.is_integer() => self.push(&value.to_string())?,
            ValueKind::Number => self.push(&float(f64::try_from(value.clone())?))?,
            ValueKind::String => self.text(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                // One by one: what they hold may be longer than memory.
                self.list("[", "]", value.try_iter()?, depth, |this, item| this.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list("{", "}", keys.into_iter(), depth, |this, k| {
                    match k.as_str() {
                        Some(text) => this.text(text)?,
                        None => this.text(&k.to_string())?,
                    }
                    this.push(&this.key.clone())?;
                    this.value(&value.get_item(&k)?, depth + 1)
                })?;
            }
            kind => return refuse(format!("tojson: a value of type {kind} is not JSON")),
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: &str,
        close: &str,
        items: impl Iterator<Item = Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        self.push(open)?;
        let mut empty = true;
        for item in items {
            if !empty {
                self.push(&self.item.clone())?;
            }
            empty = false;
            self.line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.line(depth);
        }
        self.push(close)
    }

    /// Appends; everything but the indentation goes through here.
    fn push(&mut self, text: &str) -> Result<(), minijinja::Error> {
        if self.out.len() + text.len() > MAX_TEXT_BYTES {
            return Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: longer than {MAX_TEXT_BYTES} bytes"),
            ));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn text(&mut self, text: &str) -> Result<(), minijinja::Error> {
        // serde_json escapes what Python's json does with ensure_ascii=False: quotes, backslashes, controls.
        self.push(&Json::from(text).to_string())
    }
}

/// As Python's `repr(float)`.
fn float(v: f64) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = v.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{v:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = v.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `strftime` of a time in seconds since 1970, in UTC and English.
fn strftime(format: &str, time: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let (days, seconds) = (time / 86_400, time % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let month_name = MONTHS[(month as usize + 11) % 12];
    let day_name = DAYS[((days + 4) % 7) as usize];
    let hour12 = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let bare = code == Some('-');
        if bare {
            code = chars.next();
        }
        let mut two = |n: u64| if bare { write!(out, "{n}") } else { write!(out, "{n:02}") };
        let _ = match code {
            Some('Y') => write!(out, "{year}"),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('H') => two(hour),
            Some('I') => two(hour12),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('e') => write!(out, "{day:>2}"),
            Some('j') => write!(out, "{:03}", days - days_before(year) + 1),
            Some('B') => write!(out, "{month_name}"),
            Some('b' | 'h') => write!(out, "{}", &month_name[..3]),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", &day_name[..3]),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('F') => write!(out, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => write!(out, "UTC"),
            Some('z') => write!(out, "+0000"),
            Some('%') => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
            None => write!(out, "%"),
        };
    }
    out
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1970 to the first of January of `year`.
fn days_before(year: u64) -> u64 {
    (1970..year).map(|y| 365 + u64::from(is_leap(y))).sum()
}

/// Year, month and day of a day since 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, variables: Json) -> Result<String, String> {
        let Json::Object(map) = variables else { unreachable!() };
        Template::new(source).and_then(|t| t.render(&map)).map_err(|e| e.to_string())
    }

    #[test]
    fn writes_json_as_python_does() {
        let v = json!({"z": [1, 2.0, 1e20, 1e-7, true, null], "a": "<é> & 'x' \"y\"\n\u{1}"});
        let got = render("{{ v | tojson }}", json!({ "v": v })).unwrap();
        assert_eq!(got, r#"{"z": [1, 2.0, 1e+20, 1e-07, true, null], "a": "<é> & 'x' \"y\"\n\u0001"}"#);
        let got = render("{{ v | tojson(indent=2) }}", json!({"v": {"a": [1, {}], "b": []}})).unwrap();
        assert_eq!(got, "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}");
        let got = render("{{ v | tojson(separators=(',', ':'), sort_keys=true) }}", json!({"v": {"b": 1, "a": 2}})).unwrap();
        assert_eq!(got, r#"{"a":2,"b":1}"#);
    }

    #[test]
    fn knows_the_python_methods_and_namespaces() {
        let source = "{%- set ns = namespace(n=0) -%}{%- for m in messages[::-1] -%}{%- set ns.n = ns.n + 1 -%}\
            {{ ns.n }}{{ m.split('-')[0].rstrip('\n').upper() }}{{ m.startswith('a') }}{%- if ns.n == 2 %}{% break %}{% endif -%}{%- endfor -%}";
        assert_eq!(render(source, json!({"messages": ["x", "b\n-c", "a-d"]})).unwrap(), "1ATrue2BFalse");
    }

    #[test]
    fn looks_through_generation_tags() {
        let source = "a{%- generation -%} {{ x }} {%- endgeneration %}b";
        assert_eq!(render(source, json!({"x": 1})).unwrap(), "a1b");
    }

    #[test]
    fn tells_the_date() {
        assert_eq!(
            strftime("%d %b %Y|%B %-d, %A|%j %H:%M:%S %p%%", 1_709_210_096),
            "29 Feb 2024|February 29, Thursday|060 12:34:56 PM%"
        );
        assert_eq!(strftime("%Y-%m-%d", 0), "1970-01-01");
        assert_eq!(strftime("%q%", 0), "%q%");
        assert!(render("{{ strftime_now('%Y') }}", json!({})).unwrap().parse::<u32>().unwrap() >= 2024);
    }

    #[test]
    fn rejects_what_a_template_raises() {
        let e = render("{{ raise_exception('roles must alternate') }}", json!({})).unwrap_err();
        assert!(e.contains("roles must alternate"), "{e}");
    }

    #[test]
    fn rejects_broken_and_endless_templates() {
        assert!(render("{% for %}", json!({})).is_err());
        assert!(render("{{ a.b.c }}", json!({})).is_err());
        assert!(render("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", json!({})).is_err());
        assert!(
            render(
                "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                json!({})
            )
            .is_err()
        );
        let doubling =
            "{% set ns = namespace(s=[1]) %}{% for a in range(50) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}";
        assert!(render(doubling, json!({})).unwrap_err().contains("tojson: longer than"));
        assert!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", json!({})).is_err());
        assert!(Template::new(&"{".repeat(MAX_SOURCE_BYTES + 1)).is_err());
        assert!(Template::new(&"{% if a %}".repeat(10_000)).is_err());
        assert!(Template::new(&format!("{{{{ {}1 }}}}", "(".repeat(10_000))).is_err());
    }
}
