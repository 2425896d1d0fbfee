//! `guitong subscription replay`: what came since a position or a moment, once more.

use std::str::FromStr;

use clap::Args;
use guitong_deliver::{Place, Redelivered, Since, Word};
use serde_json::json;

use super::ask;
use crate::cli::InDirectory;
use crate::cli::quarantine::user;
use crate::exit::Failure;
use crate::node::About;
use crate::text;

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    /// Name of the subscription: its file in subscriptions/
    name: String,
    /// A position such as 0-1234, several divided by commas; or a time: 2026-11-23, "2026-11-23 09:14", RFC 3339, "2 h" ago
    #[arg(long, value_name = "POSITION|TIME", value_parser = since)]
    from: Since,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

fn since(text: &str) -> Result<Since, String> {
    let places: Result<Vec<Place>, String> = text.split(',').map(|place| Place::from_str(place.trim())).collect();
    places
        .map(Since::Places)
        .or_else(|_| text::moment(text).map(Since::Time).map_err(|why| format!("{why}; nor is it a position such as 0-1234")))
}

impl Replay {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let word = Word { by: user(), reason: String::new() };
        let about = About::Redeliver { subscription: self.name.clone(), since: self.from, word };
        let ranges: Vec<Redelivered> = ask(&self.at, Some(&self.name), about, color).await?;
        if self.json {
            say!("{}", json!({ "subscription": self.name, "delivered_again": ranges }));
            return Ok(());
        }
        let records = ranges.iter().map(|range| range.to - range.from).sum();
        say!("{}: {} records at most are delivered again, in order:", self.name, text::count(records));
        for Redelivered { partition, from, to } in ranges {
            say!("  from {partition}-{from} up to {partition}-{to}");
        }
        say!("guitong status shows how far that is");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_times_are_told_apart() {
        let place = |partition, offset| Place { partition, offset };
        assert_eq!(since("0-12, 1-7"), Ok(Since::Places(vec![place(0, 12), place(1, 7)])));
        assert_eq!(since("2026-11-23T00:00:01Z"), Ok(Since::Time(1_795_392_001_000_000)));
        assert!(since("yesterday").is_err() && since("0-x").is_err());
    }
}
