//! What a running exchange says of itself: the document of `/v1/status`, and its table for people.

use std::fmt::Write as _;
use std::time::Duration;

use guitong_normalise::{RebuildReport, RebuildStatus};
use serde::{Deserialize, Serialize};

use crate::text;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    pub exchange: String,
    /// SHA-256 of the directory in force.
    pub revision: String,
    /// Address of metrics, health and this document.
    pub listen: String,
    /// Problems of a changed directory that was refused; the one in force is older.
    pub refused_change: Option<String>,
    pub log: LogStatus,
    pub uptime_seconds: u64,
    pub systems: Vec<SystemStatus>,
    pub resources: Vec<ResourceStatus>,
    pub subscriptions: Vec<SubscriptionStatus>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogStatus {
    pub kind: String,
    pub id: String,
    pub bytes: Option<u64>,
}

/// What every running part has in common.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub title: String,
    /// `starting`, `snapshot`, `streaming`, `live`, `retrying`, `stopped`, `elsewhere`.
    pub state: String,
    /// What went wrong and what to do, where something did.
    pub problem: Option<String>,
    /// Seconds between the newest change at the source and what this part has finished with.
    pub behind_seconds: Option<f64>,
}

impl Part {
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.problem.is_none() && self.state != "stopped" && self.state != "retrying"
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SystemStatus {
    #[serde(flatten)]
    pub part: Part,
    /// Changes published since the start of the node.
    pub events: u64,
    /// Share of the first load that is done, 0 to 1, while it runs.
    pub snapshot_done: Option<f64>,
    pub retained_bytes: Option<u64>,
    /// Bytes after which the department's server removes changes that were not read, where that is near.
    #[serde(default)]
    pub left_bytes: Option<u64>,
    pub behind_bytes: Option<u64>,
    /// How far the reading of tables is, where one is read or reading is paused.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
}

/// Tables that are being read for the first time or again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Snapshot {
    pub rows_done: u64,
    /// As the department's server estimates them.
    pub rows_left: u64,
    /// Of the last half minute.
    pub rows_per_second: Option<f64>,
    pub seconds_left: Option<f64>,
    /// Tables that are not read to their end.
    pub tables: Vec<String>,
    /// Why nothing is read now.
    pub hold: Option<String>,
    /// What the department allows.
    pub limits: Vec<String>,
}

impl Snapshot {
    /// What a person wants to know of it, in one line.
    fn line(&self) -> String {
        let mut parts = vec![format!("{} rows read, about {} left", text::count(self.rows_done), text::count(self.rows_left))];
        match &self.hold {
            Some(hold) => parts.push(hold.clone()),
            None => {
                parts.extend(self.rows_per_second.map(|rate| format!("{} rows/s", text::count(rate as u64))));
                let left = self.seconds_left.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
                parts.extend(left.map(|left| format!("{} to go", text::span(left))));
            }
        }
        if !self.limits.is_empty() {
            parts.push(format!("limits: {}", self.limits.join(", ")));
        }
        let more = self.tables.len().saturating_sub(SHOWN);
        let mut tables: Vec<String> = self.tables.iter().take(SHOWN).cloned().collect();
        if more > 0 {
            tables.push(format!("{more} more"));
        }
        if !tables.is_empty() {
            parts.push(format!("tables: {}", tables.join(", ")));
        }
        parts.join("; ")
    }
}

/// Tables named in a line of the status.
const SHOWN: usize = 5;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResourceStatus {
    #[serde(flatten)]
    pub part: Part,
    pub received: u64,
    pub published: u64,
    pub held_back: u64,
    pub quarantined: u64,
    pub oldest_quarantined_seconds: Option<u64>,
    /// Columns that the mapping reads and the table no longer has so: table, column, change, version, time, fields,
    /// subscriptions.
    #[serde(default)]
    pub column_changes: serde_json::Value,
    /// How far the resource is made again, where it is.
    #[serde(default)]
    pub rebuild: Option<RebuildStatus>,
    /// What its last rebuild came to.
    #[serde(default)]
    pub rebuilt: Option<RebuildReport>,
    /// Records of several rows that stayed as they were when those were read last, since the log held none of them any more.
    #[serde(default)]
    pub kept: u64,
    /// Rules of the standard that weigh otherwise here, each with the reason.
    #[serde(default)]
    pub rules: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    #[serde(flatten)]
    pub part: Part,
    pub sink: String,
    pub delivered: u64,
    pub parked: u64,
    #[serde(default)]
    pub oldest_parked_seconds: Option<u64>,
    pub behind_records: Option<u64>,
}

impl Status {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let systems = self.systems.iter().map(|system| &system.part);
        let resources = self.resources.iter().map(|resource| &resource.part);
        systems.chain(resources).chain(self.subscriptions.iter().map(|subscription| &subscription.part))
    }

    /// Parts that need somebody's attention.
    #[must_use]
    pub fn unwell(&self) -> usize {
        self.parts().filter(|part| !part.is_well()).count()
    }

    /// Whether every part has begun its work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts().all(|part| part.state != "starting")
    }

    /// The table that `guitong status` prints.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        let size = self.log.bytes.map(|bytes| format!(" {}", text::bytes(bytes))).unwrap_or_default();
        let health = match self.unwell() {
            0 => "all well".to_owned(),
            count => format!("all well but {count}"),
        };
        let up = text::span(Duration::from_secs(self.uptime_seconds));
        let _ = writeln!(out, "exchange {}   {} log{size}   up {up}   {health}", self.exchange, self.log.kind);
        if let Some(problems) = &self.refused_change {
            let _ = writeln!(out, "the changed directory was refused, the one before stays in force:\n{problems}");
        }
        self.render_systems(&mut out);
        self.render_resources(&mut out);
        self.render_subscriptions(&mut out);
        out
    }

    fn render_systems(&self, out: &mut String) {
        let mut table = Table::new(["systems", "", "state", "behind", "changes", "retained at source"]);
        for system in &self.systems {
            let state = match system.snapshot_done {
                Some(share) if system.part.state == "snapshot" => format!("snapshot {:.0} %", share * 100.0),
                _ => system.part.state.clone(),
            };
            let retained = system.retained_bytes.map(text::bytes).unwrap_or_default();
            table.row(&system.part, [state, behind(&system.part), text::count(system.events), retained]);
            if let Some(left) = system.left_bytes {
                table.note(&match left {
                    0 => "the server gives up the slot now, or has: changes that were not read are lost then".to_owned(),
                    left => {
                        format!(
                            "the server gives up the slot after {} more of its log, and changes are lost then",
                            text::bytes(left)
                        )
                    }
                });
            }
            if let Some(snapshot) = &system.snapshot {
                table.note(&snapshot.line());
            }
        }
        table.write(out);
    }

    fn render_resources(&self, out: &mut String) {
        let mut table = Table::new(["resources", "", "state", "received", "published", "held back", "quarantined (oldest)"]);
        for resource in &self.resources {
            let quarantined = waiting(resource.quarantined, resource.oldest_quarantined_seconds, || {
                format!("guitong quarantine list {}", resource.part.name)
            });
            let counts = [resource.received, resource.published, resource.held_back].map(text::count);
            let [received, published, held_back] = counts;
            table.row(&resource.part, [resource.part.state.clone(), received, published, held_back, quarantined]);
            if let Some(rebuild) = resource.rebuild.as_ref().filter(|rebuild| rebuild.halted.is_none()) {
                table.note(&format!("rebuild: {}", rebuild));
            }
            if resource.kept > 0 {
                table.note(&format!(
                    "{} records are as rows made them that the log let go of before they were read again; \
                     `guitong system snapshot` brings what is there",
                    text::count(resource.kept)
                ));
            }
            if !resource.rules.is_empty() {
                table.note(&format!("switched rules: {}", resource.rules.join("; ")));
            }
        }
        table.write(out);
    }

    fn render_subscriptions(&self, out: &mut String) {
        let mut table = Table::new(["subscriptions", "", "sink", "state", "behind", "delivered", "parked (oldest)"]);
        for subscription in &self.subscriptions {
            let part = &subscription.part;
            let delivered = text::count(subscription.delivered);
            let parked = waiting(subscription.parked, subscription.oldest_parked_seconds, || {
                format!("guitong subscription parked list {}", part.name)
            });
            table.row(part, [subscription.sink.clone(), part.state.clone(), behind(part), delivered, parked]);
        }
        table.write(out);
    }
}

/// How many records wait for somebody, since when, and the command that lists them.
fn waiting(count: u64, oldest_seconds: Option<u64>, command: impl FnOnce() -> String) -> String {
    if count == 0 {
        return "0".to_owned();
    }
    let age = oldest_seconds.map(|age| format!(" ({})", text::span(Duration::from_secs(age))));
    format!("{}{}  -> {}", text::count(count), age.unwrap_or_default(), command())
}

fn behind(part: &Part) -> String {
    part.behind_seconds.map(|seconds| text::span(Duration::from_secs_f64(seconds.max(0.0)))).unwrap_or_default()
}

/// Left-aligned columns; a part's problem stands on a line of its own below it.
struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<(Vec<String>, Option<String>)>,
}

impl<const N: usize> Table<N> {
    fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    fn row<const M: usize>(&mut self, part: &Part, cells: [String; M]) {
        let mut row = vec![format!("  {}", part.name), part.title.clone()];
        row.extend(cells);
        self.rows.push((row, part.problem.clone()));
    }

    /// A line below the last row, before its problem.
    fn note(&mut self, text: &str) {
        if let Some((_, below)) = self.rows.last_mut() {
            *below = Some(below.as_ref().map_or_else(|| text.to_owned(), |problem| format!("{text}\n{problem}")));
        }
    }

    fn write(&self, out: &mut String) {
        if self.rows.is_empty() {
            return;
        }
        let head: Vec<String> = self.head.iter().map(|&name| name.to_owned()).collect();
        let mut widths: Vec<usize> = head.iter().map(|cell| text::width(cell)).collect();
        for (row, _) in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(text::width(cell));
            }
        }
        let line = |row: &[String]| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| text::pad(cell, width)).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let _ = writeln!(out, "{}", line(&head));
        for (row, problem) in &self.rows {
            let _ = writeln!(out, "{}", line(row));
            if let Some(problem) = problem {
                let _ = writeln!(out, "      {}", problem.replace('\n', "\n      "));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, state: &str, problem: Option<&str>) -> Part {
        Part {
            name: name.into(),
            title: "企业登记".into(),
            state: state.into(),
            problem: problem.map(Into::into),
            behind_seconds: Some(0.3),
        }
    }

    #[test]
    fn reading_of_tables_is_told_below_its_system() {
        let snapshot = Snapshot {
            rows_done: 12_000,
            rows_left: 30_000,
            rows_per_second: Some(1_000.0),
            seconds_left: Some(30.0),
            tables: vec!["public.qy".into()],
            hold: None,
            limits: vec!["20000 rows/s".into()],
        };
        let held = Snapshot { hold: Some("paused by an operator".into()), ..snapshot.clone() };
        let status = |snapshot| Status {
            systems: vec![SystemStatus {
                part: part("licensing", "snapshot", None),
                snapshot: Some(snapshot),
                ..SystemStatus::default()
            }],
            ..Status::default()
        };
        let text = status(snapshot).render();
        let line =
            "\n      12,000 rows read, about 30,000 left; 1,000 rows/s; 30 s to go; limits: 20000 rows/s; tables: public.qy\n";
        assert!(text.contains(line), "{text}");
        assert!(status(held).render().contains("left; paused by an operator; limits"));
    }

    #[test]
    fn the_table_aligns_and_counts_what_is_unwell() {
        let status = Status {
            exchange: "demo".into(),
            log: LogStatus { kind: "embedded".into(), id: "x".into(), bytes: Some(1_200_000_000) },
            systems: vec![
                SystemStatus { part: part("licensing", "streaming", None), events: 18_204, ..SystemStatus::default() },
                SystemStatus { part: part("p", "stopped", Some("the slot is gone\n  repair: …")), ..SystemStatus::default() },
            ],
            ..Status::default()
        };
        let text = status.render();
        assert!(text.contains("all well but 1"), "{text}");
        assert!(text.contains("embedded log 1.2 GB"), "{text}");
        assert!(text.contains("  licensing  企业登记  streaming  0.3 s   18,204"), "{text}");
        assert!(text.contains("\n      the slot is gone\n        repair: …"), "{text}");
        assert!(!status.parts().all(Part::is_well));
        assert!(status.is_ready());
    }
}
