//! Webhook sink: events to an endpoint of the subscriber.
//!
//! The endpoint holds no offsets, so the subscription's own keyed state in the log does: offsets, what is known of each row and the
//! audit entries change in one commit, after the endpoint answered 2xx. A crash or a lost answer between sends the same events
//! again, each under the same id (`webhook-id`, CloudEvents `id`): on the wire at least once, and once for whoever remembers ids or
//! compares `sequence` by subject. Of a row that the endpoint does not have, the log knows before it is sent that it may have it, so
//! that a delete which follows the crash reaches it.
//!
//! Of each row a batch holds one change, and one batch follows another: requests run beside each other, and the order of each row
//! is kept. What was answered 2xx is not sent again by this process where another request of the batch failed.

mod address;
mod breaker;
mod endpoints;
mod message;
mod post;
mod sign;

use std::collections::HashSet;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use guitong_govern::RowKey;
use guitong_schemas::contract::Webhook;
use guitong_schemas::contract::webhook::Mode;
use guitong_schemas::standard::StandardValue;

pub(crate) use self::endpoints::Endpoints;
use self::message::Message;
use self::post::Endpoint;
use crate::event::{Event, Identity, Origin, cells_of, key_names, key_of};
use crate::hold::Hold;
use crate::pools::Pools;
use crate::sink::{Ack, Change, KEY, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Stand, What};
use crate::stand::{Held, Kept, Known, StandState, There};

/// Rows that are taken away together.
const PAGE: usize = 256;
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
    /// Events of one request at most.
    batch: usize,
    concurrency: usize,
    endpoint: Endpoint,
    kept: Option<Kept>,
    stand: StandState,
    /// Ids of events that the endpoint has and the log does not know of.
    answered: HashSet<String>,
}

impl WebhookSink {
    /// # Errors
    /// [`SinkErrorKind::Shape`] for an address, a key or a file that is none.
    pub fn new(pools: &Pools, config: &Webhook, plan: SinkPlan) -> Result<Self, SinkError> {
        Ok(Self {
            origin: Origin::new(&plan),
            key: key_names(&plan.key, &plan.columns),
            mode: config.mode,
            batch: if config.mode == Mode::Batch { config.batch } else { 1 },
            concurrency: config.concurrency,
            endpoint: Endpoint::new(config, pools.endpoints())?,
            kept: None,
            stand: StandState::default(),
            answered: HashSet::new(),
            plan,
        })
    }

    fn kept(&self) -> Result<Kept, SinkError> {
        self.kept.clone().ok_or_else(|| SinkError::new(SinkErrorKind::Fenced, "the subscription is not held"))
    }

    /// The event that a change is for this endpoint; `None` where it is no news, or a delete of what the endpoint never had.
    fn event(&self, change: &Change<'_>, held: Option<&Held>) -> Option<Event> {
        let version = change.version.to_bytes();
        let replayed = held.is_some_and(|held| self.stand.is_replayed(held, &version));
        if held.is_some_and(|held| !replayed && !held.is_news(&version, self.stand.sweep)) {
            return None;
        }
        let row = change.key();
        let deleted = matches!(change.what, What::Delete(..));
        let identity =
            Identity { origin: &self.origin, generation: self.stand.generation, row: &row.id, version: &version, deleted };
        let key = key_of(row, &self.key);
        let mut event = match &change.what {
            What::Upsert(whole) => {
                let cells = cells_of(&self.plan.columns, &whole.cells, &self.key);
                Event::upsert(identity, key, cells, Some(change.source_us))
            }
            What::Delete(..) if replayed || held.is_some_and(Held::may_be_there) => {
                Event::deletion(identity, key, Some(change.source_us))
            }
            What::Delete(..) => return None,
        };
        event.replayed = replayed;
        Some(event)
    }

    /// Sends what the endpoint has not answered yet. After an error nothing new is begun, and what is under way is waited for: it
    /// may well succeed.
    async fn send(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let Self { endpoint, origin, mode, batch, concurrency, answered, .. } = self;
        let (endpoint, origin, mode) = (&*endpoint, &*origin, *mode);
        let open: Vec<&Event> = events.iter().filter(|event| !answered.contains(&event.id)).collect();
        let mut rest = open.chunks(*batch);
        let (mut under_way, mut failure) = (FuturesUnordered::new(), None);
        loop {
            let width = if endpoint.is_suspect() { 1 } else { *concurrency };
            while under_way.len() < width && failure.as_ref().is_none_or(is_of_the_event) {
                let Some(part) = rest.next() else { break };
                under_way.push(post(endpoint, origin, mode, part));
            }
            match under_way.next().await {
                None => return failure.map_or(Ok(()), Err),
                Some(Ok(part)) => answered.extend(part.iter().map(|event| event.id.clone())),
                Some(Err(error)) => failure = Some(worse(failure, error)),
            }
        }
    }

    /// Deletes at the endpoint, and forgets, every row for which `gone` holds.
    async fn take_away(&mut self, gone: impl Fn(&Held) -> bool + Send + Sync, names: &[String]) -> Result<u64, SinkError> {
        let kept = self.kept()?;
        let (mut after, mut taken) = (None, 0);
        loop {
            let page = kept.page(after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(taken) };
            after = Some(last.to_vec());
            let (mut events, mut changes) = (Vec::new(), Vec::new());
            for (row, held) in page.into_iter().filter(|(_, held)| gone(held)) {
                if held.may_be_there() {
                    let (origin, generation) = (&self.origin, self.stand.generation);
                    let identity = Identity { origin, generation, row: &row, version: &held.version, deleted: true };
                    events.push(Event::deletion(identity, key_of(&row_key(&row, names), names), None));
                }
                changes.push((row, None));
            }
            taken += events.len() as u64;
            self.send(&events).await?;
            if !changes.is_empty() {
                kept.note(changes).await?;
            }
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

/// Sends events of one request, and gives them back once the endpoint has them.
async fn post<'e>(
    endpoint: &Endpoint,
    origin: &Origin,
    mode: Mode,
    events: &'e [&'e Event],
) -> Result<&'e [&'e Event], SinkError> {
    endpoint.post(Message::new(origin, mode, events)).await.map(|()| events)
}

/// Whether an error is of the event that was sent, and says nothing of the next one.
fn is_of_the_event(error: &SinkError) -> bool {
    error.kind == SinkErrorKind::Data
}

/// The failure that is told of: an endpoint that is gone, before one that fails, before an event that is refused. Nothing is set
/// aside that may only have come at a bad moment. The longest pause that was asked for holds.
fn worse(held: Option<SinkError>, other: SinkError) -> SinkError {
    let Some(held) = held else { return other };
    let retry_after = held.retry_after.max(other.retry_after);
    let is_worse = is_of_the_event(&held) || other.kind == SinkErrorKind::Gone;
    SinkError { retry_after, ..if is_worse { other } else { held } }
}

/// A row's key out of its identity: the canonical form of the key, or the keyed hash that stands for it.
fn row_key<'r>(id: &'r [u8], names: &[String]) -> RowKey<'r> {
    let mut clear = Vec::new();
    if names != [KEY] {
        let mut rest = id;
        while let Some((length, after)) = rest.split_first_chunk() {
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
        self.kept = Some(Kept::new(hold, "webhook", "webhook-held"));
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        let kept = self.kept()?;
        if self.answered.len() > REMEMBERED {
            self.answered.clear();
        }
        let mut stand: StandState = kept.read().await?.unwrap_or_default();
        stand.epoch += 1;
        let grant = hex::encode(self.plan.grant);
        if stand.grant != grant || stand.log != self.origin.log || stand.topic != *self.plan.topic {
            stand.partitions.clear();
            stand.sweep = Some(stand.epoch);
            (stand.grant, stand.log, stand.topic) = (grant, self.origin.log.clone(), self.plan.topic.to_string());
        }
        kept.commit(&stand, Vec::new()).await?;
        self.stand = stand;
        let (epoch, partitions) = (self.stand.epoch, self.stand.partitions());
        let entries = self.stand.entries.clone();
        Ok(Stand { epoch, partitions, refilling: self.stand.sweep.is_some(), entries, sealed: None })
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
        (stand.sweep, stand.replay) = (Some(stand.epoch), None);
        stand.partitions = partitions.iter().map(|at| (at.partition, at.next, at.refill_to)).collect();
        self.kept()?.commit(&stand, Vec::new()).await?;
        self.stand = stand;
        Ok(())
    }

    fn replays(&self) -> bool {
        true
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        let stand = self.stand.back_to(partitions);
        self.kept()?.commit(&stand, Vec::new()).await?;
        self.stand = stand;
        Ok(())
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let kept = self.kept()?;
        let stands_elsewhere = || {
            let detail = format!("subscription {} stands elsewhere", self.plan.subscription);
            SinkError::new(SinkErrorKind::Fenced, detail)
        };
        let mut next = self.stand.moved(batch.ranges).ok_or_else(stands_elsewhere)?;
        next.entries = batch.unlogged.iter().chain([batch.entry]).cloned().collect();
        let rows: Vec<_> = batch.changes.iter().map(|change| Bytes::copy_from_slice(&change.key().id)).collect();
        let held = kept.held(&rows).await?;
        let (mut events, mut offers, mut changes) = (Vec::<Event>::new(), Vec::<Known>::new(), Vec::<Known>::new());
        for ((change, row), held) in batch.changes.iter().zip(&rows).zip(&held) {
            let Some(event) = self.event(change, held.as_ref()) else { continue };
            let (version, epoch) = (change.version.to_bytes(), self.stand.epoch);
            let there = if event.deleted { There::Gone(batch.entry.at_us) } else { There::Yes };
            if !event.deleted && !held.as_ref().is_some_and(Held::may_be_there) {
                offers.push((row.clone(), Some(Held { version, epoch, there: There::Perhaps })));
            }
            changes.push((row.clone(), Some(Held { version, epoch, there })));
            events.push(event);
        }
        if !offers.is_empty() {
            kept.note(offers).await?;
        }
        self.send(&events).await?;
        kept.commit(&next, changes).await?;
        self.settled(&events);
        self.stand = next;
        Ok(batch.ack())
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let Some(sweep) = self.stand.sweep else { return Ok(0) };
        let names = self.key.clone();
        let swept = self.take_away(|held| held.epoch < sweep && held.may_be_there(), &names).await?;
        let stand = StandState { sweep: None, ..self.stand.clone() };
        self.kept()?.commit(&stand, Vec::new()).await?;
        self.stand = stand;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        self.kept()?.forget(|held| held.was_gone(before_us)).await
    }
}
