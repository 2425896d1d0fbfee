//! Single values under the checks of the standard, outside of any entity: what becomes of them, and why.

use super::Standard;
use super::clock::Clock;
use super::date::pattern::Format;
use super::field::{EntityField, FieldKind};
use super::finding::{Finding, Level};
use super::kind::UnknownKind;
use super::options::FieldOptions;
use super::value::{Input, StandardValue};

/// A kind of value with checks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub kind: &'static str,
    pub zh: &'static str,
    pub en: &'static str,
    /// The standard that it follows.
    pub basis: &'static str,
}

const fn check(kind: &'static str, zh: &'static str, en: &'static str, basis: &'static str) -> Check {
    Check { kind, zh, en, basis }
}

/// All checks by kind. Besides, every kind of an entity's schema can be asked for: `code:gbt2261_1_sex`, `decimal:24,6`.
pub const CHECKS: [Check; 16] = [
    check("citizen_id", "公民身份号码", "citizen number", "GB 11643-1999"),
    check("citizen_id15", "15 位公民身份号码", "citizen number of 15 digits", "GB 11643-1989"),
    check("uscc", "统一社会信用代码", "unified social credit code", "GB 32100-2015"),
    check("orgcode", "组织机构代码", "organisation code", "GB 11714-1997"),
    check("bizreg15", "工商注册号", "business registration number of 15 digits", "GS 15-2006"),
    check("mobile", "手机号码", "mobile number", "11 digits"),
    check("bankcard", "银行卡号", "bank card number", "ISO/IEC 7812-1"),
    check("date", "日期", "date", "GB/T 7408"),
    check("date_excel_serial", "电子表格日期序号", "date as a spreadsheet's serial number", "GB/T 7408"),
    check("date_open_end", "截止日期（可长期）", "date that may be without end", "GB/T 7408"),
    check("date_epoch_ms", "毫秒时间戳日期", "date as milliseconds since 1970", "GB/T 7408"),
    check("birth_date", "出生日期", "birth date", "GB/T 7408"),
    check("datetime", "日期时间", "date and time", "GB/T 7408"),
    check("division", "行政区划代码", "division code", "GB/T 2260"),
    check("project_code", "投资项目代码", "investment project code", "GB/T 40058-2021"),
    check("text", "文本", "text of at most 256 characters", "Unicode NFC"),
];

/// What reads the values of one kind.
#[derive(Debug, Clone)]
pub struct Checker {
    field: EntityField,
    options: FieldOptions,
}

/// What became of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The canonical text; `None` for a value that is empty or not valid.
    pub normalised: Option<String>,
    pub findings: Vec<Finding>,
}

/// How a value stands, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// In its canonical form.
    Ok,
    /// Brought into it silently.
    Note,
    /// Delivered with a mark.
    Warning,
    /// A word or sign for "no value".
    Empty,
    /// Not valid.
    Error,
}

impl Verdict {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Empty => "empty",
            Self::Error => "error",
        }
    }

    #[must_use]
    pub fn is_valid(self) -> bool {
        self < Self::Empty
    }
}

impl Standard {
    /// What checks the values of a kind: one of [`CHECKS`], or a kind as schemas write it.
    ///
    /// # Errors
    /// [`UnknownKind`] with the nearest kind.
    pub fn checker(&self, kind: &str) -> Result<Checker, UnknownKind> {
        let formats = |format| FieldOptions { formats: vec![format], ..FieldOptions::default() };
        let (kind, options) = match kind {
            "citizen_id15" => (FieldKind::CitizenId, FieldOptions::default()),
            "orgcode" => (FieldKind::OrgCode, FieldOptions::default()),
            "bizreg15" => (FieldKind::BusinessRegistration, FieldOptions::default()),
            "bankcard" => (FieldKind::BankCard, FieldOptions::default()),
            "date_excel_serial" => (FieldKind::Date, formats(Format::Excel)),
            "date_open_end" => (FieldKind::Date, FieldOptions { open_end: true, ..FieldOptions::default() }),
            "date_epoch_ms" => (FieldKind::Date, formats(Format::Epoch { micros: 1000 })),
            "datetime" => (FieldKind::Time, FieldOptions::default()),
            "text" => (FieldKind::Text { max: 256 }, FieldOptions::default()),
            "birth_date" => {
                // The first plausible day is an annotation of the field.
                if let Some(field) = self.entity("NaturalPerson").and_then(|person| person.field("birth_date")) {
                    return Ok(Checker { field: field.clone(), options: FieldOptions::default() });
                }
                (FieldKind::Date, FieldOptions::default())
            }
            other => (FieldKind::parse(other, &self.tables)?, FieldOptions::default()),
        };
        let field = self.field_alone(kind);
        Ok(Checker { field, options })
    }
}

impl Checker {
    /// Checks a value.
    #[must_use]
    pub fn check(&self, value: &str, clock: &Clock<'_>) -> Checked {
        let mut findings = Vec::new();
        let value = self.read(value, clock, &mut findings);
        Checked { normalised: (!value.is_null()).then(|| value.to_string()), findings }
    }

    /// Reads a value as a field of this kind does.
    pub fn read<'a>(&'a self, value: impl Into<Input<'a>>, clock: &Clock<'_>, findings: &mut Vec<Finding>) -> StandardValue<'a> {
        self.field.read(value, &self.options, clock, findings)
    }
}

impl Checked {
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (&self.normalised, self.findings.iter().map(|finding| finding.level).max()) {
            (None, None | Some(Level::Note)) => Verdict::Empty,
            (None, Some(_)) => Verdict::Error,
            (Some(_), None) => Verdict::Ok,
            (Some(_), Some(Level::Note)) => Verdict::Note,
            (Some(_), Some(_)) => Verdict::Warning,
        }
    }
}
