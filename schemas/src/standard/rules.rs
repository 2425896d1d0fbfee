//! Cross-field rules of a record: they fill what follows from another field, and warn where fields contradict each other.
//! Only a document number that is mandatory and fails its own check is an error.

use std::borrow::Cow;

use super::clock::Clock;
use super::condition::{Condition, age};
use super::date::period;
use super::entity::Entity;
use super::facts::{Facts, Standing};
use super::field::Obligation;
use super::finding::{Finding, Level, Remarks, Rule};
use super::guard::Guard;
use super::identifier::{citizen, credit, numbers, project};
use super::value::{StandardValue, Step};
use crate::contract::reading::scalar;

/// One compiled rule; numbers are indexes of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordRule {
    /// The first is not after (or above) the second.
    Order {
        first: usize,
        second: usize,
    },
    /// An empty field takes this value under the condition.
    Fill {
        field: usize,
        value: String,
        when: Condition,
    },
    /// The field is above zero under the condition.
    Positive {
        field: usize,
        when: Condition,
    },
    /// The number of a document of type `citizen` is a citizen number.
    PersonDocument {
        kind: usize,
        number: usize,
        citizen: String,
    },
    /// As `PersonDocument` by GA/T 517, and the entity's citizen number is that number.
    CitizenDocument {
        kind: usize,
        number: usize,
        citizen_id: usize,
    },
    CitizenBirth {
        citizen_id: usize,
        birth: usize,
    },
    CitizenSex {
        citizen_id: usize,
        sex: usize,
    },
    /// The holder of a resident identity card is Chinese.
    CitizenNationality {
        kind: usize,
        nationality: usize,
    },
    MarriageAge {
        birth: usize,
        sex: usize,
        marital: usize,
    },
    DoctorAge {
        birth: usize,
        education: usize,
    },
    /// The entity type is the head of the credit code.
    EntityType {
        uscc: usize,
        entity_type: usize,
    },
    /// The organisation code is characters 9 to 17 of the credit code.
    OrganisationPart {
        uscc: usize,
        org_code: usize,
    },
    CreditDivision {
        uscc: usize,
        division: usize,
    },
    ProjectDivision {
        code: usize,
        division: usize,
    },
    ProjectType {
        code: usize,
        approval_type: usize,
    },
    ProjectIndustry {
        code: usize,
        industry: usize,
    },
    /// The winner's code is a citizen number or a credit code, by the kind of winner; an empty kind is told from the code.
    WinnerCode {
        kind: usize,
        code: usize,
    },
    /// The applicant's number fits its type; empty type and kind are told from the number.
    ApplicantDocument {
        kind: usize,
        doc_type: usize,
        number: usize,
    },
    /// Times of steps do not go backwards.
    Steps {
        steps: usize,
    },
}

/// Every rule: its name, its fields in their order, whether it has a value, whether it has a condition.
const FORMS: [(&str, &[&str], bool, bool); 19] = [
    ("order", &["first", "second"], false, false),
    ("fill", &["field"], true, true),
    ("positive", &["field"], false, true),
    ("person_document", &["kind", "number"], true, false),
    ("citizen_document", &["kind", "number", "citizen_id"], false, false),
    ("citizen_birth", &["citizen_id", "birth"], false, false),
    ("citizen_sex", &["citizen_id", "sex"], false, false),
    ("citizen_nationality", &["kind", "nationality"], false, false),
    ("marriage_age", &["birth", "sex", "marital"], false, false),
    ("doctor_age", &["birth", "education"], false, false),
    ("entity_type", &["uscc", "entity_type"], false, false),
    ("organisation_part", &["uscc", "org_code"], false, false),
    ("credit_division", &["uscc", "division"], false, false),
    ("project_division", &["code", "division"], false, false),
    ("project_type", &["code", "approval_type"], false, false),
    ("project_industry", &["code", "industry"], false, false),
    ("winner_code", &["kind", "code"], false, false),
    ("applicant_document", &["kind", "doc_type", "number"], false, false),
    ("steps", &["steps"], false, false),
];

/// Why a rule of a schema is none, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownRule {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl RecordRule {
    /// Compiles a rule of a schema whose fields have these indexes.
    pub(crate) fn compile(
        name: &str,
        fields: &[usize],
        value: Option<&str>,
        when: Option<Condition>,
    ) -> Result<Self, UnknownRule> {
        let Some((_, roles, has_value, has_condition)) = FORMS.iter().find(|(known, ..)| *known == name) else {
            let help = scalar::suggestion(name, FORMS.iter().map(|(name, ..)| *name));
            return Err(UnknownRule { message: format!("the rule `{}` is not known", scalar::short(name)), help });
        };
        let rule = match (name, fields, value.map(str::to_owned), when) {
            ("fill", &[field], Some(value), Some(when)) => Self::Fill { field, value, when },
            ("positive", &[field], None, Some(when)) => Self::Positive { field, when },
            ("person_document", &[kind, number], Some(citizen), None) => Self::PersonDocument { kind, number, citizen },
            (name, fields, None, None) => match (name, fields) {
                ("order", &[first, second]) => Self::Order { first, second },
                ("citizen_document", &[kind, number, citizen_id]) => Self::CitizenDocument { kind, number, citizen_id },
                ("citizen_birth", &[citizen_id, birth]) => Self::CitizenBirth { citizen_id, birth },
                ("citizen_sex", &[citizen_id, sex]) => Self::CitizenSex { citizen_id, sex },
                ("citizen_nationality", &[kind, nationality]) => Self::CitizenNationality { kind, nationality },
                ("marriage_age", &[birth, sex, marital]) => Self::MarriageAge { birth, sex, marital },
                ("doctor_age", &[birth, education]) => Self::DoctorAge { birth, education },
                ("entity_type", &[uscc, entity_type]) => Self::EntityType { uscc, entity_type },
                ("organisation_part", &[uscc, org_code]) => Self::OrganisationPart { uscc, org_code },
                ("credit_division", &[uscc, division]) => Self::CreditDivision { uscc, division },
                ("project_division", &[code, division]) => Self::ProjectDivision { code, division },
                ("project_type", &[code, approval_type]) => Self::ProjectType { code, approval_type },
                ("project_industry", &[code, industry]) => Self::ProjectIndustry { code, industry },
                ("winner_code", &[kind, code]) => Self::WinnerCode { kind, code },
                ("applicant_document", &[kind, doc_type, number]) => Self::ApplicantDocument { kind, doc_type, number },
                ("steps", &[steps]) => Self::Steps { steps },
                _ => return Err(Self::form(name, roles, *has_value, *has_condition)),
            },
            (name, ..) => return Err(Self::form(name, roles, *has_value, *has_condition)),
        };
        Ok(rule)
    }

    fn form(name: &str, roles: &[&str], has_value: bool, has_condition: bool) -> UnknownRule {
        let mut parts = vec![format!("fields {}", scalar::listed(roles))];
        parts.extend(has_value.then(|| "a `value`".to_owned()));
        parts.extend(has_condition.then(|| "a condition `when`".to_owned()));
        let message = format!("the rule `{name}` is not written so");
        UnknownRule { message, help: Some(format!("it has {}, and nothing else", parts.join(", "))) }
    }

    /// Whether the rule can fill this field.
    pub(crate) fn fills(&self, field: usize) -> bool {
        match self {
            Self::Fill { field: filled, .. }
            | Self::CitizenDocument { citizen_id: filled, .. }
            | Self::CitizenNationality { nationality: filled, .. }
            | Self::EntityType { entity_type: filled, .. }
            | Self::WinnerCode { kind: filled, .. } => *filled == field,
            Self::ApplicantDocument { kind, doc_type, .. } => *kind == field || *doc_type == field,
            _ => false,
        }
    }

    pub(crate) fn apply(
        &self,
        entity: &Entity,
        values: &mut [StandardValue<'_>],
        clock: &Clock<'_>,
        findings: &mut Vec<Finding>,
    ) {
        let mut record = Record { entity, values, clock, findings };
        match self {
            Self::Order { first, second } => record.order(*first, *second),
            Self::Fill { field, value, when } => record.fill(*field, value, when),
            Self::Positive { field, when } => record.positive(*field, when),
            Self::PersonDocument { kind, number, citizen } => {
                if record.text(*kind) == Some(citizen) {
                    record.verify(*number, Document::Citizen);
                }
            }
            Self::CitizenDocument { kind, number, citizen_id } => record.citizen_document(*kind, *number, *citizen_id),
            Self::CitizenBirth { citizen_id, birth } => record.citizen_birth(*citizen_id, *birth),
            Self::CitizenSex { citizen_id, sex } => record.citizen_sex(*citizen_id, *sex),
            Self::CitizenNationality { kind, nationality } => record.citizen_nationality(*kind, *nationality),
            Self::MarriageAge { birth, sex, marital } => record.marriage_age(*birth, *sex, *marital),
            Self::DoctorAge { birth, education } => record.doctor_age(*birth, *education),
            Self::EntityType { uscc, entity_type } => record.entity_type(*uscc, *entity_type),
            Self::OrganisationPart { uscc, org_code } => record.organisation_part(*uscc, *org_code),
            Self::CreditDivision { uscc, division } => record.credit_division(*uscc, *division),
            Self::ProjectDivision { code, division } => record.project_division(*code, *division),
            Self::ProjectType { code, approval_type } => record.project_type(*code, *approval_type),
            Self::ProjectIndustry { code, industry } => record.project_industry(*code, *industry),
            Self::WinnerCode { kind, code } => record.winner_code(*kind, *code),
            Self::ApplicantDocument { kind, doc_type, number } => record.applicant_document(*kind, *doc_type, *number),
            Self::Steps { steps } => record.steps(*steps),
        }
    }
}

/// What a document number is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Document {
    Citizen,
    Credit,
    Organisation,
    Registration,
}

/// A record under its rules.
struct Record<'r, 'v> {
    entity: &'r Entity,
    values: &'r mut [StandardValue<'v>],
    clock: &'r Clock<'r>,
    findings: &'r mut Vec<Finding>,
}

impl Record<'_, '_> {
    fn facts(&self) -> &Facts {
        &self.entity.facts
    }

    fn text(&self, field: usize) -> Option<&str> {
        self.values.get(field).and_then(StandardValue::as_text).filter(|text| !text.is_empty())
    }

    fn date(&self, field: usize) -> Option<i32> {
        match self.values.get(field) {
            Some(StandardValue::Date(days)) => Some(*days),
            _ => None,
        }
    }

    fn push(&mut self, level: Level, field: usize, rule: Rule) {
        if let Ok(field) = u16::try_from(field) {
            self.findings.push(Finding { level, field, rule });
        }
    }

    fn warn(&mut self, field: usize, rule: Rule) {
        self.push(Level::Warning, field, rule);
    }

    fn set(&mut self, field: usize, text: String) {
        if let Some(held) = self.values.get_mut(field) {
            *held = StandardValue::Text(Cow::Owned(text));
        }
    }

    /// Null, and not because its source value was refused: then a filled value would hide the refused one.
    fn is_open(&self, field: usize) -> bool {
        let refused = |finding: &Finding| usize::from(finding.field) == field && finding.level > Level::Note;
        self.values.get(field).is_some_and(StandardValue::is_null) && !self.findings.iter().any(refused)
    }

    fn order(&mut self, first: usize, second: usize) {
        let (Some(left), Some(right)) = (self.values.get(first), self.values.get(second)) else { return };
        let reversed = match (left, right) {
            (StandardValue::Date(left), StandardValue::Date(right)) => left > right,
            (StandardValue::Time(left), StandardValue::Time(right)) => left > right,
            (
                StandardValue::Decimal { unscaled: left, scale: left_scale },
                StandardValue::Decimal { unscaled: right, scale: right_scale },
            ) => left_scale == right_scale && left > right,
            // Dates of reduced precision are periods: reversed where the first begins after the second ended.
            (StandardValue::Text(left), StandardValue::Text(right)) => {
                period(left).zip(period(right)).is_some_and(|((begin, _), (_, end))| begin > end)
            }
            _ => false,
        };
        if reversed {
            self.warn(second, Rule::OrderReversed);
        }
    }

    fn fill(&mut self, field: usize, value: &str, when: &Condition) {
        if self.is_open(field) && when.holds(self.values, self.clock) == Some(true) {
            self.set(field, value.to_owned());
            self.push(Level::Note, field, Rule::ValueFilled);
        }
    }

    fn positive(&mut self, field: usize, when: &Condition) {
        let Some(StandardValue::Decimal { unscaled, .. }) = self.values.get(field) else { return };
        if *unscaled <= 0 && when.holds(self.values, self.clock) == Some(true) {
            self.warn(field, Rule::AmountNotPositive);
        }
    }

    /// Checks a document number and puts its canonical form in place. One that fails is an error where the field is mandatory; elsewhere a
    /// warning, and null, or kept where the key needs it.
    fn verify(&mut self, field: usize, document: Document) -> bool {
        let Some(StandardValue::Text(number)) = self.values.get(field) else { return false };
        let Ok(index) = u16::try_from(field) else { return false };
        if number.is_empty() {
            return false;
        }
        let entity = self.entity;
        let mut remarks = Remarks { field: index, findings: self.findings };
        let read = read_document(number, document, &entity.facts, self.clock, &mut remarks);
        match read.map(|canonical| (canonical != *number).then(|| canonical.into_owned())) {
            Ok(repaired) => {
                if let Some(canonical) = repaired {
                    self.set(field, canonical);
                }
                true
            }
            Err(rule) => {
                debug_assert!(rule.guards() == Guard::Value, "{rule} leaves no value");
                let Some(declared) = entity.fields.get(field) else { return false };
                let level = if declared.obligation == Obligation::Mandatory { Level::Error } else { Level::Warning };
                self.push(level, field, rule);
                if let Some(held) = self.values.get_mut(field).filter(|_| !declared.in_key) {
                    *held = StandardValue::Null;
                }
                false
            }
        }
    }

    fn citizen_document(&mut self, kind: usize, number: usize, citizen_id: usize) {
        if self.text(kind) != Some("111") || !self.verify(number, Document::Citizen) {
            return;
        }
        let Some(number_text) = self.text(number).map(str::to_owned) else { return };
        match self.text(citizen_id) {
            Some(held) if *held != number_text => self.warn(citizen_id, Rule::CitizenDocument),
            Some(_) => {}
            None if self.is_open(citizen_id) => self.set(citizen_id, number_text),
            None => {}
        }
    }

    fn citizen_birth(&mut self, citizen_id: usize, birth: usize) {
        let in_number = self.text(citizen_id).and_then(|number| citizen::birth_date(number.as_bytes()));
        if in_number.zip(self.date(birth)).is_some_and(|(in_number, held)| in_number != held) {
            self.warn(birth, Rule::CitizenBirthDiffers);
        }
    }

    fn citizen_sex(&mut self, citizen_id: usize, sex: usize) {
        let in_number = self.text(citizen_id).and_then(|number| citizen::sex(number.as_bytes()));
        let held = self.text(sex).filter(|sex| matches!(*sex, "1" | "2"));
        if in_number.zip(held).is_some_and(|(in_number, held)| in_number != held) {
            self.warn(sex, Rule::CitizenSexDiffers);
        }
    }

    fn citizen_nationality(&mut self, kind: usize, nationality: usize) {
        if self.text(kind) != Some("111") {
            return;
        }
        match self.text(nationality) {
            Some("CHN") => {}
            Some(_) => self.warn(nationality, Rule::CitizenNationality),
            None if self.is_open(nationality) => self.set(nationality, "CHN".to_owned()),
            None => {}
        }
    }

    fn marriage_age(&mut self, birth: usize, sex: usize, marital: usize) {
        // Civil code, article 1047: 22 for men, 20 for women.
        let least = match self.text(sex) {
            Some("1") => 22,
            Some("2") => 20,
            _ => return,
        };
        let married = self.text(marital).is_some_and(|code| matches!(code, "20" | "21" | "22" | "23"));
        if married && self.date(birth).is_some_and(|birth| age(birth, self.clock.today) < least) {
            self.warn(marital, Rule::MarriageAge);
        }
    }

    fn doctor_age(&mut self, birth: usize, education: usize) {
        let doctor = self.text(education) == Some("11");
        if doctor && self.date(birth).is_some_and(|birth| age(birth, self.clock.today) < 20) {
            self.warn(education, Rule::DoctorAge);
        }
    }

    fn entity_type(&mut self, uscc: usize, entity_type: usize) {
        let Some(head) = self.text(uscc).and_then(|code| code.get(..2)) else { return };
        let held = self.text(entity_type);
        if held == Some(head) {
            return;
        }
        let (differs, head) = (held.is_some(), head.to_owned());
        if differs {
            self.warn(entity_type, Rule::EntityTypeDiffers);
        }
        self.set(entity_type, head);
    }

    fn organisation_part(&mut self, uscc: usize, org_code: usize) {
        let part = self.text(uscc).and_then(|code| code.get(8..17));
        if part.zip(self.text(org_code)).is_some_and(|(part, held)| part != held) {
            self.warn(org_code, Rule::OrganisationDiffers);
        }
    }

    fn credit_division(&mut self, uscc: usize, division: usize) {
        let in_code = self.text(uscc).and_then(|code| code.get(2..8)).and_then(|code| code.parse().ok());
        if self.apart(in_code, division) {
            self.warn(division, Rule::CreditDivisionDiffers);
        }
    }

    /// Whether a code's division and a field's lie apart: neither contains the other, by the codes in force today.
    fn apart(&self, in_code: Option<u32>, division: usize) -> bool {
        let held = self.text(division).and_then(|code| code.parse().ok());
        let Some((in_code, held)) = in_code.zip(held) else { return false };
        let current = match self.facts().divisions.standing(in_code) {
            Standing::Current => in_code,
            Standing::Successor(successor) => successor,
            // What a retired or unknown code contains is not known.
            Standing::NoSuccessor | Standing::Unknown => return false,
        };
        !contains(current, held) && !contains(held, current)
    }

    fn project_parts(&self, code: usize) -> Option<project::Parts> {
        self.text(code).and_then(project::parts)
    }

    fn project_division(&mut self, code: usize, division: usize) {
        let in_code = self.project_parts(code).map(|parts| parts.division);
        if self.apart(in_code, division) {
            self.warn(division, Rule::ProjectDivisionDiffers);
        }
    }

    fn project_type(&mut self, code: usize, approval_type: usize) {
        let in_code = self.project_parts(code).and_then(|parts| parts.old).map(|(_, kind)| kind);
        let held = self.text(approval_type).and_then(|kind| kind.parse().ok());
        if in_code.zip(held).is_some_and(|(in_code, held): (u8, u8)| in_code != held) {
            self.warn(approval_type, Rule::ProjectTypeDiffers);
        }
    }

    fn project_industry(&mut self, code: usize, industry: usize) {
        let in_code = self.project_parts(code).and_then(|parts| parts.old).map(|(industry, _)| industry);
        let held = self.text(industry).and_then(|code| code.get(..2)).and_then(|division| division.parse::<u8>().ok());
        let Some((in_code, held)) = in_code.zip(held) else { return };
        // Codes were given out under both editions.
        if in_code != held && self.facts().industry.of_2011(in_code) != Some(held) {
            self.warn(industry, Rule::ProjectIndustryDiffers);
        }
    }

    fn winner_code(&mut self, kind: usize, code: usize) {
        let told = if self.text(kind) == Some("2") { Some(Document::Citizen) } else { self.classify(code) };
        let document = match (self.text(kind), told) {
            (Some("2"), _) => Document::Citizen,
            // A person's number must not pass as an organisation's: its grade depends on it.
            (Some(_), Some(Document::Citizen)) => {
                self.warn(kind, Rule::PersonDocument);
                self.set(kind, "2".to_owned());
                Document::Citizen
            }
            (Some(_), _) => Document::Credit,
            (None, Some(document)) => {
                if self.is_open(kind) {
                    self.set(kind, if document == Document::Citizen { "2" } else { "1" }.to_owned());
                }
                document
            }
            (None, None) => return,
        };
        self.verify(code, document);
    }

    fn applicant_document(&mut self, kind: usize, doc_type: usize, number: usize) {
        if self.is_open(doc_type)
            && let Some(document) = self.classify(number)
        {
            let person = document == Document::Citizen;
            self.set(doc_type, if person { "111" } else { "R01" }.to_owned());
            if self.is_open(kind) {
                self.set(kind, if person { "1" } else { "2" }.to_owned());
            }
        }
        let document = match self.text(doc_type) {
            Some("111") => Document::Citizen,
            Some("R01") => Document::Credit,
            Some("R02") => Document::Organisation,
            Some("R03") => Document::Registration,
            _ => return,
        };
        self.verify(number, document);
    }

    /// What a number of 18 characters is: the citizen check goes first; one that passes both is a person's, with a warning.
    fn classify(&mut self, number: usize) -> Option<Document> {
        let text = self.text(number)?;
        let mut unheard = Vec::new();
        let mut remarks = Remarks { field: 0, findings: &mut unheard };
        let citizen = read_document(text, Document::Citizen, self.facts(), self.clock, &mut remarks).is_ok();
        let credit = read_document(text, Document::Credit, self.facts(), self.clock, &mut remarks).is_ok();
        if citizen && credit {
            self.warn(number, Rule::CitizenOrCredit);
        }
        if citizen { Some(Document::Citizen) } else { credit.then_some(Document::Credit) }
    }

    fn steps(&mut self, steps: usize) {
        let Some(StandardValue::Steps(list)) = self.values.get(steps) else { return };
        let times = list.iter().filter_map(|step: &Step| step.started.or(step.ended));
        let backwards = times.clone().zip(times.skip(1)).any(|(first, second)| first > second);
        let ends_early = list.iter().any(|step| step.started.zip(step.ended).is_some_and(|(started, ended)| started > ended));
        if backwards || ends_early {
            self.warn(steps, Rule::StepsOrder);
        }
    }
}

fn read_document<'n>(
    number: &'n str,
    document: Document,
    facts: &Facts,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<Cow<'n, str>, Rule> {
    match document {
        Document::Citizen => citizen::citizen_number(number, facts, clock, remarks),
        Document::Credit => credit::credit_code(number, facts, remarks),
        Document::Organisation => credit::organisation_code(number, remarks),
        Document::Registration => numbers::registration(number, usize::MAX, remarks),
    }
}

/// Whether the first division is the second or contains it: 450000 contains 450100 contains 450102.
fn contains(outer: u32, inner: u32) -> bool {
    let unit = match outer {
        _ if outer.is_multiple_of(10_000) => 10_000,
        _ if outer.is_multiple_of(100) => 100,
        _ => 1,
    };
    outer / unit == inner / unit
}
