//! What kinds of fields a rule is about. On others it would never have anything to say, and nobody would notice.

use super::field::{EntityField, FieldKind};
use crate::contract::reading::scalar;

/// A field that a rule says nothing about: its place among the rule's fields, and why.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) at: usize,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// What a rule reads of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Text,
    Date,
    Amount,
    Steps,
}

impl Class {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "a text, a number or a code",
            Self::Date => "a date",
            Self::Amount => "an amount",
            Self::Steps => "the steps of a case",
        }
    }

    fn takes(self, kind: &FieldKind) -> bool {
        match kind {
            FieldKind::Date => self == Self::Date,
            FieldKind::Decimal { .. } => self == Self::Amount,
            FieldKind::Steps => self == Self::Steps,
            FieldKind::Time | FieldKind::PartialDate | FieldKind::Int | FieldKind::Codes(_) => false,
            _ => self == Self::Text,
        }
    }
}

/// The first field that does not go with a rule; `value` is what it fills in.
pub(crate) fn misfit(rule: &str, fields: &[&EntityField], value: Option<&str>) -> Option<Misfit> {
    if rule == "order" {
        return disorder(fields);
    }
    let wanted = |at: usize| match (rule, at) {
        ("positive", _) => Class::Amount,
        ("steps", _) => Class::Steps,
        ("citizen_birth", 1) | ("marriage_age" | "doctor_age", 0) => Class::Date,
        _ => Class::Text,
    };
    let wrong = fields.iter().enumerate().find(|(at, field)| !wanted(*at).takes(&field.kind));
    if let Some((at, field)) = wrong {
        let message = format!("the rule `{rule}` reads {} in this place, and `{}` is none", wanted(at).as_str(), field.name);
        return Some(Misfit { at, message, help: "name another field" });
    }
    let (field, value) = (fields.first()?, value?);
    let message = format!("`{}` has no code `{}` to be filled in", field.name, scalar::short(value));
    (rule == "fill" && !field.is_legal_code(value)).then_some(Misfit { at: 0, message, help: "fill in a code of its list" })
}

/// Two fields that have no order: dates, times, dates of reduced precision, and amounts with as many places go with their like.
fn disorder(fields: &[&EntityField]) -> Option<Misfit> {
    let &[first, second] = fields else { return None };
    let ordered = match (&first.kind, &second.kind) {
        (FieldKind::Date, FieldKind::Date)
        | (FieldKind::Time, FieldKind::Time)
        | (FieldKind::PartialDate, FieldKind::PartialDate) => true,
        (FieldKind::Decimal { scale: left, .. }, FieldKind::Decimal { scale: right, .. }) => left == right,
        _ => false,
    };
    let message = format!("the rule `order` cannot compare `{}` and `{}`", first.name, second.name);
    let help = "it compares two dates, two times, two dates of reduced precision, or two amounts with as many places";
    (!ordered).then_some(Misfit { at: 1, message, help })
}
