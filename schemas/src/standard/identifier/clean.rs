//! The one order in which an identifier is cleaned before any check.

use std::borrow::Cow;

use super::super::characters::{MAX_IDENTIFIER, fold_width, is_separator, refused, trimmed};
use super::super::finding::{Remarks, Rule};

/// A cleaned identifier.
#[derive(Debug)]
pub(crate) struct Cleaned<'a> {
    pub(crate) text: Cow<'a, str>,
    /// Separators were taken out.
    pub(crate) separators: bool,
    repaired: bool,
}

impl<'a> Cleaned<'a> {
    /// The text, with the repairs noted.
    pub(crate) fn noted(self, remarks: &mut Remarks<'_>) -> Cow<'a, str> {
        if self.separators {
            remarks.note(Rule::IdentifierSeparator);
        }
        if self.repaired {
            remarks.note(Rule::IdentifierRepaired);
        }
        self.text
    }
}

/// Folds width and case, trims, takes out separators that stand alone between two letters or digits, and refuses control,
/// invisible and private-use characters. What is left may still hold characters that the identifier does not allow.
pub(crate) fn clean(text: &str) -> Result<Cleaned<'_>, Rule> {
    if text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) && text.len() <= MAX_IDENTIFIER {
        return Ok(Cleaned { text: Cow::Borrowed(text), separators: false, repaired: false });
    }
    let folded = fold(text)?;
    let mut cleaned = String::with_capacity(folded.len());
    let mut separators = false;
    let mut letters = folded.chars().peekable();
    while let Some(letter) = letters.next() {
        let between = || cleaned.ends_with(|last: char| last.is_ascii_alphanumeric());
        if is_separator(letter) && between() && letters.peek().is_some_and(char::is_ascii_alphanumeric) {
            separators = true;
        } else {
            cleaned.push(letter.to_ascii_uppercase());
        }
    }
    // Taking out separators alone is one note, not two.
    let repaired = !separators || folded != text;
    Ok(Cleaned { text: Cow::Owned(cleaned), separators, repaired })
}

/// Folds width and trims; refuses what no identifier holds. Case and separators stay.
pub(crate) fn fold(text: &str) -> Result<Cow<'_, str>, Rule> {
    if text.len() > MAX_IDENTIFIER {
        return Err(Rule::TextTooLong);
    }
    // Nothing to trim and nothing to fold.
    if text.bytes().all(|b| (0x21..0x7F).contains(&b)) && !text.starts_with('\'') {
        return Ok(Cow::Borrowed(text));
    }
    let trimmed = trimmed(text);
    if trimmed.bytes().all(|b| (0x20..0x7F).contains(&b)) {
        return Ok(Cow::Borrowed(trimmed));
    }
    let mut folded = String::with_capacity(trimmed.len());
    for letter in trimmed.chars() {
        if let Some(rule) = refused(letter) {
            return Err(rule);
        }
        folded.push(fold_width(letter));
    }
    // Full-width spaces and apostrophes became plain ones.
    Ok(Cow::Owned(folded.trim_start_matches([' ', '\'']).trim_end_matches(' ').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> Option<String> {
        clean(text).ok().map(|cleaned| cleaned.text.into_owned())
    }

    #[test]
    fn only_single_separators_between_letters_and_digits_go() {
        assert_eq!(cleaned("91450000-pdy").as_deref(), Some("91450000PDY"));
        assert_eq!(cleaned("-4501").as_deref(), Some("-4501"));
        assert_eq!(cleaned("45--01").as_deref(), Some("45--01"));
        assert_eq!(cleaned("'\u{FF14}５ 01 ").as_deref(), Some("4501"));
    }

    #[test]
    fn invisible_characters_are_never_removed_silently() {
        for text in ["45\u{200B}01", "\u{202E}4501", "4501\0", "45\u{AD}01", "45\u{E000}"] {
            assert_eq!(cleaned(text), None, "{text:?}");
        }
        assert_eq!(cleaned("①⑤02").as_deref(), Some("①⑤02"));
    }
}
