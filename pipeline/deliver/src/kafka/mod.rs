//! Kafka sink: a topic of the subscriber's own, on the exchange's cluster or another one.
//!
//! **Once.** Records, and where delivery stands with them, are one transaction of a producer that only one holder has ([`Outlet`]): the
//! stand is a record of a small topic beside the subscriber's. Who reads committed records sees each change once, whatever was killed,
//! cut or restarted, and nothing of a holder that was fenced. A call whose answer is lost is found out about by who takes the topic
//! over next: the stand says how it ended.
//!
//! **What the subscriber has** of each row the topic itself says; the log keeps a copy ([`index`]), which decides what is news, which
//! deletes are of rows that the subscriber has, and which rows a refill did not meet.
//!
//! A delete is a tombstone. Where keys become others (by another grant, or another format), all rows go under their old keys
//! before one comes under its new key.
//!
//! A replay sends the newest change of each row once more, under the id that it had and marked (`ce_replayed`); a record's header tells
//! which holder sent it, so that what a replay sent already does not come another time after a crash.

mod form;
mod headers;
mod index;

use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_log::kafka::{Outlet, OutletError, OutletRecord, Outlets};
use guitong_log::registry::{RegistryClient, SchemaRegistry};
use guitong_schemas::contract::KafkaTopic;
use guitong_schemas::contract::kafka::TopicFormat;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::form::Form;
use self::headers::{Teller, Told};
use self::index::Index;
use crate::hold::Hold;
use crate::pools::Pools;
use crate::sink::{Ack, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Stand, What};
use crate::stand::{Held, Kept, Known, StandState, There};

/// Rows that are taken away in one transaction.
const TAKEN_AT_ONCE: usize = 4_096;

/// One subscription's topic.
#[derive(Debug)]
pub struct KafkaSink {
    plan: SinkPlan,
    topic: String,
    /// Of a topic that is not there yet.
    partitions: u32,
    outlets: Outlets,
    outlet: Outlet,
    /// None for JSON.
    registry: Option<Arc<dyn SchemaRegistry>>,
    teller: Teller,
    kept: Option<Kept>,
    /// None before the topic was taken over, and after another holder did that.
    holding: Option<Holding>,
}

#[derive(Debug)]
struct Holding {
    form: Form,
    index: Index,
    stand: TopicStand,
    /// Nothing was begun whose end is not known.
    is_sure: bool,
}

/// Where delivery to a topic stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TopicStand {
    subscription: String,
    /// Partitions of the topic.
    width: u32,
    #[serde(flatten)]
    state: StandState,
}

impl KafkaSink {
    /// `registry`: the exchange's, for a subscription that names none.
    ///
    /// # Errors
    /// [`SinkErrorKind::Shape`] for properties or an address that are none.
    pub fn new(
        pools: &Pools,
        config: &KafkaTopic,
        registry: &Arc<dyn SchemaRegistry>,
        plan: SinkPlan,
    ) -> Result<Self, SinkError> {
        let outlets = pools.kafka(&config.cluster)?;
        let registry: Option<Arc<dyn SchemaRegistry>> = match &config.format {
            TopicFormat::Json => None,
            TopicFormat::Avro(None) => Some(Arc::clone(registry)),
            TopicFormat::Avro(Some(own)) => {
                let client = RegistryClient::new(own);
                Some(Arc::new(client.map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?))
            }
        };
        Ok(Self {
            topic: config.topic.clone(),
            partitions: config.partitions,
            outlet: outlets.outlet(&config.topic),
            outlets,
            registry,
            teller: Teller::new(&plan),
            kept: None,
            holding: None,
            plan,
        })
    }

    fn fenced(&self) -> SinkError {
        let Self { plan, topic, .. } = self;
        SinkError::new(SinkErrorKind::Fenced, format!("subscription {} does not hold topic {topic}", plan.subscription))
    }

    fn shape(&self, why: impl Display) -> SinkError {
        SinkError::new(SinkErrorKind::Shape, format!("topic {} {why}", self.topic))
    }

    /// Fences whoever held the topic, and reads what that one left.
    async fn take_over(&mut self) -> Result<(Index, TopicStand), SinkError> {
        let kept = self.kept.clone().ok_or_else(|| self.fenced())?;
        let width = self.outlet.make(self.partitions).await.map_err(sink_error)?;
        self.outlet.take_over().await.map_err(sink_error)?;
        let stand = match self.outlet.stand().await.map_err(sink_error)? {
            Some(stored) => self.read(&stored, width)?,
            None => TopicStand { subscription: self.plan.subscription.to_string(), width, ..TopicStand::default() },
        };
        let of = (self.outlets.id().await.map_err(sink_error)?, self.topic.clone());
        Ok((Index::catch_up(kept, &self.outlet, of, width).await?, stand))
    }

    fn read(&self, stored: &[u8], width: u32) -> Result<TopicStand, SinkError> {
        let stand: TopicStand = serde_json::from_slice(stored)
            .map_err(|error| self.shape(format_args!("has beside it a {} of others: {error}", KafkaTopic::STAND)))?;
        if stand.subscription != *self.plan.subscription {
            let why = format!("is written by subscription {}: give each subscription a topic of its own", stand.subscription);
            return Err(self.shape(why));
        }
        if stand.width != width {
            let why = format!(
                "has {width} partitions now and had {} when it was first delivered to: keys would no longer be where they are; \
                 name another `topic`",
                stand.width
            );
            return Err(self.shape(why));
        }
        Ok(stand)
    }

    /// Makes sure that what is held is known: the end of a call that was dropped, or refused, is read.
    async fn hold(&mut self) -> Result<(), SinkError> {
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        if holding.is_sure {
            return Ok(());
        }
        let stood = |stand: &TopicStand| (stand.state.epoch, stand.state.partitions.clone());
        let wanted = stood(&holding.stand);
        let (index, stand) = self.take_over().await?;
        match &mut self.holding {
            Some(holding) if stood(&stand) == wanted && !index.was_emptied() => {
                (holding.index, holding.stand, holding.is_sure) = (index, stand, true);
                Ok(())
            }
            // Another holder was here, or what was dropped came to pass: opening tells.
            _ => {
                self.holding = None;
                Err(self.fenced())
            }
        }
    }

    /// One transaction: the records, and where delivery stands with them.
    async fn commit(&mut self, records: Vec<OutletRecord>, known: Vec<Known>, next: TopicStand) -> Result<(), SinkError> {
        let Some(holding) = &mut self.holding else { return Err(self.fenced()) };
        holding.is_sure = false;
        // Texts and numbers always serialise.
        let stand = Bytes::from(serde_json::to_vec(&next).unwrap_or_default());
        match self.outlet.write(records, stand).await {
            Ok(ends) => {
                holding.index.note(known, &ends, next.state.epoch).await?;
                (holding.stand, holding.is_sure) = (next, true);
                Ok(())
            }
            Err(error) => {
                if matches!(error, OutletError::Fenced(_)) {
                    self.holding = None;
                }
                Err(sink_error(error))
            }
        }
    }

    /// Ends every row that is there and for which `gone` holds.
    async fn take_away(&mut self, gone: impl Fn(&Held) -> bool + Send + Sync) -> Result<u64, SinkError> {
        let (mut after, mut taken) = (None, 0);
        loop {
            let Some(holding) = &self.holding else { return Err(self.fenced()) };
            let page = holding.index.kept().page(after.as_deref(), TAKEN_AT_ONCE).await?;
            let Some((last, _)) = page.last() else { return Ok(taken) };
            after = Some(last.to_vec());
            let stand = holding.stand.clone();
            let (mut records, mut known) = (Vec::new(), Vec::new());
            for (key, held) in page.into_iter().filter(|(_, held)| held.may_be_there() && gone(held)) {
                let told = Told { key: &key, version: &held.version, time_us: None, content: None, replayed: false };
                records.push(OutletRecord { headers: self.teller.headers(&told, &stand.state), key: key.clone(), value: None });
                let there = There::Gone(Timestamp::now().as_microsecond());
                known.push((key, Some(Held { version: held.version, epoch: stand.state.epoch, there })));
            }
            if !records.is_empty() {
                taken += records.len() as u64;
                self.commit(records, known, stand).await?;
            }
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn keep_in(&mut self, hold: &Hold) {
        self.kept = Some(Kept::new(hold, "kafka", "kafka-held"));
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        self.holding = None;
        let form = match &self.registry {
            None => Form::json(&self.plan),
            Some(registry) => Form::avro(&**registry, &self.plan, &self.topic).await?,
        };
        let (index, mut stand) = self.take_over().await?;
        let state = &mut stand.state;
        state.epoch = state.epoch.max(index.epoch()) + 1;
        let (log, topic, grant) = (self.plan.log.to_string(), self.plan.topic.to_string(), hex::encode(self.plan.grant));
        let is_same = (&state.log, &state.topic, &state.grant) == (&log, &topic, &grant) && state.key == form.of_keys();
        if !is_same || index.was_emptied() {
            state.partitions.clear();
            state.sweep = Some(state.epoch);
            (state.log, state.topic, state.grant) = (log, topic, grant);
        }
        let state = state.clone();
        self.holding = Some(Holding { form, index, stand: stand.clone(), is_sure: true });
        self.commit(Vec::new(), Vec::new(), stand).await?;
        let (partitions, refilling) = (state.partitions(), state.sweep.is_some());
        Ok(Stand { epoch: state.epoch, partitions, refilling, entries: state.entries, sealed: None })
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.hold().await?;
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        let (key, epoch) = (holding.form.of_keys(), holding.stand.state.epoch);
        if holding.stand.state.key != key {
            // Rows are known in another way from now on: under the old one all of them go, before anything new comes.
            self.take_away(|_| true).await?;
        }
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        let mut next = holding.stand.clone();
        next.state.key = key;
        next.state.generation += 1;
        (next.state.sweep, next.state.replay) = (Some(epoch), None);
        next.state.partitions = partitions.iter().map(|at| (at.partition, at.next, at.refill_to)).collect();
        self.commit(Vec::new(), Vec::new(), next).await
    }

    fn replays(&self) -> bool {
        true
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.hold().await?;
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        let next = TopicStand { state: holding.stand.state.back_to(partitions), ..holding.stand.clone() };
        self.commit(Vec::new(), Vec::new(), next).await
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        self.hold().await?;
        let Some(Holding { form, index, stand, .. }) = &self.holding else { return Err(self.fenced()) };
        let Some(state) = stand.state.moved(batch.ranges) else {
            let why = format!("subscription {} stands elsewhere", self.plan.subscription);
            return Err(SinkError::new(SinkErrorKind::Fenced, why));
        };
        let keys = batch.changes.iter().map(|change| form.key(change.key())).collect::<Result<Vec<_>, _>>()?;
        let all_held = index.kept().held(&keys).await?;
        let (mut records, mut known) = (Vec::new(), Vec::<Known>::new());
        for ((change, key), held) in batch.changes.iter().zip(keys).zip(all_held) {
            let version = change.version.to_bytes();
            // Within the replay's last batch, which moves beyond its end, too.
            let replayed = held.as_ref().is_some_and(|held| stand.state.is_replayed(held, &version));
            if held.as_ref().is_some_and(|held| !replayed && !held.is_news(&version, state.sweep)) {
                continue;
            }
            let (value, there) = match &change.what {
                What::Upsert(row) => (Some(form.value(row, &self.plan.columns)?), There::Yes),
                What::Delete(..) if replayed || held.as_ref().is_some_and(Held::may_be_there) => {
                    (None, There::Gone(batch.entry.at_us))
                }
                // Deletes go only to who has the row.
                What::Delete(..) => continue,
            };
            let content = value.as_ref().map(|_| form.content_type());
            let told = Told { key: &key, version: &version, time_us: Some(change.source_us), content, replayed };
            let headers = self.teller.headers(&told, &state);
            known.push((key.clone(), Some(Held { version, epoch: state.epoch, there })));
            records.push(OutletRecord { key, value, headers });
        }
        let entries = batch.unlogged.iter().chain([batch.entry]).cloned().collect();
        let next = TopicStand { state: StandState { entries, ..state }, ..stand.clone() };
        self.commit(records, known, next).await?;
        Ok(batch.ack())
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.outlet.serve();
        Ok(())
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        self.hold().await?;
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        let Some(sweep) = holding.stand.state.sweep else { return Ok(0) };
        let swept = self.take_away(|held| held.epoch < sweep).await?;
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        let mut next = holding.stand.clone();
        next.state.sweep = None;
        self.commit(Vec::new(), Vec::new(), next).await?;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        let Some(holding) = &self.holding else { return Err(self.fenced()) };
        holding.index.kept().forget(|held| held.was_gone(before_us)).await
    }
}

/// The one table of the Kafka sink.
fn sink_error(error: OutletError) -> SinkError {
    let kind = match &error {
        OutletError::Fenced(_) => SinkErrorKind::Fenced,
        OutletError::TooLarge(_) => SinkErrorKind::Data,
        OutletError::Denied(_) => SinkErrorKind::Denied,
        OutletError::Unreachable(_) => SinkErrorKind::Unreachable,
        OutletError::Other(_) => SinkErrorKind::Shape,
    };
    let advice = if kind == SinkErrorKind::Denied { "; deploy/kafka.md says which rights delivery needs" } else { "" };
    SinkError::new(kind, format!("{error}{advice}"))
}
