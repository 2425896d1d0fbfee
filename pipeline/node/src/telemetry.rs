//! Logs: one event a line, as text or JSON, on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// What is logged where `RUST_LOG` does not say: this program's own information and others' warnings.
pub(crate) const USUAL: &str = "warn,guitong=info";

/// Only what goes wrong, for commands that show their progress themselves.
pub(crate) const QUIET: &str = "error,guitong=warn";

/// Begins logging. `RUST_LOG` chooses levels, `usual` stands where it is not set. A second call does nothing.
pub(crate) fn start(format: Format, usual: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let base = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is already there (a test's) stays.
    let _ = match format {
        Format::Text => base.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).try_init(),
        Format::Json => base.json().flatten_event(true).try_init(),
    };
}
