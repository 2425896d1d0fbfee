//! What files look like.

mod csv;
mod jsonl;

use guitong_govern::{Column, KeyForm};
use guitong_schemas::contract::files::FileFormat;
use guitong_schemas::standard::StandardValue;

use self::csv::CsvForm;
use self::jsonl::JsonLines;
use crate::sink::{SinkError, SinkPlan};

/// Names of the fields that files have beside what is granted.
const OPERATION: &str = "guitong_op";
const POSITION: &str = "guitong_position";

/// A change as the outbox noted it.
#[derive(Debug)]
pub(super) struct Noted {
    /// Of the change, within its generation.
    pub(super) position: u64,
    pub(super) deleted: bool,
    /// Where the key is hashed.
    pub(super) key: Option<Vec<u8>>,
    /// In the order of the granted columns; of a deleted row the key's alone.
    pub(super) cells: Vec<Cell>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    /// A date, an instant or a decimal number: its text is never anything else.
    Plain(String),
    List(Vec<String>),
    Steps(serde_json::Value),
}

fn operation(deleted: bool) -> &'static str {
    if deleted { "delete" } else { "upsert" }
}

/// A format, ready for a subscription's rows.
#[derive(Debug)]
pub(super) enum Form {
    Csv(CsvForm),
    JsonLines(JsonLines),
}

impl Form {
    pub(super) fn new(format: FileFormat, plan: &SinkPlan) -> Self {
        match format {
            FileFormat::Csv(csv) => Self::Csv(CsvForm::new(csv, plan)),
            FileFormat::JsonLines => Self::JsonLines(JsonLines::new(plan)),
        }
    }

    /// The end of a file's name, and the name of the format.
    pub(super) fn extension(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::JsonLines(_) => "jsonl",
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self {
            Self::Csv(csv) => csv.encoding(),
            Self::JsonLines(_) => "utf-8",
        }
    }

    /// Whether files can hold these values.
    pub(super) fn check(&self, cells: &[StandardValue<'_>]) -> Result<(), SinkError> {
        match self {
            Self::Csv(csv) => csv.check(cells),
            Self::JsonLines(_) => Ok(()),
        }
    }

    /// Appends what a file begins with.
    pub(super) fn begin(&self, out: &mut Vec<u8>) -> Result<(), SinkError> {
        match self {
            Self::Csv(csv) => csv.begin(out),
            Self::JsonLines(_) => Ok(()),
        }
    }

    /// Appends a change.
    pub(super) fn write(&self, noted: &Noted, out: &mut Vec<u8>) -> Result<(), SinkError> {
        match self {
            Self::Csv(csv) => csv.write(noted, out),
            Self::JsonLines(lines) => lines.write(noted, out),
        }
    }
}

/// Which of the columns are the key's.
fn key_columns(plan: &SinkPlan) -> Vec<bool> {
    let is_key = |at: usize| matches!(&plan.key, KeyForm::Clear(places) if places.contains(&at));
    (0..plan.columns.len()).map(is_key).collect()
}

fn names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| column.name.clone()).collect()
}
