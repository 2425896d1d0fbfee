//! Parquet, written column by column without Arrow.
//!
//! A row has `guitong_op`, `guitong_position`, `guitong_key` where the key is hashed, then the granted fields by their names; of a
//! deleted row the key's alone, and null in every other. Rows gather by columns until their values have [`GROUP`] bytes, which makes
//! a row group: that, its pages and one page of changes are all that is held of a file, whatever its size. Where groups end depends
//! on the values alone, so the same changes are the same bytes.

mod column;

use guitong_govern::{Column, KeyForm};
use guitong_schemas::standard::StandardValue;
use parquet::basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use self::column::{Gathered, Leaf};
use super::{Noted, OPERATION, POSITION, operation};
use crate::avro::record_name;
use crate::sink::{KEY, SinkError, SinkErrorKind, SinkPlan};

/// Bytes of values in a row group.
const GROUP: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct ParquetForm {
    name: String,
    columns: Vec<Column>,
    is_hashed: bool,
}

/// A file that is being written.
pub(super) struct ParquetFile {
    writer: SerializedFileWriter<Vec<u8>>,
    operation: Leaf,
    position: Leaf,
    key: Option<Leaf>,
    columns: Vec<Gathered>,
    /// Of the values that are in no row group yet.
    bytes: usize,
    rows: usize,
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile").field("rows", &self.rows).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl ParquetForm {
    pub(super) fn new(plan: &SinkPlan) -> Self {
        Self { name: record_name(plan), columns: plan.columns.clone(), is_hashed: plan.key == KeyForm::Hashed }
    }

    pub(super) fn begin(&self) -> Result<ParquetFile, SinkError> {
        let schema = self.schema().map_err(failed)?;
        Ok(ParquetFile {
            writer: SerializedFileWriter::new(Vec::new(), schema, properties()).map_err(failed)?,
            operation: Leaf::text(),
            position: Leaf::long(),
            key: self.is_hashed.then(Leaf::text),
            columns: self.columns.iter().map(|column| Gathered::new(column.kind)).collect(),
            bytes: 0,
            rows: 0,
        })
    }

    fn schema(&self) -> Result<TypePtr, ParquetError> {
        let own = |name: &str, physical, logical| {
            let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
            builder.with_logical_type(logical).build().map(TypePtr::new)
        };
        let mut fields =
            vec![own(OPERATION, Physical::BYTE_ARRAY, Some(LogicalType::String))?, own(POSITION, Physical::INT64, None)?];
        if self.is_hashed {
            fields.push(own(KEY, Physical::BYTE_ARRAY, Some(LogicalType::String))?);
        }
        for column in &self.columns {
            fields.push(column::schema(&column.name, column.kind)?);
        }
        Type::group_type_builder(&self.name).with_fields(fields).build().map(TypePtr::new)
    }
}

fn properties() -> WriterPropertiesPtr {
    let position = ColumnPath::from(POSITION);
    WriterProperties::builder()
        .set_created_by(format!("guitong version {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        // Groups are small enough to be found by their own.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // It rises by one.
        .set_column_dictionary_enabled(position.clone(), false)
        .set_column_encoding(position, Encoding::DELTA_BINARY_PACKED)
        .build()
        .into()
}

impl ParquetFile {
    pub(super) fn write(&mut self, noted: &Noted, out: &mut Vec<u8>) -> Result<(), SinkError> {
        self.bytes += self.operation.push_text(operation(noted.deleted));
        self.bytes += self.position.push_long(i64::try_from(noted.position).unwrap_or(i64::MAX));
        if let Some(leaf) = &mut self.key {
            self.bytes += leaf.push_text(&noted.key.as_deref().map(hex::encode).unwrap_or_default());
        }
        let mut cells = noted.cells.iter();
        for column in &mut self.columns {
            let pushed = column.push(cells.next().unwrap_or(&StandardValue::Null));
            self.bytes +=
                pushed.ok_or_else(|| SinkError::new(SinkErrorKind::Shape, "a value of another kind than its column"))?;
        }
        self.rows += 1;
        if self.bytes >= GROUP {
            self.end_group(out).map_err(failed)?;
        }
        Ok(())
    }

    fn end_group(&mut self, out: &mut Vec<u8>) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        let own = [&mut self.operation, &mut self.position].into_iter().chain(&mut self.key);
        for leaf in own.chain(self.columns.iter_mut().flat_map(Gathered::leaves)) {
            let Some(mut column) = group.next_column()? else { break };
            leaf.write(&mut column)?;
            column.close()?;
        }
        group.close()?;
        (self.bytes, self.rows) = (0, 0);
        self.writer.flush()?;
        out.append(self.writer.inner_mut());
        Ok(())
    }

    pub(super) fn end(mut self, out: &mut Vec<u8>) -> Result<(), SinkError> {
        self.end_group(out).map_err(failed)?;
        self.writer.into_inner().map(|mut rest| out.append(&mut rest)).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> SinkError {
    SinkError::new(SinkErrorKind::Shape, error.to_string())
}
