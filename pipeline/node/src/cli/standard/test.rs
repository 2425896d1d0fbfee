//! `guitong standard test`.

use std::path::PathBuf;

use clap::Args;
use guitong_schemas::standard::vectors::{self, Difference, Outcome, Report};
use serde_json::{Value, json};

use super::{Of, Page};
use crate::exit::{self, Failure};
use crate::text::{pad, visible};

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// CSV with the columns kind, input, valid, normalised and reason: `input` and `normalised` are written as inside a JSON string, a row
    /// warns exactly where its reason contains `warn:`, and today is 2026-11-23
    file: PathBuf,
    #[command(flatten)]
    of: Of,
}

impl Test {
    pub(super) fn execute(self, color: bool) -> Result<(), Failure> {
        let standard = self.of.standard(color)?;
        let shown = self.file.display();
        let file = std::fs::File::open(&self.file).map_err(|error| Failure::unreachable(format!("{shown}: {error}")))?;
        let report = vectors::run(&standard, file).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
        let mut page = Page::default();
        if self.of.json {
            page.line(format_args!("{}", to_json(&report)));
        } else {
            print(&mut page, &report);
        }
        page.print();
        if report.differences.is_empty() {
            return Ok(());
        }
        Err(Failure { code: exit::NO, message: String::new(), help: None })
    }
}

fn passed(report: &Report) -> usize {
    report.kinds.iter().map(|tally| tally.passed).sum()
}

fn print(page: &mut Page, report: &Report) {
    page.line(format_args!("{}  passed  failed", pad("kind", 24)));
    for tally in &report.kinds {
        page.line(format_args!("{}  {:>6}  {:>6}", pad(&visible(&tally.kind), 24), tally.passed, tally.failed));
    }
    for Difference { line, kind, input, expected, found } in &report.differences {
        page.line(format_args!(
            "line {line}: {kind} {}: expected {}, found {}",
            visible(input),
            outcome(expected),
            outcome(found)
        ));
    }
    page.line(format_args!("{} passed, {} failed", passed(report), report.differences.len()));
}

/// `45… with a warning`, `not valid (uscc.length)`.
fn outcome(outcome: &Outcome) -> String {
    let Outcome { normalised, warning, reason } = outcome;
    let reason = if reason.is_empty() { String::new() } else { format!(" ({})", visible(reason)) };
    match normalised {
        None => format!("not valid{reason}"),
        Some(text) if *warning => format!("{} with a warning{reason}", visible(text)),
        Some(text) => format!("{}{reason}", visible(text)),
    }
}

fn to_json(report: &Report) -> Value {
    let side = |outcome: &Outcome| {
        json!({
            "valid": outcome.normalised.is_some(),
            "normalised": outcome.normalised,
            "warning": outcome.warning,
            "reason": outcome.reason,
        })
    };
    let kinds: Vec<Value> =
        report.kinds.iter().map(|tally| json!({ "kind": tally.kind, "passed": tally.passed, "failed": tally.failed })).collect();
    let failures: Vec<Value> = report
        .differences
        .iter()
        .map(|difference| {
            json!({
                "line": difference.line,
                "kind": difference.kind,
                "input": difference.input,
                "expected": side(&difference.expected),
                "found": side(&difference.found),
            })
        })
        .collect();
    json!({ "passed": passed(report), "failed": report.differences.len(), "kinds": kinds, "failures": failures })
}
