//! What the server keeps for a slot, asked for by itself.
//!
//! The log piles up when nothing is read: while what was read is not taken, while the connector waits before another try, after it has
//! ended for a person to decide. So none of this asks the source for anything; it has a connection of its own, which is idle but for one
//! short query every few seconds, and goes on until the system is configured otherwise.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use guitong_schemas::contract::System;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;

use super::fault::Faults;
use super::metrics::{Metrics, SystemMetrics};
use super::slot::{self, Slot};
use super::start::{address, config_of};
use crate::source::{Kept, SourceError, Watch};

/// How often the server is asked.
const EVERY: Duration = Duration::from_secs(3);
/// Longest pause after it could not be asked: a wrong password should not fill its log.
const SELDOM: Duration = Duration::from_secs(60);
/// A server that has not answered by then hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at the slot of one system, on the server that decodes.
#[derive(Debug)]
pub struct SlotWatch {
    system: Arc<System>,
    faults: Faults,
    metrics: SystemMetrics,
    kept: watch::Sender<Kept>,
}

/// How a slot stands; each change for the worse is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Well,
    /// Four fifths of what the server keeps at most are used.
    Near,
    Lost,
}

impl State {
    fn of(slot: Option<&Slot>) -> Self {
        match slot {
            Some(slot) if slot.is_lost() => Self::Lost,
            Some(slot) if slot.is_near_the_bound() => Self::Near,
            _ => Self::Well,
        }
    }
}

impl SlotWatch {
    #[must_use]
    pub fn new(system: Arc<System>, metrics: &Metrics) -> Self {
        let (faults, metrics) = (Faults::of(&system), metrics.of(system.name.as_str()));
        Self { system, faults, metrics, kept: watch::Sender::default() }
    }

    /// What was heard last: nothing before [`Watch::run`] has asked.
    #[must_use]
    pub fn kept(&self) -> watch::Receiver<Kept> {
        self.kept.subscribe()
    }

    /// Over `idle`, which is given up where the server does not answer well.
    async fn ask(&self, idle: &mut Option<PgConnection>) -> Result<Option<Slot>, SourceError> {
        let config = config_of(&self.system, &self.faults)?;
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => address(&self.system, &config, &self.faults)?.connect(&self.faults).await?,
        };
        let found = slot::find(&mut connection, &config.slot).await;
        let found = found.map_err(|error| self.faults.query("asking for the slot", &error))?;
        *idle = Some(connection);
        Ok(found)
    }

    /// Says what became worse since `before`.
    fn note(&self, slot: Option<&Slot>, before: State) -> State {
        let state = State::of(slot);
        let Some(slot) = slot.filter(|_| state > before) else { return state };
        let (system, retained, left) = (&self.system.name, slot.retained, slot.left);
        match state {
            State::Well => {}
            State::Near => tracing::warn!(
                %system, slot = slot.name, retained, left,
                "the server gives up the slot, and changes with it, once `left` more bytes are written (max_slot_wal_keep_size)"
            ),
            State::Lost => tracing::error!(
                %system, slot = slot.name, "the server has given up the slot: changes that were not read are lost"
            ),
        }
        state
    }

    fn told(&self, slot: Option<&Slot>, state: State) -> Kept {
        let left = match state {
            State::Lost => Some(0),
            _ => slot.and_then(|slot| slot.left),
        };
        self.metrics.left(left);
        Kept { retained_bytes: slot.and_then(|slot| slot.retained), left_bytes: left.filter(|_| state != State::Well) }
    }
}

#[async_trait]
impl Watch for SlotWatch {
    async fn run(&self, tell: &(dyn Fn(Kept) + Send + Sync)) {
        // Without a provider chosen TLS panics; another part of the process may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (mut idle, mut state, mut pause) = (None, State::Well, EVERY);
        loop {
            let asked = tokio::time::timeout(PATIENCE, self.ask(&mut idle)).await;
            let asked = asked.unwrap_or_else(|_| Err(self.faults.unavailable(format!("no answer in {PATIENCE:?}"))));
            match asked {
                Ok(slot) => {
                    state = self.note(slot.as_ref(), state);
                    let kept = self.told(slot.as_ref(), state);
                    self.kept.send_replace(kept);
                    tell(kept);
                    pause = EVERY;
                }
                // What was heard last stays: that the server cannot be asked does not make it keep less.
                Err(error) => {
                    if pause == EVERY {
                        tracing::warn!(system = %self.system.name, %error, "what the server keeps is not known until it can be asked");
                    }
                    pause = (pause * 2).min(SELDOM);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}
