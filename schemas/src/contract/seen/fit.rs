//! Whether what a column holds goes into a field whole: its type, its length, its time of day, its places.

use super::super::mapping::{FieldMapping, Unit, UnitSource, ValueSource};
use super::super::problem::Severity;
use super::{Entry, Extent, Remark, Source};
use crate::profile::{ColumnProfile, TIME_OF_DAY};
use crate::standard::{EntityField, FieldKind, Obligation};
use crate::table::ColumnType;

/// So many values tell what a column holds; fewer may all be exceptions.
const TELLING: u64 = 10;

/// What does not fit, the worst of it.
pub(super) fn check(entry: &Entry<'_>, source: Source<'_>, zone_declared: bool) -> Option<Remark> {
    let mapping = entry.mapping;
    let narrowed = !mapping.clean.is_empty() || mapping.extract.is_some() || mapping.split.is_some() || mapping.part.is_some();
    if entry.extent == Extent::Parts || narrowed || !mapping.codes.is_empty() {
        // What is left of the value is not known here.
        return None;
    }
    let fit = Fit { field: entry.field, mapping, source };
    let remarks = [
        fit.empty(),
        fit.foreign(),
        fit.fraction(),
        fit.time_of_day(),
        fit.unread(),
        fit.length(),
        fit.places(),
        fit.float(),
        if zone_declared { None } else { fit.zone() },
    ];
    // The first of the gravest: a kind that is never read says more than what else is wrong with it.
    let mut worst: Option<Remark> = None;
    for remark in remarks.into_iter().flatten() {
        if worst.as_ref().is_none_or(|worst| remark.severity > worst.severity) {
            worst = Some(remark);
        }
    }
    worst
}

struct Fit<'f> {
    field: &'f EntityField,
    mapping: &'f FieldMapping,
    source: Source<'f>,
}

impl Fit<'_> {
    fn column(&self) -> &ColumnProfile {
        self.source.column
    }

    fn present(&self) -> u64 {
        self.source.table.present(self.column())
    }

    /// An error where every row that was seen counts, else a warning.
    fn grave(&self) -> Severity {
        if self.source.every { Severity::Error } else { Severity::Warning }
    }

    fn remark(&self, severity: Severity, code: &'static str, message: String, help: impl Into<String>) -> Remark {
        let field = self.field;
        Remark { severity, code, message: format!("`{}` ({}) {message}", field.name, field.title_zh), help: help.into() }
    }

    fn held(&self) -> String {
        format!("`{}` ({})", self.column().name, self.column().declared)
    }

    fn sampled(&self) -> String {
        format!("of {} sampled rows", self.source.table.sampled)
    }

    /// A mandatory field out of a column in which nothing stands.
    fn empty(&self) -> Option<Remark> {
        let must = self.field.obligation == Obligation::Mandatory && !self.field.derived && self.mapping.default.is_none();
        // Of several columns some are there for rows in which others are empty.
        let alone = !matches!(self.mapping.value, ValueSource::First(_));
        if !must || !alone || self.source.table.sampled < TELLING || self.present() > 0 {
            return None;
        }
        let message =
            format!("is mandatory, and `{}` is empty in all {} sampled rows", self.column().name, self.source.table.sampled);
        let help =
            format!("map another column, give a `default`, or say why it is missing: [not_provided] {} = \"…\"", self.field.name);
        Some(self.remark(self.grave(), "empty-column", message, help))
    }

    /// A kind of value that the field never reads.
    fn foreign(&self) -> Option<Remark> {
        let wanted = wanted(&self.field.kind)?;
        if takes(wanted, &self.column().kind) {
            return None;
        }
        let message = format!("takes {}, and {} holds none", wanted.as_str(), self.held());
        Some(self.remark(Severity::Error, "wrong-type", message, "map another column, or make the value with `cel`"))
    }

    /// No value of the sample is one that the field reads.
    fn unread(&self) -> Option<Remark> {
        if !self.mapping.formats.is_empty() || self.mapping.pad.is_some() {
            return None;
        }
        let check = check_of(&self.field.kind, self.mapping)?;
        let (column, present) = (self.column(), self.present());
        let open = if self.mapping.open_end { column.passes("open_end") } else { 0 };
        if present == 0 || column.passes(check) + open > 0 {
            return None;
        }
        let severity = if present >= TELLING { self.grave() } else { Severity::Warning };
        let message = format!("reads none of the {present} values of `{}` that were seen", column.name);
        let help = match self.field.kind {
            FieldKind::Date | FieldKind::Time | FieldKind::PartialDate => "declare their `format`, or map another column",
            _ => "map another column, or bring the values into form with `clean`, `extract` or `cel`",
        };
        Some(self.remark(severity, "wrong-type", message, help))
    }

    /// Fractions in a whole number.
    fn fraction(&self) -> Option<Remark> {
        let column = self.column();
        let fractions = match column.kind {
            ColumnType::Decimal { scale, .. } => scale > 0,
            ColumnType::Float32 | ColumnType::Float64 | ColumnType::VariableDecimal | ColumnType::Money => true,
            _ => false,
        };
        if !matches!(self.field.kind, FieldKind::Int) || !fractions {
            return None;
        }
        let help = format!("say how it is made whole, as cel = \"int(double(row['{}']))\"", column.name);
        let (whole, present) = (column.passes("integer"), self.present());
        if present > 0 && whole == present {
            let message = format!("takes whole numbers; {} may hold fractions, though none was seen", self.held());
            return Some(self.remark(Severity::Warning, "lossy", message, help));
        }
        let seen = if present > 0 { format!(" in {} {}", present - whole, self.sampled()) } else { String::new() };
        let message = format!("takes whole numbers, and {} holds fractions{seen}", self.held());
        Some(self.remark(Severity::Error, "lossy", message, help))
    }

    /// Times of day that a date leaves out, without being told so by a `format`.
    fn time_of_day(&self) -> Option<Remark> {
        let column = self.column();
        let timed = matches!(column.kind, ColumnType::Timestamp { .. } | ColumnType::ZonedTimestamp { .. });
        if !matches!(self.field.kind, FieldKind::Date | FieldKind::PartialDate) || !self.mapping.formats.is_empty() {
            return None;
        }
        let help = "if the day alone is meant, say so: format = \"yyyy-MM-dd HH:mm:ss\"";
        match (column.passes(TIME_OF_DAY), self.present()) {
            (0, 0) if timed => {
                let message = format!("takes a day, and {} holds times of day", self.held());
                Some(self.remark(Severity::Warning, "lossy", message, help))
            }
            (0, _) => None,
            (rows, _) => {
                let message = format!("takes a day, and `{}` holds a time of day in {rows} {}", column.name, self.sampled());
                // The forms of a text are read one by one, a time as the day on which it is.
                Some(self.remark(if timed { Severity::Error } else { Severity::Warning }, "lossy", message, help))
            }
        }
    }

    /// Texts that are longer than the field.
    fn length(&self) -> Option<Remark> {
        let max = match self.field.kind {
            FieldKind::Text { max }
            | FieldKind::Name { max }
            | FieldKind::Address { max }
            | FieldKind::Phone { max }
            | FieldKind::Identifier { max }
            | FieldKind::RegistrationNo { max } => max,
            _ => return None,
        };
        let column = self.column();
        let longest = column.length.map_or(0, |length| length.max as usize);
        if longest > max {
            let message = format!("takes {max} characters, and `{}` holds a value of {longest}", column.name);
            let help = format!("the longest {}; take a part of it with `extract`, or map another column", self.sampled());
            return Some(self.remark(self.grave(), "lossy", message, help));
        }
        let declared = declared_length(column).filter(|declared| *declared > max)?;
        let message = format!("takes {max} characters, and `{}` is declared for {declared}", column.name);
        let help = format!("longer values are refused; the longest {} has {longest}", self.sampled());
        Some(self.remark(Severity::Warning, "lossy", message, help))
    }

    /// More places than the field has, once the amount is in its unit.
    fn places(&self) -> Option<Remark> {
        let (FieldKind::Decimal { scale, .. }, ColumnType::Decimal { scale: held, .. }) = (&self.field.kind, &self.column().kind)
        else {
            return None;
        };
        let shift = match self.mapping.unit {
            Some(UnitSource::Fixed(Unit::Yuan)) => 4,
            _ => 0,
        };
        let places = u32::from(*held) + shift;
        if places <= *scale {
            return None;
        }
        let message = format!("has {scale} places, and {} gives {places}: it is rounded", self.held());
        Some(self.remark(Severity::Warning, "lossy", message, "amounts stand in 万元 in the standard"))
    }

    /// Binary fractions in an amount.
    fn float(&self) -> Option<Remark> {
        let digits = match self.column().kind {
            ColumnType::Float32 => 7,
            ColumnType::Float64 => 15,
            _ => return None,
        };
        if !matches!(self.field.kind, FieldKind::Decimal { .. }) {
            return None;
        }
        let message = format!("is an exact number, and {} holds about {digits} digits of one", self.held());
        Some(self.remark(Severity::Warning, "lossy", message, "let the department keep amounts as numeric(18,2)"))
    }

    /// Times of which nobody said in which zone they are.
    fn zone(&self) -> Option<Remark> {
        if !matches!(self.field.kind, FieldKind::Time) || !matches!(self.column().kind, ColumnType::Timestamp { .. }) {
            return None;
        }
        let message = format!("is an instant, and {} has no time zone", self.held());
        let help = "say in exchange.toml which one is meant: time_zone = \"Asia/Shanghai\"";
        Some(self.remark(Severity::Warning, "no-time-zone", message, help))
    }
}

/// What a field reads, as far as a column's type can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Day,
    Instant,
    Number,
    /// A number or code of letters and digits.
    Code,
    Words,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Day => "a day",
            Self::Instant => "an instant",
            Self::Number => "a number",
            Self::Code => "a code",
            Self::Words => "a text",
        }
    }
}

fn wanted(kind: &FieldKind) -> Option<Wanted> {
    Some(match kind {
        FieldKind::Date | FieldKind::PartialDate => Wanted::Day,
        FieldKind::Time => Wanted::Instant,
        FieldKind::Decimal { .. } | FieldKind::Int => Wanted::Number,
        FieldKind::Name { .. } | FieldKind::Address { .. } | FieldKind::Url => Wanted::Words,
        FieldKind::Phone { .. }
        | FieldKind::RegistrationNo { .. }
        | FieldKind::BusinessRegistration
        | FieldKind::CitizenId
        | FieldKind::Uscc
        | FieldKind::OrgCode
        | FieldKind::Mobile
        | FieldKind::BankCard
        | FieldKind::ProjectCode
        | FieldKind::Division
        | FieldKind::Industry
        | FieldKind::Education => Wanted::Code,
        // Texts and identifiers take whatever there is; lists and steps come in many forms.
        FieldKind::Text { .. } | FieldKind::Identifier { .. } | FieldKind::Code(_) | FieldKind::Codes(_) | FieldKind::Steps => {
            return None;
        }
    })
}

fn takes(wanted: Wanted, kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Text
        | ColumnType::Other
        | ColumnType::Enum { .. }
        | ColumnType::Xml
        | ColumnType::Json
        | ColumnType::Ltree => true,
        ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::UInt32 => wanted != Wanted::Words,
        ColumnType::Decimal { .. } | ColumnType::VariableDecimal | ColumnType::Float32 | ColumnType::Float64 => {
            wanted != Wanted::Words
        }
        ColumnType::Money => wanted == Wanted::Number,
        ColumnType::Date => wanted == Wanted::Day,
        ColumnType::Timestamp { .. } | ColumnType::ZonedTimestamp { .. } => matches!(wanted, Wanted::Day | Wanted::Instant),
        ColumnType::Array(_) => matches!(wanted, Wanted::Words | Wanted::Code),
        ColumnType::Bool
        | ColumnType::Bytes
        | ColumnType::Time { .. }
        | ColumnType::ZonedTime
        | ColumnType::Interval
        | ColumnType::Uuid
        | ColumnType::Bit { .. }
        | ColumnType::Point
        | ColumnType::Hstore
        | ColumnType::TsVector => false,
    }
}

/// The profile's check that tells what a field of this kind reads.
fn check_of(kind: &FieldKind, mapping: &FieldMapping) -> Option<&'static str> {
    let old = mapping.edition.as_deref() == Some("2011");
    Some(match kind {
        FieldKind::Uscc => "uscc",
        FieldKind::OrgCode => "org_code",
        FieldKind::CitizenId => "citizen_id",
        FieldKind::BusinessRegistration => "registration_no",
        FieldKind::Mobile => "mobile",
        FieldKind::BankCard => "bank_card",
        FieldKind::ProjectCode => "project_code",
        FieldKind::Division => "division",
        FieldKind::Industry if old => "industry:2011",
        FieldKind::Industry => "industry",
        FieldKind::Date => "date",
        FieldKind::Time => "time",
        FieldKind::PartialDate => "partial_date",
        FieldKind::Decimal { .. } => "decimal",
        FieldKind::Int => "integer",
        _ => return None,
    })
}

/// `character varying(200)`, `char(18)`: the characters that a text column is declared for.
fn declared_length(column: &ColumnProfile) -> Option<usize> {
    let of_text = matches!(column.kind, ColumnType::Text);
    let (_, rest) = column.declared.split_once('(').filter(|_| of_text)?;
    rest.strip_suffix(')')?.trim().parse().ok()
}
