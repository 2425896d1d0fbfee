//! `guitong backup` and `guitong restore`: copies of the embedded log.

use std::path::PathBuf;

use clap::Args;

use super::InDirectory;
use crate::control::Client;
use crate::exit::Failure;
use crate::open::{self, Opened};

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// File to write; it must not exist
    file: PathBuf,
    #[command(flatten)]
    at: InDirectory,
}

impl Backup {
    pub(super) async fn execute(self) -> Result<(), Failure> {
        let target =
            std::path::absolute(&self.file).map_err(|error| Failure::usage(format!("{}: {error}", self.file.display())))?;
        if target.exists() {
            return Err(Failure::usage(format!("{} exists", target.display())).help("choose another name, or move it away"));
        }
        match Client::connect(&self.at.dir).await? {
            Some(client) => client.backup(&target).await?,
            None => {
                let directory = open::load(&self.at.dir)?;
                let metrics = guitong_log::metrics::Metrics::new().map_err(|error| Failure::unreachable(error.to_string()))?;
                Opened::open(&directory, &[], metrics).await?.backup(&target).await?;
            }
        }
        let bytes = std::fs::metadata(&target).map_or(0, |data| data.len());
        say!("wrote {} ({})", target.display(), crate::text::bytes(bytes));
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// A file that `guitong backup` wrote
    file: PathBuf,
    /// Replace the log that is there; it is kept beside the new one
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Restore {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let directory = open::load_or_report(&self.at.dir, color)?;
        let restored = open::restore(&directory, &self.file, self.yes).await?;
        say!("{} is in place as a new log", restored.display());
        say!("Offsets that sinks stored belong to the old one: subscriptions compare themselves with the log at the next start.");
        Ok(())
    }
}
