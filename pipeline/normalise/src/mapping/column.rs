//! From a decoded column to what a field reads.

use std::fmt::Write as _;

use guitong_schemas::avro::Value;
use guitong_schemas::avro::decode::Semantic;
use guitong_schemas::standard::{Input, StandardValue};

use super::{Columns, Refusal, Slot};
use crate::join::beside::List;
use crate::join::plan::FIRST_JOINED;

/// A column's value, borrowed from the event where its form allows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    /// The source did not send it, and what it was is not known.
    Absent,
    /// The source sent a value that the column's type on the wire could not hold.
    Lossy,
    /// The source sent a value that does not read, such as text in another character set.
    Unreadable,
    /// A dictionary has no row for the key.
    Missing,
    /// What it would be made of cannot be told: the writer's table does not have the column, or several rows may be meant.
    Refused(Refusal),
    Direct(Input<'a>),
    Made(String),
}

/// One row as the mapping's columns see it; a cell is made when it is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'r, 'a> {
    pub(crate) slots: &'r [Slot],
    /// Names of the mapping's columns, as `slots`.
    pub(crate) columns: &'r [String],
    /// The writer's fields.
    pub(crate) values: &'r [Value<'a>],
    /// Places among `values` of what the source did not send.
    pub(crate) absent: &'r [usize],
    /// Places among `values` of what the wire could not hold.
    pub(crate) lossy: &'r [usize],
    /// Places of absent columns whose value does not read, with its first bytes in hexadecimal digits.
    pub(crate) unreadable: &'r [(usize, &'r str)],
    /// What is known of absent columns.
    pub(crate) kept: Option<&'a Columns>,
    /// Cells of joined rows, whose columns are numbered from [`FIRST_JOINED`] on.
    pub(crate) joined: &'r [Cell<'a>],
    /// Rows of details.
    pub(crate) lists: &'r [List<'a>],
}

impl<'r, 'a> Row<'r, 'a> {
    /// A row of which nothing is known but what its event says.
    pub(crate) fn plain(slots: &'r [Slot], values: &'r [Value<'a>], absent: &'r [usize], lossy: &'r [usize]) -> Self {
        Self { slots, columns: &[], values, absent, lossy, unreadable: &[], kept: None, joined: &[], lists: &[] }
    }

    /// A row that is kept, all of whose columns are joined ones.
    pub(crate) fn joined(cells: &'r [Cell<'a>]) -> Self {
        Self { joined: cells, ..Self::plain(&[], &[], &[], &[]) }
    }

    /// The text of a column, where it is one that the event holds.
    #[inline]
    pub(crate) fn text(&self, column: usize) -> Option<&'a str> {
        let slot = self.slots.get(column)?;
        match self.values.get(slot.index)? {
            Value::Text(text) if !self.absent.contains(&slot.index) && !self.lossy.contains(&slot.index) => {
                Some(own_text(text, &slot.semantic))
            }
            _ => None,
        }
    }

    /// The cell of one of the mapping's columns.
    #[inline]
    pub(crate) fn cell(&self, column: usize) -> Cell<'a> {
        let Some(slot) = self.slots.get(column) else {
            let joined = column.checked_sub(FIRST_JOINED).and_then(|at| self.joined.get(at));
            return joined.cloned().unwrap_or(Cell::Null);
        };
        if self.absent.contains(&slot.index) {
            if self.unreadable.iter().any(|(place, _)| *place == slot.index) {
                return Cell::Unreadable;
            }
            let known = self.kept.zip(self.columns.get(column)).and_then(|(kept, name)| kept.get(name));
            return known.map_or(Cell::Absent, |text| Cell::Direct(Input::Text(text)));
        }
        if self.lossy.contains(&slot.index) {
            return Cell::Lossy;
        }
        self.values.get(slot.index).map_or(Cell::Refused(Refusal::ColumnGone), |value| Cell::of(value, &slot.semantic))
    }

    /// The first bytes of the value that does not read, of the first such column that is `read`, as `\xC4CF`.
    pub(crate) fn unreadable_bytes(&self, read: impl Fn(usize) -> bool) -> Option<String> {
        let bytes = |slot: &Slot| self.unreadable.iter().find(|(place, _)| *place == slot.index).map(|(_, bytes)| bytes);
        let of_read = self.slots.iter().enumerate().filter(|(at, _)| read(*at)).find_map(|(_, slot)| bytes(slot));
        of_read.map(|bytes| format!("\\x{}", bytes.to_ascii_uppercase()))
    }
}

impl<'a> Cell<'a> {
    pub(crate) fn input(&self) -> Option<Input<'_>> {
        match self {
            Self::Null | Self::Absent | Self::Lossy | Self::Unreadable | Self::Missing | Self::Refused(_) => None,
            Self::Direct(input) => Some(*input),
            Self::Made(text) => Some(Input::Text(text)),
        }
    }

    #[inline]
    pub(crate) fn of(value: &Value<'a>, semantic: &Semantic) -> Self {
        match (value, semantic) {
            (Value::Null, _) => Self::Null,
            (Value::Text(text), semantic) => Self::Direct(Input::Text(own_text(text, semantic))),
            (Value::Bool(truth), _) => Self::Direct(Input::Boolean(*truth)),
            (Value::Int(number), semantic) => integer(*number, semantic),
            (Value::Decimal { unscaled, scale }, _) => decimal(unscaled, *scale),
            (Value::Float(number), _) => Self::Made(number.to_string()),
            (Value::Double(number), _) => Self::Made(number.to_string()),
            (Value::Bytes(bytes), _) => Self::Made(hex::encode(bytes)),
            (Value::List(items), _) => Self::Made(joined(items)),
            (Value::Map(_) | Value::Record(_), _) => Self::Made(json(value).to_string()),
        }
    }
}

/// The text without what only its form on the wire has.
#[inline]
fn own_text<'a>(text: &'a str, semantic: &Semantic) -> &'a str {
    match semantic {
        Semantic::LocalText => text.strip_suffix('Z').unwrap_or(text),
        _ => text,
    }
}

fn integer<'a>(number: i64, semantic: &Semantic) -> Cell<'a> {
    let local = |micros: Option<i64>| micros.map_or(Cell::Made(number.to_string()), |micros| Cell::Direct(Input::Local(micros)));
    match semantic {
        Semantic::Date => i32::try_from(number).map_or(Cell::Made(number.to_string()), |days| Cell::Direct(Input::Days(days))),
        Semantic::TimestampMillis => local(number.checked_mul(1_000)),
        Semantic::TimestampMicros => local(Some(number)),
        Semantic::TimestampNanos => local(Some(number.div_euclid(1_000))),
        Semantic::TimeMillis => Cell::Made(time_of_day(number.saturating_mul(1_000))),
        Semantic::TimeMicros => Cell::Made(time_of_day(number)),
        Semantic::TimeNanos => Cell::Made(time_of_day(number.div_euclid(1_000))),
        _ => Cell::Direct(Input::Integer(number)),
    }
}

fn time_of_day(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A number of more than 38 digits is beyond every field: it becomes one that is out of every range.
fn decimal<'a>(unscaled: &[u8], scale: i32) -> Cell<'a> {
    let beyond = Cell::Direct(Input::Decimal { unscaled: i128::MAX, scale: 0 });
    if unscaled.len() > 16 {
        return beyond;
    }
    let sign = if unscaled.first().is_some_and(|byte| byte & 0x80 != 0) { -1_i128 } else { 0 };
    let number = unscaled.iter().fold(sign, |number, &byte| number << 8 | i128::from(byte));
    match u32::try_from(scale) {
        Ok(scale) => Cell::Direct(Input::Decimal { unscaled: number, scale }),
        Err(_) => match 10_i128.checked_pow(scale.unsigned_abs()).and_then(|power| number.checked_mul(power)) {
            Some(unscaled) => Cell::Direct(Input::Decimal { unscaled, scale: 0 }),
            None => beyond,
        },
    }
}

/// Items of an array column, as a list field splits them.
fn joined(items: &[Value<'_>]) -> String {
    let mut out = String::new();
    for item in items {
        if !out.is_empty() {
            out.push(';');
        }
        match item {
            Value::Text(text) => out.push_str(text),
            other => {
                let _ = write!(out, "{}", json(other));
            }
        }
    }
    out
}

fn json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Double(number) => (*number).into(),
        Value::Text(text) => (*text).into(),
        Value::Bytes(bytes) => hex::encode(bytes).into(),
        Value::Decimal { unscaled, scale } => match decimal(unscaled, *scale) {
            Cell::Direct(input) => text_of(input).into(),
            _ => serde_json::Value::Null,
        },
        Value::List(items) | Value::Record(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|(name, value)| ((*name).to_owned(), json(value))).collect(),
    }
}

/// The text form of a source value.
pub(crate) fn text_of(input: Input<'_>) -> String {
    match input {
        Input::Text(text) => text.to_owned(),
        Input::Integer(number) => number.to_string(),
        Input::Boolean(truth) => truth.to_string(),
        Input::Decimal { unscaled, scale } => StandardValue::Decimal { unscaled, scale }.to_string(),
        Input::Days(days) => StandardValue::Date(days).to_string(),
        Input::Local(micros) => match jiff::Timestamp::from_microsecond(micros) {
            // The clock has no zone, so its reading in UTC is the reading itself.
            Ok(time) => jiff::tz::TimeZone::UTC.to_datetime(time).to_string(),
            Err(_) => micros.to_string(),
        },
        Input::Instant(micros) => StandardValue::Time(micros).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_columns_stay_typed() {
        let cell = |value: Value<'static>, semantic| Cell::of(&value, &semantic);
        assert_eq!(cell(Value::Int(17_431), Semantic::Date), Cell::Direct(Input::Days(17_431)));
        assert_eq!(cell(Value::Int(5), Semantic::TimestampMillis), Cell::Direct(Input::Local(5_000)));
        assert_eq!(cell(Value::Text("2017-09-22Z"), Semantic::LocalText), Cell::Direct(Input::Text("2017-09-22")));
        assert_eq!(cell(Value::Text("2017-09-22Z"), Semantic::Plain), Cell::Direct(Input::Text("2017-09-22Z")));
        assert_eq!(cell(Value::Int(5), Semantic::Plain), Cell::Direct(Input::Integer(5)));
        assert_eq!(cell(Value::Int(3_661_000_000), Semantic::TimeMicros), Cell::Made("01:01:01".to_owned()));
        let number = |unscaled: &'static [u8], scale| cell(Value::Decimal { unscaled, scale }, Semantic::VariableDecimal);
        assert_eq!(number(&[0xFF, 0x38], 2), Cell::Direct(Input::Decimal { unscaled: -200, scale: 2 }));
        assert_eq!(number(&[3], -2), Cell::Direct(Input::Decimal { unscaled: 300, scale: 0 }));
        assert_eq!(number(&[1; 17], 0), Cell::Direct(Input::Decimal { unscaled: i128::MAX, scale: 0 }));
        let list = cell(Value::List(vec![Value::Text("01"), Value::Int(2)]), Semantic::Plain);
        assert_eq!(list, Cell::Made("01;2".to_owned()));
    }

    #[test]
    fn text_forms_are_those_of_people() {
        for (input, text) in [
            (Input::Decimal { unscaled: -1205, scale: 2 }, "-12.05"),
            (Input::Days(17_431), "2017-09-22"),
            (Input::Local(1_506_069_005_000_000), "2017-09-22T08:30:05"),
            (Input::Integer(7), "7"),
        ] {
            assert_eq!(text_of(input), text);
        }
    }
}
