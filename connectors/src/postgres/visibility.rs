//! Which transactions a snapshot sees (`pg_current_snapshot()`; PostgreSQL documentation, "Transaction ID and Snapshot
//! Information Functions").
//!
//! Decoding sends a transaction once its commit record is written, before it is visible to others, so comparing log positions
//! alone would lose updates. Both sides name top-level transactions only, so savepoints need no care.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `xmin:xmax:xip,...` with 64-bit transaction ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Visibility {
    /// Every id below is over.
    xmin: u64,
    /// No id from here on has begun.
    xmax: u64,
    /// Running ids between, sorted.
    running: Vec<u64>,
}

impl Visibility {
    /// Whether the snapshot sees what a transaction of the stream (which is committed) did.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// The 64-bit id nearest to this snapshot that ends in these 32 bits.
    fn widen(&self, xid: u32) -> u64 {
        const EPOCH: u64 = 1 << 32;
        let near = (self.xmax & !(EPOCH - 1)) | u64::from(xid);
        if near > self.xmax + EPOCH / 2 {
            near.saturating_sub(EPOCH)
        } else if near + EPOCH / 2 < self.xmax {
            near + EPOCH
        } else {
            near
        }
    }

    pub(crate) fn xmin(&self) -> u64 {
        self.xmin
    }
}

impl FromStr for Visibility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no snapshot");
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(bad);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(bad)?;
        let running: Result<Vec<u64>, _> = list.split(',').filter(|id| !id.is_empty()).map(str::parse).collect();
        let mut running = running.map_err(|_| bad())?;
        running.sort_unstable();
        Ok(Self { xmin, xmax, running })
    }
}

impl TryFrom<String> for Visibility {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Visibility> for String {
    fn from(snapshot: Visibility) -> Self {
        snapshot.to_string()
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (at, xid) in self.running.iter().enumerate() {
            write!(f, "{}{xid}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_and_later_transactions_are_not_seen() {
        let snapshot: Visibility = "10:20:14,10".parse().unwrap();
        for (xid, sees) in [(9, true), (10, false), (11, true), (14, false), (19, true), (20, false), (25, false)] {
            assert_eq!(snapshot.sees(xid), sees, "{xid}");
        }
        assert_eq!(snapshot.to_string(), "10:20:10,14");
        assert!("10".parse::<Visibility>().is_err());
        assert!("a:b:".parse::<Visibility>().is_err());
    }

    #[test]
    fn ids_are_compared_across_the_32_bit_turn() {
        let turn = 1u64 << 32;
        let after: Visibility = format!("{}:{}:", turn + 5, turn + 5).parse().unwrap();
        assert!(after.sees(u32::MAX), "the id from before the turn is old");
        assert!(!after.sees(6));
        let before: Visibility = format!("{0}:{0}:", turn - 2).parse().unwrap();
        assert!(!before.sees(3), "the id from after the turn is new");
        assert!(before.sees(u32::MAX - 5));
    }
}
