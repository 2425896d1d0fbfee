//! Telephone numbers, bank cards (ISO/IEC 7812-1) and business registration numbers (GS 15-2006).

use std::borrow::Cow;

use super::super::characters::is_separator;
use super::super::finding::{Remarks, Rule};
use super::clean::{clean, fold};

/// Eleven digits, 1 then 3 to 9, after the country code and separators are gone. Allotment is not checked: it changes.
pub(crate) fn mobile<'a>(text: &'a str, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    if is_mobile(text) {
        return Ok(Cow::Borrowed(text));
    }
    let folded = fold(text)?;
    let (rest, country) = without_country(&folded);
    let cleaned = clean(rest)?;
    if !is_mobile(&cleaned.text) {
        return Err(Rule::MobileForm);
    }
    if country {
        remarks.note(Rule::MobileCountry);
    }
    let separators = cleaned.separators;
    let number = cleaned.text.into_owned();
    remarks.note(if separators { Rule::IdentifierSeparator } else { Rule::IdentifierRepaired });
    Ok(Cow::Owned(number))
}

fn is_mobile(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes, [b'1', b'3'..=b'9', ..]) && bytes.len() == 11 && bytes.iter().all(u8::is_ascii_digit)
}

/// The number after +86, 0086 or 86, which may stand in brackets.
fn without_country(text: &str) -> (&str, bool) {
    for prefix in ["(+86)", "(0086)", "(86)", "+86", "0086"] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return (rest.trim_start_matches(is_separator), true);
        }
    }
    // Two digits alone could begin another number: they are the country code only before a whole mobile number.
    match text.strip_prefix("86") {
        Some(rest) if rest.bytes().filter(u8::is_ascii_digit).count() == 11 => (rest.trim_start_matches(is_separator), true),
        _ => (text, false),
    }
}

/// One or several landline or mobile numbers, kept as written but for width.
pub(crate) fn phone<'a>(text: &'a str, max: usize, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    if text.len() <= max && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Cow::Borrowed(text));
    }
    let folded = fold(text)?;
    let allowed = |letter: char| letter.is_ascii_digit() || is_separator(letter) || "+()/,;、转分机xX#*.".contains(letter);
    if !folded.chars().all(allowed) || !folded.bytes().any(|b| b.is_ascii_digit()) {
        return Err(Rule::PhoneForm);
    }
    if folded.chars().count() > max {
        return Err(Rule::TextTooLong);
    }
    if folded != text {
        remarks.note(Rule::IdentifierRepaired);
    }
    Ok(folded)
}

/// 16 to 19 digits with the Luhn check.
pub(crate) fn bank_card<'a>(text: &'a str, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let cleaned = clean(text)?;
    let code = cleaned.text.as_bytes();
    if !(16..=19).contains(&code.len()) || !code.iter().all(u8::is_ascii_digit) || code.iter().all(|digit| *digit == b'0') {
        return Err(Rule::CardForm);
    }
    let digits = code.iter().rev().map(|digit| u32::from(digit - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| match at % 2 {
            0 => digit,
            // The digits of the double: 14 counts as 1 + 4.
            _ if digit > 4 => digit * 2 - 9,
            _ => digit * 2,
        })
        .sum();
    if !sum.is_multiple_of(10) {
        return Err(Rule::CardCheckDigit);
    }
    Ok(cleaned.noted(remarks))
}

/// Exactly 15 digits with their check digit.
pub(crate) fn business_registration<'a>(text: &'a str, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let cleaned = clean(text)?;
    let code = cleaned.text.as_bytes();
    if code.len() != 15 || !code.iter().all(u8::is_ascii_digit) {
        return Err(Rule::RegistrationForm);
    }
    if !registration_check(code) {
        return Err(Rule::RegistrationCheckDigit);
    }
    Ok(cleaned.noted(remarks))
}

/// A registration number of any layout: checked where it has 15 digits, kept as text otherwise.
pub(crate) fn registration<'a>(text: &'a str, max: usize, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let folded = fold(text)?;
    let fifteen = folded.len() == 15 && folded.bytes().all(|b| b.is_ascii_digit());
    if fifteen && !registration_check(folded.as_bytes()) {
        return Err(Rule::RegistrationCheckDigit);
    }
    if folded.chars().count() > max {
        return Err(Rule::TextTooLong);
    }
    if !fifteen {
        remarks.note(Rule::RegistrationOld);
    }
    if folded != text {
        remarks.note(Rule::IdentifierRepaired);
    }
    Ok(folded)
}

/// ISO 7064 MOD 11,10 over all 15 digits.
fn registration_check(code: &[u8]) -> bool {
    let Some((check, body)) = code.split_last() else { return false };
    let mut state = 10;
    for digit in body {
        let sum = (state + u32::from(digit - b'0')) % 10;
        state = (if sum == 0 { 10 } else { sum }) * 2 % 11;
    }
    (state + u32::from(check - b'0')) % 10 == 1
}

/// A number or code without a check: width folded, trimmed, nothing else changed.
pub(crate) fn identifier<'a>(text: &'a str, max: usize, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    if text.len() <= max && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(Cow::Borrowed(text));
    }
    let folded = fold(text)?;
    if folded.chars().count() > max {
        return Err(Rule::TextTooLong);
    }
    if folded != text {
        remarks.note(Rule::IdentifierRepaired);
    }
    Ok(folded)
}
