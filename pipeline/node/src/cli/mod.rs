//! The command line: what can be asked, and which file answers it.

mod audit;
mod backup;
mod check;
mod demo;
mod draft;
mod init;
mod inspect;
mod progress;
mod quarantine;
mod rebuild;
mod report;
mod resource;
mod run;
mod slots;
mod standard;
mod status;
mod subscription;
mod system;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::exit::{self, Failure};
use crate::output;

/// Guitong (桂通): department databases to subscribing departments, every change once, to those who may have it.
#[derive(Debug, Parser)]
#[command(name = "guitong", version, propagate_version = true, max_term_width = 110, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 a server is not reachable, 4 stopped by a gap that a person \
                        must decide about.\nStart with `guitong demo`, or `guitong init exchange` and `guitong check exchange`."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// When to use colour; `NO_COLOR` is obeyed
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true)]
    color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    fn enabled(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal(),
        }
    }
}

/// The exchange directory a command is about.
#[derive(Debug, Clone, Args)]
struct InDirectory {
    /// The exchange directory
    #[arg(long = "dir", short = 'C', value_name = "DIR", default_value = ".", env = "GUITONG_DIR")]
    dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented, valid exchange directory to begin with
    Init(init::Init),
    /// Check an exchange directory and report every problem at once; nothing is started
    Check(check::Check),
    /// Run the exchange until SIGTERM or Ctrl-C
    Run(run::Run),
    /// Show systems, resources and subscriptions of a running exchange
    Status(status::StatusCommand),
    /// Look at rejected records, let them in again, or give them up
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// Draft a resource from a department's table, see what its mapping does before anything is published, let one that paused go on, make one again
    #[command(subcommand)]
    Resource(resource::ResourceCommand),
    /// Pause a subscription, let it go on, deliver again, compare its sink with what it grants, issue its token, and look after the records that its sink refused
    #[command(subcommand)]
    Subscription(subscription::SubscriptionCommand),
    /// Figures of the exchange for those who answer for its data
    #[command(subcommand)]
    Report(report::Report),
    /// Prepare a department's database, or remove every trace of it
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Look at the regional standard: entities, code tables, checks, rules; check values with it
    #[command(subcommand)]
    Standard(standard::StandardCommand),
    /// Copy the embedded log, also while the exchange runs
    Backup(backup::Backup),
    /// Put a copy of the embedded log in place; it becomes a new log
    Restore(backup::Restore),
    /// Build five departments, let them exchange tens of thousands of rows, and compare the outcome with plain SQL
    Demo(demo::Demo),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

/// Runs the command and says how it ended.
pub async fn execute(cli: Cli) -> u8 {
    let color = cli.color.enabled();
    let outcome = match cli.command {
        Command::Init(command) => command.execute(),
        Command::Check(command) => command.execute(color).await,
        Command::Run(command) => command.execute(color).await,
        Command::Status(command) => command.execute().await,
        Command::Quarantine(command) => command.execute(color).await,
        Command::Report(command) => command.execute(color).await,
        Command::System(command) => command.execute(color).await,
        Command::Resource(command) => command.execute(color).await,
        Command::Subscription(command) => command.execute(color).await,
        Command::Standard(command) => command.execute(color),
        Command::Backup(command) => command.execute().await,
        Command::Restore(command) => command.execute(color).await,
        Command::Demo(command) => command.execute().await,
        Command::Version => {
            say!("guitong {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "guitong", &mut script);
            output::write(String::from_utf8_lossy(&script));
            Ok(())
        }
    };
    match outcome.and_then(|()| output::finish()) {
        Ok(()) => exit::DONE,
        Err(failure) => report(&failure, color),
    }
}

/// Prints a page of a list: a line for each entry, what says more of one, and the command that lists those behind it, where there are any.
fn list(lines: impl ExactSizeIterator<Item = String>, more: &str, next: Option<String>) {
    let count = lines.len();
    lines.for_each(|line| say!("{line}"));
    say!("{count} shown; {more}");
    if let Some(next) = next {
        say!("there are more: {next}");
    }
}

fn report(failure: &Failure, color: bool) -> u8 {
    if !failure.message.is_empty() {
        let (red, reset) = if color && std::io::stderr().is_terminal() { ("\x1b[31;1m", "\x1b[0m") } else { ("", "") };
        note!("{red}error{reset}: {failure}");
    }
    failure.code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
