//! `guitong system`: what a department's database needs, and how to take it away again.

use clap::{Args, Subcommand};
use guitong_schemas::contract::Secret;

use super::InDirectory;
use crate::exit::Failure;
use crate::open;
use crate::prepare::{self, Direction};

#[derive(Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Print the exact SQL that lets the exchange read the system's tables, or run it
    Prepare(Change),
    /// Print the exact SQL that removes every trace of the exchange, or run it
    Unprepare(Change),
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
        };
        let directory = open::load_or_report(&change.at.dir, color)?;
        let statements = prepare::statements(&directory, &change.name, direction).await?;
        for statement in &statements {
            println!("{statement}{}", if statement.starts_with("--") || statement.ends_with(';') { "" } else { ";" });
        }
        if change.apply {
            let administrator = change.administrator.map(Secret::new);
            prepare::apply(&directory, &change.name, administrator.as_ref(), &statements).await?;
            eprintln!("{} statements ran.", statements.iter().filter(|statement| !statement.starts_with("--")).count());
        } else if statements.is_empty() {
            eprintln!("Nothing is to be done.");
        }
        Ok(())
    }
}
