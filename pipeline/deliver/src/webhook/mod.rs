//! Webhook sink: events to an endpoint of the subscriber. The endpoint holds no offsets, so the subscription's keyed state in the
//! log does: offsets, held rows and audit entries change in one commit, after the endpoint answered 2xx. A crash between sends the
//! same events again, each with the same id (`webhook-id`, CloudEvents `id`): delivered at least once, applied once by whoever
//! remembers ids, or compares `sequence` by subject.
//!
//! Of each row a batch holds one change, and one batch follows another: requests run beside each other, and the order of each row
//! is kept. What was answered 2xx is not sent again by this process when another request of the batch failed.

mod address;
mod breaker;
mod event;
mod post;
mod sign;
mod stand;

use std::collections::HashSet;

use async_trait::async_trait;
use futures::StreamExt as _;
use guitong_govern::{KeyForm, RowKey};
use guitong_log::StateChange;
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::standard::StandardValue;

pub use self::breaker::Breaker;
use self::event::{Event, Identity, Message, Origin, cells_of, key_of};
use self::post::Endpoint;
use self::stand::{Held, StandState};
use crate::hold::Hold;
use crate::sink::{Ack, Change, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Stand, What};
use crate::sql::{KEY, Pools};

/// Events that are remembered as answered while others of their batch are not.
const REMEMBERED: usize = 65_536;

/// One subscription's endpoint.
#[derive(Debug)]
pub struct WebhookSink {
    plan: SinkPlan,
    origin: Origin,
    /// Names of the key's parts.
    key: Vec<String>,
    mode: Mode,
    batch: usize,
    concurrency: usize,
    endpoint: Endpoint,
    hold: Option<Hold>,
    stand: StandState,
    /// Ids of events that the endpoint has and the log does not know of.
    answered: HashSet<String>,
}

impl WebhookSink {
    /// # Errors
    /// [`SinkErrorKind::Shape`] for an address, a key or a file that is none.
    pub fn new(pools: &Pools, config: &Webhook, plan: SinkPlan) -> Result<Self, SinkError> {
        let key = match &plan.key {
            KeyForm::Hashed => vec![KEY.to_owned()],
            KeyForm::Clear(places) => {
                places.iter().filter_map(|&at| plan.columns.get(at)).map(|column| column.name.clone()).collect()
            }
        };
        let resource = plan.topic.strip_prefix("std.").unwrap_or(&plan.topic).to_owned();
        Ok(Self {
            origin: Origin { subscription: plan.subscription.to_string(), resource },
            key,
            mode: config.mode,
            batch: if config.mode == Mode::Batch { config.batch } else { 1 },
            concurrency: config.concurrency,
            endpoint: Endpoint::new(config, |address| pools.breaker(address))?,
            hold: None,
            stand: StandState::default(),
            answered: HashSet::new(),
            plan,
        })
    }

    fn hold(&self) -> Result<Hold, SinkError> {
        self.hold.clone().ok_or_else(|| SinkError::new(SinkErrorKind::Fenced, "the subscription is not held"))
    }

    fn fenced(&self) -> SinkError {
        SinkError::new(SinkErrorKind::Fenced, format!("subscription {} stands elsewhere", self.plan.subscription))
    }

    /// Whether a change at `version` is news to whoever has `held`; a refill sends again what it has not met yet.
    fn is_news(&self, held: &Held, version: &[u8]) -> bool {
        let again = self.stand.sweep.is_some_and(|sweep| held.epoch < sweep);
        version > held.version.as_slice() || (again && version == held.version)
    }

    /// The event that a change is for this endpoint; `None` where it is no news, or a delete of what the endpoint never had.
    fn event(&self, change: &Change<'_>, held: Option<&Held>) -> Option<Event> {
        let version = change.version.to_bytes();
        if held.is_some_and(|held| !self.is_news(held, &version)) {
            return None;
        }
        let row = change.key();
        let identity = |deleted| Identity {
            origin: &self.origin,
            generation: self.stand.generation,
            row: &row.id,
            version: &version,
            deleted,
        };
        let key = key_of(row, &self.key);
        match &change.what {
            What::Upsert(whole) => {
                let cells = cells_of(&self.plan.columns, &whole.cells, &self.key);
                Some(Event::upsert(identity(false), key, cells, Some(change.source_us)))
            }
            What::Delete(_) => held
                .filter(|held| held.deleted_us.is_none())
                .map(|_| Event::deletion(identity(true), key, Some(change.source_us))),
        }
    }

    /// Sends what the endpoint has not answered yet. Where several requests fail, one that goes away by itself is told of first:
    /// nothing is set aside that may only have come at a bad moment.
    async fn send(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let open: Vec<&Event> = events.iter().filter(|event| !self.answered.contains(&event.id)).collect();
        let messages: Vec<_> = open.chunks(self.batch).map(|chunk| Message::new(&self.origin, self.mode, chunk)).collect();
        let requests: Vec<_> = messages.into_iter().map(|message| post(&self.endpoint, message)).collect();
        let mut answers = futures::stream::iter(requests).buffer_unordered(self.concurrency);
        let mut refused = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(events) => self.answered.extend(events),
                Err(error) if error.kind == SinkErrorKind::Data => refused = Some(error),
                // The others would fail as well.
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Deletes at the endpoint, and forgets, every held row for which `gone` holds.
    async fn take_away(&mut self, gone: impl Fn(&Held) -> bool + Send + Sync, names: &[String]) -> Result<u64, SinkError> {
        let hold = self.hold()?;
        let (mut after, mut taken) = (None, 0);
        loop {
            let page = stand::page(&hold, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { return Ok(taken) };
            after = Some(last.to_vec());
            let (mut events, mut changes) = (Vec::new(), Vec::new());
            for (row, held) in page.into_iter().filter(|(_, held)| gone(held)) {
                if held.deleted_us.is_none() {
                    let origin = &self.origin;
                    let generation = self.stand.generation;
                    let identity = Identity { origin, generation, row: &row, version: &held.version, deleted: true };
                    events.push(Event::deletion(identity, key_of(&row_key(&row, names), names), None));
                }
                changes.push(stand::forgotten(row));
            }
            taken += events.len() as u64;
            self.send(&events).await?;
            stand::commit(&hold, &self.stand, changes).await?;
            self.settled(&events);
        }
    }

    /// The log knows of these now.
    fn settled(&mut self, events: &[Event]) {
        for event in events {
            self.answered.remove(&event.id);
        }
    }
}

/// Sends a message, and says which events the endpoint has.
async fn post(endpoint: &Endpoint, mut message: Message) -> Result<Vec<String>, SinkError> {
    let events = std::mem::take(&mut message.events);
    endpoint.post(message).await.map(|()| events)
}

/// A row's key out of its identity: the canonical form of the key, or the keyed hash that stands for it.
fn row_key<'r>(id: &'r [u8], names: &[String]) -> RowKey<'r> {
    let mut clear = Vec::new();
    if names != [KEY] {
        let mut rest = id;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let Some((text, after)) = after.split_at_checked(length) else { break };
            clear.push(StandardValue::Text(String::from_utf8_lossy(text)));
            rest = after;
        }
    }
    RowKey { id: id.to_vec(), clear }
}

#[async_trait]
impl Sink for WebhookSink {
    fn keep_in(&mut self, hold: &Hold) {
        self.hold = Some(hold.clone());
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        let hold = self.hold()?;
        if self.answered.len() > REMEMBERED {
            self.answered.clear();
        }
        let mut stand = stand::read(&hold).await?.unwrap_or_default();
        stand.epoch += 1;
        let grant = hex::encode(self.plan.grant);
        if stand.grant != grant || stand.log != *self.plan.log.0 || stand.topic != *self.plan.topic {
            stand.partitions.clear();
            stand.sweep = Some(stand.epoch);
            (stand.grant, stand.log, stand.topic) = (grant, self.plan.log.0.to_string(), self.plan.topic.to_string());
        }
        stand::commit(&hold, &stand, Vec::new()).await?;
        self.stand = stand;
        let (epoch, partitions) = (self.stand.epoch, self.stand.partitions());
        Ok(Stand { epoch, partitions, refilling: self.stand.sweep.is_some(), entries: self.stand.entries.clone() })
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        if self.stand.key != self.key {
            // Rows are known in another way from now on: under the old one all of them go, before anything new comes.
            let names = self.stand.key.clone();
            self.take_away(|_| true, &names).await?;
        }
        let mut stand = self.stand.clone();
        stand.key = self.key.clone();
        stand.generation += 1;
        stand.sweep = Some(stand.epoch);
        stand.partitions = partitions.iter().map(|at| (at.partition, at.next, at.refill_to)).collect();
        stand::commit(&self.hold()?, &stand, Vec::new()).await?;
        self.stand = stand;
        Ok(())
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let hold = self.hold()?;
        let mut next = self.stand.moved(batch.ranges).ok_or_else(|| self.fenced())?;
        next.entries = batch.unlogged.iter().chain([batch.entry]).cloned().collect();
        let held = stand::held(&hold, batch.changes.iter().map(|change| change.key().id.as_slice())).await?;
        let (mut events, mut changes): (Vec<Event>, Vec<StateChange>) = (Vec::new(), Vec::new());
        for (change, held) in batch.changes.iter().zip(&held) {
            let Some(event) = self.event(change, held.as_ref()) else { continue };
            let deleted_us = event.deleted.then_some(batch.entry.at_us);
            let held = Held { version: change.version.to_bytes(), epoch: self.stand.epoch, deleted_us };
            changes.push(held.change(&change.key().id));
            events.push(event);
        }
        self.send(&events).await?;
        stand::commit(&hold, &next, changes).await?;
        self.settled(&events);
        self.stand = next;
        Ok(Ack { durable: batch.ranges.iter().map(|range| (range.partition, range.to)).collect() })
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let Some(sweep) = self.stand.sweep else { return Ok(0) };
        let names = self.key.clone();
        let swept = self.take_away(|held| held.epoch < sweep, &names).await?;
        let stand = StandState { sweep: None, ..self.stand.clone() };
        stand::commit(&self.hold()?, &stand, Vec::new()).await?;
        self.stand = stand;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        let hold = self.hold()?;
        let mut after = None;
        loop {
            let page = stand::page(&hold, after.as_deref()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.to_vec());
            let old = page.into_iter().filter(|(_, held)| held.deleted_us.is_some_and(|at| at < before_us));
            let old: Vec<_> = old.map(|(row, _)| stand::forgotten(row)).collect();
            if !old.is_empty() {
                stand::commit(&hold, &self.stand, old).await?;
            }
        }
    }
}
