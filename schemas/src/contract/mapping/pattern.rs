//! Regular expressions that take one value out of a text.

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, Look};

/// Largest compiled expression, in bytes. Matching takes time in proportion to it and to the text.
const MAX_COMPILED: usize = 256 << 10;
/// Longest expression, in bytes.
const MAX_SOURCE: usize = 1_000;

/// An expression with one group. `\d` is 0 to 9: in Unicode it would be digits of every script.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
    whole: bool,
}

/// Why a text is no such expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("has more than {MAX_SOURCE} bytes")]
    TooLong,
    #[error("compiles to more than {0} KiB")]
    TooLarge(usize),
    #[error("is no regular expression: {0}")]
    Syntax(String),
    #[error("has {0} groups, and must have one: what it takes out")]
    Groups(usize),
}

impl Pattern {
    /// # Errors
    /// [`PatternError`] where it does not compile, is too large, or has not exactly one group.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        if source.len() > MAX_SOURCE {
            return Err(PatternError::TooLong);
        }
        let ascii = ascii_digits(source);
        let hir = regex_syntax::parse(&ascii).map_err(|error| PatternError::Syntax(reason(&error)))?;
        let regex = compile(&ascii, MAX_COMPILED)?;
        match regex.captures_len() - 1 {
            1 => Ok(Self { source: source.to_owned(), regex, whole: is_whole(&hir) }),
            groups => Err(PatternError::Groups(groups)),
        }
    }

    /// What the group holds in the first match; `None` where there is none.
    #[must_use]
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.regex.captures(text)?.get(1).map(|group| group.as_str())
    }

    /// Whether it describes a value from beginning to end (`^…$`) rather than looking for a part of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// Whether an expression, with or without groups, is small enough to be compiled for every record.
///
/// # Errors
/// [`PatternError`] where it does not compile, or is too large.
pub fn is_small(source: &str) -> Result<(), PatternError> {
    if source.len() > MAX_SOURCE {
        return Err(PatternError::TooLong);
    }
    let ascii = ascii_digits(source);
    regex_syntax::parse(&ascii).map_err(|error| PatternError::Syntax(reason(&error)))?;
    compile(&ascii, MAX_COMPILED / 8).map(drop)
}

fn compile(ascii: &str, limit: usize) -> Result<Regex, PatternError> {
    RegexBuilder::new(ascii).size_limit(limit).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => PatternError::TooLarge(limit >> 10),
        other => PatternError::Syntax(other.to_string()),
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

fn is_whole(hir: &Hir) -> bool {
    let properties = hir.properties();
    properties.look_set_prefix().contains(Look::Start) && properties.look_set_suffix().contains(Look::End)
}

/// The expression with `\d` and `\D` as the ASCII classes that people mean by them.
#[must_use]
pub fn ascii_digits(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut letters = source.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, false) => out.push(letter),
            (_, true) => match letters.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
        }
    }
    out
}

/// The last line of the parser's message, which says what is wrong; the others draw the expression.
fn reason(error: &regex_syntax::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_taken_out_of_a_text() {
        let whole = Pattern::parse("^(.+)（[0-9A-Z]{18}）$").expect("parses");
        assert_eq!(whole.find("测试公司甲（91450100PDY00001X1）"), Some("测试公司甲"));
        assert_eq!((whole.find("测试公司甲"), whole.is_whole()), (None, true));
        let part = Pattern::parse("罚款(人民币[^，。；]+)").expect("parses");
        assert_eq!(part.find("责令改正，罚款人民币伍仟元整。"), Some("人民币伍仟元整"));
        assert!(!part.is_whole());
    }

    #[test]
    fn digits_are_those_of_ascii() {
        for (source, text, found) in [
            (r"(\d+)", "٤٥ 12", Some("12")),
            (r"([\dX]+)", "９１ 1X", Some("1X")),
            (r"(\D+)", "12甲", Some("甲")),
            (r"(\\d)", r"\d", Some(r"\d")),
        ] {
            assert_eq!(Pattern::parse(source).expect("parses").find(text), found, "{source}");
        }
    }

    #[test]
    fn what_is_no_such_expression_is_refused() {
        assert_eq!(Pattern::parse("[0-9]+").expect_err("no group"), PatternError::Groups(0));
        assert_eq!(Pattern::parse("(a)(b)").expect_err("two groups"), PatternError::Groups(2));
        assert_eq!(Pattern::parse("(?:a)(b)").expect("one group").find("ab"), Some("b"));
        assert!(matches!(Pattern::parse("(a"), Err(PatternError::Syntax(why)) if why.contains("unclosed group")));
        assert_eq!(Pattern::parse(r"((?:\w{50}){50})").expect_err("large"), PatternError::TooLarge(256));
        assert_eq!(Pattern::parse(&"a".repeat(MAX_SOURCE + 1)).expect_err("long"), PatternError::TooLong);
    }
}
