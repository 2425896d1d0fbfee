//! Which rows the topic has: a copy, in the subscription's keyed state in the log, of what the topic says itself.
//!
//! The topic is the truth: its records' headers hold the version and the holder of each change. The copy is brought up to the topic's end
//! whenever the topic is taken over, and then moves with each transaction; where there is none, or it is of another topic, it is made from
//! the whole topic.

use std::collections::HashMap;

use bytes::Bytes;
use guitong_log::Record;
use guitong_log::kafka::Outlet;
use serde::{Deserialize, Serialize};

use super::headers::held;
use super::sink_error;
use crate::sink::SinkError;
use crate::stand::{Held, Kept, Known};

#[derive(Debug)]
pub(super) struct Index {
    kept: Kept,
    copied: Copied,
}

/// What the copy is of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Copied {
    /// The cluster's id and the topic's name.
    of: (String, String),
    /// Up to which offset, by partition.
    next: Vec<u64>,
    /// Highest epoch of a holder that is known of.
    epoch: u64,
    was_emptied: bool,
}

impl Index {
    /// Brings the copy up to the topic's end, which nobody moves any more.
    pub(super) async fn catch_up(kept: Kept, outlet: &Outlet, of: (String, String), width: u32) -> Result<Self, SinkError> {
        let mut bounds = Vec::new();
        for partition in 0..width {
            bounds.push(outlet.bounds(partition).await.map_err(sink_error)?);
        }
        let copied: Copied = kept.read().await?.unwrap_or_default();
        let is_copy = copied.of == of && copied.next.len() == bounds.len();
        let was_emptied = is_copy && copied.next.iter().zip(&bounds).any(|(next, bounds)| *next > bounds.end);
        let mut index = Self { kept, copied };
        if !is_copy || was_emptied {
            index.kept.forget(|_| true).await?;
            let next = bounds.iter().map(|bounds| bounds.earliest).collect();
            index.copied = Copied { of, next, was_emptied: was_emptied || index.copied.was_emptied, epoch: index.copied.epoch };
        }
        for (partition, bounds) in (0..).zip(&bounds) {
            let next = index.copied.next.get(partition as usize).map_or(bounds.earliest, |next| bounds.earliest.max(*next));
            let mut pages = outlet.records(partition, next, bounds.end).map_err(sink_error)?;
            while let Some(records) = pages.next().await.map_err(|error| sink_error(error.into()))? {
                index.take(records, (partition, pages.position())).await?;
            }
        }
        Ok(index)
    }

    async fn take(&mut self, records: Vec<Record>, end: (u32, u64)) -> Result<(), SinkError> {
        // Of what others wrote there nothing is known.
        let known = records.into_iter().filter_map(|record| Some((record.key.clone()?, held(&record)?)));
        let known: HashMap<Bytes, Held> = known.collect();
        self.copied.epoch = known.values().map(|held| held.epoch).fold(self.copied.epoch, u64::max);
        self.move_to(&[end]);
        self.kept.commit(&self.copied, known.into_iter().map(|(key, held)| (key, Some(held))).collect()).await
    }

    fn move_to(&mut self, ends: &[(u32, u64)]) {
        for (partition, end) in ends {
            if let Some(next) = self.copied.next.get_mut(*partition as usize) {
                *next = *end;
            }
        }
    }

    /// Highest epoch of a holder that is known of.
    pub(super) fn epoch(&self) -> u64 {
        self.copied.epoch
    }

    /// The topic ends before what was copied of it: it was made anew. So until its holder has written where it stands with that.
    pub(super) fn was_emptied(&self) -> bool {
        self.copied.was_emptied
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Notes what the topic's holder wrote, and where the topic ends with it.
    pub(super) async fn note(&mut self, known: Vec<Known>, ends: &[(u32, u64)], epoch: u64) -> Result<(), SinkError> {
        if ends.is_empty() && self.copied.epoch == epoch && !self.copied.was_emptied {
            return Ok(());
        }
        self.move_to(ends);
        (self.copied.epoch, self.copied.was_emptied) = (epoch, false);
        self.kept.commit(&self.copied, known).await
    }
}
