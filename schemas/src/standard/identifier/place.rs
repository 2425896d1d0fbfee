//! Division codes (GB/T 2260), industries (GB/T 4754) and education (GB/T 4658) with their editions.

use std::borrow::Cow;

use super::super::codes::pack;
use super::super::facts::{Facts, Standing};
use super::super::finding::{Remarks, Rule};
use super::clean::clean;
use super::credit::number;

/// A six-digit division in force, or a retired one that has no single successor. Empty: all zeros.
pub(crate) fn division<'a>(text: &'a str, facts: &Facts, remarks: &mut Remarks<'_>) -> Result<Option<Cow<'a, str>>, Rule> {
    if text.len() == 6
        && let Some(code) = number(text.as_bytes())
        && facts.divisions.standing(code) == Standing::Current
    {
        return Ok(Some(Cow::Borrowed(text)));
    }
    let cleaned = clean(text)?;
    let whole = cleaned.text.strip_suffix(".0").unwrap_or(&cleaned.text);
    if whole.is_empty() || !whole.bytes().all(|b| b.is_ascii_digit()) || cleaned.separators {
        return Err(Rule::DivisionForm);
    }
    if matches!(whole.len(), 2 | 4 | 6 | 12) && whole.bytes().all(|b| b == b'0') {
        return Ok(None);
    }
    // Two and four digits name a province and a prefecture, twelve a statistical area within a county.
    let read = |digits: &str, unit: u32| digits.parse::<u32>().map(|number| number * unit).map_err(|_| Rule::DivisionForm);
    let code = match whole.len() {
        2 => read(whole, 10_000)?,
        4 => read(whole, 100)?,
        6 => read(whole, 1)?,
        12 => read(whole.get(..6).unwrap_or_default(), 1)?,
        _ => return Err(Rule::DivisionForm),
    };
    let shortened = whole.len() != 6 || whole.len() != cleaned.text.len();
    let current = match facts.divisions.standing(code) {
        Standing::Current => code,
        Standing::Successor(successor) => {
            remarks.note(Rule::DivisionRetired);
            successor
        }
        Standing::NoSuccessor => {
            remarks.warn(Rule::DivisionNoSuccessor);
            code
        }
        Standing::Unknown => return Err(Rule::DivisionUnknown),
    };
    if shortened {
        remarks.note(Rule::DivisionShortened);
    } else if current == code {
        return Ok(Some(cleaned.noted(remarks)));
    }
    Ok(Some(Cow::Owned(format!("{current:06}"))))
}

/// Two to four digits of the 2017 edition.
pub(crate) fn industry<'a>(
    text: &'a str,
    edition_2011: bool,
    facts: &Facts,
    remarks: &mut Remarks<'_>,
) -> Result<Cow<'a, str>, Rule> {
    let cleaned = clean(text)?;
    let digits = cleaned.text.strip_prefix(|letter: char| ('A'..='T').contains(&letter)).unwrap_or(&cleaned.text);
    if !(2..=4).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) || cleaned.separators {
        return Err(Rule::IndustryForm);
    }
    let section = digits.len() != cleaned.text.len();
    let (head, tail) = digits.split_at_checked(2).ok_or(Rule::IndustryForm)?;
    let division: u8 = head.parse().map_err(|_| Rule::IndustryForm)?;
    let current = if edition_2011 { facts.industry.of_2011(division) } else { Some(division) };
    let current = current.filter(|current| facts.industry.has_division(*current)).ok_or(Rule::IndustryUnknown)?;
    if section {
        remarks.note(Rule::IndustrySection);
    }
    if current != division {
        remarks.note(Rule::IndustryConverted);
        return Ok(Cow::Owned(format!("{current:02}{tail}")));
    }
    if section { Ok(Cow::Owned(digits.to_owned())) } else { Ok(cleaned.noted(remarks)) }
}

/// A code of GB/T 4658-1984, or its name, as one of 2006. Classes within a main class go to the main class, with a warning.
pub(crate) fn education_1984(text: &str, facts: &Facts, remarks: &mut Remarks<'_>) -> Result<Option<String>, Rule> {
    let cleaned = clean(text)?.text;
    if cleaned.bytes().all(|b| b == b'0') {
        return Ok(None);
    }
    let named = facts.education_1984_names.find_otherwise(&cleaned).map(|(code, _)| &*code.code);
    let old = named.unwrap_or(&cleaned);
    let main = || {
        let tens = old.get(..1).filter(|_| old.len() == 2 && old.bytes().all(|b| b.is_ascii_digit()))?;
        facts.education_1984.get(&pack(&format!("{tens}0"))?)
    };
    let exact = pack(old).and_then(|packed| facts.education_1984.get(&packed));
    let now = exact.or_else(main).ok_or(Rule::CodeUnknown)?;
    if now.estimated || exact.is_none() {
        remarks.warn(Rule::CodeEstimated);
    } else {
        remarks.note(Rule::CodeConverted);
    }
    Ok(Some(now.code.to_string()))
}
