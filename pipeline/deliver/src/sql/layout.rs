//! A subscriber's table as the exchange writes it, and the parts of statements that databases share.

use std::borrow::Cow;

use guitong_govern::{Column, KeyForm};
use guitong_schemas::contract::sink_table::{DELETED_AT, Deletes, OnTypeChange, SinkTable, VALID};

use super::{EPOCH, KEY, VERSION};
use crate::sink::{SinkError, SinkErrorKind, SinkPlan, Wants};

/// A quoted identifier (SQL:2016, delimited identifier).
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names of the table and its columns, for statements.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// As it is.
    pub(crate) name: String,
    /// Quoted, with its schema where the database has them.
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
    /// Names of the key's columns: the entity's, or `guitong_key`.
    pub(crate) key: Vec<String>,
    pub(crate) hashed: bool,
    /// Rows that are gone stay, with [`DELETED_AT`].
    pub(crate) soft: bool,
    /// Every version stays, in the table of [`Layout::past`].
    pub(crate) history: bool,
    /// Columns of ours that hold an instant. They are not among those that every upsert writes.
    pub(crate) instants: Vec<&'static str>,
    /// The table is the department's own: what version a row has stands in the table of [`Layout::versions`].
    pub(crate) foreign: bool,
    /// Columns of another type are made anew.
    pub(crate) rebuilds: bool,
    pub(crate) condition: Option<String>,
    /// Quoted names of the tables beside it.
    past: String,
    versions: String,
}

impl Layout {
    /// `qualify` makes of the name of a table what stands in statements.
    pub(crate) fn new(name: &str, qualify: impl Fn(&str) -> String, plan: &SinkPlan) -> Self {
        let mut columns = plan.columns.clone();
        for column in &mut columns {
            if let Some(name) = plan.table.columns.get(&column.name) {
                column.name.clone_from(name);
            }
        }
        let (key, hashed) = match &plan.key {
            KeyForm::Hashed => (vec![KEY.to_owned()], true),
            KeyForm::Clear(places) => {
                let names = places.iter().filter_map(|&at| columns.get(at)).map(|column| column.name.clone());
                (names.collect(), false)
            }
        };
        let soft = plan.table.deletes == Deletes::Soft;
        Self {
            name: name.to_owned(),
            table: qualify(name),
            columns,
            key,
            hashed,
            soft,
            history: plan.table.history,
            instants: soft.then_some(DELETED_AT).into_iter().collect(),
            foreign: !plan.table.columns.is_empty(),
            rebuilds: plan.table.on_type_change == OnTypeChange::Rebuild,
            condition: plan.condition.clone(),
            past: qualify(&SinkTable::past(name)),
            versions: qualify(&SinkTable::versions(name)),
        }
    }

    /// Why something stays of rows that are gone; `None` where nothing does.
    pub(crate) fn why_kept(&self) -> Option<&'static str> {
        self.keeps().then_some(
            "the table keeps rows that are gone: first say deletes = \"hard\" and history = false in the subscription's file, and let \
             that come into force",
        )
    }

    /// Something stays of rows or versions that are gone.
    pub(crate) fn keeps(&self) -> bool {
        self.soft || self.history
    }

    /// The table of versions beside this one.
    pub(crate) fn past(&self) -> Self {
        let (name, table) = (SinkTable::past(&self.name), self.past.clone());
        let key = self.key.iter().cloned().chain([VERSION.to_owned()]).collect();
        Self { name, table, key, soft: false, history: false, instants: VALID.into(), ..self.clone() }
    }

    /// The table of keys and versions beside this one.
    pub(crate) fn versions(&self) -> Self {
        let (name, table) = (SinkTable::versions(&self.name), self.versions.clone());
        let of_key = |name: &String| self.columns.iter().find(|column| column.name == *name).cloned();
        let columns = self.key.iter().filter_map(of_key).collect();
        Self { name, table, columns, foreign: false, ..self.clone() }
    }

    /// The table that has each row's version and epoch.
    pub(crate) fn versioned(&self) -> Cow<'_, Self> {
        if self.foreign { Cow::Owned(self.versions()) } else { Cow::Borrowed(self) }
    }

    /// The tables that the exchange makes beside this one.
    pub(crate) fn beside(&self) -> Vec<Self> {
        let past = self.history.then(|| self.past());
        past.into_iter().chain(self.foreign.then(|| self.versions())).collect()
    }

    /// What to do about a table that does not fit. `create`: the statement that makes one that does.
    pub(crate) fn remedy(&self, create: &str) -> String {
        let otherwise = match self.foreign {
            true => "change it or the sink's `columns`, or name another table",
            false => "change it, name another table, or drop it to have it made",
        };
        format!("{otherwise}: {create}")
    }

    pub(crate) fn wants(&self) -> Wants {
        match (self.history, self.soft) {
            (true, _) => Wants::Every,
            (false, true) => Wants::Ends,
            (false, false) => Wants::Newest,
        }
    }

    /// Quoted names of the columns whose values go where a row leaves the grant.
    pub(crate) fn cleared(&self) -> impl Iterator<Item = String> {
        self.columns.iter().filter(|column| !self.is_key(&column.name)).map(|column| quote(&column.name))
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
        let there = self.soft.then(|| format!("{} = NULL", quote(DELETED_AT)));
        join(others.map(|name| format!("{0} = {from}.{0}", quote(name))).chain(there), ", ")
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

/// The error of a table that does not fit, with every reason and what to do.
pub(crate) fn misfit(table: &str, subscription: &str, problems: &[String], help: &str) -> SinkError {
    let list = join(problems.iter().map(|problem| format!("\n  - {problem}")), "");
    let detail = format!("table {table} does not fit subscription {subscription}:{list}\n  help: {help}");
    SinkError::new(SinkErrorKind::Shape, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_end_their_quotes() {
        assert_eq!(quote("企业\"; DROP"), "\"企业\"\"; DROP\"");
    }
}
