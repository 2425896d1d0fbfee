//! What is stored of a grant, and how a table follows when it changes: what is no longer granted goes before anything new comes.

use guitong_govern::ColumnKind;
use guitong_schemas::contract::sink_table::DELETED_AT;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::kept::Dialect;
use super::layout::{Layout, join, quote};
use super::{VERSION, foreign};
use crate::sink::{SinkError, SinkErrorKind};

/// What is stored of a grant beside its fingerprint, so that a later one knows what to take away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) key: Vec<String>,
    pub(crate) columns: Vec<ShapeColumn>,
    #[serde(default)]
    pub(crate) soft: bool,
    #[serde(default)]
    pub(crate) history: bool,
    /// The table is the department's own.
    #[serde(default)]
    pub(crate) foreign: bool,
    /// SHA-256 of the condition, where there is a history: versions that another one granted cannot be judged again.
    #[serde(default)]
    pub(crate) rows: String,
    /// Columns of earlier grants, which the table still has, without values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left: Vec<ShapeColumn>,
    /// Of which notes the rows are ([`super::holders`]).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mark: String,
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
        let condition = layout.condition.as_deref().filter(|_| layout.history);
        Self {
            key: layout.key.clone(),
            columns: columns.collect(),
            soft: layout.soft,
            history: layout.history,
            foreign: layout.foreign,
            rows: condition.map(|condition| hex::encode(Sha256::digest(condition))).unwrap_or_default(),
            left: Vec::new(),
            mark: String::new(),
        }
    }

    /// With the columns that `old` leaves behind, and its mark.
    pub(crate) fn after(mut self, old: &Self) -> Self {
        self.mark.clone_from(&old.mark);
        if old.columns_to(&self) != Columns::Rekey {
            let is_new = |column: &&ShapeColumn| self.columns.iter().any(|new| new.name == column.name);
            self.left = old.columns.iter().chain(&old.left).filter(|column| !is_new(column)).cloned().collect();
        }
        self
    }

    /// Whether a table of this shape is as `new` wants it.
    pub(crate) fn is_as(&self, new: &Self) -> bool {
        *self == Self { left: self.left.clone(), mark: self.mark.clone(), ..new.clone() }
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
        let columns = self.columns_to(new);
        let retyped: &[String] = match &columns {
            Columns::Rekey => &[],
            Columns::Kept { retyped, .. } => retyped,
        };
        let said = self.columns.iter().filter(|column| !self.key.contains(&column.name) && !retyped.contains(&column.name));
        Reshape {
            deleted: match (self.soft, new.soft) {
                (false, _) => Deleted::None,
                (true, false) => Deleted::Go,
                (true, true) => Deleted::Clear(said.map(|column| column.name.clone()).collect()),
            },
            past: match (self.history, new.history && self.rows == new.rows && columns != Columns::Rekey) {
                (false, _) => Past::None,
                (true, false) => Past::Goes,
                (true, true) => Past::Stays,
            },
            foreign: self.foreign.then(|| self.key.clone()),
            columns,
        }
    }

    fn columns_to(&self, new: &Self) -> Columns {
        if self.key != new.key || self.foreign != new.foreign {
            return Columns::Rekey;
        }
        let same = |old: &ShapeColumn, by: fn(&ShapeColumn) -> &String| {
            new.columns.iter().any(|column| column.name == old.name && by(column) == by(old))
        };
        let retyped = |old: &&ShapeColumn| new.columns.iter().any(|c| c.name == old.name && c.kind != old.kind);
        let name = |column: &ShapeColumn| column.name.clone();
        let clear = self.columns.iter().filter(|old| !same(old, |column| &column.masks) && !self.key.contains(&old.name));
        let retyped = self.columns.iter().chain(&self.left).filter(retyped);
        Columns::Kept { clear: clear.map(name).collect(), retyped: retyped.map(name).collect() }
    }
}

/// How a table, and what is kept beside it, follow a changed grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reshape {
    columns: Columns,
    deleted: Deleted,
    past: Past,
    /// The key of a table that is the department's own.
    foreign: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Columns {
    /// Rows are keyed in another way: all of them go.
    Rekey,
    /// Columns whose values go at once, since they are no longer granted or are masked otherwise; and those of another type.
    Kept { clear: Vec<String>, retyped: Vec<String> },
}

/// Rows that are soft-deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Deleted {
    None,
    Go,
    /// What they say in these columns goes: whether a row that is gone would be granted now, nobody can tell.
    Clear(Vec<String>),
}

/// The history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    None,
    Goes,
    /// Without what is no longer granted of it.
    Stays,
}

/// A table of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Rows,
    Past,
    Versions,
}

impl Reshape {
    /// Rows are keyed in another way.
    pub(crate) fn rekeys(&self) -> bool {
        self.columns == Columns::Rekey
    }

    /// The table is gone, and its history goes after it.
    pub(crate) fn orphaned() -> Self {
        let columns = Columns::Kept { clear: Vec::new(), retyped: Vec::new() };
        Self { columns, deleted: Deleted::None, past: Past::Goes, foreign: None }
    }

    /// The statements that take away from `layout`'s tables what a changed grant no longer allows, and whether the table is still there after
    /// them. `made`: the exchange made the table and may alter it. `there`: whether a table has a column still; what was begun before may
    /// be done in part.
    pub(crate) fn statements(
        &self,
        dialect: Dialect,
        layout: &Layout,
        made: bool,
        there: &dyn Fn(Which, &str) -> bool,
    ) -> (Vec<String>, bool) {
        let table = &layout.table;
        let mut statements = self.past_statements(layout, there);
        match &self.columns {
            Columns::Rekey if made => {
                statements.push(format!("DROP TABLE {table}"));
                return (statements, false);
            }
            Columns::Kept { clear, retyped } if made => {
                statements.extend(self.deleted_statement(table));
                statements.extend(without(layout, table, clear, retyped, &|name| there(Which::Rows, name)));
            }
            Columns::Kept { clear, .. } if clear.is_empty() => statements.extend(self.deleted_statement(table)),
            // A table that the exchange did not make is not altered, and its columns may refuse null: the delivered rows go.
            Columns::Rekey | Columns::Kept { .. } => match &self.foreign {
                None => statements.push(format!("DELETE FROM {table} WHERE {VERSION} IS NOT NULL")),
                Some(key) if key.iter().all(|name| there(Which::Versions, name)) => {
                    let versions = layout.versions().table;
                    statements.push(foreign::remove(dialect, table, &versions, key, "TRUE"));
                    statements.push(format!("DROP TABLE {versions}"));
                }
                Some(_) => {}
            },
        }
        (statements, true)
    }

    fn deleted_statement(&self, table: &str) -> Option<String> {
        let gone = format!("WHERE {} IS NOT NULL", quote(DELETED_AT));
        match &self.deleted {
            Deleted::Go => Some(format!("DELETE FROM {table} {gone}")),
            Deleted::Clear(columns) if !columns.is_empty() => Some(format!("UPDATE {table} SET {} {gone}", nulls(columns))),
            Deleted::None | Deleted::Clear(_) => None,
        }
    }

    fn past_statements(&self, layout: &Layout, there: &dyn Fn(Which, &str) -> bool) -> Vec<String> {
        let table = layout.past().table;
        match (&self.past, &self.columns) {
            (Past::Goes, _) => vec![format!("DROP TABLE IF EXISTS {table}")],
            (Past::Stays, Columns::Kept { clear, retyped }) => {
                without(layout, &table, clear, retyped, &|name| there(Which::Past, name))
            }
            (Past::None, _) | (Past::Stays, Columns::Rekey) => Vec::new(),
        }
    }
}

/// Takes values and columns from a table of `layout` that the exchange made. A column of another type that is not to be made anew stays, and
/// is found not to fit.
fn without(layout: &Layout, table: &str, clear: &[String], retyped: &[String], there: &dyn Fn(&str) -> bool) -> Vec<String> {
    let retyped: Vec<_> = retyped.iter().filter(|name| layout.rebuilds && there(name)).collect();
    let clear: Vec<_> = clear.iter().filter(|name| there(name) && !retyped.contains(name)).cloned().collect();
    let drops = retyped.iter().map(|name| format!("ALTER TABLE {table} DROP COLUMN {}", quote(name)));
    let nulls = (!clear.is_empty()).then(|| format!("UPDATE {table} SET {}", nulls(&clear)));
    drops.chain(nulls).collect()
}

fn nulls(columns: &[String]) -> String {
    join(columns.iter().map(|name| format!("{} = NULL", quote(name))), ", ")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::KEY;

    fn shape(key: &[&str], columns: &[(&str, &str, &str)]) -> Shape {
        let columns = columns.iter().map(|(name, kind, masks)| ShapeColumn {
            name: (*name).into(),
            kind: (*kind).into(),
            masks: (*masks).into(),
        });
        let key = key.iter().map(|&name| name.into()).collect();
        Shape {
            key,
            columns: columns.collect(),
            soft: false,
            history: false,
            foreign: false,
            rows: String::new(),
            left: Vec::new(),
            mark: String::new(),
        }
    }

    #[test]
    fn what_is_no_longer_granted_goes_at_once() {
        let old = shape(&["uscc"], &[("uscc", "text", ""), ("name", "text", ""), ("rep", "text", ""), ("born", "date", "")]);
        let new =
            shape(&["uscc"], &[("uscc", "text", ""), ("rep", "text", "name"), ("born", "text", "year"), ("phone", "text", "")]);
        let clear = vec!["name".to_owned(), "rep".to_owned(), "born".to_owned()];
        let columns = |to| old.change_to(to).columns;
        assert_eq!(columns(&new), Columns::Kept { clear, retyped: vec!["born".to_owned()] });
        assert_eq!(columns(&old), Columns::Kept { clear: vec![], retyped: vec![] });
        assert_eq!(columns(&shape(&[KEY], &[])), Columns::Rekey);
    }

    #[test]
    fn a_column_that_was_granted_before_is_known_when_it_comes_back() {
        let all = shape(&["uscc"], &[("uscc", "text", ""), ("born", "date", ""), ("phone", "text", "")]);
        let bare = shape(&["uscc"], &[("uscc", "text", "")]).after(&all);
        assert!(bare.is_as(&shape(&["uscc"], &[("uscc", "text", "")])) && !bare.is_as(&all));
        let masked = shape(&["uscc"], &[("uscc", "text", ""), ("born", "int", "year")]).after(&bare);
        assert_eq!(bare.change_to(&masked).columns, Columns::Kept { clear: vec![], retyped: vec!["born".to_owned()] });
        assert_eq!(masked.left.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["phone"]);
        assert_eq!(shape(&[KEY], &[]).after(&masked).left, [], "the table is made anew");
    }

    #[test]
    fn rows_that_are_gone_and_versions_that_are_past_follow_the_grant() {
        let plain = shape(&["uscc"], &[("uscc", "text", ""), ("name", "text", "")]);
        let kept = Shape { soft: true, history: true, rows: "a".into(), ..plain.clone() };
        let change = |to: &Shape| (kept.change_to(to).deleted, kept.change_to(to).past);
        let clear = || Deleted::Clear(vec!["name".to_owned()]);
        assert_eq!(change(&kept), (clear(), Past::Stays));
        assert_eq!(change(&Shape { rows: "b".into(), ..kept.clone() }), (clear(), Past::Goes), "another condition");
        assert_eq!(change(&plain), (Deleted::Go, Past::Goes));
        assert_eq!(change(&Shape { key: vec![KEY.into()], ..kept.clone() }), (clear(), Past::Goes), "another key");
        assert_eq!(plain.change_to(&Shape { foreign: true, ..plain.clone() }).columns, Columns::Rekey);
        assert_eq!((plain.change_to(&kept).deleted, plain.change_to(&kept).past), (Deleted::None, Past::None));
    }

    /// What versions before soft deletes and histories stored is what they would store now.
    #[test]
    fn a_stored_shape_of_before_is_read() {
        let stored = r#"{"key":["uscc"],"columns":[{"name":"uscc","kind":"text","masks":""}]}"#;
        assert_eq!(Shape::from_json(stored).unwrap(), shape(&["uscc"], &[("uscc", "text", "")]));
    }
}
