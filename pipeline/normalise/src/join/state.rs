//! What is kept of joined rows and of the rows that use them.

use bytes::Bytes;
use guitong_log::{Headers, Record, TopicPartition};
use guitong_schemas::position::Version;
use smallvec::SmallVec;

use super::cell::Kept;
use super::{APART, BESIDE, GROUPS, GroupKey, LINKS};
use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::keyed::overlay::Stored;
use crate::keyed::row::Open;
use crate::mapping::Columns;

const FORMAT: u8 = 1;

/// One row of a joined table: where its values stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BesideRow {
    /// Zero where no event of the row could be read.
    pub(crate) version: Version,
    /// `None`: a part of its key is empty, so nothing finds it.
    pub(crate) group: Option<GroupKey>,
    /// Entries of its events that could not be read, in their order.
    pub(crate) open: SmallVec<[Open; 1]>,
}

/// Of a row with open entries, which are few.
const FORMAT_OPEN: u8 = 2;

impl Stored for BesideRow {
    const MAP: &'static str = BESIDE;

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(if self.open.is_empty() { FORMAT } else { FORMAT_OPEN }, 64);
        out.version(self.version);
        out.optional(self.group.as_deref());
        for open in &self.open {
            out.number(open.seq);
            out.version(open.version);
        }
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let has_open = bytes.first() == Some(&FORMAT_OPEN);
        let mut from = Reader::new(bytes, if has_open { FORMAT_OPEN } else { FORMAT })?;
        let mut row = Self { version: from.version()?, group: from.optional()?, open: SmallVec::new() };
        while has_open && !from.is_empty() {
            row.open.push(Open { seq: from.number()?, version: from.version()? });
        }
        from.end()?;
        Ok(row)
    }

    fn is_marked(&self) -> bool {
        false
    }
}

/// Bytes of rows that stand in their group's own value. Rows of a larger group each have a value of their own, so that one more costs
/// no more than itself.
const TOGETHER: usize = 4 << 10;
/// Most rows of one key that a record is made of, and most bytes of them: all are held at once.
const MAX_ROWS: u64 = 5_000;
const MAX_BYTES: u64 = 4 << 20;

/// The rows of a joined table that have one key, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Of rows that stand by themselves empty until they are read.
    rows: Vec<GroupRow>,
    apart: Option<Apart>,
}

/// Rows that stand by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Apart {
    count: u64,
    bytes: u64,
    is_read: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRow {
    pub(crate) source: Bytes,
    pub(crate) version: Version,
    /// As the joined table's columns in the plan.
    pub(crate) cells: Vec<Kept>,
}

impl Group {
    pub(crate) fn row(&self, source: &[u8]) -> Option<&GroupRow> {
        self.rows.iter().find(|row| row.source == source)
    }

    /// The rows, if they are read.
    pub(crate) fn rows(&self) -> Option<&[GroupRow]> {
        self.apart.is_none_or(|apart| apart.is_read).then_some(self.rows.as_slice())
    }

    /// Whether the rows stand by themselves.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// More rows than a record is made of.
    pub(crate) fn is_too_large(&self) -> bool {
        self.apart.is_some_and(|apart| apart.count > MAX_ROWS || apart.bytes > MAX_BYTES)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.apart.map_or(self.rows.is_empty(), |apart| apart.count == 0)
    }

    /// Bytes that the rows are.
    pub(crate) fn size(&self) -> usize {
        let apart = self.apart.map(|apart| usize::try_from(apart.bytes).unwrap_or(usize::MAX));
        apart.unwrap_or_else(|| self.rows.iter().map(GroupRow::size).sum())
    }

    /// Takes the rows that were read, in their order.
    pub(crate) fn fill(&mut self, rows: Vec<GroupRow>) {
        if let Some(apart) = &mut self.apart {
            (self.rows, apart.is_read) = (rows, true);
        }
    }

    /// Puts a row at its place; gives the rows that from now on stand by themselves.
    pub(crate) fn insert(&mut self, row: GroupRow, is_before: impl Fn(&GroupRow, &GroupRow) -> bool) -> Vec<GroupRow> {
        let size = row.size();
        let place = self.rows.partition_point(|other| is_before(other, &row));
        match &mut self.apart {
            Some(apart) => {
                apart.count += 1;
                apart.bytes += size as u64;
                if apart.is_read {
                    self.rows.insert(place, row.clone());
                }
                vec![row]
            }
            None => {
                self.rows.insert(place, row);
                let bytes = self.size();
                if bytes <= TOGETHER {
                    return Vec::new();
                }
                self.apart = Some(Apart { count: self.rows.len() as u64, bytes: bytes as u64, is_read: true });
                self.rows.clone()
            }
        }
    }

    /// Takes a row out, of which `known` is what stands by itself.
    pub(crate) fn remove(&mut self, source: &[u8], known: Option<&GroupRow>) {
        self.rows.retain(|row| row.source != source);
        if let (Some(apart), Some(known)) = (&mut self.apart, known) {
            apart.count = apart.count.saturating_sub(1);
            apart.bytes = apart.bytes.saturating_sub(known.size() as u64);
        }
    }
}

impl GroupRow {
    pub(crate) fn size(&self) -> usize {
        40 + self.source.len() + self.cells.iter().map(Kept::size).sum::<usize>()
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.source);
        out.version(self.version);
        out.number(self.cells.len() as u64);
        self.cells.iter().for_each(|cell| cell.encode(out));
    }

    fn read(from: &mut Reader) -> Result<Self, CodecError> {
        let (source, version) = (from.bytes()?, from.version()?);
        let cells = (0..from.count()?).map(|_| Kept::decode(from)).collect::<Result<_, _>>()?;
        Ok(Self { source, version, cells })
    }
}

impl Stored for GroupRow {
    const MAP: &'static str = APART;

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, self.size());
        self.write(&mut out);
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let row = Self::read(&mut from)?;
        from.end()?;
        Ok(row)
    }

    fn is_marked(&self) -> bool {
        false
    }
}

impl Stored for Group {
    const MAP: &'static str = GROUPS;

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, TOGETHER);
        match self.apart {
            Some(Apart { count, bytes, .. }) => {
                out.u8(1);
                out.number(count);
                out.number(bytes);
            }
            None => {
                out.u8(0);
                out.number(self.rows.len() as u64);
                self.rows.iter().for_each(|row| row.write(&mut out));
            }
        }
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let group = match from.u8()? {
            0 => {
                let rows = (0..from.count()?).map(|_| GroupRow::read(&mut from)).collect::<Result<_, CodecError>>()?;
                Self { rows, apart: None }
            }
            1 => {
                let apart = Apart { count: from.number()?, bytes: from.number()?, is_read: false };
                Self { rows: Vec::new(), apart: Some(apart) }
            }
            _ => return Err(CodecError::Damaged),
        };
        from.end()?;
        Ok(group)
    }

    fn is_marked(&self) -> bool {
        false
    }
}

/// The versions of a resource's row that may be made again, and what each used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) versions: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) version: Version,
    /// Bytes of its input.
    pub(crate) size: u64,
    pub(crate) groups: Vec<GroupKey>,
}

impl Stored for Links {
    const MAP: &'static str = LINKS;

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 128);
        out.number(self.versions.len() as u64);
        for link in &self.versions {
            out.version(link.version);
            out.number(link.size);
            out.number(link.groups.len() as u64);
            link.groups.iter().for_each(|group| out.bytes(group));
        }
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let link = |from: &mut Reader| {
            let (version, size) = (from.version()?, from.number()?);
            let groups = (0..from.count()?).map(|_| from.bytes()).collect::<Result<_, _>>()?;
            Ok(Link { version, size, groups })
        };
        let versions = (0..from.count()?).map(|_| link(&mut from)).collect::<Result<_, CodecError>>()?;
        from.end()?;
        Ok(Self { versions })
    }

    fn is_marked(&self) -> bool {
        false
    }
}

/// An event as it came, with what was known of columns that it left out.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) record: Record,
    pub(crate) columns: Columns,
}

impl Input {
    pub(crate) fn encode(record: &Record, columns: &Columns) -> Bytes {
        let mut out = Writer::new(FORMAT, 256 + record.value.as_ref().map_or(0, Bytes::len));
        out.bytes(record.at.topic.as_bytes());
        out.number(record.offset);
        out.i64(record.timestamp_ms);
        out.optional(record.key.as_deref());
        out.optional(record.value.as_deref());
        out.number(record.headers.len() as u64);
        for (name, value) in &record.headers {
            out.bytes(name.as_bytes());
            out.bytes(value);
        }
        columns.encode(&mut out);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let at = TopicPartition::new(from.text()?, 0);
        let (offset, timestamp_ms) = (from.number()?, from.i64()?);
        let (key, value) = (from.optional()?, from.optional()?);
        let headers: Headers =
            (0..from.count()?).map(|_| Ok((from.text()?.into(), from.bytes()?))).collect::<Result<_, CodecError>>()?;
        let columns = Columns::decode(&mut from)?;
        from.end()?;
        Ok(Self { record: Record { at, offset, timestamp_ms, key, value, headers }, columns })
    }
}

/// How far the users of a changed group are made again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refresh {
    /// Of the change that asked for it.
    pub(crate) version: Version,
    pub(crate) source_ts_us: i64,
    /// Source key of the last row that was made again; empty before the first.
    pub(crate) after: Bytes,
}

impl Refresh {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 64);
        out.version(self.version);
        out.i64(self.source_ts_us);
        out.bytes(&self.after);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let refresh = Self { version: from.version()?, source_ts_us: from.i64()?, after: from.bytes()? };
        from.end()?;
        Ok(refresh)
    }
}

/// Key of an event in the map of inputs.
pub(crate) fn input_key(source: &[u8], version: Version) -> Bytes {
    Bytes::from([source, &version.to_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let version = Version { epoch: 1, commit: 2, ..Version::default() };
        for open in [SmallVec::new(), SmallVec::from([Open { seq: 300, version }])] {
            let row = BesideRow { version, group: Some(Bytes::from_static(b"g")), open };
            assert_eq!(BesideRow::decode(&row.encode()), Ok(row));
        }
        let cells = vec![Kept::Text("桂".into()), Kept::Null];
        let row = GroupRow { source: Bytes::from_static(b"s"), version, cells };
        assert_eq!(GroupRow::decode(&row.encode()), Ok(row.clone()));
        let group = Group { rows: vec![row], apart: None };
        assert_eq!(Group::decode(&group.encode()), Ok(group.clone()));
        assert!(Group::decode(&group.encode().slice(..9)).is_err());
        let apart = Group { rows: Vec::new(), apart: Some(Apart { count: 7, bytes: 9_000, is_read: false }) };
        assert_eq!(Group::decode(&apart.encode()), Ok(apart));
        let links = Links { versions: vec![Link { version, size: 9, groups: vec![Bytes::from_static(b"g")] }] };
        assert_eq!(Links::decode(&links.encode()), Ok(links));
        let refresh = Refresh { version, source_ts_us: 7, after: Bytes::from_static(b"s") };
        assert_eq!(Refresh::decode(&refresh.encode()), Ok(refresh));
        let record = Record {
            at: TopicPartition::new("raw.a.b.c", 0),
            offset: 9,
            timestamp_ms: 8,
            key: Some(Bytes::from_static(b"k")),
            value: None,
            headers: vec![("h".into(), Bytes::from_static(b"v"))],
        };
        let mut columns = Columns::default();
        columns.push("a", "b");
        let back = Input::decode(&Input::encode(&record, &columns)).expect("reads");
        assert_eq!((format!("{:?}", back.record), back.columns), (format!("{record:?}"), columns));
    }
}
