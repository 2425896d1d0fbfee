//! The binary format of `COPY` (PostgreSQL documentation, "COPY", File Formats).

use bytes::{BufMut, BytesMut};

use super::super::decode::DecodeError;
use super::super::printed::{Printed, make_room, most};

/// What the rows begin with; flags and the length of an extension follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The count of columns that ends the rows.
const END: i16 = -1;

/// The values of the row in a message, each with its length, and how many they are; `None` where rows end, or before they begin.
pub(super) fn row(message: &[u8]) -> Result<Option<(usize, &[u8])>, DecodeError> {
    let message = match message.strip_prefix(SIGNATURE) {
        // The head comes with the first row.
        Some(head) => {
            let (_flags, rest) = head.split_first_chunk::<4>().ok_or(DecodeError::Truncated("flags"))?;
            let (extension, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated("head"))?;
            let extension = usize::try_from(u32::from_be_bytes(*extension)).unwrap_or(usize::MAX);
            rest.get(extension..).ok_or(DecodeError::Truncated("head"))?
        }
        None => message,
    };
    if message.is_empty() {
        return Ok(None);
    }
    let (count, values) = message.split_first_chunk().ok_or(DecodeError::Truncated("columns"))?;
    match i16::from_be_bytes(*count) {
        END => Ok(None),
        count => Ok(Some((usize::try_from(count).map_err(|_| DecodeError::Truncated("columns"))?, values))),
    }
}

/// Writes the values as cells of an image.
pub(super) fn values((has, mut rest): (usize, &[u8]), columns: &[Printed], out: &mut BytesMut) -> Result<(), DecodeError> {
    if has != columns.len() {
        return Err(DecodeError::Columns { has, wanted: columns.len() });
    }
    make_room(out, most(rest.len(), columns.len()));
    for printed in columns {
        let (value, after) = value(rest)?;
        rest = after;
        match value {
            Some(value) => printed.cell(value, out)?,
            None => out.put_u8(b'n'),
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(rest.len())) }
}

/// The row without its last value, and that value, a `tid`, as text.
pub(super) fn cut_place((has, values): (usize, &[u8])) -> Result<((usize, &[u8]), String), DecodeError> {
    let (row, place) = values.split_last_chunk::<10>().ok_or(DecodeError::Truncated("place"))?;
    let [0, 0, 0, 6, a, b, c, d, high, low] = *place else { return Err(DecodeError::Truncated("place")) };
    let place = format!("({},{})", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([high, low]));
    Ok(((has.saturating_sub(1), row), place))
}

/// The value at the front, without its length, and what follows; NULL has the length -1.
fn value(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), DecodeError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(DecodeError::Truncated("length"))?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Err(_) => Ok((None, rest)),
        Ok(length) => {
            let (value, rest) = rest.split_at_checked(length).ok_or(DecodeError::Truncated("value"))?;
            Ok((Some(value), rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{CopyRows, Form};
    use super::*;

    #[test]
    fn the_place_is_no_column_and_the_end_is_no_row() {
        let mut rows = CopyRows::new(Form::Binary([Printed::Int].into()));
        let message = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x06\0\0\0\x09\0\x03";
        let (row, place) = rows.row_and_place(message).unwrap().unwrap();
        assert_eq!((&row.0[..], place.as_str()), (&b"t\0\0\0\x017"[..], "(9,3)"));
        assert_eq!(rows.row(b"\xff\xff"), Ok(None));
        assert_eq!(rows.row(b"\0\x01\0\0\0\x03abc"), Err(DecodeError::Binary { length: 3 }));
        assert_eq!(rows.row(b"\0\0"), Err(DecodeError::Columns { has: 0, wanted: 1 }));
    }

    proptest! {
        #[test]
        fn arbitrary_rows_never_panic(message in proptest::collection::vec(any::<u8>(), 0..100), first: bool) {
            let message = if first { [SIGNATURE, &message].concat() } else { message };
            for kind in Printed::ALL {
                let mut rows = CopyRows::new(Form::Binary([kind].into()));
                let _ = (rows.row(&message), rows.row_and_place(&message));
            }
        }
    }
}
