//! What files look like.

mod avro;
mod csv;
mod jsonl;
mod parquet;

use std::sync::Arc;

use guitong_govern::{Column, KeyForm};
use guitong_schemas::contract::files::FileFormat;
use guitong_schemas::standard::StandardValue;

use self::avro::{AvroFile, AvroForm};
use self::csv::CsvForm;
use self::jsonl::JsonLines;
use self::parquet::{ParquetFile, ParquetForm};
use crate::sink::{SinkError, SinkPlan};

/// Names of the fields that files have beside what is granted.
const OPERATION: &str = "guitong_op";
const POSITION: &str = "guitong_position";

/// A change as the outbox noted it.
#[derive(Debug)]
pub struct Noted {
    /// Of the change, within its generation.
    pub position: u64,
    pub deleted: bool,
    /// Where the key is hashed.
    pub key: Option<Vec<u8>>,
    /// In the order of the granted columns; of a deleted row the key's alone.
    pub cells: Vec<StandardValue<'static>>,
}

fn operation(deleted: bool) -> &'static str {
    if deleted { "delete" } else { "upsert" }
}

/// A format, ready for a subscription's rows.
#[derive(Debug)]
pub struct Form(Kind);

#[derive(Debug)]
enum Kind {
    Csv(Arc<CsvForm>),
    JsonLines(Arc<JsonLines>),
    Avro(AvroForm),
    Parquet(ParquetForm),
}

/// A file that is being written: its bytes are appended to what it is given, some of them only when more changes came, or at its end.
#[derive(Debug)]
pub struct Writing(File);

#[derive(Debug)]
enum File {
    Csv(Arc<CsvForm>),
    JsonLines(Arc<JsonLines>),
    Avro(Box<AvroFile>),
    Parquet(Box<ParquetFile>),
}

impl Form {
    #[must_use]
    pub fn new(format: FileFormat, plan: &SinkPlan) -> Self {
        Self(match format {
            FileFormat::Csv(csv) => Kind::Csv(Arc::new(CsvForm::new(csv, plan))),
            FileFormat::JsonLines => Kind::JsonLines(Arc::new(JsonLines::new(plan))),
            FileFormat::Avro => Kind::Avro(AvroForm::new(plan)),
            FileFormat::Parquet => Kind::Parquet(ParquetForm::new(plan)),
        })
    }

    /// The end of a file's name, and the name of the format.
    pub(super) fn extension(&self) -> &'static str {
        match &self.0 {
            Kind::Csv(_) => "csv",
            Kind::JsonLines(_) => "jsonl",
            Kind::Avro(_) => "avro",
            Kind::Parquet(_) => "parquet",
        }
    }

    /// Of texts.
    pub(super) fn encoding(&self) -> &'static str {
        match &self.0 {
            Kind::Csv(csv) => csv.encoding(),
            Kind::JsonLines(_) | Kind::Avro(_) | Kind::Parquet(_) => "utf-8",
        }
    }

    /// Whether files can hold these values.
    pub(super) fn check(&self, cells: &[StandardValue<'_>]) -> Result<(), SinkError> {
        match &self.0 {
            Kind::Csv(csv) => csv.check(cells),
            Kind::JsonLines(_) | Kind::Avro(_) | Kind::Parquet(_) => Ok(()),
        }
    }

    /// Begins the file of this name.
    ///
    /// # Errors
    /// Where the columns have names that the format does not take.
    pub fn begin(&self, name: &str, out: &mut Vec<u8>) -> Result<Writing, SinkError> {
        Ok(Writing(match &self.0 {
            Kind::Csv(csv) => {
                csv.begin(out)?;
                File::Csv(Arc::clone(csv))
            }
            Kind::JsonLines(lines) => File::JsonLines(Arc::clone(lines)),
            Kind::Avro(avro) => File::Avro(Box::new(avro.begin(name, out)?)),
            Kind::Parquet(parquet) => File::Parquet(Box::new(parquet.begin()?)),
        }))
    }
}

impl Writing {
    /// # Errors
    /// Where a value is not of its column's kind.
    pub fn write(&mut self, noted: &Noted, out: &mut Vec<u8>) -> Result<(), SinkError> {
        match &mut self.0 {
            File::Csv(csv) => csv.write(noted, out),
            File::JsonLines(lines) => lines.write(noted, out),
            File::Avro(avro) => avro.write(noted, out),
            File::Parquet(parquet) => parquet.write(noted, out),
        }
    }

    /// # Errors
    /// Where what was held back cannot be written.
    pub fn end(self, out: &mut Vec<u8>) -> Result<(), SinkError> {
        match self.0 {
            File::Csv(_) | File::JsonLines(_) => Ok(()),
            File::Avro(mut avro) => {
                avro.end(out);
                Ok(())
            }
            File::Parquet(parquet) => parquet.end(out),
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
