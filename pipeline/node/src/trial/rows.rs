//! Rows out of a file: one JSON object a line, column -> value, as changes of a table that the values themselves shape.
//!
//! A line is either the row itself or an example, `{"row": {…}, …}`; no column holds an object, so the two are told apart. A line that
//! cannot be read is kept with its reason and stops nothing.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, SnapshotMark, ValueTooLong};
use guitong_schemas::position::Version;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Bytes of a file that is tried. It is held in memory, and nobody looks at more rows than that.
pub(crate) const MAX_INPUT: usize = 64 << 20;

/// Columns of a row; databases allow about as many.
const MAX_COLUMNS: usize = 2_000;

/// Column that tells rows apart where the table has no declared key: the number of the line.
pub(crate) const LINE: &str = "guitong_line";

/// A value as written: what decides the column's type, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    Null,
    Text(String),
    Integer(String),
    /// Digits with a fraction.
    Decimal(String),
    /// With an exponent.
    Float(String),
    Boolean(bool),
}

/// A row's columns in the order written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WrittenRow(pub(crate) Vec<(String, Written)>);

/// Why a line is no row. It holds nothing of the line: it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadLine {
    Encoding,
    Form {
        column: usize,
    },
    /// A row with something beside it that is not read.
    Beside {
        column: usize,
    },
}

impl BadLine {
    /// Stable rule code, Chinese, English.
    pub(crate) fn texts(self) -> (&'static str, &'static str, String) {
        match self {
            Self::Encoding => {
                ("input.encoding", "该行不是 UTF-8 编码", "the line is not UTF-8; save the file as UTF-8".to_owned())
            }
            Self::Form { column } => {
                let en = format!(
                    "the line is no JSON object of columns with text, number, true, false or null; it stops to read at column {column}"
                );
                ("input.form", "该行不是“列名: 值”的 JSON 对象", en)
            }
            Self::Beside { column } => {
                let en = format!(
                    "beside `row` stand `table`, `at` (RFC 3339) and `expect` (with `verdict`, `reasons`, `record`, `records`, `partial`); \
                     the line stops to read at column {column}"
                );
                ("input.form", "该行 row 之外只能有 table、at 和 expect", en)
            }
        }
    }
}

/// One line of a file.
#[derive(Debug, Clone)]
pub(crate) struct Line<T> {
    /// 1-based.
    pub(crate) number: usize,
    pub(crate) content: Result<T, BadLine>,
}

/// Reads the lines of a file; empty ones are passed over.
pub(crate) fn lines<T: for<'l> Deserialize<'l>>(file: &[u8]) -> Vec<Line<T>> {
    let file = file.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(file);
    let lines = file.split(|&byte| byte == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    lines.map(|(line, number)| Line { number, content: read(line) }).collect()
}

fn read<T: for<'l> Deserialize<'l>>(line: &[u8]) -> Result<T, BadLine> {
    let text = std::str::from_utf8(line).map_err(|_| BadLine::Encoding)?;
    serde_json::from_str(text).map_err(|error| {
        let column = error.column();
        if holds_row(text) { BadLine::Beside { column } } else { BadLine::Form { column } }
    })
}

/// Whether a line is not a row itself but an object with one in it.
pub(crate) fn holds_row(line: &str) -> bool {
    #[derive(Deserialize)]
    struct Probe<'p> {
        #[serde(borrow)]
        row: Option<&'p RawValue>,
    }
    serde_json::from_str::<Probe<'_>>(line).is_ok_and(|probe| probe.row.is_some_and(|row| row.get().starts_with('{')))
}

impl<'de> Deserialize<'de> for WrittenRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = WrittenRow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WrittenRow, A::Error> {
        let mut row = WrittenRow::default();
        while let Some((column, value)) = map.next_entry::<String, Box<RawValue>>()? {
            if row.get(&column).is_some() {
                return Err(serde::de::Error::custom("a column stands twice"));
            }
            if row.0.len() == MAX_COLUMNS {
                return Err(serde::de::Error::custom("more columns than a table has"));
            }
            row.0.push((
                column,
                written(value.get()).ok_or_else(|| serde::de::Error::custom("no column holds a list or an object"))?,
            ));
        }
        Ok(row)
    }
}

/// A scalar with all its digits: `12345678901234567.10` stays that.
fn written(json: &str) -> Option<Written> {
    Some(match json.as_bytes().first()? {
        b'n' => Written::Null,
        b't' | b'f' => Written::Boolean(json == "true"),
        b'"' => Written::Text(serde_json::from_str(json).ok()?),
        b'[' | b'{' => return None,
        _ if json.contains(['e', 'E']) => Written::Float(json.to_owned()),
        _ if json.contains('.') || json.parse::<i64>().is_err() => Written::Decimal(json.to_owned()),
        _ => Written::Integer(json.to_owned()),
    })
}

impl WrittenRow {
    pub(crate) fn get(&self, column: &str) -> Option<&Written> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, value)| value)
    }
}

impl Serialize for WrittenRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(column, value)| (column, value)))
    }
}

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Boolean(truth) => serializer.serialize_bool(*truth),
            // With all its digits.
            Self::Integer(number) | Self::Decimal(number) | Self::Float(number) => {
                RawValue::from_string(number.clone()).map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
        }
    }
}

impl Written {
    fn kind(&self) -> Option<ColumnType> {
        match self {
            Self::Null => None,
            Self::Text(_) => Some(ColumnType::Text),
            Self::Integer(_) => Some(ColumnType::Int64),
            Self::Decimal(_) => Some(ColumnType::VariableDecimal),
            Self::Float(_) => Some(ColumnType::Float64),
            Self::Boolean(_) => Some(ColumnType::Bool),
        }
    }

    /// In the text form of a row image.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Null => None,
            Self::Text(text) | Self::Integer(text) | Self::Decimal(text) | Self::Float(text) => Some(text),
            Self::Boolean(true) => Some("t"),
            Self::Boolean(false) => Some("f"),
        }
    }
}

/// The type that holds all values of a column; of different kinds of values that is text, but for kinds of numbers.
fn common(one: ColumnType, other: ColumnType) -> ColumnType {
    use ColumnType::{Float64, Int64, Text, VariableDecimal};
    match (one, other) {
        (one, other) if one == other => one,
        (Int64 | VariableDecimal, Int64 | VariableDecimal) => VariableDecimal,
        (Int64 | VariableDecimal | Float64, Int64 | VariableDecimal | Float64) => Float64,
        _ => Text,
    }
}

/// The table that rows are of: columns in the order in which they are met, `read` among them. Without `key` the line is the key.
pub(crate) fn table<'r>(
    name: &TableName,
    key: Option<&[String]>,
    read: &[String],
    rows: impl Iterator<Item = &'r WrittenRow>,
) -> Table {
    let mut columns: Vec<(&str, Option<ColumnType>)> = Vec::new();
    for (column, value) in rows.flat_map(|row| &row.0) {
        let at = columns.iter().position(|(known, _)| known == column).unwrap_or_else(|| {
            columns.push((column, None));
            columns.len() - 1
        });
        if let (Some((_, held)), Some(kind)) = (columns.get_mut(at), value.kind()) {
            *held = Some(held.take().map_or(kind.clone(), |held| common(held, kind)));
        }
    }
    for column in read {
        if !columns.iter().any(|(known, _)| known == column) {
            columns.push((column, None));
        }
    }
    if key.is_none() {
        columns.push((LINE, Some(ColumnType::Int64)));
    }
    let own = [LINE.to_owned()];
    let key = key.unwrap_or(&own);
    let key: Vec<usize> = key.iter().filter_map(|wanted| columns.iter().position(|(name, _)| name == wanted)).collect();
    let column = |(at, (name, kind)): (usize, (&str, Option<ColumnType>))| Column {
        name: name.to_owned(),
        kind: kind.unwrap_or(ColumnType::Text),
        nullable: !key.contains(&at),
        default: None,
    };
    let columns = columns.into_iter().enumerate().map(column).collect();
    Table { name: name.clone(), columns, key }
}

/// Whether these columns hold a value in every row, and no two rows the same.
pub(crate) fn tell_apart(rows: &[&WrittenRow], columns: &[String]) -> bool {
    let key = |row: &&WrittenRow| -> Option<Vec<String>> {
        columns.iter().map(|column| Some(row.get(column)?.text()?.to_owned())).collect()
    };
    let keys: Option<HashSet<Vec<String>>> = rows.iter().map(key).collect();
    keys.is_some_and(|keys| keys.len() == rows.len())
}

/// The row as its source would send it.
pub(crate) fn change(
    row: &WrittenRow,
    line: usize,
    table: &Arc<Table>,
    kind: SourceKind,
    at_us: i64,
) -> Result<Change, ValueTooLong> {
    let mut image = RowBuilder::default();
    for column in &table.columns {
        let value = row.get(&column.name);
        match value.and_then(Written::text) {
            // Beside other kinds of values in its column a boolean is a word.
            Some(_) if column.kind == ColumnType::Text && matches!(value, Some(Written::Boolean(_))) => {
                image.text(if value == Some(&Written::Boolean(true)) { b"true" } else { b"false" })?;
            }
            Some(text) => image.text(text.as_bytes())?,
            None if column.name == LINE && value.is_none() => image.text(line.to_string().as_bytes())?,
            None => image.null(),
        }
    }
    Ok(Change {
        table: Arc::clone(table),
        operation: Operation::Read,
        version: Version::default(),
        before: Before::None,
        after: Some(image.finish()),
        origin: Origin { ts_us: at_us, snapshot: SnapshotMark::Inside, place: place(kind) },
    })
}

fn place(kind: SourceKind) -> Place {
    match kind {
        SourceKind::Postgres => Place::Postgres { xid: None, lsn: 0, last_commit_lsn: None, order: None },
        SourceKind::Changelog => Place::Changelog { change_id: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<WrittenRow, BadLine> {
        read(line.as_bytes())
    }

    #[test]
    fn values_keep_their_kind_and_their_digits() {
        let row = one(r#"{"列": "桂", "n": 7, "d": 12345678901234567.10, "f": 1e3, "b": true, "z": null}"#).unwrap();
        for (column, value) in [
            ("列", Written::Text("桂".into())),
            ("n", Written::Integer("7".into())),
            ("d", Written::Decimal("12345678901234567.10".into())),
            ("f", Written::Float("1e3".into())),
            ("b", Written::Boolean(true)),
            ("z", Written::Null),
        ] {
            assert_eq!(row.get(column), Some(&value), "{column}");
        }
        let written = r#"{"列":"桂","n":7,"d":12345678901234567.10,"f":1e3,"b":true,"z":null}"#;
        assert_eq!(serde_json::to_string(&row).unwrap(), written);
    }

    #[test]
    fn a_line_that_is_no_row_is_told_and_the_others_are_read() {
        let mut file = "\u{FEFF}{\"a\": 1}\r\n\n[1]\n{\"a\": {}}\n{\"a\": 1, \"a\": 2}\n".as_bytes().to_vec();
        file.extend(b"{\"a\": \"\xC4\xCF\xC4\xFE\"}\n{\"a\": 2}");
        let lines: Vec<Line<WrittenRow>> = lines(&file);
        let read: Vec<(usize, bool)> = lines.iter().map(|line| (line.number, line.content.is_ok())).collect();
        assert_eq!(read, [(1, true), (3, false), (4, false), (5, false), (6, false), (7, true)]);
        assert_eq!(lines[4].content, Err(BadLine::Encoding));
    }

    #[test]
    fn a_column_is_of_the_type_that_holds_all_its_values() {
        let rows: Vec<WrittenRow> = ["{\"a\": 1, \"b\": 1, \"c\": null}", "{\"a\": 1.5, \"b\": \"x\", \"d\": true}"]
            .iter()
            .map(|line| one(line).unwrap())
            .collect();
        let table = table(&TableName::new("main", "t"), None, &["e".to_owned()], rows.iter());
        let kinds: Vec<(&str, &ColumnType)> = table.columns.iter().map(|column| (column.name.as_str(), &column.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("a", &ColumnType::VariableDecimal),
                ("b", &ColumnType::Text),
                ("c", &ColumnType::Text),
                ("d", &ColumnType::Bool),
                ("e", &ColumnType::Text),
                (LINE, &ColumnType::Int64)
            ]
        );
        assert_eq!(table.key, [5]);
    }
}
