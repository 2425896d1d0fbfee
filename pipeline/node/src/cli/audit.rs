//! `guitong report audit`: whether the record of what was delivered is whole.

use clap::Args;
use guitong_deliver::{AUDIT_TOPIC, Audited, Broken};
use jiff::Timestamp;
use serde_json::json;

use super::InDirectory;
use crate::exit::Failure;
use crate::node::{Desk, Question};
use crate::text;

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Name of a subscription; all of them unless named
    subscription: Option<String>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Audit {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::of_subscriptions(&self.at.dir, self.subscription.as_deref(), color).await?;
        let audited: Vec<Audited> = desk.ask_once(Question::Audit { subscription: self.subscription }).await?;
        if self.json {
            say!("{}", json!(audited));
        } else {
            audited.iter().for_each(|audited| crate::output::write(text_of(audited)));
        }
        match audited.iter().filter(|audited| audited.broken.is_some()).count() {
            0 => Ok(()),
            broken => Err(Failure::no(format!("the record of {broken} of {} subscriptions is not whole", audited.len()))),
        }
    }
}

/// What is recorded of a subscription, for people.
fn text_of(audited: &Audited) -> String {
    let time = |us: i64| Timestamp::from_microsecond(us).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    let shown = |us: i64| time(us).strftime("%Y-%m-%d %H:%M:%S %:z").to_string();
    let verdict = match &audited.broken {
        None => "whole".to_owned(),
        Some(Broken::Between { offset }) => {
            format!("BROKEN: {AUDIT_TOPIC} {offset} does not follow from the entry before it; one was changed or left out")
        }
        Some(Broken::Unreadable { offset }) => format!("BROKEN: {AUDIT_TOPIC} {offset} is no entry"),
        Some(Broken::Cut) => "BROKEN: the last entries are not there".to_owned(),
    };
    let mut out = format!("{}  {verdict}\n", text::pad(&audited.subscription, 24));
    if audited.entries > 0 {
        let (entries, changes) = (text::count(audited.entries), text::count(audited.changes));
        let (first, last, digest) = (shown(audited.first_us), shown(audited.last_us), &audited.last.0);
        out.push_str(&format!("    {entries} batches, {changes} changes, {first} to {last}\n    last entry {digest}\n"));
    }
    out
}
