//! `guitong system slots`: the replication slots of the departments' servers, and which of them nobody needs any more.

use std::collections::BTreeMap;

use clap::Args;
use guitong_connectors::postgres::{self, Slot};
use guitong_connectors::source::SourceError;
use guitong_schemas::contract::{Directory, SourceConfig, System};
use serde_json::{Value, json};

use super::InDirectory;
use crate::exit::Failure;
use crate::{open, prepare, text};

#[derive(Debug, Args)]
pub(super) struct Slots {
    /// Drop this slot, which must be an orphan: its name begins with this exchange's, no system here names it, and nobody reads from it
    #[arg(long, value_name = "SLOT")]
    drop: Option<String>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

/// A slot, the server where it is, and what it is to this exchange.
struct Found<'a> {
    server: String,
    slot: Slot,
    owner: Owner<'a>,
    /// A system that reads from this server.
    through: &'a System,
}

enum Owner<'a> {
    System(&'a System),
    Orphan,
    Other,
}

impl Slots {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let directory = open::load_or_report(&self.at.dir, color)?;
        let (found, failed) = find(&directory).await;
        if let Some(name) = &self.drop {
            drop_orphans(&found, name).await?;
        } else if self.json {
            say!("{}", Value::from(found.iter().map(Found::json).collect::<Vec<_>>()));
        } else {
            crate::output::write(render(&found));
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Slots of every server, each server asked once; and why one could not be asked.
async fn find(directory: &Directory) -> (Vec<Found<'_>>, Option<Failure>) {
    let mut servers = BTreeMap::new();
    let mut failed = None;
    for system in directory.systems.values() {
        match ask(system, &servers).await {
            Ok(Some((server, slots))) => drop(servers.insert(server, (&**system, slots))),
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(prepare::failure(error))),
        }
    }
    let found = servers.into_iter().flat_map(|(server, (through, slots))| {
        slots.into_iter().map(move |slot| Found { server: server.clone(), owner: owner(directory, &slot), slot, through })
    });
    (found.collect(), failed)
}

/// The slots of the system's server, unless they are known.
async fn ask(
    system: &System,
    known: &BTreeMap<String, (&System, Vec<Slot>)>,
) -> Result<Option<(String, Vec<Slot>)>, SourceError> {
    let SourceConfig::Postgres(_) = &system.source else { return Ok(None) };
    let server = postgres::server(system)?;
    if known.contains_key(&server) { Ok(None) } else { Ok(Some((server, postgres::slots(system).await?))) }
}

fn owner<'a>(directory: &'a Directory, slot: &Slot) -> Owner<'a> {
    match directory.systems.values().find(|system| names(system, &slot.name)) {
        Some(system) => Owner::System(system),
        None if slot.is_idle_of(directory.exchange.name.as_str()) => Owner::Orphan,
        None => Owner::Other,
    }
}

fn names(system: &System, slot: &str) -> bool {
    matches!(&system.source, SourceConfig::Postgres(config) if config.slot == slot)
}

async fn drop_orphans(found: &[Found<'_>], name: &str) -> Result<(), Failure> {
    let of_name: Vec<&Found<'_>> = found.iter().filter(|found| found.slot.name == name).collect();
    if of_name.is_empty() {
        return Err(Failure::no(format!("no server has a slot {name}")).help("guitong system slots shows those there are"));
    }
    for found in of_name {
        match (&found.owner, found.slot.active_pid) {
            (Owner::Orphan, _) => {}
            (Owner::System(system), _) => {
                return Err(Failure::no(format!("{name} is the slot of {}, which would lose changes without it", system.name))
                    .help(format!(
                        "take the system out of the directory first; guitong system unprepare {} shows the rest",
                        system.name
                    )));
            }
            (Owner::Other, Some(pid)) => {
                return Err(Failure::no(format!("{name} on {} is read by server process {pid}", found.server)));
            }
            (Owner::Other, None) => {
                return Err(Failure::no(format!("{name} on {} was not made by this exchange", found.server))
                    .help(format!("where you know that nobody needs it: SELECT pg_drop_replication_slot('{name}')")));
            }
        }
        postgres::drop_slot(found.through, name).await.map_err(prepare::failure)?;
        let freed = found.slot.retained.map_or(String::new(), |bytes| format!("; {} of log are let go", text::bytes(bytes)));
        say!("{name} is dropped on {}{freed}", found.server);
    }
    Ok(())
}

impl Found<'_> {
    /// Whose it is.
    fn owner(&self) -> &str {
        match self.owner {
            Owner::System(system) => system.name.as_str(),
            Owner::Orphan => "orphan",
            Owner::Other => "another's",
        }
    }

    fn state(&self) -> &str {
        match (self.slot.active_pid, self.slot.wal_status.as_deref()) {
            (_, Some("lost")) => "lost",
            (Some(_), _) => "in use",
            (None, _) => "idle",
        }
    }

    fn json(&self) -> Value {
        let system = match self.owner {
            Owner::System(system) => Some(system.name.as_str()),
            _ => None,
        };
        json!({
            "server": self.server, "slot": self.slot.name, "database": self.slot.database, "system": system,
            "orphan": matches!(self.owner, Owner::Orphan), "state": self.state(), "retained_bytes": self.slot.retained,
            "wal_status": self.slot.wal_status, "failover": self.slot.failover,
        })
    }

    fn cells(&self) -> [String; 7] {
        let database = self.slot.database.as_deref().unwrap_or("-");
        let kept = self.slot.retained.map_or("-".to_owned(), text::bytes);
        let failover = match self.slot.failover {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        [&self.server, &self.slot.name, database, self.owner(), self.state(), &kept, failover].map(str::to_owned)
    }
}

fn render(found: &[Found<'_>]) -> String {
    if found.is_empty() {
        return "There are no replication slots.\n".to_owned();
    }
    let title = ["SERVER", "SLOT", "DATABASE", "OF", "STATE", "KEEPS", "FAILOVER"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(title).chain(found.iter().map(Found::cells)).collect();
    let widths: Vec<usize> =
        (0..7).map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| text::width(cell)).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| text::pad(cell, *width)).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    for found in found.iter().filter(|found| matches!(found.owner, Owner::Orphan)) {
        out.push_str(&format!("{} keeps log for nobody: guitong system slots --drop {}\n", found.slot.name, found.slot.name));
    }
    out
}
