//! `guitong system`: what a department's database needs, how to take it away again, and the reading of its tables.

use clap::{ArgGroup, Args, Subcommand};
use guitong_schemas::contract::Secret;

use super::InDirectory;
use super::inspect::Inspect;
use super::slots::Slots;
use crate::control::Client;
use crate::exit::Failure;
use crate::node::{Action, SnapshotRequest};
use crate::open;
use crate::prepare::{self, Direction};

#[derive(Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Print the exact SQL that lets the exchange read the system's tables, or run it
    Prepare(Change),
    /// Print the exact SQL that removes every trace of the exchange, or run it
    Unprepare(Change),
    /// Read a table again, or one that was added; pause, resume or cancel the reading of tables. The changes go on meanwhile
    Snapshot(Snapshot),
    /// Go on with a system that stopped because changes are missing: every table is read again, under a new epoch, which takes the place of what was published before
    Repair(Repair),
    /// Look at the system's tables: keys, comments, types, sizes, and what a sample of their rows is like; nothing is written there
    Inspect(Inspect),
    /// Show the replication slots of the systems' servers, and drop one that nobody needs
    Slots(Slots),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("action").required(true).args(["read", "pause", "resume", "cancel"]))]
pub(super) struct Snapshot {
    /// Name of the system: its file in systems/
    name: String,
    /// The table to read, as schema.table
    #[arg(long = "table", value_name = "TABLE")]
    read: Option<String>,
    /// Read only rows that meet this condition, in place of the system's own under [snapshot.where]: your own SQL, which the department's database runs with the rights of the system's
    /// role and no others, in a transaction that only reads
    #[arg(long = "where", value_name = "SQL", requires = "read")]
    filter: Option<String>,
    /// Read nothing until --resume, also after a restart
    #[arg(long)]
    pause: bool,
    /// Go on with reading
    #[arg(long)]
    resume: bool,
    /// Leave unread what is not read, of TABLE or of all (--cancel=schema.table)
    #[arg(long, value_name = "TABLE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    cancel: Option<String>,
    #[command(flatten)]
    at: InDirectory,
}

impl Snapshot {
    async fn execute(self) -> Result<(), Failure> {
        let action = match (self.read, self.cancel) {
            (Some(table), _) => Action::Read { table, filter: self.filter },
            (None, Some(table)) => Action::Cancel { table: Some(table).filter(|table| !table.is_empty()) },
            (None, None) if self.pause => Action::Pause,
            (None, None) => Action::Resume,
        };
        let client = Client::require(&self.at.dir).await?;
        say!("{}", client.snapshot(&SnapshotRequest { system: self.name, action }).await?);
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Repair {
    /// Name of the system: its file in systems/
    name: String,
    #[command(flatten)]
    at: InDirectory,
}

impl Repair {
    async fn execute(self) -> Result<(), Failure> {
        say!("{}", Client::require(&self.at.dir).await?.repair(&self.name).await?);
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// Name of the system: its file in systems/
    name: String,
    /// Run the statements, all or nothing
    #[arg(long)]
    apply: bool,
    /// Connection URL of an administrator, where the system's own user may not do this (PostgreSQL)
    #[arg(long = "as", value_name = "URL", env = "GUITONG_ADMIN_URL", hide_env_values = true, requires = "apply")]
    administrator: Option<String>,
    #[command(flatten)]
    at: InDirectory,
}

impl SystemCommand {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let (change, direction) = match self {
            Self::Prepare(change) => (change, Direction::Prepare),
            Self::Unprepare(change) => (change, Direction::Unprepare),
            Self::Snapshot(snapshot) => return snapshot.execute().await,
            Self::Repair(repair) => return repair.execute().await,
            Self::Inspect(inspect) => return inspect.execute(color).await,
            Self::Slots(slots) => return slots.execute(color).await,
        };
        let directory = open::load_or_report(&change.at.dir, color)?;
        let statements = prepare::statements(&directory, &change.name, direction).await?;
        for statement in &statements {
            say!("{statement}{}", if statement.starts_with("--") || statement.ends_with(';') { "" } else { ";" });
        }
        if change.apply {
            let administrator = change.administrator.map(Secret::new);
            prepare::apply(&directory, &change.name, administrator.as_ref(), &statements).await?;
            note!("{} statements ran.", statements.iter().filter(|statement| !statement.starts_with("--")).count());
        } else if statements.is_empty() {
            note!("Nothing is to be done.");
        }
        Ok(())
    }
}
