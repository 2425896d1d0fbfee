//! Characters that are folded, refused or counted as space, the same for texts and identifiers.

use super::finding::Rule;

/// Longest identifier that is looked at, in bytes of its source text.
pub(crate) const MAX_IDENTIFIER: usize = 768;

/// Full-width ASCII (U+FF01 to U+FF5E) and wide spaces as ASCII; nothing else is folded. NFKC would turn circled and mathematical digits
/// into plain ones and so accept spoofed identifiers.
pub(crate) fn fold_width(letter: char) -> char {
    match letter {
        '\u{FF01}'..='\u{FF5E}' => char::from_u32(u32::from(letter) - 0xFEE0).unwrap_or(letter),
        '\u{3000}' | '\u{A0}' => ' ',
        _ => letter,
    }
}

/// Space, TAB, CR and LF, and the spaces that fold to one.
pub(crate) fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n' | '\u{3000}' | '\u{A0}')
}

/// Why a character may stand in no value, if so. Spaces are to be handled before.
pub(crate) fn refused(letter: char) -> Option<Rule> {
    match letter {
        '\u{0}'..='\u{1F}' | '\u{7F}'..='\u{9F}' => Some(Rule::TextControl),
        '\u{AD}'
        | '\u{61C}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'
        | '\u{2066}'..='\u{2069}'
        | '\u{FEFF}' => Some(Rule::TextInvisible),
        '\u{FFFD}' => Some(Rule::TextDamaged),
        '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{FFFFD}' | '\u{100000}'..='\u{10FFFD}' => Some(Rule::TextPrivateUse),
        _ => None,
    }
}

/// Hyphen, dashes and minus, and space: what stands between the groups of a number.
pub(crate) fn is_separator(letter: char) -> bool {
    matches!(letter, ' ' | '-' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

/// Han characters, radicals and 〇 included.
pub(crate) fn is_han(letter: char) -> bool {
    matches!(letter,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{20000}'..='\u{323AF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{2E80}'..='\u{2FD5}' | '〇')
}

/// What stands for "no value" in the departments' systems, besides blanks.
pub(crate) fn is_empty_word(text: &str) -> bool {
    // Asked of every value: nearly all begin with a byte that neither a space nor such a word begins with, or are too long
    // and end with a byte that no space ends with (fixed-length columns pad with spaces).
    let (Some(first), Some(last)) = (text.as_bytes().first(), text.as_bytes().last()) else { return true };
    let may_begin = matches!(first, b'\t' | b'\n' | b'\r' | b' ' | b'/' | b'-' | b'N' | b'n' | 0xC2 | 0xE3 | 0xE6 | 0xEF);
    if !may_begin || (text.len() > 6 && !matches!(last, b'\t' | b'\n' | b'\r' | b' ' | 0x80 | 0xA0)) {
        return false;
    }
    matches!(text.trim_matches(is_space), "" | "无" | "/" | "-" | "NULL" | "null" | "Null" | "暂无" | "／" | "－")
}

/// Without one leading byte order mark, leading apostrophes (a spreadsheet's text marker) and outer spaces.
pub(crate) fn trimmed(text: &str) -> &str {
    let text = text.trim_matches(is_space);
    text.strip_prefix('\u{FEFF}').unwrap_or(text).trim_start_matches(|letter| letter == '\'' || is_space(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_words_are_those_of_the_decisions() {
        for text in ["", "  ", "\u{3000}", "无         ", "/", "-", "NULL", "null", "暂无", " 无 "] {
            assert!(is_empty_word(text), "{text:?}");
        }
        for text in ["0", "--", "无锡", "//", "N", "NULLABLE"] {
            assert!(!is_empty_word(text), "{text:?}");
        }
    }
}
