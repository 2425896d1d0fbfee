//! Outcomes for a person at a terminal: source row and record side by side, reasons below them, and a summary at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use guitong_normalise::{SourceColumn, conceal};
use guitong_schemas::standard::{Entity, Grade};
use serde_json::{Map, Value as Json};

use super::outcome::{Level, Outcome, Verdict};
use crate::text::{clip, count, pad, visible, width};

/// Widest table that is worth reading, in columns of a terminal.
const WIDEST: usize = 160;
const NARROWEST: usize = 60;
/// Between source and record.
const GAP: &str = " │ ";

/// How outcomes are shown.
#[derive(Debug)]
pub(crate) struct View<'v> {
    pub(crate) entity: &'v Entity,
    pub(crate) columns: &'v [SourceColumn],
    /// Show values of grades G2 and G3 as they are.
    pub(crate) values: bool,
    pub(crate) color: bool,
    /// Columns of the terminal.
    pub(crate) terminal: usize,
}

/// One line of the table: what stood in the source, what stands in the record.
#[derive(Debug, Default)]
struct Side {
    name: String,
    value: String,
}

impl View<'_> {
    pub(crate) fn outcome(&self, outcome: &Outcome) -> String {
        let key = outcome.key.iter().map(|(column, value)| {
            // As the quarantine shows keys; a column that no field reads is mostly a number of the department's.
            format!("{}={}", visible(column), self.masked(value, self.grade(column).unwrap_or(Grade::G1)))
        });
        let key: Vec<String> = key.collect();
        let verdict = outcome.verdict();
        let table = outcome.table.as_ref().map(|table| format!("{table} ")).unwrap_or_default();
        let mut out = format!("{}  {table}{}\n", self.painted(verdict), key.join(", "));
        let none = Map::new();
        let records = if outcome.records.is_empty() { vec![&none] } else { outcome.records.iter().collect() };
        for (at, record) in records.into_iter().enumerate() {
            if at > 0 {
                let _ = writeln!(out, "  and");
            }
            self.side_by_side(outcome, record, &mut out);
        }
        match &outcome.told_with {
            Some(_) if verdict != Verdict::Rejected => {
                out.push_str("  its record is shown with the last of the rows that make it\n")
            }
            None if outcome.records.is_empty() && verdict != Verdict::Rejected => {
                out.push_str("  no record: the resource's `where` leaves the row out, or the row changes nothing\n");
            }
            _ => {}
        }
        for reason in &outcome.reasons {
            let mark = if reason.level == Level::Error { "✗" } else { "!" };
            let value = reason.value.as_ref().map(|value| format!("  [{}]", visible(value))).unwrap_or_default();
            let _ = writeln!(out, "  {mark} {}  {}{value}", reason.rule, visible(&reason.zh));
            let _ = writeln!(out, "    {}", visible(&reason.en));
        }
        out
    }

    /// A line for each field, beside the columns that it is made of; then the columns that no field shows.
    fn side_by_side(&self, outcome: &Outcome, record: &Map<String, Json>, out: &mut String) {
        let mut lines: Vec<(Side, Side)> = Vec::new();
        let mut shown: Vec<&str> = Vec::new();
        for field in &self.entity.fields {
            let made_of = self.columns.iter().filter(|column| column.fields.contains(&field.name));
            let sources: Vec<&SourceColumn> = made_of.collect();
            let value = record.get(&field.name).filter(|value| !value.is_null());
            let reported = outcome.reasons.iter().any(|reason| reason.field == field.name);
            if value.is_none() && !reported && sources.iter().all(|column| outcome.value(&column.name).is_none()) {
                continue;
            }
            let target = match value {
                Some(value) => self.masked(&flat(value), field.highest_grade()),
                None if !outcome.records.is_empty() => "∅".to_owned(),
                None if reported => "✗".to_owned(),
                None => String::new(),
            };
            let mut target = Side { name: field.name.clone(), value: target };
            if sources.is_empty() {
                lines.push((Side::default(), std::mem::take(&mut target)));
            }
            for column in sources {
                shown.push(&column.name);
                lines.push((self.source(outcome, &column.name), std::mem::take(&mut target)));
            }
        }
        let rest = outcome.row.iter().filter(|(column, value)| value.is_some() && !shown.contains(&column.as_str()));
        lines.extend(rest.map(|(column, _)| (self.source(outcome, column), Side::default())));
        self.lay_out(&lines, out);
    }

    fn source(&self, outcome: &Outcome, column: &str) -> Side {
        // Of a column that no field reads nothing is known.
        let grade = self.grade(column).unwrap_or(Grade::G2);
        let value = outcome.value(column).map_or_else(|| "∅".to_owned(), |value| self.masked(value, grade));
        Side { name: visible(column), value }
    }

    fn lay_out(&self, lines: &[(Side, Side)], out: &mut String) {
        let total = self.terminal.clamp(NARROWEST, WIDEST) - 2 - width(GAP) - 4;
        let widest = |text: fn(&(Side, Side)) -> &str, most: usize| {
            lines.iter().map(|line| width(text(line))).max().unwrap_or(0).min(most)
        };
        let columns = widest(|(source, _)| &source.name, total / 4);
        let fields = widest(|(_, target)| &target.name, total / 4);
        let left = total.saturating_sub(columns + fields);
        let from = widest(|(source, _)| &source.value, left / 2);
        let to = left - from;
        for (source, target) in lines {
            let cell = |text: &str, room: usize| pad(&clip(text, room), room);
            let line = format!(
                "  {}  {}{GAP}{}  {}",
                cell(&source.name, columns),
                cell(&source.value, from),
                cell(&target.name, fields),
                clip(&target.value, to)
            );
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }

    fn grade(&self, column: &str) -> Option<Grade> {
        self.columns.iter().find(|known| known.name == column).map(|known| known.grade)
    }

    fn masked(&self, value: &str, grade: Grade) -> String {
        visible(&if self.values { value.to_owned() } else { conceal(value, grade) })
    }

    fn painted(&self, verdict: Verdict) -> String {
        let paint = match verdict {
            _ if !self.color => return verdict.to_string(),
            Verdict::Ok => "\x1b[32m",
            Verdict::Warning => "\x1b[33m",
            Verdict::Rejected => "\x1b[31;1m",
        };
        format!("{paint}{verdict}\x1b[0m")
    }
}

impl Outcome {
    fn value(&self, column: &str) -> Option<&str> {
        self.row.iter().find(|(name, _)| name == column).and_then(|(_, value)| value.as_deref())
    }
}

/// A field's value in one line.
fn flat(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join("; "),
        Json::Object(members) => members.values().filter(|value| !value.is_null()).map(flat).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Rows by verdict and by rule.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    verdicts: [usize; 3],
    rules: BTreeMap<(String, String), (usize, String)>,
}

impl Summary {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        let verdict = outcome.verdict();
        for (count, of) in self.verdicts.iter_mut().zip(Verdict::ALL) {
            *count += usize::from(of == verdict);
        }
        for reason in &outcome.reasons {
            let entry = self.rules.entry((reason.field.clone(), reason.rule.clone())).or_insert((0, reason.zh.clone()));
            entry.0 += 1;
        }
    }

    pub(crate) fn has_rejected(&self) -> bool {
        let [.., rejected] = self.verdicts;
        rejected > 0
    }

    pub(crate) fn text(&self) -> String {
        let [ok, warning, rejected] = self.verdicts;
        let number = |n: usize| count(n as u64);
        let rows = ok + warning + rejected;
        let plural = if rows == 1 { "" } else { "s" };
        let mut out = format!(
            "{} row{plural}: {} ok, {} with warnings, {} rejected. Nothing was published.\n",
            number(rows),
            number(ok),
            number(warning),
            number(rejected)
        );
        for ((_, rule), (rows, zh)) in &self.rules {
            let _ = writeln!(out, "  {}  {}  {zh}", pad(&number(*rows), 6), pad(rule, 28));
        }
        out
    }
}
