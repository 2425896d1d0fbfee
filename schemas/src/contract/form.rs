//! How a system's rows become events: `names`, `truncate` and `unknown_types` of its file, Debezium's own options under `[debezium]`, by
//! their names there (`decimal.handling.mode = "string"`), and which messages are events under `[outbox]`.

use std::borrow::Cow;

use super::reading::document::Found;
use super::reading::scalar;
use super::reading::section::Section;
use crate::avro::EventForm;
use crate::avro::form::{
    AddedField, Binary, Converter, DELETED, Decimals, Intervals, Metadata, Names, Outbox, Times, Truncates, UnknownTypes, Unwrap,
    UnwrappedDeletes,
};
use crate::avro::schema::SourceKind;

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

const CONVERTERS: [(&str, Converter); 2] = [("avro", Converter::Avro), ("json", Converter::Json)];
const UNWRAP: [(&str, ()); 1] = [("io.debezium.transforms.ExtractNewRecordState", ())];
const DELETES: [(&str, UnwrappedDeletes); 3] = [
    ("tombstone", UnwrappedDeletes::Tombstone),
    ("rewrite", UnwrappedDeletes::Rewrite),
    ("rewrite-with-tombstone", UnwrappedDeletes::RewriteWithTombstone),
];

/// Longest `topic.prefix`: schema and table have to fit Kafka's 249 characters behind it.
const LONGEST_PREFIX: usize = 100;

/// `kind` is that of the system, where it has one.
pub(super) fn read(root: &Section<'_>, kind: Option<SourceKind>) -> EventForm {
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
        converter: read_converter(debezium),
        unwrap: read_unwrap(debezium, kind),
        outbox: read_outbox(root, kind),
    };
    check_deletes(root, debezium, &form);
    if let Some(section) = section {
        section.finish();
    }
    form
}

/// Keys and values are written in one form.
fn read_converter(debezium: Option<&Section<'_>>) -> Converter {
    let [key, value] = ["key", "value"].map(|part| {
        let found = option(debezium, &format!("{part}.converter"), |at, key| at.choice(key, &CONVERTERS));
        found.map_or(Converter::default(), |found| found.value)
    });
    if let Some(section) = debezium.filter(|_| key != value) {
        let help = "set `key.converter` and `value.converter` to the same, \"avro\" or \"json\"".to_owned();
        let at = section.key_at(if section.has("value") { "value" } else { "key" });
        section.problem(&at, "bad-value", "keys and values would be written by different converters", Some(help));
    }
    value
}

fn read_unwrap(debezium: Option<&Section<'_>>, kind: Option<SourceKind>) -> Option<Unwrap> {
    let transforms = debezium?.own_section("transforms")?;
    let section = transforms.required("unwrap", Section::own_section);
    transforms.finish();
    let section = section?;
    let transform = section.required("type", |section, key| section.choice(key, &UNWRAP));
    let mut asked = false;
    let deletes = option(Some(&section), "delete.tombstone.handling.mode", |at, key| {
        asked = true;
        at.required(key, |at, key| at.choice(key, &DELETES))
    });
    if !asked {
        let message = "`debezium.transforms.unwrap.delete.tombstone.handling.mode` is missing";
        let words: Vec<&str> = DELETES.iter().map(|(word, _)| *word).collect();
        section.problem(section.at(), "missing-key", message, Some(format!("one of {}", scalar::listed(&words))));
    }
    let added = option(Some(&section), "add.fields", |at, key| {
        let found = at.text(key)?;
        read_added(at, &found, kind)
    });
    section.finish();
    transform.and(deletes).map(|deletes| Unwrap { deletes: deletes.value, added: added.unwrap_or_default() })
}

/// `op,source.lsn`: `__op` and `__source_lsn`.
fn read_added(section: &Section<'_>, found: &Found<String>, kind: Option<SourceKind>) -> Option<Vec<AddedField>> {
    let mut fields: Vec<AddedField> = Vec::new();
    for text in found.value.split(',').map(str::trim) {
        let name = format!("__{}", text.replace('.', "_"));
        let is_known = |of: &Metadata| match (of, kind) {
            (Metadata::Source(field), Some(kind)) => field.is_of(kind),
            _ => true,
        };
        let Some(of) = Metadata::parse(text).filter(is_known) else {
            let message = format_args!("`add.fields` cannot name `{}`", scalar::short(text));
            let help = "op, ts_ms, ts_us, ts_ns, or a field of this system's `source` block, as source.ts_ms".to_owned();
            section.problem(&found.at, "bad-value", message, Some(help));
            return None;
        };
        if name == DELETED || fields.iter().any(|field| field.name == name) {
            let message = format_args!("`add.fields` would add `{name}` twice");
            section.problem(&found.at, "duplicate", message, None);
            return None;
        }
        fields.push(AddedField { name, of });
    }
    Some(fields)
}

/// Only PostgreSQL's log carries messages of applications.
fn read_outbox(root: &Section<'_>, kind: Option<SourceKind>) -> Option<Outbox> {
    let section = root.own_section("outbox")?;
    if kind.is_some_and(|kind| kind != SourceKind::Postgres) {
        let message = "only a PostgreSQL database has messages that can be outbox events";
        let help = "take `[outbox]` out, or tail a PostgreSQL database (`kind = \"postgres\"`)".to_owned();
        root.problem(section.at(), "unknown-key", message, Some(help));
        return None;
    }
    let found = section.required("prefix", |section, key| section.parsed(key, messages));
    section.finish();
    found.map(|found| found.value)
}

/// A prefix of messages, or the beginning of several.
fn messages(text: &str) -> Result<Outbox, String> {
    let beginning = text.strip_suffix('*');
    let name = beginning.unwrap_or(text);
    if text.is_empty() || name.contains('*') || name.chars().any(char::is_control) {
        return Err("must be the prefix of messages as `outbox`, or `outbox*` for all that begin so".to_owned());
    }
    Ok(match beginning {
        Some(head) => Outbox::Beginning(head.to_owned()),
        None => Outbox::Prefix(text.to_owned()),
    })
}

/// Every delete has to leave something.
fn check_deletes(root: &Section<'_>, debezium: Option<&Section<'_>>, form: &EventForm) {
    let (Some(section), Some(unwrap)) = (debezium, &form.unwrap) else { return };
    if unwrap.deletes == UnwrappedDeletes::Tombstone && !form.tombstones {
        let message =
            "deletes would leave nothing: `transforms.unwrap` leaves a tombstone alone, and `tombstones.on.delete` takes it";
        let help = "take `tombstones.on.delete` out, or set `delete.tombstone.handling.mode` to \"rewrite\"".to_owned();
        section.problem(&section.key_at("tombstones"), "bad-value", message, Some(help));
    }
    if form.truncates == Truncates::Event {
        let message = "an unwrapped event is a row, which a truncate has not";
        let help = "set `truncate` to \"deletes\" or \"skip\", or take `transforms.unwrap` out".to_owned();
        root.problem(&root.key_at("truncate"), "bad-value", message, Some(help));
    }
}

/// Reads a key that TOML takes for nested tables. No two options that are read so share a table, so each table is read, and its
/// unknown keys are reported, once.
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
        Some(taken @ ("std" | "quarantine" | "raw" | "loaded")) => {
            Err(format!("must not begin with `{taken}.`, which is the exchange's own"))
        }
        _ => Ok(text.to_owned()),
    }
}
