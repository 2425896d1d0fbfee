//! `guitong standard check`.

use clap::Args;
use guitong_schemas::standard::{CHECKS, Checked, Clock, Level, Zone};
use serde_json::{Value, json};

use super::{Of, Page};
use crate::exit::{self, Failure};
use crate::text::{pad, visible};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// What the values are: a check of `guitong standard list` (uscc, citizen_id, date, …) or a field's kind (code:gbt2261_1_sex)
    kind: String,
    /// Values as a department writes them; `--` stands before one that begins with a dash
    #[arg(required = true)]
    values: Vec<String>,
    #[command(flatten)]
    of: Of,
}

impl Check {
    pub(super) fn execute(self, color: bool) -> Result<(), Failure> {
        let standard = self.of.standard(color)?;
        let checker = standard.checker(&self.kind).map_err(|error| {
            let kinds: Vec<&str> = CHECKS.iter().map(|check| check.kind).collect();
            Failure::usage(error.to_string()).help(error.help.unwrap_or_else(|| format!("known: {}", kinds.join(", "))))
        })?;
        let clock = Clock::at(jiff::Timestamp::now().as_microsecond(), Zone::shanghai());
        let checked: Vec<Checked> = self.values.iter().map(|value| checker.check(value, &clock)).collect();
        let mut page = Page::default();
        if self.of.json {
            page.line(format_args!(
                "{}",
                self.values.iter().zip(&checked).map(|(value, checked)| to_json(value, checked)).collect::<Value>()
            ));
        } else {
            self.values.iter().zip(&checked).for_each(|(value, checked)| print(&mut page, value, checked));
        }
        page.print();
        if checked.iter().all(|checked| checked.verdict().is_valid()) {
            return Ok(());
        }
        Err(Failure { code: exit::NO, message: String::new(), help: None })
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Note => "note",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

fn to_json(value: &str, checked: &Checked) -> Value {
    let findings: Vec<Value> = checked
        .findings
        .iter()
        .map(|finding| {
            let rule = finding.rule;
            json!({ "level": level(finding.level), "rule": rule.code(), "zh": rule.zh(), "en": rule.en() })
        })
        .collect();
    json!({
        "value": value,
        "verdict": checked.verdict().as_str(),
        "normalised": checked.normalised,
        "findings": findings,
    })
}

fn print(page: &mut Page, value: &str, checked: &Checked) {
    let normalised = checked.normalised.as_deref().map(visible).unwrap_or_default();
    let arrow = if normalised.is_empty() || normalised == visible(value) { String::new() } else { format!("  → {normalised}") };
    page.line(format_args!("{}  {}{arrow}", pad(checked.verdict().as_str(), 7), visible(value)));
    for finding in &checked.findings {
        let rule = finding.rule;
        page.line(format_args!(
            "         {}  {}  {}  {}",
            pad(level(finding.level), 7),
            pad(rule.code(), 26),
            rule.zh(),
            rule.en()
        ));
    }
}
