//! The records of a role's assignment topic: positions, consumed offsets and keyed state of the owners of each slot.
//!
//! The topic is compacted by key, and the local copy ([`super::store`]) is this topic keyed the same way, so both keep the same
//! thing and one can be made from the other. Keys sort: all entries of an owner's map lie together, in the order of their keys.
//!
//! Key: format (1 byte), kind (1 byte), the owner's name, then by kind nothing (position), topic and partition (offset), or map and
//! key (state); names have their length before them in one byte. Value: a position or state value as it is; an offset as the next
//! offset (8 bytes, big-endian) and the id of the log that it counts in. A tombstone removes the entry.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::contract::{LogError, LogId, StoredOffset, TopicPartition};

const FORMAT: u8 = 1;
const POSITION: u8 = b'p';
const OFFSET: u8 = b'o';
const STATE: u8 = b's';

/// A change of one entry; `None` removes it.
pub(crate) type Change = (Bytes, Option<Bytes>);

fn key(kind: u8, owner: &str, room: usize) -> Result<BytesMut, LogError> {
    let mut key = BytesMut::with_capacity(3 + owner.len() + room);
    key.put_u8(FORMAT);
    key.put_u8(kind);
    name(&mut key, owner)?;
    Ok(key)
}

fn name(key: &mut BytesMut, text: &str) -> Result<(), LogError> {
    let length = u8::try_from(text.len());
    key.put_u8(length.map_err(|_| LogError::Other(format!("{text}: a name in the log has at most 255 bytes")))?);
    key.put_slice(text.as_bytes());
    Ok(())
}

pub(crate) fn position_key(owner: &str) -> Result<Bytes, LogError> {
    Ok(key(POSITION, owner, 0)?.freeze())
}

/// What the keys of all offsets of an owner start with.
pub(crate) fn offsets_prefix(owner: &str) -> Result<Bytes, LogError> {
    Ok(key(OFFSET, owner, 0)?.freeze())
}

pub(crate) fn offset(owner: &str, at: &TopicPartition, stored: &StoredOffset) -> Result<Change, LogError> {
    let mut key = key(OFFSET, owner, at.topic.len() + 5)?;
    name(&mut key, &at.topic)?;
    key.put_u32(at.partition);
    let mut value = BytesMut::with_capacity(8 + stored.log.0.len());
    value.put_u64(stored.next);
    value.put_slice(stored.log.0.as_bytes());
    Ok((key.freeze(), Some(value.freeze())))
}

/// What the keys of all entries of an owner's map start with.
pub(crate) fn map_prefix(owner: &str, map: &str, room: usize) -> Result<BytesMut, LogError> {
    let mut key = key(STATE, owner, map.len() + 1 + room)?;
    name(&mut key, map)?;
    Ok(key)
}

/// Bytes of an entry.
pub(crate) fn size((key, value): &Change) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

pub(crate) fn state_key(owner: &str, map: &str, of: &[u8]) -> Result<Bytes, LogError> {
    let mut key = map_prefix(owner, map, of.len())?;
    key.put_slice(of);
    Ok(key.freeze())
}

/// The offsets of an owner from its entries under [`offsets_prefix`].
pub(crate) fn offsets(
    entries: impl IntoIterator<Item = (Bytes, Bytes)>,
    prefix: usize,
) -> Result<HashMap<TopicPartition, StoredOffset>, LogError> {
    let read = |key: &[u8], value: &[u8]| {
        let (length, rest) = key.get(prefix..)?.split_first()?;
        let (topic, partition) = rest.split_at_checked(usize::from(*length))?;
        let partition = u32::from_be_bytes(partition.try_into().ok()?);
        let (next, log) = value.split_first_chunk::<8>()?;
        let at = TopicPartition::new(std::str::from_utf8(topic).ok()?, partition);
        let log = LogId(Arc::from(std::str::from_utf8(log).ok()?));
        Some((at, StoredOffset { log, next: u64::from_be_bytes(*next) }))
    };
    let damaged = || LogError::Corrupt { detail: "a consumed offset in the assignment topic cannot be read".to_owned() };
    entries.into_iter().map(|(key, value)| read(&key, &value).ok_or_else(damaged)).collect()
}

/// The first key after all that start with `prefix`; `None` where there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_come_back_from_their_entries() {
        let at = TopicPartition::new("raw.licensing.public.企业", 7);
        let stored = StoredOffset { log: LogId("cluster/1".into()), next: u64::MAX - 1 };
        let (key, value) = offset("enterprise", &at, &stored).unwrap();
        let prefix = offsets_prefix("enterprise").unwrap();
        assert!(key.starts_with(&prefix));
        let read = offsets([(key.clone(), value.clone().unwrap())], prefix.len()).unwrap();
        assert_eq!(read, HashMap::from([(at, stored)]));
        for cut in 0..key.len() - prefix.len() {
            let short = key.slice(..prefix.len() + cut);
            assert!(offsets([(short, value.clone().unwrap())], prefix.len()).is_err(), "cut to {cut}");
        }
    }

    #[test]
    fn entries_of_one_map_are_no_others_prefix() {
        let entry = |owner, map, key: &[u8]| state_key(owner, map, key).unwrap();
        let prefix = map_prefix("a", "m", 0).unwrap();
        assert!(entry("a", "m", b"").starts_with(&prefix) && entry("a", "m", b"\xff").starts_with(&prefix));
        for other in [entry("a", "mm", b""), entry("am", "", b"m"), entry("ab", "m", b""), position_key("a").unwrap()] {
            assert!(!other.starts_with(&prefix), "{other:?}");
        }
        assert!(state_key(&"n".repeat(256), "m", b"").is_err());
    }

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
    }
}
