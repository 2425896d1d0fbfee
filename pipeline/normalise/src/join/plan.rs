//! A resource's joins, compiled: which tables are read beside its own, by which columns their rows are found, and which of their
//! columns its fields read.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use guitong_schemas::contract::{Join, JoinKind};
use sha2::{Digest, Sha256};

use super::GroupKey;
use super::cell::Kept;
use super::state::GroupRow;
use crate::mapping::column::text_of;
use crate::mapping::{Formula, is_empty};

/// Numbers of columns from here on are those of joined rows.
pub(crate) const FIRST_JOINED: usize = 1 << 24;

/// Numbers from here on are those of lists of joined rows.
pub(crate) const FIRST_LIST: usize = 1 << 25;

/// And from here on those that the items of a nested field read of each row.
const FIRST_OF_EACH: usize = 1 << 40;

/// What tells a column that the items of a list read from others.
pub(crate) fn number_of_each(list: usize, column: usize) -> usize {
    FIRST_OF_EACH + (list << 20) + column.saturating_sub(FIRST_JOINED)
}

/// Bytes of a joined table's id.
pub(crate) const ID: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct JoinPlan {
    pub(crate) tables: Vec<JoinedTable>,
    /// Each needs only those before it.
    pub(super) finds: Vec<Find>,
    /// What a joined column's number stands for: the find, and the column of its table.
    pub(super) cells: Vec<(usize, usize)>,
    /// Finds whose rows all are items of a nested field.
    pub(super) lists: Vec<usize>,
}

/// A table read beside the resource's own.
#[derive(Debug)]
pub(crate) struct JoinedTable {
    /// As the resource's file names the join.
    pub(crate) name: String,
    /// Changes with everything that decides what is kept of a row, so that nothing kept otherwise is read.
    pub(crate) id: [u8; ID],
    pub(crate) table: String,
    pub(crate) topic: Arc<str>,
    /// Those that are kept, the key's first.
    pub(crate) columns: Vec<String>,
    key: usize,
    /// Columns that order the rows of one key.
    order: Vec<usize>,
    kind: JoinKind,
    /// Holds for the rows that are meant, in the columns of the table.
    pub(super) condition: Option<Formula>,
}

/// How rows of a joined table are found for one of the resource's.
#[derive(Debug)]
pub(super) struct Find {
    pub(super) table: usize,
    /// Columns that give the key.
    pub(super) from: Vec<usize>,
    pub(super) pick: Pick,
}

/// A column of a key, and the column whose value it has: of the resource's own table, or of a join.
pub(crate) type KeyPart<'p> = (&'p str, Option<&'p str>, &'p str);

/// Which of the rows that have the key.
#[derive(Debug)]
pub(super) enum Pick {
    First,
    Last,
    /// The last for which a condition holds; with its text.
    When(String, Formula),
    All,
}

impl Pick {
    /// Whether it takes the same row.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::When(one, _), Self::When(other, _)) => one == other,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }
}

pub(super) fn position_or_push<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    list.iter().position(is).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    })
}

impl JoinedTable {
    pub(super) fn new(name: &str, join: &Join) -> Self {
        let mut table = Self {
            name: name.to_owned(),
            id: [0; ID],
            table: join.table.to_string(),
            topic: join.raw_topic.as_str().into(),
            columns: join.key.clone(),
            key: join.key.len(),
            order: Vec::new(),
            kind: join.kind,
            condition: None,
        };
        table.order = join.order.iter().map(|column| table.column(column)).collect();
        table
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    pub(super) fn column(&mut self, column: &str) -> usize {
        position_or_push(&mut self.columns, |known| known == column, || column.to_owned())
    }

    /// A group is read anew with each revision of its resource, which has no other rows.
    pub(super) fn identify(&mut self, revision: u32) {
        let Self { name, table, topic, columns, key, order, kind, .. } = &*self;
        let revision = if *kind == JoinKind::Group { revision } else { 0 };
        let text = format!("{name}\n{table}\n{topic}\n{key}\n{order:?}\n{kind:?}\n{revision}\n{}", columns.join("\n"));
        self.id.copy_from_slice(&Sha256::digest(text)[..ID]);
    }

    /// Its rows are the resource's own.
    pub(crate) fn is_group(&self) -> bool {
        self.kind == JoinKind::Group
    }

    /// The source key of the record that a group's rows make; it stays when what is kept of the rows is another.
    pub(crate) fn record_of(&self, group: &GroupKey) -> Option<Bytes> {
        let record = group.strip_prefix(&self.id).filter(|record| self.is_group() && !record.is_empty())?;
        Some(group.slice_ref(record))
    }

    /// The columns and values that make a record's key.
    pub(crate) fn parts_of<'t>(&'t self, record: &'t [u8]) -> Vec<(&'t str, &'t str)> {
        let mut rest = record.get(1..).unwrap_or_default();
        let mut parts = Vec::with_capacity(self.key);
        for column in self.columns.iter().take(self.key) {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let Some((part, after)) = after.split_at_checked(length) else { break };
            parts.push((column.as_str(), std::str::from_utf8(part).unwrap_or_default()));
            rest = after;
        }
        parts
    }

    /// The group whose rows make a record.
    pub(crate) fn group_of_record(&self, record: &[u8]) -> GroupKey {
        Bytes::from([&self.id[..], record].concat())
    }

    /// Whether a key without a row is reported.
    pub(super) fn is_lookup(&self) -> bool {
        self.kind == JoinKind::Lookup
    }

    /// Which of two rows of one key comes first. Rows that their columns do not tell apart: of one that is meant the newer is later;
    /// of several each has its place by its key, so that the order is that of the table and not of what happened to it.
    pub(super) fn order(&self, left: &GroupRow, right: &GroupRow) -> Ordering {
        let cells = self.order.iter().filter_map(|&at| Some((left.cells.get(at)?, right.cells.get(at)?)));
        let by_columns = cells.map(|(left, right)| left.order(right)).find(|order| order.is_ne());
        let by_key = || left.source.cmp(&right.source);
        by_columns.unwrap_or_else(|| match self.kind {
            JoinKind::Lookup | JoinKind::Row => left.version.cmp(&right.version).then_with(by_key),
            JoinKind::Details | JoinKind::Group => by_key(),
        })
    }

    /// The group of a row with these values; `None` where a part of its key is empty.
    pub(crate) fn group_of(&self, cells: &[Kept]) -> Option<GroupKey> {
        let parts = cells.get(..self.key)?.iter().map(|kept| key_text(kept.cell().input()));
        self.group(parts.collect::<Option<Vec<_>>>()?.iter().map(String::as_str))
    }

    pub(super) fn group<'t>(&self, parts: impl Iterator<Item = &'t str>) -> Option<GroupKey> {
        let mut key = self.id.to_vec();
        key.push(u8::try_from(self.key).ok()?);
        for part in parts {
            key.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
            key.extend_from_slice(part.as_bytes());
        }
        Some(Bytes::from(key))
    }

    /// Key of a row in the map of joined rows.
    pub(crate) fn row_key(&self, source: &[u8]) -> Bytes {
        Bytes::from([&self.id[..], source].concat())
    }
}

/// The source key of a row in the map of users.
pub(super) fn user_of(key: &Bytes) -> Option<Bytes> {
    let mut rest = key.get(ID..)?;
    let (parts, after) = rest.split_first()?;
    rest = after;
    for _ in 0..*parts {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after.get(usize::try_from(u32::from_be_bytes(*length)).ok()?..)?;
    }
    Some(key.slice_ref(rest))
}

/// Whether a source key is that of a record that several rows make: the texts of a key, and nothing behind them.
pub(super) fn is_record(source: &Bytes) -> bool {
    let group = Bytes::from([&[0; ID][..], source].concat());
    source.first().is_some_and(|parts| *parts > 0) && user_of(&group).is_some_and(|rest| rest.is_empty())
}

/// The text of a part of a key; `None` where it stands for no value.
pub(super) fn key_text(input: Option<guitong_schemas::standard::Input<'_>>) -> Option<String> {
    let text = text_of(input?);
    let trimmed = text.trim();
    (!is_empty(trimmed)).then(|| trimmed.to_owned())
}

impl JoinPlan {
    /// Whether a joined cell or list is found by this column, of the resource's table or of another join.
    pub(crate) fn is_found_by(&self, slot: usize, column: usize) -> bool {
        let found = self.found(slot).and_then(|(find, _)| self.finds.get(find));
        found.is_some_and(|find| find.from.iter().any(|from| *from == column || self.is_found_by(*from, column)))
    }

    /// Whether a joined cell or list needs this column of a joined table: as its value, or for the finding.
    pub(crate) fn needs(&self, slot: usize, table: usize, column: usize) -> bool {
        let Some((find, value)) = self.found(slot) else { return false };
        let Some(found) = self.finds.get(find) else { return false };
        // What is no value of any row that is found orders the rows or tells which of them are meant.
        let is_value = |(of, value): &(usize, usize)| *value == column && self.finds.get(*of).is_some_and(|of| of.table == table);
        let is_its = value.is_none_or(|value| value == column)
            || !self.cells.iter().any(is_value)
            || self.conditions_of(found).any(|condition| condition.reads(FIRST_JOINED + column));
        found.table == table && is_its || found.from.iter().any(|from| self.needs(*from, table, column))
    }

    /// What decides which rows of its table a find means.
    fn conditions_of<'p>(&'p self, find: &'p Find) -> impl Iterator<Item = &'p Formula> {
        let of_pick = match &find.pick {
            Pick::When(_, condition) => Some(condition),
            Pick::First | Pick::Last | Pick::All => None,
        };
        let of_table = self.tables.get(find.table).and_then(|table| table.condition.as_ref());
        of_table.into_iter().chain(of_pick)
    }

    /// The find of a joined cell, with the column of its table, or of a list, which has them all.
    fn found(&self, slot: usize) -> Option<(usize, Option<usize>)> {
        match slot.checked_sub(FIRST_LIST) {
            Some(list) => Some((*self.lists.get(list)?, None)),
            None => self.cells.get(slot.checked_sub(FIRST_JOINED)?).map(|(find, column)| (*find, Some(*column))),
        }
    }

    /// The resource's own table, where several of its rows make a record.
    pub(crate) fn group(&self) -> Option<&JoinedTable> {
        self.tables.iter().find(|table| table.is_group())
    }

    /// The columns of the group's table that fields read, with the numbers that they have as those of one row or another.
    pub(crate) fn columns_of_group(&self) -> Vec<(&str, Vec<usize>)> {
        let Some((at, table)) = self.tables.iter().enumerate().find(|(_, table)| table.is_group()) else { return Vec::new() };
        let of_table = |find: usize| self.finds.get(find).is_some_and(|find| find.table == at);
        let numbers = |column: usize| {
            let cells = self.cells.iter().enumerate().filter(|(_, cell)| of_table(cell.0) && cell.1 == column);
            let lists = self.lists.iter().enumerate().filter(|(_, find)| of_table(**find));
            let items = lists.map(|(list, _)| number_of_each(list, FIRST_JOINED + column));
            cells.map(|(number, _)| FIRST_JOINED + number).chain(items).collect()
        };
        table.columns.iter().enumerate().map(|(column, name)| (name.as_str(), numbers(column))).collect()
    }

    /// How rows are found: the join's name, and for each column of its key whose value that has, a column of the resource's own table or
    /// of the join that is named.
    pub(crate) fn finds_of<'p>(&'p self, own: &'p [String]) -> impl Iterator<Item = (&'p str, Vec<KeyPart<'p>>)> {
        let table = |find: usize| self.tables.get(self.finds.get(find)?.table);
        let source = move |number: usize| match number.checked_sub(FIRST_JOINED) {
            None => Some((None, own.get(number)?.as_str())),
            Some(at) => {
                let (find, column) = *self.cells.get(at)?;
                let table = table(find)?;
                Some((Some(table.name.as_str()), table.columns.get(column)?.as_str()))
            }
        };
        self.finds.iter().filter_map(move |find| {
            let table = self.tables.get(find.table)?;
            let parts = table.columns.iter().zip(&find.from).filter_map(|(key, number)| {
                let (of, column) = source(*number)?;
                Some((key.as_str(), of, column))
            });
            Some((table.name.as_str(), parts.collect()))
        })
    }

    /// The table whose rows have this key.
    pub(super) fn table_of(&self, group: &GroupKey) -> Option<&JoinedTable> {
        self.tables.iter().find(|table| group.starts_with(&table.id))
    }

    /// The source key in that of a row in the map of joined rows.
    pub(super) fn source_of<'k>(&self, row: &'k [u8]) -> &'k [u8] {
        row.get(ID..).unwrap_or_default()
    }

    /// Joined tables that are read from a topic.
    pub(crate) fn of_topic<'p>(&'p self, topic: &'p str) -> impl Iterator<Item = (usize, &'p JoinedTable)> {
        self.tables.iter().enumerate().filter(move |(_, table)| *table.topic == *topic)
    }
}
