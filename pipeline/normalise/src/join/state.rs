//! What is kept of joined rows and of the rows that use them.

use bytes::Bytes;
use guitong_log::{Headers, Record, TopicPartition};
use guitong_schemas::position::Version;

use super::cell::Kept;
use super::{BESIDE, GROUPS, GroupKey, LINKS};
use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::keyed::overlay::Stored;
use crate::mapping::Columns;

const FORMAT: u8 = 1;

/// One row of a joined table: where its values stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BesideRow {
    pub(crate) version: Version,
    /// `None`: a part of its key is empty, so nothing finds it.
    pub(crate) group: Option<GroupKey>,
}

impl Stored for BesideRow {
    const MAP: &'static str = BESIDE;

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 64);
        out.version(self.version);
        out.optional(self.group.as_deref());
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let row = Self { version: from.version()?, group: from.optional()? };
        from.end()?;
        Ok(row)
    }

    fn is_marked(&self) -> bool {
        false
    }
}

/// The rows of a joined table that have one key, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: Vec<GroupRow>,
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

    pub(crate) fn size(&self) -> usize {
        self.rows.iter().map(GroupRow::size).sum()
    }
}

impl GroupRow {
    pub(crate) fn size(&self) -> usize {
        40 + self.source.len() + self.cells.iter().map(Kept::size).sum::<usize>()
    }
}

impl Stored for Group {
    const MAP: &'static str = GROUPS;

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, self.size());
        out.number(self.rows.len() as u64);
        for row in &self.rows {
            out.bytes(&row.source);
            out.version(row.version);
            out.number(row.cells.len() as u64);
            row.cells.iter().for_each(|cell| cell.encode(&mut out));
        }
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let row = |from: &mut Reader| {
            let (source, version) = (from.bytes()?, from.version()?);
            let cells = (0..from.count()?).map(|_| Kept::decode(from)).collect::<Result<_, _>>()?;
            Ok(GroupRow { source, version, cells })
        };
        let rows = (0..from.count()?).map(|_| row(&mut from)).collect::<Result<_, CodecError>>()?;
        from.end()?;
        Ok(Self { rows })
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
        let row = BesideRow { version, group: Some(Bytes::from_static(b"g")) };
        assert_eq!(BesideRow::decode(&row.encode()), Ok(row));
        let cells = vec![Kept::Text("桂".into()), Kept::Null];
        let group = Group { rows: vec![GroupRow { source: Bytes::from_static(b"s"), version, cells }] };
        assert_eq!(Group::decode(&group.encode()), Ok(group.clone()));
        assert!(Group::decode(&group.encode().slice(..9)).is_err());
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
