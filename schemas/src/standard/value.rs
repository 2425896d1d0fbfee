//! What a mapping hands in, and what a standard field holds.

use std::borrow::Cow;
use std::fmt;

use super::clock::{civil_from_days, shanghai};

/// A value on its way into a field.
///
/// Typed variants spare a database value the way through text; a kind that has no use for one reads its text form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input<'a> {
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
    Decimal {
        unscaled: i128,
        scale: u32,
    },
    /// Days since 1970-01-01.
    Days(i32),
    /// Microseconds since 1970-01-01T00:00 of a clock without a zone: read in the exchange's zone.
    Local(i64),
    /// Microseconds since 1970-01-01T00:00Z.
    Instant(i64),
}

impl<'a> From<&'a str> for Input<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

/// A field of an entity record, in its canonical form. `Display` gives the text form that keys and subjects use.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum StandardValue<'a> {
    #[default]
    Null,
    Text(Cow<'a, str>),
    /// Days since 1970-01-01; [`OPEN_END`] is without end.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00Z.
    Time(i64),
    /// `unscaled` / 10^`scale`; the scale is the field's.
    Decimal {
        unscaled: i128,
        scale: u32,
    },
    Int(i64),
    TextList(Vec<Cow<'a, str>>),
    Steps(Vec<Step>),
}

/// 9999-12-31, the date that means "without end".
pub const OPEN_END: i32 = 2_932_896;

/// One step of a service case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    pub name: Option<String>,
    pub handler: Option<String>,
    /// Microseconds since 1970-01-01T00:00Z, as `ended`.
    pub started: Option<i64>,
    pub ended: Option<i64>,
    /// Code of the list `step_action`.
    pub action: Option<String>,
    pub opinion: Option<String>,
}

impl StandardValue<'_> {
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The text, where the value is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The same value, holding its own text.
    #[must_use]
    pub fn into_owned(self) -> StandardValue<'static> {
        match self {
            Self::Null => StandardValue::Null,
            Self::Text(text) => StandardValue::Text(Cow::Owned(text.into_owned())),
            Self::Date(days) => StandardValue::Date(days),
            Self::Time(micros) => StandardValue::Time(micros),
            Self::Decimal { unscaled, scale } => StandardValue::Decimal { unscaled, scale },
            Self::Int(number) => StandardValue::Int(number),
            Self::TextList(items) => {
                StandardValue::TextList(items.into_iter().map(|item| Cow::Owned(item.into_owned())).collect())
            }
            Self::Steps(steps) => StandardValue::Steps(steps),
        }
    }
}

impl fmt::Display for StandardValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Text(text) => f.write_str(text),
            Self::Date(days) => {
                let (year, month, day) = civil_from_days(*days);
                write!(f, "{year:04}-{month:02}-{day:02}")
            }
            Self::Time(micros) => write_time(f, *micros),
            Self::Decimal { unscaled, scale } => write_decimal(f, *unscaled, *scale),
            Self::Int(number) => write!(f, "{number}"),
            Self::TextList(items) => {
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        f.write_str(";")?;
                    }
                    f.write_str(item)?;
                }
                Ok(())
            }
            Self::Steps(steps) => {
                for (at, step) in steps.iter().enumerate() {
                    if at > 0 {
                        f.write_str(";")?;
                    }
                    f.write_str(step.name.as_deref().unwrap_or_default())?;
                }
                Ok(())
            }
        }
    }
}

/// `YYYY-MM-DDThh:mm:ss[.ffffff]+08:00`: every instant is shown at +08:00, whatever the zone was in that year.
fn write_time(f: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    let local = shanghai::at_fixed_offset(micros);
    let (year, month, day) = civil_from_days(local.days);
    let seconds = local.micros_of_day / 1_000_000;
    let fraction = local.micros_of_day % 1_000_000;
    write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
    if fraction != 0 {
        write!(f, ".{fraction:06}")?;
    }
    f.write_str("+08:00")
}

fn write_decimal(f: &mut fmt::Formatter<'_>, unscaled: i128, scale: u32) -> fmt::Result {
    let digits = unscaled.unsigned_abs();
    let Some(unit) = 10u128.checked_pow(scale).filter(|_| scale > 0) else { return write!(f, "{unscaled}") };
    let sign = if unscaled < 0 { "-" } else { "" };
    write!(f, "{sign}{}.{:0width$}", digits / unit, digits % unit, width = scale as usize)
}
