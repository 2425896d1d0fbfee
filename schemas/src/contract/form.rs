//! How a system's rows become events: `names`, `truncate` and `unknown_types` of its file, and Debezium's own options under
//! `[debezium]`, by their names there (`decimal.handling.mode = "string"`).

use std::borrow::Cow;

use super::reading::section::Section;
use crate::avro::EventForm;
use crate::avro::form::{Binary, Decimals, Intervals, Names, Times, Truncates, UnknownTypes};

const NAMES: [(&str, Names); 4] =
    [("escaped", Names::Escaped), ("debezium", Names::Debezium), ("avro", Names::Avro), ("avro_unicode", Names::AvroUnicode)];
const TRUNCATES: [(&str, Truncates); 3] =
    [("deletes", Truncates::Deletes), ("event", Truncates::Event), ("skip", Truncates::Skip)];
const UNKNOWN_TYPES: [(&str, UnknownTypes); 3] =
    [("text", UnknownTypes::Text), ("bytes", UnknownTypes::Bytes), ("skip", UnknownTypes::Skip)];
const DECIMALS: [(&str, Decimals); 3] =
    [("precise", Decimals::Precise), ("double", Decimals::Double), ("string", Decimals::String)];
const TIMES: [(&str, Times); 3] = [("adaptive", Times::Adaptive), ("connect", Times::Connect), ("isostring", Times::IsoString)];
const INTERVALS: [(&str, Intervals); 2] = [("numeric", Intervals::Numeric), ("string", Intervals::String)];
const BINARY: [(&str, Binary); 2] = [("bytes", Binary::Bytes), ("base64", Binary::Base64)];

/// Longest `topic.prefix`: schema and table have to fit Kafka's 249 characters behind it.
const LONGEST_PREFIX: usize = 100;

pub(super) fn read(root: &Section<'_>) -> EventForm {
    let usual = EventForm::DEFAULT;
    let section = root.own_section("debezium");
    let debezium = section.as_ref();
    let form = EventForm {
        names: root.choice("names", &NAMES).map_or(usual.names, |found| found.value),
        truncates: root.choice("truncate", &TRUNCATES).map_or(usual.truncates, |found| found.value),
        unknown_types: root.choice("unknown_types", &UNKNOWN_TYPES).map_or(usual.unknown_types, |found| found.value),
        topic_prefix: option(debezium, "topic.prefix", |at, key| at.parsed(key, prefix)).map(|found| found.value),
        decimals: option(debezium, "decimal.handling.mode", |at, key| at.choice(key, &DECIMALS))
            .map_or(usual.decimals, |found| found.value),
        times: option(debezium, "time.precision.mode", |at, key| at.choice(key, &TIMES)).map_or(usual.times, |found| found.value),
        intervals: option(debezium, "interval.handling.mode", |at, key| at.choice(key, &INTERVALS))
            .map_or(usual.intervals, |found| found.value),
        binary: option(debezium, "binary.handling.mode", |at, key| at.choice(key, &BINARY))
            .map_or(usual.binary, |found| found.value),
        placeholder: option(debezium, "unavailable.value.placeholder", |at, key| at.words(key))
            .map_or(usual.placeholder, |found| Cow::Owned(found.value)),
        tombstones: option(debezium, "tombstones.on.delete", |at, key| at.flag(key))
            .map_or(usual.tombstones, |found| found.value),
        transactions: option(debezium, "provide.transaction.metadata", |at, key| at.flag(key))
            .map_or(usual.transactions, |found| found.value),
    };
    if let Some(section) = section {
        section.finish();
    }
    form
}

/// Reads a key that TOML takes for nested tables. No two options share a table, so each table is read, and its unknown keys are
/// reported, once.
fn option<T>(section: Option<&Section<'_>>, path: &str, read: impl FnOnce(&Section<'_>, &str) -> Option<T>) -> Option<T> {
    let section = section?;
    let Some((head, rest)) = path.split_once('.') else { return read(section, path) };
    let inner = section.own_section(head)?;
    let found = option(Some(&inner), rest, read);
    inner.finish();
    found
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !plain || !(1..=LONGEST_PREFIX).contains(&text.len()) || text.split('.').any(str::is_empty) {
        return Err(format!("must be 1 to {LONGEST_PREFIX} of the characters A-Z, a-z, 0-9, `.`, `_`, `-`, no part of it empty"));
    }
    match text.split('.').next() {
        Some(taken @ ("std" | "quarantine" | "raw")) => {
            Err(format!("must not begin with `{taken}.`, which is the exchange's own"))
        }
        _ => Ok(text.to_owned()),
    }
}
