//! What is newer: the version of a change, and the positions it is made of.
//!
//! `Version` orders every change of one system. Its bytes sort as it does, so a sink can guard an upsert with a plain
//! comparison of bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A PostgreSQL write-ahead log position, in bytes since the start of the log; printed as `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = PositionError;

    fn from_str(s: &str) -> Result<Self, PositionError> {
        let bad = || PositionError::Lsn(s.to_owned());
        let (high, low) = s.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

/// Text or bytes that are no position.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PositionError {
    #[error("`{0}` is no log sequence number; it looks like 16/B374D848")]
    Lsn(String),
    #[error("`{0}` is no version; it looks like 1/16B3748/16B3700/0/1, in hexadecimal")]
    Version(String),
    #[error("a version has 28 bytes, not {0}")]
    Length(usize),
}

/// When a change happened, relative to every other change of its system.
///
/// Compared field by field in this order. The *epoch* rises at every repaired gap, restored backup, new system identifier
/// or timeline, and forced re-snapshot, so that guards never refuse the new truth. The *revision* rises when a resource's
/// mapping is rebuilt, so that a rebuild replaces what it corrects; it is 0 in raw events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    pub epoch: u32,
    /// Position of the commit: the commit LSN in PostgreSQL, the change id in a change log; a snapshot row's high watermark.
    pub commit: u64,
    /// Position of the change inside its transaction: the change's LSN, or its change id; 0 for a snapshot row.
    pub change: u64,
    /// Tells apart changes that share one position (a key change is a delete and an insert).
    pub index: u32,
    /// Mapping revision.
    pub revision: u32,
}

impl Version {
    /// Length of [`Version::to_bytes`].
    pub const LEN: usize = 28;

    /// Big-endian fields one after the other: sorts as the version does.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&self.epoch.to_be_bytes());
        out[4..12].copy_from_slice(&self.commit.to_be_bytes());
        out[12..20].copy_from_slice(&self.change.to_be_bytes());
        out[20..24].copy_from_slice(&self.index.to_be_bytes());
        out[24..].copy_from_slice(&self.revision.to_be_bytes());
        out
    }

    /// Reads what [`Version::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`PositionError::Length`] when there are not exactly [`Version::LEN`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PositionError> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| PositionError::Length(bytes.len()))?;
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        Ok(Self { epoch: u32_at(0), commit: u64_at(4), change: u64_at(12), index: u32_at(20), revision: u32_at(24) })
    }

    /// The same change under another mapping revision.
    #[must_use]
    pub fn with_revision(self, revision: u32) -> Self {
        Self { revision, ..self }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}/{:X}/{:X}/{:X}", self.epoch, self.commit, self.change, self.index, self.revision)
    }
}

impl FromStr for Version {
    type Err = PositionError;

    fn from_str(s: &str) -> Result<Self, PositionError> {
        let bad = || PositionError::Version(s.to_owned());
        let mut parts = s.split('/').map(|part| u64::from_str_radix(part, 16));
        let mut next = || parts.next().and_then(Result::ok).ok_or_else(bad);
        let narrow = |wide: u64| u32::try_from(wide).map_err(|_| bad());
        let (epoch, commit, change, index, revision) = (next()?, next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self { epoch: narrow(epoch)?, commit, change, index: narrow(index)?, revision: narrow(revision)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version() -> impl Strategy<Value = Version> {
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>())
            .prop_map(|(epoch, commit, change, index, revision)| Version { epoch, commit, change, index, revision })
    }

    proptest! {
        #[test]
        fn bytes_sort_as_versions_do(a in version(), b in version()) {
            prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
        }

        #[test]
        fn bytes_and_text_round_trip(a in version()) {
            prop_assert_eq!(Version::from_bytes(&a.to_bytes()), Ok(a));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }
    }

    #[test]
    fn a_later_epoch_wins_over_any_position() {
        let restored = Version { epoch: 2, ..Version::default() };
        let before = Version { epoch: 1, commit: u64::MAX, change: u64::MAX, ..Version::default() };
        assert!(restored > before);
    }

    #[test]
    fn lsn_is_written_as_postgresql_writes_it() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert!("16B374D848".parse::<Lsn>().is_err());
    }

    #[test]
    fn damaged_versions_are_errors() {
        assert_eq!(Version::from_bytes(&[0; 3]), Err(PositionError::Length(3)));
        assert!("1/2/3/4".parse::<Version>().is_err());
        assert!("1/2/3/4/5/6".parse::<Version>().is_err());
        assert!("1FFFFFFFF/2/3/4/5".parse::<Version>().is_err());
    }
}
