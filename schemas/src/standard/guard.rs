//! What a rule keeps out of a record where it does not hold, and so how far a resource may switch it.

use super::field::{EntityField, FieldKind};
use super::finding::Rule;

/// What would be wrong with a record that was let past the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing: the value is kept, or the source had none.
    Nothing,
    /// The field has no value: it could not be read, or is not what the field holds. The record may go without it, but never without a
    /// mark.
    Value,
    /// There is no record at all, or a null in it would be untrue.
    Row,
}

impl Rule {
    /// What this rule guards.
    #[must_use]
    pub fn guards(self) -> Guard {
        match self {
            Self::ColumnAbsent | Self::ListsDiffer | Self::ConditionFailed => Guard::Row,
            Self::ColumnLossy
            | Self::ColumnUnreadable
            | Self::ExpressionFailed
            | Self::ExtractFailed
            | Self::AmountUnit
            | Self::TextTooLong
            | Self::TextControl
            | Self::TextInvisible
            | Self::TextPrivateUse
            | Self::TextDamaged
            | Self::UsccLength
            | Self::UsccAlphabet
            | Self::UsccCheckDigit
            | Self::UsccDepartment
            | Self::OrgCodeForm
            | Self::OrgCodeCheckDigit
            | Self::CitizenForm
            | Self::CitizenCheckDigit
            | Self::CitizenDivision
            | Self::CitizenBirth
            | Self::CitizenFuture
            | Self::MobileForm
            | Self::PhoneForm
            | Self::CardForm
            | Self::CardCheckDigit
            | Self::RegistrationForm
            | Self::RegistrationCheckDigit
            | Self::RegistrationCitizen
            | Self::ProjectForm
            | Self::ProjectDivision
            | Self::DivisionForm
            | Self::DivisionUnknown
            | Self::IndustryForm
            | Self::IndustryUnknown
            | Self::CodeUnknown
            | Self::DateForm
            | Self::DateMissingDay
            | Self::DateOpenEnd
            | Self::DateWeekday
            | Self::TimeForm
            | Self::TimeRange
            | Self::NumberForm
            | Self::NumberRange
            | Self::UrlForm
            | Self::StepsForm => Guard::Value,
            _ => Guard::Nothing,
        }
    }

    /// Whether the rule is a bound on a date that reads well: without the rule the date is kept.
    #[must_use]
    pub fn is_bound(self) -> bool {
        matches!(self, Self::DateInFuture | Self::DateTooEarly)
    }

    /// The national standard that the rule is from, where it is from one.
    #[must_use]
    pub fn standard(self) -> Option<&'static str> {
        Some(match self.group() {
            "uscc" => "GB 32100-2015",
            "org_code" => "GB 11714-1997",
            "citizen_id" => "GB 11643-1999",
            "registration_no" => "GS 15-2006",
            "card" => "ISO/IEC 7812-1",
            "project_code" => "GB/T 40058-2021",
            "division" => "GB/T 2260",
            "industry" => "GB/T 4754-2017",
            "date" | "time" => "GB/T 7408",
            _ => return None,
        })
    }

    /// The first part of the code, `uscc` of `uscc.check_digit`.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.code().split_once('.').map_or(self.code(), |(group, _)| group)
    }
}

impl EntityField {
    /// Whether the field has this bound on its dates.
    #[must_use]
    pub fn has_bound(&self, bound: Rule) -> bool {
        match bound {
            Rule::DateInFuture => self.past_only,
            Rule::DateTooEarly => self.not_before.is_some(),
            _ => false,
        }
    }
}

impl FieldKind {
    /// The group of rules that are this kind's alone.
    #[must_use]
    pub fn rule_group(&self) -> Option<&'static str> {
        Some(match self {
            Self::Uscc => "uscc",
            Self::OrgCode => "org_code",
            Self::CitizenId => "citizen_id",
            Self::ProjectCode => "project_code",
            Self::Division => "division",
            Self::Mobile => "mobile",
            Self::BankCard => "card",
            _ => return None,
        })
    }
}
