//! What of a file must not be shown in an excerpt: values of keys that hold secrets, unless they are references.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::secret::is_literal;

/// Keys whose values may hold a password or a key.
const KEYS: [&str; 4] = ["url", "password", "secret", "properties"];

/// Bytes to hide. In a broken file, whose tree is not to be trusted, whatever follows such a key in its line.
pub(in crate::contract) fn spans(text: &str, table: &DeTable<'_>, broken: bool) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    if broken {
        by_line(text, &mut spans);
    } else {
        walk(table, false, &mut spans);
    }
    spans
}

fn walk(table: &DeTable<'_>, within: bool, spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        let secret = within || KEYS.contains(&key.get_ref().as_ref());
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, secret, spans),
            DeValue::String(text) if secret && is_literal(text) => {
                let span = value.span();
                spans.push(span.start + 1..span.end.saturating_sub(1));
            }
            _ => {}
        }
    }
}

fn by_line(text: &str, spans: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let key = KEYS.iter().filter_map(|key| line.find(key).map(|at| at + key.len())).min();
        let address = line.find("://");
        if let Some(from) = key.into_iter().chain(address).min() {
            spans.push(start + from..start + line.trim_end().len());
        }
        start += line.len();
    }
}
