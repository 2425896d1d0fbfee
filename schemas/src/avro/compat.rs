//! Whether a subject's next schema goes with its earlier ones, as Confluent's registry decides it.

use apache_avro::Schema;
use apache_avro::schema_compatibility::{Compatibility as Fit, SchemaCompatibility};
use thiserror::Error;

use super::set_name_validators;

/// How a subject's next version is checked against its earlier ones (Confluent Schema Registry, "Schema evolution").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl Compatibility {
    /// The registry's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// The level that the registry's word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::None,
            Self::Backward,
            Self::BackwardTransitive,
            Self::Forward,
            Self::ForwardTransitive,
            Self::Full,
            Self::FullTransitive,
        ]
        .into_iter()
        .find(|level| level.as_str() == word)
    }

    fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }

    fn new_reads_old(self) -> bool {
        matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn old_reads_new(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive)
    }
}

#[derive(Debug, Error)]
pub enum CompatError {
    #[error("not an Avro schema: {0}")]
    Invalid(String),
    #[error("{direction} version {version}: {detail}")]
    Incompatible { direction: &'static str, version: usize, detail: String },
}

/// Checks that `schema` is Avro.
///
/// # Errors
/// [`CompatError::Invalid`] with the parser's reason.
pub fn validate(schema: &str) -> Result<(), CompatError> {
    parse(schema).map(drop)
}

/// Checks `next` against `earlier`, the subject's schemas from the oldest to the newest.
///
/// # Errors
/// [`CompatError::Invalid`] where one of them is no Avro schema, [`CompatError::Incompatible`] with the first version (counted from
/// 1) that does not go with it.
pub fn check(level: Compatibility, next: &str, earlier: &[&str]) -> Result<(), CompatError> {
    let next = parse(next)?;
    let checked = if level.is_transitive() { earlier.len() } else { 1 };
    for (index, old) in earlier.iter().enumerate().rev().take(checked) {
        if level == Compatibility::None {
            break;
        }
        let old = parse(old)?;
        let version = index + 1;
        if level.new_reads_old() {
            reads(&old, &next).map_err(|detail| CompatError::Incompatible {
                direction: "it cannot read data of",
                version,
                detail,
            })?;
        }
        if level.old_reads_new() {
            reads(&next, &old).map_err(|detail| CompatError::Incompatible {
                direction: "its data cannot be read by",
                version,
                detail,
            })?;
        }
    }
    Ok(())
}

fn parse(schema: &str) -> Result<Schema, CompatError> {
    set_name_validators();
    Schema::parse_str(schema).map_err(|error| CompatError::Invalid(error.to_string()))
}

/// Every value of the writer must be readable: where only some are, Confluent's registry says incompatible.
fn reads(writer: &Schema, reader: &Schema) -> Result<(), String> {
    match SchemaCompatibility::can_read(writer, reader) {
        Ok(Fit::Full) => Ok(()),
        Ok(Fit::Partial) => Err("some values of the writer's schema have no form in the reader's".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"企业","fields":[{fields}]}}"#)
    }

    const ID: &str = r#"{"name":"编号","type":"long"}"#;
    const OPTIONAL: &str = r#"{"name":"name","type":["null","string"],"default":null}"#;
    const REQUIRED: &str = r#"{"name":"name","type":"string"}"#;

    #[test]
    fn each_level_takes_and_refuses_what_confluent_documents() {
        use Compatibility as C;
        let base = record(ID);
        let optional = record(&format!("{ID},{OPTIONAL}"));
        let required = record(&format!("{ID},{REQUIRED}"));
        for (level, next, earlier, holds) in [
            (C::None, &required, vec![&base], true),
            (C::Full, &optional, vec![&base], true),
            (C::Full, &base, vec![&optional], true),
            (C::Backward, &required, vec![&base], false),
            (C::Forward, &required, vec![&base], true),
            (C::Full, &required, vec![&base], false),
            (C::Backward, &required, vec![&base, &required], true),
            (C::BackwardTransitive, &required, vec![&base, &required], false),
            (C::Backward, &optional, vec![&required], true),
            (C::Forward, &optional, vec![&required], false),
            (C::FullTransitive, &optional, vec![&base, &optional], true),
        ] {
            let earlier: Vec<&str> = earlier.into_iter().map(String::as_str).collect();
            assert_eq!(check(level, next, &earlier).is_ok(), holds, "{level:?} {next} after {earlier:?}");
        }
    }

    #[test]
    fn a_wider_number_is_read_but_does_not_go_back() {
        let (int, long) = (record(r#"{"name":"n","type":"int"}"#), record(r#"{"name":"n","type":"long"}"#));
        assert!(check(Compatibility::Backward, &long, &[&int]).is_ok());
        assert!(check(Compatibility::Forward, &long, &[&int]).is_err());
    }

    #[test]
    fn levels_keep_their_words() {
        assert_eq!(Compatibility::parse("FULL_TRANSITIVE"), Some(Compatibility::FullTransitive));
        assert_eq!(Compatibility::parse("full"), None);
    }

    #[test]
    fn what_is_no_schema_is_said_to_be_none() {
        assert!(matches!(validate(r#"{"type":"recrod"}"#), Err(CompatError::Invalid(_))));
        assert!(validate(&record(ID)).is_ok());
    }
}
