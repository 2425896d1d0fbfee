//! `guitong subscription verify`: a subscriber's table held against what is granted.

use std::time::Duration;

use clap::Args;
use guitong_deliver::{Comparing, ComparingStage, DifferentCell, DifferentRow, Place, Verification, Word, Wrong};
use serde_json::json;

use crate::cli::InDirectory;
use crate::cli::progress::Shown;
use crate::cli::quarantine::user;
use crate::demo::Progress;
use crate::exit::{self, Failure};
use crate::node::{About, Desk, Question};
use crate::text;

/// Columns that a value takes.
const WIDTH: usize = 40;
/// How often it is asked how far the comparison is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    /// Name of the subscription: its file in subscriptions/
    name: String,
    /// Put right what is wrong: deliver what is missing or differs again, remove what is not granted
    #[arg(long)]
    repair: bool,
    /// Rows that are shown one by one, at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    limit: u16,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Verify {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let repair = self.repair.then(|| Word { by: user(), reason: String::new() });
        let question = guitong_deliver::Verify { repair, limit: self.limit.into() };
        let about = About::Verify { subscription: self.name.clone(), ask: question };
        let desk = Desk::of_subscriptions(&self.at.dir, Some(&self.name), color).await?;
        let found = self.follow(&desk, about).await;
        desk.close().await;
        let found = found?;
        if self.json {
            say!("{}", json!(found));
        } else {
            crate::output::write(text_of(&self.name, &found));
        }
        verdict(&self.name, &found)
    }

    /// Waits for the answer, and shows meanwhile how far it is.
    async fn follow(&self, desk: &Desk, about: About) -> Result<Verification, Failure> {
        let mut shown = (!self.json).then(|| Follower { shown: Shown::default(), last: None });
        let answer = desk.ask(Question::Subscription { about });
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                found = &mut answer => {
                    shown.iter_mut().for_each(|shown| shown.end(found.is_ok()));
                    return found;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(shown) = &mut shown {
                let about = About::Comparing { subscription: self.name.clone() };
                // Whether the node is gone, the answer tells.
                if let Ok(Some(now)) = desk.ask::<Option<Comparing>>(Question::Subscription { about }).await {
                    shown.show(now);
                }
            }
        }
    }
}

/// Shows one stage after the other.
struct Follower<P> {
    shown: P,
    last: Option<Comparing>,
}

impl<P: Progress> Follower<P> {
    fn show(&mut self, now: Comparing) {
        if self.last.is_none_or(|last| last.stage != now.stage) {
            self.end(true);
            let what = match now.stage {
                ComparingStage::Reading => "records read",
                ComparingStage::Comparing => "ranges looked at",
                ComparingStage::Repairing => "rows put right",
            };
            self.shown.begin(what, now.of);
        }
        self.last = Some(now);
        self.shown.resize(now.of);
        self.shown.reach(now.done);
    }

    /// `whole`: the stage was done to its end, the last of which is not looked at.
    fn end(&mut self, whole: bool) {
        if let Some(last) = self.last.take() {
            if whole {
                self.shown.reach(last.of);
            }
            self.shown.end();
        }
    }
}

/// How the command ends.
fn verdict(name: &str, found: &Verification) -> Result<(), Failure> {
    if found.more {
        let message = format!("more rows differ than are looked at one by one; {} were", text::count(found.wrong()));
        return Err(Failure::no(message).help(format!("deliver everything again: guitong subscription resync {name} --yes")));
    }
    if found.parked > 0 && found.wrong() == 0 {
        let message = format!("{} rows are not as granted since the sink refused them", text::count(found.parked));
        return Err(Failure::no(message).help(format!("guitong subscription parked list {name} says why")));
    }
    match (found.wrong(), found.repaired) {
        (0, _) if found.unsettled == 0 => Ok(()),
        (0, _) => Err(Failure { code: exit::NO, message: String::new(), help: None }),
        (wrong, 0) => {
            let help = format!("to put them right: guitong subscription verify {name} --repair");
            Err(Failure::no(format!("{} rows are wrong", text::count(wrong))).help(help))
        }
        (wrong, _) => {
            let help =
                "the node's log says why; a row of a version that the exchange never gave stays until it is removed by hand";
            Err(Failure::no(format!("{} rows are wrong still", text::count(wrong))).help(help))
        }
    }
}

/// What was found, for people.
fn text_of(name: &str, found: &Verification) -> String {
    let positions: Vec<String> = found.positions.iter().map(Place::to_string).collect();
    let mut out = format!(
        "{name} as of {}: {} rows granted, {} held\n  {} ranges compared, {} differ, {} rows of them looked at\n",
        positions.join(","),
        text::count(found.entitled),
        text::count(found.held),
        text::count(found.ranges),
        text::count(found.differing_ranges),
        text::count(found.rows_read),
    );
    found.rows.iter().for_each(|row| out.push_str(&line(row)));
    let shown = found.rows.len() as u64;
    for (count, what) in [
        (found.missing, "missing"),
        (found.superfluous, "superfluous"),
        (found.differing, "differing"),
        ((found.missing + found.superfluous + found.differing).saturating_sub(shown), "of these not shown"),
        (found.parked, "set aside, since the sink refused them"),
        (found.unsettled, "not judged, since they kept changing"),
        (found.repaired, "put right"),
    ] {
        if count > 0 {
            out.push_str(&format!("  {} {what}\n", text::count(count)));
        }
    }
    if (found.missing, found.superfluous, found.differing) == (0, 0, 0) {
        out.push_str("  no row is wrong\n");
    }
    out
}

fn line(row: &DifferentRow) -> String {
    let wrong = match row.wrong {
        Wrong::Missing => "missing",
        Wrong::Superfluous => "superfluous",
        Wrong::Differing => "differing",
    };
    let key = row.key.as_deref().map_or("(key not shown)".to_owned(), text::visible);
    let record = row.record.map(|place| format!("  record {place}")).unwrap_or_default();
    let mut out = format!("  {}  {key}{record}\n", text::pad(wrong, 11));
    for DifferentCell { name, title, grade, concealed, granted, held } in &row.cells {
        let shown = |value: &Option<String>| {
            value.as_ref().map_or("(empty)".to_owned(), |value| text::clip(&text::visible(value), WIDTH))
        };
        let values = match concealed {
            true => "(not shown)".to_owned(),
            false => format!("granted {}, held {}", shown(granted), shown(held)),
        };
        out.push_str(&format!("      {}  {grade}  {title}  {values}\n", text::pad(name, 24)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Written(Vec<String>);

    impl Progress for Written {
        fn begin(&mut self, what: &'static str, total: u64) {
            self.0.push(format!("{what} of {total}"));
        }

        fn reach(&mut self, done: u64) {
            self.0.push(done.to_string());
        }

        fn end(&mut self) {
            self.0.push("end".to_owned());
        }
    }

    #[test]
    fn each_stage_of_a_comparison_is_shown_and_ended() {
        let mut follower = Follower { shown: Written::default(), last: None };
        let at = |stage, done, of| Comparing { stage, done, of };
        follower.show(at(ComparingStage::Reading, 10, 50));
        follower.show(at(ComparingStage::Reading, 40, 50));
        follower.show(at(ComparingStage::Comparing, 1, 3));
        follower.end(false);
        follower.end(false);
        let told = ["records read of 50", "10", "40", "50", "end", "ranges looked at of 3", "1", "end"];
        assert_eq!(follower.shown.0, told);
    }

    #[test]
    fn a_person_sees_what_differs_and_what_to_do() {
        let cell = |name: &str, grade: &str, concealed| DifferentCell {
            name: name.into(),
            title: "标题".into(),
            grade: grade.into(),
            concealed,
            granted: (!concealed).then(|| "甲".to_owned()),
            held: None,
        };
        let row = DifferentRow {
            wrong: Wrong::Differing,
            key: Some("91450103PDY001012U".into()),
            record: Some(Place { partition: 1, offset: 7 }),
            cells: vec![cell("name", "G1", false), cell("phone", "G2", true)],
        };
        let positions = vec![Place { partition: 0, offset: 12 }, Place { partition: 1, offset: 9 }];
        let found =
            Verification { positions, entitled: 1_200, held: 1_199, differing: 2, rows: vec![row], ..Verification::default() };
        let text = text_of("credit", &found);
        for part in [
            "credit as of 0-12,1-9: 1,200 rows granted, 1,199 held",
            "differing    91450103PDY001012U  record 1-7",
            "G1  标题  granted 甲, held (empty)",
            "G2  标题  (not shown)",
            "2 differing",
            "1 of these not shown",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let failure = verdict("credit", &found).unwrap_err();
        assert_eq!(failure.code, exit::NO);
        assert!(failure.to_string().contains("verify credit --repair"), "{failure}");
        assert!(verdict("credit", &Verification { repaired: 2, ..found }).is_ok());
    }
}
