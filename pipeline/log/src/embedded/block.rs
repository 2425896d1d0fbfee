//! How records lie in the file: a block holds consecutive records of one partition and one commit, packed in one row.
//!
//! Layout, integers big-endian: version `u8` = 1, record count `u32`, then for each record: offset minus the block's first
//! offset `u32`, timestamp `i64` (ms), key length `u32`, value length `u32` (`u32::MAX`: none), header count `u16`, key, value, and for
//! each header: name length `u16`, name, value length `u32`, value. Offsets can have holes once a block was compacted.
//!
//! Neighbouring rows of a table are much alike, so a block that becomes shorter by it lies compressed: version `u8` = 2, length of
//! what follows when it is unpacked `u32`, then a block of version 1 as an LZ4 block.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Headers, LogError, MAX_RECORD, NewRecord, Record, TopicPartition};

/// A block is closed once it is this long. Longer blocks cost readers with small budgets more than they gain writers.
pub(crate) const BLOCK_BYTES: usize = 128 << 10;
const PLAIN: u8 = 1;
const COMPRESSED: u8 = 2;
/// Version and a number, of either kind of block.
const HEAD: usize = 5;
/// Shorter blocks, which fill a page of the file at most, are not worth the work.
const COMPRESSIBLE: usize = 4 << 10;
/// More than any block has: one is closed with the record that makes it long enough.
const UNPACKED: usize = 4 * MAX_RECORD;
const RECORD_HEAD: usize = 22;
const NONE: u32 = u32::MAX;

/// A finished block; offsets in it are relative to its first record.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) data: Vec<u8>,
    /// Offsets it spans: the last record's relative offset plus one.
    pub(crate) span: u32,
    /// Latest timestamp in it.
    pub(crate) max_ms: i64,
}

/// Packs records of one partition into blocks.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    data: Vec<u8>,
    count: u32,
    span: u32,
    max_ms: i64,
}

impl BlockBuilder {
    /// Bytes packed so far.
    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// Appends a record at the next relative offset.
    pub(crate) fn push(&mut self, record: &NewRecord) -> Result<(), LogError> {
        let size = record.size();
        if size > MAX_RECORD {
            return Err(LogError::TooLarge { topic: Arc::clone(&record.topic), size, limit: MAX_RECORD });
        }
        let headers = u16::try_from(record.headers.len())
            .map_err(|_| LogError::Other(format!("a record for {} has more than {} headers", record.topic, u16::MAX)))?;
        self.start(self.span, record.timestamp_ms);
        self.data.reserve(RECORD_HEAD + size + 6 * record.headers.len());
        self.put_len(record.key.as_ref());
        self.put_len(record.value.as_ref());
        self.data.extend_from_slice(&headers.to_be_bytes());
        for part in [&record.key, &record.value].into_iter().flatten() {
            self.data.extend_from_slice(part);
        }
        for (name, value) in &record.headers {
            let name_len = u16::try_from(name.len())
                .map_err(|_| LogError::Other(format!("a header name of a record for {} is too long", record.topic)))?;
            self.data.extend_from_slice(&name_len.to_be_bytes());
            self.data.extend_from_slice(name.as_bytes());
            self.data.extend_from_slice(&(value.len() as u32).to_be_bytes());
            self.data.extend_from_slice(value);
        }
        Ok(())
    }

    /// Appends a record of another block as it lies there, `relative` to this block's first offset.
    pub(crate) fn copy(&mut self, relative: u32, record: &RawRecord<'_>) {
        self.start(relative, record.timestamp_ms);
        self.data.extend_from_slice(record.tail);
    }

    fn start(&mut self, relative: u32, timestamp_ms: i64) {
        if self.data.is_empty() {
            self.data.push(PLAIN);
            self.data.extend_from_slice(&[0; 4]);
            self.max_ms = timestamp_ms;
        }
        self.count += 1;
        self.span = relative + 1;
        self.max_ms = self.max_ms.max(timestamp_ms);
        self.data.extend_from_slice(&relative.to_be_bytes());
        self.data.extend_from_slice(&timestamp_ms.to_be_bytes());
    }

    fn put_len(&mut self, part: Option<&Bytes>) {
        // `push` has checked that both are below `MAX_RECORD`.
        let len = part.map_or(NONE, |bytes| bytes.len() as u32);
        self.data.extend_from_slice(&len.to_be_bytes());
    }

    /// The block of what was pushed, `None` where that is nothing; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Option<Block> {
        let mut done = std::mem::take(self);
        done.data.get_mut(1..HEAD)?.copy_from_slice(&done.count.to_be_bytes());
        Some(Block { data: compressed(done.data), span: done.span, max_ms: done.max_ms })
    }
}

/// The block as it is to lie in the file.
fn compressed(plain: Vec<u8>) -> Vec<u8> {
    if plain.len() < COMPRESSIBLE {
        return plain;
    }
    let mut out = vec![0; HEAD + lz4_flex::block::get_maximum_output_size(plain.len())];
    let (head, body) = out.split_at_mut(HEAD);
    let Ok(length) = lz4_flex::block::compress_into(&plain, body) else { return plain };
    if HEAD + length > plain.len() / 8 * 7 {
        return plain;
    }
    // Records are far below 4 GiB.
    head.copy_from_slice(&[&[COMPRESSED][..], &(plain.len() as u32).to_be_bytes()].concat());
    out.truncate(HEAD + length);
    out.shrink_to_fit();
    out
}

/// A block as [`RawRecords`] walks it, of a block as it lies in the file.
///
/// # Errors
/// [`LogError::Corrupt`] where it is damaged, or of a form that this program does not know.
pub(crate) fn unpack(stored: Vec<u8>) -> Result<Vec<u8>, LogError> {
    let mut cursor = Cursor { block: &stored, at: 0 };
    let [version] = cursor.take()?;
    match version {
        PLAIN => Ok(stored),
        COMPRESSED => {
            let length = u32::from_be_bytes(cursor.take()?) as usize;
            if length > UNPACKED {
                return Err(corrupt(format!("a block is said to have {length} bytes")));
            }
            let mut plain = vec![0; length];
            let body = stored.get(HEAD..).unwrap_or_default();
            let done = lz4_flex::block::decompress_into(body, &mut plain);
            match done {
                Ok(done) if done == length => Ok(plain),
                Ok(_) => Err(short()),
                Err(error) => Err(corrupt(format!("a block does not unpack: {error}"))),
            }
        }
        other => Err(corrupt(format!("a block has format {other}, this program reads up to {COMPRESSED}"))),
    }
}

/// A record where it lies in its block.
#[derive(Debug)]
pub(crate) struct RawRecord<'a> {
    /// Offset minus the block's first offset.
    pub(crate) relative: u32,
    pub(crate) timestamp_ms: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: u16,
    headers_at: usize,
    /// Everything after the timestamp, as it lies.
    tail: &'a [u8],
    block: &'a [u8],
}

impl RawRecord<'_> {
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.block.get(self.key.clone()?)
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }
}

/// Walks the records of a block. Damage ends the walk with [`LogError::Corrupt`].
#[derive(Debug)]
pub(crate) struct RawRecords<'a> {
    block: &'a [u8],
    at: usize,
    left: u32,
}

impl<'a> RawRecords<'a> {
    pub(crate) fn new(block: &'a [u8]) -> Result<Self, LogError> {
        let mut cursor = Cursor { block, at: 0 };
        let [version] = cursor.take()?;
        if version != PLAIN {
            return Err(corrupt(format!("records are looked for in a block of format {version}")));
        }
        let left = u32::from_be_bytes(cursor.take()?);
        Ok(Self { block, at: cursor.at, left })
    }

    fn read(&mut self) -> Result<RawRecord<'a>, LogError> {
        let mut cursor = Cursor { block: self.block, at: self.at };
        let relative = u32::from_be_bytes(cursor.take()?);
        let timestamp_ms = i64::from_be_bytes(cursor.take()?);
        let tail_at = cursor.at;
        let key_len = u32::from_be_bytes(cursor.take()?);
        let value_len = u32::from_be_bytes(cursor.take()?);
        let headers = u16::from_be_bytes(cursor.take()?);
        let key = cursor.part(key_len)?;
        let value = cursor.part(value_len)?;
        let headers_at = cursor.at;
        for _ in 0..headers {
            cursor.header()?;
        }
        self.at = cursor.at;
        let tail = self.block.get(tail_at..cursor.at).ok_or_else(short)?;
        Ok(RawRecord { relative, timestamp_ms, key, value, headers, headers_at, tail, block: self.block })
    }
}

impl<'a> Iterator for RawRecords<'a> {
    type Item = Result<RawRecord<'a>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], LogError> {
        let bytes = self.block.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
        self.at += N;
        Ok(*bytes)
    }

    fn span(&mut self, len: usize) -> Result<Range<usize>, LogError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.block.len()).ok_or_else(short)?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn part(&mut self, len: u32) -> Result<Option<Range<usize>>, LogError> {
        if len == NONE { Ok(None) } else { self.span(len as usize).map(Some) }
    }

    fn header(&mut self) -> Result<(Range<usize>, Range<usize>), LogError> {
        let name_len = u16::from_be_bytes(self.take()?);
        let name = self.span(usize::from(name_len))?;
        let value_len = u32::from_be_bytes(self.take()?);
        Ok((name, self.span(value_len as usize)?))
    }
}

fn short() -> LogError {
    corrupt("a block ends early".to_owned())
}

fn corrupt(detail: String) -> LogError {
    LogError::Corrupt { detail }
}

/// Header names of one reader, each kept once: records have the same few.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<Arc<str>>);

impl Names {
    const KEPT: usize = 32;

    fn of(&mut self, name: &[u8]) -> Result<Arc<str>, LogError> {
        if let Some(known) = self.0.iter().find(|known| known.as_bytes() == name) {
            return Ok(Arc::clone(known));
        }
        let name: Arc<str> = std::str::from_utf8(name).map_err(|_| corrupt("a header name is no text".to_owned()))?.into();
        if self.0.len() < Self::KEPT {
            self.0.push(Arc::clone(&name));
        }
        Ok(name)
    }
}

/// The record as the contract gives it; its bytes are slices of `block`, whose first offset is `base`.
pub(crate) fn record(
    raw: &RawRecord<'_>,
    block: &Bytes,
    base: u64,
    at: &TopicPartition,
    names: &mut Names,
) -> Result<Record, LogError> {
    let mut cursor = Cursor { block: raw.block, at: raw.headers_at };
    let mut headers = Headers::with_capacity(usize::from(raw.headers));
    for _ in 0..raw.headers {
        let (name, value) = cursor.header()?;
        headers.push((names.of(raw.block.get(name).ok_or_else(short)?)?, block.slice(value)));
    }
    Ok(Record {
        at: at.clone(),
        offset: base + u64::from(raw.relative),
        timestamp_ms: raw.timestamp_ms,
        key: raw.key.clone().map(|key| block.slice(key)),
        value: raw.value.clone().map(|value| block.slice(value)),
        headers,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::Rng as _;

    use super::*;

    fn new_record() -> impl Strategy<Value = NewRecord> {
        let part = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from));
        let headers = proptest::collection::vec(("[a-z_-]{0,9}", proptest::collection::vec(any::<u8>(), 0..9)), 0..4);
        (part(), part(), headers, any::<i64>()).prop_map(|(key, value, headers, timestamp_ms)| NewRecord {
            topic: "t".into(),
            partition: None,
            key,
            value,
            headers: headers.into_iter().map(|(name, value)| (name.as_str().into(), value.into())).collect(),
            timestamp_ms,
        })
    }

    fn pack(records: &[NewRecord]) -> Block {
        let mut builder = BlockBuilder::default();
        for record in records {
            builder.push(record).unwrap();
        }
        builder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(records in proptest::collection::vec(new_record(), 1..20)) {
            let block = pack(&records);
            prop_assert_eq!(block.max_ms, records.iter().map(|record| record.timestamp_ms).max().unwrap());
            let data = Bytes::from(unpack(block.data).unwrap());
            let at = TopicPartition::new("t", 3);
            let mut names = Names::default();
            let read: Vec<_> = RawRecords::new(&data).unwrap().map(|raw| record(&raw.unwrap(), &data, 70, &at, &mut names).unwrap()).collect();
            prop_assert_eq!(read.len(), records.len());
            for (n, (read, written)) in read.iter().zip(&records).enumerate() {
                prop_assert_eq!(read.offset, 70 + n as u64);
                prop_assert_eq!(read.timestamp_ms, written.timestamp_ms);
                prop_assert_eq!(&read.key, &written.key);
                prop_assert_eq!(&read.value, &written.value);
                prop_assert_eq!(&read.headers, &written.headers);
                prop_assert_eq!(read.size(), written.size());
            }
        }

        #[test]
        fn damage_is_an_error_or_other_records_but_never_a_panic(
            records in proptest::collection::vec(new_record(), 1..4), cut in any::<prop::sample::Index>(), flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let mut data = pack(&records).data;
            data.truncate(cut.index(data.len()) + 1);
            let at = flip.0.index(data.len());
            data[at] ^= flip.1;
            if let Ok(plain) = unpack(data) && let Ok(walk) = RawRecords::new(&plain) {
                walk.take(100).for_each(drop);
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut data =
            pack(&[NewRecord { topic: "t".into(), partition: None, key: None, value: None, headers: vec![], timestamp_ms: 0 }])
                .data;
        data[0] = 3;
        assert!(matches!(unpack(data), Err(LogError::Corrupt { .. })));
    }

    fn of_value(value: &[u8]) -> NewRecord {
        let value = Some(Bytes::copy_from_slice(value));
        NewRecord { topic: "t".into(), partition: None, key: None, value, headers: vec![], timestamp_ms: 0 }
    }

    #[test]
    fn rows_that_are_alike_lie_compressed_and_noise_does_not() {
        let alike: Vec<_> = (0..1_000).map(|n| of_value(format!("南宁市青秀区民族大道{n}号").as_bytes())).collect();
        let plain: usize = alike.iter().map(|record| RECORD_HEAD + record.size()).sum();
        let block = pack(&alike);
        assert!(block.data.len() < plain / 2, "{} of {plain}", block.data.len());
        let data = unpack(block.data).unwrap();
        assert_eq!(data.len(), HEAD + plain);
        assert_eq!(RawRecords::new(&data).unwrap().count(), 1_000);

        let noise: Vec<u8> =
            (0..1_000_u32).flat_map(|n| rand::rng().random::<u64>().to_le_bytes().map(|byte| byte ^ n as u8)).collect();
        assert_eq!(pack(&[of_value(&noise)]).data.len(), HEAD + RECORD_HEAD + noise.len());
    }

    #[test]
    fn a_compressed_block_that_is_damaged_anywhere_is_an_error_or_other_records_but_never_a_panic() {
        let alike: Vec<_> = (0..200).map(|n| of_value(format!("南宁市青秀区民族大道{n}号").as_bytes())).collect();
        let whole = pack(&alike).data;
        assert_eq!(whole[0], COMPRESSED);
        for at in 0..whole.len() {
            for bits in [1, 0x80, 0xff] {
                let mut data = whole.clone();
                data[at] ^= bits;
                if let Ok(plain) = unpack(data)
                    && let Ok(walk) = RawRecords::new(&plain)
                {
                    walk.take(1_000).for_each(drop);
                }
            }
            assert!(unpack(whole[..at].to_vec()).is_err(), "cut at {at}");
        }
    }
}
