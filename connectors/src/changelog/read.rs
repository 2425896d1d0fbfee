//! Reads rows of the change log and chunks of tables, and turns both into changes by one codec.

use std::collections::HashMap;
use std::sync::Arc;

use futures::TryStreamExt;
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use guitong_schemas::position::Version;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::catalogue::{Captured, LARGEST, Order};
use super::literal::{self, Literal};
use super::position::IdSet;
use super::{fault, quote_name, quote_text, sql, types};
use crate::source::{SourceError, Wanted};

/// One row of the change log.
struct Entry {
    id: i64,
    at_us: i64,
    table: String,
    op: String,
    columns: String,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

impl Entry {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let at_ms: Option<i64> = row.try_get(1)?;
        Ok(Self {
            id: row.try_get(0)?,
            at_us: at_ms.unwrap_or(0).saturating_mul(1000),
            table: row.try_get::<Option<String>, _>(2)?.unwrap_or_default(),
            op: row.try_get(3)?,
            columns: row.try_get::<Option<String>, _>(4)?.unwrap_or_default(),
            before: row.try_get(5)?,
            after: row.try_get(6)?,
        })
    }

    fn size(&self) -> usize {
        self.columns.len() + self.before.as_ref().map_or(0, Vec::len) + self.after.as_ref().map_or(0, Vec::len)
    }
}

/// Changes read, and the ids of the rows they came from.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) changes: Vec<Change>,
    pub(super) ids: Vec<i64>,
    /// More may be there.
    pub(super) cut: bool,
}

/// Which rows of a table a chunk is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'p> {
    /// Those behind this place.
    pub(super) after: Option<&'p str>,
    pub(super) wanted: &'p [Wanted],
}

/// How much one chunk may hold, at least one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkBudget {
    pub(super) bytes: usize,
    pub(super) rows: usize,
}

/// One chunk of a table.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) changes: Vec<Change>,
    pub(super) rows: u64,
    /// Key of the last row, as literals; `None` where the table ended.
    pub(super) after: Option<String>,
}

/// Turns rows into changes; knows the tables as they are now, and remembers which columns held what their type does not.
#[derive(Debug)]
pub(super) struct Codec {
    system: String,
    epoch: u32,
    tables: HashMap<String, Captured>,
    /// By table and columns.
    shapes: HashMap<(String, String), Arc<Table>>,
    /// Columns that became text, by table and name.
    widened: Vec<(String, String)>,
}

impl Codec {
    pub(super) fn new(system: &str, epoch: u32, tables: Vec<Captured>) -> Self {
        let tables = tables.into_iter().map(|captured| (captured.name().to_owned(), captured)).collect();
        Self { system: system.to_owned(), epoch, tables, shapes: HashMap::new(), widened: vec![] }
    }

    pub(super) fn table(&self, name: &str) -> Option<&Captured> {
        self.tables.get(name)
    }

    pub(super) fn len(&self) -> usize {
        self.tables.len()
    }

    /// The tables by their names in the database.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&String, &TableName)> {
        self.tables.iter().map(|(name, captured)| (name, &captured.table.name))
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tables.values().map(|captured| captured.table.name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Ends every key of an earlier epoch: the first changes of a new one.
    pub(super) fn truncates(&mut self, tables: &[String]) -> Result<Vec<Change>, SourceError> {
        let now_us = jiff::Timestamp::now().as_microsecond();
        let mut changes = vec![];
        for (number, name) in tables.iter().enumerate() {
            let Some(columns) = self.tables.get(name).map(Captured::columns_text) else { continue };
            changes.push(Change {
                table: self.shape(name, &columns)?,
                operation: Operation::Truncate,
                version: Version { epoch: self.epoch, index: number as u32, ..Version::default() },
                before: Before::None,
                after: None,
                origin: Origin { ts_us: now_us, snapshot: SnapshotMark::Streamed, place: Place::Changelog { change_id: 0 } },
            });
        }
        Ok(changes)
    }

    /// Changes after `after` that are not in `skip`, up to `bytes`.
    pub(super) async fn changes(
        &mut self,
        conn: &mut SqliteConnection,
        after: i64,
        skip: &IdSet,
        bytes: usize,
    ) -> Result<Changes, SourceError> {
        let mut read = Changes::default();
        let mut size = 0;
        let mut rows = sqlx::query(
            "SELECT id, at_ms, tbl, op, columns, before_row, after_row FROM guitong_changes WHERE id > $1 ORDER BY id",
        )
        .bind(after)
        .fetch(conn);
        while let Some(row) = rows.try_next().await.map_err(|error| fault(&self.system, &error))? {
            let entry = Entry::from_row(&row).map_err(|error| fault(&self.system, &error))?;
            if skip.contains(entry.id) {
                continue;
            }
            size += entry.size();
            self.entry(&entry, &mut read.changes)?;
            read.ids.push(entry.id);
            if size >= bytes {
                read.cut = true;
                break;
            }
        }
        Ok(read)
    }

    /// The changes that one row stands for. A key change is a delete of the old key and a create of the new.
    fn entry(&mut self, entry: &Entry, changes: &mut Vec<Change>) -> Result<(), SourceError> {
        // A table that is not tailed any more.
        if !self.tables.contains_key(&entry.table) {
            return Ok(());
        }
        let before = entry.before.as_deref().map(|image| self.row(entry, image)).transpose()?;
        let after = entry.after.as_deref().map(|image| self.row(entry, image)).transpose()?;
        // Reading `after` may have made a column text, and then `before` is to be of the same table.
        let table = self.shape(&entry.table, &entry.columns)?;
        let before = match before {
            Some(row) if !Arc::ptr_eq(&row.table, &table) => {
                entry.before.as_deref().map(|image| self.row(entry, image)).transpose()?
            }
            before => before,
        };
        let mut push = |operation, index, before: Option<RowImage>, after| {
            let id = entry.id as u64;
            changes.push(Change {
                table: Arc::clone(&table),
                operation,
                version: Version { epoch: self.epoch, commit: id, change: id, index, revision: 0 },
                before: before.map_or(Before::None, Before::Full),
                after,
                origin: Origin {
                    ts_us: entry.at_us,
                    snapshot: SnapshotMark::Streamed,
                    place: Place::Changelog { change_id: entry.id },
                },
            });
        };
        match (entry.op.as_str(), before, after) {
            ("c", None, Some(after)) => push(Operation::Create, 0, None, Some(after.image)),
            ("d", Some(before), None) => push(Operation::Delete, 0, Some(before.image), None),
            ("u", Some(before), Some(after)) if before.key == after.key => {
                push(Operation::Update, 0, Some(before.image), Some(after.image));
            }
            ("u", Some(before), Some(after)) => {
                push(Operation::Delete, 0, Some(before.image), None);
                push(Operation::Create, 1, None, Some(after.image));
            }
            // The emptied row with the largest id, of an earlier position.
            (_, None, None) => {}
            _ => return Err(self.broken(entry.id)),
        }
        Ok(())
    }

    fn row(&mut self, entry: &Entry, image: &[u8]) -> Result<DecodedRow, SourceError> {
        self.image(&entry.table, &entry.columns, image, entry.id)
    }

    /// The row image of a row as SQL literals.
    fn image(&mut self, table: &str, columns: &str, literals: &[u8], id: i64) -> Result<DecodedRow, SourceError> {
        let values = literal::parse(literals).map_err(|_| self.broken(id))?;
        loop {
            let shape = self.shape(table, columns)?;
            if values.len() != shape.columns.len() {
                return Err(self.broken(id));
            }
            match build(&values, &shape) {
                Ok(image) => return Ok(image),
                Err(misfit) => self.widen(table, &shape, misfit, id)?,
            }
        }
    }

    /// A value does not go with its column's type: from here on the column is text.
    fn widen(&mut self, table: &str, shape: &Table, column: usize, id: i64) -> Result<(), SourceError> {
        // A text holds every value.
        let Some(column) = shape.columns.get(column).filter(|column| column.kind != ColumnType::Text) else {
            return Err(self.broken(id));
        };
        let name = column.name.clone();
        tracing::warn!(system = %self.system, table, column = name, "a value is not of the declared type; the column is text from here on");
        self.widened.push((table.to_owned(), name));
        self.shapes.retain(|(of, _), _| of != table);
        Ok(())
    }

    /// The table as its columns were when a row was written.
    fn shape(&mut self, table: &str, columns: &str) -> Result<Arc<Table>, SourceError> {
        let place = (table.to_owned(), columns.to_owned());
        if let Some(shape) = self.shapes.get(&place) {
            return Ok(Arc::clone(shape));
        }
        let bad = |detail: String| SourceError::Protocol { system: self.system.clone(), detail };
        let captured = self.tables.get(table).ok_or_else(|| bad(format!("table {table} is not tailed")))?;
        let names = literal::parse(columns.as_bytes()).map_err(|_| bad(format!("the columns of table {table} do not read")))?;
        let mut of_then = vec![];
        for name in names {
            let Literal::Text(name) = name else { return Err(bad(format!("the columns of table {table} do not read"))) };
            let name = String::from_utf8_lossy(&name).into_owned();
            let mut column = captured.table.column(&name).map_or_else(
                || Column { name: name.clone(), kind: ColumnType::Text, nullable: true, default: None },
                |(_, column)| column.clone(),
            );
            if self.widened.iter().any(|(of, widened)| of == table && *widened == name) {
                column.kind = ColumnType::Text;
            }
            of_then.push(column);
        }
        let key: Option<Vec<usize>> =
            captured.table.key_columns().map(|key| of_then.iter().position(|column| column.name == key.name)).collect();
        let key = key.ok_or_else(|| bad(format!("an older change of table {table} does not have its key")))?;
        let shape = Arc::new(Table { name: captured.table.name.clone(), columns: of_then, key });
        self.shapes.insert(place, Arc::clone(&shape));
        Ok(shape)
    }

    fn broken(&self, id: i64) -> SourceError {
        SourceError::Protocol {
            system: self.system.clone(),
            detail: format!("row {id} of guitong_changes is not as the triggers write it; another program may have changed it"),
        }
    }

    /// The next chunk of a table; `high` is the largest change id that the same transaction sees.
    pub(super) async fn chunk(
        &mut self,
        conn: &mut SqliteConnection,
        table: &str,
        Part { after, wanted }: Part<'_>,
        high: i64,
        first_row: u64,
        budget: ChunkBudget,
    ) -> Result<Chunk, SourceError> {
        let Some(captured) = self.tables.get(table).cloned() else {
            return Ok(Chunk { changes: vec![], rows: 0, after: None });
        };
        let columns = captured.columns_text();
        let bound = after.map(|after| literal::parse(after.as_bytes())).transpose().map_err(|_| self.broken(high))?;
        let mut query = sqlx::query(sql(chunk_sql(&captured, bound.as_deref(), wanted)));
        for value in bound.into_iter().flatten() {
            query = match value {
                Literal::Integer(digits) => query.bind(number::<i64>(digits)),
                Literal::Real(number_text) => query.bind(number::<f64>(number_text)),
                Literal::Text(text) => match String::from_utf8(text.into_owned()) {
                    Ok(text) => query.bind(text),
                    Err(bytes) => query.bind(bytes.into_bytes()),
                },
                Literal::Blob(digits) => query.bind(hex::decode(digits).unwrap_or_default()),
                Literal::Null | Literal::TooLarge => query.bind(None::<i64>),
            };
        }
        let (mut images, mut size) = (vec![], 0);
        let mut last = None;
        let mut rows = query.fetch(conn);
        while let Some(row) = rows.try_next().await.map_err(|error| fault(&self.system, &error))? {
            let read = || Ok::<(Vec<u8>, Option<String>), sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
            let (image, place) = read().map_err(|error| fault(&self.system, &error))?;
            size += image.len();
            images.push(image);
            // A chunk ends at a row whose place can be kept.
            if let Some(place) = place
                && (size >= budget.bytes || images.len() >= budget.rows)
            {
                last = Some(place);
                break;
            }
        }
        drop(rows);
        let ended = last.is_none();
        let now_us = jiff::Timestamp::now().as_microsecond();
        let mut changes = Vec::with_capacity(images.len());
        let count = images.len();
        for (at, literals) in images.iter().enumerate() {
            let row = self.image(table, &columns, literals, high)?;
            let number = first_row + at as u64;
            let mark = match at {
                0 if after.is_none() => SnapshotMark::FirstInTable,
                at if ended && at + 1 == count => SnapshotMark::LastInTable,
                _ => SnapshotMark::Inside,
            };
            changes.push(Change {
                table: row.table,
                operation: Operation::Read,
                // Numbered on, so that no two rows share a version; a load of more than 2^32 rows begins anew, at another `commit`.
                version: Version { epoch: self.epoch, commit: high as u64, change: 0, index: number as u32, revision: 0 },
                before: Before::None,
                after: Some(row.image),
                origin: Origin { ts_us: now_us, snapshot: mark, place: Place::Changelog { change_id: high } },
            });
        }
        Ok(Chunk { changes, rows: count as u64, after: last })
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Image and place of each row, in order, from behind a place on. Texts in a place are in hexadecimal digits, for they may not be UTF-8; a
/// place with a value over the limit is null.
fn chunk_sql(captured: &Captured, after: Option<&[Literal<'_>]>, wanted: &[Wanted]) -> String {
    let table = quote_name(captured.name());
    let Order { columns, by_row_id } = &captured.order;
    let columns = columns.iter().filter_map(|&index| captured.table.columns.get(index)).map(|column| quote_name(&column.name));
    let names: Vec<String> = columns.chain(by_row_id.then(|| "_rowid_".to_owned())).collect();
    let place = |name: &String| {
        format!(
            "CASE WHEN length({name}) > {LARGEST} THEN NULL WHEN typeof({name}) = 'text' THEN 'T''' || hex({name}) || '''' \
             ELSE quote({name}) END"
        )
    };
    let place = names.iter().map(place).collect::<Vec<_>>().join(" || ',' || ");
    let order = names.join(", ");
    let bound = after.map(|after| behind(&names, after));
    let wanted = wanted.iter().map(|Wanted { column, values }| {
        let values: Vec<String> = values.iter().filter(|value| !value.contains('\0')).map(|value| quote_text(value)).collect();
        format!("trim(CAST({} AS TEXT)) IN ({})", quote_name(column), values.join(", "))
    });
    let conditions: Vec<String> = bound.into_iter().chain(wanted).collect();
    let conditions = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    format!("SELECT {}, {place} FROM {table} {conditions} ORDER BY {order}", captured.image_sql(captured.name()))
}

/// The rows that sort after a place. Nulls sort first, and compare with nothing.
fn behind(names: &[String], after: &[Literal<'_>]) -> String {
    let parameter = |(at, value): (usize, &Literal<'_>)| match value {
        // Bound as a blob; the sign takes the cast's affinity away, so that it compares as any other value.
        Literal::Text(text) if std::str::from_utf8(text).is_err() => format!("+CAST(${at} AS TEXT)"),
        _ => format!("${at}"),
    };
    let parameters: Vec<String> = (1..).zip(after).map(parameter).collect();
    if !after.contains(&Literal::Null) {
        // A load that began when the place had no row id goes on by what it has.
        let names: Vec<&str> = names.iter().take(after.len()).map(String::as_str).collect();
        return format!("({}) > ({})", names.join(", "), parameters.join(", "));
    }
    let places: Vec<_> = names.iter().zip(&parameters).zip(after).collect();
    let ways = (0..places.len()).filter_map(|at| {
        let ((name, parameter), value) = places.get(at)?;
        let same = places.iter().take(at).map(|((name, parameter), _)| format!("{name} IS {parameter}"));
        let next = if *value == &Literal::Null { format!("{name} IS NOT NULL") } else { format!("{name} > {parameter}") };
        Some(same.chain([next]).collect::<Vec<_>>().join(" AND "))
    });
    format!("({})", ways.collect::<Vec<_>>().join(" OR "))
}

struct DecodedRow {
    table: Arc<Table>,
    image: RowImage,
    key: Vec<KeyCell>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyCell {
    Null,
    TooLarge,
    Value(Vec<u8>),
}

/// The image, or the index of the column whose type does not hold its value. A key's value that its type does not hold stays as it is: the
/// column's type is that of other rows' keys.
fn build(values: &[Literal<'_>], table: &Arc<Table>) -> Result<DecodedRow, usize> {
    let mut builder = RowBuilder::default();
    let mut key = vec![KeyCell::Null; table.key.len()];
    for (index, (value, column)) in values.iter().zip(&table.columns).enumerate() {
        let place = table.key.iter().position(|&at| at == index);
        let cell = match value {
            Literal::Null => {
                builder.null();
                KeyCell::Null
            }
            Literal::TooLarge => {
                builder.absent();
                KeyCell::TooLarge
            }
            value => {
                let as_it_is = || place.and_then(|_| types::text_of(value, &ColumnType::Text));
                let text = types::text_of(value, &column.kind).or_else(as_it_is).ok_or(index)?;
                builder.text(&text).map_err(|_| index)?;
                match place {
                    Some(_) => KeyCell::Value(text.into_owned()),
                    None => continue,
                }
            }
        };
        if let Some(slot) = place.and_then(|place| key.get_mut(place)) {
            *slot = cell;
        }
    }
    Ok(DecodedRow { table: Arc::clone(table), image: builder.finish(), key })
}
