//! A subscriber's table as the exchange writes it, and the parts of statements that databases share.

use guitong_govern::{Column, ColumnKind, KeyForm};
use serde::{Deserialize, Serialize};

use super::{EPOCH, KEY, VERSION};
use crate::sink::{SinkError, SinkErrorKind, SinkPlan};

/// A quoted identifier (SQL:2016, delimited identifier).
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names of the table and its columns, ready for statements.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Quoted, with its schema where the database has them.
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
    /// Names of the key's columns: the entity's, or `guitong_key`.
    pub(crate) key: Vec<String>,
    pub(crate) hashed: bool,
}

impl Layout {
    pub(crate) fn new(table: String, plan: &SinkPlan) -> Self {
        let (key, hashed) = match &plan.key {
            KeyForm::Hashed => (vec![KEY.to_owned()], true),
            KeyForm::Clear(places) => {
                let names = places.iter().filter_map(|&at| plan.columns.get(at)).map(|column| column.name.clone());
                (names.collect(), false)
            }
        };
        Self { table, columns: plan.columns.clone(), key, hashed }
    }

    /// Every column that is written, in the order of values: `guitong_key` where the key is hashed, the granted columns,
    /// `guitong_version`, `guitong_epoch`.
    pub(crate) fn written(&self) -> Vec<&str> {
        let key = self.hashed.then_some(KEY);
        key.into_iter().chain(self.columns.iter().map(|column| column.name.as_str())).chain([VERSION, EPOCH]).collect()
    }

    pub(crate) fn is_key(&self, name: &str) -> bool {
        self.key.iter().any(|key| key == name)
    }

    /// `"a" = s."a", …` of every column that is not the key's.
    pub(crate) fn assignments(&self, from: &str) -> String {
        let others = self.written().into_iter().filter(|name| !self.is_key(name));
        join(others.map(|name| format!("{0} = {from}.{0}", quote(name))), ", ")
    }

    /// `t."k" = s."k" AND …`.
    pub(crate) fn same_key(&self, left: &str, right: &str) -> String {
        join(self.key.iter().map(|name| format!("{left}.{0} = {right}.{0}", quote(name))), " AND ")
    }

    pub(crate) fn quoted_key(&self) -> String {
        join(self.key.iter().map(|name| quote(name)), ", ")
    }

    pub(crate) fn quoted_written(&self) -> String {
        join(self.written().into_iter().map(quote), ", ")
    }
}

/// The guard: what `t` holds is older than `s`. A row that somebody else put there has no version and is taken over. Of one
/// version the later epoch wins, so that a refill writes again what it meets.
pub(crate) fn older(t: &str, s: &str) -> String {
    format!("({t}.{VERSION} IS NULL OR ({t}.{VERSION}, {t}.{EPOCH}) < ({s}.{VERSION}, {s}.{EPOCH}))")
}

pub(crate) fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

/// What is stored of a grant beside its fingerprint, so that a later one knows what to take away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) key: Vec<String>,
    pub(crate) columns: Vec<ShapeColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShapeColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) masks: String,
}

impl Shape {
    pub(crate) fn of(layout: &Layout) -> Self {
        let columns = layout.columns.iter().map(|column| ShapeColumn {
            name: column.name.clone(),
            kind: kind_text(column.kind),
            masks: column.masks.clone(),
        });
        Self { key: layout.key.clone(), columns: columns.collect() }
    }

    pub(crate) fn to_json(&self) -> Result<String, SinkError> {
        serde_json::to_string(self).map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))
    }

    pub(crate) fn from_json(text: &str) -> Result<Self, SinkError> {
        let damaged = |error| format!("guitong_subscriptions.shape is damaged: {error}");
        serde_json::from_str(text).map_err(|error| SinkError::new(SinkErrorKind::Shape, damaged(error)))
    }

    /// What has to be taken away before anything is delivered under `new`.
    pub(crate) fn change_to(&self, new: &Self) -> Reshape {
        if self.key != new.key {
            return Reshape::Rekey;
        }
        let same = |old: &ShapeColumn, by: fn(&ShapeColumn) -> &String| {
            new.columns.iter().any(|column| column.name == old.name && by(column) == by(old))
        };
        let retyped = |old: &&ShapeColumn| new.columns.iter().any(|c| c.name == old.name && c.kind != old.kind);
        let name = |column: &ShapeColumn| column.name.clone();
        let clear = self.columns.iter().filter(|old| !same(old, |column| &column.masks) && !self.key.contains(&old.name));
        Reshape::Columns { clear: clear.map(name).collect(), retyped: self.columns.iter().filter(retyped).map(name).collect() }
    }
}

/// How a table follows a changed grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reshape {
    /// Rows are keyed in another way: all of them go.
    Rekey,
    /// Columns whose values go at once, since they are no longer granted or are masked otherwise; and those of another type.
    Columns { clear: Vec<String>, retyped: Vec<String> },
}

impl Reshape {
    /// The statements that take away from `layout`'s table what a changed grant no longer allows, and whether the table is still there after
    /// them. `made`: the exchange made the table and may alter it.
    pub(crate) fn statements(&self, layout: &Layout, made: bool) -> (Vec<String>, bool) {
        let table = &layout.table;
        match self {
            Self::Rekey if made => (vec![format!("DROP TABLE {table}")], false),
            Self::Columns { clear, retyped } if made => {
                let dropped = retyped.iter().map(|name| format!("ALTER TABLE {table} DROP COLUMN {}", quote(name)));
                let mut statements: Vec<String> = dropped.collect();
                let kept: Vec<_> = clear.iter().filter(|name| !retyped.contains(name)).collect();
                if !kept.is_empty() {
                    let nulls = join(kept.iter().map(|name| format!("{} = NULL", quote(name))), ", ");
                    statements.push(format!("UPDATE {table} SET {nulls}"));
                }
                (statements, true)
            }
            Self::Columns { clear, .. } if clear.is_empty() => (Vec::new(), true),
            // A table that the exchange did not make is not altered, and its columns may refuse null: the delivered rows go.
            Self::Rekey | Self::Columns { .. } => (vec![format!("DELETE FROM {table} WHERE {VERSION} IS NOT NULL")], true),
        }
    }
}

fn kind_text(kind: ColumnKind) -> String {
    match kind {
        ColumnKind::Text => "text".to_owned(),
        ColumnKind::Int => "int".to_owned(),
        ColumnKind::Date => "date".to_owned(),
        ColumnKind::Time => "time".to_owned(),
        ColumnKind::Decimal { precision, scale } => format!("decimal:{precision},{scale}"),
        ColumnKind::TextList => "list".to_owned(),
        ColumnKind::Steps => "steps".to_owned(),
    }
}

/// The error of a table that does not fit, with every reason and what to do.
pub(crate) fn misfit(table: &str, subscription: &str, problems: &[String], help: &str) -> SinkError {
    let list = join(problems.iter().map(|problem| format!("\n  - {problem}")), "");
    let detail = format!("table {table} does not fit subscription {subscription}:{list}\n  help: {help}");
    SinkError::new(SinkErrorKind::Shape, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(key: &[&str], columns: &[(&str, &str, &str)]) -> Shape {
        let columns = columns.iter().map(|(name, kind, masks)| ShapeColumn {
            name: (*name).into(),
            kind: (*kind).into(),
            masks: (*masks).into(),
        });
        Shape { key: key.iter().map(|&name| name.into()).collect(), columns: columns.collect() }
    }

    #[test]
    fn what_is_no_longer_granted_goes_at_once() {
        let old = shape(&["uscc"], &[("uscc", "text", ""), ("name", "text", ""), ("rep", "text", ""), ("born", "date", "")]);
        let new =
            shape(&["uscc"], &[("uscc", "text", ""), ("rep", "text", "name"), ("born", "text", "year"), ("phone", "text", "")]);
        let clear = vec!["name".to_owned(), "rep".to_owned(), "born".to_owned()];
        assert_eq!(old.change_to(&new), Reshape::Columns { clear, retyped: vec!["born".to_owned()] });
        assert_eq!(old.change_to(&old), Reshape::Columns { clear: vec![], retyped: vec![] });
        assert_eq!(old.change_to(&shape(&[KEY], &[])), Reshape::Rekey);
    }

    #[test]
    fn identifiers_cannot_end_their_quotes() {
        assert_eq!(quote("企业\"; DROP"), "\"企业\"\"; DROP\"");
    }
}
