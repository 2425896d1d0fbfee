//! From a source value to a field's canonical value.

use std::borrow::Cow;

use super::clock::Clock;
use super::field::{EntityField, FieldKind};
use super::finding::Finding;
use super::options::FieldOptions;
use super::value::{Input, StandardValue};

impl EntityField {
    /// Reads a source value into the field's canonical form.
    ///
    /// Empty values give null without a finding; [`super::Entity::check`] tells whether that may be. A value that is unreadable, out of
    /// its list or fails a check gives null and an error (mandatory fields) or a warning (others).
    pub fn read<'a>(
        &self,
        input: impl Into<Input<'a>>,
        _options: &FieldOptions,
        _clock: &Clock<'_>,
        _findings: &mut Vec<Finding>,
    ) -> StandardValue<'a> {
        match (&self.kind, input.into()) {
            (FieldKind::Date, Input::Days(days)) => StandardValue::Date(days),
            (FieldKind::Time, Input::Instant(micros)) => StandardValue::Time(micros),
            (FieldKind::Int, Input::Integer(number)) => StandardValue::Int(number),
            (_, Input::Text(text)) => StandardValue::Text(Cow::Borrowed(text)),
            _ => StandardValue::Null,
        }
    }
}
