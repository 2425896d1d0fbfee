//! Runs a file of examples against the checks: which values are valid, what becomes of them, which carry a warning.
//!
//! Columns `kind,input,valid,normalised,reason`; `input` and `normalised` are the inside of a JSON string. A row is to warn exactly where its
//! reason contains `warn:`. The clock stands at 2026-11-23.

use std::io::Read;

use super::clock::{Clock, Zone};
use super::date::pattern::Format;
use super::field::{EntityField, FieldKind};
use super::finding::{Finding, Level};
use super::options::FieldOptions;
use super::{Standard, StandardValue};

/// 2026-11-23T00:00+08:00 in microseconds.
const NOW: i64 = 1_795_363_200_000_000;

/// What came of a file.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows read.
    pub rows: usize,
    pub differences: Vec<Difference>,
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
    #[error("line {line}: the kind `{kind}` is not known")]
    Kind { line: u64, kind: String },
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
    let mut report = Report::default();
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let decoded = |at: usize| {
            serde_json::from_str::<String>(&format!("\"{}\"", cell(at))).map_err(|source| VectorError::Text { line, source })
        };
        let (input, reason) = (decoded(input)?, cell(reason).to_owned());
        let valid = cell(valid) == "true";
        let expected = Outcome {
            normalised: if valid { Some(decoded(normalised)?) } else { None },
            warning: valid && reason.contains("warn:"),
            reason,
        };
        let Some((field, options)) = reader_of(standard, cell(kind)) else {
            return Err(VectorError::Kind { line, kind: cell(kind).to_owned() });
        };
        let found = outcome(&field, &options, &input);
        report.rows += 1;
        if (&found.normalised, found.warning) != (&expected.normalised, expected.warning) {
            report.differences.push(Difference { line, kind: cell(kind).to_owned(), input, expected, found });
        }
    }
    Ok(report)
}

fn outcome(field: &EntityField, options: &FieldOptions, input: &str) -> Outcome {
    let mut findings: Vec<Finding> = Vec::new();
    let value = field.read(input, options, &Clock::at(NOW, Zone::shanghai()), &mut findings);
    let codes: Vec<_> = findings.iter().map(|finding| finding.rule.code()).collect();
    Outcome {
        warning: !value.is_null() && findings.iter().any(|finding| finding.level == Level::Warning),
        normalised: if value == StandardValue::Null { None } else { Some(value.to_string()) },
        reason: codes.join(" "),
    }
}

/// The field and options that a kind of example stands for.
fn reader_of(standard: &Standard, kind: &str) -> Option<(EntityField, FieldOptions)> {
    let formats = |format| FieldOptions { formats: vec![format], ..FieldOptions::default() };
    let (kind, options) = match kind {
        "citizen_id" | "citizen_id15" => (FieldKind::CitizenId, FieldOptions::default()),
        "uscc" => (FieldKind::Uscc, FieldOptions::default()),
        "orgcode" => (FieldKind::OrgCode, FieldOptions::default()),
        "bizreg15" => (FieldKind::BusinessRegistration, FieldOptions::default()),
        "mobile" => (FieldKind::Mobile, FieldOptions::default()),
        "bankcard" => (FieldKind::BankCard, FieldOptions::default()),
        "date" => (FieldKind::Date, FieldOptions::default()),
        "date_excel_serial" => (FieldKind::Date, formats(Format::Excel)),
        "date_open_end" => (FieldKind::Date, FieldOptions { open_end: true, ..FieldOptions::default() }),
        "birth_date" => {
            let person = standard.entity("NaturalPerson")?;
            return Some((person.field("birth_date")?.clone(), FieldOptions::default()));
        }
        "datetime" => (FieldKind::Time, FieldOptions::default()),
        "date_epoch_ms" => (FieldKind::Date, formats(Format::Epoch { micros: 1000 })),
        "division" => (FieldKind::Division, FieldOptions::default()),
        "project_code" => (FieldKind::ProjectCode, FieldOptions::default()),
        "text" => (FieldKind::Text { max: 256 }, FieldOptions::default()),
        _ => return None,
    };
    Some((standard.field_alone(kind), options))
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
        assert_eq!(report.rows, 6);
        let found: Vec<_> =
            report.differences.iter().map(|difference| (difference.line, difference.found.reason.as_str())).collect();
        assert_eq!(found, [(3, ""), (4, ""), (5, "citizen_id.separator"), (7, "text.invisible")]);
    }
}
