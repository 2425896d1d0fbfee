//! An entity: its fields, its key, its rules, loaded from an Avro schema with annotations.

use std::borrow::Cow;
use std::sync::Arc;

use super::clock::{Clock, days_from_civil};
use super::codes::{CodeList, Tables};
use super::condition::{Condition, age};
use super::field::{EntityField, FieldKind, Grade, Obligation};
use super::file::{FieldFile, KeyFile, RecordFile};
use super::finding::{Finding, Level, Rule};
use super::identifier::citizen;
use super::rules::RecordRule;
use super::tables::Facts;
use super::value::StandardValue;
use super::{StandardError, nearest};

/// Years below which a person's record is sensitive as a whole (personal information protection law, article 28).
const CHILD: i32 = 14;

/// A record type of the standard.
#[derive(Debug, Clone)]
pub struct Entity {
    pub name: String,
    pub title_zh: String,
    /// The schema's `doc`.
    pub title_en: String,
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
    rules: Vec<RecordRule>,
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
    pub(crate) fn build(schema: &str, key_schema: &str, tables: &Tables, facts: &Arc<Facts>) -> Result<Self, StandardError> {
        let file = RecordFile::parse(schema)?;
        let key_file = KeyFile::parse(key_schema)?;
        let failed = |reason: String| StandardError::Entity { entity: file.name.clone(), reason };
        if key_file.name != format!("{}Key", file.name) {
            return Err(failed(format!("its key schema is named {}", key_file.name)));
        }
        let at = |name: &str| file.fields.iter().position(|field| field.name == name);
        let known = |name: &str| at(name).ok_or_else(|| failed(format!("there is no field {name}")));
        let key = key_parts(&key_file, known)?;
        let birth = file.birth.as_deref().map(known).transpose()?;
        let condition =
            |text: &str| Condition::parse(text, birth, at).ok_or_else(|| failed(format!("the condition `{text}` is not known")));
        let person = file.person.as_deref().map(condition).transpose()?;
        let rules =
            file.rules.iter().map(|rule| RecordRule::compile(rule, known, condition, failed)).collect::<Result<Vec<_>, _>>()?;
        let mut fields = Vec::with_capacity(file.fields.len());
        for (index, field) in file.fields.iter().enumerate() {
            let in_key = key
                .iter()
                .any(|part| matches!(&part.source, KeySource::Fields(from) if *from == [index] && part.name == field.name));
            let derived = rules.iter().any(|rule| rule.fills(index));
            let when = field.when.as_deref().map(condition).transpose()?;
            fields.push(build_field(field, index, in_key, derived, when, tables, facts).map_err(|reason| match reason {
                FieldError::Standard(error) => error,
                FieldError::Field(reason) => failed(format!("field {}: {reason}", field.name)),
            })?);
        }
        Ok(Self {
            title_zh: file.title.clone(),
            title_en: file.doc.clone(),
            fields,
            key,
            schema_json: schema.to_owned(),
            key_schema_json: key_schema.to_owned(),
            person,
            birth,
            rules,
            facts: Arc::clone(facts),
            name: file.name,
        })
    }

    #[must_use]
    pub fn field(&self, name: &str) -> Option<&EntityField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The field that a mistyped name probably means.
    #[must_use]
    pub fn nearest_field(&self, name: &str) -> Option<&str> {
        nearest(name, self.fields.iter().map(|field| field.name.as_str()))
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
        let unchecked = matches!(field.kind, FieldKind::Identifier { .. }) && !field.in_key;
        if unchecked && value.is_some_and(|text| citizen::holds_citizen_number(text, &self.facts, clock)) {
            return Grade::G3;
        }
        match (field.grade_person, &self.person) {
            (Some(person), Some(condition)) if condition.holds(values, clock).unwrap_or(true) => person,
            _ => field.grade,
        }
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

fn key_parts(file: &KeyFile, known: impl Fn(&str) -> Result<usize, StandardError>) -> Result<Vec<KeyPart>, StandardError> {
    let parts = file.fields.iter().map(|field| {
        let source = match field.from.as_slice() {
            [system] if system == "$system" => KeySource::System,
            [] => KeySource::Fields(vec![known(&field.name)?]),
            names => KeySource::Fields(names.iter().map(|name| known(name)).collect::<Result<_, _>>()?),
        };
        Ok(KeyPart { name: field.name.clone(), source })
    });
    parts.collect()
}

enum FieldError {
    Standard(StandardError),
    Field(String),
}

fn build_field(
    file: &FieldFile,
    index: usize,
    in_key: bool,
    derived: bool,
    when: Option<Condition>,
    tables: &Tables,
    facts: &Arc<Facts>,
) -> Result<EntityField, FieldError> {
    let failed = |reason: &str| FieldError::Field(reason.to_owned());
    let kind = kind(&file.kind, tables)?;
    let grade = |text: &str| Grade::ALL.into_iter().find(|grade| grade.as_str() == text).ok_or_else(|| failed("unknown grade"));
    let obligation = match file.obligation.as_str() {
        "mandatory" => Obligation::Mandatory,
        "conditional" => Obligation::Conditional,
        "optional" => Obligation::Optional,
        _ => return Err(failed("the obligation is mandatory, conditional or optional")),
    };
    if in_key && !matches!(avro_type(&kind), AvroType::String) {
        return Err(failed("a key's field is a text"));
    }
    if in_key && obligation == Obligation::Optional {
        return Err(failed("a key's field is mandatory or conditional"));
    }
    file.check_type(&avro_type(&kind), in_key).map_err(FieldError::Field)?;
    let date = |text: &str| {
        let mut parts = text.split('-').map(str::parse::<u32>);
        let mut part = || parts.next()?.ok();
        days_from_civil(i32::try_from(part()?).ok()?, part()?, part()?)
    };
    Ok(EntityField {
        name: file.name.clone(),
        title_zh: file.title.clone(),
        title_en: file.doc.clone(),
        kind,
        obligation,
        when,
        grade: grade(&file.grade)?,
        grade_person: file.grade_person.as_deref().map(grade).transpose()?,
        range: (file.minimum, file.maximum),
        not_before: match file.not_before.as_deref() {
            None => None,
            Some(text) => Some(date(text).ok_or_else(|| failed("not_before is a date"))?),
        },
        past_only: match file.not_after.as_deref() {
            None => false,
            Some("today") => true,
            Some(_) => return Err(failed("not_after is `today`")),
        },
        derived,
        in_key,
        index: u16::try_from(index).map_err(|_| failed("too many fields"))?,
        facts: Arc::clone(facts),
    })
}

/// Parses a `kind` annotation.
fn kind(text: &str, tables: &Tables) -> Result<FieldKind, FieldError> {
    let unknown = || FieldError::Field(format!("the kind `{text}` is not known"));
    let (name, argument) = text.split_once(':').map_or((text, None), |(name, argument)| (name, Some(argument)));
    let max = || argument.and_then(|max| max.parse().ok()).ok_or_else(unknown);
    let list = || CodeList::build(argument.ok_or_else(unknown)?, tables).map(Arc::new).map_err(FieldError::Standard);
    let kind = match name {
        "text" => FieldKind::Text { max: max()? },
        "name" => FieldKind::Name { max: max()? },
        "address" => FieldKind::Address { max: max()? },
        "phone" => FieldKind::Phone { max: max()? },
        "identifier" => FieldKind::Identifier { max: max()? },
        "registration_no" => FieldKind::RegistrationNo { max: max()? },
        "code" => FieldKind::Code(list()?),
        "codes" => FieldKind::Codes(list()?),
        "decimal" => {
            let (precision, scale) = argument.and_then(|argument| argument.split_once(',')).ok_or_else(unknown)?;
            let (precision, scale) = (precision.parse().map_err(|_| unknown())?, scale.parse().map_err(|_| unknown())?);
            if precision > 38 || scale > precision {
                return Err(FieldError::Field("a decimal has at most 38 digits, and no more places than digits".into()));
            }
            FieldKind::Decimal { precision, scale }
        }
        _ if argument.is_some() => return Err(unknown()),
        "business_registration" => FieldKind::BusinessRegistration,
        "citizen_id" => FieldKind::CitizenId,
        "uscc" => FieldKind::Uscc,
        "org_code" => FieldKind::OrgCode,
        "mobile" => FieldKind::Mobile,
        "bank_card" => FieldKind::BankCard,
        "project_code" => FieldKind::ProjectCode,
        "division" => FieldKind::Division,
        "industry" => FieldKind::Industry,
        "education" => FieldKind::Education,
        "date" => FieldKind::Date,
        "partial_date" => FieldKind::PartialDate,
        "time" => FieldKind::Time,
        "integer" => FieldKind::Int,
        "url" => FieldKind::Url,
        "steps" => FieldKind::Steps,
        _ => return Err(unknown()),
    };
    Ok(kind)
}

/// The Avro type that a kind is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AvroType {
    String,
    Date,
    Time,
    Long,
    Decimal { precision: u32, scale: u32 },
    Strings,
    Steps,
}

fn avro_type(kind: &FieldKind) -> AvroType {
    match kind {
        FieldKind::Date => AvroType::Date,
        FieldKind::Time => AvroType::Time,
        FieldKind::Int => AvroType::Long,
        FieldKind::Decimal { precision, scale } => AvroType::Decimal { precision: *precision, scale: *scale },
        FieldKind::Codes(_) => AvroType::Strings,
        FieldKind::Steps => AvroType::Steps,
        _ => AvroType::String,
    }
}
