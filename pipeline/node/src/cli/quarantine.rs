//! `guitong quarantine`: rejected records, why, and letting them in again.

use clap::{Args, Subcommand};

use super::InDirectory;
use crate::control::Client;
use crate::exit::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Quarantine {
    /// Rejected records of a resource, or of all of them
    List(List),
    /// One rejected record with its reasons in Chinese and English
    Show(Show),
    /// Run rejected records through the mapping in force; an older one never overwrites a newer one
    Replay(Replay),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Name of a resource; all of them unless named
    resource: Option<String>,
    /// Entries at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    resource: String,
    /// As `guitong quarantine list` prints it; its beginning is enough
    id: String,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    resource: String,
    /// Entries to replay; all of the resource's unless named
    ids: Vec<String>,
    #[command(flatten)]
    at: InDirectory,
}

impl Quarantine {
    pub(super) async fn execute(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.execute().await,
            Self::Show(show) => show.execute().await,
            Self::Replay(replay) => replay.execute().await,
        }
    }
}

impl List {
    async fn execute(self) -> Result<(), Failure> {
        let client = Client::require(&self.at.dir).await?;
        let entries = client.quarantine(self.resource.as_deref(), self.limit).await?;
        if self.json {
            println!("{}", serde_json::Value::from(entries));
            return Ok(());
        }
        for entry in &entries {
            println!("{}", line(entry));
        }
        println!("{} shown; guitong quarantine show RESOURCE ID says why", entries.len());
        Ok(())
    }
}

fn field<'a>(entry: &'a serde_json::Value, name: &str) -> &'a str {
    entry.get(name).and_then(serde_json::Value::as_str).unwrap_or("")
}

fn line(entry: &serde_json::Value) -> String {
    let reasons = entry.get("reasons").and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rules: Vec<&str> = reasons.iter().map(|reason| field(reason, "rule")).collect();
    format!(
        "{}  {}  {}  {}  {}",
        crate::text::pad(field(entry, "resource"), 20),
        field(entry, "id"),
        field(entry, "time"),
        field(entry, "key"),
        rules.join(", ")
    )
}

impl Show {
    async fn execute(self) -> Result<(), Failure> {
        let client = Client::require(&self.at.dir).await?;
        let entry = client.quarantined(&self.resource, &self.id).await?;
        if self.json {
            println!("{entry}");
            return Ok(());
        }
        println!(
            "{} {}  key {}  version {}  {}",
            field(&entry, "resource"),
            field(&entry, "table"),
            field(&entry, "key"),
            field(&entry, "version"),
            field(&entry, "time")
        );
        for reason in entry.get("reasons").and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default() {
            println!(
                "{}: {}      {}: {}",
                field(reason, "field"),
                field(reason, "zh"),
                field(reason, "rule"),
                field(reason, "en")
            );
            if !field(reason, "value").is_empty() {
                println!("    value {}", field(reason, "value"));
            }
        }
        if entry.get("held_back").and_then(serde_json::Value::as_bool) == Some(true) {
            println!("The last good version of this record stays with its subscribers (held back).");
        }
        println!(
            "After a correction at the source it flows by itself; after a change of the mapping: guitong quarantine replay {}",
            self.resource
        );
        Ok(())
    }
}

impl Replay {
    async fn execute(self) -> Result<(), Failure> {
        let client = Client::require(&self.at.dir).await?;
        let outcome = client.replay(&self.resource, &self.ids).await?;
        println!("{outcome}");
        Ok(())
    }
}
