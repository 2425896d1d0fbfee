//! One subscription's task.
//!
//! Records of `std.<resource>` are read from the sink's own offsets, decided on by the one entitlement function, and handed to the
//! sink in batches; each batch is durable with its offsets or not at all, so it is applied once. Every await may be cancelled:
//! nothing but the sink and the log holds progress. A broken sink is tried again with growing pauses and stops nobody else; a
//! record that the sink refuses is found by halving, set aside with its reason, and the rest goes on.

mod ahead;
mod appetite;
mod batch;
mod chain;
mod commands;
pub(crate) mod decode;
mod fault;
mod hand;
mod handle;
mod journal;
mod orders;
mod parked;
mod pause;
mod purge;
mod redeliver;
mod repair;
mod session;
mod verify;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use guitong_govern::{Entitlement, Standing, Stop};
use guitong_log::registry::SchemaRegistry;
use guitong_log::{ExchangeLog, LogError, TopicPartition};
use guitong_schemas::contract::{Exchange, Resource, Revision, SinkConfig, Subscription};
use guitong_schemas::standard::Entity;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::ahead::{Ahead, Before, Decided, Decider};
use self::appetite::Appetite;
pub(crate) use self::appetite::Room;
pub use self::chain::{Audited, Broken, audited};
use self::decode::Schemas;
pub use self::fault::DeliverError;
use self::fault::{Fault, Rest};
use self::hand::Hand;
use self::handle::Request;
pub use self::handle::{Cell, CommandError, DelivererHandle, Made, ReplayReport, Shown};
pub use self::journal::{AUDIT_TOPIC, parked};
use self::parked::Aside;
pub use self::parked::{End, Ended, MOST_PARKED, PARKED_TOPIC, Parked, Place, Word};
use self::pause::Backoff;
pub use self::redeliver::{Redelivered, Since};
use self::session::Session;
pub use self::verify::{Comparing, ComparingStage, DifferentCell, DifferentRow, Verification, Verify, Wrong};
use self::verify::{Progress, Verifier};
use crate::files::FileSink;
use crate::kafka::KafkaSink;
use crate::metrics::{Metrics, SubscriptionMetrics};
use crate::pools::Pools;
use crate::pull::{AvroForm, Outbox, OutboxFile, Puller};
use crate::shared::SharedReads;
use crate::sink::{Mark, Sink, SinkError, SinkErrorKind, SinkPlan, Staged};
use crate::sql::Holders;
use crate::sql::layout::{Layout, quote};
use crate::sql::mysql::MysqlSink;
use crate::sql::postgres::PostgresSink;
use crate::sql::sqlite::SqliteSink;
use crate::status::{DeliverStatus, Phase};
use crate::webhook::WebhookSink;

/// Longest wait for records; an append ends it at once.
const READ_WAIT: Duration = Duration::from_secs(1);
/// Between two looks for a topic that is not there yet.
const TOPIC_WAIT: Duration = Duration::from_millis(250);
/// Between two measurements of the lag.
const LAG_EVERY: Duration = Duration::from_millis(500);
/// Between two times that versions of deleted keys are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// What a deliverer is made of.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub exchange: Arc<Exchange>,
    /// Stands in every audit entry.
    pub revision: Revision,
    pub subscription: Arc<Subscription>,
    pub resource: Arc<Resource>,
    pub entity: Arc<Entity>,
    pub log: Arc<dyn ExchangeLog>,
    pub registry: Arc<dyn SchemaRegistry>,
    pub pools: Pools,
    pub metrics: Metrics,
}

/// Delivers one subscription.
#[derive(Debug)]
pub struct Deliverer {
    name: Arc<str>,
    topic: Arc<str>,
    exchange: Arc<Exchange>,
    revision: String,
    resource: Arc<Resource>,
    log: Arc<dyn ExchangeLog>,
    entitlement: Arc<Entitlement>,
    grant: String,
    /// The subscription asks for records that are as they were.
    unchanged: bool,
    schemas: Schemas,
    room: Room,
    reads: SharedReads,
    sink: Box<dyn Sink>,
    metrics: SubscriptionMetrics,
    status: watch::Sender<DeliverStatus>,
    backoff: Backoff,
    /// The log no longer has what the sink asks for: everything is delivered again.
    gap: bool,
    /// Commit time at the source of the newest record delivered.
    newest_us: Option<i64>,
    /// The task that writes what was last opened of the journal.
    writing: Option<JoinHandle<()>>,
    aside: Aside,
    /// Boxed: the channel has room for many, and few come.
    asks: mpsc::Sender<Box<Request>>,
    /// Until somebody answers.
    asked: Option<mpsc::Receiver<Box<Request>>>,
    /// Reads what the subscriber pulls.
    puller: Option<Puller>,
}

impl Deliverer {
    /// # Errors
    /// [`DeliverError::Entitlement`] where the subscription does not go with its resource; [`DeliverError::Sink`] for an address
    /// that is none.
    pub fn new(delivery: Delivery) -> Result<Self, DeliverError> {
        let (subscription, pools) = (Arc::clone(&delivery.subscription), delivery.pools.clone());
        let registry = Arc::clone(&delivery.registry);
        let outbox = OutboxFile::path_of(&delivery.exchange).map(|path| pools.outbox(&path));
        let mut pulled = None;
        let made = Self::with_sink(delivery, |plan| match (&subscription.sink, outbox) {
            (SinkConfig::Pull { keep }, Some(file)) => {
                let outbox = Outbox::new(Arc::clone(&file), Arc::clone(&plan.subscription), *keep);
                let forms = (Arc::new(Layout::new(&outbox.rows(), quote, &plan)), Arc::new(AvroForm::new(&plan)));
                pulled = Some((Arc::clone(&file), forms));
                Ok(Box::new(SqliteSink::outbox(Arc::clone(&file.writer), outbox, plan)))
            }
            _ => make_sink(&subscription.sink, &pools, &registry, plan),
        });
        let mut deliverer = made?;
        deliverer.puller = pulled.map(|(file, forms)| {
            let (name, entitlement) = (Arc::clone(&deliverer.name), Arc::clone(&deliverer.entitlement));
            Puller::new(file, name, forms, entitlement, deliverer.status.subscribe())
        });
        Ok(deliverer)
    }

    /// As [`Deliverer::new`], to another sink than the subscription names.
    ///
    /// # Errors
    /// As [`Deliverer::new`].
    pub fn with_sink(
        delivery: Delivery,
        sink: impl FnOnce(SinkPlan) -> Result<Box<dyn Sink>, SinkError>,
    ) -> Result<Self, DeliverError> {
        let Delivery { exchange, revision, subscription, resource, entity, log, registry, pools, metrics } = delivery;
        let entitlement = Entitlement::compile(&subscription, &resource, &entity, &exchange.time_zone)?;
        let name: Arc<str> = subscription.name.as_str().into();
        let topic: Arc<str> = format!("std.{}", resource.name).into();
        let plan = SinkPlan {
            exchange: exchange.name.as_str().into(),
            subscription: Arc::clone(&name),
            title: resource.title.clone(),
            log: log.id().clone(),
            topic: Arc::clone(&topic),
            columns: entitlement.columns().to_vec(),
            key: entitlement.key().clone(),
            time_zone: exchange.time_zone.clone(),
            grant: entitlement.fingerprint(),
            condition: subscription.condition.clone(),
            table: subscription.table.clone(),
            mark: Mark::default(),
        };
        let sink = sink(plan).map_err(|error| DeliverError::Sink { subscription: Arc::clone(&name), error })?;
        let (asks, asked) = mpsc::channel(handle::WAITING);
        Ok(Self {
            sink,
            metrics: metrics.of(&name),
            grant: hex(&entitlement.fingerprint()),
            revision: hex(&revision.0),
            unchanged: subscription.unchanged,
            schemas: Schemas::new(registry, entity, pools.plans(), entitlement.reads()),
            room: pools.room(),
            reads: pools.reads(),
            status: watch::Sender::default(),
            backoff: Backoff::new(),
            gap: false,
            newest_us: None,
            writing: None,
            aside: Aside::default(),
            asks,
            asked: Some(asked),
            name,
            topic,
            exchange,
            resource,
            log,
            entitlement: Arc::new(entitlement),
            puller: None,
        })
    }

    /// Speaks with the deliverer while it runs.
    #[must_use]
    pub fn handle(&self) -> DelivererHandle {
        let (status, aside, puller) = (self.status.subscribe(), self.aside.clone(), self.puller.clone());
        DelivererHandle::new(self.asks.clone(), status, aside, puller, self.verifier().map(Arc::new))
    }

    /// Compares the sink, where what it holds can be read.
    fn verifier(&self) -> Option<Verifier> {
        Some(Verifier {
            topic: Arc::clone(&self.topic),
            log: Arc::clone(&self.log),
            schemas: self.schemas.clone(),
            entitlement: Arc::clone(&self.entitlement),
            holdings: self.sink.holdings()?,
            aside: self.aside.clone(),
            unchanged: self.unchanged,
            bytes: self.exchange.budgets.batch,
            progress: Progress::default(),
        })
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<DeliverStatus> {
        self.status.subscribe()
    }

    /// Delivers until `shutdown`. Where somebody has to decide it waits for a command.
    ///
    /// # Errors
    /// [`DeliverError`] where it was stopped when the end came; everything else is tried again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), DeliverError> {
        let ended = self.deliver_until(&shutdown).await;
        self.written().await;
        ended
    }

    /// Answers commands until `shutdown` and delivers nothing by itself.
    pub async fn attend(mut self, shutdown: CancellationToken) {
        let Some(mut asked) = self.asked.take() else { return };
        loop {
            let request = tokio::select! {
                () = shutdown.cancelled() => break,
                request = asked.recv() => request,
            };
            let Some(request) = request else { break };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.answer(*request) => {}
            }
        }
        self.written().await;
    }

    /// What is at the sink is noted in the log before anything else is done with it.
    async fn written(&mut self) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
    }

    async fn deliver_until(&mut self, shutdown: &CancellationToken) -> Result<(), DeliverError> {
        // What is asked for is done here, between two calls of `work`.
        let Some(mut asked) = self.asked.take() else { return Ok(()) };
        let mut rest = Rest::For(Duration::ZERO);
        loop {
            // When the approval begins or ends, what is under way is dropped, and everything is looked at anew.
            let (open, turn) = match self.entitlement.standing(Timestamp::now()) {
                Standing::Open { until } => (true, until),
                Standing::Stopped(stop) => {
                    self.phase(Phase::Waiting { reason: stop.to_string() });
                    let from = match stop {
                        Stop::NotYet { from } => Some(from),
                        Stop::Expired { .. } | Stop::Refused(_) => None,
                    };
                    (false, from)
                }
            };
            // A call that is dropped here has done all or nothing; its transaction ends with it.
            let fault = tokio::select! {
                biased;
                () = shutdown.cancelled() => return rest.ended(),
                () = pause::until(turn) => continue,
                Some(request) = asked.recv() => {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return rest.ended(),
                        () = pause::until(turn) => {}
                        () = Box::pin(self.answer(*request)) => {}
                    }
                    // Whoever asked for something had a look: it is tried again at once.
                    rest = Rest::For(Duration::ZERO);
                    continue;
                }
                fault = self.work(&rest), if open => fault,
            };
            rest = self.judge(fault);
        }
    }

    /// Rests, then takes the subscription over and serves it until something goes wrong.
    async fn work(&mut self, rest: &Rest) -> Fault {
        let worked = async {
            match rest {
                Rest::For(pause) => tokio::time::sleep(*pause).await,
                Rest::UntilAsked(_) => std::future::pending().await,
                Rest::Suspend(word) => Box::pin(self.suspend(word.clone())).await?,
            }
            self.serve().await
        };
        match worked.await {
            Ok(never) => match never {},
            Err(fault) => fault,
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Fault> {
        let partitions = self.wait_for_topic().await?;
        let mut session = Box::pin(self.open_session(partitions)).await?;
        self.holds_deletes(&session).await?;
        let from: Vec<_> = session.positions.iter().map(|(&partition, &next)| (self.at(partition), next)).collect();
        let reader = self.reads.reader(&self.log, from, self.metrics.read.clone()).await?;
        self.schemas.forget_missing();
        // What the sink left unfinished before counts as delivered once it is finished.
        self.sink.settle().await?;
        self.live_phase(&mut session).await?;
        let mut ahead = Ahead::start(reader, self.decider(&session));
        loop {
            self.turn(&mut session, &mut ahead).await?;
        }
    }

    fn decider(&self, session: &Session) -> Decider {
        Decider {
            schemas: self.schemas.clone(),
            entitlement: Arc::clone(&self.entitlement),
            unchanged: self.unchanged,
            caught_up: Arc::clone(&session.caught_up),
            stager: self.sink.stager(),
            before: Before::default(),
            appetite: Appetite::new(self.room.clone(), self.exchange.budgets.batch),
        }
    }

    async fn wait_for_topic(&mut self) -> Result<u32, LogError> {
        loop {
            if let Some(partitions) = self.log.partitions(&self.topic).await? {
                return Ok(partitions);
            }
            self.phase(Phase::Waiting { reason: format!("topic {} does not exist yet", self.topic) });
            tokio::time::sleep(TOPIC_WAIT).await;
        }
    }

    /// One batch, and what comes of it.
    async fn turn(&mut self, session: &mut Session, ahead: &mut Ahead) -> Result<(), Fault> {
        self.sink.settle().await?;
        if let Some((decided, staged)) = ahead.next(READ_WAIT).await? {
            let next = || decided.read().next.iter().map(|(at, next)| (at.partition, *next));
            if next().any(|(partition, next)| session.positions.get(&partition) != Some(&next)) {
                if self.newest_us.is_none() {
                    // Before anything is delivered, what waits longest says how far behind it is.
                    self.newest_us = decided.items().iter().map(|item| item.source_us).min();
                    self.live_phase(session).await?;
                }
                Box::pin(self.deliver(session, &decided, &next().collect::<Vec<_>>(), staged)).await?;
                self.backoff.reset();
            }
            decided.let_go();
        }
        if session.refill.as_ref().is_some_and(|ends| ends.iter().all(|(at, end)| session.positions.get(at) >= Some(end))) {
            let swept = self.sink.sweep().await?;
            tracing::info!(
                subscription = &*self.name,
                swept,
                "everything is delivered; rows that are no longer granted are gone"
            );
            session.refill = None;
            self.live_phase(session).await?;
        } else if session.measured.is_none_or(|at| at.elapsed() >= LAG_EVERY) {
            self.live_phase(session).await?;
        }
        if session.forgotten.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            self.holds_deletes(session).await?;
            self.sink.forget_deleted(Timestamp::now().as_microsecond().saturating_sub(micros(self.exchange.trace))).await?;
            session.forgotten = Some(Instant::now());
        }
        Ok(())
    }

    async fn deliver(
        &mut self,
        session: &mut Session,
        decided: &Decided,
        next: &[(u32, u64)],
        staged: Option<Staged>,
    ) -> Result<(), Fault> {
        let (read, items) = (decided.read(), decided.items());
        self.hand(session).0.over(decided, next, staged).await?;
        let newest_us = items.iter().map(|item| item.source_us).max();
        let bytes = read
            .records
            .iter()
            .map(|record| record.key.as_ref().map_or(0, |key| key.len()) + record.value.as_ref().map_or(0, |value| value.len()));
        self.metrics.bytes.inc_by(bytes.sum::<usize>() as u64);
        self.newest_us = newest_us.or(self.newest_us);
        Ok(())
    }

    /// What hands records over under this hold, and what decides on them.
    fn hand<'h>(&'h mut self, session: &'h mut Session) -> (Hand<'h>, &'h Entitlement, &'h mut Schemas) {
        let hand = Hand {
            name: &self.name,
            topic: &self.topic,
            resource: self.resource.name.as_str(),
            grant: &self.grant,
            revision: &self.revision,
            log: &*self.log,
            sink: self.sink.as_mut(),
            metrics: &self.metrics,
            status: &self.status,
            session,
        };
        (hand, &self.entitlement, &mut self.schemas)
    }

    fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), partition)
    }

    fn note_parked(&self) {
        let (parked, oldest_us) = (self.aside.len(), self.aside.oldest_us());
        let age = oldest_us.map_or(0, |oldest| Timestamp::now().as_microsecond() - oldest);
        self.metrics.aside.set(i64::try_from(parked).unwrap_or(i64::MAX));
        self.metrics.aside_oldest.set(age.max(0) as f64 / 1e6);
        self.status.send_modify(|status| {
            status.parked = parked as u64;
            status.oldest_parked_us = oldest_us;
        });
    }

    fn phase(&self, phase: Phase) {
        self.status.send_modify(|status| status.phase = phase);
    }

    /// Measures the lag and says that it is served.
    async fn live_phase(&mut self, session: &mut Session) -> Result<(), LogError> {
        // Asked for at once: records wait meanwhile.
        let lags = session.positions.iter().map(async |(&partition, &next)| {
            Ok::<_, LogError>(self.log.bounds(&self.at(partition)).await?.end.saturating_sub(next))
        });
        let lag = futures::future::try_join_all(lags).await?.into_iter().sum();
        let age = self.newest_us.filter(|_| lag > 0).map_or(0, |newest| Timestamp::now().as_microsecond() - newest);
        let lag_seconds = age.max(0) as f64 / 1e6;
        if lag == 0 && session.refill.is_none() {
            session.caught_up.store(true, Ordering::Relaxed);
        }
        self.metrics.lag_records.set(i64::try_from(lag).unwrap_or(i64::MAX));
        self.metrics.lag_seconds.set(lag_seconds);
        let phase = match (&session.refill, session.left_to_replay()) {
            (None, 0) => Phase::Live,
            (None, remaining_records) => Phase::Replaying { remaining_records },
            (Some(ends), _) => {
                let left = ends.iter().map(|(at, end)| end.saturating_sub(session.positions.get(at).copied().unwrap_or(0)));
                Phase::Refilling { remaining_records: left.sum() }
            }
        };
        self.status.send_modify(|status| {
            status.phase = phase;
            status.lag_records = lag;
            status.lag_seconds = lag_seconds;
            status.offsets = session.positions.iter().map(|(&partition, &next)| (partition, next)).collect();
        });
        self.note_parked();
        session.measured = Some(Instant::now());
        Ok(())
    }
}

fn make_sink(
    config: &SinkConfig,
    pools: &Pools,
    registry: &Arc<dyn SchemaRegistry>,
    plan: SinkPlan,
) -> Result<Box<dyn Sink>, SinkError> {
    Ok(match config {
        SinkConfig::Webhook(webhook) => Box::new(WebhookSink::new(pools, webhook, plan)?),
        SinkConfig::Kafka(topic) => Box::new(KafkaSink::new(pools, topic, registry, plan)?),
        SinkConfig::Mysql { url, table } => {
            let sink = MysqlSink::new(pools, url, table, plan.clone())?;
            Box::new(Holders::new(pools, &plan, Box::new(sink)))
        }
        SinkConfig::Sqlite { path, table } => {
            let sink = SqliteSink::new(pools, path, table, plan.clone());
            Box::new(Holders::new(pools, &plan, Box::new(sink)))
        }
        SinkConfig::Postgres { url, schema, table } => {
            let sink = PostgresSink::new(pools, url, schema, table, plan.clone())?;
            Box::new(Holders::new(pools, &plan, Box::new(sink)))
        }
        SinkConfig::Files(files) => Box::new(FileSink::new(pools, files, plan)),
        SinkConfig::Pull { .. } => {
            let why = "a subscription can be pulled only with the embedded log";
            return Err(SinkError::new(SinkErrorKind::Shape, why));
        }
    })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    ::hex::encode(bytes)
}
