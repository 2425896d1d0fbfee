//! The small conditions of entity schemas: `sector = 1`, `penalty_kind has 2`, `amount present`, `age < 14`.

use super::clock::{Clock, civil_from_days};
use super::value::StandardValue;

/// A condition on a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The text field has this value.
    Equals {
        field: usize,
        value: String,
    },
    /// The list field has this item.
    Has {
        field: usize,
        value: String,
    },
    Present {
        field: usize,
    },
    /// The person is younger than this many years, by the entity's birth date.
    AgeUnder {
        birth: usize,
        years: i32,
    },
}

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConditionError {
    Form,
    /// There is no field of this name.
    Field(String),
    /// It asks for an age, and the entity names no field `birth`.
    NoBirth,
}

impl Condition {
    /// Parses the text of a schema. `field` finds a field's index by name; `birth` is the entity's birth date.
    pub(crate) fn parse(text: &str, birth: Option<usize>, field: impl Fn(&str) -> Option<usize>) -> Result<Self, ConditionError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let known = |name: &str| field(name).ok_or_else(|| ConditionError::Field(name.to_owned()));
        match *words.as_slice() {
            ["age", "<", years] => {
                let birth = birth.ok_or(ConditionError::NoBirth)?;
                Ok(Self::AgeUnder { birth, years: years.parse().map_err(|_| ConditionError::Form)? })
            }
            [name, "=", value] => Ok(Self::Equals { field: known(name)?, value: value.to_owned() }),
            [name, "has", value] => Ok(Self::Has { field: known(name)?, value: value.to_owned() }),
            [name, "present"] => Ok(Self::Present { field: known(name)? }),
            _ => Err(ConditionError::Form),
        }
    }

    /// The condition as a schema has it; `name` gives a field's name.
    pub(crate) fn text<'n>(&self, name: impl Fn(usize) -> &'n str) -> String {
        match self {
            Self::Equals { field, value } => format!("{} = {value}", name(*field)),
            Self::Has { field, value } => format!("{} has {value}", name(*field)),
            Self::Present { field } => format!("{} present", name(*field)),
            Self::AgeUnder { years, .. } => format!("age < {years}"),
        }
    }

    /// The field that it asks for.
    pub(crate) fn field(&self) -> usize {
        match self {
            Self::Equals { field, .. }
            | Self::Has { field, .. }
            | Self::Present { field }
            | Self::AgeUnder { birth: field, .. } => *field,
        }
    }

    /// Whether it holds; `None` where the field it asks for is null.
    #[must_use]
    pub fn holds(&self, values: &[StandardValue<'_>], clock: &Clock<'_>) -> Option<bool> {
        match self {
            Self::Equals { field, value } => values.get(*field)?.as_text().map(|text| text == value),
            Self::Has { field, value } => match values.get(*field)? {
                StandardValue::TextList(items) => Some(items.iter().any(|item| item == value)),
                _ => None,
            },
            Self::Present { field } => Some(values.get(*field).is_some_and(|value| !value.is_null())),
            Self::AgeUnder { birth, years } => match values.get(*birth)? {
                StandardValue::Date(days) => Some(age(*days, clock.today) < *years),
                _ => None,
            },
        }
    }
}

/// Completed years between two dates (days since 1970-01-01); a birthday completes its year.
pub(crate) fn age(birth: i32, today: i32) -> i32 {
    let (birth_year, birth_month, birth_day) = civil_from_days(birth);
    let (year, month, day) = civil_from_days(today);
    year - birth_year - i32::from((month, day) < (birth_month, birth_day))
}
