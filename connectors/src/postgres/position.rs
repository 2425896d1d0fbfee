//! Where the connector stands: what is stored in the log beside the changes, and given back at the next start.

use std::collections::BTreeMap;

use bytes::Bytes;
use guitong_schemas::position::Lsn;
use guitong_schemas::table::TableName;
use serde::{Deserialize, Serialize};

use super::visibility::Visibility;

/// Format of the stored text.
const FORMAT: u32 = 1;

/// Everything before `lsn` is published, and of the transaction after it the changes up to `inside`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    format: u32,
    pub(crate) system_id: String,
    pub(crate) timeline: u32,
    pub(crate) epoch: u32,
    /// End of the last transaction that is wholly published: as far as the slot may be confirmed.
    pub(crate) lsn: Lsn,
    /// End of the last transaction that had changes, for `source.sequence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_commit: Option<Lsn>,
    /// The transaction that the server sends again from its start, and how much of it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<Inside>,
    pub(crate) tables: Vec<TableProgress>,
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

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inside {
    pub(crate) commit: u64,
    pub(crate) change: u64,
    pub(crate) index: u32,
}

/// How far a table's first load is. A table that is not listed has not begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TableProgress {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Text of the last key read; `None` when the table is read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) rows: u64,
}

impl TableProgress {
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
            epoch,
            lsn,
            last_commit: None,
            inside: None,
            tables: Vec::new(),
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
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if format != FORMAT {
            return Err(format!("it has format {format}, this version reads {FORMAT}"));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    pub(crate) fn progress(&self) -> BTreeMap<TableName, TableProgress> {
        self.tables.iter().map(|progress| (progress.table(), progress.clone())).collect()
    }

    /// Forgets keys that were read.
    pub(crate) fn was_read_again(&mut self, table: &TableName, keys: &[Vec<String>]) {
        self.again.retain(|again| again.schema != table.schema || again.name != table.name || !keys.contains(&again.key));
    }

    pub(crate) fn set_progress(&mut self, table: &TableName, after: Option<Vec<String>>, more_rows: u64) {
        match self.begun(table) {
            Some(progress) => {
                progress.after = after;
                progress.rows += more_rows;
            }
            None => {
                self.tables.push(TableProgress { schema: table.schema.clone(), name: table.name.clone(), after, rows: more_rows })
            }
        }
    }

    fn begun(&mut self, table: &TableName) -> Option<&mut TableProgress> {
        self.tables.iter_mut().find(|progress| progress.schema == table.schema && progress.name == table.name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_text() {
        let mut position = Position::new("7123".into(), 2, 3, Lsn(0x16_B374_D848));
        position.inside = Some(Inside { commit: 9, change: 8, index: 7 });
        let table = TableName::new("登记", "a.b");
        position.set_progress(&table, Some(vec!["1".into(), "it's".into()]), 10);
        position.set_progress(&table, Some(vec!["2".into(), "x".into()]), 5);
        let snapshot: Visibility = "10:20:11,12".parse().unwrap();
        position.settling.push(Settling { schema: "登记".into(), name: "b".into(), snapshot, until: Lsn(5) });
        let bytes = position.to_bytes().unwrap();
        assert_eq!(Position::from_bytes(&bytes), Ok(position.clone()));
        assert_eq!(position.progress()[&table].rows, 15);
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(Position::from_bytes(br#"{"format":9}"#).unwrap_err().contains("format 9"));
        assert!(Position::from_bytes(b"\xFF").is_err());
    }
}
