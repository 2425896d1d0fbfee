//! How commands end: one error type for the edge, with an exit code and a text that says what to do.

use std::fmt;

pub const DONE: u8 = 0;
/// The answer is no: a check found errors, a comparison found differences.
pub const NO: u8 = 1;
/// Wrong use: arguments or configuration.
pub const USAGE: u8 = 2;
/// A server, database or file is not reachable.
pub const UNREACHABLE: u8 = 3;
/// Stopped by a gap that a person must decide about.
pub const GAP: u8 = 4;

/// Why a command ended without having done what it was asked.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    /// What to do about it, where there is something.
    pub help: Option<String>,
}

impl Failure {
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into(), help: None }
    }

    #[must_use]
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: UNREACHABLE, message: message.into(), help: None }
    }

    #[must_use]
    pub fn no(message: impl Into<String>) -> Self {
        Self { code: NO, message: message.into(), help: None }
    }

    #[must_use]
    pub fn gap(message: impl Into<String>) -> Self {
        Self { code: GAP, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl From<guitong_log::LogError> for Failure {
    fn from(error: guitong_log::LogError) -> Self {
        use guitong_log::LogError;
        let code = match &error {
            LogError::Gap { .. } | LogError::Stale { .. } => GAP,
            LogError::Newer { .. } | LogError::Foreign { .. } | LogError::Partitions { .. } => USAGE,
            _ => UNREACHABLE,
        };
        let help = matches!(error, LogError::Locked { .. })
            .then(|| "stop the other process first, or use the commands that speak to it (`guitong status`)".to_owned());
        Self { code, message: error.to_string(), help }
    }
}
