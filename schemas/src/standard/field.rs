//! One field of an entity: its kind, obligation, grade, and what follows from them.

use std::sync::Arc;

use super::codes::CodeList;
use super::condition::Condition;
use super::facts::Facts;
use crate::contract::subscription::Mask;

/// One field of an entity.
#[derive(Debug, Clone)]
pub struct EntityField {
    pub name: String,
    /// Names that the field had in earlier versions of its entity.
    pub aliases: Vec<String>,
    pub title_zh: String,
    /// The field's `doc`.
    pub title_en: String,
    pub kind: FieldKind,
    pub obligation: Obligation,
    /// When a conditional field is required.
    pub when: Option<Condition>,
    pub grade: Grade,
    /// Grade where the record is about a natural person, if it differs.
    pub grade_person: Option<Grade>,
    /// Least and greatest value of a number, in the field's unit.
    pub range: (Option<i64>, Option<i64>),
    /// First date that is plausible, days since 1970-01-01.
    pub not_before: Option<i32>,
    /// Whether a date or time after the event's own is refused.
    pub past_only: bool,
    /// A rule of the entity fills the field where the mapping leaves it empty.
    pub derived: bool,
    /// Part of the entity's key: never null.
    pub in_key: bool,
    /// Index in its entity.
    pub(crate) index: u16,
    pub(crate) facts: Arc<Facts>,
}

/// What a field holds, and so how it is read and checked.
#[derive(Debug, Clone)]
pub enum FieldKind {
    /// Running text of at most `max` characters.
    Text {
        max: usize,
    },
    /// Name of a person, or of a person or organisation.
    Name {
        max: usize,
    },
    Address {
        max: usize,
    },
    /// Landline or mobile numbers, one or several.
    Phone {
        max: usize,
    },
    /// A number or code without a check of its own.
    Identifier {
        max: usize,
    },
    /// Business registration number: checked where it has 15 digits (GS 15-2006).
    RegistrationNo {
        max: usize,
    },
    /// Exactly a 15-digit business registration number.
    BusinessRegistration,
    CitizenId,
    Uscc,
    OrgCode,
    Mobile,
    BankCard,
    ProjectCode,
    Division,
    Industry,
    Education,
    Code(Arc<CodeList>),
    /// Several codes of one list.
    Codes(Arc<CodeList>),
    Date,
    /// `YYYY`, `YYYY-MM` or `YYYY-MM-DD` as text.
    PartialDate,
    Time,
    /// In the standard's unit, 万元 for amounts.
    Decimal {
        precision: u32,
        scale: u32,
    },
    Int,
    Url,
    /// Steps of a service case.
    Steps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obligation {
    Mandatory,
    /// Required under the field's `when`; where it is missing all the same, the record carries a warning.
    Conditional,
    Optional,
}

/// Grade of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// No personal data.
    G0,
    /// General: does not identify alone.
    G1,
    /// Identifying.
    G2,
    /// Sensitive.
    G3,
}

impl Grade {
    pub const ALL: [Self; 4] = [Self::G0, Self::G1, Self::G2, Self::G3];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::G0 => "G0",
            Self::G1 => "G1",
            Self::G2 => "G2",
            Self::G3 => "G3",
        }
    }
}

impl EntityField {
    pub(super) fn alone(kind: FieldKind, facts: &Arc<Facts>) -> Self {
        Self {
            name: String::new(),
            aliases: Vec::new(),
            title_zh: String::new(),
            title_en: String::new(),
            kind,
            obligation: Obligation::Mandatory,
            when: None,
            grade: Grade::G0,
            grade_person: None,
            range: (None, None),
            not_before: None,
            past_only: false,
            derived: false,
            in_key: false,
            index: 0,
            facts: Arc::clone(facts),
        }
    }

    /// Place in the entity's list of fields.
    #[must_use]
    pub fn index(&self) -> usize {
        usize::from(self.index)
    }

    /// Whether a value that is a citizen number is graded as one: a field for other numbers may hold one.
    #[must_use]
    pub fn may_hold_citizen_number(&self) -> bool {
        matches!(self.kind, FieldKind::Identifier { .. }) && !self.in_key
    }

    /// The mask of a value of this grade where a subscription declares none. Clear up to G1; above, the kind's own mask, and
    /// values that no mask makes less telling are dropped.
    #[must_use]
    pub fn default_mask(&self, grade: Grade) -> Mask {
        if grade < Grade::G2 {
            return Mask::None;
        }
        match self.kind {
            FieldKind::Name { .. } => Mask::Name,
            FieldKind::Address { .. } | FieldKind::Division => Mask::Address,
            FieldKind::Phone { .. } | FieldKind::Mobile => Mask::Phone,
            FieldKind::BankCard => Mask::Card,
            FieldKind::Identifier { .. }
            | FieldKind::RegistrationNo { .. }
            | FieldKind::BusinessRegistration
            | FieldKind::CitizenId
            | FieldKind::Uscc
            | FieldKind::OrgCode
            | FieldKind::ProjectCode => Mask::Identifier,
            FieldKind::Date | FieldKind::PartialDate | FieldKind::Time => Mask::Year,
            FieldKind::Text { .. }
            | FieldKind::Industry
            | FieldKind::Education
            | FieldKind::Code(_)
            | FieldKind::Codes(_)
            | FieldKind::Decimal { .. }
            | FieldKind::Int
            | FieldKind::Url
            | FieldKind::Steps => Mask::Drop,
        }
    }

    /// The grade of this field in records that may be about a person: what a grant has to reckon with.
    #[must_use]
    pub fn highest_grade(&self) -> Grade {
        self.grade_person.map_or(self.grade, |person| person.max(self.grade))
    }

    /// The list of codes that the field's values come from.
    #[must_use]
    pub fn code_list(&self) -> Option<&CodeList> {
        match &self.kind {
            FieldKind::Code(list) | FieldKind::Codes(list) => Some(list),
            FieldKind::Education => Some(&self.facts.education),
            _ => None,
        }
    }

    /// Whether a code list of a mapping may give this value: a canonical code of the field's list, or any text where the
    /// field has no list.
    #[must_use]
    pub fn is_legal_code(&self, value: &str) -> bool {
        match &self.kind {
            FieldKind::Division => self.facts.divisions.is_known(value),
            FieldKind::Industry => self.facts.industry.is_legal(value),
            _ => self.code_list().is_none_or(|list| list.contains(value)),
        }
    }

    /// Editions of the code table that a mapping may declare for the source, the current one first.
    #[must_use]
    pub fn editions(&self) -> &'static [&'static str] {
        match self.kind {
            FieldKind::Industry => &["2017", "2011"],
            FieldKind::Education => &["2006", "1984"],
            _ => &[],
        }
    }
}
