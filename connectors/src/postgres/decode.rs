//! Messages of the `pgoutput` plugin, protocol version 2 (PostgreSQL documentation, "Logical Replication Message Formats").
//!
//! What comes between [`Message::StreamStart`] and [`Message::StreamStop`] is not for [`decode`] yet: it is of a transaction in progress,
//! and names the (sub)transaction that it may be rolled back with ([`part`]).
//!
//! Row images are slices of the message's own bytes; values in binary form are left in it ([`super::printed`]). Every length and kind is checked, so whatever a server sends gives a
//! message or an error.

use bytes::Bytes;
use guitong_schemas::change::RowImage;
use thiserror::Error;

/// What is wrong with a message.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("the message ends before its {0}")]
    Truncated(&'static str),
    #[error("{name} has the unknown kind {kind:#04x}")]
    Unknown { name: &'static str, kind: u8 },
    #[error("a name is not UTF-8")]
    Text,
    #[error("{0} bytes follow the message's end")]
    Trailing(usize),
    #[error("the tuple has {has} columns, its relation {wanted}")]
    Columns { has: usize, wanted: usize },
    #[error("a value of {length} bytes is none of its column's type in binary form")]
    Binary { length: usize },
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Begin {
        /// LSN of the commit record.
        commit: u64,
        /// Microseconds since 2000-01-01.
        commit_time: i64,
        xid: u32,
    },
    Commit {
        /// Where the next transaction can begin.
        end: u64,
    },
    /// What `pg_logical_emit_message` wrote.
    Logical {
        lsn: u64,
        transactional: bool,
        prefix: Bytes,
        content: Bytes,
    },
    Relation(RelationMessage),
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Old,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: Old,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// What follows, up to [`Message::StreamStop`], is of this transaction, which is in progress.
    StreamStart {
        xid: u32,
    },
    StreamStop,
    /// A transaction that came in streams is committed.
    StreamCommit {
        xid: u32,
        /// LSN of the commit record.
        commit: u64,
        /// Where the next transaction can begin.
        end: u64,
        /// Microseconds since 2000-01-01.
        commit_time: i64,
    },
    /// A part of a transaction that came in streams is rolled back, or all of it where `part` is `xid`.
    StreamAbort {
        xid: u32,
        part: u32,
    },
    /// A type's name or a replication origin: nothing that changes a row.
    Other,
}

impl Message {
    /// What a transaction consists of: whenever the server sends it, it sends this. (Transactions without come or not, by how they are
    /// sent.)
    pub(crate) fn is_content(&self) -> bool {
        matches!(
            self,
            Self::Insert { .. }
                | Self::Update { .. }
                | Self::Delete { .. }
                | Self::Truncate { .. }
                | Self::Logical { transactional: true, .. }
        )
    }

    /// Changes tables, or tells their shape.
    pub(crate) fn is_of_tables(&self) -> bool {
        matches!(
            self,
            Self::Relation(_) | Self::Insert { .. } | Self::Update { .. } | Self::Delete { .. } | Self::Truncate { .. }
        )
    }
}

/// Shape of a table as the rows that follow have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationMessage {
    pub oid: u32,
    /// Empty for `pg_catalog`.
    pub schema: String,
    pub name: String,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub identity: u8,
    pub columns: Vec<RelationColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub identity: bool,
}

/// A row and the number of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple {
    pub columns: usize,
    /// Some of its values are in binary form.
    pub binary: bool,
    pub image: RowImage,
}

/// The row before an update or delete, as far as the replica identity gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    None,
    Key(Tuple),
    Full(Tuple),
}

/// Reads one message, whole.
///
/// # Errors
/// [`DecodeError`] when the bytes are no message of this protocol.
pub fn decode(data: &Bytes) -> Result<Message, DecodeError> {
    let mut input = Input { data, at: 0 };
    let message = match input.u8("kind")? {
        b'B' => Message::Begin {
            commit: input.u64("commit position")?,
            commit_time: input.u64("commit time")?.cast_signed(),
            xid: input.u32("transaction")?,
        },
        b'C' => {
            input.take(1 + 8, "commit position")?;
            let end = input.u64("end of transaction")?;
            input.take(8, "commit time")?;
            Message::Commit { end }
        }
        b'M' => {
            let transactional = input.u8("flags")? & 1 == 1;
            let lsn = input.u64("position")?;
            let prefix = input.until_zero("prefix")?;
            let prefix = data.slice_ref(prefix);
            let length = input.u32("content length")?;
            let content = input.take(usize::try_from(length).map_err(|_| DecodeError::Truncated("content"))?, "content")?;
            Message::Logical { lsn, transactional, prefix, content: data.slice_ref(content) }
        }
        b'R' => Message::Relation(relation(&mut input)?),
        b'I' => {
            let relation = input.u32("relation")?;
            expect_new(input.u8("tuple kind")?)?;
            Message::Insert { relation, new: input.tuple()? }
        }
        b'U' => update(&mut input)?,
        b'D' => {
            let relation = input.u32("relation")?;
            let old = match input.u8("tuple kind")? {
                b'K' => Old::Key(input.tuple()?),
                b'O' => Old::Full(input.tuple()?),
                kind => return Err(DecodeError::Unknown { name: "a deleted tuple", kind }),
            };
            Message::Delete { relation, old }
        }
        b'T' => {
            let count = input.u32("relation count")?;
            input.u8("truncate options")?;
            let relations = (0..count).map(|_| input.u32("relation")).collect::<Result<_, _>>()?;
            Message::Truncate { relations }
        }
        b'S' => {
            let xid = input.u32("transaction")?;
            input.u8("segment")?;
            Message::StreamStart { xid }
        }
        STREAM_STOP => Message::StreamStop,
        b'c' => {
            let xid = input.u32("transaction")?;
            input.u8("flags")?;
            Message::StreamCommit {
                xid,
                commit: input.u64("commit position")?,
                end: input.u64("end of transaction")?,
                commit_time: input.u64("commit time")?.cast_signed(),
            }
        }
        b'A' => Message::StreamAbort { xid: input.u32("transaction")?, part: input.u32("subtransaction")? },
        b'Y' | b'O' => return Ok(Message::Other),
        kind => return Err(DecodeError::Unknown { name: "the message", kind }),
    };
    match data.len() - input.at {
        0 => Ok(message),
        left => Err(DecodeError::Trailing(left)),
    }
}

const STREAM_STOP: u8 = b'E';

/// A message that came within a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The stream stops here.
    Stop,
    /// What [`decode`] reads is `kind` and then `rest`; it is rolled back with `xid`, a subtransaction's or the transaction's own.
    Of { xid: u32, kind: u8, rest: &'a [u8] },
    /// Nothing that changes a row.
    Other,
}

/// Takes off a message what it has only within a stream.
///
/// # Errors
/// [`DecodeError`] when it ends before that.
pub(crate) fn part(data: &[u8]) -> Result<Part<'_>, DecodeError> {
    match data.split_first() {
        Some((&STREAM_STOP, _)) => Ok(Part::Stop),
        // Has no transaction's number.
        Some((b'O', _)) => Ok(Part::Other),
        Some((&kind, rest)) => match rest.split_first_chunk::<4>() {
            Some((xid, rest)) => Ok(Part::Of { xid: u32::from_be_bytes(*xid), kind, rest }),
            None => Err(DecodeError::Truncated("subtransaction")),
        },
        None => Err(DecodeError::Truncated("kind")),
    }
}

fn update(input: &mut Input<'_>) -> Result<Message, DecodeError> {
    let relation = input.u32("relation")?;
    let old = match input.u8("tuple kind")? {
        b'N' => return Ok(Message::Update { relation, old: Old::None, new: input.tuple()? }),
        b'K' => Old::Key(input.tuple()?),
        b'O' => Old::Full(input.tuple()?),
        kind => return Err(DecodeError::Unknown { name: "an updated tuple", kind }),
    };
    expect_new(input.u8("tuple kind")?)?;
    Ok(Message::Update { relation, old, new: input.tuple()? })
}

fn expect_new(kind: u8) -> Result<(), DecodeError> {
    if kind == b'N' { Ok(()) } else { Err(DecodeError::Unknown { name: "a new tuple", kind }) }
}

fn relation(input: &mut Input<'_>) -> Result<RelationMessage, DecodeError> {
    let oid = input.u32("relation")?;
    let schema = input.text("schema")?;
    let name = input.text("relation name")?;
    let identity = input.u8("replica identity")?;
    let count = input.u16("column count")?;
    let columns = (0..count).map(|_| {
        let identity = input.u8("column flags")? & 1 == 1;
        let name = input.text("column name")?;
        let type_oid = input.u32("column type")?;
        let type_modifier = input.u32("type modifier")?.cast_signed();
        Ok(RelationColumn { name, type_oid, type_modifier, identity })
    });
    let columns = columns.collect::<Result<_, DecodeError>>()?;
    Ok(RelationMessage { oid, schema: if schema.is_empty() { "pg_catalog".to_owned() } else { schema }, name, identity, columns })
}

struct Input<'a> {
    data: &'a Bytes,
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).ok_or(DecodeError::Truncated(what))?;
        let taken = self.data.get(self.at..end).ok_or(DecodeError::Truncated(what))?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.take(1, what)?.first().copied().ok_or(DecodeError::Truncated(what))
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        let bytes = self.take(2, what)?.try_into().map_err(|_| DecodeError::Truncated(what))?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let bytes = self.take(4, what)?.try_into().map_err(|_| DecodeError::Truncated(what))?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let bytes = self.take(8, what)?.try_into().map_err(|_| DecodeError::Truncated(what))?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn until_zero(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == 0).ok_or(DecodeError::Truncated(what))?;
        let taken = self.take(length, what)?;
        self.at += 1;
        Ok(taken)
    }

    fn text(&mut self, what: &'static str) -> Result<String, DecodeError> {
        std::str::from_utf8(self.until_zero(what)?).map(str::to_owned).map_err(|_| DecodeError::Text)
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let columns = usize::from(self.u16("column count")?);
        let (start, mut binary) = (self.at, false);
        for _ in 0..columns {
            match self.u8("value kind")? {
                b'n' | b'u' => {}
                kind @ (b't' | b'b') => {
                    binary |= kind == b'b';
                    let length = self.u32("value length")?;
                    self.take(usize::try_from(length).map_err(|_| DecodeError::Truncated("value"))?, "value")?;
                }
                kind => return Err(DecodeError::Unknown { name: "a value", kind }),
            }
        }
        Ok(Tuple { columns, binary, image: RowImage(self.data.slice(start..self.at)) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Option<Option<Vec<u8>>>> {
        proptest::option::of(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)))
    }

    /// Bytes of TupleData and of its columns alone.
    fn tuple_bytes(values: &[Option<Option<Vec<u8>>>]) -> (Vec<u8>, Vec<u8>) {
        let mut columns = Vec::new();
        for value in values {
            match value {
                None => columns.push(b'u'),
                Some(None) => columns.push(b'n'),
                Some(Some(text)) => {
                    columns.push(b't');
                    columns.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    columns.extend(text);
                }
            }
        }
        let mut whole = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        whole.extend(&columns);
        (whole, columns)
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&Bytes::from(data));
        }

        #[test]
        fn damaged_messages_never_panic(
            values in proptest::collection::vec(value(), 0..6), kind in prop::sample::select(b"IUDTRYOBCMSEcA".to_vec()),
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut data = vec![kind, 0, 0, 0, 9, if kind == b'D' { b'K' } else { b'N' }];
            data.extend(tuple_bytes(&values).0);
            let index = at.index(data.len());
            data[index] = byte;
            data.truncate(cut.index(data.len()) + 1);
            let _ = decode(&Bytes::from(data));
        }

        #[test]
        fn an_update_gives_both_rows_as_slices(
            old in proptest::collection::vec(value(), 0..6), new in proptest::collection::vec(value(), 0..6),
            full in any::<bool>(),
        ) {
            let mut data = vec![b'U', 0, 0, 64, 1, if full { b'O' } else { b'K' }];
            data.extend(tuple_bytes(&old).0);
            data.push(b'N');
            data.extend(tuple_bytes(&new).0);
            let data = Bytes::from(data);
            let row = |values: &[_]| Tuple { columns: values.len(), binary: false, image: RowImage(tuple_bytes(values).1.into()) };
            let before = if full { Old::Full(row(&old)) } else { Old::Key(row(&old)) };
            let message = decode(&data).unwrap();
            prop_assert_eq!(&message, &Message::Update { relation: 16_385, old: before, new: row(&new) });
            if let Message::Update { new, .. } = message && !new.image.0.is_empty() {
                prop_assert!(data.as_ptr_range().contains(&new.image.0.as_ptr()), "the row was copied");
            }
            prop_assert!(decode(&data.slice(..data.len() - 1)).is_err());
        }
    }

    #[test]
    fn a_relation_keeps_names_of_any_script() {
        let mut data = vec![b'R', 0, 0, 0, 7];
        data.extend("登记\0企业\0d".as_bytes());
        data.extend([0, 1, 1]);
        data.extend("编号\0".as_bytes());
        data.extend([0, 0, 0, 23, 0xFF, 0xFF, 0xFF, 0xFF]);
        let column = RelationColumn { name: "编号".into(), type_oid: 23, type_modifier: -1, identity: true };
        let wanted =
            RelationMessage { oid: 7, schema: "登记".into(), name: "企业".into(), identity: b'd', columns: vec![column] };
        assert_eq!(decode(&Bytes::from(data)), Ok(Message::Relation(wanted)));
    }

    #[test]
    fn boundaries_and_logical_messages() {
        let mut begin = vec![b'B'];
        begin.extend([7_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat());
        begin.extend(5_u32.to_be_bytes());
        assert_eq!(decode(&Bytes::from(begin)), Ok(Message::Begin { commit: 7, commit_time: 9, xid: 5 }));
        let mut commit = vec![b'C', 0];
        commit.extend([7_u64.to_be_bytes(), 8_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat());
        assert_eq!(decode(&Bytes::from(commit)), Ok(Message::Commit { end: 8 }));
        let logical = b"M\x01\0\0\0\0\0\0\0\x07guitong\0\0\0\0\x03abc";
        let wanted = Message::Logical {
            lsn: 7,
            transactional: true,
            prefix: Bytes::from_static(b"guitong"),
            content: Bytes::from_static(b"abc"),
        };
        assert_eq!(decode(&Bytes::from_static(logical)), Ok(wanted));
    }

    #[test]
    fn streams_begin_stop_and_end() {
        assert_eq!(decode(&Bytes::from_static(b"S\0\0\0\x05\x01")), Ok(Message::StreamStart { xid: 5 }));
        assert_eq!(decode(&Bytes::from_static(b"E")), Ok(Message::StreamStop));
        assert_eq!(decode(&Bytes::from_static(b"A\0\0\0\x05\0\0\0\x06")), Ok(Message::StreamAbort { xid: 5, part: 6 }));
        let mut commit = vec![b'c', 0, 0, 0, 5, 0];
        commit.extend([7_u64.to_be_bytes(), 8_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat());
        assert_eq!(decode(&Bytes::from(commit)), Ok(Message::StreamCommit { xid: 5, commit: 7, end: 8, commit_time: 9 }));
        assert_eq!(part(b"I\0\0\0\x06rest"), Ok(Part::Of { xid: 6, kind: b'I', rest: b"rest" }));
        assert_eq!(part(b"E"), Ok(Part::Stop));
        assert_eq!(part(b"O\0\0"), Ok(Part::Other));
        assert_eq!(part(b"I\0\0\0"), Err(DecodeError::Truncated("subtransaction")));
        assert_eq!(part(b""), Err(DecodeError::Truncated("kind")));
    }

    #[test]
    fn what_follows_the_end_is_an_error() {
        let mut data = vec![b'T', 0, 0, 0, 1, 0, 0, 0, 0, 9];
        assert_eq!(decode(&Bytes::from(data.clone())), Ok(Message::Truncate { relations: vec![9] }));
        data.push(1);
        assert_eq!(decode(&Bytes::from(data)), Err(DecodeError::Trailing(1)));
    }
}
