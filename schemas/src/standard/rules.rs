//! Cross-field rules of a record.

use super::StandardError;
use super::clock::Clock;
use super::condition::Condition;
use super::entity::Entity;
use super::file::RuleFile;
use super::finding::Finding;
use super::value::StandardValue;

/// One compiled rule.
#[derive(Debug, Clone)]
pub(crate) struct RecordRule {
    fields: Vec<usize>,
    fill: bool,
}

impl RecordRule {
    pub(crate) fn compile(
        file: &RuleFile,
        known: impl Fn(&str) -> Result<usize, StandardError>,
        condition: impl Fn(&str) -> Result<Condition, StandardError>,
    ) -> Result<Self, StandardError> {
        if let Some(when) = &file.when {
            condition(when)?;
        }
        let fields = file.fields.iter().map(|name| known(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { fields, fill: file.rule == "fill" && file.value.is_some() })
    }

    pub(crate) fn fills(&self, field: usize) -> bool {
        self.fill && self.fields.contains(&field)
    }

    pub(crate) fn apply(&self, _: &Entity, _: &mut [StandardValue<'_>], _: &Clock<'_>, _: &mut Vec<Finding>) {}
}
