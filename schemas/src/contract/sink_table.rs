//! How a SQL sink keeps its table: what becomes of rows that are gone, whether earlier versions stay, what its columns are called.

use std::collections::BTreeMap;

use super::reading::scalar;
use super::reading::section::Section;

/// Keys of the section beside those of each kind of sink.
pub(super) const KEYS: [&str; 4] = ["deletes", "history", "columns", "on_type_change"];

/// When a row was deleted, or left what the subscriber may have; of soft deletes.
pub const DELETED_AT: &str = "deleted_at";
/// Between these a version was the row's newest; in the table of a history.
pub const VALID: [&str; 2] = ["valid_from", "valid_to"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkTable {
    pub deletes: Deletes,
    /// A table beside it, [`SinkTable::past`], holds every version of each row.
    pub history: bool,
    /// Column by field, of a table that is the department's own: nothing of the exchange's is in it, and what is called otherwise is
    /// named here. Beside it, [`SinkTable::versions`] holds which version of each row it has. Empty: the table is the exchange's.
    pub columns: BTreeMap<String, String>,
    pub on_type_change: OnTypeChange,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deletes {
    /// Rows that are gone are removed.
    #[default]
    Hard,
    /// They stay, with [`DELETED_AT`].
    Soft,
}

/// What happens to a column of a table that the exchange made when its values become of another type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnTypeChange {
    /// It is made anew, and filled from the log.
    #[default]
    Rebuild,
    /// Nothing is delivered until somebody has altered it, or says that it be made anew.
    Pause,
}

const TYPE_CHANGES: [(&str, OnTypeChange); 2] = [("rebuild", OnTypeChange::Rebuild), ("pause", OnTypeChange::Pause)];
const DELETES: [(&str, Deletes); 2] = [("hard", Deletes::Hard), ("soft", Deletes::Soft)];

impl SinkTable {
    /// Name of the table of versions beside `table`.
    #[must_use]
    pub fn past(table: &str) -> String {
        format!("{table}_history")
    }

    /// Name of the table of keys and versions beside `table`, which is the department's own.
    #[must_use]
    pub fn versions(table: &str) -> String {
        format!("{table}_guitong")
    }

    /// Names of the tables that are made beside `table`.
    #[must_use]
    pub fn beside(&self, table: &str) -> Vec<String> {
        let past = self.history.then(|| Self::past(table));
        let versions = (!self.columns.is_empty()).then(|| Self::versions(table));
        past.into_iter().chain(versions).collect()
    }
}

/// `table`: its name, where there is one. `fits`: whether the database takes a name for a table.
pub(super) fn read(section: &Section<'_>, table: Option<&str>, fits: fn(&str) -> bool, fields: Option<&[String]>) -> SinkTable {
    let deletes = section.choice("deletes", &DELETES).map(|found| found.value).unwrap_or_default();
    let history = section.flag("history").is_some_and(|found| found.value);
    if deletes == Deletes::Soft {
        check_names(section, "deletes", &[DELETED_AT], fields);
    }
    if history {
        check_names(section, "history", &VALID, fields);
    }
    let columns = section.own_section("columns").map_or_else(BTreeMap::new, |section| read_columns(&section, fields));
    if let Some(key) = (deletes == Deletes::Soft).then_some("deletes").or(history.then_some("history"))
        && !columns.is_empty()
    {
        let message = format!("`{key}` adds columns or rows, and a table that is written by `columns` is the department's own");
        section.problem(&section.key_at(key), "own-table", message, Some("leave one of the two out".to_owned()));
    }
    let on_type_change = section.choice("on_type_change", &TYPE_CHANGES).map(|found| found.value).unwrap_or_default();
    let kept = SinkTable { deletes, history, columns, on_type_change };
    if let Some(long) = table.into_iter().flat_map(|table| kept.beside(table)).find(|name| !fits(name)) {
        let message = format!("`{long}`, which stands beside the table, is longer than the database allows");
        section.problem(&section.value_at("table"), "bad-value", message, Some("give the table a shorter name".to_owned()));
    }
    kept
}

/// No column is written twice, and none has a name of the exchange's.
fn read_columns(section: &Section<'_>, fields: Option<&[String]>) -> BTreeMap<String, String> {
    let mut columns: BTreeMap<String, String> = BTreeMap::new();
    for field in section.keys() {
        let Some(column) = section.words(&field.value) else { continue };
        if let Some(fields) = fields.filter(|fields| !fields.contains(&field.value)) {
            let message = format!("`{}` is not among `fields`", scalar::short(&field.value));
            let help = scalar::suggestion(&field.value, fields.iter().map(String::as_str));
            section.problem(&field.at, "not-granted", message, help);
        }
        let same = |other: &String| other.to_lowercase() == column.value.to_lowercase();
        let unnamed = |other: &&String| !section.has(other) && same(other);
        if column.value.to_lowercase().starts_with("guitong_") {
            let message = format!("`{}` is a name that the exchange keeps for itself", scalar::short(&column.value));
            section.problem(&column.at, "column-taken", message, None);
        } else if columns.values().any(same) || fields.is_some_and(|fields| fields.iter().any(|field| unnamed(&field))) {
            let message = format!("column `{}` is written twice", scalar::short(&column.value));
            section.problem(&column.at, "duplicate", message, None);
        }
        columns.insert(field.value, column.value);
    }
    columns
}

/// Columns that `key` adds are no granted fields.
fn check_names(section: &Section<'_>, key: &str, names: &[&str], fields: Option<&[String]>) {
    let granted = |name: &&&str| fields.is_some_and(|fields| fields.iter().any(|field| field == **name));
    if let Some(name) = names.iter().find(granted) {
        let message = format!("field `{name}` has the name of a column that `{key}` adds");
        let help = format!("do not grant `{name}`, or leave `{key}` out");
        section.problem(&section.key_at(key), "column-taken", message, Some(help));
    }
}
