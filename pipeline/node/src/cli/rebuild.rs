//! `guitong resource rebuild`: a resource made again from the log.

use std::time::Duration;

use clap::Args;
use guitong_normalise::{RebuildPhase, RebuildReport, RebuildStatus};
use serde_json::json;

use super::InDirectory;
use super::progress::Shown;
use crate::demo::Progress;
use crate::exit::Failure;
use crate::node::{Desk, Question, Rebuilding};
use crate::{open, text};

/// How often a command that waits asks how far it is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// Name of the resource: its file in resources/
    name: String,
    /// Wait until everything is replaced, and show how far it is
    #[arg(long)]
    wait: bool,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Rebuild {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::open(&self.at.dir, Some(&self.name), color).await?;
        let done = self.run(&desk).await;
        desk.close().await;
        done
    }

    async fn run(&self, desk: &Desk) -> Result<(), Failure> {
        let asked: Rebuilding = desk.ask(Question::Rebuild { resource: self.name.clone() }).await?;
        let revision = asked.revision.unwrap_or_default();
        if self.wait {
            let report = self.follow(desk, revision).await?;
            return self.tell(&report);
        }
        if self.json {
            say!("{}", json!({ "resource": self.name, "revision": revision }));
        } else if desk.is_node() {
            say!("{} is made again as revision {revision}; guitong status shows how far it is", self.name);
        } else {
            let dir = self.at.dir.display();
            say!("noted: {} is made again as revision {revision} once a node runs: guitong run {dir}", self.name);
        }
        Ok(())
    }

    /// Waits for the end of the rebuild under `revision`.
    async fn follow(&self, desk: &Desk, revision: u32) -> Result<RebuildReport, Failure> {
        let mut shown = (!self.json).then(Shown::default);
        let mut phase = None;
        loop {
            let Rebuilding { now, last, .. } = desk.ask(Question::Rebuilding { resource: self.name.clone() }).await?;
            if let Some(report) = last.filter(|last| last.revision >= revision) {
                if let (Some(shown), Some(_)) = (&mut shown, phase) {
                    shown.end();
                }
                return Ok(report);
            }
            if let Some(why) = now.as_ref().and_then(|now| now.halted.as_ref()) {
                let help = format!(
                    "with a corrected mapping it begins anew by itself; rejected rows and all: guitong resource resume {}",
                    self.name
                );
                return Err(Failure::no(format!("the rebuild of {} halts: {why}", self.name)).help(help));
            }
            if let (Some(shown), Some(now)) = (&mut shown, &now) {
                show(shown, &mut phase, now);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell(&self, report: &RebuildReport) -> Result<(), Failure> {
        if self.json {
            say!("{}", json!({ "resource": self.name, "report": report }));
            return Ok(());
        }
        let RebuildReport { published, deleted, unchanged, left, .. } = *report;
        say!(
            "{} was made again as revision {}: {} records published, {} deleted, {} as they were",
            self.name,
            report.revision,
            text::count(published),
            text::count(deleted),
            text::count(unchanged)
        );
        if left > 0 {
            let directory = open::look_or_report(&self.at.dir, false)?;
            let resource = directory.resources.values().find(|resource| resource.name.as_str() == self.name);
            let read = resource.map(|it| format!(": guitong system snapshot {} --table {}", it.system, it.table));
            say!(
                "{} rows stay as they were, since the log holds them no longer, or in a form that the mapping cannot read; \
                 the department's table has them{}",
                text::count(left),
                read.unwrap_or_default()
            );
        }
        Ok(())
    }
}

fn show(shown: &mut Shown, phase: &mut Option<RebuildPhase>, now: &RebuildStatus) {
    if *phase != Some(now.phase) {
        if phase.is_some() {
            shown.end();
        }
        let what = match now.phase {
            RebuildPhase::Reading => "events read again",
            RebuildPhase::Replacing => "rows put in place",
        };
        shown.begin(what, now.of);
        *phase = Some(now.phase);
    }
    shown.resize(now.of);
    shown.reach(now.done);
}
