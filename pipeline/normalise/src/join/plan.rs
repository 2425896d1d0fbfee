//! A resource's joins, compiled: which tables are read beside its own, by which columns their rows are found, and which of their
//! columns its fields read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use guitong_schemas::contract::{Join, JoinKind};
use sha2::{Digest, Sha256};

use super::GroupKey;
use super::cell::Kept;
use crate::mapping::column::text_of;
use crate::mapping::{MappingError, is_empty};

/// Numbers of columns from here on are those of joined rows.
pub(crate) const FIRST_JOINED: usize = 1 << 24;

/// Bytes of a joined table's id.
pub(crate) const ID: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct JoinPlan {
    pub(crate) tables: Vec<JoinedTable>,
    /// Each needs only those before it.
    pub(super) finds: Vec<Find>,
    /// What a joined column's number stands for: the find, and the column of its table.
    pub(super) cells: Vec<(usize, usize)>,
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
    order: Option<usize>,
    is_lookup: bool,
}

/// How rows of a joined table are found for one of the resource's.
#[derive(Debug)]
pub(super) struct Find {
    pub(super) table: usize,
    /// Columns that give the key.
    pub(super) from: Vec<usize>,
}

/// Numbers the columns that a mapping reads: those of its table, and behind [`FIRST_JOINED`] those of joined rows.
#[derive(Debug, Default)]
pub(crate) struct ColumnSet {
    own: Vec<String>,
    declared: BTreeMap<String, Join>,
    plan: JoinPlan,
    /// Joins whose sources are being numbered.
    depth: usize,
    /// A join that cannot be followed.
    fault: Option<String>,
}

impl ColumnSet {
    pub(crate) fn new(declared: BTreeMap<String, Join>) -> Self {
        Self { declared, ..Self::default() }
    }

    /// The number of a column, or of a join's: `name.column`.
    pub(crate) fn number(&mut self, column: &str) -> usize {
        let joined = column.split_once('.').and_then(|(name, part)| Some((name, self.declared.get(name)?.from.clone(), part)));
        match joined {
            Some((name, from, part)) => self.lookup(name, &from, part),
            None => position_or_push(&mut self.own, |known| known == column, || column.to_owned()),
        }
    }

    /// The number of a column of the joined row that is found by `from`.
    pub(crate) fn lookup(&mut self, name: &str, from: &[String], part: &str) -> usize {
        let Some(find) = self.find(name, from) else {
            self.fault.get_or_insert_with(|| name.to_owned());
            return FIRST_JOINED;
        };
        let table = self.plan.finds.get(find).map_or(0, |find| find.table);
        let column = self.plan.tables.get_mut(table).map_or(0, |table| table.column(part));
        let cell = (find, column);
        FIRST_JOINED + position_or_push(&mut self.plan.cells, |known| *known == cell, || cell)
    }

    /// `None` where its key needs itself or has another number of columns, which the directory's check refuses.
    fn find(&mut self, name: &str, from: &[String]) -> Option<usize> {
        let join = self.declared.get(name).filter(|join| join.key.len() == from.len())?.clone();
        if self.depth > self.declared.len() {
            return None;
        }
        self.depth += 1;
        let from: Vec<usize> = from.iter().map(|column| self.number(column)).collect();
        self.depth -= 1;
        let table = position_or_push(&mut self.plan.tables, |known| known.name == name, || JoinedTable::new(name, &join));
        let same = |known: &Find| known.table == table && known.from == from;
        Some(position_or_push(&mut self.plan.finds, same, || Find { table, from: from.clone() }))
    }

    /// The columns of the resource's table, and the joins that any field reads.
    pub(crate) fn finish(mut self) -> Result<(Vec<String>, Option<JoinPlan>), MappingError> {
        if let Some(name) = self.fault {
            return Err(MappingError::Join { name });
        }
        self.plan.tables.iter_mut().for_each(JoinedTable::identify);
        Ok((self.own, (!self.plan.tables.is_empty()).then_some(self.plan)))
    }

    /// The columns, where none is of a join.
    pub(crate) fn into_own(self) -> Vec<String> {
        self.own
    }
}

fn position_or_push<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    list.iter().position(is).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    })
}

impl JoinedTable {
    fn new(name: &str, join: &Join) -> Self {
        let mut table = Self {
            name: name.to_owned(),
            id: [0; ID],
            table: join.table.to_string(),
            topic: join.raw_topic.as_str().into(),
            columns: join.key.clone(),
            key: join.key.len(),
            order: None,
            is_lookup: join.kind == JoinKind::Lookup,
        };
        table.order = join.order.as_ref().map(|column| table.column(column));
        table
    }

    fn column(&mut self, column: &str) -> usize {
        position_or_push(&mut self.columns, |known| known == column, || column.to_owned())
    }

    fn identify(&mut self) {
        let Self { name, table, topic, columns, key, order, .. } = &*self;
        let text = format!("{name}\n{table}\n{topic}\n{key}\n{order:?}\n{}", columns.join("\n"));
        self.id.copy_from_slice(&Sha256::digest(text)[..ID]);
    }

    /// Whether a key without a row is reported.
    pub(super) fn is_lookup(&self) -> bool {
        self.is_lookup
    }

    pub(super) fn order(&self) -> Option<usize> {
        self.order
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

/// The text of a part of a key; `None` where it stands for no value.
pub(super) fn key_text(input: Option<guitong_schemas::standard::Input<'_>>) -> Option<String> {
    let text = text_of(input?);
    let trimmed = text.trim();
    (!is_empty(trimmed)).then(|| trimmed.to_owned())
}

impl JoinPlan {
    /// Whether a joined cell is found by this column, of the resource's table or of another join.
    pub(crate) fn is_found_by(&self, slot: usize, column: usize) -> bool {
        let find = self.cell_of(slot).and_then(|(find, _)| self.finds.get(find));
        find.is_some_and(|find| find.from.iter().any(|from| *from == column || self.is_found_by(*from, column)))
    }

    /// Whether a joined cell needs this column of a joined table: as its value, or to be found.
    pub(crate) fn needs(&self, slot: usize, table: usize, column: usize) -> bool {
        let Some((find, cell)) = self.cell_of(slot) else { return false };
        let Some(found) = self.finds.get(find) else { return false };
        let finds = |joined: &JoinedTable| column < joined.key || joined.order == Some(column);
        let is_its = found.table == table && (cell == column || self.tables.get(table).is_some_and(finds));
        is_its || found.from.iter().any(|from| self.needs(*from, table, column))
    }

    /// The find and the column of its table that a joined cell is of.
    fn cell_of(&self, slot: usize) -> Option<(usize, usize)> {
        slot.checked_sub(FIRST_JOINED).and_then(|at| self.cells.get(at)).copied()
    }

    /// Joined tables that are read from a topic.
    pub(crate) fn of_topic<'p>(&'p self, topic: &'p str) -> impl Iterator<Item = (usize, &'p JoinedTable)> {
        self.tables.iter().enumerate().filter(move |(_, table)| *table.topic == *topic)
    }
}
