//! What a mapping declares about a source value.

use super::EntityField;
use super::date::pattern::Format;
use super::field::FieldKind;
use crate::contract::mapping::{FieldMapping, Unit, UnitSource};

/// How one field of one resource is read; compiled from its mapping. The default reads every form that is unambiguous by
/// itself, amounts in 万元, codes of the current edition.
#[derive(Debug, Clone, Default)]
pub struct FieldOptions {
    /// Tried in order; none: every unambiguous form.
    pub(crate) formats: Vec<Format>,
    pub(crate) open_end: bool,
    pub(crate) unit: Option<Unit>,
    pub(crate) old_edition: bool,
    pub(crate) split: Option<String>,
}

/// A mapping asks for something that its field does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error(
        "format `{format}`: {reason}; known are patterns of yyyy yy MM M dd d HH H hh h mm m ss s SSS a XXX, and epoch_s, epoch_ms, epoch_us, excel"
    )]
    Format { format: String, reason: String },
    #[error("`{key}` is for {kinds} fields only, and `{field}` is none")]
    NotForKind { key: &'static str, kinds: &'static str, field: String },
    #[error("edition `{edition}` is not known for `{field}`; known: {}", .known.join(", "))]
    Edition { edition: String, field: String, known: Vec<&'static str> },
}

impl FieldOptions {
    /// Reads one declared date format.
    pub(crate) fn of_format(format: &str) -> Result<Self, OptionError> {
        Ok(Self { formats: vec![Format::parse(format)?], ..Self::default() })
    }

    /// Reads codes of the edition before the current one.
    pub(crate) fn old_edition() -> Self {
        Self { old_edition: true, ..Self::default() }
    }

    /// Reads dates that mean "without end".
    pub(crate) fn open_end() -> Self {
        Self { open_end: true, ..Self::default() }
    }

    /// Compiles what a mapping says about its field.
    ///
    /// # Errors
    /// [`OptionError`] for a format that is not known, or a key that the field's kind has no use for.
    pub fn compile(field: &EntityField, mapping: &FieldMapping) -> Result<Self, OptionError> {
        let only = |key, kinds, used: bool, fits: bool| {
            if used && !fits { Err(OptionError::NotForKind { key, kinds, field: field.name.clone() }) } else { Ok(()) }
        };
        let is_date = matches!(field.kind, FieldKind::Date | FieldKind::Time | FieldKind::PartialDate);
        only("format", "date and time", !mapping.formats.is_empty(), is_date || matches!(field.kind, FieldKind::Steps))?;
        only("open_end", "date", mapping.open_end, matches!(field.kind, FieldKind::Date))?;
        only("unit", "amount", mapping.unit.is_some(), matches!(field.kind, FieldKind::Decimal { .. }))?;
        // A text with several values in a field of one: each makes a record of its own.
        only(
            "split",
            "list and single-value",
            mapping.split.is_some() && mapping.part.is_none(),
            !matches!(field.kind, FieldKind::Steps),
        )?;
        only("edition", "industry and education", mapping.edition.is_some(), !field.editions().is_empty())?;
        let old_edition = match mapping.edition.as_deref() {
            None => false,
            Some(edition) => match field.editions().iter().position(|known| *known == edition) {
                Some(at) => at > 0,
                None => {
                    return Err(OptionError::Edition {
                        edition: edition.to_owned(),
                        field: field.name.clone(),
                        known: field.editions().to_vec(),
                    });
                }
            },
        };
        let formats = mapping.formats.iter().map(|format| Format::parse(format)).collect::<Result<_, _>>()?;
        let unit = match &mapping.unit {
            Some(UnitSource::Fixed(unit)) => Some(*unit),
            Some(UnitSource::Column { .. }) | None => None,
        };
        let split = mapping.split.clone().filter(|_| mapping.part.is_none());
        Ok(Self { formats, open_end: mapping.open_end, unit, old_edition, split })
    }

    /// The same options with another unit.
    #[must_use]
    pub fn with_unit(&self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self.clone() }
    }
}
