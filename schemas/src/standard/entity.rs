//! An entity: its fields, its key, its rules, and the checks of a whole record.

use std::borrow::Cow;
use std::sync::Arc;

use super::clock::Clock;
use super::condition::{Condition, age};
use super::facts::Facts;
use super::field::{EntityField, Grade, Obligation};
use super::finding::{Finding, Level, Rule};
use super::identifier::citizen;
use super::rules::RecordRule;
use super::value::StandardValue;

/// Years below which a person's record is sensitive as a whole (personal information protection law, article 28).
const CHILD: i32 = 14;

/// A record type of the standard.
#[derive(Debug, Clone)]
pub struct Entity {
    pub name: String,
    pub title_zh: String,
    /// The schema's `doc`.
    pub title_en: String,
    /// Rises with every change of the schema.
    pub version: u32,
    pub fields: Vec<EntityField>,
    /// The fields of the key record, in its order.
    pub key: Vec<KeyPart>,
    /// Avro schema of the record, annotations included.
    pub schema_json: String,
    /// Avro schema of the key: a record of texts named `<Entity>Key`.
    pub key_schema_json: String,
    /// When the record is about a natural person.
    pub person: Option<Condition>,
    /// Field of the person's birth date, in entities that are persons.
    pub birth: Option<usize>,
    pub(crate) rules: Vec<RecordRule>,
    pub(crate) facts: Arc<Facts>,
}

/// One field of an entity's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPart {
    pub name: String,
    pub source: KeySource,
}

/// Where a key field's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The first of these fields that is not empty; empty text where all are.
    Fields(Vec<usize>),
    /// Name of the system that the record comes from.
    System,
}

/// What a record's checks depend on besides the record.
#[derive(Debug, Clone, Copy)]
pub struct RecordContext<'c> {
    pub clock: Clock<'c>,
    /// Indexes of mandatory fields that the resource declares not provided.
    pub not_provided: &'c [usize],
}

impl Entity {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&EntityField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The grade of one field of this record: a person's record, and a child's, is graded higher. A record that does not say
    /// whether it is about a person counts as one. A citizen number in a field for other numbers (tax numbers of individuals
    /// are made of it) is graded as one.
    #[must_use]
    pub fn grade(&self, field: usize, values: &[StandardValue<'_>], clock: &Clock<'_>) -> Grade {
        if self.is_childs(values, clock) {
            return Grade::G3;
        }
        let value = values.get(field).and_then(StandardValue::as_text);
        let Some(field) = self.fields.get(field) else { return Grade::G3 };
        if field.may_hold_citizen_number() && value.is_some_and(|text| citizen::holds_citizen_number(text, &self.facts, clock)) {
            return Grade::G3;
        }
        match (field.grade_person, &self.person) {
            (Some(person), Some(condition)) if condition.holds(values, clock).unwrap_or(true) => person,
            _ => field.grade,
        }
    }

    /// Which fields beside its own tell a field's grade ([`Self::grade`]).
    pub fn graded_by(&self) -> impl Iterator<Item = usize> + use<> {
        self.birth.into_iter().chain(self.person.as_ref().map(Condition::field))
    }

    /// When the record is about a natural person, as the schema says it.
    #[must_use]
    pub fn person_text(&self) -> Option<String> {
        let name = |at: usize| self.fields.get(at).map_or("", |field| field.name.as_str());
        self.person.as_ref().map(|condition| condition.text(name))
    }

    /// Whether a text is the name of a division down to the county, current or retired, in the tables of this entity's standard.
    #[must_use]
    pub fn is_division_name(&self, name: &str) -> bool {
        self.facts.division_names.has(name)
    }

    /// Changes with the tables that [`Self::is_division_name`] and the grade of a citizen number ask.
    #[must_use]
    pub fn divisions_digest(&self) -> [u8; 32] {
        self.facts.divisions_digest()
    }

    /// Whether the record is that of a child under 14 at the event's time.
    #[must_use]
    pub fn is_childs(&self, values: &[StandardValue<'_>], clock: &Clock<'_>) -> bool {
        let birth = self.birth.and_then(|birth| values.get(birth));
        matches!(birth, Some(StandardValue::Date(days)) if age(*days, clock.today) < CHILD)
    }

    /// Checks a whole record after its fields were read: fills what rules derive, makes absent key parts empty text, and
    /// reports obligations, conditions and cross-field rules. `findings` holds those of this record's fields already; a field
    /// with a finding of its own is not reported as missing again.
    pub fn check(&self, values: &mut [StandardValue<'_>], context: &RecordContext<'_>, findings: &mut Vec<Finding>) {
        for rule in &self.rules {
            rule.apply(self, values, &context.clock, findings);
        }
        for field in &self.fields {
            let index = field.index();
            let Some(value) = values.get_mut(index) else { continue };
            if !value.is_null() {
                continue;
            }
            let refused = |least| findings.iter().any(|finding| finding.field == field.index && finding.level >= least);
            match field.obligation {
                Obligation::Mandatory if refused(Level::Error) => {}
                Obligation::Mandatory if context.not_provided.contains(&index) && !field.in_key => {
                    findings.push(Finding { level: Level::Warning, field: field.index, rule: Rule::FieldNotProvided });
                }
                Obligation::Mandatory => {
                    findings.push(Finding { level: Level::Error, field: field.index, rule: Rule::FieldMissing });
                }
                Obligation::Conditional => {
                    if field.in_key {
                        *value = StandardValue::Text(Cow::Borrowed(""));
                    }
                    let holds = field.when.as_ref().is_some_and(|when| when.holds(values, &context.clock) == Some(true));
                    if holds && !refused(Level::Warning) {
                        findings.push(Finding { level: Level::Warning, field: field.index, rule: Rule::FieldRequired });
                    }
                }
                Obligation::Optional => {}
            }
        }
    }

    /// The values of the key record, in the order of `key`.
    pub fn key_values<'v>(&'v self, values: &'v [StandardValue<'_>], system: &'v str) -> impl Iterator<Item = Cow<'v, str>> + 'v {
        self.key.iter().map(move |part| match &part.source {
            KeySource::System => Cow::Borrowed(system),
            KeySource::Fields(from) => from
                .iter()
                .filter_map(|at| values.get(*at))
                .map(|value| match value {
                    StandardValue::Text(text) => Cow::Borrowed(&**text),
                    other => Cow::Owned(other.to_string()),
                })
                .find(|text| !text.is_empty())
                .unwrap_or_default(),
        })
    }
}
