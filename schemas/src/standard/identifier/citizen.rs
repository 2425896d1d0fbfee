//! Citizen identification numbers (GB 11643-1999): 18 characters, and the 15 digits of before 1999.

use std::borrow::Cow;

use super::super::clock::{Clock, civil_from_days, days_from_civil};
use super::super::facts::Facts;
use super::super::finding::{Remarks, Rule};
use super::clean::clean;
use super::credit::number;

/// 2^(17-i) mod 11 from the left.
const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];

/// Check characters by the remainder (ISO 7064 MOD 11-2).
const CHECKS: [u8; 11] = *b"10X98765432";

/// First plausible year of birth.
const FIRST_YEAR: i32 = 1850;

/// Checks a citizen number; one of 15 digits becomes one of 18.
pub(crate) fn citizen_number<'a>(
    text: &'a str,
    facts: &Facts,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<Cow<'a, str>, Rule> {
    let cleaned = clean(text)?;
    let separators = cleaned.separators;
    let number = match cleaned.text.len() {
        18 => {
            let code: [u8; 18] = cleaned.text.as_bytes().try_into().map_err(|_| Rule::CitizenForm)?;
            let birth = check_eighteen(code, facts, clock)?;
            doubt_division(birth, facts, code, remarks);
            cleaned.text
        }
        15 => {
            let code = widen(cleaned.text.as_bytes())?;
            // Numbers of 15 digits were given out before 1999 under the codes of their day, whatever the table's years say.
            check_eighteen(code, facts, clock)?;
            remarks.note(Rule::CitizenConverted);
            Cow::Owned(code.iter().map(|letter| char::from(*letter)).collect())
        }
        _ => return Err(Rule::CitizenForm),
    };
    if separators {
        remarks.warn(Rule::CitizenSeparator);
    } else if matches!(number, Cow::Owned(_)) && text.len() != 15 {
        remarks.note(Rule::IdentifierRepaired);
    }
    Ok(number)
}

/// Year of birth of a number that holds.
fn check_eighteen(code: [u8; 18], facts: &Facts, clock: &Clock<'_>) -> Result<i32, Rule> {
    let [body @ .., check] = code;
    if !body.iter().all(u8::is_ascii_digit) || !(check.is_ascii_digit() || check == b'X') {
        return Err(Rule::CitizenForm);
    }
    if check != check_character(&body) {
        return Err(Rule::CitizenCheckDigit);
    }
    let division = number(body.get(..6).unwrap_or_default()).ok_or(Rule::CitizenForm)?;
    if facts.divisions.citizen_years(division).is_none() {
        return Err(Rule::CitizenDivision);
    }
    let birth = birth_date(&body).ok_or(Rule::CitizenBirth)?;
    let (year, ..) = civil_from_days(birth);
    if year < FIRST_YEAR {
        return Err(Rule::CitizenBirth);
    }
    if birth > clock.today {
        return Err(Rule::CitizenFuture);
    }
    Ok(year)
}

/// Whether a text is a citizen number of 18 characters, or one with the two digits that tax numbers of individuals add.
pub(crate) fn holds_citizen_number(text: &str, facts: &Facts, clock: &Clock<'_>) -> bool {
    let number = text.as_bytes().get(..18).and_then(|head| <[u8; 18]>::try_from(head).ok());
    matches!(text.len(), 18 | 20) && number.is_some_and(|number| check_eighteen(number, facts, clock).is_ok())
}

/// Warns where the code was not in force in the year of birth: such numbers exist, given at a later registration.
fn doubt_division(birth_year: i32, facts: &Facts, code: [u8; 18], remarks: &mut Remarks<'_>) {
    let years = number(code.get(..6).unwrap_or_default()).and_then(|division| facts.divisions.citizen_years(division));
    let Some(years) = years else { return };
    if birth_year < i32::from(years.from) {
        remarks.warn(Rule::CitizenBeforeDivision);
    }
    if birth_year > i32::from(years.to) {
        remarks.warn(Rule::CitizenAfterDivision);
    }
}

fn check_character(body: &[u8; 17]) -> u8 {
    let sum: u32 = body.iter().zip(WEIGHTS).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    CHECKS.get((sum % 11) as usize).copied().unwrap_or_default()
}

/// Inserts the century and appends the check character. Sequences 996 to 999 were those of the centenarians of 1984.
fn widen(code: &[u8]) -> Result<[u8; 18], Rule> {
    if !code.iter().all(u8::is_ascii_digit) {
        return Err(Rule::CitizenForm);
    }
    let (division, rest) = code.split_at_checked(6).ok_or(Rule::CitizenForm)?;
    let century: &[u8] = if rest.get(6..).is_some_and(|sequence| sequence >= b"996".as_slice()) { b"18" } else { b"19" };
    let mut body = [0; 17];
    for (held, digit) in body.iter_mut().zip(division.iter().chain(century).chain(rest)) {
        *held = *digit;
    }
    let mut code = [check_character(&body); 18];
    code.iter_mut().zip(body).for_each(|(held, digit)| *held = digit);
    Ok(code)
}

/// Digits 7 to 14 of a number whose digits are digits, in days since 1970-01-01.
pub(crate) fn birth_date(code: &[u8]) -> Option<i32> {
    let year = number(code.get(6..10)?)?;
    days_from_civil(i32::try_from(year).ok()?, number(code.get(10..12)?)?, number(code.get(12..14)?)?)
}

/// Code of GB/T 2261.1 that the parity of digit 17 says.
pub(crate) fn sex(code: &[u8]) -> Option<&'static str> {
    Some(if number(code.get(16..17)?)? % 2 == 1 { "1" } else { "2" })
}
