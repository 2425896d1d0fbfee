//! How many rows and entity keys there are now. Exact: changed by what each commit changes of them.

use bytes::Bytes;
use guitong_log::OwnedLog;

use super::{NOW, QUALITY};
use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::keyed::entity::EntityState;
use crate::keyed::overlay::{StateError, Stored};
use crate::keyed::row::RowState;

const FORMAT: u8 = 1;
/// Rows or keys of one scan.
const PAGE: usize = 10_000;

/// Values of one map: how many there are, and how many of them have the mark that is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tallied {
    pub(crate) all: u64,
    pub(crate) marked: u64,
}

impl Tallied {
    /// Takes one value, marked or not, in or out.
    pub(crate) fn change(&mut self, was: Option<bool>, is: Option<bool>) {
        if was == is {
            return;
        }
        let count = |value: Option<bool>| (u64::from(value.is_some()), u64::from(value == Some(true)));
        let ((all_before, marked_before), (all, marked)) = (count(was), count(is));
        self.all = (self.all + all).saturating_sub(all_before);
        self.marked = (self.marked + marked).saturating_sub(marked_before);
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Rows of the source; marked are those whose newest version is good.
    pub(crate) rows: Tallied,
    /// Entity keys that stand in `std.`; marked are those that several rows claim.
    pub(crate) keys: Tallied,
}

impl Standing {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 32);
        for number in [self.rows.all, self.rows.marked, self.keys.all, self.keys.marked] {
            out.number(number);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let mut tallied = || Ok(Tallied { all: from.number()?, marked: from.number()? });
        let standing = Self { rows: tallied()?, keys: tallied()? };
        from.end()?;
        Ok(standing)
    }

    /// As stored, or counted where a version of the exchange that did not count wrote the state.
    pub(crate) async fn load(owner: &dyn OwnedLog) -> Result<Self, StateError> {
        let stored = owner.get(QUALITY, &[NOW]).await?.pop().flatten();
        match stored {
            Some(bytes) => Self::decode(&bytes).map_err(|error| StateError::Codec { map: QUALITY, error }),
            None => Ok(Self { rows: count::<RowState>(owner).await?, keys: count::<EntityState>(owner).await? }),
        }
    }
}

async fn count<T: Stored>(owner: &dyn OwnedLog) -> Result<Tallied, StateError> {
    let (mut tallied, mut after): (Tallied, Option<Bytes>) = (Tallied::default(), None);
    loop {
        let page = owner.scan(T::MAP, &[], after.as_deref(), PAGE).await?;
        for (_, value) in &page {
            let value = T::decode(value).map_err(|error| StateError::Codec { map: T::MAP, error })?;
            tallied.change(None, Some(value.is_marked()));
        }
        after = page.last().map(|(key, _)| key.clone());
        if page.len() < PAGE {
            return Ok(tallied);
        }
    }
}
