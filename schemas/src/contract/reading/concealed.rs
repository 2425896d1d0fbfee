//! What of a file must not be shown in an excerpt: any text that may be a secret. Shown are only the values of keys that are known
//! to hold none, so a password behind a mistyped key stays hidden; and references, which are no secrets.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::secret::is_literal;

/// Keys whose values are shown.
const OPEN: [&str; 83] = [
    "addressing",
    "after",
    "allow",
    "allow_remote",
    "basis",
    "batch",
    "binary",
    "brokers",
    "bucket",
    "ca",
    "cel",
    "chunk",
    "client_certificate",
    "code",
    "complete",
    "concurrency",
    "condition",
    "const",
    "contacts",
    "daily",
    "default",
    "department",
    "edition",
    "enabled",
    "encoding",
    "entity",
    "exclude_columns",
    "failover",
    "field",
    "fields",
    "format",
    "formulas",
    "from",
    "header",
    "heartbeat",
    "join",
    "kind",
    "linger",
    "listen",
    "max_record",
    "mode",
    "name",
    "number",
    "on_gap",
    "open_end",
    "origin",
    "other",
    "partitions",
    "path",
    "poll",
    "prefix",
    "publication",
    "purpose",
    "region",
    "replication_factor",
    "resource",
    "retained_log",
    "revision",
    "rows_per_second",
    "size",
    "slot",
    "split",
    "state",
    "state_path",
    "std_partitions",
    "streaming",
    "subscriber",
    "system",
    "table",
    "tables",
    "time_zone",
    "timely",
    "timeout",
    "title",
    "topic",
    "trace_days",
    "type",
    "unit",
    "until",
    "user",
    "where",
    "window",
    "workers",
];

/// Tables whose keys are names of fields, columns and values.
const OPEN_TABLES: [&str; 6] = ["codes", "keys", "map", "masks", "not_provided", "rules"];

/// Bytes to hide. The tree of a broken file is not to be trusted, so its lines are looked at one by one.
pub(in crate::contract) fn spans(text: &str, table: &DeTable<'_>, broken: bool) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    if broken {
        by_line(text, &mut hidden);
        return hidden;
    }
    let mut strings = Vec::new();
    walk(table, false, &mut hidden, &mut strings);
    comments(text, &strings, &mut hidden);
    hidden
}

fn walk(table: &DeTable<'_>, open: bool, hidden: &mut Vec<Range<usize>>, strings: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        strings.push(key.span());
        let name = key.get_ref().as_ref();
        let inner = open || OPEN_TABLES.contains(&name);
        look(value, inner, inner || OPEN.contains(&name), hidden, strings);
    }
}

fn look(value: &Spanned<DeValue<'_>>, inner: bool, open: bool, hidden: &mut Vec<Range<usize>>, strings: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, inner, hidden, strings),
        DeValue::Array(items) => items.iter().for_each(|item| look(item, inner, open, hidden, strings)),
        DeValue::String(text) => {
            strings.push(value.span());
            if !open && is_literal(text) {
                hidden.push(value.span().start + 1..value.span().end.saturating_sub(1));
            }
        }
        _ => {}
    }
}

/// Comments that may hold a former line.
fn comments(text: &str, strings: &[Range<usize>], hidden: &mut Vec<Range<usize>>) {
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find('#')).map(|at| from + at) {
        from = at + 1;
        if strings.iter().any(|string| string.contains(&at)) {
            continue;
        }
        let comment = text.get(at..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        if comment.contains(['=', '"', '\'', ':']) {
            hidden.push(at + 1..at + comment.len());
        }
        from = at + comment.len().max(1);
    }
}

/// Whether it is a key as TOML has them without quotes.
fn is_bare(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Shows a line that is `key = value` of one open key, or a section's header; of any other its key, where that is a plain one: what stands
/// before the first `=` can be the end of a text that began on the line before.
fn by_line(text: &str, hidden: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let (key, value) = line.split_once('=').map_or((line, ""), |(key, value)| (key, value));
        let word = key.trim().split(|c: char| c.is_whitespace() || c == '"').next().unwrap_or_default();
        let open = OPEN.contains(&word) && word == key.trim();
        let from = match line.contains('=') {
            true if open && !value.contains(['=', '{', '#']) && !value.contains("://") => line.len(),
            true if is_bare(key.trim()) => key.len() + 1,
            true => 0,
            false if line.trim_start().starts_with('[') && !line.contains(['"', '\'']) => line.len(),
            false if OPEN.contains(&word) => word.len() + key.len() - key.trim_start().len(),
            false => 0,
        };
        hidden.push(start + from..start + line.trim_end().len().max(from));
        start += line.len();
    }
}
