//! JSON files read key by key, as [`super::section`] reads TOML: what is wrong is reported at its place, and none of it stops the reading.

use std::ops::Range;

use jsonc_parser::ast::{Object as Parsed, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::document::{At, Document, Found, Report};
use super::scalar;

/// JSON, and none of what other parsers let pass.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// One object of a file.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    pub(crate) document: &'a Document,
    pub(crate) report: &'a Report,
    parsed: &'a Parsed<'a>,
}

/// Reads a file that holds one object.
pub(crate) fn understand<T>(document: &Document, report: &Report, read: impl FnOnce(Object<'_>) -> Option<T>) -> Option<T> {
    let problem = |at: &At, message: String| report.push(document.problem(at, "syntax", message, None));
    match parse_to_ast(&document.text, &CollectOptions::default(), &STRICT) {
        Err(error) => problem(&At::Span(span(error.range())), format!("the file is no JSON: {}", error.kind())),
        Ok(parsed) => match &parsed.value {
            Some(Value::Object(parsed)) => return read(Object { document, report, parsed }),
            Some(other) => problem(&At::Span(span(other.range())), format!("the file is one object, not {}", kind(other))),
            None => problem(&At::File, "the file is empty".to_owned()),
        },
    }
    None
}

fn span(range: jsonc_parser::common::Range) -> Range<usize> {
    range.start..range.end
}

impl<'a> Object<'a> {
    pub(crate) fn problem(&self, at: &At, code: &'static str, message: impl ToString, help: Option<String>) {
        self.report.push(self.document.problem(at, code, message.to_string(), help));
    }

    /// Where the object begins.
    pub(crate) fn at(&self) -> At {
        let start = self.parsed.range.start;
        At::Span(start..start + 1)
    }

    /// The value of a key; the first where it stands twice.
    pub(crate) fn value(&self, key: &str) -> Option<Found<&'a Value<'a>>> {
        let property = self.parsed.properties.iter().find(|property| property.name.as_str() == key)?;
        Some(Found { value: &property.value, at: At::Span(span(property.value.range())) })
    }

    /// The source text of a value.
    pub(crate) fn source(&self, value: &Value<'_>) -> &'a str {
        self.document.text.get(span(value.range())).unwrap_or_default()
    }

    fn wrong_type(&self, key: &str, found: &Found<&Value<'_>>, wanted: &str) {
        let message = format!("`{key}` must be {wanted}, not {}", kind(found.value));
        self.problem(&found.at, "wrong-type", message, None);
    }

    /// A text that is not blank.
    pub(crate) fn text(&self, key: &str) -> Option<Found<String>> {
        let found = self.value(key)?;
        match found.value {
            Value::StringLit(text) if text.value.trim().is_empty() => {
                self.problem(&found.at, "empty", format!("`{key}` is empty"), None);
                None
            }
            Value::StringLit(text) => Some(Found { value: text.value.to_string(), at: found.at }),
            _ => {
                self.wrong_type(key, &found, "a text");
                None
            }
        }
    }

    /// Reads a key that must be there; `whose` names the object in the message.
    pub(crate) fn required<T>(&self, key: &str, whose: &str, read: impl FnOnce(&Self, &str) -> Option<T>) -> Option<T> {
        if self.value(key).is_none() {
            self.problem(&self.at(), "missing-key", format!("{whose} has no `{key}`"), None);
            return None;
        }
        read(self, key)
    }

    /// One of these words.
    pub(crate) fn choice<T: Copy>(&self, key: &str, known: &[(&str, T)]) -> Option<T> {
        let found = self.text(key)?;
        let held = known.iter().find(|(word, _)| *word == found.value).map(|(_, value)| *value);
        if held.is_none() {
            let words = known.iter().map(|(word, _)| *word);
            let message = format!("`{key}` cannot be `{}`", scalar::short(&found.value));
            self.problem(&found.at, "bad-value", message, scalar::suggestion(&found.value, words));
        }
        held
    }

    pub(crate) fn whole(&self, key: &str) -> Option<Found<i64>> {
        let found = self.value(key)?;
        let number = match found.value {
            Value::NumberLit(number) => number.value.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.wrong_type(key, &found, "a whole number");
        }
        Some(Found { value: number?, at: found.at })
    }

    /// A text, or a list of texts; `None` where the key is not there.
    pub(crate) fn texts(&self, key: &str) -> Option<Vec<Found<String>>> {
        let found = self.value(key)?;
        let items = match found.value {
            Value::Array(array) => array.elements.iter().collect(),
            single => vec![single],
        };
        let texts = items.into_iter().filter_map(|item| match item {
            Value::StringLit(text) => Some(Found { value: text.value.to_string(), at: At::Span(span(item.range())) }),
            other => {
                let at = At::Span(span(other.range()));
                self.wrong_type(key, &Found { value: other, at }, "a list of texts");
                None
            }
        });
        Some(texts.collect())
    }

    /// A list of objects; empty where the key is not there.
    pub(crate) fn objects(&self, key: &str) -> Vec<Object<'a>> {
        let Some(found) = self.value(key) else { return Vec::new() };
        let Value::Array(array) = found.value else {
            self.wrong_type(key, &found, "a list of objects");
            return Vec::new();
        };
        let objects = array.elements.iter().filter_map(|element| match element {
            Value::Object(parsed) => Some(Object { parsed, ..*self }),
            other => {
                let at = At::Span(span(other.range()));
                self.wrong_type(key, &Found { value: other, at }, "a list of objects");
                None
            }
        });
        objects.collect()
    }

    /// Reports keys that are not known, and those that stand twice.
    pub(crate) fn finish(&self, known: &[&str]) {
        for (index, property) in self.parsed.properties.iter().enumerate() {
            let (name, at) = (property.name.as_str(), At::Span(span(property.name.range())));
            if !known.contains(&name) {
                let message = format!("unknown key `{}`", scalar::short(name));
                self.problem(&at, "unknown-key", message, scalar::suggestion(name, known.iter().copied()));
            } else if self.parsed.properties.iter().take(index).any(|before| before.name.as_str() == name) {
                self.problem(&at, "duplicate", format!("`{name}` stands twice"), None);
            }
        }
    }
}

/// The name of a value's type in a message.
fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::StringLit(_) => "a text",
        Value::NumberLit(_) => "a number",
        Value::BooleanLit(_) => "true or false",
        Value::Object(_) => "an object",
        Value::Array(_) => "a list",
        Value::NullKeyword(_) => "null",
    }
}
