//! Lines of `COPY` in text format (PostgreSQL documentation, "COPY", File Formats).

use bytes::{BufMut, BytesMut};

use super::super::decode::DecodeError;
use super::super::printed::make_room;

/// A message without its line feed.
pub(super) fn line(message: &[u8]) -> &[u8] {
    message.strip_suffix(b"\n").unwrap_or(message)
}

/// Writes the fields of a line as cells of an image.
pub(super) fn row(line: &[u8], columns: usize, out: &mut BytesMut) -> Result<(), DecodeError> {
    make_room(out, line.len() + columns * 5);
    let mut has = 0;
    let mut rest = Some(line).filter(|_| columns > 0);
    while let Some(text) = rest {
        rest = field(text, out)?;
        has += 1;
    }
    if has == columns { Ok(()) } else { Err(DecodeError::Columns { has, wanted: columns }) }
}

/// The line without its last field, and that field.
pub(super) fn cut_place(line: &[u8]) -> Result<(&[u8], String), DecodeError> {
    let at = line.iter().rposition(|&byte| byte == b'\t');
    let (row, place) =
        at.map_or((&[][..], line), |at| (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default()));
    Ok((row, std::str::from_utf8(place).map_err(|_| DecodeError::Text)?.to_owned()))
}

/// Writes the field at the front of `text`; what follows its tab.
fn field<'a>(text: &'a [u8], out: &mut BytesMut) -> Result<Option<&'a [u8]>, DecodeError> {
    if let Some(rest) = text.strip_prefix(br"\N")
        && rest.first().is_none_or(|&byte| byte == b'\t')
    {
        out.put_u8(b'n');
        return Ok(rest.get(1..));
    }
    let start = out.len();
    out.put_u8(b't');
    out.put_u32(0);
    let mut text = text;
    let rest = loop {
        let at = special(text);
        let (plain, special) = text.split_at_checked(at).unwrap_or((text, &[]));
        out.put_slice(plain);
        match special {
            [] => break None,
            [b'\\', escaped, rest @ ..] => {
                out.put_u8(unescaped(*escaped)?);
                text = rest;
            }
            [b'\\'] => return Err(DecodeError::Truncated("escape")),
            [_, rest @ ..] => break Some(rest),
        }
    };
    let length = u32::try_from(out.len() - start - 5).map_err(|_| DecodeError::Truncated("value"))?;
    if let Some(place) = out.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(rest)
}

/// Bytes before the next tab or backslash, eight looked at together.
fn special(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The lowest byte that it marks is a zero; bytes above that one may be marked wrongly.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, tail) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (ONES * b'\t' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let whole = words.len() * 8;
    whole + tail.iter().position(|byte| matches!(byte, b'\t' | b'\\')).unwrap_or(tail.len())
}

/// The escapes that the server writes; it writes no others.
fn unescaped(escaped: u8) -> Result<u8, DecodeError> {
    Ok(match escaped {
        b'b' => 8,
        b't' => 9,
        b'n' => 10,
        b'v' => 11,
        b'f' => 12,
        b'r' => 13,
        b'\\' => b'\\',
        kind => return Err(DecodeError::Unknown { name: "an escape", kind }),
    })
}

#[cfg(test)]
mod tests {
    use guitong_schemas::change::{RowBuilder, RowImage};
    use proptest::prelude::*;

    use super::super::{CopyRows, Form};
    use super::*;

    fn read(line: &[u8], columns: usize) -> Result<Option<RowImage>, DecodeError> {
        CopyRows::new(Form::Text(columns)).row(line)
    }

    fn escape(text: &[u8]) -> Vec<u8> {
        let pairs = [(8, b'b'), (9, b't'), (10, b'n'), (11, b'v'), (12, b'f'), (13, b'r'), (b'\\', b'\\')];
        let mut out = Vec::new();
        for byte in text {
            match pairs.iter().find(|(plain, _)| plain == byte) {
                Some((_, letter)) => out.extend([b'\\', *letter]),
                None => out.push(*byte),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_line_gives_the_row_that_the_stream_would_give(
            values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(1u8.., 0..30)), 1..6)
        ) {
            let mut builder = RowBuilder::default();
            let mut line = Vec::new();
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    line.push(b'\t');
                }
                match value {
                    Some(bytes) => { builder.text(bytes).unwrap(); line.extend(escape(bytes)); }
                    None => { builder.null(); line.extend(br"\N"); }
                }
            }
            line.push(b'\n');
            prop_assert_eq!(read(&line, values.len()), Ok(Some(builder.finish())));
        }

        #[test]
        fn arbitrary_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..100), columns in 0usize..5) {
            let _ = read(&line, columns);
        }
    }

    #[test]
    fn the_place_is_no_column() {
        let mut row = RowBuilder::default();
        row.text(b"x").unwrap();
        let read = CopyRows::new(Form::Text(1)).row_and_place(b"x\t(7,3)\n");
        assert_eq!(read, Ok(Some((row.finish(), "(7,3)".to_owned()))));
    }

    #[test]
    fn a_wrong_number_of_columns_is_an_error() {
        assert_eq!(read(b"a\tb\n", 3), Err(DecodeError::Columns { has: 2, wanted: 3 }));
        assert!(read(b"\n", 0).is_ok());
    }
}
