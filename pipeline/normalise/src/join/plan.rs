//! A resource's joins, compiled: which tables are read beside its own, by which columns their rows are found, and which of their
//! columns its fields read.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use guitong_schemas::avro::decode::DecodePlan;
use guitong_schemas::avro::form::Names;
use guitong_schemas::contract::{Join, JoinKind};
use sha2::{Digest, Sha256};

use super::GroupKey;
use super::cell::Kept;
use super::state::GroupRow;
use crate::mapping::column::text_of;
use crate::mapping::{BindError, Bound, Formula, Slot, is_empty};

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
    /// Finds whose rows all are items of a nested field.
    pub(super) lists: Vec<usize>,
    pub(super) names: Names,
}

/// A table read beside the resource's own.
#[derive(Debug)]
pub(crate) struct JoinedTable {
    /// As the resource's file names the join.
    name: String,
    /// Changes with everything that decides what is kept of a row, so that nothing kept otherwise is read.
    pub(crate) id: [u8; ID],
    pub(crate) table: String,
    pub(crate) topic: Arc<str>,
    /// Those that are kept, the key's first.
    columns: Vec<String>,
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

    pub(super) fn identify(&mut self) {
        let Self { name, table, topic, columns, key, order, kind, .. } = &*self;
        let text = format!("{name}\n{table}\n{topic}\n{key}\n{order:?}\n{kind:?}\n{}", columns.join("\n"));
        self.id.copy_from_slice(&Sha256::digest(text)[..ID]);
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

/// The text of a part of a key; `None` where it stands for no value.
pub(super) fn key_text(input: Option<guitong_schemas::standard::Input<'_>>) -> Option<String> {
    let text = text_of(input?);
    let trimmed = text.trim();
    (!is_empty(trimmed)).then(|| trimmed.to_owned())
}

impl JoinPlan {
    /// Finds a joined table's columns in a writer's schema.
    pub(crate) fn bind(&self, table: &JoinedTable, schema: &str, resource: &str) -> Result<Bound, BindError> {
        let plan = DecodePlan::compile(schema).map_err(|error| BindError::Schema(error.to_string()))?;
        if !plan.is_envelope() {
            return Err(BindError::Schema(format!("{} is no change event", plan.name())));
        }
        Slot::find(&table.columns, &plan, self.names).map(|slots| Bound { plan, slots }).map_err(|columns| BindError::Columns {
            columns,
            table: table.table.clone(),
            resource: resource.to_owned(),
        })
    }

    /// Joined tables that are read from a topic.
    pub(crate) fn of_topic<'p>(&'p self, topic: &'p str) -> impl Iterator<Item = (usize, &'p JoinedTable)> {
        self.tables.iter().enumerate().filter(move |(_, table)| *table.topic == *topic)
    }
}
