//! The connector of one system: opens its owner, builds its source from the stored position, and carries batches from one to the
//! other until it is told to stop.
//!
//! Whatever fails for a while (a database, the log, the registry) ends the session; the next one begins with opening the owner,
//! so nothing is assumed about a batch whose fate is not known. What only a person can settle ends the connector.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use guitong_log::registry::SchemaRegistry;
use guitong_log::{ExchangeLog, LogError, OwnerId, Role};
use rand::Rng;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::SystemMetrics;
use crate::publish::{PublishError, PublishSettings, Publisher, Totals, Upcoming};
use crate::source::{Durable, Kept, Refused, SnapshotCommand, Source, SourceBudget, SourceError, SourceStatus, Watch};

/// Builds the source from the position that the log holds; called anew for every session.
pub type SourceFactory = Arc<dyn Fn(Option<Bytes>) -> BoxFuture<'static, Result<Box<dyn Source>, SourceError>> + Send + Sync>;

/// First and longest pause before another try.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A session that went well for so long makes the next pause the first again.
const SETTLED: Duration = Duration::from_secs(60);

/// While one batch is being committed the next is read, if there is one; waiting longer than this would delay the confirmation.
const OVERLAP: Duration = Duration::from_millis(1);

/// How a connector does its work.
#[derive(Debug, Clone)]
pub struct ConnectorSettings {
    pub publish: PublishSettings,
    /// Bytes that a batch may hold.
    pub batch: usize,
    /// Longest wait for a first change before the status is looked at again.
    pub wait: Duration,
}

/// Why a connector stopped for good.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectorError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{system}: {error}")]
    Publish { system: Arc<str>, error: PublishError },
    #[error("{system}: {error}")]
    Log { system: Arc<str>, error: LogError },
}

impl ConnectorError {
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Publish { error, .. } => error.is_transient(),
            Self::Log { error, .. } => error.is_transient() || matches!(error, LogError::Fenced { .. }),
        }
    }
}

/// What a connector is doing.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ConnectorState {
    #[default]
    Starting,
    Running,
    /// Waits before another try.
    Retrying {
        error: String,
        tries: u32,
    },
    /// Ended after its last batch.
    Stopped,
    /// Ended; a person has to act on the message.
    Failed {
        error: String,
        /// Changes are missing.
        gap: bool,
    },
}

/// What an operator sees of a connector.
#[derive(Debug, Clone, Default)]
pub struct ConnectorStatus {
    pub state: ConnectorState,
    pub source: SourceStatus,
    /// Also while nothing is read, and after the connector has ended.
    pub kept: Kept,
    /// Changes and bytes since the session began.
    pub totals: Totals,
    /// Age of the newest change when it was published; zero when caught up.
    pub lag: Duration,
}

/// A command with the place of its answer.
#[derive(Debug)]
pub struct Request {
    pub command: SnapshotCommand,
    pub answer: oneshot::Sender<Result<String, Refused>>,
}

/// Commands that wait while others are carried out.
const REQUESTS: usize = 16;

/// Carries one system into the log.
pub struct Connector {
    settings: ConnectorSettings,
    log: Arc<dyn ExchangeLog>,
    registry: Arc<dyn SchemaRegistry>,
    source: SourceFactory,
    watch: Option<Arc<dyn Watch>>,
    /// As [`Connector::repairing`].
    anew: Arc<AtomicBool>,
    metrics: SystemMetrics,
    status: watch::Sender<ConnectorStatus>,
    requests: mpsc::Sender<Request>,
    /// Held by the session that runs.
    received: Mutex<mpsc::Receiver<Request>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Connector {
    #[must_use]
    pub fn new(
        settings: ConnectorSettings,
        log: Arc<dyn ExchangeLog>,
        registry: Arc<dyn SchemaRegistry>,
        source: SourceFactory,
        metrics: SystemMetrics,
    ) -> Self {
        let (requests, received) = mpsc::channel(REQUESTS);
        let (status, received) = (watch::Sender::default(), Mutex::new(received));
        Self { settings, log, registry, source, watch: None, anew: Arc::default(), metrics, status, requests, received }
    }

    /// With a look at what the department's server keeps, from when the connector begins to run until it is told to stop.
    #[must_use]
    pub fn watched(self, watch: Option<Arc<dyn Watch>>) -> Self {
        Self { watch, ..self }
    }

    /// Where changes are missing the source reads everything anew, whatever it is told elsewhere, for as long as `anew` is set: until
    /// that has begun to be published.
    #[must_use]
    pub fn repairing(self, anew: Arc<AtomicBool>) -> Self {
        anew.store(true, Ordering::Relaxed);
        Self { anew, ..self }
    }

    /// Where commands are sent. They are carried out between two batches, and answered once they survive a restart.
    #[must_use]
    pub fn requests(&self) -> mpsc::Sender<Request> {
        self.requests.clone()
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConnectorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`; a batch that is being published then is finished first.
    ///
    /// # Errors
    /// [`ConnectorError`] where a person has to decide.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ConnectorError> {
        self.look(&shutdown);
        let mut tries = 0;
        loop {
            let began = Instant::now();
            let error = match self.session(&shutdown).await {
                Ok(()) => {
                    self.status.send_modify(|status| status.state = ConnectorState::Stopped);
                    return Ok(());
                }
                Err(error) if error.is_transient() => error,
                Err(error) => {
                    self.metrics.stopped.inc();
                    let gap = matches!(error, ConnectorError::Source(SourceError::Gap { .. }));
                    self.status.send_modify(|status| status.state = ConnectorState::Failed { error: error.to_string(), gap });
                    return Err(error);
                }
            };
            tries = if began.elapsed() > SETTLED { 1 } else { tries + 1 };
            let pause = backoff(tries);
            tracing::warn!(system = %self.settings.publish.system, %error, tries, ?pause, "the connector tries again");
            self.metrics.retried.inc();
            self.status.send_modify(|status| status.state = ConnectorState::Retrying { error: error.to_string(), tries });
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.status.send_modify(|status| status.state = ConnectorState::Stopped);
                    return Ok(());
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at what the server keeps, in a task of its own: a batch that is not taken, a pause and the connector's end leave it alone.
    fn look(&self, shutdown: &CancellationToken) {
        let Some(watch) = self.watch.clone() else { return };
        let (status, retained, shutdown) = (self.status.clone(), self.metrics.retained_bytes.clone(), shutdown.clone());
        let tell = move |kept: Kept| {
            retained.set(kept.retained_bytes.unwrap_or(0) as f64);
            status.send_modify(|status| status.kept = kept);
        };
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = watch.run(&tell) => {}
            }
        });
    }

    async fn session(&self, shutdown: &CancellationToken) -> Result<(), ConnectorError> {
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            opened = self.open() => opened?,
        };
        let (mut publisher, mut source) = opened;
        // The first batch of a quiet system comes only after `wait`; that the source is open is known now.
        self.status.send_modify(|status| {
            status.state = ConnectorState::Running;
            status.source = source.status();
        });
        let mut session = Session { connector: self, counted: Totals::default() };
        let mut requests = self.received.lock().await;
        let mut answers = Answers::default();
        let budget = SourceBudget { bytes: self.settings.batch, wait: self.settings.wait };
        let mut ahead: Option<Upcoming> = None;
        loop {
            while let Ok(request) = requests.try_recv() {
                match source.command(request.command).await {
                    // The batch that was read ahead does not know of it.
                    Ok(done) => answers.wait(usize::from(ahead.is_some()), request.answer, done),
                    Err(refused) => {
                        request.answer.send(Err(refused)).ok();
                    }
                }
            }
            let batch = match ahead.take() {
                Some(batch) => batch,
                None => tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    batch = source.next_batch(budget) => Upcoming::from(batch?),
                },
            };
            let (size, newest) = (batch.size, batch.newest_us);
            let began = Instant::now();
            // A full batch means that more is waiting.
            let published = if size >= budget.bytes / 2 && !shutdown.is_cancelled() {
                let reading = source.next_batch(SourceBudget { wait: OVERLAP, ..budget });
                let both = publisher.publish_while(batch, reading).await;
                let (published, next) = both.map_err(|error| self.publish_error(error))?;
                ahead = Some(next?);
                published
            } else {
                publisher.publish(batch).await.map_err(|error| self.publish_error(error))?
            };
            session.note(&publisher, &*source, newest, began.elapsed());
            answers.published(published.is_some());
            if let Some(durable) = published {
                self.anew.store(false, Ordering::Relaxed);
                self.confirm(&mut *source, durable).await?;
            }
            if shutdown.is_cancelled() {
                return Ok(());
            }
        }
    }

    async fn open(&self) -> Result<(Publisher, Box<dyn Source>), ConnectorError> {
        let system = &self.settings.publish.system;
        let owner = OwnerId::new(Role::Connect, Arc::clone(system));
        let owned = self.log.open(&owner).await.map_err(|error| ConnectorError::Log { system: Arc::clone(system), error })?;
        let publisher = Publisher::new(owned, Arc::clone(&self.log), Arc::clone(&self.registry), self.settings.publish.clone())
            .await
            .map_err(|error| self.publish_error(error))?;
        let source = (self.source)(publisher.position()).await?;
        Ok((publisher, source))
    }

    async fn confirm(&self, source: &mut dyn Source, durable: Durable) -> Result<(), SourceError> {
        source.confirm(durable).await
    }

    fn publish_error(&self, error: PublishError) -> ConnectorError {
        ConnectorError::Publish { system: Arc::clone(&self.settings.publish.system), error }
    }
}

/// Answers of commands that wait until what they changed is durable.
#[derive(Default)]
struct Answers(Vec<Waiting>);

struct Waiting {
    /// Batches that were made before the command.
    batches: usize,
    answer: oneshot::Sender<Result<String, Refused>>,
    done: String,
}

impl Answers {
    fn wait(&mut self, batches: usize, answer: oneshot::Sender<Result<String, Refused>>, done: String) {
        self.0.push(Waiting { batches, answer, done });
    }

    /// A batch was published, with the source's position or without.
    fn published(&mut self, with_position: bool) {
        for waiting in std::mem::take(&mut self.0) {
            match waiting.batches.checked_sub(1) {
                Some(batches) => self.0.push(Waiting { batches, ..waiting }),
                // Who asked may be gone.
                None if with_position => drop(waiting.answer.send(Ok(waiting.done))),
                None => self.0.push(waiting),
            }
        }
    }
}

/// What one session has told the metrics.
struct Session<'a> {
    connector: &'a Connector,
    counted: Totals,
}

impl Session<'_> {
    fn note(&mut self, publisher: &Publisher, source: &dyn Source, newest: Option<i64>, took: Duration) {
        let metrics = &self.connector.metrics;
        let totals = publisher.totals();
        metrics.events.inc_by(totals.events - self.counted.events);
        metrics.bytes.inc_by(totals.bytes - self.counted.bytes);
        metrics.lossy.inc_by(totals.lossy - self.counted.lossy);
        metrics.too_large.inc_by(totals.too_large - self.counted.too_large);
        metrics.outbox_errors.inc_by(totals.outbox_errors - self.counted.outbox_errors);
        self.counted = totals;
        let lag = newest.map_or(Duration::ZERO, |newest| {
            Duration::from_micros(u64::try_from(jiff::Timestamp::now().as_microsecond() - newest).unwrap_or(0))
        });
        if newest.is_some() {
            metrics.batch_seconds.observe(took.as_secs_f64());
            metrics.busy_seconds.inc_by(took.as_secs_f64());
        }
        metrics.lag_seconds.set(lag.as_secs_f64());
        let status = source.status();
        metrics.lag_bytes.set(status.behind_bytes.unwrap_or(0) as f64);
        self.connector.status.send_modify(|seen| {
            seen.state = ConnectorState::Running;
            seen.source = status;
            seen.totals = totals;
            seen.lag = lag;
        });
    }
}

/// A random pause of up to twice the last one's bound.
fn backoff(tries: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let bound = first.saturating_mul(1 << tries.min(16)).min(longest);
    first + bound.mul_f64(rand::rng().random_range(0.0..1.0))
}
