//! `guitong demo`: shows the demo's progress and prints its outcome.

use std::path::PathBuf;

use clap::Args;

use super::progress::Shown;
use crate::demo::{self, CHANGES, Outcome};
use crate::exit::{self, Failure};
use crate::{telemetry, text};

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Keep the exchange here; a second run continues where the first ended. Without it everything is removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Demo {
    pub(super) async fn execute(self) -> Result<(), Failure> {
        telemetry::start(telemetry::Format::Text, telemetry::QUIET);
        let temporary = tempfile::Builder::new().prefix("guitong-demo-").tempdir();
        let temporary = temporary.map_err(|error| Failure::unreachable(format!("no temporary directory: {error}")))?;
        let root = self.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
        let root = std::path::absolute(&root).map_err(|error| Failure::usage(format!("{}: {error}", root.display())))?;
        let mut progress = Shown::default();
        let outcome = demo::run(&root, CHANGES, &mut progress).await.map_err(|error| match error {
            demo::DemoError::Node(failure) => failure,
            other => Failure::unreachable(other.to_string()),
        })?;
        crate::output::write(render(&outcome));
        match &self.dir {
            Some(dir) => {
                let at = dir.display();
                say!("  look around:  guitong run {at}   guitong status {at}   sqlite3 {at}/sinks/credit-office.db");
            }
            None => say!("  keep it next time:  guitong demo --dir guitong-demo"),
        }
        if outcome.is_equal() {
            Ok(())
        } else {
            Err(Failure { code: exit::NO, message: "subscribers' tables differ from what they are granted".into(), help: None })
        }
    }
}

fn render(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    if outcome.filled > 0 {
        let rate = outcome.filled as f64 / outcome.first_load.as_secs_f64();
        let (rows, time) = (text::count(outcome.filled), text::span(outcome.first_load));
        lines.push(format!("  first load: {rows} rows to every subscriber in {time}, {} rows/s", text::count(rate as u64)));
    }
    let typed = outcome.typed;
    lines.push(format!(
        "  counters typed {} changes in {}: {} new, {} corrections, {} withdrawn, {} mistakes",
        text::count(u64::from(typed.total())),
        text::span(outcome.typing),
        typed.new,
        typed.corrected,
        typed.withdrawn,
        typed.wrong
    ));
    let milliseconds =
        |share| outcome.latency(share).map_or_else(|| "-".to_owned(), |time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
    lines.push(format!(
        "  commit to subscriber   p50 {}   p99 {}   ({} records watched)",
        milliseconds(0.5),
        milliseconds(0.99),
        outcome.latencies.len()
    ));
    let quarantined: u64 = outcome.resources.iter().map(|resource| resource.quarantined).sum();
    lines.push(format!("  quarantined {quarantined}, by reason (a record may have several):"));
    for (rule, zh, en, count) in &outcome.reasons {
        lines.push(format!("    {count:>4}  {zh}  ({en}; {rule})"));
    }
    lines.push(String::new());
    lines.push(format!("  {} {}      records   fields not typed again", text::pad("from", 26), text::pad("to", 26)));
    let (mut records, mut fields) = (0, 0);
    for pair in &outcome.saved {
        lines.push(format!(
            "  {} {} {:>12} {:>12}",
            text::pad(&pair.from, 26),
            text::pad(&pair.to, 26),
            text::count(pair.records),
            text::count(pair.fields)
        ));
        records += pair.records;
        fields += pair.fields;
    }
    lines.push(format!("  {} {} {:>12} {:>12}", text::pad("", 26), text::pad("", 26), text::count(records), text::count(fields)));
    lines.push(String::new());
    lines.extend(verdict(outcome));
    lines.join("\n") + "\n"
}

fn verdict(outcome: &Outcome) -> Vec<String> {
    let total = outcome.comparisons.len();
    let equal = outcome.comparisons.iter().filter(|comparison| comparison.is_equal()).count();
    let rows: u64 = outcome.comparisons.iter().map(|comparison| comparison.expected).sum();
    let mut lines = vec![format!(
        "  every subscriber's table against what it is granted: {equal} of {total} equal, {} rows compared",
        text::count(rows)
    )];
    for comparison in outcome.comparisons.iter().filter(|comparison| !comparison.is_equal()) {
        lines.push(format!(
            "    {}: granted {}, held {}, missing {}, not granted {}",
            comparison.subscription, comparison.expected, comparison.held, comparison.missing, comparison.foreign
        ));
        lines.extend(comparison.sample.iter().flat_map(|sample| sample.lines().map(|line| format!("      {line}"))));
    }
    lines
}
