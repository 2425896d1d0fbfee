//! What ends the serving of a subscription, and what follows: one table for faults of the sink ([`SinkErrorKind::reaction`]), one
//! for the log's.
//!
//! [`SinkErrorKind::reaction`]: crate::sink::SinkErrorKind::reaction

use std::sync::Arc;
use std::time::Duration;

use guitong_govern::{EntitlementError, Stop};
use guitong_log::registry::RegistryError;
use guitong_log::{AppendError, LogError};
use thiserror::Error;

use super::Deliverer;
use super::parked::Word;
use crate::sink::{Reaction, SinkError};
use crate::status::Phase;

/// Between two attempts where somebody has to change something at the subscriber's side.
const PAUSED: Duration = Duration::from_secs(15);
/// Longest that a sink may ask for: whoever serves it wants to see it again.
const ASKED: Duration = Duration::from_secs(3600);

/// Why a subscription cannot be served until somebody decides.
#[derive(Debug, Error)]
pub enum DeliverError {
    #[error("{0}")]
    Entitlement(#[from] EntitlementError),
    #[error("subscription {subscription}: {error}")]
    Sink { subscription: Arc<str>, error: SinkError },
    #[error("subscription {subscription}: {error}")]
    Log { subscription: Arc<str>, error: LogError },
    #[error("subscription {subscription}: {error}")]
    Registry { subscription: Arc<str>, error: RegistryError },
}

/// Why serving ended.
#[derive(Debug)]
pub(super) enum Fault {
    Log(LogError),
    Sink(SinkError),
    Registry(RegistryError),
    /// Nothing may be delivered any more.
    Stopped(Stop),
    /// Somebody said that nothing is to be delivered for now.
    Held(Word),
    /// The sink refuses more records than can be set aside.
    Overfull(String),
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<AppendError> for Fault {
    fn from(error: AppendError) -> Self {
        // Refused or unknown: the owner is opened again, and the sink's last entries complete what is missing.
        let (AppendError::Refused(error) | AppendError::Unknown(error)) = error;
        Self::Log(error)
    }
}

impl From<SinkError> for Fault {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

/// What comes before the next attempt.
#[derive(Debug)]
pub(super) enum Rest {
    For(Duration),
    /// Somebody has to decide; with the error that it stands still for.
    UntilAsked(Option<DeliverError>),
    /// To keep in the log that nothing is delivered until somebody says so.
    Suspend(Word),
}

impl Rest {
    /// How delivery ends that ends now.
    pub(super) fn ended(self) -> Result<(), DeliverError> {
        match self {
            Self::UntilAsked(Some(error)) => Err(error),
            Self::For(_) | Self::UntilAsked(None) | Self::Suspend(_) => Ok(()),
        }
    }
}

impl Deliverer {
    /// What a fault means.
    pub(super) fn judge(&mut self, fault: Fault) -> Rest {
        self.note_parked();
        let reaction = match &fault {
            Fault::Stopped(stop) => {
                tracing::info!(subscription = &*self.name, %stop, "delivery ends");
                return Rest::For(Duration::ZERO);
            }
            Fault::Held(word) => {
                self.phase(Phase::Held { by: word.by.clone(), reason: word.reason.clone() });
                return Rest::UntilAsked(None);
            }
            Fault::Overfull(_) => Reaction::Pause,
            Fault::Sink(error) => {
                self.metrics.sink_error(error.kind);
                error.kind.reaction()
            }
            Fault::Registry(error) => {
                self.metrics.log_error();
                if error.is_transient() { Reaction::Retry } else { Reaction::Stop }
            }
            Fault::Log(error) => {
                self.metrics.log_error();
                self.gap |= matches!(error, LogError::Gap { .. } | LogError::Stale { .. });
                of_log(error)
            }
        };
        self.react(reaction, fault)
    }

    fn react(&mut self, reaction: Reaction, fault: Fault) -> Rest {
        let (error, asked) = match &fault {
            Fault::Sink(error) => (error.to_string(), error.retry_after),
            Fault::Registry(error) => (error.to_string(), None),
            Fault::Log(error) => (error.to_string(), None),
            Fault::Overfull(why) => (why.clone(), None),
            Fault::Stopped(_) | Fault::Held(_) => return Rest::For(Duration::ZERO),
        };
        let asked = asked.unwrap_or_default().min(ASKED);
        match reaction {
            Reaction::Retry | Reaction::Reopen => {
                tracing::warn!(subscription = &*self.name, error, "delivery is tried again");
                self.phase(Phase::Retrying { error });
                Rest::For(self.backoff.pause().max(asked))
            }
            Reaction::Pause => {
                tracing::error!(subscription = &*self.name, error, "delivery is paused");
                self.phase(Phase::Paused { error });
                Rest::For(PAUSED.max(asked))
            }
            Reaction::Suspend => {
                tracing::error!(subscription = &*self.name, error, "delivery is suspended");
                Rest::Suspend(Word { by: "the subscriber's endpoint".to_owned(), reason: error })
            }
            Reaction::Park | Reaction::Stop => {
                tracing::error!(subscription = &*self.name, error, "delivery is stopped");
                self.phase(Phase::Stopped { error });
                let subscription = Arc::clone(&self.name);
                Rest::UntilAsked(match fault {
                    Fault::Sink(error) => Some(DeliverError::Sink { subscription, error }),
                    Fault::Registry(error) => Some(DeliverError::Registry { subscription, error }),
                    Fault::Log(error) => Some(DeliverError::Log { subscription, error }),
                    Fault::Stopped(_) | Fault::Held(_) | Fault::Overfull(_) => None,
                })
            }
        }
    }
}

fn of_log(error: &LogError) -> Reaction {
    match error {
        // After a gap, or where deletes may be gone unread, everything is delivered again.
        LogError::Fenced { .. } | LogError::Gap { .. } | LogError::Stale { .. } => Reaction::Reopen,
        error if error.is_transient() => Reaction::Retry,
        _ => Reaction::Stop,
    }
}
