//! One raw event to entity records, or to the reasons why not: pure work on bytes, without state and without clients.
//!
//! Delivery semantics are the stage's; here: the same bytes, the same kept columns and the same mapping give the same records.
//! An error finding rejects the whole event; warnings travel in the record's quality; notes are only counted.

pub(crate) mod encode;

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use guitong_schemas::avro::decode::{DecodeError, DecodePlan};

use guitong_schemas::change::Operation;
use guitong_schemas::standard::{
    Clock, EntityField, Finding, Grade, Input, Level, Obligation, RecordContext, Rule, StandardValue, Step,
};
use smallvec::SmallVec;

use crate::claims::EntityRecord;
use crate::join::beside::{Beside, Uses};
use crate::join::state::Group;
use crate::keyed::overlay::Cached;
use crate::mapping::column::{Cell, Row, text_of};
use crate::mapping::{Bound, Chosen, Columns, EntryPlan, ItemsFault, ItemsPlan, Mapping, Reading, Refusal};
use crate::quality::flow::{Counted, Flows};
use crate::quarantine::Rejection;
use encode::{encode, write_bytes};

/// Rule of a record whose key other rows claim too.
pub(crate) const SHARED_KEY: Rule = Rule::KeyShared;

/// An event of at least this many bytes may come from a row whose values stand outside it: PostgreSQL moves values out of rows
/// over 2,032 bytes, and later leaves them out where they did not change.
const LARGE_EVENT: usize = 1_200;
/// Shorter values are never moved out of their row.
const LARGE_VALUE: usize = 20;
/// Bytes that keys and records are cut from at a time.
const ARENA: usize = 256 << 10;
/// Longest value that a rejection shows, in characters.
const SHOWN: usize = 64;
/// The rule that a record breaks whose values are not of its schema's types.
pub(crate) const UNENCODABLE: &str = "record.encoding";

/// The bytes of one event and what its headers say of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    /// Without frame.
    pub(crate) avro: &'a [u8],
    /// Avro fields that the source did not send, one a line.
    pub(crate) absent: &'a str,
    /// Avro fields whose type could not hold the value, one a line.
    pub(crate) lossy: &'a str,
    /// Absent ones whose value does not read, one a line: its first bytes in hexadecimal digits, a space, and the field.
    pub(crate) unreadable: &'a str,
}

impl<'a> Raw<'a> {
    /// An event that was sent whole.
    pub(crate) fn whole(avro: &'a [u8]) -> Self {
        Self { avro, absent: "", lossy: "", unreadable: "" }
    }
}

/// One event, read.
#[derive(Debug)]
pub(crate) struct Event {
    /// Commit time at the source, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) source_ts_us: i64,
    pub(crate) change: Change,
    pub(crate) operation: Operation,
    /// Values that later events of the row may leave out; `None` where the event has no row.
    pub(crate) columns: Option<Columns>,
    /// What the row was made of beside itself.
    pub(crate) uses: Uses,
}

#[derive(Debug)]
pub(crate) enum Change {
    Truncate,
    Delete,
    Good(Vec<EntityRecord>),
    Bad {
        rejections: Vec<Rejection>,
    },
    /// It needs joined rows that are not loaded.
    Unloaded,
}

impl Event {
    pub(crate) fn of(change: Change, operation: Operation, source_ts_us: i64) -> Self {
        Self { source_ts_us, change, operation, columns: None, uses: Uses::default() }
    }
}

/// Runs events of one batch through a mapping, with buffers that it keeps.
#[derive(Debug)]
pub(crate) struct Runner<'m> {
    mapping: &'m Mapping,
    /// Schema id that records are framed with.
    value_schema: u32,
    findings: Vec<Finding>,
    encoded: Vec<u8>,
    arena: BytesMut,
    /// Good records of the event under way.
    counted: Counted,
    pub(crate) flows: Flows,
}

/// Source texts of a field that holds one value for each record of the row.
struct Parallel<'p> {
    index: usize,
    entry: &'p EntryPlan,
    parts: Vec<String>,
}

impl<'m> Runner<'m> {
    pub(crate) fn new(mapping: &'m Mapping, value_schema: u32) -> Self {
        Self {
            mapping,
            value_schema,
            findings: Vec::new(),
            encoded: Vec::with_capacity(1 << 10),
            arena: BytesMut::new(),
            counted: Counted::default(),
            flows: Flows::default(),
        }
    }

    /// Reads one event. `kept` holds what is known of columns that it leaves out; `fallback_us` is its time where the envelope
    /// has none.
    pub(crate) fn run(
        &mut self,
        bound: &Bound,
        raw: &Raw<'_>,
        kept: Option<&Columns>,
        fallback_us: i64,
    ) -> Result<Event, DecodeError> {
        self.run_beside(bound, raw, kept, fallback_us, None)
    }

    /// As [`Runner::run`], with the rows of joined tables.
    pub(crate) fn run_beside(
        &mut self,
        bound: &Bound,
        raw: &Raw<'_>,
        kept: Option<&Columns>,
        fallback_us: i64,
        groups: Option<&Cached<Group>>,
    ) -> Result<Event, DecodeError> {
        let Raw { avro, absent, lossy, unreadable } = *raw;
        let envelope = bound.plan.envelope(avro)?;
        let source_ts_us = envelope.source_ts_us.unwrap_or(fallback_us);
        let after = match (envelope.operation, envelope.after) {
            (Operation::Truncate, _) => return Ok(Event::of(Change::Truncate, Operation::Truncate, source_ts_us)),
            // Of a row that has no image after the change nothing is left.
            (Operation::Delete, _) | (_, None) => return Ok(Event::of(Change::Delete, Operation::Delete, source_ts_us)),
            (_, Some(after)) => after,
        };
        let absent = columns_of(&bound.plan, absent);
        let lossy = columns_of(&bound.plan, lossy);
        let unreadable = unreadable_of(&bound.plan, unreadable);
        let (slots, columns, values) = (&*bound.slots, &*self.mapping.columns, &*after);
        let alone = Row { columns, kept, unreadable: &unreadable, ..Row::plain(slots, values, &absent, &lossy) };
        let beside = match self.mapping.joins.as_ref().map(|plan| plan.join(&alone, groups)) {
            None => Beside::default(),
            Some(Ok(beside)) => beside,
            Some(Err(_)) => return Ok(Event::of(Change::Unloaded, envelope.operation, source_ts_us)),
        };
        let row = Row { joined: &beside.cells, lists: &beside.lists, ..alone };
        let columns = keep(&row, avro.len());
        let change = self.run_row(&row, source_ts_us, Some(bound));
        Ok(Event { source_ts_us, change, operation: envelope.operation, columns: Some(columns), uses: beside.uses })
    }

    /// What a row as of a time comes to; what several rows make is of no one schema.
    pub(crate) fn run_row(&mut self, row: &Row<'_, '_>, source_ts_us: i64, bound: Option<&Bound>) -> Change {
        let clock = Clock::at(source_ts_us, &self.mapping.zone);
        self.counted = Counted::default();
        match self.row(row, &clock, bound) {
            Ok(records) => {
                self.flows.on(clock.today).counted.add(&self.counted);
                Change::Good(records)
            }
            Err(mut rejections) => {
                if let Some(bound) = bound {
                    bound.explain(&mut rejections);
                }
                Change::Bad { rejections }
            }
        }
    }

    /// Refuses what could be a record, for what its rows are as a whole.
    pub(crate) fn refuse_rows(&mut self, refusal: Refusal, source_ts_us: i64) -> Change {
        let clock = Clock::at(source_ts_us, &self.mapping.zone);
        Change::Bad { rejections: vec![self.refuse_whole(refusal, &clock)] }
    }

    fn refuse_whole(&mut self, refusal: Refusal, clock: &Clock<'_>) -> Rejection {
        let rule = if refusal == Refusal::ExpressionFailed { Rule::ConditionFailed } else { refused(refusal).1 };
        self.flows.on(clock.today).tally.add(&found(Level::Error, usize::MAX, rule));
        let (zh, en) = (rule.zh().to_owned(), rule.en().to_owned());
        Rejection { rule: rule.code().to_owned(), field: String::new(), value: None, zh, en }
    }

    /// The records of a row; none of one that the resource's condition leaves out.
    fn row(&mut self, row: &Row<'_, '_>, clock: &Clock<'_>, bound: Option<&Bound>) -> Result<Vec<EntityRecord>, Vec<Rejection>> {
        if let Some(bound) = bound.filter(|bound| bound.refuses(true)) {
            return Err(self.refuse_row(bound, clock));
        }
        match self.mapping.condition.as_ref().map_or(Ok(true), |condition| condition.holds(row)) {
            Ok(true) => self.records(row, clock, bound),
            Ok(false) => Ok(Vec::new()),
            Err(refusal) => Err(vec![self.refuse_whole(refusal, clock)]),
        }
    }

    /// What keeps a row out whose table is not as the mapping knows it.
    fn refuse_row(&mut self, bound: &Bound, clock: &Clock<'_>) -> Vec<Rejection> {
        let tally = &mut self.flows.on(clock.today).tally;
        for affected in &bound.affected {
            tally.add(&found(Level::Error, affected.field.unwrap_or(usize::MAX), affected.rule));
        }
        bound.rejections()
    }

    /// The row's entity records.
    fn records(
        &mut self,
        row: &Row<'_, '_>,
        clock: &Clock<'_>,
        bound: Option<&Bound>,
    ) -> Result<Vec<EntityRecord>, Vec<Rejection>> {
        let mapping = self.mapping;
        self.findings.clear();
        if let Some(bound) = bound.filter(|bound| bound.refuses(false)) {
            return Err(self.refuse_row(bound, clock));
        }
        let retyped = bound.into_iter().flat_map(|bound| &bound.affected).filter(|affected| affected.rule == Rule::ColumnRetyped);
        let retyped = retyped.filter_map(|affected| Some(found(Level::Warning, affected.field?, affected.rule)));
        self.findings.extend(retyped);
        let mut values: Vec<StandardValue<'_>> = mapping.entity.fields.iter().map(|_| StandardValue::Null).collect();
        let mut parallel: SmallVec<[Parallel<'_>; 0]> = SmallVec::new();
        for plan in &mapping.fields {
            let Some(field) = mapping.entity.fields.get(plan.index) else { continue };
            // Most columns are texts that go straight into the standard's reading.
            if let Some((entry, text)) = plan.plain().and_then(|(column, entry)| Some((entry, row.text(column)?))) {
                let value = entry.read(field, text, clock, &mut self.findings);
                if let Some(place) = values.get_mut(plan.index) {
                    *place = value;
                }
                continue;
            }
            let (entry, reading) = match plan.choose(row) {
                Ok(Chosen::Entry(entry)) => (entry, entry.value(row)),
                Ok(Chosen::Items(items)) => {
                    let value = self.items(items, field, row, clock);
                    if let Some(place) = values.get_mut(plan.index) {
                        *place = value;
                    }
                    continue;
                }
                Ok(Chosen::Nothing) => continue,
                Err(refusal) => {
                    self.refuse(field, refusal);
                    continue;
                }
            };
            if let (Some(level), Reading::Value(_) | Reading::Made(_)) = (entry.extraction(), &reading) {
                self.findings.push(found(level, plan.index, Rule::ValueExtracted));
            }
            match (&entry.parallel, reading) {
                (Some(separator), reading @ (Reading::Value(_) | Reading::Made(_))) => {
                    let text = text_of_reading(reading).unwrap_or_default();
                    let parts = text.split(separator.as_str()).map(|part| part.trim().to_owned()).collect();
                    parallel.push(Parallel { index: plan.index, entry, parts });
                }
                (_, reading) => {
                    let value = self.read(entry, field, reading, row, clock);
                    if let Some(place) = values.get_mut(plan.index) {
                        *place = value;
                    }
                }
            }
        }
        let Some(first) = parallel.first() else {
            return self.finish(values, row, clock).map(|record| vec![record]);
        };
        let count = first.parts.len();
        if parallel.iter().any(|other| other.parts.len() != count) {
            for other in &parallel {
                self.findings.push(found(Level::Error, other.index, Rule::ListsDiffer));
            }
            return self.finish(values, row, clock).map(|record| vec![record]);
        }
        self.fan_out(&values, &parallel, count, row, clock)
    }

    /// One record for each place in the parallel texts.
    fn fan_out(
        &mut self,
        values: &[StandardValue<'_>],
        parallel: &[Parallel<'_>],
        count: usize,
        row: &Row<'_, '_>,
        clock: &Clock<'_>,
    ) -> Result<Vec<EntityRecord>, Vec<Rejection>> {
        let mapping = self.mapping;
        let common = self.findings.clone();
        let mut records = Vec::with_capacity(count);
        for place in 0..count {
            self.findings.clone_from(&common);
            let mut own = values.to_vec();
            for Parallel { index, entry, parts } in parallel {
                let Some(field) = mapping.entity.fields.get(*index) else { continue };
                let text = parts.get(place).map_or("", String::as_str);
                let value = self.read(entry, field, Reading::Value(Input::Text(text)), row, clock);
                if let Some(slot) = own.get_mut(*index) {
                    *slot = value;
                }
            }
            records.push(self.finish(own, row, clock)?);
        }
        Ok(records)
    }

    fn read<'a>(
        &mut self,
        entry: &'a EntryPlan,
        field: &'a EntityField,
        reading: Reading<'a>,
        row: &Row<'_, '_>,
        clock: &Clock<'_>,
    ) -> StandardValue<'a> {
        let read = match entry.coded(reading) {
            Reading::Empty => return StandardValue::Null,
            Reading::Refused(refusal) => Err(refusal),
            reading => entry.options(row).map(|options| match reading {
                Reading::Value(input) => field.read(input, options, clock, &mut self.findings),
                Reading::Made(text) => field.read(Input::Text(&text), options, clock, &mut self.findings).into_owned(),
                Reading::Empty | Reading::Refused(_) => StandardValue::Null,
            }),
        };
        read.unwrap_or_else(|refusal| {
            self.refuse(field, refusal);
            StandardValue::Null
        })
    }

    /// The items of a nested field.
    fn items(&mut self, items: &ItemsPlan, field: &EntityField, row: &Row<'_, '_>, clock: &Clock<'_>) -> StandardValue<'static> {
        let mut steps = Vec::new();
        let made = items.each(row, |entries, row| {
            let mut values: SmallVec<[StandardValue<'static>; 6]> = items.members.iter().map(|_| StandardValue::Null).collect();
            for (place, entry) in entries {
                let (Some(member), Some(value)) = (items.members.get(*place), values.get_mut(*place)) else { continue };
                let reading = entry.value(row);
                if let (Some(level), Reading::Value(_) | Reading::Made(_)) = (entry.extraction(), &reading) {
                    self.findings.push(found(level, field.index(), Rule::ValueExtracted));
                }
                *value = self.read(entry, member, reading, row, clock).into_owned();
            }
            steps.extend(Step::of(&values));
        });
        match made {
            Ok(()) if steps.is_empty() => StandardValue::Null,
            Ok(()) => StandardValue::Steps(steps),
            Err(fault) => {
                match fault {
                    ItemsFault::Column(refusal) => self.refuse(field, refusal),
                    ItemsFault::Rule(rule) => {
                        self.findings.push(found(by_obligation(field, Level::Warning), field.index(), rule))
                    }
                }
                StandardValue::Null
            }
        }
    }

    /// Notes that a field has no value, and why.
    fn refuse(&mut self, field: &EntityField, refusal: Refusal) {
        let (least, rule) = refused(refusal);
        self.findings.push(found(by_obligation(field, least), field.index(), rule));
    }

    /// Checks a record whole and encodes it, or says why not.
    fn finish(
        &mut self,
        mut values: Vec<StandardValue<'_>>,
        row: &Row<'_, '_>,
        clock: &Clock<'_>,
    ) -> Result<EntityRecord, Vec<Rejection>> {
        let mapping = self.mapping;
        let context = RecordContext { clock: *clock, not_provided: &mapping.not_provided };
        mapping.entity.check(&mut values, &context, &mut self.findings);
        mapping.switches.apply(&mapping.entity, &mut self.findings);
        let mut worst = Level::Note;
        let flow = self.flows.on(clock.today);
        for finding in &self.findings {
            flow.tally.add(finding);
            worst = worst.max(finding.level);
        }
        if worst == Level::Error {
            return Err(self.rejections(&values, row, clock));
        }
        self.encoded.clear();
        if let Err(problem) = encode(mapping, &values, self.value_schema, &mut self.encoded) {
            // The standard gives values of the schema's types; one that is none of them is kept out, not published.
            let en = format!("the record does not encode: {problem}");
            return Err(vec![Rejection {
                rule: UNENCODABLE.to_owned(),
                field: String::new(),
                value: None,
                zh: "记录无法编码".into(),
                en,
            }]);
        }
        let record = self.cut();
        self.counted.count(&mapping.entity, &values, clock, mapping.reporting);
        self.encoded.clear();
        for part in mapping.entity.key_values(&values, &mapping.system) {
            write_bytes(part.as_bytes(), &mut self.encoded);
        }
        let key = self.cut();
        let quality = if worst == Level::Warning { self.quality() } else { Bytes::new() };
        Ok(EntityRecord { key, record, quality })
    }

    /// What stands in `encoded`, as a slice of the arena.
    fn cut(&mut self) -> Bytes {
        if self.arena.capacity() < self.encoded.len() {
            self.arena = BytesMut::with_capacity(ARENA.max(self.encoded.len()));
        }
        self.arena.extend_from_slice(&self.encoded);
        self.arena.split().freeze()
    }

    /// `field:rule` of every warning, separated by commas.
    fn quality(&self) -> Bytes {
        let mut out = String::new();
        for finding in self.findings.iter().filter(|finding| finding.level == Level::Warning) {
            let comma = if out.is_empty() { "" } else { "," };
            let _ = write!(out, "{comma}{}:{}", self.field_name(finding), finding.rule);
        }
        Bytes::from(out)
    }

    fn field_name(&self, finding: &Finding) -> &str {
        self.mapping.entity.fields.get(usize::from(finding.field)).map_or("", |field| field.name.as_str())
    }

    fn rejections(&self, values: &[StandardValue<'_>], row: &Row<'_, '_>, clock: &Clock<'_>) -> Vec<Rejection> {
        let errors = self.findings.iter().filter(|finding| finding.level == Level::Error);
        errors
            .map(|finding| {
                let index = usize::from(finding.field);
                let plan = self.mapping.fields.iter().find(|plan| plan.index == index);
                let text = plan.and_then(|plan| match plan.choose(row) {
                    Ok(Chosen::Entry(entry)) => match entry.source(row) {
                        Reading::Refused(Refusal::ColumnUnreadable) => row.unreadable_bytes(|slot| plan.reads().contains(&slot)),
                        reading => text_of_reading(reading),
                    },
                    _ => None,
                });
                let grade = self.mapping.entity.grade(index, values, clock);
                let title = self.mapping.entity.fields.get(index).map_or("", |field| field.title_zh.as_str());
                Rejection {
                    rule: finding.rule.code().to_owned(),
                    field: self.field_name(finding).to_owned(),
                    value: text.map(|text| conceal(&text, grade)),
                    zh: format!("{title}：{}", finding.rule.zh()),
                    en: format!("{}: {}", self.field_name(finding), finding.rule.en()),
                }
            })
            .collect()
    }
}

/// A source key for people, `column=value`, masked as the fields that read its columns are.
pub(crate) fn describe_key(mapping: &Mapping, plan: &DecodePlan, avro: &[u8]) -> String {
    let Ok(values) = plan.record(avro) else { return String::new() };
    let parts = plan.fields().iter().zip(&values).map(|(field, value)| {
        let text = Cell::of(value, &field.semantic).input().map(text_of).unwrap_or_default();
        let grade = mapping.grade_of_column(&field.name).unwrap_or(Grade::G1);
        format!("{}={}", field.name, conceal(&text, grade))
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// The values that later events may leave out: large ones of large rows, and those that this event left out already.
fn keep(row: &Row<'_, '_>, size: usize) -> Columns {
    let mut columns = Columns::default();
    if size < LARGE_EVENT && row.absent.is_empty() {
        return columns;
    }
    for (at, (slot, column)) in row.slots.iter().zip(row.columns).enumerate() {
        match row.cell(at) {
            Cell::Direct(Input::Text(text)) if text.len() > LARGE_VALUE || row.absent.contains(&slot.index) => {
                columns.push(column, text);
            }
            Cell::Made(text) if text.len() > LARGE_VALUE => columns.push(column, &text),
            Cell::Direct(input @ Input::Decimal { .. }) => columns.push(column, &text_of(input)),
            _ => {}
        }
    }
    columns
}

/// Places in the row of the fields that a header names, one a line.
pub(crate) fn columns_of(plan: &DecodePlan, names: &str) -> SmallVec<[usize; 4]> {
    names.split('\n').filter(|name| !name.is_empty()).filter_map(|name| plan.field(name)).collect()
}

/// Places in the row of the fields whose value does not read, each with its first bytes.
pub(crate) fn unreadable_of<'h>(plan: &DecodePlan, header: &'h str) -> SmallVec<[(usize, &'h str); 2]> {
    header.lines().filter_map(|line| line.split_once(' ')).filter_map(|(bytes, name)| Some((plan.field(name)?, bytes))).collect()
}

/// The level of a value that cannot be read: an error where the field must be there, else at least `least`.
fn by_obligation(field: &EntityField, least: Level) -> Level {
    if field.obligation == Obligation::Mandatory && !field.derived { Level::Error } else { least }
}

/// The rule that a refusal breaks, and its level in a field that need not be there.
fn refused(refusal: Refusal) -> (Level, Rule) {
    match refusal {
        Refusal::CodeUnlisted => (Level::Warning, Rule::CodeUnknown),
        Refusal::ColumnLossy => (Level::Warning, Rule::ColumnLossy),
        Refusal::ColumnUnreadable => (Level::Warning, Rule::ColumnUnreadable),
        Refusal::LookupMissing => (Level::Warning, Rule::LookupMissing),
        Refusal::ColumnGone => (Level::Warning, Rule::ColumnGone),
        Refusal::ExpressionFailed => (Level::Warning, Rule::ExpressionFailed),
        Refusal::ExpressionStopped => (Level::Warning, Rule::ExpressionStopped),
        Refusal::NoMatch => (Level::Warning, Rule::ExtractFailed),
        Refusal::UnitUnknown => (Level::Warning, Rule::AmountUnit),
        // A null in its place would tell the subscribers that the value is gone.
        Refusal::ColumnAbsent => (Level::Error, Rule::ColumnAbsent),
        // Nor would some of the rows tell that others are missing.
        Refusal::TooManyRows => (Level::Error, Rule::TooManyRows),
    }
}

fn found(level: Level, index: usize, rule: Rule) -> Finding {
    Finding { level, field: u16::try_from(index).unwrap_or(u16::MAX), rule }
}

fn text_of_reading(reading: Reading<'_>) -> Option<String> {
    match reading {
        Reading::Value(input) => Some(text_of(input)),
        Reading::Made(text) => Some(text),
        Reading::Empty | Reading::Refused(_) => None,
    }
}

/// A value as an operator may see it: clear up to G1, the first of several characters at G2, a few outer characters of a long one at G3.
#[must_use]
pub fn conceal(text: &str, grade: Grade) -> String {
    let characters = text.chars().count();
    let (head, tail) = match grade {
        Grade::G0 | Grade::G1 if characters <= SHOWN => return text.to_owned(),
        Grade::G0 | Grade::G1 => return text.chars().take(SHOWN).chain(['…']).collect(),
        Grade::G2 if characters > 1 => (1, 0),
        Grade::G3 if characters >= 15 => (3, 2),
        Grade::G2 | Grade::G3 => (0, 0),
    };
    let hidden = characters.saturating_sub(head + tail).min(SHOWN);
    let mut shown: String = text.chars().take(head).collect();
    shown.extend(std::iter::repeat_n('*', hidden));
    shown.extend(text.chars().skip(characters - tail));
    shown
}

#[cfg(test)]
mod tests;
