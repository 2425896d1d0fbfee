//! `[lookups]`, `[joins]` and `[details]` of a resource: rows of other tables of its system that are read beside its own; and `[group]`:
//! several rows of its own that make one record.
//!
//! A name of lookups and joins, a dot and a column stand wherever `[map]` names a column: `accept.ACCEPTTIME`. Of details and of a
//! group there are several rows, so an entry says which it is made of: `details` with `item` or `of`.

use std::collections::{BTreeMap, BTreeSet};

use super::Name;
use super::load::World;
use super::mapping::{Named, Reader};
use super::reading::document::{At, Found};
use super::reading::scalar;
use super::reading::section::Section;
use super::resource::{self, Place};
use super::seen::Seen;

use crate::table::TableName;

/// Rows of another table, found by the values of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    pub kind: JoinKind,
    pub table: TableName,
    /// The topic of the table's events.
    pub raw_topic: String,
    /// Columns of the table by whose values its rows are found.
    pub key: Vec<String>,
    /// Where these values come from: columns of the resource's table, or `name.column` of another join. Empty for a dictionary
    /// that only single fields look into.
    pub from: Vec<String>,
    /// Columns that order rows of one key. Of lookups and joins the last row is the one that is meant.
    pub order: Vec<String>,
    /// Rows for which this does not hold are passed over: a CEL expression over `row.<column>` of the table.
    pub condition: Option<String>,
    pub at: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// A dictionary: a value that it does not have is reported with the fields that need it.
    Lookup,
    /// One row or none.
    Row,
    /// Any number of rows, in their order.
    Details,
    /// The resource's own rows of one key, in their order, of which one record is made.
    Group,
}

impl JoinKind {
    /// Several rows are meant, in an order that must be declared.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Self::Details | Self::Group)
    }
}

/// The name under which entries know the rows of a group.
pub const GROUP: &str = "group";

/// One field's look into a dictionary.
pub(super) struct LookupUse {
    pub(super) lookup: Found<String>,
    pub(super) value: Found<String>,
    /// Columns that give the key.
    pub(super) from: usize,
    pub(super) at: At,
}

/// One entry that is made of a row or of all rows of details.
pub(super) struct ListUse {
    /// None: of the resource's group.
    pub(super) details: Option<Found<String>>,
    /// Columns of the details' table that it reads.
    pub(super) columns: Vec<(String, At)>,
    pub(super) at: At,
}

/// The joins of one resource, as far as they could be read.
#[derive(Default)]
pub(super) struct Joins {
    /// Those with problems as well, so that what names them is not reported too.
    declared: BTreeMap<String, Option<Join>>,
    places: BTreeMap<String, At>,
}

/// What joins of a resource are checked against.
pub(super) struct Setting<'a> {
    pub(super) system: Option<&'a Name>,
    pub(super) table: Option<&'a TableName>,
    pub(super) world: &'a World<'a>,
    pub(super) seen: &'a Seen,
}

const SECTIONS: [(&str, JoinKind); 3] = [("lookups", JoinKind::Lookup), ("joins", JoinKind::Row), ("details", JoinKind::Details)];

pub(super) fn read(root: &Section<'_>, setting: &Setting<'_>) -> Joins {
    let mut joins = Joins::default();
    for (section, kind) in SECTIONS {
        let Some(section) = root.own_section(section) else { continue };
        for key in section.keys() {
            let Some(declared) = section.own_section(&key.value) else { continue };
            if !is_name(&key.value) {
                let message = format!("`{}` cannot be a name here: letters, digits and `_`", scalar::short(&key.value));
                section.problem(&key.at, "bad-name", message, None);
            }
            if joins.declared.contains_key(&key.value) {
                let message = format!("`{}` is declared twice among lookups, joins and details", key.value);
                section.problem(&key.at, "duplicate", message, None);
            }
            if key.value == GROUP && root.has(GROUP) {
                let message = "`group` is the name of the resource's own rows here";
                section.problem(&key.at, "duplicate", message, Some("give it another name".to_owned()));
                continue;
            }
            let place = section.place(&key.at);
            let join = read_one(kind, &declared, place, setting);
            declared.finish();
            joins.places.insert(key.value.clone(), key.at);
            joins.declared.insert(key.value, join);
        }
    }
    joins.read_group(root, setting);
    joins.check_sources(root, setting);
    joins
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn read_one(kind: JoinKind, section: &Section<'_>, at: Place, setting: &Setting<'_>) -> Option<Join> {
    let table = section.required("table", |section, key| read_table(section, key, setting));
    let key = section.required("key", columns);
    let from = columns(section, "from");
    let order = match kind.is_list() {
        true => read_order(section),
        false => Some(section.words("newest_by").map_or_else(Vec::new, |found| vec![found.value])),
    };
    let condition = if kind.is_list() { setting.condition(section, table.as_ref()) } else { None };
    let (table, key, order) = (table?, key?, order?);
    let from = match from {
        None if section.has("from") => return None,
        None if kind == JoinKind::Lookup => Vec::new(),
        None => key.clone(),
        Some(from) if from.len() == key.len() => from,
        Some(from) => {
            let message = format!("`from` gives {} values for a key of {}", from.len(), columns_counted(key.len()));
            section.problem(&section.key_at("from"), "key-length", message, None);
            return None;
        }
    };
    let raw_topic = setting.system.map(|system| resource::raw_topic(system, &table, setting.world).0).unwrap_or_default();
    let join = Join { kind, table, raw_topic, key, from, order, condition, at };
    join.refuse_excluded(section, setting);
    Some(join)
}

/// Rows of a table have no order of their own: the one that is meant must stand in a column.
fn read_order(section: &Section<'_>) -> Option<Vec<String>> {
    if section.has("order_by") {
        return columns(section, "order_by");
    }
    section.know("order_by");
    let help = "rows of a table have no order of their own: name the column, or the columns, that give it".to_owned();
    section.problem(section.at(), "missing-key", "`order_by` is missing", Some(help));
    None
}

fn columns_counted(count: usize) -> String {
    if count == 1 { "1 column".to_owned() } else { format!("{count} columns") }
}

/// One column or several.
fn columns(section: &Section<'_>, key: &str) -> Option<Vec<String>> {
    let found = section.texts(key)?;
    if found.value.is_empty() || found.value.iter().any(|column| column.value.trim().is_empty()) {
        section.problem(&found.at, "empty", format_args!("`{key}` names no column"), None);
        return None;
    }
    Some(found.value.into_iter().map(|column| column.value).collect())
}

fn read_table(section: &Section<'_>, key: &str, setting: &Setting<'_>) -> Option<TableName> {
    let table = resource::read_table(section, key, setting.system, setting.world)?;
    if Some(&table) == setting.table {
        let help = "name another table of the system; the resource's own columns need no join".to_owned();
        section.problem(&section.key_at(key), "own-table", format!("{table} is the resource's own table"), Some(help));
        return None;
    }
    Some(table)
}

impl Join {
    /// Columns of the table that its system leaves out never arrive.
    fn refuse_excluded(&self, section: &Section<'_>, setting: &Setting<'_>) {
        for column in self.key.iter().chain(&self.order) {
            if setting.is_excluded(&self.table, column) {
                excluded(section, section.at(), column);
            }
        }
    }
}

impl Setting<'_> {
    /// `where` of a section whose rows are of `table`.
    fn condition(&self, section: &Section<'_>, table: Option<&TableName>) -> Option<String> {
        let reader = Reader::new(self.world, None);
        let condition = reader.condition(section, "where");
        for (column, at) in reader.into_named().columns {
            let Some(table) = table else { continue };
            if self.is_excluded(table, &column) {
                excluded(section, &at, &column);
            }
            self.seen.demand(section, &at, table, &column);
        }
        condition
    }

    pub(super) fn is_excluded(&self, table: &TableName, column: &str) -> bool {
        let outline = self.system.and_then(|system| self.world.systems.get(system.as_str()));
        outline.is_some_and(|outline| outline.exclude_columns.iter().any(|(of, name)| of == table && name == column))
    }
}

/// Reports a column that its system leaves out.
pub(super) fn excluded(section: &Section<'_>, at: &At, column: &str) {
    let message = format!("column `{}` is excluded by its system and never arrives", scalar::short(column));
    section.problem(at, "excluded-column", message, None);
}

impl Joins {
    pub(super) fn has(&self, name: &str) -> bool {
        self.declared.contains_key(name)
    }

    /// The join and its column that a column's name stands for; `None` for a column of the resource's own table.
    fn named<'c>(&self, column: &'c str) -> Option<(&'c str, &'c str)> {
        column.split_once('.').filter(|(name, _)| self.has(name))
    }

    pub(super) fn into_map(self) -> BTreeMap<String, Join> {
        self.declared.into_iter().filter_map(|(name, join)| Some((name, join?))).collect()
    }

    /// `[group]`: the resource's own rows of one key.
    fn read_group(&mut self, root: &Section<'_>, setting: &Setting<'_>) {
        let Some(section) = root.own_section(GROUP) else { return };
        let key = section.required("by", columns);
        let order = read_order(&section);
        let condition = setting.condition(&section, setting.table);
        let join = (|| {
            let (system, table, key) = (setting.system?, setting.table?.clone(), key?);
            let (raw_topic, at) = (resource::raw_topic(system, &table, setting.world).0, section.place(section.at()));
            Some(Join { kind: JoinKind::Group, table, raw_topic, from: key.clone(), key, order: order?, condition, at })
        })();
        if let Some(join) = &join {
            join.refuse_excluded(&section, setting);
        }
        self.places.insert(GROUP.to_owned(), root.key_at(GROUP));
        self.declared.insert(GROUP.to_owned(), join);
        section.finish();
    }

    /// Those that could be read, by their names.
    pub(super) fn read(&self) -> impl Iterator<Item = (&str, &Join)> {
        self.declared.iter().filter_map(|(name, join)| Some((name.as_str(), join.as_ref()?)))
    }

    /// Checks everything that the resource's entries name.
    pub(super) fn check(&self, root: &Section<'_>, reader: Reader<'_>, setting: &Setting<'_>) {
        let named = reader.into_named();
        named.columns.iter().for_each(|(column, at)| self.check_column(root, column, at, setting));
        named.lookups.iter().for_each(|uses| self.check_lookup(root, uses, setting));
        named.lists.iter().for_each(|uses| self.check_list(root, uses, setting));
        self.check_seen(root, &named, setting);
    }

    /// Checks that every column named was seen in its table.
    fn check_seen(&self, root: &Section<'_>, named: &Named, setting: &Setting<'_>) {
        let seen = setting.seen;
        let join = |name: &str| self.declared.get(name).and_then(Option::as_ref);
        let demand = |column: &str, at: &At| match self.named(column) {
            Some((name, part)) => join(name).into_iter().for_each(|join| seen.demand(root, at, &join.table, part)),
            None => setting.table.into_iter().for_each(|table| seen.demand(root, at, table, column)),
        };
        named.columns.iter().for_each(|(column, at)| demand(column, at));
        for LookupUse { lookup, value, .. } in &named.lookups {
            join(&lookup.value).into_iter().for_each(|join| seen.demand(root, &value.at, &join.table, &value.value));
        }
        for ListUse { details, columns, .. } in &named.lists {
            let Some(join) = join(details.as_ref().map_or(GROUP, |found| &found.value)) else { continue };
            columns.iter().for_each(|(column, at)| seen.demand(root, at, &join.table, column));
        }
        for (name, join) in self.read() {
            let Some(at) = self.places.get(name) else { continue };
            join.key.iter().chain(&join.order).for_each(|column| seen.demand(root, at, &join.table, column));
            join.from.iter().for_each(|column| demand(column, at));
        }
    }

    /// Checks a column that a mapping or another join reads.
    fn check_column(&self, section: &Section<'_>, column: &str, at: &At, setting: &Setting<'_>) {
        let Some((name, part)) = self.named(column) else {
            if setting.table.is_some_and(|table| setting.is_excluded(table, column)) {
                excluded(section, at, column);
            }
            return;
        };
        let Some(Some(join)) = self.declared.get(name) else { return };
        if join.kind.is_list() {
            let message = format!("`{name}` has several rows, of which `{}` is not one column", scalar::short(column));
            let help = format!("say which: {{ details = \"{name}\", of = \"last\", from = \"{}\" }}", scalar::short(part));
            section.problem(at, "several-rows", message, Some(help));
        } else if join.from.is_empty() {
            let message = format!("lookup `{name}` does not say which columns it looks up");
            let help = format!("add `from` to [lookups.{name}], or look up in the field: lookup = \"{name}\"");
            section.problem(at, "missing-key", message, Some(help));
        } else if setting.is_excluded(&join.table, part) {
            excluded(section, at, column);
        }
    }

    /// Checks `{ from = …, lookup = "name", value = "column" }`.
    fn check_lookup(&self, section: &Section<'_>, uses: &LookupUse, setting: &Setting<'_>) {
        let lookup = &uses.lookup;
        let join = match self.declared.get(&lookup.value) {
            Some(Some(join)) => join,
            Some(None) => return,
            None => {
                let message = format!("no lookup `{}`", scalar::short(&lookup.value));
                let known: Vec<&str> = self.declared.keys().map(String::as_str).collect();
                let help = scalar::suggestion(&lookup.value, known).unwrap_or_else(|| "declare it as [lookups.NAME]".to_owned());
                section.problem(&lookup.at, "unknown-lookup", message, Some(help));
                return;
            }
        };
        if join.kind != JoinKind::Lookup {
            let message = format!("`{}` is no lookup", lookup.value);
            section.problem(&lookup.at, "unknown-lookup", message, Some("declare it under [lookups]".to_owned()));
        } else if join.key.len() != uses.from {
            let message = format!("`from` gives {} values for a key of {}", uses.from, columns_counted(join.key.len()));
            section.problem(&uses.at, "key-length", message, None);
        } else if setting.is_excluded(&join.table, &uses.value.value) {
            excluded(section, &uses.value.at, &uses.value.value);
        }
    }

    /// Checks `{ details = "name", … }`, and `of` and `item` in a grouped resource.
    fn check_list(&self, section: &Section<'_>, uses: &ListUse, setting: &Setting<'_>) {
        let (name, at) = uses.details.as_ref().map_or((GROUP, &uses.at), |found| (found.value.as_str(), &found.at));
        let join = match self.declared.get(name) {
            Some(Some(join)) => join,
            Some(None) => return,
            None if uses.details.is_none() => {
                let help = "name them with `details`, or declare by [group] that several rows make one record".to_owned();
                section.problem(at, "missing-key", "the entry does not say of which rows one is meant", Some(help));
                return;
            }
            None => {
                let message = format!("no details `{}`", scalar::short(name));
                let lists = self.declared.iter().filter(|(_, join)| join.as_ref().is_some_and(|join| join.kind.is_list()));
                let help = scalar::suggestion(name, lists.map(|(name, _)| name.as_str()).collect::<Vec<_>>());
                let help = help.unwrap_or_else(|| "declare them as [details.NAME]".to_owned());
                section.problem(at, "unknown-details", message, Some(help));
                return;
            }
        };
        if !join.kind.is_list() {
            let message = format!("`{name}` has one row, not several");
            let help = format!("name its columns as `{name}.COLUMN`, or declare it under [details]");
            section.problem(at, "unknown-details", message, Some(help));
            return;
        }
        for (column, at) in &uses.columns {
            if setting.is_excluded(&join.table, column) {
                excluded(section, at, column);
            } else if self.named(column).is_some() {
                let message = format!("`{}` is joined to the record, not to each row of `{name}`", scalar::short(column));
                section.problem(at, "several-rows", message, Some("name a column of the rows themselves".to_owned()));
            }
        }
    }

    /// Checks what joins are found by, and that none needs itself.
    fn check_sources(&self, root: &Section<'_>, setting: &Setting<'_>) {
        for (name, join) in &self.declared {
            let (Some(join), Some(at)) = (join, self.places.get(name)) else { continue };
            for column in join.from.iter().filter(|_| join.kind != JoinKind::Group) {
                self.check_column(root, column, at, setting);
            }
            let mut way = vec![name.as_str()];
            if self.returns(name, name, &mut way, &mut BTreeSet::new()) {
                way.push(name);
                let message = format!("`{name}` needs itself: {}", way.join(" <- "));
                let help = "take `from` out of one of them, or let it name a column of the resource's table".to_owned();
                root.problem(at, "cycle", message, Some(help));
            }
        }
    }

    /// Whether what `name` is found by leads back to `goal`; `way` holds the names passed.
    fn returns<'a>(&'a self, name: &str, goal: &str, way: &mut Vec<&'a str>, seen: &mut BTreeSet<&'a str>) -> bool {
        let from = self.declared.get(name).and_then(Option::as_ref).map(|join| join.from.as_slice());
        for (next, _) in from.into_iter().flatten().filter_map(|column| self.named(column)) {
            if next == goal {
                return true;
            }
            if seen.insert(next) {
                way.push(next);
                if self.returns(next, goal, way, seen) {
                    return true;
                }
                way.pop();
            }
        }
        false
    }
}
