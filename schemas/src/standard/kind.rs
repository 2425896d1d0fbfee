//! The `kind` annotation of a field: how its values are read, and the Avro type that they are written as.

use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;

use super::codes::CodeList;
use super::field::FieldKind;
use super::table::Tables;
use crate::contract::reading::scalar;

/// Kinds that stand alone.
const PLAIN: [(&str, FieldKind); 16] = [
    ("business_registration", FieldKind::BusinessRegistration),
    ("citizen_id", FieldKind::CitizenId),
    ("uscc", FieldKind::Uscc),
    ("org_code", FieldKind::OrgCode),
    ("mobile", FieldKind::Mobile),
    ("bank_card", FieldKind::BankCard),
    ("project_code", FieldKind::ProjectCode),
    ("division", FieldKind::Division),
    ("industry", FieldKind::Industry),
    ("education", FieldKind::Education),
    ("date", FieldKind::Date),
    ("partial_date", FieldKind::PartialDate),
    ("time", FieldKind::Time),
    ("integer", FieldKind::Int),
    ("url", FieldKind::Url),
    ("steps", FieldKind::Steps),
];

/// Kinds with something behind a colon, as it may look.
const WITH_ARGUMENT: [(&str, &str); 9] = [
    ("text", "text:200"),
    ("name", "name:100"),
    ("address", "address:400"),
    ("phone", "phone:18"),
    ("identifier", "identifier:25"),
    ("registration_no", "registration_no:100"),
    ("code", "code:gbt2261_1_sex"),
    ("codes", "codes:regional_lists:penalty_kind"),
    ("decimal", "decimal:24,6"),
];

/// Longest text of a field, in characters.
const MAX_LENGTH: usize = 1_000_000;

/// Why a `kind` cannot be had, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnknownKind {
    /// `unknown-kind`, or `unknown-list` where the code list does not exist.
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
}

impl FieldKind {
    /// Reads a `kind` annotation: `date`, `text:200`, `decimal:24,6`, `code:gbt2261_1_sex`.
    pub(crate) fn parse(text: &str, tables: &Tables) -> Result<Self, UnknownKind> {
        let (name, argument) = text.split_once(':').unwrap_or((text, ""));
        if let Some((_, kind)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return if name == text { Ok(kind.clone()) } else { Err(wrong(format!("the kind `{name}` stands alone"), name)) };
        }
        let Some((_, example)) = WITH_ARGUMENT.iter().find(|(known, _)| *known == name) else {
            let known = PLAIN.iter().map(|(name, _)| *name).chain(WITH_ARGUMENT.iter().map(|(name, _)| *name));
            let help = scalar::suggestion(name, known);
            return Err(UnknownKind {
                code: "unknown-kind",
                message: format!("the kind `{}` is not known", scalar::short(name)),
                help,
            });
        };
        let length = || match argument.parse() {
            Ok(max @ 1..=MAX_LENGTH) => Ok(max),
            _ => Err(wrong(format!("the kind `{name}` says how many characters a value has at most"), example)),
        };
        let list = || match argument {
            "" => Err(wrong(format!("the kind `{name}` names a code list"), example)),
            list => CodeList::build(list, tables).map(Arc::new).map_err(|error| UnknownKind {
                code: "unknown-list",
                message: error.message,
                help: error.help,
            }),
        };
        Ok(match name {
            "text" => Self::Text { max: length()? },
            "name" => Self::Name { max: length()? },
            "address" => Self::Address { max: length()? },
            "phone" => Self::Phone { max: length()? },
            "identifier" => Self::Identifier { max: length()? },
            "registration_no" => Self::RegistrationNo { max: length()? },
            "code" => Self::Code(list()?),
            "codes" => Self::Codes(list()?),
            _ => decimal(argument).ok_or_else(|| {
                wrong("a decimal says how many digits it has, at most 38, and how many are places".to_owned(), example)
            })?,
        })
    }
}

fn decimal(argument: &str) -> Option<FieldKind> {
    let (precision, scale) = argument.split_once(',')?;
    let (precision, scale) = (precision.parse().ok()?, scale.parse().ok()?);
    ((1..=38).contains(&precision) && scale <= precision).then_some(FieldKind::Decimal { precision, scale })
}

fn wrong(message: String, example: &str) -> UnknownKind {
    UnknownKind { code: "unknown-kind", message, help: Some(format!("as `{example}`")) }
}

impl fmt::Display for FieldKind {
    /// As in a schema.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { max } => write!(f, "text:{max}"),
            Self::Name { max } => write!(f, "name:{max}"),
            Self::Address { max } => write!(f, "address:{max}"),
            Self::Phone { max } => write!(f, "phone:{max}"),
            Self::Identifier { max } => write!(f, "identifier:{max}"),
            Self::RegistrationNo { max } => write!(f, "registration_no:{max}"),
            Self::Code(list) => write!(f, "code:{}", list.name),
            Self::Codes(list) => write!(f, "codes:{}", list.name),
            Self::Decimal { precision, scale } => write!(f, "decimal:{precision},{scale}"),
            plain => {
                let name = PLAIN.iter().find(|(_, kind)| discriminant(kind) == discriminant(plain)).map(|(name, _)| *name);
                f.write_str(name.unwrap_or_default())
            }
        }
    }
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

impl AvroType {
    pub(crate) fn of(kind: &FieldKind) -> Self {
        match kind {
            FieldKind::Date => Self::Date,
            FieldKind::Time => Self::Time,
            FieldKind::Int => Self::Long,
            FieldKind::Decimal { precision, scale } => Self::Decimal { precision: *precision, scale: *scale },
            FieldKind::Codes(_) => Self::Strings,
            FieldKind::Steps => Self::Steps,
            _ => Self::String,
        }
    }
}
