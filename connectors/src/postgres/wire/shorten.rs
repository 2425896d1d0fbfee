//! Values over the limit, read past while they come in, so that memory does not depend on what a department stores.
//!
//! A row may be a gigabyte, and nothing of a value over `max_record` is published. Of such a value the first [`KEPT`] bytes are kept
//! and the rest is dropped: in every form that text and bytes have in an event that is still over the limit, so that whoever encodes
//! the row leaves the value out as too large, as it does with one that is only a little over. Nothing takes it for a value that was
//! not sent, and nothing older comes into its place. Text with an end of its own (arrays, hstore, bit strings) does not read once cut,
//! which [`Shortener`] makes sure of: it is left out as unreadable.
//!
//! Rows are in one of three forms: tuples of the plugin's messages, lines of `COPY`, and its binary format (PostgreSQL documentation,
//! "Logical Replication Message Formats", and "COPY", File Formats). Whatever else comes, or does not read, passes as it is: the
//! decoders say so.

use bytes::{BufMut, Bytes, BytesMut};
use guitong_schemas::contract::MAX_RECORD;

use super::frames::DATA;

/// Bytes that are kept of a value. Text is at least as long in an event; of bytes two digits each, after `\x`, are one more than the
/// limit.
pub(super) const KEPT: usize = 2 + 2 * (MAX_RECORD + 1);

/// What `COPY` in binary begins with, and how long its head is, the length of its extension included.
const SIGNED: [u8; 2] = *b"PG";
const HEAD: usize = 19;

/// How rows are in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// A change of the stream, or of a transaction in progress, which has that transaction's number too.
    Tuples { in_progress: bool },
    /// A line of `COPY` in text format.
    Line,
    /// A row of `COPY` in binary format.
    Binary,
}

/// Takes one message piece by piece.
#[derive(Debug)]
pub struct Shortener {
    out: BytesMut,
    kept: usize,
    at: At,
    /// Bytes until `at` is reached.
    need: usize,
    /// Bytes to be dropped first.
    skip: usize,
    /// Values have no kind before their length.
    binary: bool,
}

/// What the bytes that were taken last are.
#[derive(Debug)]
enum At {
    /// The head of data of the log, and the message's kind.
    Kind {
        in_progress: bool,
    },
    Tuple,
    Columns,
    /// The head that comes with the first row of `COPY` in binary, which ends in the length of its extension.
    Head,
    Extension,
    /// The kind of a value, of so many that are left.
    Value(u16),
    Length(u16),
    /// A whole value.
    Whole(u16),
    /// As much of a value as is kept, which begins at `start`.
    Cut {
        left: u16,
        start: usize,
        over: usize,
    },
    /// A field of a line: how much of it was taken, and whether a backslash was the last of it.
    Field {
        start: usize,
        taken: usize,
        escaped: bool,
    },
    /// The rest of a field that was cut.
    Past,
    /// Nothing that is cut.
    Rest,
}

impl Shortener {
    /// Keeps `kept` bytes of a value.
    #[must_use]
    pub fn new(rows: Rows, kept: usize) -> Self {
        let (at, need) = match rows {
            Rows::Tuples { in_progress } => (At::Kind { in_progress }, DATA + 1),
            Rows::Line => (At::Field { start: 0, taken: 0, escaped: false }, 0),
            Rows::Binary => (At::Columns, 2),
        };
        Self { out: BytesMut::new(), kept: kept.max(4), at, need, skip: 0, binary: rows == Rows::Binary }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        match self.at {
            At::Field { .. } | At::Past => self.line(bytes),
            _ => self.tuples(bytes),
        }
    }

    /// Bytes of memory that the message takes.
    pub(super) fn capacity(&self) -> usize {
        self.out.capacity()
    }

    /// The message as far as it was taken.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }

    fn tuples(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let dropped = self.skip.min(bytes.len());
                bytes = bytes.get(dropped..).unwrap_or_default();
                self.skip -= dropped;
                continue;
            }
            let wanted = if matches!(self.at, At::Rest) { bytes.len() } else { self.need.min(bytes.len()) };
            let (taken, after) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            self.out.put_slice(taken);
            (self.need, bytes) = (self.need.saturating_sub(wanted), after);
            while self.need == 0 && !matches!(self.at, At::Rest) {
                self.step();
            }
        }
    }

    /// Looks at what was taken, and says what comes next.
    fn step(&mut self) {
        let last = self.out.last().copied().unwrap_or_default();
        match std::mem::replace(&mut self.at, At::Rest) {
            At::Kind { in_progress } if matches!(last, b'I' | b'U' | b'D') => {
                let numbers = if in_progress { 4 + 4 } else { 4 };
                (self.at, self.need) = (At::Tuple, numbers + 1);
            }
            At::Tuple if matches!(last, b'N' | b'K' | b'O') => (self.at, self.need) = (At::Columns, 2),
            At::Columns => match self.out.last_chunk().copied().unwrap_or_default() {
                // No table has as many columns.
                SIGNED if self.binary => (self.at, self.need) = (At::Head, HEAD - SIGNED.len()),
                count => self.values(u16::from_be_bytes(count)),
            },
            At::Head => {
                let length = self.out.last_chunk().copied().map_or(0, u32::from_be_bytes);
                (self.at, self.need) = (At::Extension, usize::try_from(length).unwrap_or(usize::MAX));
            }
            At::Extension => (self.at, self.need) = (At::Columns, 2),
            At::Value(left) if matches!(last, b't' | b'b') => (self.at, self.need) = (At::Length(left), 4),
            At::Value(left) if matches!(last, b'n' | b'u') => self.values(left - 1),
            At::Length(left) => {
                let length = self.out.last_chunk().copied().map_or(0, u32::from_be_bytes);
                if self.binary && length == u32::MAX {
                    return self.values(left - 1);
                }
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                (self.at, self.need) = match length.checked_sub(self.kept) {
                    Some(over @ 1..) => {
                        // At once: a buffer that grows by doubling takes more than it holds.
                        self.out.reserve(self.kept);
                        (At::Cut { left, start: self.out.len(), over }, self.kept)
                    }
                    _ => (At::Whole(left), length),
                };
            }
            At::Whole(left) => self.values(left - 1),
            At::Cut { left, start, over } => {
                self.end_cut(start, false);
                let length = u32::try_from(self.out.len() - start).unwrap_or(u32::MAX);
                if let Some(place) = self.out.get_mut(start - 4..start) {
                    place.copy_from_slice(&length.to_be_bytes());
                }
                self.skip = over;
                self.values(left - 1);
            }
            _ => {}
        }
    }

    /// The next of the values that are left; after the last one a further tuple may follow.
    fn values(&mut self, left: u16) {
        (self.at, self.need) = match (left, self.binary) {
            (0, true) => (At::Rest, 0),
            (0, false) => (At::Tuple, 1),
            (_, true) => (At::Length(left), 4),
            (_, false) => (At::Value(left), 1),
        };
    }

    fn line(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, after)) = bytes.split_first() {
            let At::Field { start, taken, escaped } = self.at else {
                // A tab or line feed in a value is escaped.
                let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\t' | b'\n')) else { return };
                bytes = bytes.get(end..).unwrap_or_default();
                self.at = At::Field { start: self.out.len(), taken: 0, escaped: false };
                continue;
            };
            self.at = match byte {
                _ if escaped => At::Field { start, taken: taken + 1, escaped: false },
                b'\t' | b'\n' => At::Field { start: self.out.len() + 1, taken: 0, escaped: false },
                _ if taken >= self.kept => {
                    self.end_cut(start, true);
                    At::Past
                }
                b'\\' => At::Field { start, taken, escaped: true },
                _ => At::Field { start, taken: taken + 1, escaped: false },
            };
            if matches!(self.at, At::Field { .. }) {
                self.out.put_u8(byte);
            }
            bytes = after;
        }
    }

    /// Ends a value that is cut: with a whole character, and where it is no string of bytes in digits so that it has no other meaning
    /// than text has. No form of text but text itself ends with a lone backslash.
    fn end_cut(&mut self, start: usize, escaped: bool) {
        let value = self.out.get(start..).unwrap_or_default();
        let digits: &[u8] = if escaped { br"\\x" } else { br"\x" };
        let end = match (value.starts_with(digits), escaped) {
            (true, _) => &b""[..],
            (false, true) => br"\\",
            (false, false) => br"\",
        };
        let whole = start + whole_characters(value);
        self.out.truncate(whole);
        self.out.put_slice(end);
    }
}

/// Length of `text` without a character that its end cuts.
fn whole_characters(text: &[u8]) -> usize {
    let Some(after) = text.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80) else { return text.len() };
    let at = text.len() - 1 - after;
    let length = match text.get(at) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    if after + 1 < length { at } else { text.len() }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::change::{Cell, RowBuilder, RowImage};
    use proptest::prelude::*;

    use super::super::super::copy::{CopyRows, Form};
    use super::super::super::decode::{Message, decode};
    use super::super::super::printed::Printed;
    use super::*;

    const KEEP: usize = 16;

    fn shortened(rows: Rows, message: &[u8], piece: usize) -> Bytes {
        let mut shortener = Shortener::new(rows, KEEP);
        message.chunks(piece).for_each(|piece| shortener.take(piece));
        shortener.finish()
    }

    /// A value, often over what is kept; a whole one is of such pieces too.
    fn value() -> impl Strategy<Value = Option<String>> {
        let piece = prop::sample::select(vec!["a", "\\", "\t", "\n", "桂", "é", "𠮷", "\\x", "0", ", "]);
        proptest::option::of(proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat()))
    }

    fn tuple(values: &[Option<String>]) -> Vec<u8> {
        let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => out.push(b'n'),
                Some(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
        out
    }

    fn check(values: &[Option<String>], image: &RowImage, slack: usize) {
        let cells: Vec<Cell<'_>> = image.cells().collect::<Result<_, _>>().unwrap();
        assert_eq!(cells.len(), values.len());
        for (value, cell) in values.iter().zip(cells) {
            match (value, cell) {
                (None, Cell::Null) => {}
                (Some(value), Cell::Text(text)) if value.len() <= KEEP => assert_eq!(text, value.as_bytes()),
                (Some(value), Cell::Text(text)) => {
                    assert!((KEEP - 3..=KEEP + slack).contains(&text.len()), "{} bytes of {}", text.len(), value.len());
                    assert!(std::str::from_utf8(text).is_ok(), "{text:?}");
                    let kept = if value.starts_with("\\x") { text } else { text.strip_suffix(b"\\").unwrap() };
                    assert!(value.as_bytes().starts_with(kept));
                }
                (value, cell) => panic!("{cell:?} of {value:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn a_row_of_the_stream_keeps_all_but_the_ends_of_long_values(
            old in proptest::collection::vec(value(), 1..5), new in proptest::collection::vec(value(), 1..5), piece in 1_usize..50,
        ) {
            for in_progress in [false, true] {
                let mut head = vec![b'w'; 25];
                head.push(b'U');
                let transaction: &[u8] = if in_progress { &[0, 0, 0, 3] } else { &[] };
                let message = [&head, transaction, &[0, 0, 0, 9, b'O'], &tuple(&old), b"N", &tuple(&new)].concat();
                let short = shortened(Rows::Tuples { in_progress }, &message, piece);
                let without = [&b"U"[..], short.get(26 + transaction.len()..).unwrap()].concat();
                let Ok(Message::Update { old: super::super::super::decode::Old::Full(before), new: after, .. }) = decode(&without.into())
                else { panic!("no update") };
                check(&old, &before.image, 1);
                check(&new, &after.image, 1);
            }
        }

        #[test]
        fn a_line_keeps_all_but_the_ends_of_long_values(values in proptest::collection::vec(value(), 1..5), piece in 1_usize..50) {
            let escape = |text: &String| text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n");
            let fields: Vec<String> = values.iter().map(|value| value.as_ref().map_or("\\N".to_owned(), escape)).collect();
            let line = format!("{}\n", fields.join("\t"));
            let short = shortened(Rows::Line, line.as_bytes(), piece);
            let row = CopyRows::new(Form::Text(values.len())).row(&short).unwrap().unwrap();
            check(&values, &row, 1);
        }

        #[test]
        fn a_row_in_binary_keeps_all_but_the_ends_of_long_values(
            values in proptest::collection::vec(value(), 1..5), first: bool, piece in 1_usize..50,
        ) {
            let mut message = if first { b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03???".to_vec() } else { Vec::new() };
            message.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
            for value in &values {
                let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
                message.extend(length.to_be_bytes());
                message.extend(value.iter().flat_map(|value| value.bytes()));
            }
            let short = shortened(Rows::Binary, &message, piece);
            let form = Form::Binary(vec![Printed::Same; values.len()].into());
            check(&values, &CopyRows::new(form).row(&short).unwrap().unwrap(), 1);
        }

        #[test]
        fn any_bytes_pass_and_never_grow(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..4, piece in 1_usize..50) {
            let mut tuples = [&[b'w'; 25][..], &[b"IUDM"[usize::from(kind)]], &bytes].concat();
            // Short lengths, so that some of it are values.
            tuples.iter_mut().skip(26).filter(|byte| **byte > 0xc0).for_each(|byte| *byte = b'u');
            for rows in [Rows::Line, Rows::Binary, Rows::Tuples { in_progress: false }, Rows::Tuples { in_progress: true }] {
                let whole = shortened(rows, &tuples, 1_000);
                prop_assert_eq!(&whole, &shortened(rows, &tuples, piece));
                prop_assert!(whole.len() <= tuples.len() + 2);
            }
        }
    }

    #[test]
    fn bytes_in_digits_stay_that_and_are_over_the_limit() {
        assert_eq!((KEPT - 2) / 2, MAX_RECORD + 1);
        let digits = format!("\\x{}", "ab".repeat(30));
        let message = [&[b'w'; 25][..], b"I\0\0\0\x09N", &tuple(&[Some(digits.clone())])].concat();
        let short = shortened(Rows::Tuples { in_progress: false }, &message, 7);
        let Ok(Message::Insert { new, .. }) = decode(&short.slice(25..)) else { panic!("no insert") };
        let mut wanted = RowBuilder::default();
        wanted.text(&digits.as_bytes()[..KEEP]).unwrap();
        assert_eq!(new.image, wanted.finish());
    }
}
