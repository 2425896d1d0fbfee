//! Rows of `COPY ... TO STDOUT` in text format (PostgreSQL documentation, "COPY", File Formats) as row images: the bytes that
//! the stream would have sent for the same row.

use bytes::{BufMut, BytesMut};
use guitong_schemas::change::RowImage;

use super::decode::DecodeError;

/// Bytes of a buffer that many rows share; a row that is larger has one of its own.
const BUFFER: usize = 64 << 10;

/// Turns lines into images; keeps one buffer for many rows.
#[derive(Debug, Default)]
pub(crate) struct CopyRows {
    out: BytesMut,
}

impl CopyRows {
    /// One line, with its line feed, as the server sends it in one message.
    pub(crate) fn row(&mut self, line: &[u8], columns: usize) -> Result<RowImage, DecodeError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let most = line.len() + columns * 5;
        if self.out.capacity() < most {
            // Growing the old one would copy, and give every further row an allocation of its own.
            self.out = BytesMut::with_capacity(BUFFER.max(most));
        }
        let mut has = 0;
        let mut rest = Some(line).filter(|_| columns > 0);
        while let Some(text) = rest {
            rest = self.field(text)?;
            has += 1;
        }
        let image = RowImage(self.out.split().freeze());
        if has == columns { Ok(image) } else { Err(DecodeError::Columns { has, wanted: columns }) }
    }

    /// One line whose last column is the row's place, which is no column of the table.
    pub(crate) fn row_and_place(&mut self, line: &[u8], columns: usize) -> Result<(RowImage, String), DecodeError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let at = line.iter().rposition(|&byte| byte == b'\t');
        let (row, place) =
            at.map_or((&[][..], line), |at| (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default()));
        let place = std::str::from_utf8(place).map_err(|_| DecodeError::Text)?.to_owned();
        Ok((self.row(row, columns)?, place))
    }

    /// The field at the front of `text`; what follows its tab.
    fn field<'a>(&mut self, text: &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        if let Some(rest) = text.strip_prefix(br"\N")
            && rest.first().is_none_or(|&byte| byte == b'\t')
        {
            self.out.put_u8(b'n');
            return Ok(rest.get(1..));
        }
        let start = self.out.len();
        self.out.put_u8(b't');
        self.out.put_u32(0);
        let mut text = text;
        let rest = loop {
            let at = special(text);
            let (plain, special) = text.split_at_checked(at).unwrap_or((text, &[]));
            self.out.put_slice(plain);
            match special {
                [] => break None,
                [b'\\', escaped, rest @ ..] => {
                    self.out.put_u8(unescaped(*escaped)?);
                    text = rest;
                }
                [b'\\'] => return Err(DecodeError::Truncated("escape")),
                [_, rest @ ..] => break Some(rest),
            }
        };
        let length = u32::try_from(self.out.len() - start - 5).map_err(|_| DecodeError::Truncated("value"))?;
        if let Some(place) = self.out.get_mut(start + 1..start + 5) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(rest)
    }
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
    use guitong_schemas::change::RowBuilder;
    use proptest::prelude::*;

    use super::*;

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
            prop_assert_eq!(CopyRows::default().row(&line, values.len()), Ok(builder.finish()));
        }

        #[test]
        fn arbitrary_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..100), columns in 0usize..5) {
            let _ = CopyRows::default().row(&line, columns);
        }
    }

    #[test]
    fn the_place_is_no_column() {
        let mut row = RowBuilder::default();
        row.text(b"x").unwrap();
        assert_eq!(CopyRows::default().row_and_place(b"x\t(7,3)\n", 1), Ok((row.finish(), "(7,3)".to_owned())));
    }

    #[test]
    fn a_wrong_number_of_columns_is_an_error() {
        assert_eq!(CopyRows::default().row(b"a\tb\n", 3), Err(DecodeError::Columns { has: 2, wanted: 3 }));
        assert!(CopyRows::default().row(b"\n", 0).is_ok());
    }
}
