//! Unified social credit codes (GB 32100-2015) and organisation codes (GB 11714-1997).

use std::borrow::Cow;

use super::super::facts::Facts;
use super::super::finding::{Remarks, Rule};
use super::clean::clean;

/// 3^(i-1) mod 31.
const WEIGHTS: [u32; 17] = [1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28];

const ALPHABET: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

/// Values of the credit code's 31 characters; 255 elsewhere.
const VALUES: [u8; 128] = {
    let mut values = [255; 128];
    let mut at = 0;
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

fn value(letter: u8) -> Option<u32> {
    VALUES.get(usize::from(letter)).filter(|value| **value != 255).map(|value| u32::from(*value))
}

/// Checks a credit code. Category, division and inner organisation code only warn: real registers hold exceptions.
pub(crate) fn credit_code<'a>(text: &'a str, facts: &Facts, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let cleaned = clean(text)?;
    let code: [u8; 18] = cleaned.text.as_bytes().try_into().map_err(|_| Rule::UsccLength)?;
    let mut sum = 0;
    for (letter, weight) in code.iter().zip(WEIGHTS) {
        sum += value(*letter).ok_or(Rule::UsccAlphabet)? * weight;
    }
    let [department, category, division @ .., check] = code;
    // 31 - 0 is 31, which is written 0.
    if value(check).ok_or(Rule::UsccAlphabet)? != (31 - sum % 31) % 31 {
        return Err(Rule::UsccCheckDigit);
    }
    if !facts.categories.has_department(department) {
        return Err(Rule::UsccDepartment);
    }
    if !facts.categories.is_certain(department, category) {
        remarks.warn(Rule::UsccCategory);
    }
    let (division, organisation) = division.split_at(6);
    if !number(division).is_some_and(|division| division == 100_000 || facts.divisions.in_national_list(division)) {
        remarks.warn(Rule::UsccDivision);
    }
    if organisation_check(organisation).is_none() {
        remarks.warn(Rule::UsccOrganisation);
    }
    Ok(cleaned.noted(remarks))
}

/// ASCII digits as a number; `None` for anything else.
pub(crate) fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |number, digit| {
        digit.is_ascii_digit().then(|| number.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')))
    })
}

/// Checks an organisation code.
pub(crate) fn organisation_code<'a>(text: &'a str, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let cleaned = clean(text)?;
    let code = cleaned.text.as_bytes();
    let form = code.len() == 9
        && code.iter().all(|letter| letter.is_ascii_digit() || letter.is_ascii_uppercase())
        && code.last().is_some_and(|check| check.is_ascii_digit() || *check == b'X');
    if !form {
        return Err(Rule::OrgCodeForm);
    }
    organisation_check(code).ok_or(Rule::OrgCodeCheckDigit)?;
    Ok(cleaned.noted(remarks))
}

/// `Some` where the ninth character is the check of the eight before it.
fn organisation_check(code: &[u8]) -> Option<()> {
    let (body, check) = code.split_at_checked(8)?;
    let mut sum = 0;
    for (letter, weight) in body.iter().zip([3, 7, 9, 10, 5, 8, 4, 2]) {
        sum += char::from(*letter).to_digit(36)? * weight;
    }
    let expected = match 11 - sum % 11 {
        10 => b'X',
        11 => b'0',
        // 1 to 9
        digit => b'0' + u8::try_from(digit).ok()?,
    };
    (check == [expected]).then_some(())
}
