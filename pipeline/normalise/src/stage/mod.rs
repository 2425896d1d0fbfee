//! The normalise stage of one resource: one owner reads the raw topic of its table and writes `std.<resource>` and
//! `quarantine.<resource>`.
//!
//! Each batch is one commit of records, consumed offset and keyed state, so an event takes effect once, whenever the stage
//! stops. After every doubtful end (a lost answer, another holder, a log that is away) the owner is opened again and goes on
//! from what the log holds. Bad events go to quarantine and stop nothing; a column that the mapping reads and the table
//! no longer has pauses the resource, unless it is to go on without; a gap in the raw topic is an error for a person.

mod ahead;
pub(crate) mod arrival;
pub(crate) mod away;
pub(crate) mod binding;
pub(crate) mod figures;
mod known;
pub(crate) mod output;
mod session;
mod surrender;
mod truncate;
mod versions;
pub(crate) mod worker;

use std::sync::Arc;
use std::time::Duration;

use guitong_log::ExchangeLog;
use guitong_log::registry::SchemaRegistry;
use guitong_schemas::contract::{Exchange, Resource};
use guitong_schemas::standard::{Standard, Zone};
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::drift::Subscriptions;
use crate::error::NormaliseError;
use crate::handle::{self, Command, NormaliserHandle, NormaliserStatus, Phase};
use crate::mapping::{Mapping, MappingError};
use crate::metrics::Metrics;

/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What every resource's normaliser shares.
#[derive(Debug, Clone)]
pub struct NormaliseContext {
    pub log: Arc<dyn ExchangeLog>,
    pub registry: Arc<dyn SchemaRegistry>,
    pub standard: Arc<Standard>,
    pub exchange: Arc<Exchange>,
    pub metrics: Metrics,
    /// Those of the directory in force: who is touched where a table changes.
    pub subscriptions: Subscriptions,
}

/// The normaliser of one resource, ready to run.
#[derive(Debug)]
pub struct Normaliser {
    context: NormaliseContext,
    resource: Arc<Resource>,
    mapping: Arc<Mapping>,
    zone: Zone,
    inbox: mpsc::Receiver<Command>,
    status: watch::Sender<NormaliserStatus>,
}

impl Normaliser {
    /// Compiles the resource's mapping. Nothing is read or written before [`Normaliser::run`].
    ///
    /// # Errors
    /// [`MappingError`] where the mapping does not fit the entity.
    pub fn new(context: NormaliseContext, resource: Arc<Resource>) -> Result<(Self, NormaliserHandle), MappingError> {
        let zone = Zone::new(context.exchange.time_zone.clone());
        let mapping = Arc::new(Mapping::compile(&resource, &context.standard, &zone)?);
        let (handle, inbox, status) = handle::channel();
        Ok((Self { context, resource, mapping, zone, inbox, status }, handle))
    }

    /// Runs until `shutdown`, which ends it after the batch under way.
    ///
    /// # Errors
    /// [`NormaliseError`] only where a person has to decide; everything that passes by itself is tried again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), NormaliseError> {
        let mut pause = BACKOFF.0;
        loop {
            let started = tokio::time::Instant::now();
            let ended = self.session(&shutdown).await;
            if started.elapsed() > BACKOFF.1 {
                pause = BACKOFF.0;
            }
            match ended {
                Ok(session::End::Shutdown) => {
                    self.status.send_modify(|status| status.phase = Phase::Stopped);
                    return Ok(());
                }
                Ok(session::End::Reopen) => {}
                Ok(session::End::NoTopic) => {
                    self.set_phase(Phase::WaitingForTopic);
                    self.wait(jittered(pause), "its raw topic does not exist yet", &shutdown).await;
                    pause = (pause * 2).min(BACKOFF.1 / 5);
                }
                Ok(session::End::NotLoaded(tables)) => {
                    let why = format!("the first load of {tables} is not done");
                    self.set_phase(Phase::WaitingForTables(tables));
                    self.wait(jittered(pause), &why, &shutdown).await;
                    pause = (pause * 2).min(BACKOFF.1 / 5);
                }
                Ok(session::End::Ungrouped) => {
                    let why = "its records were made of several rows each, and [group] is taken away: put it back, or declare the \
                               table in a resource of another name";
                    self.set_phase(Phase::Paused(why.to_owned()));
                    self.wait(jittered(BACKOFF.1), why, &shutdown).await;
                }
                Err(error) => {
                    let settled = error.settle(self.resource.name.as_str(), self.resource.system.as_str());
                    let reason = settled.inspect_err(|error| {
                        tracing::error!(resource = %self.resource.name, %error, "stopped");
                        self.status.send_modify(|status| status.phase = Phase::Stopped);
                    })?;
                    tracing::warn!(resource = %self.resource.name, reason, "tries again");
                    self.set_phase(Phase::Retrying(reason.clone()));
                    self.wait(jittered(pause), &reason, &shutdown).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.status.send_if_modified(|status| {
            let changed = status.phase != phase;
            status.phase = phase;
            changed
        });
    }

    /// Waits, and tells whoever asks in the meantime why there is no answer.
    async fn wait(&mut self, pause: Duration, why: &str, shutdown: &CancellationToken) {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                Some(command) = self.inbox.recv() => match command {
                    Command::Reload { resource, reply } => {
                        let taken = self.take(&resource);
                        // Who asked may have gone.
                        let _ = reply.send(taken.map_err(Into::into));
                    }
                    command => command.refuse(why),
                },
            }
        }
    }

    /// Takes a changed resource, if its mapping compiles.
    fn take(&mut self, resource: &Arc<Resource>) -> Result<(), MappingError> {
        self.mapping = Arc::new(Mapping::compile(resource, &self.context.standard, &self.zone)?);
        self.resource = Arc::clone(resource);
        Ok(())
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}
