//! Runs a file of examples against the checks: which values are valid, what becomes of them, which carry a warning.
//!
//! Columns `kind,input,valid,normalised,reason`; `input` and `normalised` are the inside of a JSON string. A row is to warn exactly where its
//! reason contains `warn:`. The clock stands at 2026-11-23.

use std::io::Read;

use super::Standard;
use super::checks::{Checker, Verdict};
use super::clock::{Clock, Zone};
use super::kind::UnknownKind;

/// 2026-11-23T00:00+08:00 in microseconds.
const NOW: i64 = 1_795_363_200_000_000;

/// What came of a file.
#[derive(Debug, Default)]
pub struct Report {
    /// By kind, in the order in which the file brings them up.
    pub kinds: Vec<Tally>,
    pub differences: Vec<Difference>,
}

/// Rows of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    pub kind: String,
    pub passed: usize,
    pub failed: usize,
}

/// A row whose expectation does not hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Line of the file, the header's being 1.
    pub line: u64,
    pub kind: String,
    pub input: String,
    pub expected: Outcome,
    pub found: Outcome,
}

/// What becomes of one input.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The canonical text; `None` for an input that is not valid.
    pub normalised: Option<String>,
    pub warning: bool,
    /// The rules found, or the row's reason.
    pub reason: String,
}

/// A file that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    #[error("the file of examples: {0}")]
    File(#[from] csv::Error),
    #[error("line {line}: column {column} is missing")]
    Column { line: u64, column: &'static str },
    #[error("line {line}: {source}{}", .source.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default())]
    Kind { line: u64, source: UnknownKind },
    #[error("line {line}: `valid` is true or false, not `{found}`")]
    Valid { line: u64, found: String },
    #[error("line {line}: not the inside of a JSON string: {source}")]
    Text { line: u64, source: serde_json::Error },
}

/// Runs every row.
///
/// # Errors
/// [`VectorError`] for a file that is not of this form.
pub fn run(standard: &Standard, file: impl Read) -> Result<Report, VectorError> {
    let mut reader = csv::Reader::from_reader(file);
    let header = reader.headers()?.clone();
    let place = |column| header.iter().position(|name| name == column).ok_or(VectorError::Column { line: 1, column });
    let (kind, input, valid) = (place("kind")?, place("input")?, place("valid")?);
    let (normalised, reason) = (place("normalised")?, place("reason")?);
    let clock = Clock::at(NOW, Zone::shanghai());
    let mut report = Report::default();
    let mut checkers: Vec<Checker> = Vec::new();
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let decoded = |at: usize| {
            serde_json::from_str::<String>(&format!("\"{}\"", cell(at))).map_err(|source| VectorError::Text { line, source })
        };
        let valid = match cell(valid) {
            "true" => true,
            "false" => false,
            found => return Err(VectorError::Valid { line, found: found.to_owned() }),
        };
        let (input, reason, kind) = (decoded(input)?, cell(reason).to_owned(), cell(kind));
        let expected = Outcome {
            normalised: if valid { Some(decoded(normalised)?) } else { None },
            warning: valid && reason.contains("warn:"),
            reason,
        };
        let at = match report.kinds.iter().position(|tally| tally.kind == kind) {
            Some(at) => at,
            None => {
                checkers.push(standard.checker(kind).map_err(|source| VectorError::Kind { line, source })?);
                report.kinds.push(Tally { kind: kind.to_owned(), passed: 0, failed: 0 });
                report.kinds.len() - 1
            }
        };
        let (Some(checker), Some(tally)) = (checkers.get(at), report.kinds.get_mut(at)) else { continue };
        let found = outcome(checker, &input, &clock);
        if (&found.normalised, found.warning) == (&expected.normalised, expected.warning) {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            report.differences.push(Difference { line, kind: kind.to_owned(), input, expected, found });
        }
    }
    Ok(report)
}

fn outcome(checker: &Checker, input: &str, clock: &Clock<'_>) -> Outcome {
    let checked = checker.check(input, clock);
    let codes: Vec<_> = checked.findings.iter().map(|finding| finding.rule.code()).collect();
    Outcome { warning: checked.verdict() == Verdict::Warning, normalised: checked.normalised, reason: codes.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_does_not_hold_is_a_difference() {
        let file = "kind,input,valid,normalised,reason\n\
                    date,20170922,true,2017-09-22,\n\
                    date,20170922,true,2017-09-23,\n\
                    date,20170922,false,,\n\
                    citizen_id,450881 20080704 9975,true,450881200807049975,no mark\n\
                    citizen_id,450881 20080704 9975,true,450881200807049975,warn: separators\n\
                    text,a\\u200bb,true,ab,\n";
        let report = run(Standard::builtin(), file.as_bytes()).expect("a file of examples");
        let tallies: Vec<_> = report.kinds.iter().map(|tally| (tally.kind.as_str(), tally.passed, tally.failed)).collect();
        assert_eq!(tallies, [("date", 1, 2), ("citizen_id", 1, 1), ("text", 0, 1)]);
        let found: Vec<_> =
            report.differences.iter().map(|difference| (difference.line, difference.found.reason.as_str())).collect();
        assert_eq!(found, [(3, ""), (4, ""), (5, "citizen_id.separator"), (7, "text.invisible")]);
    }
}
