//! `guitong subscription`: pausing, going on, delivering again, comparing, tokens; and records that a sink refused.

mod replay;
mod verify;

use clap::{Args, Subcommand};
use guitong_deliver::{Made, ReplayReport, Shown, Word};

use super::quarantine::user;
use super::{InDirectory, list};
use crate::exit::{self, Failure};
use crate::node::{About, AsidePage, Desk, Issued, Question};
use crate::text;

#[derive(Debug, Subcommand)]
pub(super) enum SubscriptionCommand {
    /// Deliver nothing until `resume`, also over restarts; what comes meanwhile waits in the log
    Pause(Pause),
    /// Go on after a pause, an endpoint that is gone, or a fault that somebody has settled; what is being tried again is tried at once
    Resume(Resume),
    /// Deliver everything again from the log; what is with the subscriber and not granted, or no longer there, is removed
    Resync(Resync),
    /// Take back what was delivered, once the approval has ended: rows are removed at the subscriber, or he is told that they are gone
    Purge(Purge),
    /// Deliver again, in order, what came since a position or a moment; a newer change is never overwritten
    Replay(replay::Replay),
    /// Compare a subscriber's table with what the subscription grants, while it goes on being delivered
    Verify(verify::Verify),
    /// Issue a new token with which the subscriber pulls its records; the one before is void at once
    Token(Token),
    /// Records that the sink does not take, set aside so that the others go on
    #[command(subcommand)]
    Parked(Parked),
}

#[derive(Debug, Subcommand)]
pub(super) enum Parked {
    /// Records set aside by a subscription, or by all of them
    List(List),
    /// One record with its reason, as the subscription would receive it now
    Show(Show),
    /// Hand records to the sink again, by what the subscription grants now; an older change never overwrites a newer one
    Replay(Replay),
    /// Give records up, with a reason that is kept. A later change of the row is delivered as any other
    Drop(Drop),
}

#[derive(Debug, Args)]
pub(super) struct Pause {
    /// Name of the subscription: its file in subscriptions/
    name: String,
    /// Why; it stands in the status with your name
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    name: String,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Resync {
    name: String,
    /// Do it; without this it is only said what would happen
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Purge {
    name: String,
    /// Why; it stands in the node's log with your name
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it; without this it is only said what would happen
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Token {
    name: String,
    /// Days for which it is valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Name of a subscription; all of them unless named
    name: Option<String>,
    /// Records at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Go on behind this record of the subscription
    #[arg(long, value_name = "ID", requires = "name")]
    after: Option<String>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    name: String,
    /// As `guitong subscription parked list` prints it
    id: String,
    /// Show values of the grades G2 and G3, after their masks
    #[arg(long)]
    values: bool,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    name: String,
    /// Records to replay; all of the subscription's unless named
    ids: Vec<String>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Drop {
    name: String,
    /// Records to give up
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All records of the subscription
    #[arg(long)]
    all: bool,
    /// Why; it is kept with your name in the topic audit.parked
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it; without this only the number of records is shown
    #[arg(long)]
    yes: bool,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl SubscriptionCommand {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        match self {
            Self::Pause(pause) => pause.execute(color).await,
            Self::Resume(resume) => resume.execute(color).await,
            Self::Resync(resync) => resync.execute(color).await,
            Self::Purge(purge) => purge.execute(color).await,
            Self::Replay(replay) => replay.execute(color).await,
            Self::Verify(verify) => verify.execute(color).await,
            Self::Token(token) => token.execute(color).await,
            Self::Parked(Parked::List(list)) => list.execute(color).await,
            Self::Parked(Parked::Show(show)) => show.execute(color).await,
            Self::Parked(Parked::Replay(replay)) => replay.execute(color).await,
            Self::Parked(Parked::Drop(drop)) => drop.execute(color).await,
        }
    }
}

/// Asks about one subscription, or about all.
async fn ask<T: serde::de::DeserializeOwned>(
    at: &InDirectory,
    name: Option<&str>,
    about: About,
    color: bool,
) -> Result<T, Failure> {
    let desk = Desk::of_subscriptions(&at.dir, name, color).await?;
    desk.ask_once(Question::Subscription { about }).await
}

/// Who says so, and why.
fn word(reason: String) -> Result<Word, Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::usage("the reason is empty").help("say why: it is kept"));
    }
    Ok(Word { by: user(), reason })
}

impl Pause {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let about = About::Pause { subscription: self.name.clone(), word: word(self.reason)? };
        if !ask(&self.at, Some(&self.name), about, color).await? {
            return Err(Failure::no(format!("{} is paused already", self.name)));
        }
        say!("{0} is paused; what comes meanwhile waits in the log. To go on: guitong subscription resume {0}", self.name);
        Ok(())
    }
}

impl Resume {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let about = About::Resume { subscription: self.name.clone() };
        if !ask(&self.at, Some(&self.name), about, color).await? {
            return Err(Failure::no(format!("{} was not paused and did not stand still", self.name)));
        }
        say!("{} goes on where its sink stands", self.name);
        Ok(())
    }
}

impl Resync {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        if !self.yes {
            let message = format!(
                "everything that {} grants would be delivered again from the log; rows at the subscriber that are not met then would \
                 be removed, and records set aside would be tried again",
                self.name
            );
            return Err(Failure::usage(message).help("say --yes to do so"));
        }
        let about = About::Resync { subscription: self.name.clone(), word: Word { by: user(), reason: String::new() } };
        ask::<()>(&self.at, Some(&self.name), about, color).await?;
        say!("{} is delivered again from the log; guitong status shows how far that is", self.name);
        Ok(())
    }
}

impl Purge {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let word = word(self.reason)?;
        if !self.yes {
            let message =
                format!("every row that was delivered to {} would be removed there, and records set aside forgotten", self.name);
            return Err(Failure::usage(message).help("say --yes to do so"));
        }
        let about = About::Purge { subscription: self.name.clone(), word };
        let removed: u64 = ask(&self.at, Some(&self.name), about, color).await?;
        say!("{}: {} rows were taken back", self.name, text::count(removed));
        Ok(())
    }
}

impl Token {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let about = About::Token { subscription: self.name.clone(), days: self.days, by: user() };
        let issued: Issued = ask(&self.at, Some(&self.name), about, color).await?;
        if self.json {
            say!("{}", serde_json::json!(issued));
            return Ok(());
        }
        say!("{}", issued.token);
        note!(
            "valid until {}; it is shown this once, and the one before is void. The subscriber asks with it:\n  \
             curl --header 'Authorization: Bearer <token>' http://{}/v1/subscriptions/{}/events",
            issued.expires,
            issued.listen,
            self.name
        );
        Ok(())
    }
}

impl List {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let about = About::Parked { subscription: self.name.clone(), after: self.after, limit: self.limit };
        let page: AsidePage = ask(&self.at, self.name.as_deref(), about, color).await?;
        if self.json {
            say!("{}", serde_json::json!(page.entries));
            return Ok(());
        }
        let lines = page.entries.iter().map(|entry| {
            let (name, id) = (text::pad(&entry.subscription, 20), text::pad(&entry.id, 10));
            let key = text::visible(entry.parked.key.as_deref().unwrap_or("-"));
            format!("{name}  {id}  {}  {key}  {}", entry.local_time, text::visible(&entry.parked.reason))
        });
        let next = page.entries.last().filter(|_| page.more);
        let next = next.map(|last| format!("guitong subscription parked list {} --after {}", last.subscription, last.id));
        list(lines, "guitong subscription parked show NAME ID shows what would be delivered", next);
        Ok(())
    }
}

impl Show {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let about = About::Show { subscription: self.name.clone(), id: self.id.clone(), values: self.values };
        let shown: Shown = ask(&self.at, Some(&self.name), about, color).await?;
        if self.json {
            say!("{}", serde_json::json!(shown));
        } else {
            crate::output::write(text_of(&self.name, &self.id, &shown));
        }
        Ok(())
    }
}

/// A record for people.
fn text_of(name: &str, id: &str, shown: &Shown) -> String {
    let parked = &shown.parked;
    let of = |known: &Option<String>| known.as_deref().map_or("-".to_owned(), text::visible);
    let mut out = format!(
        "{name} ({id})\n{} partition {} offset {}  key {}  version {}\n    {}\n",
        parked.topic,
        parked.partition,
        parked.offset,
        of(&parked.key),
        of(&parked.version),
        text::visible(&parked.reason)
    );
    match &shown.made {
        Made::Delete => out.push_str("It is a delete of the row, or the row lies outside the subscription's condition.\n"),
        Made::Unreadable { why } => out.push_str(&format!("The record cannot be read: {why}\n")),
        Made::Gone => out.push_str("The log holds the record no longer: a later one of its row took its place.\n"),
        Made::Upsert { cells } => {
            for cell in cells {
                let value = match (&cell.value, cell.concealed) {
                    (_, true) => "(not shown without --values)",
                    (Some(value), _) => &text::visible(value),
                    (None, _) => "(empty)",
                };
                out.push_str(&format!("    {}  {}  {}  {value}\n", text::pad(&cell.name, 24), cell.grade, cell.title));
            }
        }
    }
    out.push_str(&format!(
        "Once the sink takes it: guitong subscription parked replay {name} {id}\nA later change of the row takes its place by itself.\n"
    ));
    out
}

impl Replay {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let about = About::Replay { subscription: self.name.clone(), ids: self.ids };
        let report: ReplayReport = ask(&self.at, Some(&self.name), about, color).await?;
        if self.json {
            say!("{}", serde_json::json!(report));
        } else {
            say!(
                "{} tried, {} delivered, {} superseded by later changes, {} refused again",
                report.tried,
                report.delivered,
                report.superseded,
                report.kept
            );
        }
        match report.kept {
            0 => Ok(()),
            _ => Err(Failure { code: exit::NO, message: String::new(), help: None }),
        }
    }
}

impl Drop {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let word = word(self.reason)?;
        if !self.yes {
            let count = match self.all {
                false => self.ids.len(),
                true => {
                    let about = About::Parked { subscription: Some(self.name.clone()), after: None, limit: usize::MAX - 1 };
                    ask::<AsidePage>(&self.at, Some(&self.name), about, color).await?.entries.len()
                }
            };
            let message =
                format!("{count} records of {} would be given up; their rows stay at the subscriber as they are", self.name);
            return Err(Failure::usage(message).help("say --yes to do so; a resync would try them again"));
        }
        let about = About::Drop { subscription: self.name.clone(), ids: self.ids, word };
        let dropped: u64 = ask(&self.at, Some(&self.name), about, color).await?;
        if self.json {
            say!("{}", serde_json::json!({ "dropped": dropped }));
        } else {
            say!("{dropped} given up; each is told of in the topic audit.parked");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use guitong_deliver::Cell;

    use super::*;

    #[test]
    fn a_record_says_why_it_waits_and_shows_nothing_that_was_not_asked_for() {
        let cell = |name: &str, grade: &str, value: Option<&str>, concealed| Cell {
            name: name.into(),
            title: "标题".into(),
            grade: grade.into(),
            value: value.map(Into::into),
            concealed,
        };
        let parked = serde_json::json!({
            "topic": "std.enterprise", "partition": 1, "offset": 77, "key": "91450103PDY001012U", "version": "1/0/2/3/0/1",
            "reason": "value too long for type character varying(10)", "at_us": 0,
        });
        let cells =
            vec![cell("name", "G1", Some("甲"), false), cell("phone", "G2", None, true), cell("scope", "G0", None, false)];
        let shown = Shown { parked: serde_json::from_value(parked).unwrap(), made: Made::Upsert { cells } };
        let text = text_of("credit", "1-77", &shown);
        for part in [
            "std.enterprise partition 1 offset 77",
            "varying(10)",
            "标题  甲",
            "(not shown without --values)",
            "(empty)",
            "replay credit 1-77",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
