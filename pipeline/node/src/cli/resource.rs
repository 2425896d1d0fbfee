//! `guitong resource`: drafting a mapping, and what one makes of rows, before anything is published.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::InDirectory;
use super::draft::DraftCommand;
use super::rebuild::Rebuild;
use crate::exit::{self, Failure};
use crate::node::{Desk, Question};
use crate::open;
use crate::trial::{MAX_INPUT, Summary, Trial, View};

#[derive(Debug, Subcommand)]
pub(super) enum ResourceCommand {
    /// Draft the mapping of a table to an entity of the standard: a whole resource file, each line with how sure it is and why
    Draft(DraftCommand),
    /// Show what the mapping makes of rows: the source row beside the record, warnings and rejections. Nothing is published
    Try(Try),
    /// Let a resource, or a rebuild of it, go on that paused because too many rows were rejected
    Resume(Resume),
    /// Make every record of a resource again from the log, by the mapping in force; subscribers keep what they have until it is replaced
    Rebuild(Rebuild),
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Name of the resource: its file in resources/
    name: String,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Try {
    /// Name of the resource: its file in resources/
    name: String,
    /// Rows to read from the department's table, with what belongs to them in the tables beside it; the database is only read
    #[arg(long, default_value_t = 20, conflicts_with = "input", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Take the rows of a file instead, one JSON object a line: column -> value, or of a table beside the resource's own
    /// {"table": NAME, "row": …}; `-` is standard input. No database is needed
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// One JSON object for each row: key, verdict, reasons, record. The records are whole, whatever their grades
    #[arg(long)]
    json: bool,
    /// Write the rows with what came of them to resources/NAME.examples.jsonl, which `guitong check` runs from then on
    #[arg(long, requires = "input")]
    save: bool,
    /// Replace the examples that are there
    #[arg(long, requires = "save")]
    yes: bool,
    /// Show values of the grades G2 and G3 as they are
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl ResourceCommand {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        match self {
            Self::Draft(command) => command.execute(color).await,
            Self::Try(command) => command.execute(color).await,
            Self::Resume(command) => command.execute(color).await,
            Self::Rebuild(command) => command.execute(color).await,
        }
    }
}

impl Resume {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::open(&self.at.dir, Some(&self.name), color).await?;
        let was_paused: bool = desk.ask_once(Question::Resume { resource: self.name.clone() }).await?;
        if !was_paused {
            return Err(Failure::no(format!("neither {0} nor a rebuild of it is paused for rejected rows", self.name)));
        }
        say!("{} goes on; it pauses again where as many rows are rejected", self.name);
        Ok(())
    }
}

impl Try {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let directory = match &self.input {
            // Secrets are needed to reach a database alone.
            Some(_) => open::look_or_report(&self.at.dir, color)?,
            None => open::load_or_report(&self.at.dir, color)?,
        };
        let trial = Trial::new(&directory, &self.name)?;
        if self.save {
            crate::trial::free(&directory.root, &self.name, self.yes)?;
        }
        let outcomes = match &self.input {
            Some(path) => {
                let lines = crate::trial::lines(&read(path)?);
                let outcomes = trial.lines(&lines).await?;
                if self.save {
                    note!("{} was written.", crate::trial::save(&trial, &lines, &outcomes)?);
                }
                outcomes
            }
            None => trial.table(self.limit as usize).await?,
        };
        let view =
            View { entity: &trial.entity, columns: trial.columns(), values: self.values, color, terminal: terminal_width() };
        let mut summary = Summary::default();
        for outcome in outcomes.iter().flatten() {
            summary.add(outcome);
            say!("{}", if self.json { outcome.to_json().to_string() } else { view.outcome(outcome) });
        }
        if !self.json {
            crate::output::write(summary.text());
        }
        if summary.has_rejected() { Err(Failure { code: exit::NO, message: String::new(), help: None }) } else { Ok(()) }
    }
}

/// The bytes of a file, or of standard input.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let most = MAX_INPUT as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().take(most).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(failed)?;
    }
    if bytes.len() > MAX_INPUT {
        let message = format!("{} has more than {} MiB", path.display(), MAX_INPUT >> 20);
        return Err(
            Failure::usage(message).help("try a part of it, such as `head -n 1000 FILE | guitong resource try NAME --input -`")
        );
    }
    Ok(bytes)
}

/// Columns of the terminal; a usual width where there is none.
fn terminal_width() -> usize {
    const USUAL: usize = 120;
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || {
        let out = std::io::stdout();
        let size = if out.is_terminal() { rustix::termios::tcgetwinsize(&out).ok() } else { None };
        size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    told.or_else(asked).unwrap_or(USUAL)
}
