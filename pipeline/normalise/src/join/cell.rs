//! Values of a joined row as they are kept: typed as they came, so that a field reads them as it reads the resource's own.

use std::cmp::Ordering;

use guitong_schemas::standard::Input;

use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::mapping::Refusal;
use crate::mapping::column::{Cell, text_of};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    Null,
    Absent,
    Lossy,
    Unreadable,
    /// The table of the row does not have the column.
    Gone,
    Text(Box<str>),
    Integer(i64),
    Boolean(bool),
    Decimal {
        unscaled: i128,
        scale: u32,
    },
    Days(i32),
    Local(i64),
    Instant(i64),
}

impl Kept {
    pub(crate) fn of(cell: &Cell<'_>) -> Self {
        match cell {
            Cell::Null | Cell::Missing => Self::Null,
            Cell::Absent => Self::Absent,
            Cell::Lossy => Self::Lossy,
            Cell::Unreadable => Self::Unreadable,
            // A row of the table alone is found by nothing that could refuse it otherwise.
            Cell::Refused(_) => Self::Gone,
            Cell::Made(text) => Self::Text(text.as_str().into()),
            Cell::Direct(input) => match *input {
                Input::Text(text) => Self::Text(text.into()),
                Input::Integer(number) => Self::Integer(number),
                Input::Boolean(truth) => Self::Boolean(truth),
                Input::Decimal { unscaled, scale } => Self::Decimal { unscaled, scale },
                Input::Days(days) => Self::Days(days),
                Input::Local(micros) => Self::Local(micros),
                Input::Instant(micros) => Self::Instant(micros),
            },
        }
    }

    pub(crate) fn cell(&self) -> Cell<'_> {
        Cell::Direct(match self {
            Self::Null => return Cell::Null,
            Self::Absent => return Cell::Absent,
            Self::Lossy => return Cell::Lossy,
            Self::Unreadable => return Cell::Unreadable,
            Self::Gone => return Cell::Refused(Refusal::ColumnGone),
            Self::Text(text) => Input::Text(text),
            Self::Integer(number) => Input::Integer(*number),
            Self::Boolean(truth) => Input::Boolean(*truth),
            Self::Decimal { unscaled, scale } => Input::Decimal { unscaled: *unscaled, scale: *scale },
            Self::Days(days) => Input::Days(*days),
            Self::Local(micros) => Input::Local(*micros),
            Self::Instant(micros) => Input::Instant(*micros),
        })
    }

    /// Which of two values is later: nothing comes first, then numbers by size, also where they are texts, then texts. Digits within
    /// texts count by the size of their number: `9月22日` is before `10月9日`, and `17-9-22 8:30` before `17-9-22 10:00`.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let text = |kept: &Self| kept.cell().input().map(text_of);
        let (Some(left), Some(right)) = (text(self), text(other)) else {
            return text(self).is_some().cmp(&text(other).is_some());
        };
        let (left, right) = (left.trim(), right.trim());
        match (left.parse::<f64>(), right.parse::<f64>()) {
            (Ok(one), Ok(two)) => one.total_cmp(&two).then_with(|| by_numbers(left, right)),
            (one, two) => two.is_ok().cmp(&one.is_ok()).then_with(|| by_numbers(left, right)),
        }
    }

    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) => 4 + text.len(),
            _ => 20,
        }
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        let wide = |out: &mut Writer, kind, number| {
            out.u8(kind);
            out.i64(number);
        };
        match self {
            Self::Null => out.u8(0),
            Self::Absent => out.u8(1),
            Self::Lossy => out.u8(2),
            Self::Text(text) => {
                out.u8(3);
                out.bytes(text.as_bytes());
            }
            Self::Integer(number) => wide(out, 4, *number),
            Self::Boolean(truth) => wide(out, 5, i64::from(*truth)),
            Self::Decimal { unscaled, scale } => {
                out.u8(6);
                out.number(u64::from(*scale));
                out.bytes(&unscaled.to_be_bytes());
            }
            Self::Days(days) => wide(out, 7, i64::from(*days)),
            Self::Local(micros) => wide(out, 8, *micros),
            Self::Instant(micros) => wide(out, 9, *micros),
            Self::Unreadable => out.u8(10),
            Self::Gone => out.u8(11),
        }
    }

    pub(crate) fn decode(from: &mut Reader) -> Result<Self, CodecError> {
        Ok(match from.u8()? {
            0 => Self::Null,
            1 => Self::Absent,
            2 => Self::Lossy,
            3 => Self::Text(from.text()?.into()),
            4 => Self::Integer(from.i64()?),
            5 => Self::Boolean(from.i64()? != 0),
            6 => {
                let scale = u32::try_from(from.number()?).map_err(|_| CodecError::Damaged)?;
                let unscaled = from.bytes()?.as_ref().try_into().map_err(|_| CodecError::Damaged)?;
                Self::Decimal { unscaled: i128::from_be_bytes(unscaled), scale }
            }
            7 => Self::Days(i32::try_from(from.i64()?).map_err(|_| CodecError::Damaged)?),
            8 => Self::Local(from.i64()?),
            9 => Self::Instant(from.i64()?),
            10 => Self::Unreadable,
            11 => Self::Gone,
            _ => return Err(CodecError::Damaged),
        })
    }
}

/// Compares texts by their characters, and runs of digits by the size of their number.
fn by_numbers(left: &str, right: &str) -> Ordering {
    let (mut one, mut two) = (left, right);
    while let (Some(first), Some(second)) = (one.chars().next(), two.chars().next()) {
        let (number, other) = (digits(one), digits(two));
        let order = match number.is_empty() || other.is_empty() {
            true => first.cmp(&second),
            false => {
                let (number, other) = (number.trim_start_matches('0'), other.trim_start_matches('0'));
                number.len().cmp(&other.len()).then_with(|| number.cmp(other))
            }
        };
        if order.is_ne() {
            return order;
        }
        one = one.get(number.len().max(first.len_utf8())..).unwrap_or_default();
        two = two.get(other.len().max(second.len_utf8())..).unwrap_or_default();
    }
    one.len().cmp(&two.len()).then_with(|| left.cmp(right))
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let all = [
            Kept::Null,
            Kept::Absent,
            Kept::Lossy,
            Kept::Gone,
            Kept::Text("桂".into()),
            Kept::Integer(-7),
            Kept::Boolean(true),
            Kept::Decimal { unscaled: -12, scale: 2 },
            Kept::Days(-1),
            Kept::Local(5),
            Kept::Instant(i64::MIN),
        ];
        let mut out = Writer::new(1, 64);
        all.iter().for_each(|kept| kept.encode(&mut out));
        let mut from = Reader::new(&out.finish(), 1).expect("the format");
        for kept in &all {
            assert_eq!(Kept::decode(&mut from).as_ref(), Ok(kept));
            let cell = kept.cell();
            assert_eq!(&Kept::of(&cell), kept);
        }
        assert_eq!(from.end(), Ok(()));
    }

    #[test]
    fn numbers_are_ordered_by_size_also_as_texts() {
        let text = |text: &str| Kept::Text(text.into());
        for (first, later) in [
            (text("9"), text("10")),
            (Kept::Integer(9), text("10")),
            (Kept::Null, text("")),
            (text("2017-09-22"), text("2017-10-01")),
            (text("a9"), text("b1")),
            (text("17-9-22 8:30"), text("17-9-22 10:00")),
            (text("2017年9月22日"), text("2017年10月9日")),
            (text("第009步"), text("第10步")),
            (text("第09步"), text("第9步")),
            (text("10"), text("1a")),
            (text("1"), text("1a")),
        ] {
            assert_eq!((first.order(&later), later.order(&first)), (Ordering::Less, Ordering::Greater), "{first:?} {later:?}");
        }
    }
}
