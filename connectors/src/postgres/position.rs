//! Where the connector stands: what is stored in the log beside the changes, and given back at the next start.

use std::collections::BTreeMap;

use bytes::Bytes;
use guitong_schemas::position::Lsn;
use guitong_schemas::table::TableName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::visibility::Visibility;

/// Format of the stored text. Format 1 had one range for each table, as `after`.
const FORMAT: u32 = 2;

/// Everything before `lsn` is published, and of the transaction after it the changes up to `inside`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    format: u32,
    pub(crate) system_id: String,
    pub(crate) timeline: u32,
    /// Where that timeline left its parent, if it has one: two can have the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forked: Option<Lsn>,
    pub(crate) epoch: u32,
    /// End of the last transaction that is wholly published: as far as the slot may be confirmed.
    pub(crate) lsn: Lsn,
    /// End of the last transaction that had changes, for `source.sequence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_commit: Option<Lsn>,
    /// The transaction that the server sends again from its start, and how much of it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<Inside>,
    /// The last transaction with content that is wholly published, by which a server shows that it is the one that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Last>,
    /// What the stream was asked for when `last` and `inside` were read. Asked for other things, the same server may not send them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<String>,
    pub(crate) tables: Vec<TableProgress>,
    /// An operator's word: nothing is read until it is taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) paused: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) settling: Vec<Settling>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) again: Vec<Again>,
}

/// A row of a first load that moved to `key` before it was read, and not all of which was sent: it has to be read there, even where
/// that part of the table is read already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Again {
    schema: String,
    name: String,
    key: Vec<String>,
}

/// What tells a transaction from another that is committed at the same place of another history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) xid: u32,
    /// Commit time, microseconds since 2000-01-01T00:00:00Z.
    pub(crate) time: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) commit: u64,
    pub(crate) end: Lsn,
    pub(crate) mark: Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inside {
    pub(crate) commit: u64,
    /// LSN of the last change, and its number among those there; zero before the first.
    pub(crate) change: u64,
    pub(crate) index: u32,
    /// LSN of the last logical message: they are told apart from changes, as the server may send one that ends where a change begins
    /// before it or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<Mark>,
}

impl Inside {
    pub(crate) fn new(commit: u64, mark: Mark) -> Self {
        Self { commit, change: 0, index: 0, message: None, mark: Some(mark) }
    }
}

/// How far a table's reading is. A table that is not listed has not begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TableProgress {
    schema: String,
    name: String,
    /// What is left to be read; nothing when the table is read to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ranges: Vec<Range>,
    /// Columns whose order the ranges are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) order: Vec<String>,
    #[serde(default)]
    pub(crate) rows: u64,
    /// It is read again since somebody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<Asked>,
}

/// What an operator asked to be read again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Only rows that meet this condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
}

/// A part of a table: from behind one key up to another, each as text of its columns or of the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// `None`: from the table's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Vec<String>>,
    /// `None`: to the table's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upto: Option<Vec<String>>,
}

impl TableProgress {
    pub(crate) fn new(table: &TableName) -> Self {
        let (schema, name) = (table.schema.clone(), table.name.clone());
        Self { schema, name, ranges: Vec::new(), order: Vec::new(), rows: 0, asked: None }
    }

    pub(crate) fn table(&self) -> TableName {
        TableName::new(&self.schema, &self.name)
    }
}

/// A table that was read whole under one snapshot: until the stream has passed `until`, changes that the snapshot saw are in the
/// rows already and are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settling {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) snapshot: Visibility,
    pub(crate) until: Lsn,
}

impl Position {
    pub(crate) fn new(system_id: String, timeline: u32, epoch: u32, lsn: Lsn) -> Self {
        Self {
            format: FORMAT,
            system_id,
            timeline,
            forked: None,
            epoch,
            lsn,
            last_commit: None,
            inside: None,
            last: None,
            asked: None,
            tables: Vec::new(),
            paused: false,
            settling: Vec::new(),
            again: Vec::new(),
        }
    }

    /// The stored form: JSON.
    pub(crate) fn to_bytes(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// # Errors
    /// Text that says why the bytes are no position of this connector.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match value.get("format").and_then(Value::as_u64) {
            Some(1) => renew(&mut value),
            Some(format) if format == u64::from(FORMAT) => {}
            format => {
                let format = format.map_or_else(|| "none".to_owned(), |format| format.to_string());
                return Err(format!("it has format {format}, this version reads {FORMAT}"));
            }
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// The stream is asked for this: what was read when it was asked for something else proves nothing.
    pub(crate) fn asks(&mut self, asked: String) {
        if self.asked.as_ref() == Some(&asked) {
            return;
        }
        self.last = None;
        if let Some(inside) = &mut self.inside {
            inside.mark = None;
        }
        self.asked = Some(asked);
    }

    pub(crate) fn progress(&self) -> BTreeMap<TableName, TableProgress> {
        self.tables.iter().map(|progress| (progress.table(), progress.clone())).collect()
    }

    /// The table is read, or is to be.
    pub(crate) fn lists(&self, table: &TableName) -> bool {
        self.tables.iter().any(|progress| progress.schema == table.schema && progress.name == table.name)
    }

    /// Forgets keys that were read.
    pub(crate) fn was_read_again(&mut self, table: &TableName, keys: &[Vec<String>]) {
        self.again.retain(|again| again.schema != table.schema || again.name != table.name || !keys.contains(&again.key));
    }

    /// The progress of a table, which begins with it.
    pub(crate) fn of(&mut self, table: &TableName) -> &mut TableProgress {
        let known = self.tables.iter().position(|progress| progress.schema == table.schema && progress.name == table.name);
        let at = known.unwrap_or(self.tables.len());
        if known.is_none() {
            self.tables.push(TableProgress::new(table));
        }
        &mut self.tables[at]
    }

    /// The table is read to its end.
    pub(crate) fn finish(&mut self, table: &TableName) {
        let progress = self.of(table);
        (progress.ranges, progress.order, progress.asked) = (Vec::new(), Vec::new(), None);
    }

    /// Notes a key to be read once more.
    pub(crate) fn read_again(&mut self, table: &TableName, key: Vec<String>) {
        let again = Again { schema: table.schema.clone(), name: table.name.clone(), key };
        if !self.again.contains(&again) {
            self.again.push(again);
        }
    }

    /// Keys of a table to be read once more.
    pub(crate) fn again<'a>(&'a self, table: &'a TableName) -> impl Iterator<Item = &'a Vec<String>> {
        self.again.iter().filter(|again| again.schema == table.schema && again.name == table.name).map(|again| &again.key)
    }
}

/// From format 1: a table that was being read had the last key read as `after`.
fn renew(value: &mut Value) {
    value["format"] = Value::from(FORMAT);
    for table in value.get_mut("tables").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(after) = table.as_object_mut().and_then(|table| table.remove("after")) {
            table["ranges"] = serde_json::json!([{ "after": after }]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_text() {
        let mut position = Position::new("7123".into(), 2, 3, Lsn(0x16_B374_D848));
        let mark = Mark { xid: 7, time: -1 };
        position.inside = Some(Inside { commit: 9, change: 8, index: 7, message: Some(8), mark: Some(mark) });
        position.last = Some(Last { commit: 5, end: Lsn(8), mark });
        position.asks("16384 any".into());
        position.last = Some(Last { commit: 5, end: Lsn(8), mark });
        let table = TableName::new("登记", "a.b");
        let progress = position.of(&table);
        progress.ranges.push(Range { after: Some(vec!["1".into(), "it's".into()]), upto: Some(vec!["2".into()]) });
        progress.asked = Some(Asked { filter: Some("a > 1".into()) });
        position.of(&table).rows += 15;
        let snapshot: Visibility = "10:20:11,12".parse().unwrap();
        position.settling.push(Settling { schema: "登记".into(), name: "b".into(), snapshot, until: Lsn(5) });
        let bytes = position.to_bytes().unwrap();
        assert_eq!(Position::from_bytes(&bytes), Ok(position.clone()));
        assert_eq!(position.progress()[&table].rows, 15);
    }

    #[test]
    fn the_format_before_is_read() {
        let old = br#"{"format":1,"system_id":"7","timeline":1,"epoch":1,"lsn":5,"tables":[
            {"schema":"s","name":"a","after":["7"],"rows":3},{"schema":"s","name":"b","rows":2}]}"#;
        let position = Position::from_bytes(old).unwrap();
        let progress = position.progress();
        let range = Range { after: Some(vec!["7".into()]), upto: None };
        assert_eq!(progress[&TableName::new("s", "a")].ranges, [range]);
        assert!(progress[&TableName::new("s", "b")].ranges.is_empty());
        assert_eq!(position.to_bytes().map(|bytes| Position::from_bytes(&bytes)).unwrap(), Ok(position));
    }

    #[test]
    fn what_was_read_proves_nothing_where_something_else_is_asked_for() {
        let read = br#"{"format":2,"system_id":"7","timeline":1,"epoch":1,"lsn":5,"tables":[],
            "inside":{"commit":9,"change":8,"index":7}}"#;
        let mut position = Position::from_bytes(read).unwrap();
        assert_eq!((position.last, position.inside.unwrap().mark), (None, None), "as it was stored before there was a proof");
        let mark = Mark { xid: 7, time: 1 };
        position.asks("1 any".into());
        position.last = Some(Last { commit: 3, end: Lsn(4), mark });
        position.inside = Some(Inside::new(9, mark));
        let known = position.clone();
        position.asks("1 any".into());
        assert_eq!(position, known);
        position.asks("1 none".into());
        assert_eq!((position.last, position.inside.unwrap().mark), (None, None));
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(Position::from_bytes(br#"{"format":9}"#).unwrap_err().contains("format 9"));
        assert!(Position::from_bytes(b"\xFF").is_err());
    }
}
