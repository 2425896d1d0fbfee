//! Who claims one entity key: entity key -> the row that holds it, with its record, and the rows that would take over.
//!
//! The holder is always the claim of the newest row version, so the outcome does not depend on the way that led to it.

use bytes::Bytes;
use guitong_schemas::position::Version;

use super::codec::{CodecError, Reader, Writer};

const FORMAT: u8 = 1;

/// One row's claim to an entity key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The row's source key.
    pub(crate) source: Bytes,
    /// The row's version.
    pub(crate) version: Version,
    /// The record as it is published: Confluent frame and Avro.
    pub(crate) record: Bytes,
    /// Value of `guitong-quality`; empty where there are no warnings.
    pub(crate) quality: Bytes,
    /// Commit time at the source, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) source_ts_us: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityState {
    pub(crate) holder: Claim,
    pub(crate) claimants: Vec<Claim>,
}

impl EntityState {
    pub(crate) fn claims_mut(&mut self) -> impl Iterator<Item = &mut Claim> {
        std::iter::once(&mut self.holder).chain(&mut self.claimants)
    }

    /// The state that these claims come to; `None` without any.
    pub(crate) fn of(claims: impl IntoIterator<Item = Claim>) -> Option<Self> {
        let mut claims: Vec<Claim> = claims.into_iter().collect();
        let newest = (0..claims.len()).max_by_key(|&index| claims.get(index).map(|claim| claim.version))?;
        Some(Self { holder: claims.swap_remove(newest), claimants: claims })
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &Claim> {
        std::iter::once(&self.holder).chain(&self.claimants)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let size = |claim: &Claim| 48 + claim.source.len() + claim.record.len() + claim.quality.len();
        let mut out = Writer::new(FORMAT, size(&self.holder) + self.claimants.iter().map(size).sum::<usize>());
        write(&mut out, &self.holder);
        out.number(self.claimants.len() as u64);
        for claim in &self.claimants {
            write(&mut out, claim);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let holder = read(&mut from)?;
        let claimants = (0..from.count()?).map(|_| read(&mut from)).collect::<Result<_, _>>()?;
        from.end()?;
        Ok(Self { holder, claimants })
    }
}

fn write(out: &mut Writer, claim: &Claim) {
    out.bytes(&claim.source);
    out.version(claim.version);
    out.bytes(&claim.record);
    out.bytes(&claim.quality);
    out.i64(claim.source_ts_us);
}

fn read(from: &mut Reader) -> Result<Claim, CodecError> {
    Ok(Claim {
        source: from.bytes()?,
        version: from.version()?,
        record: from.bytes()?,
        quality: from.bytes()?,
        source_ts_us: from.i64()?,
    })
}
