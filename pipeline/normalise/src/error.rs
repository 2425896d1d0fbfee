//! Why the stage stops, and what ends one session of it.

use guitong_log::registry::RegistryError;
use guitong_log::{AppendError, LogError};
use thiserror::Error;

use crate::keyed::overlay::StateError;

/// What a person has to decide. Everything that passes by itself is retried inside.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NormaliseError {
    /// Events are missing from the raw topic: read them again with `guitong` by a new snapshot of the system.
    #[error(
        "resource {resource}: events are missing: {error}\n  repair: take a new snapshot of system {system}, then start again"
    )]
    Gap { resource: String, system: String, error: LogError },
    #[error("resource {resource}: {error}")]
    Log { resource: String, error: LogError },
    #[error("resource {resource}: {error}")]
    State { resource: String, error: StateError },
    #[error("resource {resource}: {error}")]
    Registry { resource: String, error: RegistryError },
}

/// Why a session ended.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// Passes by itself: open the owner again after a while.
    #[error("{0}")]
    Transient(String),
    #[error(transparent)]
    Log(LogError),
    #[error(transparent)]
    State(StateError),
    #[error(transparent)]
    Registry(RegistryError),
}

impl From<LogError> for SessionError {
    fn from(error: LogError) -> Self {
        // A fenced holder opens again: where the owner belongs elsewhere by now, the node stops this stage.
        if error.is_transient() || matches!(error, LogError::Fenced { .. }) {
            Self::Transient(error.to_string())
        } else {
            Self::Log(error)
        }
    }
}

impl From<StateError> for SessionError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Log(error) => error.into(),
            StateError::Codec { .. } => Self::State(error),
        }
    }
}

impl From<RegistryError> for SessionError {
    fn from(error: RegistryError) -> Self {
        if error.is_transient() { Self::Transient(error.to_string()) } else { Self::Registry(error) }
    }
}

impl From<AppendError> for SessionError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Refused(error) => error.into(),
            AppendError::Unknown(_) => Self::Transient(error.to_string()),
        }
    }
}

impl SessionError {
    /// The error for a person, or the text of one that passes by itself.
    pub(crate) fn settle(self, resource: &str, system: &str) -> Result<String, NormaliseError> {
        let resource = resource.to_owned();
        match self {
            Self::Transient(text) => Ok(text),
            Self::Log(error @ LogError::Gap { .. }) => Err(NormaliseError::Gap { resource, system: system.to_owned(), error }),
            Self::Log(error) => Err(NormaliseError::Log { resource, error }),
            Self::State(error) => Err(NormaliseError::State { resource, error }),
            Self::Registry(error) => Err(NormaliseError::Registry { resource, error }),
        }
    }
}
