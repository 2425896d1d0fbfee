//! `[rules]` of a resource: rules of the standard that weigh otherwise for this source, each with the reason.

use std::fmt;

use super::reading::document::{At, Found};
use super::reading::scalar;
use super::reading::section::Section;
use super::resource::unknown_field;
use crate::standard::{Entity, EntityField, Guard, Rule};

/// One switched rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSwitch {
    pub rule: Rule,
    /// The field it is switched for; `None`: every field but those of the entity's key.
    pub field: Option<String>,
    pub weight: Weight,
    pub reason: String,
}

/// What a broken rule comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The record is delivered unmarked; the rule is only counted.
    Off,
    /// The record is delivered with a mark; a value that could not be read is null.
    Warning,
    /// The record goes to quarantine.
    Error,
}

const WEIGHTS: [(&str, Weight); 3] = [("off", Weight::Off), ("warning", Weight::Warning), ("error", Weight::Error)];

impl Weight {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        WEIGHTS.iter().find(|(_, weight)| *weight == self).map_or("", |(word, _)| word)
    }
}

/// `established:date.in_future off (reason)`.
impl fmt::Display for RuleSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}:")?;
        }
        write!(f, "{} {} ({})", self.rule, self.weight.as_str(), self.reason)
    }
}

/// Reads `"rule" = { level, reason }` and `"field:rule" = { level, reason }`.
pub(super) fn read(section: Section<'_>, entity: Option<&Entity>) -> Vec<RuleSwitch> {
    section.keys().into_iter().filter_map(|key| read_one(&section, &key, entity)).collect()
}

fn read_one(rules: &Section<'_>, key: &Found<String>, entity: Option<&Entity>) -> Option<RuleSwitch> {
    let (name, code) = match key.value.split_once(':') {
        Some((name, code)) => (Some(name.trim()), code.trim()),
        None => (None, key.value.trim()),
    };
    let section = rules.own_section(&key.value)?;
    let weight = section.required("level", |section, key| section.choice(key, &WEIGHTS));
    let reason = section.required("reason", Section::words);
    section.finish();
    let rule = known_rule(rules, &key.at, code)?;
    let field = name.zip(entity).and_then(|(name, entity)| {
        let field = entity.field(name);
        if field.is_none() {
            unknown_field(rules, &Found { value: name.to_owned(), at: key.at.clone() }, entity);
        }
        field
    });
    if name.is_some() && entity.is_some() && field.is_none() {
        return None;
    }
    let weight = weight?;
    if let Some((why, help)) = refusal(rule, field, weight.value, entity) {
        rules.problem(&weight.at, "guarding-rule", format_args!("`{}` {why}", key.value), help);
        return None;
    }
    Some(RuleSwitch { rule, field: name.map(str::to_owned), weight: weight.value, reason: reason?.value })
}

fn known_rule(rules: &Section<'_>, at: &At, code: &str) -> Option<Rule> {
    let rule = Rule::from_code(code);
    if rule.is_none() {
        let nearest = scalar::nearest(code, Rule::ALL.iter().map(|rule| rule.code())).and_then(Rule::from_code);
        let help = nearest.map(|rule| format!("did you mean `{rule}` ({})?", rule.zh()));
        let help =
            help.or_else(|| Some("`guitong quarantine list` and the mark guitong-quality name rules by their codes".to_owned()));
        rules.problem(at, "unknown-rule", format_args!("the standard has no rule `{}`", scalar::short(code)), help);
    }
    rule
}

/// Why a rule cannot be switched so, and what can be done instead.
fn refusal(rule: Rule, field: Option<&EntityField>, weight: Weight, entity: Option<&Entity>) -> Option<(String, Option<String>)> {
    if rule == Rule::KeyShared {
        let refused = weight == Weight::Error || field.is_some();
        let why = "is told of the record with the newest row, which stands whatever the others are".to_owned();
        return refused.then(|| (why, Some("\"key.shared\" alone can be `off`".to_owned())));
    }
    if let Some(field) = field.filter(|field| rule.is_bound() && !field.has_bound(rule)) {
        let help = "\"order.reversed\" is what compares two dates".to_owned();
        return Some((format!("is no rule of `{}` ({}), which has no such bound", field.name, field.title_zh), Some(help)));
    }
    if weight == Weight::Error {
        return None;
    }
    // Without the value of its key there is no record.
    let refuses = rule.guards() == Guard::Value || rule == Rule::FieldMissing;
    let is_of_key = |field: &&EntityField| field.in_key && field.kind.rule_group() == Some(rule.group());
    let key = match field {
        Some(field) => Some(field).filter(|field| field.in_key),
        None => entity.and_then(|entity| entity.fields.iter().find(is_of_key)),
    };
    match (rule.guards(), key) {
        (Guard::Row, _) => Some(("guards the whole row: there would be no record, or an untrue one".to_owned(), None)),
        (_, Some(key)) if refuses => {
            let why = format!("guards the entity's key `{}` ({}), without which there is no record", key.name, key.title_zh);
            Some((why, field.is_none().then(|| format!("for another field alone: \"field:{rule}\""))))
        }
        (Guard::Value, _) if weight == Weight::Off => {
            let why = "guards that the value can be read: where it is broken the field is empty, and must say so".to_owned();
            Some((why, Some("`warning` delivers the record, marked and without the value".to_owned())))
        }
        _ => None,
    }
}
