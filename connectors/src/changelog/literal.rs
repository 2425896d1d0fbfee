//! SQL literals as SQLite's `quote` writes them, separated by commas: `NULL`, `-7`, `1.5e+20`, `'it''s'`, `X'00ff'`, and `T'hex'`
//! for a text with NUL characters, `U` for a value over the limit.

use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal<'a> {
    Null,
    /// Digits with an optional sign.
    Integer(&'a [u8]),
    /// As SQLite prints it.
    Real(&'a [u8]),
    Text(Cow<'a, [u8]>),
    /// Hexadecimal digits.
    Blob(&'a [u8]),
    /// Over the limit, and so not written.
    TooLarge,
}

/// Text that is no list of literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadLiteral;

/// # Errors
/// [`BadLiteral`] where `text` is no list of literals.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Literal<'_>>, BadLiteral> {
    let mut values = Vec::with_capacity(16);
    let mut rest = text;
    loop {
        let (value, after) = one(rest)?;
        values.push(value);
        match after {
            [] => return Ok(values),
            [b',', more @ ..] => rest = more,
            _ => return Err(BadLiteral),
        }
    }
}

fn one(text: &[u8]) -> Result<(Literal<'_>, &[u8]), BadLiteral> {
    match text {
        [b'\'', rest @ ..] => quoted(rest).map(|(value, rest)| (Literal::Text(value), rest)),
        [b'X' | b'x', b'\'', rest @ ..] => hex(rest).map(|(digits, rest)| (Literal::Blob(digits), rest)),
        [b'T', b'\'', rest @ ..] => {
            let (digits, rest) = hex(rest)?;
            let bytes = hex::decode(digits).map_err(|_| BadLiteral)?;
            Ok((Literal::Text(Cow::Owned(bytes)), rest))
        }
        _ => {
            let end = text.iter().position(|&byte| byte == b',').unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            Ok((bare(word)?, rest))
        }
    }
}

fn bare(word: &[u8]) -> Result<Literal<'_>, BadLiteral> {
    if word.eq_ignore_ascii_case(b"NULL") {
        return Ok(Literal::Null);
    }
    if word == b"U" {
        return Ok(Literal::TooLarge);
    }
    let digits = word.strip_prefix(b"-").or_else(|| word.strip_prefix(b"+")).unwrap_or(word);
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        return Ok(Literal::Integer(word));
    }
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
    number.map(|_| Literal::Real(word)).ok_or(BadLiteral)
}

fn quoted(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), BadLiteral> {
    let end = text.iter().position(|&byte| byte == b'\'').ok_or(BadLiteral)?;
    if text.get(end + 1) != Some(&b'\'') {
        return Ok((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = text[..end].to_vec();
    let mut rest = &text[end..];
    loop {
        match rest {
            [b'\'', b'\'', after @ ..] => {
                value.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Ok((Cow::Owned(value), after)),
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return Err(BadLiteral),
        }
    }
}

fn hex(text: &[u8]) -> Result<(&[u8], &[u8]), BadLiteral> {
    let end = text.iter().position(|&byte| byte == b'\'').ok_or(BadLiteral)?;
    let digits = &text[..end];
    let whole = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    if whole { Ok((digits, &text[end + 1..])) } else { Err(BadLiteral) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_quote_writes_is_read() {
        let values = parse("NULL,-7,1.5e+20,'it''s, 中',X'00ff','',T'6100','''',U".as_bytes()).unwrap();
        assert_eq!(
            values,
            vec![
                Literal::Null,
                Literal::Integer(b"-7"),
                Literal::Real(b"1.5e+20"),
                Literal::Text(Cow::Borrowed("it's, 中".as_bytes())),
                Literal::Blob(b"00ff"),
                Literal::Text(Cow::Borrowed(b"")),
                Literal::Text(Cow::Borrowed(b"a\0")),
                Literal::Text(Cow::Borrowed(b"'")),
                Literal::TooLarge,
            ]
        );
    }

    #[test]
    fn damage_is_no_value() {
        for text in ["", "'open", "X'0'", "CURRENT_TIMESTAMP", "1,", "'a'b", "(1 + 2)"] {
            assert_eq!(parse(text.as_bytes()), Err(BadLiteral), "{text}");
        }
    }
}
