//! Example rows of a resource with what is expected of them, `resources/<name>.examples.jsonl`: one a line,
//!
//! ```json
//! {"row": {"bh": 1, "qymc": "…"}, "at": "2026-11-23T00:00:00+08:00", "expect": {"verdict": "warning", "reasons": [{"field": "phone", "rule": "phone.form"}], "record": {"name": "…"}}}
//! ```
//!
//! A row of a table beside the resource's own says so, `{"table": "main.bm_zd", "row": {…}}`; nothing is expected of it.
//!
//! `at` is the time of the row's change at the source, by which dates in the future are told; now unless given. Of `expect` may stand
//! `verdict`; `reasons`, then all of them and no others (by field and rule); and `record` (or `records`, where one row makes several), then
//! with every field that is not null, unless `"partial": true` says that only the fields that stand there are compared. So a line of
//! `guitong resource try --json` can be put in the place of `expect` as it is.

use std::collections::BTreeSet;
use std::path::Path;

use guitong_schemas::contract::problem::Excerpt;
use guitong_schemas::contract::resource::Place;
use guitong_schemas::contract::{Directory, Problem, Severity};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use super::rows::{self, Line, WrittenRow};
use super::{MAX_INPUT, Outcome, Trial};
use crate::exit::Failure;

/// Characters of a line that a problem shows.
const SHOWN: usize = 100;

/// A row of a file, and what is expected of it.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    /// The table that it is of; the resource's own unless named.
    pub(crate) table: Option<String>,
    pub(crate) row: WrittenRow,
    /// When the row changed at the source.
    pub(crate) at: Option<Timestamp>,
    pub(crate) expect: Option<Expect>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    table: Option<String>,
    row: WrittenRow,
    at: Option<Timestamp>,
    expect: Option<Expect>,
}

/// What is to come of a row. What `try --json` says besides is taken and not compared.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    verdict: Option<String>,
    reasons: Option<Vec<ExpectedReason>>,
    #[serde(default, deserialize_with = "present")]
    record: Option<Option<Map<String, Json>>>,
    records: Option<Vec<Map<String, Json>>>,
    #[serde(default)]
    partial: bool,
    #[serde(default, rename = "key")]
    _key: Option<String>,
    #[serde(default, rename = "line")]
    _line: Option<usize>,
    #[serde(default, rename = "told_with")]
    _told_with: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct ExpectedReason {
    #[serde(default)]
    field: String,
    rule: String,
}

/// Tells `"record": null` from no record at all.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Map<String, Json>>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Example {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Box::<RawValue>::deserialize(deserializer)?;
        if rows::holds_row(line.get()) {
            let Whole { table, row, at, expect } = serde_json::from_str(line.get()).map_err(D::Error::custom)?;
            return Ok(Self { table, row, at, expect });
        }
        let row = serde_json::from_str(line.get()).map_err(D::Error::custom)?;
        Ok(Self { table: None, row, at: None, expect: None })
    }
}

/// Where a resource's examples stand, below the directory's root.
fn file_of(resource: &str) -> String {
    format!("resources/{resource}.examples.jsonl")
}

/// The file of a resource's examples, for rows that are to be written there.
///
/// # Errors
/// When there is one that nobody said to replace: its expectations may be written by hand.
pub(crate) fn free(root: &Path, resource: &str, replace: bool) -> Result<(), Failure> {
    let file = file_of(resource);
    if !replace && root.join(&file).exists() {
        return Err(Failure::usage(format!("{file} is there already")).help("say --yes to replace it; nothing was written"));
    }
    Ok(())
}

/// Writes rows with what came of them as the resource's examples, in the place of those that were there; gives the file's name.
///
/// # Errors
/// When the file cannot be written, or a line was no row.
pub(crate) fn save(trial: &Trial<'_>, lines: &[Line<Example>], outcomes: &[Option<Outcome>]) -> Result<String, Failure> {
    let mut text = String::new();
    for (line, outcome) in lines.iter().zip(outcomes) {
        let Ok(example) = &line.content else {
            return Err(Failure::usage(format!("line {} is no row, so nothing is saved", line.number)));
        };
        let at = example.at.map(|at| at.to_zoned(trial.directory.exchange.time_zone.clone()));
        let at = at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
        let expect = outcome.as_ref().filter(|outcome| outcome.table.is_none()).map(Outcome::expected);
        let saved = Saved { table: example.table.as_deref(), row: &example.row, at, expect };
        text += &serde_json::to_string(&saved).map_err(|error| Failure::usage(format!("line {}: {error}", line.number)))?;
        text.push('\n');
    }
    let file = file_of(trial.resource.name.as_str());
    let path = trial.directory.root.join(&file);
    std::fs::write(&path, text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(file)
}

/// A line as [`Example`] reads it.
#[derive(Serialize)]
struct Saved<'s> {
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'s str>,
    row: &'s WrittenRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<Json>,
}

/// Runs the examples of every resource of a directory; every difference is a problem with its file, line and field.
pub(crate) async fn check(directory: &Directory) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in directory.resources.keys() {
        let file = file_of(name.as_str());
        let path = directory.root.join(&file);
        match read(&path) {
            Ok(None) => {}
            Ok(Some(bytes)) => problems.extend(check_resource(directory, name.as_str(), &file, &bytes).await),
            Err(message) => problems.push(problem("unreadable", message, file)),
        }
    }
    problems
}

fn problem(code: &'static str, message: String, file: String) -> Problem {
    Problem { severity: Severity::Error, code, message, file, excerpt: None, help: None }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(found) if found.len() > MAX_INPUT as u64 => return Err("is larger than 64 MiB".to_owned()),
        Ok(_) => {}
    }
    std::fs::read(path).map(Some).map_err(|error| format!("cannot be read: {error}"))
}

async fn check_resource(directory: &Directory, name: &str, file: &str, bytes: &[u8]) -> Vec<Problem> {
    let lines: Vec<Line<Example>> = rows::lines(bytes);
    let ran = match Trial::new(directory, name) {
        Ok(trial) => trial.lines(&lines).await,
        Err(failure) => Err(failure),
    };
    let texts: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let at_line = |line: usize, message: String| {
        let text = texts.get(line.saturating_sub(1)).map(|text| String::from_utf8_lossy(text)).unwrap_or_default();
        let line_text = crate::text::clip(text.trim(), SHOWN);
        let excerpt = Excerpt { place: Place { line, column: 1 }, width: 1, indent: 0, line: line_text };
        Problem { excerpt: Some(excerpt), ..problem("example", message, file.to_owned()) }
    };
    let outcomes = match ran {
        Ok(outcomes) => outcomes,
        Err(failure) => {
            let (message, help) = (failure.message, failure.help);
            return vec![Problem { help, ..problem("example", message, file.to_owned()) }];
        }
    };
    let mut problems = Vec::new();
    for (line, outcome) in lines.iter().zip(&outcomes) {
        match (&line.content, outcome) {
            (Err(bad), _) => problems.push(at_line(line.number, bad.texts().2)),
            (Ok(Example { expect: Some(expect), .. }), Some(outcome)) => {
                problems.extend(expect.differences(outcome).into_iter().map(|difference| at_line(line.number, difference)));
            }
            (Ok(_), Some(Outcome { table: Some(table), reasons, .. })) => {
                let told = reasons.iter().map(|reason| format!("the row of {table} cannot be read: {}", reason.en));
                problems.extend(told.map(|told| at_line(line.number, told)));
            }
            (Ok(_), _) => {}
        }
    }
    problems
}

impl Expect {
    /// What an outcome has that is not expected, and the other way round.
    fn differences(&self, outcome: &Outcome) -> Vec<String> {
        let mut differences = Vec::new();
        let verdict = outcome.verdict();
        if let Some(expected) = self.verdict.as_deref().filter(|expected| *expected != verdict.as_str()) {
            let reasons: Vec<String> = outcome.reasons.iter().map(|reason| format!("{}:{}", reason.field, reason.rule)).collect();
            let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
            differences.push(format!("verdict: expected {expected}, got {verdict}{why}"));
        }
        if let Some(expected) = &self.reasons {
            let expected: BTreeSet<(&str, &str)> =
                expected.iter().map(|reason| (reason.field.as_str(), reason.rule.as_str())).collect();
            let got: BTreeSet<(&str, &str)> =
                outcome.reasons.iter().map(|reason| (reason.field.as_str(), reason.rule.as_str())).collect();
            differences.extend(expected.difference(&got).map(|(field, rule)| format!("reasons: expected {field}:{rule}")));
            differences.extend(got.difference(&expected).map(|(field, rule)| format!("reasons: got {field}:{rule}")));
        }
        let expected: Option<Vec<&Map<String, Json>>> = match (&self.records, &self.record) {
            (Some(records), _) => Some(records.iter().collect()),
            (None, Some(record)) => Some(record.iter().collect()),
            (None, None) => None,
        };
        if let Some(expected) = expected {
            if expected.len() != outcome.records.len() {
                differences.push(format!("expected {} records, got {}", expected.len(), outcome.records.len()));
            }
            for (at, (expected, got)) in expected.into_iter().zip(&outcome.records).enumerate() {
                let name = if outcome.records.len() > 1 { format!("records[{at}].") } else { String::new() };
                self.compare(&name, expected, got, &mut differences);
            }
        }
        differences
    }

    fn compare(&self, name: &str, expected: &Map<String, Json>, got: &Map<String, Json>, differences: &mut Vec<String>) {
        for (field, expected) in expected {
            let got = got.get(field);
            if got.is_none() {
                differences.push(format!("{name}{field}: the entity has no such field"));
            } else if let Some(got) = got.filter(|got| !equal(expected, got)) {
                differences.push(format!("{name}{field}: expected {expected}, got {got}"));
            }
        }
        if !self.partial {
            let unnamed = got.iter().filter(|(field, value)| !value.is_null() && !expected.contains_key(*field));
            differences.extend(unnamed.map(|(field, got)| format!("{name}{field}: expected null, got {got}")));
        }
    }
}

/// Whether two values are the same; a number may stand for the text of a decimal, with or without its last zeros.
fn equal(expected: &Json, got: &Json) -> bool {
    match (expected, got) {
        (Json::Number(expected), Json::String(got)) => digits(&expected.to_string()) == digits(got),
        (Json::Array(expected), Json::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| equal(expected, got))
        }
        (Json::Object(expected), Json::Object(got)) => {
            let none = Json::Null;
            let names: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
            names.into_iter().all(|name| equal(expected.get(name).unwrap_or(&none), got.get(name).unwrap_or(&none)))
        }
        (expected, got) => expected == got,
    }
}

fn digits(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}
