//! Delivering again what came since a position or a moment.
//!
//! The sink's own offsets go back; they are the truth, so nothing else has to be kept, and a crash leaves it done or not. From there
//! everything is as ever: records come in order, by what is granted now, and an older change never overwrites a newer one.

use guitong_govern::Standing;
use guitong_log::{LogError, holds_deletes};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::handle::CommandError;
use super::parked::{Place, Word};
use super::{Deliverer, Fault, Session};
use crate::sink::PartitionStand;

/// From where on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// Of partitions that are not named, nothing is delivered again.
    Places(Vec<Place>),
    /// What was written to the log at or after this moment, microseconds since 1970-01-01T00:00Z.
    Time(i64),
}

/// What is delivered again: records of one partition, `from` inclusive, `to` exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redelivered {
    pub partition: u32,
    pub from: u64,
    pub to: u64,
}

impl Deliverer {
    pub(super) async fn redeliver(&mut self, since: Since, word: Word) -> Result<Vec<Redelivered>, CommandError> {
        if !self.sink.replays() {
            return Err(CommandError::Unfit(match self.puller {
                Some(_) => "whoever pulls goes back by himself: his next request names an earlier cursor".to_owned(),
                None => "a sink of this kind cannot go back to a position".to_owned(),
            }));
        }
        if let Standing::Stopped(stop) = self.entitlement.standing(Timestamp::now()) {
            return Err(CommandError::NotNow(stop.to_string()));
        }
        let partitions = self.log.partitions(&self.topic).await.map_err(Fault::from)?.unwrap_or(0);
        let session = self.open_session(partitions).await?;
        if session.refill.is_some() {
            return Err(CommandError::NotNow("everything is being delivered again already".to_owned()));
        }
        let stands = self.stands_since(&session, &since).await?;
        let ranges = stands.iter().map(|at| Redelivered { partition: at.partition, from: at.next, to: at.refill_to });
        let ranges: Vec<_> = ranges.filter(|range| range.from < range.to).collect();
        if ranges.is_empty() {
            return Err(CommandError::NotNow("nothing was delivered since".to_owned()));
        }
        self.sink.begin_replay(&stands).await.map_err(Fault::from)?;
        tracing::info!(subscription = &*self.name, by = word.by, ?ranges, "what was delivered is delivered again by command");
        drop(session);
        self.written().await;
        Ok(ranges)
    }

    /// Where each partition is to be read next, and up to where it was.
    async fn stands_since(&self, session: &Session, since: &Since) -> Result<Vec<PartitionStand>, CommandError> {
        if let Since::Places(places) = since
            && let Some(place) = places.iter().find(|place| !session.positions.contains_key(&place.partition))
        {
            return Err(CommandError::Unfit(format!("{} has no partition {}", self.topic, place.partition)));
        }
        let mut stands = Vec::new();
        for (&partition, &stands_at) in &session.positions {
            let at = self.at(partition);
            // Of a replay that is under way already, what it has not met yet was delivered before, too.
            let reached = session.delivered.get(&partition).map_or(stands_at, |end| stands_at.max(*end));
            let bounds = self.log.bounds(&at).await.map_err(Fault::from)?;
            let from = match since {
                Since::Places(places) => places.iter().find(|place| place.partition == partition).map(|place| place.offset),
                Since::Time(us) => Some(self.log.offset_at(&at, us.div_euclid(1_000)).await.map_err(Fault::from)?),
            };
            let next = match from {
                Some(from) if from < bounds.earliest => {
                    let (earliest, end) = (bounds.earliest, bounds.end);
                    return Err(Fault::Log(LogError::Gap { at, wanted: from, earliest, end, of: None }).into());
                }
                Some(from) if matches!(since, Since::Places(_)) && from > reached => {
                    let why = format!("{partition}-{from} was not delivered yet: the sink stands at {partition}-{reached}");
                    return Err(CommandError::Unfit(why));
                }
                from => from.unwrap_or(stands_at).min(stands_at),
            };
            if next < stands_at {
                // Rows whose deletes are gone from the log would come back.
                holds_deletes(&*self.log, &at, next, self.exchange.trace).await.map_err(Fault::from)?;
            }
            stands.push(PartitionStand { partition, next, refill_to: reached });
        }
        Ok(stands)
    }
}
