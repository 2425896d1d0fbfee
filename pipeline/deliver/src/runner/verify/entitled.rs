//! The rows that a subscription grants, out of the log, up to a position.
//!
//! Of each row two numbers are kept and where its record stands. Where there are more rows than memory is meant for, only a slice of
//! them is taken on, and the rest in later goes. The log holds the records of a key in the order of their versions.

use std::collections::{BTreeMap, HashMap, HashSet};

use guitong_govern::{Decision, Record as Whole, Row, RowKey, Stop};
use guitong_log::{LogError, Record, Span, TopicPartition};
use jiff::Timestamp;

use super::{ComparingStage, Verifier};
use crate::runner::decode::Schemas;
use crate::runner::fault::Fault;
use crate::runner::parked::Place;
use crate::sink::holdings::{RangeSum, Slice, TextOf, number};

/// Rows of one go: with what a map of them takes, some 20 MiB.
const MOST_ROWS: usize = 400_000;

/// What is granted of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// `None` where the newest record cannot be read.
    pub(super) content: Option<u64>,
    pub(super) at: Place,
}

#[derive(Debug)]
pub(super) struct Entitled<'v> {
    verifier: &'v Verifier,
    pub(super) schemas: Schemas,
    text_of: TextOf,
    pub(super) slice: Slice,
    /// The slice may still shrink: nothing was compared yet.
    pub(super) shrinks: bool,
    /// By the hash of the key.
    rows: HashMap<u64, Due>,
    next: BTreeMap<u32, u64>,
}

impl<'v> Entitled<'v> {
    pub(super) fn new(verifier: &'v Verifier, slice: Slice, text_of: TextOf) -> Self {
        Self {
            verifier,
            schemas: verifier.schemas.clone(),
            text_of,
            slice,
            shrinks: true,
            rows: HashMap::new(),
            next: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, key: u64) -> Option<Due> {
        self.rows.get(&key).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = u32> {
        self.next.keys().copied()
    }

    /// Takes on what the log has up to `positions`.
    pub(super) async fn read_to(&mut self, positions: &BTreeMap<u32, u64>) -> Result<(), Fault> {
        // Later reads are of what has come meanwhile.
        let is_first = self.next.is_empty();
        if is_first {
            let mut all = 0;
            for (&partition, &end) in positions {
                all += end.saturating_sub(self.from(partition).await?);
            }
            self.verifier.progress.begin(ComparingStage::Reading, all);
        }
        for (&partition, &end) in positions {
            let mut from = self.from(partition).await?;
            let span = self.span(partition, end).await?;
            self.next.insert(partition, end);
            let Some(mut span) = span else { continue };
            while let Some(records) = span.read(self.verifier.bytes).await? {
                self.schemas.prepare(&records).await.map_err(Fault::Registry)?;
                records.iter().try_for_each(|record| self.take(record)).map_err(Fault::Stopped)?;
                if self.shrinks {
                    self.shrink();
                }
                if let Some(last) = records.last().filter(|_| is_first) {
                    self.verifier.progress.done(last.offset + 1 - from);
                    from = last.offset + 1;
                }
            }
        }
        Ok(())
    }

    /// What was not read yet of a partition; `None` where that is nothing.
    async fn span(&self, partition: u32, end: u64) -> Result<Option<Span>, LogError> {
        let next = self.from(partition).await?;
        if next >= end {
            return Ok(None);
        }
        let at = TopicPartition::new(self.verifier.topic.clone(), partition);
        Span::open(&*self.verifier.log, at, next, end).await.map(Some)
    }

    /// Where reading a partition goes on.
    async fn from(&self, partition: u32) -> Result<u64, LogError> {
        let at = TopicPartition::new(self.verifier.topic.clone(), partition);
        let earliest = self.verifier.log.bounds(&at).await?.earliest;
        Ok(self.next.get(&partition).copied().unwrap_or(0).max(earliest))
    }

    /// Takes on a record if it is of the slice.
    fn take(&mut self, record: &Record) -> Result<(), Stop> {
        let Some(key) = self.key(record)?.filter(|key| self.slice.contains(*key)) else { return Ok(()) };
        let at = Place { partition: record.at.partition, offset: record.offset };
        let content = match self.schemas.read(record) {
            Err(_) => None,
            // A subscriber that does not ask for what is as it was keeps what it has.
            Ok(decoded) if decoded.unchanged && !self.verifier.unchanged && self.rows.contains_key(&key) => return Ok(()),
            Ok(decoded) => match self.verifier.decide(&decoded) {
                Decision::Deliver(row) => Some(self.content(&row)),
                Decision::Delete(..) => {
                    self.rows.remove(&key);
                    return Ok(());
                }
                Decision::Stopped(stop) => return Err(stop),
            },
        };
        self.rows.insert(key, Due { content, at });
        Ok(())
    }

    /// Leaves the greater half of the hashes to a later go until memory is enough for the rest.
    fn shrink(&mut self) {
        while self.rows.len() > MOST_ROWS {
            let slice = self.slice.half();
            self.rows.retain(|key, _| slice.contains(*key));
            self.slice = slice;
        }
    }

    /// Number of a record's key; `None` where that cannot be read.
    fn key(&self, record: &Record) -> Result<Option<u64>, Stop> {
        let Ok(key) = self.schemas.read_key(record) else { return Ok(None) };
        let whole = Whole { key: &key, fields: None, source_us: 0 };
        match self.verifier.entitlement.decide(Timestamp::now(), whole) {
            Decision::Delete(row, _) => Ok(Some(key_number(&row))),
            Decision::Deliver(_) => Ok(None),
            Decision::Stopped(stop) => Err(stop),
        }
    }

    /// The texts by which a row's cells are compared.
    pub(super) fn texts(&self, row: &Row<'_>) -> Vec<Option<String>> {
        let columns = self.verifier.entitlement.columns().iter();
        columns.zip(&row.cells).map(|(column, cell)| (!cell.is_null()).then(|| (self.text_of)(column.kind, cell))).collect()
    }

    fn content(&self, row: &Row<'_>) -> u64 {
        let hashed = row.key.clear.is_empty().then(|| Some(hex::encode(&row.key.id)));
        let texts: Vec<_> = hashed.into_iter().chain(self.texts(row)).collect();
        number(texts.iter().map(Option::as_deref))
    }

    /// Those of `keys` that have records between what was read and `ends`.
    pub(super) async fn stirred(&mut self, keys: &[u64], ends: &BTreeMap<u32, u64>) -> Result<HashSet<u64>, Fault> {
        let keys: HashSet<u64> = keys.iter().copied().collect();
        let mut stirred = HashSet::new();
        for (&partition, &end) in ends {
            let Some(mut span) = self.span(partition, end).await? else { continue };
            while let Some(records) = span.read(self.verifier.bytes).await? {
                self.schemas.prepare(&records).await.map_err(Fault::Registry)?;
                for record in &records {
                    stirred.extend(self.key(record).map_err(Fault::Stopped)?.filter(|key| keys.contains(key)));
                }
            }
        }
        Ok(stirred)
    }

    /// Ranges of which the sink holds otherwise than is granted, each with the rows that the sink has of it.
    pub(super) fn differing(&self, held: &[RangeSum], shift: u32) -> BTreeMap<u64, u64> {
        let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (key, due) in &self.rows {
            let (rows, content) = sums.entry(key >> shift).or_default();
            *rows += 1;
            *content ^= due.content.unwrap_or_default();
        }
        let mut differing = BTreeMap::new();
        for sum in held {
            if sums.remove(&sum.range) != Some((sum.rows, sum.content)) {
                differing.insert(sum.range, sum.rows);
            }
        }
        differing.extend(sums.into_keys().map(|range| (range, 0)));
        differing
    }

    /// Keys of some ranges under which the sink, which has `held` there, holds otherwise than is granted.
    pub(super) fn unlike(&self, ranges: &[u64], shift: u32, mut held: HashMap<u64, u64>) -> Vec<u64> {
        let ranges: HashSet<u64> = ranges.iter().copied().collect();
        let granted = self.rows.iter().filter(|(key, _)| ranges.contains(&(*key >> shift)));
        let mut unlike = Vec::new();
        for (key, due) in granted {
            let held = held.remove(key);
            if held.is_none() || held != due.content {
                unlike.push(*key);
            }
        }
        unlike.extend(held.into_keys());
        unlike
    }
}

fn key_number(row: &RowKey<'_>) -> u64 {
    match row.clear.as_slice() {
        [] => number(std::iter::once(Some(hex::encode(&row.id).as_str()))),
        // Parts of a key are texts.
        parts => number(parts.iter().map(|part| Some(part.as_text().unwrap_or_default()))),
    }
}
