//! Column types from SQLite's declared types, and values into the text form of the row image.
//!
//! A declared type is a wish in SQLite: any column may hold any value. What does not go with its column's type is not lost: the
//! column becomes text from that row on, under a new schema version.

use std::borrow::Cow;

use guitong_schemas::table::ColumnType;

use super::literal::Literal;

/// Noise of binary fractions in a decimal column is rounded away below this share of the value.
const NOISE: f64 = 1e-12;

/// Dates and times stay text: SQLite has no type for them, and what a column declared DATE holds is the application's choice.
pub(super) fn of_declared(declared: &str) -> ColumnType {
    let upper = declared.to_ascii_uppercase();
    let has = |word: &str| upper.contains(word);
    if has("BOOL") {
        ColumnType::Bool
    } else if has("INT") {
        ColumnType::Int64
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        ColumnType::Text
    } else if has("BLOB") {
        ColumnType::Bytes
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        ColumnType::Float64
    } else if has("DEC") || has("NUMERIC") {
        decimal(&upper).unwrap_or(ColumnType::Text)
    } else {
        ColumnType::Text
    }
}

/// `DECIMAL(18,2)`; without digits there is no scale to encode by.
fn decimal(declared: &str) -> Option<ColumnType> {
    let (_, inner) = declared.split_once('(')?;
    let (inner, _) = inner.split_once(')')?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let (precision, scale): (u16, u16) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    (precision > 0 && scale <= precision).then_some(ColumnType::Decimal { precision, scale })
}

/// The value in the row image's text form; `None` where the type does not hold it. What is no value is none in any type.
pub(super) fn text_of<'a>(value: &'a Literal<'a>, kind: &ColumnType) -> Option<Cow<'a, [u8]>> {
    match (kind, value) {
        (ColumnType::Bool, Literal::Integer(b"1")) => Some(Cow::Borrowed(b"t")),
        (ColumnType::Bool, Literal::Integer(b"0")) => Some(Cow::Borrowed(b"f")),
        (ColumnType::Int64, Literal::Integer(digits)) => fits_long(digits).then_some(Cow::Borrowed(*digits)),
        (ColumnType::Float64, Literal::Integer(number) | Literal::Real(number)) => Some(Cow::Borrowed(*number)),
        (ColumnType::Decimal { .. }, Literal::Integer(digits)) => Some(Cow::Borrowed(*digits)),
        (ColumnType::Decimal { scale, .. }, Literal::Real(number)) => {
            round(number, *scale).map(|text| Cow::Owned(text.into_bytes()))
        }
        (ColumnType::Bytes, Literal::Blob(digits)) => Some(Cow::Owned([b"\\x", *digits].concat())),
        (ColumnType::Bytes, Literal::Text(text)) => Some(Cow::Owned(format!("\\x{}", hex::encode(text)).into_bytes())),
        (ColumnType::Bytes, Literal::Integer(text) | Literal::Real(text)) => {
            Some(Cow::Owned(format!("\\x{}", hex::encode(text)).into_bytes()))
        }
        (ColumnType::Text, value) => plain(value),
        _ => None,
    }
}

/// Any value as text; a blob as `\x` and hexadecimal digits.
fn plain<'a>(value: &'a Literal<'a>) -> Option<Cow<'a, [u8]>> {
    match value {
        Literal::Null | Literal::TooLarge => None,
        Literal::Integer(text) | Literal::Real(text) => Some(Cow::Borrowed(*text)),
        Literal::Text(text) => Some(Cow::Borrowed(text)),
        Literal::Blob(digits) => Some(Cow::Owned([b"\\x", *digits].concat())),
    }
}

fn fits_long(digits: &[u8]) -> bool {
    std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<i64>().is_ok())
}

/// A binary fraction as a decimal with `scale` digits, where only noise is rounded away.
fn round(number: &[u8], scale: u16) -> Option<String> {
    let value: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    let text = format!("{value:.*}", usize::from(scale));
    let rounded: f64 = text.parse().ok()?;
    ((rounded - value).abs() <= value.abs() * NOISE).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_follow_sqlites_affinity() {
        for (declared, kind) in [
            ("INTEGER", ColumnType::Int64),
            ("bigint unsigned", ColumnType::Int64),
            ("VARCHAR(20)", ColumnType::Text),
            ("DECIMAL(18, 4)", ColumnType::Decimal { precision: 18, scale: 4 }),
            ("NUMERIC(5)", ColumnType::Decimal { precision: 5, scale: 0 }),
            ("NUMERIC", ColumnType::Text),
            ("double precision", ColumnType::Float64),
            ("BOOLEAN", ColumnType::Bool),
            ("BLOB", ColumnType::Bytes),
            ("DATE", ColumnType::Text),
            ("", ColumnType::Text),
        ] {
            assert_eq!(of_declared(declared), kind, "{declared}");
        }
    }

    #[test]
    fn a_value_goes_with_its_type_or_is_refused() {
        let amount = ColumnType::Decimal { precision: 18, scale: 2 };
        for (value, kind, text) in [
            (Literal::Real(b"0.30000000000000004"), &amount, Some("0.30")),
            (Literal::Real(b"1.0e+06"), &amount, Some("1000000.00")),
            (Literal::Real(b"12.345"), &amount, None),
            (Literal::Text(Cow::Borrowed("面议".as_bytes())), &amount, None),
            (Literal::Text(Cow::Borrowed(b"12a")), &ColumnType::Int64, None),
            (Literal::Integer(b"9223372036854775807"), &ColumnType::Int64, Some("9223372036854775807")),
            (Literal::Integer(b"2"), &ColumnType::Bool, None),
            (Literal::Blob(b"00ff"), &ColumnType::Bytes, Some("\\x00ff")),
            (Literal::Integer(b"7"), &ColumnType::Text, Some("7")),
        ] {
            let got = text_of(&value, kind).map(|text| String::from_utf8(text.into_owned()).unwrap());
            assert_eq!(got.as_deref(), text, "{value:?} as {kind:?}");
        }
    }
}
