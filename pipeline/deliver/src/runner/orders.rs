//! What a person told a subscription to do, kept in the log until it is done or taken back: a restart changes nothing of it.

use bytes::Bytes;
use guitong_log::{LogError, OwnedLog, StateChange};
use serde::{Deserialize, Serialize};

use super::parked::Word;

/// Keyed state of a subscription's owner: the orders in force.
const ORDERS: &str = "orders";
const PAUSE: &[u8] = b"pause";
const RESYNC: &[u8] = b"resync";

/// An order, who gave it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    #[serde(flatten)]
    pub(crate) word: Word,
    /// Microseconds since 1970-01-01T00:00Z.
    pub(crate) at_us: i64,
}

/// The orders in force.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Deliver nothing until the order is taken back.
    pub(crate) pause: Option<Order>,
    /// Deliver everything again.
    pub(crate) resync: Option<Order>,
}

impl Orders {
    pub(super) async fn read(owned: &dyn OwnedLog) -> Result<Self, LogError> {
        let stored = owned.get(ORDERS, &[Bytes::from_static(PAUSE), Bytes::from_static(RESYNC)]).await?;
        let damaged = |error: serde_json::Error| LogError::Corrupt { detail: format!("orders of {}: {error}", owned.owner()) };
        let parse = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| serde_json::from_slice(bytes)).transpose();
        let mut orders = stored.iter().map(parse);
        let mut next = || orders.next().transpose().map(Option::flatten).map_err(damaged);
        Ok(Self { pause: next()?, resync: next()? })
    }
}

/// An order that is given now.
pub(super) fn ordered(word: Word) -> Order {
    Order { word, at_us: jiff::Timestamp::now().as_microsecond() }
}

pub(super) fn pause(order: Option<&Order>) -> StateChange {
    change(PAUSE, order)
}

pub(super) fn resync(order: Option<&Order>) -> StateChange {
    change(RESYNC, order)
}

fn change(key: &'static [u8], order: Option<&Order>) -> StateChange {
    // Texts and numbers always serialise.
    let value = order.map(|order| Bytes::from(serde_json::to_vec(order).unwrap_or_default()));
    StateChange { map: ORDERS.into(), key: Bytes::from_static(key), value }
}
