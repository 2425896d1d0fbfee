//! One field of a mapping: value, default, code list or format, unit, in this order; the standard's reading does the rest.

use std::borrow::Cow;
use std::cmp::Ordering;

use guitong_schemas::contract::resource::{FieldMapping, ValueSource};
use guitong_schemas::standard::{Clock, EntityField, FieldKind, FieldOptions, Finding, Input, StandardValue};

use super::MappingError;
use super::cel::{Expression, Outcome};
use super::column::{Cell, Row, text_of};
use crate::join::plan::ColumnSet;
use smallvec::SmallVec;

/// Texts that stand for no value.
const EMPTY: [&str; 6] = ["", "无", "/", "-", "NULL", "暂无"];

/// Where a field's value comes from; numbers are indexes of the mapping's columns.
#[derive(Debug)]
enum Source {
    Column(usize),
    Joined { slots: Vec<usize>, separator: String },
    Constant(String),
    Cel { expression: Expression, slots: Vec<usize> },
}

/// One compiled field.
#[derive(Debug)]
pub(crate) struct FieldPlan {
    /// Index in the entity.
    pub(crate) index: usize,
    /// Separates the texts of several records in one row.
    pub(crate) parallel: Option<String>,
    source: Source,
    /// Already through the code list.
    default: Option<String>,
    /// Source value and code, sorted: by length first, which mostly tells values apart without looking at them.
    codes: Vec<(Box<str>, Box<str>)>,
    other: Option<String>,
    options: FieldOptions,
}

/// Why a field has no value, beyond what the standard's reading says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Neither in the mapping's code list nor covered by `other`.
    CodeUnlisted,
    /// A column was left out by the source and is not known.
    ColumnAbsent,
    /// The column's type on the wire could not hold the value.
    ColumnLossy,
    /// A dictionary has no row for the key.
    LookupMissing,
    ExpressionFailed,
}

/// What a field's source gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reading<'a> {
    Empty,
    Value(Input<'a>),
    Made(String),
    Refused(Refusal),
}

impl FieldPlan {
    /// Compiles `mapping`; columns that it reads are added to `columns` where they are not there yet.
    pub(crate) fn compile(
        field: &EntityField,
        mapping: &FieldMapping,
        columns: &mut ColumnSet<'_>,
    ) -> Result<Self, MappingError> {
        let line = mapping.at.line;
        let mut slots = |names: &[String]| names.iter().map(|column| columns.number(column)).collect::<Result<Vec<_>, _>>();
        let source = match &mapping.value {
            ValueSource::Column(column) => Source::Column(columns.number(column)?),
            ValueSource::Lookup { lookup, from, value } => Source::Column(columns.lookup(lookup, from, value)?),
            ValueSource::Joined { columns, separator } => Source::Joined { slots: slots(columns)?, separator: separator.clone() },
            ValueSource::Constant(text) => Source::Constant(text.clone()),
            ValueSource::Cel(text) => {
                let failed = |reason| MappingError::Expression { field: field.name.clone(), line, reason };
                let expression = Expression::compile(text).map_err(failed)?;
                Source::Cel { slots: slots(expression.columns())?, expression }
            }
        };
        let is_list = matches!(field.kind, FieldKind::Codes(_) | FieldKind::Steps);
        let parallel = mapping.split.clone().filter(|separator| !is_list && !separator.is_empty());
        let declared = FieldMapping { split: mapping.split.clone().filter(|_| is_list), ..mapping.clone() };
        let options = FieldOptions::compile(field, &declared).map_err(|error| MappingError::Options {
            field: field.name.clone(),
            line,
            error,
        })?;
        let standard = |text: &String| mapping.codes.get(text.trim()).unwrap_or(text).clone();
        let mut codes: Vec<(Box<str>, Box<str>)> =
            mapping.codes.iter().map(|(from, to)| (from.trim().into(), to.as_str().into())).collect();
        codes.sort_by(|(left, _), (right, _)| by_length(left, right));
        Ok(Self {
            index: field.index(),
            parallel,
            default: mapping.default.as_ref().map(standard),
            source: match source {
                Source::Constant(text) => Source::Constant(standard(&text)),
                source => source,
            },
            codes,
            other: mapping.other.clone(),
            options,
        })
    }

    /// Whether the field reads this column of the mapping.
    pub(crate) fn reads(&self, slot: usize) -> bool {
        match &self.source {
            Source::Column(own) => *own == slot,
            Source::Joined { slots, .. } | Source::Cel { slots, .. } => slots.contains(&slot),
            Source::Constant(_) => false,
        }
    }

    /// The column that is read as it stands: no default, no code list, one record.
    #[inline]
    pub(crate) fn plain(&self) -> Option<usize> {
        match self.source {
            Source::Column(slot) if self.codes.is_empty() && self.default.is_none() && self.parallel.is_none() => Some(slot),
            _ => None,
        }
    }

    /// The source value, before default and code list.
    #[inline]
    pub(crate) fn source<'a>(&'a self, row: &Row<'_, 'a>) -> Reading<'a> {
        match &self.source {
            Source::Column(slot) => match row.cell(*slot) {
                Cell::Null => Reading::Empty,
                Cell::Direct(input) => Reading::Value(input),
                Cell::Made(text) => Reading::Made(text),
                Cell::Absent => Reading::Refused(Refusal::ColumnAbsent),
                Cell::Lossy => Reading::Refused(Refusal::ColumnLossy),
                Cell::Missing => Reading::Refused(Refusal::LookupMissing),
            },
            Source::Constant(text) => Reading::Value(Input::Text(text)),
            Source::Joined { slots, .. } | Source::Cel { slots, .. } => {
                let cells: SmallVec<[Cell<'_>; 4]> = slots.iter().map(|slot| row.cell(*slot)).collect();
                self.made_of(&cells)
            }
        }
    }

    /// The value that several columns give.
    fn made_of<'a>(&'a self, cells: &[Cell<'_>]) -> Reading<'a> {
        if cells.contains(&Cell::Absent) {
            return Reading::Refused(Refusal::ColumnAbsent);
        }
        if cells.contains(&Cell::Lossy) {
            return Reading::Refused(Refusal::ColumnLossy);
        }
        if cells.contains(&Cell::Missing) {
            return Reading::Refused(Refusal::LookupMissing);
        }
        match &self.source {
            Source::Joined { separator, .. } => {
                let parts = cells.iter().filter_map(Cell::input).map(|input| match input {
                    Input::Text(text) => Cow::Borrowed(text.trim()),
                    other => Cow::Owned(text_of(other)),
                });
                let parts: Vec<_> = parts.filter(|part| !is_empty(part)).collect();
                if parts.is_empty() { Reading::Empty } else { Reading::Made(parts.join(separator)) }
            }
            Source::Cel { expression, .. } => match expression.evaluate(cells.iter().map(Cell::input)) {
                Ok(Outcome::Null) => Reading::Empty,
                Ok(Outcome::Text(text)) => Reading::Made(text),
                Ok(Outcome::Integer(number)) => Reading::Value(Input::Integer(number)),
                Ok(Outcome::Boolean(truth)) => Reading::Value(Input::Boolean(truth)),
                Err(_) => Reading::Refused(Refusal::ExpressionFailed),
            },
            Source::Column(_) | Source::Constant(_) => Reading::Empty,
        }
    }

    /// Default and code list.
    #[inline]
    pub(crate) fn coded<'a>(&'a self, reading: Reading<'a>) -> Reading<'a> {
        if self.codes.is_empty() && self.default.is_none() || matches!(self.source, Source::Constant(_)) {
            return reading;
        }
        let found = match &reading {
            Reading::Refused(_) => return reading,
            Reading::Empty => Found::Empty,
            Reading::Value(Input::Text(text)) => self.look_up(text),
            Reading::Value(_) if self.codes.is_empty() => Found::Keep,
            Reading::Value(Input::Integer(number)) => self.look_up(itoa::Buffer::new().format(*number)),
            Reading::Value(other) => self.look_up(&text_of(*other)),
            Reading::Made(text) => self.look_up(text),
        };
        match found {
            Found::Code(code) => Reading::Value(Input::Text(code)),
            Found::Keep => reading,
            Found::Empty => self.default.as_ref().map_or(Reading::Empty, |default| Reading::Value(Input::Text(default))),
            Found::Unlisted => Reading::Refused(Refusal::CodeUnlisted),
        }
    }

    fn look_up(&self, text: &str) -> Found<'_> {
        let trimmed = text.trim();
        let found = self.codes.binary_search_by(|(from, _)| by_length(from, trimmed));
        if let Some((_, code)) = found.ok().and_then(|at| self.codes.get(at)) {
            return Found::Code(code);
        }
        if is_empty(trimmed) {
            return Found::Empty;
        }
        match &self.other {
            _ if self.codes.is_empty() => Found::Keep,
            Some(other) => Found::Code(other),
            None => Found::Unlisted,
        }
    }

    /// The field's canonical value, by the standard.
    #[inline]
    pub(crate) fn read<'a>(
        &self,
        field: &'a EntityField,
        input: impl Into<Input<'a>>,
        clock: &Clock<'_>,
        findings: &mut Vec<Finding>,
    ) -> StandardValue<'a> {
        field.read(input, &self.options, clock, findings)
    }
}

fn by_length(left: &str, right: &str) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// What the code list says about a source value.
enum Found<'p> {
    Code(&'p str),
    Keep,
    Empty,
    Unlisted,
}

/// Whether a trimmed text stands for no value.
pub(crate) fn is_empty(text: &str) -> bool {
    text.len() <= 6 && EMPTY.iter().any(|empty| text.eq_ignore_ascii_case(empty))
}
