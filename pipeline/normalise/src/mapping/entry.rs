//! One entry of a mapping, compiled: the steps that `guitong_schemas::contract::mapping` states, in its order.

use std::borrow::Cow;
use std::cmp::Ordering;

use guitong_schemas::contract::mapping::{Cleaning, FieldMapping, Other, Pad, Pattern, Unit, UnitSource, ValueSource, Which};
use guitong_schemas::standard::{Clock, EntityField, FieldKind, FieldOptions, Finding, Input, Level, StandardValue};
use smallvec::SmallVec;

use super::cel::{Expression, Failure, Outcome};
use super::clean::clean;
use super::column::{Cell, Row, text_of};
use super::{Fault, Slots};
use crate::join::cell::Kept;

/// Stands between the values of several rows; no code holds it.
const BETWEEN_ROWS: &str = "\n";

/// Texts that stand for no value.
const EMPTY: [&str; 6] = ["", "无", "/", "-", "NULL", "暂无"];

/// Where a value comes from; numbers are indexes of the mapping's columns.
#[derive(Debug)]
enum Source {
    Column(usize),
    First(Vec<usize>),
    Joined { slots: Vec<usize>, separator: String },
    Constant(String),
    Cel(Formula),
}

/// An expression and where the columns stand that it reads.
#[derive(Debug)]
pub(crate) struct Formula {
    expression: Expression,
    slots: Vec<usize>,
}

/// One compiled entry.
#[derive(Debug)]
pub(crate) struct EntryPlan {
    /// Separates the texts of several records in one row.
    pub(crate) parallel: Option<String>,
    /// The list of rows of which each gives a value, and what stands between those in the text of all.
    every: Option<(usize, String)>,
    source: Source,
    clean: Vec<Cleaning>,
    extract: Option<Pattern>,
    /// Separator, and which part counted from 0.
    part: Option<(String, usize)>,
    /// Already through the code list.
    default: Option<String>,
    /// Source value and code, sorted: by length first, which mostly tells values apart without looking at them.
    codes: Vec<(Box<str>, Box<str>)>,
    other: Option<Other>,
    /// Separator of a list field whose items the code list translates one by one.
    listed: Option<String>,
    pad: Option<Pad>,
    options: FieldOptions,
    unit: Option<UnitPlan>,
}

/// A unit that stands in a column.
#[derive(Debug)]
struct UnitPlan {
    slot: usize,
    default: Option<Unit>,
    /// The entry's options by unit, in the order of [`Unit::ALL`].
    options: [FieldOptions; 3],
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
    /// The source's value does not read.
    ColumnUnreadable,
    /// A dictionary has no row for the key.
    LookupMissing,
    /// The writer's table does not have the column.
    ColumnGone,
    ExpressionFailed,
    /// It used more than an evaluation may.
    ExpressionStopped,
    /// The text is not what `extract` describes.
    NoMatch,
    /// The unit's column names no unit of money.
    UnitUnknown,
    /// More rows of another table than a record is made of.
    TooManyRows,
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reading<'a> {
    Empty,
    Value(Input<'a>),
    Made(String),
    Refused(Refusal),
}

impl Formula {
    pub(crate) fn compile(source: &str, slots: &mut Slots<'_>) -> Result<Self, String> {
        let expression = Expression::compile(source)?;
        let slots = expression.columns().iter().map(|column| slots.of(column)).collect();
        Ok(Self { expression, slots })
    }

    /// Whether it reads the column with this number.
    pub(crate) fn reads(&self, slot: usize) -> bool {
        self.slots.contains(&slot)
    }

    /// What it gives for a row.
    pub(crate) fn evaluate(&self, row: &Row<'_, '_>) -> Result<Outcome, Refusal> {
        let cells = cells(row, &self.slots)?;
        self.expression.evaluate(cells.iter().map(Cell::input)).map_err(|failure| match failure {
            Failure::Evaluation => Refusal::ExpressionFailed,
            Failure::Stopped | Failure::TooLarge => Refusal::ExpressionStopped,
        })
    }

    /// Whether it holds for a row.
    pub(crate) fn holds(&self, row: &Row<'_, '_>) -> Result<bool, Refusal> {
        match self.evaluate(row)? {
            Outcome::Boolean(holds) => Ok(holds),
            _ => Err(Refusal::ExpressionFailed),
        }
    }
}

impl EntryPlan {
    pub(crate) fn compile(field: &EntityField, mapping: &FieldMapping, slots: &mut Slots<'_>) -> Result<Self, Fault> {
        match &mapping.row {
            None => Self::compile_steps(field, mapping, slots),
            Some(row) if row.which == Which::Every => {
                let split = mapping.split.clone().unwrap_or_else(|| BETWEEN_ROWS.to_owned());
                let mapping = FieldMapping { split: Some(split.clone()), ..mapping.clone() };
                let (list, plan) = slots.of_each(&row.details, |slots| Self::compile_steps(field, &mapping, slots))?;
                Ok(Self { every: Some((list, split)), ..plan })
            }
            Some(row) => slots.of_row(row, |slots| Self::compile_steps(field, mapping, slots)),
        }
    }

    fn compile_steps(field: &EntityField, mapping: &FieldMapping, slots: &mut Slots<'_>) -> Result<Self, Fault> {
        let source = match &mapping.value {
            ValueSource::Column(column) => Source::Column(slots.of(column)),
            ValueSource::First(columns) => Source::First(columns.iter().map(|column| slots.of(column)).collect()),
            ValueSource::Joined { columns, separator } => {
                Source::Joined { slots: columns.iter().map(|column| slots.of(column)).collect(), separator: separator.clone() }
            }
            ValueSource::Lookup { lookup, from, value } => Source::Column(slots.of_lookup(lookup, from, value)),
            ValueSource::Constant(text) => Source::Constant(text.clone()),
            ValueSource::Cel(text) => Source::Cel(Formula::compile(text, slots).map_err(Fault::Expression)?),
            ValueSource::Cases(_) | ValueSource::Items(_) => return Err(Fault::Nested),
        };
        let options = FieldOptions::compile(field, mapping).map_err(Fault::Options)?;
        let is_list = matches!(field.kind, FieldKind::Codes(_) | FieldKind::Steps);
        let split = mapping.split.clone().filter(|separator| !separator.is_empty());
        let (part, split) = match (mapping.part, split) {
            (Some(part), Some(separator)) => (Some((separator, part.saturating_sub(1))), None),
            (_, split) => (None, split),
        };
        let unit = match &mapping.unit {
            Some(UnitSource::Column { column, default }) => {
                let options = Unit::ALL.map(|unit| options.with_unit(unit));
                Some(UnitPlan { slot: slots.of(column), default: *default, options })
            }
            Some(UnitSource::Fixed(_)) | None => None,
        };
        let standard = |text: &String| mapping.codes.get(text.trim()).unwrap_or(text).clone();
        let mut codes: Vec<(Box<str>, Box<str>)> =
            mapping.codes.iter().map(|(from, to)| (from.trim().into(), to.as_str().into())).collect();
        codes.sort_by(|(left, _), (right, _)| by_length(left, right));
        Ok(Self {
            parallel: split.clone().filter(|_| !is_list),
            listed: split.filter(|_| is_list && !codes.is_empty()),
            every: None,
            source,
            clean: mapping.clean.clone(),
            extract: mapping.extract.clone(),
            part,
            default: mapping.default.as_ref().map(standard),
            codes,
            other: mapping.other.clone(),
            pad: mapping.pad,
            options,
            unit,
        })
    }

    /// The column that is read as it stands: nothing but the standard's reading is done to it, for one record.
    pub(crate) fn plain(&self) -> Option<usize> {
        let Source::Column(slot) = self.source else { return None };
        let steps = self.every.is_some()
            || !self.clean.is_empty()
            || self.extract.is_some()
            || self.part.is_some()
            || self.parallel.is_some()
            || self.default.is_some()
            || !self.codes.is_empty()
            || self.pad.is_some()
            || self.unit.is_some();
        (!steps).then_some(slot)
    }

    /// The value as its source has it.
    #[inline]
    pub(crate) fn source<'a>(&'a self, row: &Row<'_, 'a>) -> Reading<'a> {
        match &self.every {
            None => self.source_of(row),
            Some((list, between)) => each_of(row, *list, between, |row| text(self.source_of(row))),
        }
    }

    #[inline]
    fn source_of<'a>(&'a self, row: &Row<'_, 'a>) -> Reading<'a> {
        match &self.source {
            Source::Column(slot) => Reading::of(row.cell(*slot)),
            Source::Constant(text) => Reading::Value(Input::Text(text)),
            Source::First(slots) => {
                let mut readings = slots.iter().map(|slot| Reading::of(row.cell(*slot)));
                readings.find(|reading| !reading.is_empty()).unwrap_or(Reading::Empty)
            }
            Source::Joined { slots, separator } => match cells(row, slots) {
                Ok(cells) => joined(&cells, separator),
                Err(refusal) => Reading::Refused(refusal),
            },
            Source::Cel(formula) => match formula.evaluate(row) {
                Ok(Outcome::Null) => Reading::Empty,
                Ok(Outcome::Text(text)) => Reading::Made(text),
                Ok(Outcome::Integer(number)) => Reading::Value(Input::Integer(number)),
                Ok(Outcome::Boolean(truth)) => Reading::Value(Input::Boolean(truth)),
                Err(refusal) => Reading::Refused(refusal),
            },
        }
    }

    /// The value, cleaned, extracted and cut to its part.
    #[inline]
    pub(crate) fn value<'a>(&'a self, row: &Row<'_, 'a>) -> Reading<'a> {
        match &self.every {
            None => self.value_of(row),
            Some((list, between)) => each_of(row, *list, between, |row| text(self.value_of(row))),
        }
    }

    #[inline]
    fn value_of<'a>(&'a self, row: &Row<'_, 'a>) -> Reading<'a> {
        let reading = self.source_of(row);
        if self.clean.is_empty() && self.extract.is_none() && self.part.is_none() {
            return reading;
        }
        let mut reading = self.clean.iter().fold(reading, |reading, step| reading.narrowed(|text| Some(clean(text, *step))));
        if let Some(pattern) = &self.extract {
            if reading.is_empty() {
                return Reading::Empty;
            }
            let whole = pattern.is_whole();
            reading = match reading.narrowed(|text| pattern.find(text.trim()).map(Cow::Borrowed)) {
                Reading::Empty if whole => Reading::Refused(Refusal::NoMatch),
                reading => reading,
            };
        }
        match &self.part {
            Some((separator, at)) => {
                reading.narrowed(|text| text.split(separator.as_str()).nth(*at).map(|part| Cow::Borrowed(part.trim())))
            }
            None => reading,
        }
    }

    /// How much it weighs that a value was extracted: a part found in a text may be the wrong one.
    pub(crate) fn extraction(&self) -> Option<Level> {
        self.extract.as_ref().map(|pattern| if pattern.is_whole() { Level::Note } else { Level::Warning })
    }

    /// Default, code list and width.
    #[inline]
    pub(crate) fn coded<'a>(&'a self, reading: Reading<'a>) -> Reading<'a> {
        if self.codes.is_empty() && self.default.is_none() && self.pad.is_none() {
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
        let coded = match found {
            Found::Code(code) => Reading::Value(Input::Text(code)),
            Found::List(codes) => Reading::Made(codes),
            Found::Keep => reading,
            Found::Empty => self.default.as_ref().map_or(Reading::Empty, |default| Reading::Value(Input::Text(default))),
            Found::Unlisted => return Reading::Refused(Refusal::CodeUnlisted),
        };
        match self.pad {
            Some(pad) => padded(coded, pad),
            None => coded,
        }
    }

    fn look_up(&self, text: &str) -> Found<'_> {
        let trimmed = text.trim();
        if let Some(separator) = self.listed.as_deref().filter(|separator| trimmed.contains(separator)) {
            let mut codes: SmallVec<[Cow<'_, str>; 4]> = SmallVec::new();
            for item in trimmed.split(separator) {
                match self.look_up_one(item.trim()) {
                    Found::Code(code) => codes.push(Cow::Borrowed(code)),
                    Found::Keep => codes.push(Cow::Owned(item.to_owned())),
                    Found::Empty | Found::List(_) => {}
                    Found::Unlisted => return Found::Unlisted,
                }
            }
            return Found::List(codes.join(separator));
        }
        self.look_up_one(trimmed)
    }

    fn look_up_one(&self, trimmed: &str) -> Found<'_> {
        let found = self.codes.binary_search_by(|(from, _)| by_length(from, trimmed));
        if let Some((_, code)) = found.ok().and_then(|at| self.codes.get(at)) {
            return Found::Code(code);
        }
        if is_empty(trimmed) {
            return Found::Empty;
        }
        match &self.other {
            _ if self.codes.is_empty() => Found::Keep,
            Some(Other::Keep) => Found::Keep,
            Some(Other::Value(other)) => Found::Code(other),
            None => Found::Unlisted,
        }
    }

    /// The options under which this row's value is read.
    #[inline]
    pub(crate) fn options(&self, row: &Row<'_, '_>) -> Result<&FieldOptions, Refusal> {
        let Some(plan) = &self.unit else { return Ok(&self.options) };
        let reading = Reading::of(row.cell(plan.slot));
        let named = match &reading {
            Reading::Refused(refusal) => return Err(*refusal),
            Reading::Value(Input::Text(text)) if !is_empty(text.trim()) => Unit::parse(text),
            Reading::Made(text) if !is_empty(text.trim()) => Unit::parse(text),
            Reading::Value(Input::Text(_)) | Reading::Made(_) | Reading::Empty => plan.default,
            Reading::Value(_) => None,
        };
        let place = named.and_then(|named| Unit::ALL.iter().position(|unit| *unit == named));
        place.and_then(|at| plan.options.get(at)).ok_or(Refusal::UnitUnknown)
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

impl<'a> Reading<'a> {
    pub(super) fn of(cell: Cell<'a>) -> Self {
        match cell {
            Cell::Null => Self::Empty,
            Cell::Direct(input) => Self::Value(input),
            Cell::Made(text) => Self::Made(text),
            Cell::Absent => Self::Refused(Refusal::ColumnAbsent),
            Cell::Lossy => Self::Refused(Refusal::ColumnLossy),
            Cell::Unreadable => Self::Refused(Refusal::ColumnUnreadable),
            Cell::Missing => Self::Refused(Refusal::LookupMissing),
            Cell::Refused(refusal) => Self::Refused(refusal),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Value(Input::Text(text)) => is_empty(text.trim()),
            Self::Made(text) => is_empty(text.trim()),
            Self::Value(_) | Self::Refused(_) => false,
        }
    }

    /// What a step makes of the value's text; nothing where it gives nothing.
    fn narrowed(self, step: impl for<'t> FnOnce(&'t str) -> Option<Cow<'t, str>>) -> Self {
        match self {
            Self::Empty | Self::Refused(_) => self,
            Self::Value(Input::Text(text)) => match step(text) {
                Some(Cow::Borrowed(part)) => Self::Value(Input::Text(part)),
                Some(Cow::Owned(made)) => Self::Made(made),
                None => Self::Empty,
            },
            Self::Value(other) => step(&text_of(other)).map_or(Self::Empty, |made| Self::Made(made.into_owned())),
            Self::Made(text) => step(&text).map_or(Self::Empty, |made| Self::Made(made.into_owned())),
        }
    }
}

/// The texts that the rows of a list give, with `between` between them.
fn each_of<'a>(
    row: &Row<'_, '_>,
    list: usize,
    between: &str,
    mut text: impl FnMut(&Row<'_, '_>) -> Result<String, Refusal>,
) -> Reading<'a> {
    let rows = match row.lists.get(list) {
        Some(Ok(rows)) => rows.as_slice(),
        Some(Err(refusal)) => return Reading::Refused(*refusal),
        None => &[],
    };
    let mut texts = Vec::with_capacity(rows.len());
    for row in rows {
        let cells: Vec<_> = row.cells.iter().map(Kept::cell).collect();
        match text(&Row::joined(&cells)) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => texts.push(text),
            Err(refusal) => return Reading::Refused(refusal),
        }
    }
    if texts.is_empty() { Reading::Empty } else { Reading::Made(texts.join(between)) }
}

/// A reading as text, trimmed; empty where it is.
fn text(reading: Reading<'_>) -> Result<String, Refusal> {
    match reading {
        Reading::Empty => Ok(String::new()),
        Reading::Value(Input::Text(text)) => Ok(text.trim().to_owned()),
        Reading::Value(input) => Ok(text_of(input)),
        Reading::Made(text) => Ok(text.trim().to_owned()),
        Reading::Refused(refusal) => Err(refusal),
    }
}

/// The cells of several columns, all of which are known.
fn cells<'a>(row: &Row<'_, 'a>, slots: &[usize]) -> Result<SmallVec<[Cell<'a>; 4]>, Refusal> {
    let cells: SmallVec<[Cell<'_>; 4]> = slots.iter().map(|slot| row.cell(*slot)).collect();
    if cells.contains(&Cell::Absent) {
        return Err(Refusal::ColumnAbsent);
    }
    if cells.contains(&Cell::Lossy) {
        return Err(Refusal::ColumnLossy);
    }
    if cells.contains(&Cell::Unreadable) {
        return Err(Refusal::ColumnUnreadable);
    }
    if cells.contains(&Cell::Missing) {
        return Err(Refusal::LookupMissing);
    }
    match cells.iter().find_map(|cell| if let Cell::Refused(refusal) = cell { Some(*refusal) } else { None }) {
        Some(refusal) => Err(refusal),
        None => Ok(cells),
    }
}

fn joined<'a>(cells: &[Cell<'_>], separator: &str) -> Reading<'a> {
    let parts = cells.iter().filter_map(Cell::input).map(|input| match input {
        Input::Text(text) => Cow::Borrowed(text.trim()),
        other => Cow::Owned(text_of(other)),
    });
    let parts: Vec<_> = parts.filter(|part| !is_empty(part)).collect();
    if parts.is_empty() { Reading::Empty } else { Reading::Made(parts.join(separator)) }
}

/// A text that is shorter than the width gets the character in front.
fn padded(reading: Reading<'_>, pad: Pad) -> Reading<'_> {
    let text = match &reading {
        Reading::Empty | Reading::Refused(_) => return reading,
        Reading::Value(Input::Text(text)) => Cow::Borrowed(text.trim()),
        Reading::Value(other) => Cow::Owned(text_of(*other)),
        Reading::Made(text) => Cow::Borrowed(text.trim()),
    };
    let missing = pad.width.saturating_sub(text.chars().count());
    if missing == 0 || is_empty(&text) {
        return reading;
    }
    let mut made: String = std::iter::repeat_n(pad.with, missing).collect();
    made.push_str(&text);
    Reading::Made(made)
}

fn by_length(left: &str, right: &str) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// What the code list says about a source value.
enum Found<'p> {
    Code(&'p str),
    /// The codes of a list, joined as its values were.
    List(String),
    Keep,
    Empty,
    Unlisted,
}

/// Whether a trimmed text stands for no value.
pub(crate) fn is_empty(text: &str) -> bool {
    text.len() <= 6 && EMPTY.iter().any(|empty| text.eq_ignore_ascii_case(empty))
}
