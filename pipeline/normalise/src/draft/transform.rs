//! What is done to a column's values on their way into a field: formats, units, editions, code lists, splitting.

use std::collections::BTreeMap;

use guitong_schemas::profile::{ColumnProfile, TIME_OF_DAY, TableProfile};
use guitong_schemas::standard::{CodeList, EntityField, FieldKind, Standard};
use guitong_schemas::table::ColumnType;
use serde::Serialize;

use super::evidence::Values;
use super::vocabulary;

/// Options of a mapping, as its file has them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Transform {
    #[serde(rename = "const", skip_serializing_if = "Option::is_none")]
    pub constant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cel: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub format: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub open_end: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// The column in which the unit of each value stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edition: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, String>,
    /// Values for which no code was found: a person has to say what they mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

impl Transform {
    /// What stands before a bracket.
    pub(super) fn before(column: &str, (open, _): (char, char)) -> Self {
        Self { cel: Some(format!("row[{}].split('{open}')[0]", quoted(column))), ..Self::default() }
    }

    /// What stands in brackets.
    pub(super) fn within(column: &str, (open, close): (char, char)) -> Self {
        let cel = format!("row[{}].split('{open}')[1].replace('{close}', '')", quoted(column));
        Self { cel: Some(cel), ..Self::default() }
    }

    /// Something of it has to be added by a person.
    pub(super) fn is_open(&self) -> bool {
        !self.unknown.is_empty()
    }
}

/// A text of the expression language.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The transform of a column into a field, and what is not sure of it.
pub(super) fn of(
    table: &TableProfile,
    column: &ColumnProfile,
    field: &EntityField,
    standard: &Standard,
) -> (Transform, Option<String>) {
    let values = Values::of(table, column);
    let mut transform = Transform::default();
    let unsure = match &field.kind {
        FieldKind::Date | FieldKind::Time => {
            transform.open_end = matches!(field.kind, FieldKind::Date)
                && (field.name.ends_with("_to") || values.as_ref().is_some_and(|values| values.share("open_end") > 0.0));
            if matches!(field.kind, FieldKind::Date) && holds_times_of_day(column) {
                // Said in so many words, since the time of day is left out.
                transform.format.push("yyyy-MM-dd HH:mm:ss".to_owned());
                None
            } else {
                values.as_ref().and_then(|values| formats(values, &mut transform))
            }
        }
        FieldKind::Decimal { .. } => unit(table, column, values.as_ref(), &mut transform),
        FieldKind::Industry => edition(values.as_ref(), &mut transform, field),
        FieldKind::Education => {
            let unsure = edition(values.as_ref(), &mut transform, field);
            if transform.edition.is_none() { codes(column, field, standard, &mut transform).or(unsure) } else { unsure }
        }
        FieldKind::Code(_) | FieldKind::Codes(_) => codes(column, field, standard, &mut transform),
        FieldKind::Steps => Some("steps are made of several rows, or of the text of one".to_owned()),
        _ => None,
    };
    if may_split(field)
        && let Some(separator) = values.as_ref().and_then(separator)
    {
        transform.split = Some(separator);
        transform.unknown.clear();
    }
    (transform, unsure)
}

/// Whether a column of instants holds more than days, as far as was seen.
fn holds_times_of_day(column: &ColumnProfile) -> bool {
    let timed = matches!(column.kind, ColumnType::Timestamp { .. } | ColumnType::ZonedTimestamp { .. });
    timed && (column.passes(TIME_OF_DAY) > 0 || column.checks.is_empty())
}

/// Formats where the values are not read without.
fn formats(values: &Values<'_>, transform: &mut Transform) -> Option<String> {
    let plain = values.share("date").max(values.share("time"));
    if plain >= 0.95 {
        return None;
    }
    let mut declared: Vec<(&str, f64)> = values
        .column
        .checks
        .keys()
        .filter_map(|check| Some((check.strip_prefix("date:")?, values.share(check))))
        .filter(|(_, share)| *share >= 0.05)
        .collect();
    declared.sort_by(|left, right| right.1.total_cmp(&left.1));
    let (first, share) = declared.first()?;
    transform.format.push((*first).to_owned());
    if plain > 0.02 {
        // Declared formats are read alone: the forms that need none have to be declared with them.
        let shapes = values.column.shapes.iter().filter_map(|shape| pattern(&shape.value));
        for shape in shapes {
            if !transform.format.contains(&shape) {
                transform.format.push(shape);
            }
        }
    }
    (plain + share < 0.9).then(|| format!("{:.0} % of values read as dates so", (plain + share) * 100.0))
}

/// The format of a shape that begins with a year of four digits.
fn pattern(shape: &str) -> Option<String> {
    const UNITS: [&str; 6] = ["yyyy", "M", "d", "H", "m", "s"];
    if shape == "d8" {
        return Some("yyyyMMdd".to_owned());
    }
    if shape == "d14" {
        return Some("yyyyMMddHHmmss".to_owned());
    }
    let mut pattern = String::new();
    let mut units = UNITS.iter();
    let mut letters = shape.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != 'd' {
            if letter.is_ascii_alphabetic() {
                return None;
            }
            pattern.push(letter);
            continue;
        }
        let digits: String = std::iter::from_fn(|| letters.next_if(char::is_ascii_digit)).collect();
        let unit = units.next()?;
        match (*unit, digits.as_str()) {
            ("yyyy", "4") => pattern.push_str(unit),
            ("yyyy", _) => return None,
            ("m" | "s", "2") => pattern.push_str(&unit.repeat(2)),
            (_, "1" | "2") => pattern.push_str(unit),
            _ => return None,
        }
    }
    // A year, a month and a day at least.
    (units.len() <= 3).then_some(pattern)
}

/// The unit that name, comment or values tell.
fn unit(table: &TableProfile, column: &ColumnProfile, values: Option<&Values<'_>>, transform: &mut Transform) -> Option<String> {
    let told = format!("{} {}", column.name, column.comment.as_deref().unwrap_or_default());
    if let Some(beside) = unit_column(table) {
        transform.unit_from = Some(beside.to_owned());
        return None;
    }
    let written = ["亿元", "万元", "元"].into_iter().find(|unit| told.contains(unit));
    if written.is_some() {
        transform.unit = written;
        return None;
    }
    let Some(values) = values else { return Some("unit not told: 万元 is taken".to_owned()) };
    let shaped = |unit: char| values.shaped(unit);
    if shaped('元') + shaped('h') >= 0.5 && values.share("decimal") >= 0.8 {
        return Some("each value has its own unit".to_owned());
    }
    // Capital of a million and more in 万元 would be ten billion.
    let grouped = values.shaped(',') >= 0.3;
    let large: u64 = values.column.shapes.iter().filter(|shape| whole_digits(&shape.value) >= 6).map(|shape| shape.rows).sum();
    let all: u64 = values.column.shapes.iter().map(|shape| shape.rows).sum();
    if grouped || large * 2 > all {
        transform.unit = Some("元");
        return Some("unit guessed from the size of the values".to_owned());
    }
    Some("unit not told: 万元 is taken".to_owned())
}

/// A column whose values are units of money.
fn unit_column(table: &TableProfile) -> Option<&str> {
    const UNITS: [&str; 6] = ["元", "万元", "亿元", "％", "%", "人民币元"];
    let is_unit = |column: &&ColumnProfile| {
        let money = column.values.iter().any(|counted| counted.value.ends_with('元'));
        money && column.values.iter().all(|counted| UNITS.contains(&counted.value.as_str()))
    };
    table.columns.iter().find(is_unit).map(|column| column.name.as_str())
}

/// Digits before the point of a shape like `d1,d3,d3.d2`.
fn whole_digits(shape: &str) -> u32 {
    let whole = shape.split('.').next().unwrap_or_default();
    whole.split(',').filter_map(|run| run.strip_prefix('d')?.parse::<u32>().ok()).sum()
}

fn edition(values: Option<&Values<'_>>, transform: &mut Transform, field: &EntityField) -> Option<String> {
    let old = field.editions().get(1).copied()?;
    if matches!(field.kind, FieldKind::Industry) {
        return Some(format!("edition not told by the values: add edition = \"{old}\" if it is that one"));
    }
    let values = values?;
    // Whole tens alone are the main classes of 1984; its 50 is in no later edition.
    let listed = &values.column.values;
    let tens = listed.iter().all(|counted| counted.value.len() == 2 && counted.value.ends_with('0'));
    if listed.len() >= 3 && tens && values.share("education:1984") >= 0.9 {
        transform.edition = Some(old);
        return Some("whole tens alone, as in the edition of 1984".to_owned());
    }
    let (by_code, by_name) = values.listed("gbt4658_education");
    (by_code > by_name).then(|| format!("edition not told by the values: add edition = \"{old}\" if it is that one"))
}

/// A code for each value that the list does not know itself.
fn codes(column: &ColumnProfile, field: &EntityField, standard: &Standard, transform: &mut Transform) -> Option<String> {
    let list = field.code_list()?;
    let legend = legend(column.comment.as_deref().unwrap_or_default());
    let translated: BTreeMap<String, String> =
        legend.iter().filter_map(|(value, words)| Some((value.clone(), vocabulary::meaning(list, words)?))).collect();
    // What the comment explains holds, also where the value is a code of the list and means another thing there.
    if !translated.is_empty() && translated.iter().any(|(value, code)| value != code) {
        transform.codes = translated;
    }
    for counted in &column.values {
        if let Some(code) = vocabulary::national_code(&column.name, &counted.value).filter(|code| list.contains(code)) {
            transform.codes.entry(counted.value.clone()).or_insert_with(|| code.to_owned());
        }
    }
    if let Some(unsure) = female_is_zero(field, column, transform) {
        return Some(unsure);
    }
    let own = column.values.iter().map(|counted| counted.value.as_str());
    let open: Vec<&str> = own.filter(|value| !transform.codes.contains_key(*value) && list.find(value).is_none()).collect();
    if open.is_empty() {
        // 1, 2, 3 are codes of every short list, and seldom mean the same.
        let digits = column.values.iter().any(|counted| counted.value.len() == 1 && list.contains(&counted.value));
        let alike = digits && transform.codes.is_empty() && field.name != "sex";
        return alike.then(|| "codes of one digit: see that they mean here what they mean in the standard".to_owned());
    }
    let mut guessed = false;
    for value in open {
        let sure = vocabulary::meaning(list, value).or_else(|| in_other_list(standard, field, list, value));
        let code = sure.or_else(|| tens(list, value).inspect(|_| guessed = true));
        match code {
            Some(code) => drop(transform.codes.insert(value.to_owned(), code)),
            None => transform.unknown.push(value.to_owned()),
        }
    }
    match (transform.unknown.len(), guessed) {
        (0, true) => Some("codes of one digit taken for tens".to_owned()),
        (0, false) => None,
        (count, _) => Some(format!("{count} values need a code")),
    }
}

/// A sex of 0 and 1 alone is not the standard's list, in which 0 is unknown.
fn female_is_zero(field: &EntityField, column: &ColumnProfile, transform: &mut Transform) -> Option<String> {
    let mut values: Vec<&str> = column.values.iter().map(|counted| counted.value.as_str()).collect();
    values.sort_unstable();
    if field.name != "sex" || values != ["0", "1"] || !transform.codes.is_empty() {
        return None;
    }
    transform.codes = [("0", "2"), ("1", "1")].map(|(value, code)| (value.to_owned(), code.to_owned())).into();
    Some("0 and 1 alone: 0 taken for female".to_owned())
}

/// The code with the same name in another scheme of document types: 201 of the tax offices.
fn in_other_list(standard: &Standard, field: &EntityField, list: &CodeList, value: &str) -> Option<String> {
    if !field.name.ends_with("doc_type") {
        return None;
    }
    let others = ["id_document_types:tax", "id_document_types:税", "id_document_types:credit", "field_lists:credit_doc_type"];
    let others = others.iter().filter_map(|other| standard.code_list(other).ok());
    let mut named = others.filter_map(|other| Some(other.get(value)?.name.to_string()));
    let card = || matches!(value, "1" | "01" | "10" | "SFZ").then(|| "居民身份证".to_owned());
    vocabulary::meaning(list, &named.next().or_else(card)?)
}

/// A list of tens whose zeros the department leaves out: 1 未婚 for 10.
fn tens(list: &CodeList, value: &str) -> Option<String> {
    let code = format!("{value}0");
    (value.len() == 1 && value != "0" && list.contains(&code)).then_some(code)
}

/// Codes that a comment explains: `状态：1存续 2吊销，3-注销`, `0=女;1=男`.
fn legend(comment: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = comment;
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_alphanumeric()) {
        let from = rest.get(at..).unwrap_or_default();
        let end = from.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(from.len());
        let (code, after) = from.split_at(end);
        let words = after.trim_start_matches(|letter: char| " :：=-－—、.）)为是".contains(letter));
        let end = words.find(|letter: char| !is_word(letter)).unwrap_or(words.len());
        let (word, next) = words.split_at(end);
        if !word.is_empty() && code.len() <= 8 {
            found.push((code.to_owned(), word.to_owned()));
        }
        rest = next;
    }
    if found.len() >= 2 { found } else { Vec::new() }
}

fn is_word(letter: char) -> bool {
    letter.is_alphabetic() && !letter.is_ascii()
}

/// Fields of which one row may hold several.
fn may_split(field: &EntityField) -> bool {
    matches!(field.kind, FieldKind::Codes(_)) || field.name.starts_with("winner_")
}

fn separator(values: &Values<'_>) -> Option<&'static str> {
    let shaped = |separator: &str| separator.chars().next().map_or(0.0, |letter| values.shaped(letter));
    [";", "；", "、", "|", ","].into_iter().find(|separator| shaped(separator) >= 0.05)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_dates_are_formats() {
        for (shape, format) in [
            ("d4.d1.d2", Some("yyyy.M.d")),
            ("d4-d2-d2", Some("yyyy-M-d")),
            ("d8", Some("yyyyMMdd")),
            ("d4-d2-d2 d2:d2:d2", Some("yyyy-M-d H:mm:ss")),
            ("d2-d1-d2", None),
            ("d5", None),
            ("a", None),
        ] {
            assert_eq!(pattern(shape).as_deref(), format, "{shape}");
        }
    }

    #[test]
    fn comments_explain_codes() {
        let of = |comment| legend(comment).into_iter().map(|(code, word)| format!("{code}{word}")).collect::<Vec<_>>();
        assert_eq!(of("状态：1存续 2吊销，3-注销"), ["1存续", "2吊销", "3注销"]);
        assert_eq!(of("性别(0=女;1=男)"), ["0女", "1男"]);
        assert!(of("第1类证件").is_empty());
    }

    #[test]
    fn digits_before_the_point_are_counted() {
        assert_eq!((whole_digits("d1,d3,d3.d2"), whole_digits("d3.d2"), whole_digits("h")), (7, 3, 0));
    }
}
