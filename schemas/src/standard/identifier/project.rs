//! Investment project codes: GB/T 40058-2021, and the layout of 2016. The check character's algorithm is not published, so
//! the layout alone is checked.

use std::borrow::Cow;

use super::super::facts::{Facts, Standing};
use super::super::finding::{Remarks, Rule};
use super::clean::fold;
use super::credit::number;

/// Where the hyphens stand.
const HYPHENS: [usize; 4] = [4, 11, 14, 17];

/// The groups of a project code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) division: u32,
    /// Industry and approval type, which only the layout of 2016 holds.
    pub(crate) old: Option<(u8, u8)>,
}

/// Checks a project code and restores its hyphens.
pub(crate) fn project_code<'a>(text: &'a str, facts: &Facts, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let folded = fold(text)?;
    let code: Cow<'a, str> = match folded.len() {
        24 if folded.bytes().any(|b| b.is_ascii_lowercase()) => Cow::Owned(folded.to_ascii_uppercase()),
        24 => folded,
        20 if folded.is_ascii() => {
            remarks.note(Rule::ProjectRepaired);
            let mut code = folded.to_ascii_uppercase();
            HYPHENS.iter().for_each(|at| code.insert(*at, '-'));
            Cow::Owned(code)
        }
        _ => return Err(Rule::ProjectForm),
    };
    let parts = parts(&code).ok_or(Rule::ProjectForm)?;
    if facts.divisions.standing(parts.division) == Standing::Unknown {
        return Err(Rule::ProjectDivision);
    }
    if code.len() == text.len() && code != text {
        remarks.note(Rule::IdentifierRepaired);
    }
    Ok(code)
}

/// The groups of a code of 24 characters with its hyphens, if the layout is one of the two.
pub(crate) fn parts(code: &str) -> Option<Parts> {
    let bytes = code.as_bytes();
    let (last, body) = bytes.split_last()?;
    if bytes.len() != 24 || !HYPHENS.iter().all(|at| bytes.get(*at) == Some(&b'-')) {
        return None;
    }
    let digits = |from: usize, to: usize| number(body.get(from..to)?);
    let (first, division) = (digits(0, 4)?, digits(5, 11)?);
    let (third, fourth) = (u8::try_from(digits(12, 14)?).ok()?, u8::try_from(digits(15, 17)?).ok()?);
    digits(18, 23)?;
    // The layout of 2016 was given out from 2015 to 2021 and begins with the year; 2012 is December 2020.
    let old = (2015..=2021).contains(&first);
    let dated = first / 100 >= 20 && (1..=12).contains(&(first % 100));
    let check = if old { last.is_ascii_digit() } else { last.is_ascii_digit() || last.is_ascii_uppercase() };
    (check && (old || dated)).then_some(Parts { division, old: old.then_some((third, fourth)) })
}
