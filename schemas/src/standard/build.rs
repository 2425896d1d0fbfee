//! From an entity's two files to the entity: every annotation is understood, or reported at its place.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::condition::{Condition, ConditionError};
use super::entity::{Entity, KeyPart, KeySource};
use super::facts::Facts;
use super::field::{EntityField, FieldKind, Obligation};
use super::file::{FieldFile, KeyFile, RecordFile, RuleFile};
use super::kind::AvroType;
use super::rule_kinds;
use super::rules::RecordRule;
use super::table::Tables;
use crate::avro::compat;
use crate::contract::reading::document::{At, Document, Found, Report};
use crate::contract::reading::json::{self, Object};
use crate::contract::reading::scalar;

/// What the annotations refer to.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) tables: &'a Tables,
    /// Tables that were reported.
    pub(crate) broken_tables: &'a BTreeSet<&'a str>,
    pub(crate) facts: &'a Arc<Facts>,
    pub(crate) report: &'a Report,
}

/// Builds an entity of its schema and its key's; `None` where one of them has a problem, which is reported.
pub(crate) fn entity(schema: &Document, key_schema: &Document, around: Surroundings<'_>) -> Option<Entity> {
    let report = around.report;
    let key_file = json::understand(key_schema, report, |root| Some((KeyFile::read(root)?, root.at())));
    let built = json::understand(schema, report, |root| {
        let file = RecordFile::read(root)?;
        let (key_file, key_at) = key_file?;
        let build = Build { root, file: &file, key_schema, around };
        let key = build.key(&key_file, &key_at);
        let birth = file.birth.as_ref().and_then(|birth| build.known(birth));
        let person = file.person.as_ref().and_then(|person| build.condition(person, birth));
        let rules: Vec<RecordRule> = file.rules.iter().filter_map(|rule| build.rule(rule, birth)).collect();
        let fields: Vec<Option<EntityField>> =
            file.fields.iter().enumerate().map(|(index, field)| build.field(field, index, birth, &key, &rules)).collect();
        if rules.len() == file.rules.len() {
            file.rules.iter().for_each(|rule| build.check_kinds(rule, &fields));
        }
        Some(Entity {
            name: file.name.value.clone(),
            title_zh: file.title.clone(),
            title_en: file.doc.clone(),
            version: file.version,
            fields: fields.into_iter().collect::<Option<_>>()?,
            key,
            schema_json: schema.text.clone(),
            key_schema_json: key_schema.text.clone(),
            person,
            birth,
            rules,
            facts: Arc::clone(around.facts),
        })
    });
    if [schema, key_schema].iter().any(|document| report.refuses(&document.name)) {
        return None;
    }
    for document in [schema, key_schema] {
        if let Err(error) = compat::validate(&document.text) {
            report.push(document.problem(&At::File, "not-avro", error.to_string(), None));
            return None;
        }
    }
    built
}

/// One entity under construction.
struct Build<'a> {
    root: Object<'a>,
    file: &'a RecordFile,
    key_schema: &'a Document,
    around: Surroundings<'a>,
}

impl Build<'_> {
    fn position(&self, name: &str) -> Option<usize> {
        self.file.fields.iter().position(|field| field.name.value == name)
    }

    fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.file.fields.iter().map(|field| field.name.value.as_str())
    }

    fn no_field(&self, name: &str) -> (String, Option<String>) {
        let message = format!("entity {} has no field `{}`", self.file.name.value, scalar::short(name));
        (message, scalar::suggestion(name, self.names()))
    }

    /// Index of a field that the schema names.
    fn known(&self, name: &Found<String>) -> Option<usize> {
        let position = self.position(&name.value);
        if position.is_none() {
            let (message, help) = self.no_field(&name.value);
            self.root.problem(&name.at, "unknown-field", message, help);
        }
        position
    }

    fn key(&self, file: &KeyFile, at: &At) -> Vec<KeyPart> {
        let problem = |at: &At, code, message, help| self.around.report.push(self.key_schema.problem(at, code, message, help));
        let wanted = format!("{}Key", self.file.name.value);
        if file.name.value != wanted {
            let message = format!("the key of entity {} is named `{wanted}`", self.file.name.value);
            problem(&file.name.at, "bad-name", message, None);
        }
        let known = |name: &Found<String>| {
            let position = self.position(&name.value);
            if position.is_none() {
                let (message, help) = self.no_field(&name.value);
                problem(&name.at, "unknown-field", message, help);
            }
            position
        };
        let parts = file.fields.iter().filter_map(|field| {
            let source = match field.from.as_deref() {
                None => KeySource::Fields(vec![known(&field.name)?]),
                Some([system]) if system.value == "$system" => KeySource::System,
                Some(names) => KeySource::Fields(names.iter().filter_map(known).collect()),
            };
            Some(KeyPart { name: field.name.value.clone(), source })
        });
        let parts: Vec<KeyPart> = parts.collect();
        if !parts.iter().any(|part| matches!(part.source, KeySource::Fields(_))) && !file.fields.is_empty() {
            problem(at, "bad-key", "the key names no field of the entity".to_owned(), None);
        }
        parts
    }

    fn condition(&self, text: &Found<String>, birth: Option<usize>) -> Option<Condition> {
        match Condition::parse(&text.value, birth, |name| self.position(name)) {
            Ok(condition) => Some(condition),
            Err(error) => {
                let (message, help) = match error {
                    ConditionError::Field(name) => self.no_field(&name),
                    ConditionError::NoBirth => {
                        let help = "name the field of the birth date as the schema's `birth`".to_owned();
                        ("a condition on the age needs a birth date".to_owned(), Some(help))
                    }
                    ConditionError::Form => {
                        let help = "`field = value`, `field has value`, `field present` or `age < 14`".to_owned();
                        (format!("the condition `{}` is not known", scalar::short(&text.value)), Some(help))
                    }
                };
                self.root.problem(&text.at, "unknown-condition", message, help);
                None
            }
        }
    }

    fn rule(&self, file: &RuleFile, birth: Option<usize>) -> Option<RecordRule> {
        let fields: Vec<Option<usize>> = file.fields.iter().map(|name| self.known(name)).collect();
        let when = match &file.when {
            None => None,
            Some(text) => Some(self.condition(text, birth)?),
        };
        let fields = fields.into_iter().collect::<Option<Vec<usize>>>()?;
        let value = file.value.as_ref().map(|value| value.value.as_str());
        match RecordRule::compile(&file.rule.value, &fields, value, when) {
            Ok(rule) => Some(rule),
            Err(error) => {
                self.root.problem(&file.rule.at, "unknown-rule", error.message, error.help);
                None
            }
        }
    }

    /// Reports a rule over fields about which it would never say anything.
    fn check_kinds(&self, file: &RuleFile, built: &[Option<EntityField>]) {
        let field = |name: &Found<String>| built.get(self.position(&name.value)?)?.as_ref();
        let Some(fields) = file.fields.iter().map(field).collect::<Option<Vec<_>>>() else { return };
        let value = file.value.as_ref().map(|value| value.value.as_str());
        if let Some(misfit) = rule_kinds::misfit(&file.rule.value, &fields, value) {
            let at = file.fields.get(misfit.at).map_or(&file.rule.at, |name| &name.at);
            self.root.problem(at, "wrong-kind", misfit.message, Some(misfit.help.to_owned()));
        }
    }

    /// Whether a kind names a table that has problems of its own.
    fn asks_a_broken_table(&self, kind: &str) -> bool {
        let lists = kind.split_once(':').map_or("", |(_, lists)| lists);
        lists.split('|').filter_map(|list| list.split([':', '#']).next()).any(|table| self.around.broken_tables.contains(table))
    }

    fn field(
        &self,
        file: &FieldFile,
        index: usize,
        birth: Option<usize>,
        key: &[KeyPart],
        rules: &[RecordRule],
    ) -> Option<EntityField> {
        let when = file.when.as_ref().map(|when| self.condition(when, birth));
        let kind_file = file.kind.as_ref()?;
        let kind = match FieldKind::parse(&kind_file.value, self.around.tables) {
            Ok(kind) => kind,
            Err(_) if self.asks_a_broken_table(&kind_file.value) => return None,
            Err(error) => {
                let message = format!("field {}: {}", file.name.value, error.message);
                self.root.problem(&kind_file.at, error.code, message, error.help);
                return None;
            }
        };
        let in_key = key
            .iter()
            .any(|part| matches!(&part.source, KeySource::Fields(from) if *from == [index] && part.name == file.name.value));
        let avro = AvroType::of(&kind);
        file.check_type(&self.root, &avro, in_key);
        let wrong = |at: &At, message: &str| {
            self.root.problem(at, "bad-key", format!("field {}: {message}", file.name.value), None);
        };
        if in_key && avro != AvroType::String {
            wrong(&kind_file.at, "a key's field is a text");
        }
        if in_key && file.obligation.value == Obligation::Optional {
            wrong(&file.obligation.at, "a key's field is mandatory or conditional");
        }
        Some(EntityField {
            name: file.name.value.clone(),
            aliases: file.aliases.clone(),
            title_zh: file.title.clone(),
            title_en: file.doc.clone(),
            kind,
            obligation: file.obligation.value,
            when: match when {
                None => None,
                Some(when) => Some(when?),
            },
            grade: file.grade,
            grade_person: file.grade_person,
            range: file.range,
            not_before: file.not_before,
            past_only: file.past_only,
            derived: rules.iter().any(|rule| rule.fills(index)),
            in_key,
            index: u16::try_from(index).ok()?,
            facts: Arc::clone(self.around.facts),
        })
    }
}
