//! Rows that a small batch sends for the first time, which the log is told of only once they are sent, together with the batch's audit
//! entry: to wait for it before each batch would double the time from commit to subscriber.
//!
//! Until the log has them, the transaction that writes the rows, and each one after it, leaves their list beside the sink's offsets. Whoever
//! takes the subscription over reads it there and has the log told before it does anything else. The list is sealed with a key that only
//! the log has: a subscriber can slip in no row to learn of its delete, and what a grant showed once is not to be read there once it is
//! narrower.

use std::collections::{HashSet, VecDeque};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use guitong_govern::audit::{AuditEntry, Digest};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::sink::{SinkError, SinkErrorKind};
use crate::stand::damaged;

/// Bytes of rows that wait at most: each batch writes all of them to the subscriber's server.
const MOST: usize = 16 << 10;
/// Before each row in a list: its length, big endian.
const HEAD: usize = size_of::<u32>();

/// Rows of batches that are durable, of which the log may lack the notes.
#[derive(Debug, Default)]
pub(super) struct Unnoted {
    batches: VecDeque<Sent>,
}

#[derive(Debug)]
struct Sent {
    /// What the batch's audit entry follows: no two follow the same.
    previous: Digest,
    rows: Vec<Bytes>,
}

impl Unnoted {
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.batches.iter().flat_map(|sent| &sent.rows).map(|row| &**row)
    }

    /// Whether there is room for more.
    pub(super) fn takes(&self, rows: &[Bytes]) -> bool {
        let bytes = self.rows().chain(rows.iter().map(|row| &**row)).map(|row| row.len() + HEAD);
        bytes.sum::<usize>() <= MOST
    }

    /// Adds those of `unknown` that wait.
    pub(super) fn add_to<'k>(&self, held: &mut HashSet<&'k [u8]>, unknown: &HashSet<&'k [u8]>) {
        held.extend(self.rows().filter_map(|row| unknown.get(row)));
    }

    /// Those of batches whose entries the log has wait no longer.
    pub(super) fn keep(&mut self, unlogged: &[AuditEntry]) {
        self.batches.retain(|sent| unlogged.iter().any(|entry| entry.previous == sent.previous));
    }

    /// These wait no longer.
    pub(super) fn remove(&mut self, rows: &HashSet<&[u8]>) {
        self.batches.iter_mut().for_each(|sent| sent.rows.retain(|row| !rows.contains(&**row)));
    }

    pub(super) fn push(&mut self, entry: &AuditEntry, rows: Vec<Bytes>) {
        if !rows.is_empty() {
            self.batches.push_back(Sent { previous: entry.previous.clone(), rows });
        }
    }
}

/// Seals lists of rows (ChaCha20-Poly1305, RFC 8439).
#[derive(Debug)]
pub(super) struct Envelope {
    key: LessSafeKey,
    /// A list of another subscription is none of this one's.
    subscription: Box<[u8]>,
}

impl Envelope {
    /// Bytes of the key.
    pub(super) const KEY: usize = 32;

    pub(super) fn new(key: &[u8], subscription: &str) -> Result<Self, SinkError> {
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| damaged(format!("{} bytes that are no key", key.len())))?;
        Ok(Self { key: LessSafeKey::new(key), subscription: subscription.as_bytes().into() })
    }

    /// A list as text; `None` for one without rows.
    pub(super) fn seal<'k>(&self, rows: impl Iterator<Item = &'k [u8]>) -> Result<Option<String>, SinkError> {
        let too_long = || SinkError::new(SinkErrorKind::Shape, "a list of rows is too long to be sealed");
        let mut list = Vec::new();
        for row in rows {
            let length = u32::try_from(row.len()).map_err(|_| too_long())?;
            list.extend_from_slice(&length.to_be_bytes());
            list.extend_from_slice(row);
        }
        if list.is_empty() {
            return Ok(None);
        }
        let nonce = rand::random::<[u8; NONCE_LEN]>();
        let aad = Aad::from(&*self.subscription);
        let sealed = self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut list);
        sealed.map_err(|_| too_long())?;
        Ok(Some(BASE64_STANDARD.encode([&nonce, list.as_slice()].concat())))
    }

    /// The rows of a list; `None` where it is not one that was sealed here.
    pub(super) fn open(&self, sealed: &str) -> Option<Vec<Bytes>> {
        let mut bytes = BASE64_STANDARD.decode(sealed).ok()?;
        let (nonce, list) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut list = &*self.key.open_in_place(nonce, Aad::from(&*self.subscription), list).ok()?;
        let mut rows = Vec::new();
        while let Some((length, rest)) = list.split_first_chunk::<HEAD>() {
            let (row, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            rows.push(Bytes::copy_from_slice(row));
            list = rest;
        }
        list.is_empty().then_some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(previous: &str) -> AuditEntry {
        AuditEntry {
            subscription: "credit".into(),
            resource: "enterprise".into(),
            epoch: 1,
            ranges: vec![],
            count: 1,
            content: Digest(String::new()),
            grant: String::new(),
            revision: String::new(),
            at_us: 1,
            previous: Digest(previous.to_owned()),
        }
    }

    #[test]
    fn a_list_is_read_by_who_sealed_it_and_only_whole() {
        let envelope = Envelope::new(&[7; Envelope::KEY], "credit").unwrap();
        let rows: [&[u8]; 3] = [b"91450103PDY001012U", b"", &[0; 300]];
        let sealed = envelope.seal(rows.into_iter()).unwrap().unwrap();
        assert_eq!(envelope.open(&sealed).unwrap(), rows);
        assert_ne!(envelope.seal(rows.into_iter()).unwrap().unwrap(), sealed, "the same list is not to be told");
        assert_eq!(envelope.seal(std::iter::empty()).unwrap(), None);
        let bytes = BASE64_STANDARD.decode(&sealed).unwrap();
        assert!(!bytes.windows(18).any(|window| window == rows[0]), "nobody else reads it");
        for (key, subscription) in [([7; Envelope::KEY], "credits"), ([8; Envelope::KEY], "credit")] {
            assert_eq!(Envelope::new(&key, subscription).unwrap().open(&sealed), None);
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(envelope.open(&BASE64_STANDARD.encode(changed)), None, "byte {at}");
            assert_eq!(envelope.open(&BASE64_STANDARD.encode(&bytes[..at])), None, "cut off at {at}");
        }
        assert_eq!(envelope.open("天"), None);
        assert!(Envelope::new(b"short", "credit").is_err());
    }

    #[test]
    fn rows_wait_until_the_log_has_their_batch() {
        let mut unnoted = Unnoted::default();
        let of = |unnoted: &Unnoted| unnoted.rows().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let rows = |rows: &[&'static [u8]]| rows.iter().copied().map(Bytes::from_static).collect::<Vec<_>>();
        unnoted.push(&entry("a"), rows(&[b"1", b"2"]));
        unnoted.push(&entry("b"), rows(&[]));
        unnoted.push(&entry("c"), rows(&[b"3"]));
        assert_eq!(of(&unnoted), [b"1", b"2", b"3"]);
        let mut held = HashSet::new();
        unnoted.add_to(&mut held, &HashSet::from([b"2".as_slice(), b"4"]));
        assert_eq!(held, HashSet::from([b"2".as_slice()]));
        unnoted.remove(&HashSet::from([b"1".as_slice(), b"4"]));
        assert_eq!(of(&unnoted), [b"2", b"3"]);
        unnoted.keep(&[entry("b"), entry("c")]);
        assert_eq!(of(&unnoted), [b"3"]);
        let large = [Bytes::from(vec![0; MOST - 2 * HEAD - 1])];
        assert!(unnoted.takes(&large) && !unnoted.takes(&[&large[..], &rows(&[b""])].concat()));
        unnoted.keep(&[]);
        assert_eq!(of(&unnoted), Vec::<Vec<u8>>::new());
    }
}
