//! A table that is the department's own. No column of the exchange's is in it: which version of each row it has stands in a table
//! beside it, of the key, `guitong_version` and `guitong_epoch`. That one is written first, as any table is, with all its guards; what was
//! taken there is then done to the department's, in the same transaction. Rows without a version there are the department's, until
//! one of the same key is delivered.
//!
//! Statements take changes as rows of a feed: of what is removed as those of [`super::kept`], of what is written with the columns of
//! [`Layout::written`].

use super::kept::{Dialect, Fed, same_key};
use super::layout::{Layout, join, quote};
use super::{EPOCH, VERSION};

#[derive(Debug)]
pub(crate) struct Foreign {
    /// Before deletes are done to the versions.
    pub(crate) take: Fed,
    /// After upserts are.
    pub(crate) put: Fed,
}

impl Foreign {
    pub(crate) fn new(dialect: Dialect, layout: &Layout) -> Self {
        let (versions, same) = (layout.versions().table, layout.same_key("v", "s"));
        let columns = layout.written().into_iter().filter(|name| ![VERSION, EPOCH].contains(name));
        let columns: Vec<_> = columns.map(quote).collect();
        let values = join(columns.iter().map(|name| format!("s.{name}")), ", ");
        let key: Vec<_> = layout.key.iter().map(|name| quote(name)).collect();
        let others: Vec<_> = columns.iter().filter(|name| !key.contains(name)).cloned().collect();
        let removal = Removal::new(dialect, &layout.table, &versions, &layout.key);
        let held = format!("{} AND (v.{VERSION}, v.{EPOCH}) < (s.v, s.e)", same_key(layout, "v"));
        Self {
            take: Fed { before: format!("{}, (", removal.from), after: format!(") AS s{}", removal.under(&held)) },
            put: Fed {
                before: format!("INSERT INTO {} ({}) SELECT {values} FROM {versions} AS v, (", layout.table, columns.join(", ")),
                after: format!(
                    ") AS s WHERE {same} AND v.{VERSION} = s.{VERSION} AND v.{EPOCH} = s.{EPOCH} {}",
                    dialect.or_update(&key, &others)
                ),
            },
        }
    }
}

/// The statement that removes rows whose versions, `v`, are under a condition. `key`: names of its columns in both tables.
pub(crate) fn remove(dialect: Dialect, table: &str, versions: &str, key: &[String], condition: &str) -> String {
    let removal = Removal::new(dialect, table, versions, key);
    format!("{}{}", removal.from, removal.under(condition))
}

/// A statement that removes rows by their versions.
struct Removal {
    from: String,
    before: String,
    after: &'static str,
}

impl Removal {
    fn new(dialect: Dialect, table: &str, versions: &str, key: &[String]) -> Self {
        let same = join(key.iter().map(|name| format!("t.{0} = v.{0}", quote(name))), " AND ");
        let of = |of: &str| join(key.iter().map(|name| format!("{of}{}", quote(name))), ", ");
        match dialect {
            Dialect::Postgres => Self {
                from: format!("DELETE FROM {table} AS t USING {versions} AS v"),
                before: format!(" WHERE {same} AND "),
                after: "",
            },
            Dialect::Sqlite => Self {
                from: format!("DELETE FROM {table} WHERE ({}) IN (SELECT {} FROM {versions} AS v", of(""), of("v.")),
                before: " WHERE ".to_owned(),
                after: ")",
            },
            Dialect::Mysql => Self {
                from: format!("DELETE t FROM {table} AS t JOIN {versions} AS v"),
                before: format!(" WHERE {same} AND "),
                after: "",
            },
        }
    }

    fn under(&self, condition: &str) -> String {
        format!("{}{condition}{}", self.before, self.after)
    }
}
