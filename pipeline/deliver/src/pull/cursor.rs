//! Where a subscriber stands in its outbox.

use std::fmt;
use std::str::FromStr;

/// Everything up to a position of one outbox; written `<term>-<position>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The hold of the sink under which it was given, 16 hexadecimal digits.
    pub(super) term: String,
    pub(super) position: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.position)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('-').and_then(|(term, position)| {
            let plain = term.len() == 16 && term.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let digits = !position.is_empty() && position.bytes().all(|byte| byte.is_ascii_digit());
            Some(Self { term: (plain && digits).then(|| term.to_owned())?, position: position.parse().ok()? })
        });
        parsed.ok_or_else(|| "a cursor is what an earlier answer gave, such as 0123456789abcdef-42".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is_one() {
        let text = "0123456789abcdef-42";
        assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        for bad in ["", "42", "0123456789abcdef-", "0123456789abcdef--1", "0123456789ABCDEF-1", "0123456789abcde-1", "x-1"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
        assert!("0123456789abcdef-99999999999999999999".parse::<Cursor>().is_err());
    }
}
