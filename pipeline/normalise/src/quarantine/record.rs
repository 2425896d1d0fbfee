//! One event in the quarantine topic: its value and headers as they came, and beside them where it was and what it broke.
//!
//! The key is the entry's id; a tombstone says that the entry is released.

use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{MAX_RECORD, NewRecord, Record, TopicPartition};

use super::{Rejection, store};

const KEY: &str = "guitong-quarantine-key";
const TOPIC: &str = "guitong-quarantine-topic";
const OFFSET: &str = "guitong-quarantine-offset";
const FINDINGS: &str = "guitong-quarantine-findings";
/// The value did not fit beside the findings; it stands in the raw topic.
const LEFT_OUT: &str = "guitong-quarantine-value-left-out";
const OWN: [&str; 5] = [KEY, TOPIC, OFFSET, FINDINGS, LEFT_OUT];

/// Room that the log needs around a record.
const MARGIN: usize = 4 << 10;

/// The record of entry `seq` for the event `raw`.
pub(crate) fn of(topic: &Arc<str>, seq: u64, raw: &Record, rejections: &[Rejection]) -> NewRecord {
    let mut headers = raw.headers.clone();
    let mut put = |name: &str, value: Bytes| headers.push((name.into(), value));
    if let Some(key) = &raw.key {
        put(KEY, key.clone());
    }
    put(TOPIC, Bytes::copy_from_slice(raw.at.topic.as_bytes()));
    put(OFFSET, Bytes::from(raw.offset.to_string()));
    put(FINDINGS, Bytes::from(serde_json::to_vec(rejections).unwrap_or_default()));
    let mut record = NewRecord {
        topic: Arc::clone(topic),
        partition: Some(0),
        key: Some(Bytes::from(store::id(seq))),
        value: Some(raw.value.clone().unwrap_or_default()),
        headers,
        timestamp_ms: raw.timestamp_ms,
    };
    if record.size() + MARGIN > MAX_RECORD {
        record.value = Some(Bytes::new());
        record.headers.push((LEFT_OUT.into(), Bytes::from_static(b"1")));
    }
    record
}

/// Says that entry `seq` is released.
pub(crate) fn released(topic: &Arc<str>, seq: u64, timestamp_ms: i64) -> NewRecord {
    NewRecord {
        topic: Arc::clone(topic),
        partition: Some(0),
        key: Some(Bytes::from(store::id(seq))),
        value: None,
        headers: Vec::new(),
        timestamp_ms,
    }
}

/// An event read back from the quarantine topic.
#[derive(Debug)]
pub(crate) enum Kept {
    Whole {
        seq: u64,
        raw: Record,
    },
    /// Its value is to be read from the raw topic.
    LeftOut {
        seq: u64,
        at: TopicPartition,
        offset: u64,
    },
}

/// The event that a record of the quarantine topic keeps; `None` for tombstones and foreign records.
pub(crate) fn read(record: Record) -> Option<Kept> {
    let text = |name: &str| record.header(name).and_then(|value| std::str::from_utf8(value).ok());
    let seq = super::parse_id(std::str::from_utf8(record.key.as_ref()?).ok()?)?;
    let at = TopicPartition::new(text(TOPIC)?, 0);
    let offset = text(OFFSET)?.parse().ok()?;
    record.value.as_ref()?;
    if record.header(LEFT_OUT).is_some() {
        return Some(Kept::LeftOut { seq, at, offset });
    }
    let key = record.header(KEY).cloned();
    let Record { value, mut headers, timestamp_ms, .. } = record;
    headers.retain(|(name, _)| !OWN.contains(&&**name));
    Some(Kept::Whole { seq, raw: Record { at, offset, timestamp_ms, key, value, headers } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(size: usize) -> Record {
        Record {
            at: TopicPartition::new("raw.a.public.t", 0),
            offset: 7,
            timestamp_ms: 5,
            key: Some(Bytes::from_static(b"\0\0\0\0\x01k")),
            value: Some(Bytes::from(vec![1; size])),
            headers: vec![("guitong-version".into(), Bytes::from_static(b"1/2/3/0/0"))],
        }
    }

    fn stored(new: NewRecord) -> Record {
        let NewRecord { topic, key, value, headers, timestamp_ms, .. } = new;
        Record { at: TopicPartition::new(topic, 0), offset: 0, timestamp_ms, key, value, headers }
    }

    #[test]
    fn an_event_comes_back_as_it_went() {
        let topic: Arc<str> = "quarantine.r".into();
        let Some(Kept::Whole { seq, raw: back }) = read(stored(of(&topic, 300, &raw(9), &[]))) else { panic!("not whole") };
        assert_eq!((seq, format!("{back:?}")), (300, format!("{:?}", raw(9))));
        assert!(read(stored(released(&topic, 300, 0))).is_none());
    }

    #[test]
    fn a_value_at_the_limit_stays_in_the_raw_topic() {
        let record = of(&"quarantine.r".into(), 1, &raw(MAX_RECORD - 64), &[]);
        assert!(record.size() < MAX_RECORD);
        assert!(matches!(read(stored(record)), Some(Kept::LeftOut { seq: 1, offset: 7, .. })));
    }
}
