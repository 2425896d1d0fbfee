//! `guitong standard`: the regional standard as an exchange directory has it, and values under its checks.

mod check;
mod list;
mod show;
mod test;

use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use guitong_schemas::contract::load_standard;
use guitong_schemas::standard::Standard;

use crate::exit::{self, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum StandardCommand {
    /// Entities, code tables and checks with their titles, editions and sizes
    List(list::List),
    /// An entity's fields, a table's codes with their history, or what a rule's code means
    Show(show::Show),
    /// Check values: what each becomes and which rules it meets; exit code 1 if one is not valid
    Check(check::Check),
    /// Run a file of examples; exit code 1 if one does not hold
    Test(test::Test),
}

/// Where the standard comes from, and how the answer is written.
#[derive(Debug, Args)]
struct Of {
    /// The exchange directory whose files in `standard/` count; without one, the built-in standard
    #[arg(long = "dir", short = 'C', value_name = "DIR", env = "GUITONG_DIR")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl StandardCommand {
    pub(super) fn execute(self, color: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.execute(color),
            Self::Show(show) => show.execute(color),
            Self::Check(check) => check.execute(color),
            Self::Test(test) => test.execute(color),
        }
    }
}

impl Of {
    /// The standard of the directory that is named, else of the one that this is, else the built-in one.
    fn standard(&self, color: bool) -> Result<Arc<Standard>, Failure> {
        let here = Path::new(".");
        let dir = self.dir.as_deref().or_else(|| here.join("exchange.toml").exists().then_some(here));
        let Some(dir) = dir else { return Ok(Arc::new(Standard::builtin().clone())) };
        if !dir.is_dir() {
            return Err(Failure::usage(format!("{} is no directory", dir.display())));
        }
        load_standard(dir).map_err(|problems| {
            crate::output::write_note(problems.render(color));
            Failure { code: exit::USAGE, message: String::new(), help: None }
        })
    }
}

/// What a command prints, gathered line by line.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn line(&mut self, line: impl Display) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn print(self) {
        crate::output::write(self.0);
    }
}
