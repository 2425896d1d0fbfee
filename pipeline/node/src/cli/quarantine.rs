//! `guitong quarantine`: rejected records, why, letting them in again, and giving them up.

use clap::{Args, Subcommand};
use guitong_normalise::{DropReport, Filter, ReplayReport, Surrender};
use serde_json::Value;

use super::{InDirectory, list};
use crate::exit::Failure;
use crate::node::{Desk, Page, Question};
use crate::text;

#[derive(Debug, Subcommand)]
pub(super) enum Quarantine {
    /// Rejected records of a resource, or of all of them
    List(List),
    /// One rejected record with its reasons in Chinese and English
    Show(Show),
    /// Run rejected records through the mapping in force; an older one never overwrites a newer one
    Replay(Replay),
    /// Give rejected records up, with a reason that is kept. The last good version of each row stays with its subscribers
    Drop(Drop),
}

/// Which entries are meant; all conditions that are given have to hold.
#[derive(Debug, Args)]
struct Which {
    /// Those that broke this rule, such as uscc.check_digit
    #[arg(long)]
    rule: Option<String>,
    /// Those with a broken rule of this field of the entity
    #[arg(long)]
    field: Option<String>,
    /// Those of the row with this key, as `list` shows it, or one of its values
    #[arg(long)]
    key: Option<String>,
    /// Those quarantined since: a day, a time, or a span before now such as "2 h"
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Those quarantined before
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Which {
    fn filter(self, ids: Vec<String>) -> Result<Filter, Failure> {
        let time = |text: Option<String>| text.map(|text| text::moment(&text)).transpose().map_err(Failure::usage);
        let Self { rule, field, key, since, until } = self;
        let ids = ids.into_iter().map(|id| id.to_ascii_lowercase()).collect();
        Ok(Filter { ids, rule, field, key, since_us: time(since)?, until_us: time(until)? })
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Name of a resource; all of them unless named
    resource: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Entries at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Go on behind this entry of the resource
    #[arg(long, value_name = "ID", requires = "resource")]
    after: Option<String>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    resource: String,
    /// As `guitong quarantine list` prints it
    id: String,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    resource: String,
    /// Entries to replay; all of the resource's unless named or narrowed
    ids: Vec<String>,
    #[command(flatten)]
    which: Which,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

#[derive(Debug, Args)]
pub(super) struct Drop {
    resource: String,
    /// Entries to give up; or say which with --rule, --field, --key, --since or --until
    ids: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Why; it is kept with your name in the topic audit.quarantine
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it; without this only the number of entries is shown
    #[arg(long)]
    yes: bool,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Quarantine {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.execute(color).await,
            Self::Show(show) => show.execute(color).await,
            Self::Replay(replay) => replay.execute(color).await,
            Self::Drop(drop) => drop.execute(color).await,
        }
    }
}

impl List {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::open(&self.at.dir, self.resource.as_deref(), color).await?;
        let (filter, limit) = (self.which.filter(Vec::new())?, self.limit);
        let question = Question::List { resource: self.resource, filter, after: self.after, limit };
        let page: Page = desk.ask_once(question).await?;
        if self.json {
            say!("{}", Value::from(page.entries));
            return Ok(());
        }
        let next = page.entries.last().filter(|_| page.more);
        let next = next.map(|last| format!("guitong quarantine list {} --after {}", field(last, "resource"), field(last, "id")));
        list(page.entries.iter().map(line), "guitong quarantine show RESOURCE ID says why", next);
        Ok(())
    }
}

fn field<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or("")
}

fn reasons(entry: &Value) -> &[Value] {
    entry.get("reasons").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_held_back(entry: &Value) -> bool {
    entry.get("held_back").and_then(Value::as_bool) == Some(true)
}

fn line(entry: &Value) -> String {
    let rules: Vec<&str> = reasons(entry).iter().map(|reason| field(reason, "rule")).collect();
    let held = if is_held_back(entry) { "  held back" } else { "" };
    format!(
        "{}  {}  {}  {}  {}{held}",
        text::pad(field(entry, "resource"), 20),
        text::pad(field(entry, "id"), 4),
        field(entry, "local_time"),
        text::visible(field(entry, "key")),
        rules.join(", ")
    )
}

impl Show {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::open(&self.at.dir, Some(&self.resource), color).await?;
        let question = Question::Show { resource: self.resource, id: self.id.to_ascii_lowercase() };
        let entry: Value = desk.ask_once(question).await?;
        if self.json {
            say!("{entry}");
        } else {
            crate::output::write(shown(&entry));
        }
        Ok(())
    }
}

/// An entry for people.
fn shown(entry: &Value) -> String {
    let of = |name| field(entry, name);
    let mut out = format!(
        "{} {} ({})\n{} {}  key {}  version {}  {}\n",
        of("title"),
        of("resource"),
        of("id"),
        of("system_title"),
        of("table"),
        text::visible(of("key")),
        of("version"),
        of("local_time")
    );
    for reason in reasons(entry) {
        let of = |name| field(reason, name);
        out.push_str(&format!("{}      {} {}\n", text::visible(of("zh")), of("rule"), text::visible(of("en"))));
        let facts = [("value", of("value")), ("rule", of("standard")), ("grade", of("grade"))];
        let facts: Vec<String> = facts
            .iter()
            .filter(|(_, fact)| !fact.is_empty())
            .map(|(name, fact)| format!("{name} {}", text::visible(fact)))
            .collect();
        if !facts.is_empty() {
            out.push_str(&format!("    {}\n", facts.join("   ")));
        }
    }
    if is_held_back(entry) {
        let subscribers = entry.get("subscribers").and_then(Value::as_u64).unwrap_or(0);
        let plural = if subscribers == 1 { "" } else { "s" };
        out.push_str(&format!(
            "上一合格版本保留。The last good version of this record stays with its {subscribers} subscriber{plural} (held back).\n"
        ));
    }
    out.push_str(&format!(
        "The whole event is in the log: {} offset {}.\n",
        of("topic"),
        entry.get("offset").unwrap_or(&Value::Null)
    ));
    if reasons(entry).iter().any(|reason| field(reason, "rule") == "row.too_large") {
        out.push_str(&format!(
            "Shortened at the source it flows by itself; after a larger max_record read the row again: {}\n",
            read_again(entry)
        ));
    }
    out.push_str(&format!(
        "After a correction at the source it flows by itself; after a change of the mapping: guitong quarantine replay {} {}\n",
        of("resource"),
        of("id")
    ));
    out
}

/// The command that reads the entry's row again.
fn read_again(entry: &Value) -> String {
    let parts = field(entry, "key").split(", ").filter_map(|part| part.split_once('='));
    let conditions: Vec<String> =
        parts.map(|(column, value)| format!("\"{}\" = '{}'", column.replace('"', "\"\""), value.replace('\'', "''"))).collect();
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let table = field(entry, "table");
    let is_plain = table.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '.' | '_'));
    let table = if is_plain { table.to_owned() } else { quoted(table) };
    format!("guitong system snapshot {} --table {table} --where {}", field(entry, "system"), quoted(&conditions.join(" AND ")))
}

impl Replay {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::open(&self.at.dir, Some(&self.resource), color).await?;
        let (filter, resource) = (self.which.filter(self.ids)?, self.resource);
        let named = filter.ids.clone();
        let question = Question::Replay { filter, resource: resource.clone() };
        let report: ReplayReport = desk.ask_once(question).await?;
        if self.json {
            say!("{}", serde_json::json!(report));
        } else {
            say!("{} tried, {} released, {} stay with their reasons", report.tried, report.released, report.kept);
        }
        met(&resource, named, report.tried)
    }
}

impl Drop {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let filter = self.which.filter(self.ids)?;
        if filter == Filter::default() {
            return Err(
                Failure::usage("no entry is named").help("name entries, or say which: --rule, --field, --key, --since, --until")
            );
        }
        if self.reason.trim().is_empty() {
            return Err(Failure::usage("the reason is empty").help("say why the records are given up: it is kept"));
        }
        let desk = Desk::open(&self.at.dir, Some(&self.resource), color).await?;
        let resource = self.resource.clone();
        if !self.yes {
            let question = Question::List { resource: Some(resource), filter, after: None, limit: 1_000 };
            let page: Page = desk.ask_once(question).await?;
            let held = page.entries.iter().filter(|entry| is_held_back(entry)).count();
            let (count, more) = (page.entries.len(), if page.more { " or more" } else { "" });
            let message = format!(
                "{count}{more} entries of {} would be given up, {held} of rows whose last good version would stay as it is",
                self.resource
            );
            return Err(Failure::usage(message).help("say --yes to do so; the events stay in the raw log"));
        }
        let surrender = Surrender { by: user(), reason: self.reason };
        let named = filter.ids.clone();
        let report: DropReport = desk.ask_once(Question::Drop { resource: resource.clone(), filter, surrender }).await?;
        if self.json {
            say!("{}", serde_json::json!(report));
            return met(&resource, named, report.dropped);
        }
        say!("{} given up; each is told of in the topic audit.quarantine", report.dropped);
        if report.settled > 0 {
            say!("{} rows keep their last good version, which is no longer counted as held back", report.settled);
        }
        met(&resource, named, report.dropped)
    }
}

/// Whether all entries that were named are among the `met` ones: a number that is none is told rather than passed over.
fn met(resource: &str, mut named: Vec<String>, met: u64) -> Result<(), Failure> {
    named.sort_unstable();
    named.dedup();
    match (named.len() as u64).saturating_sub(met) {
        0 => Ok(()),
        missing => {
            let message =
                format!("{missing} of the entries that were named are not open in {resource}, or not as the other options say");
            Err(Failure::no(message).help(format!("those there are: guitong quarantine list {resource}")))
        }
    }
}

/// Who runs the command.
pub(super) fn user() -> String {
    let named = ["USER", "LOGNAME"].iter().filter_map(|name| std::env::var(name).ok()).find(|name| !name.trim().is_empty());
    let uid = rustix::process::getuid().as_raw();
    named.map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_is_wrong_and_what_to_do() {
        let entry = serde_json::json!({
            "resource": "enterprise", "title": "企业登记基本信息", "id": "3f2a", "system": "licensing", "system_title": "企业登记",
            "table": "public.qy_jbxx", "key": "qybh=4501003721", "version": "7/0/1", "local_time": "2026-11-23 09:14:05 +08:00",
            "topic": "raw.licensing.public.qy_jbxx", "offset": 7, "held_back": true, "subscribers": 3,
            "reasons": [
                { "rule": "uscc.check_digit", "field": "uscc", "value": "91450100MA5", "zh": "统一社会信用代码：校验码不符",
                  "en": "uscc: the check character is wrong", "standard": "GB 32100-2015", "grade": "G0" },
                { "rule": "text.control", "field": "name", "value": "甲\u{1b}[31m公司", "zh": "含控制字符", "en": "a control character" },
                { "rule": "row.too_large", "field": "", "zh": "字段值超过上限", "en": "a value over the limit" },
            ],
        });
        let text = shown(&entry);
        for part in [
            "企业登记 public.qy_jbxx  key qybh=4501003721  version 7/0/1  2026-11-23 09:14:05 +08:00",
            "统一社会信用代码：校验码不符      uscc.check_digit uscc: the check character is wrong",
            "    value 甲\\u{1b}[31m公司\n",
            "    value 91450100MA5   rule GB 32100-2015   grade G0",
            "stays with its 3 subscribers (held back)",
            r#"guitong system snapshot licensing --table public.qy_jbxx --where '"qybh" = '\''4501003721'\'''"#,
            "guitong quarantine replay enterprise 3f2a",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let spaced = serde_json::json!({ "system": "licensing", "table": "public.企业 台账", "key": "序号=1" });
        let command = r#"guitong system snapshot licensing --table 'public.企业 台账' --where '"序号" = '\''1'\'''"#;
        assert_eq!(read_again(&spaced), command, "a shell takes it as it is");
    }
}
