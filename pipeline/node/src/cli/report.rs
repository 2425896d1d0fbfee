//! `guitong report`: figures for people who answer for the data.

use clap::{Args, Subcommand};
use guitong_normalise::DayReport;
use jiff::civil::Date;
use serde_json::json;

use super::InDirectory;
use super::audit::Audit;
use crate::exit::Failure;
use crate::node::{Desk, Figures, Question};
use crate::text;

#[derive(Debug, Subcommand)]
pub(super) enum Report {
    /// How good each resource's data is: 合格率, 及时率, 完整率, 唯一性, and how often each rule was broken
    Quality(Quality),
    /// Whether the record of what each subscription was delivered is whole: one chain of digests, from its start to its last entry
    Audit(Audit),
}

#[derive(Debug, Args)]
pub(super) struct Quality {
    /// Name of a resource; all of them unless named
    resource: Option<String>,
    /// First day, on the exchange's clock; 30 days before the last one unless given
    #[arg(long, value_name = "DATE")]
    from: Option<Date>,
    /// Last day; today unless given
    #[arg(long, value_name = "DATE")]
    to: Option<Date>,
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// One line for each resource, day and figure: numerator, denominator and share
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Report {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        match self {
            Self::Quality(quality) => quality.execute(color).await,
            Self::Audit(audit) => audit.execute(color).await,
        }
    }
}

impl Quality {
    async fn execute(self, color: bool) -> Result<(), Failure> {
        let desk = Desk::open(&self.at.dir, self.resource.as_deref(), color).await?;
        let question = Question::Quality { resource: self.resource, from: self.from, to: self.to };
        let figures: Vec<Figures> = desk.ask_once(question).await?;
        if self.json {
            say!("{}", json!(figures.iter().map(document).collect::<Vec<_>>()));
        } else if self.csv {
            crate::output::write(csv(&figures));
        } else {
            for of in &figures {
                crate::output::write(render(of));
            }
        }
        Ok(())
    }
}

/// One figure: a share of something.
struct Share {
    name: &'static str,
    zh: &'static str,
    en: &'static str,
    part: u64,
    of: u64,
}

impl Share {
    fn value(&self) -> Option<f64> {
        (self.of > 0).then(|| self.part as f64 / self.of as f64)
    }

    fn shown(&self) -> String {
        self.value().map_or("-".to_owned(), |share| format!("{:.2} %", share * 100.0))
    }
}

/// What stands now.
fn standing(of: &Figures) -> [Share; 2] {
    let report = &of.report;
    let (rows, keys) = (report.rows, report.keys);
    let unique = keys.saturating_sub(report.shared_keys);
    [
        Share { name: "pass_rate", zh: "合格率", en: "rows whose newest version is good", part: report.good_rows, of: rows },
        Share { name: "uniqueness", zh: "唯一性", en: "keys that one row alone has", part: unique, of: keys },
    ]
}

/// What arrived.
fn arrived(of: &Figures, day: &DayReport) -> Vec<Share> {
    let [mandatory, conditional, optional] = of.report.fields.map(|fields| fields * day.records);
    let share = |name, zh, en, part, of| Share { name, zh, en, part, of };
    let mut shares = vec![
        share("arrival_pass_rate", "入库合格率", "arrivals without an error", day.good, day.good + day.rejected),
        share("timeliness", "及时率", "changes normalised in time", day.in_time, day.timed),
        share("complete_mandatory", "必填项完整率", "mandatory fields filled", day.filled[0], mandatory),
        share("complete_conditional", "条件项完整率", "conditional fields filled", day.filled[1], conditional),
        share("complete_optional", "选填项完整率", "optional fields filled", day.filled[2], optional),
    ];
    if day.reported > 0 {
        let en = "records reported within the working days";
        shares.push(share("reporting", "报送及时率", en, day.reported_in_time, day.reported));
    }
    shares
}

/// The days together.
fn sum(days: &[DayReport]) -> DayReport {
    let mut all = DayReport::default();
    let mut rules = std::collections::BTreeMap::new();
    for day in days {
        let DayReport { good, rejected, unchanged, deleted, timed, in_time, records, filled, reported, reported_in_time, .. } =
            day;
        all.good += good;
        all.rejected += rejected;
        all.unchanged += unchanged;
        all.deleted += deleted;
        all.timed += timed;
        all.in_time += in_time;
        all.records += records;
        all.filled = std::array::from_fn(|at| all.filled[at] + filled[at]);
        all.reported += reported;
        all.reported_in_time += reported_in_time;
        for (level, rule, count) in &day.rules {
            *rules.entry((level.clone(), rule.clone())).or_default() += count;
        }
    }
    all.rules = rules.into_iter().map(|((level, rule), count)| (level, rule, count)).collect();
    all.rules.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    all
}

fn render(of: &Figures) -> String {
    let (from, to) = (of.from, of.to);
    let report = &of.report;
    let mut out = format!("{}  {}\n", of.resource, of.title);
    let counts = [report.rows, report.good_rows, report.held_back, report.open].map(text::count);
    let [rows, good, held, open] = counts;
    out.push_str(&format!("  现状 now: {rows} rows, {good} good, {held} held back, {open} in quarantine\n"));
    let mut line = |share: &Share| {
        let (zh, shown) = (text::pad(share.zh, 14), text::pad(&share.shown(), 10));
        let (part, all) = (text::count(share.part), text::count(share.of));
        out.push_str(&format!("    {zh}{shown}{} ({part} of {all})\n", share.en));
    };
    standing(of).iter().for_each(&mut line);
    let all = sum(&report.days);
    let arrivals = arrived(of, &all);
    out.push_str(&format!("  {from} 至 to {to}\n"));
    for share in &arrivals {
        let (zh, shown) = (text::pad(share.zh, 14), text::pad(&share.shown(), 10));
        let (part, of) = (text::count(share.part), text::count(share.of));
        out.push_str(&format!("    {zh}{shown}{} ({part} of {of})\n", share.en));
    }
    let arrivals = all.good + all.rejected;
    for (level, rule, count) in &all.rules {
        let texts =
            guitong_schemas::standard::Rule::from_code(rule).map_or((String::new(), ""), |it| (it.zh().to_owned(), it.en()));
        let broken = Share { name: "", zh: "", en: "", part: *count, of: arrivals };
        let (level, rule) = (text::pad(level, 8), text::pad(rule, 28));
        let (count, shown) = (text::count(*count), text::pad(&broken.shown(), 10));
        out.push_str(&format!("      {level}{rule}{} {shown}{}  {}\n", text::pad(&count, 8), texts.0, texts.1));
    }
    for switched in &of.switched {
        out.push_str(&format!("    switched 规则调整: {switched}\n"));
    }
    out
}

fn document(of: &Figures) -> serde_json::Value {
    let shares = |shares: &[Share]| {
        let figures = shares.iter().map(|share| {
            let figure = json!({ "numerator": share.part, "denominator": share.of, "share": share.value() });
            (share.name.to_owned(), figure)
        });
        serde_json::Value::Object(figures.collect())
    };
    let rules = |day: &DayReport| {
        let rules = day.rules.iter().map(|(level, rule, count)| json!({ "level": level, "rule": rule, "count": count }));
        rules.collect::<Vec<_>>()
    };
    let report = &of.report;
    let days = report.days.iter().map(|day| {
        json!({
            "day": date(day.day).to_string(), "good": day.good, "rejected": day.rejected, "unchanged": day.unchanged,
            "deleted": day.deleted, "figures": shares(&arrived(of, day)), "rules": rules(day),
        })
    });
    let all = sum(&report.days);
    json!({
        "resource": of.resource, "title": of.title, "switched": of.switched,
        "now": {
            "rows": report.rows, "good": report.good_rows, "held_back": report.held_back, "quarantined": report.open,
            "keys": report.keys, "shared_keys": report.shared_keys, "figures": shares(&standing(of)),
        },
        "timely_seconds": report.timely_seconds,
        "total": { "good": all.good, "rejected": all.rejected, "figures": shares(&arrived(of, &all)), "rules": rules(&all) },
        "days": days.collect::<Vec<_>>(),
    })
}

fn csv(figures: &[Figures]) -> String {
    let mut out = String::from("resource,day,figure,numerator,denominator,share\n");
    let mut line = |resource: &str, day: &str, name: &str, part: u64, of: u64| {
        let share = if of > 0 { format!("{:.6}", part as f64 / of as f64) } else { String::new() };
        out.push_str(&format!("{resource},{day},{name},{part},{of},{share}\n"));
    };
    for of in figures {
        for share in standing(of) {
            line(&of.resource, "", share.name, share.part, share.of);
        }
        for day in &of.report.days {
            let shown = date(day.day).to_string();
            for share in arrived(of, day) {
                line(&of.resource, &shown, share.name, share.part, share.of);
            }
            for (level, rule, count) in &day.rules {
                line(&of.resource, &shown, &format!("{level}:{rule}"), *count, day.good + day.rejected);
            }
        }
    }
    out
}

/// The date of a number of days since 1970-01-01.
fn date(number: i32) -> Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    epoch.saturating_add(jiff::Span::new().days(number))
}

#[cfg(test)]
mod tests {
    use guitong_normalise::QualityReport;

    use super::*;

    #[test]
    fn days_are_numbered_as_the_stage_numbers_them() {
        let day = jiff::civil::date(2026, 11, 23);
        assert_eq!(date(20_780), day);
    }

    #[test]
    fn every_figure_has_both_languages_and_its_parts() {
        let day = |number, good, rejected| DayReport {
            day: number,
            good,
            rejected,
            timed: 10,
            in_time: 9,
            records: good,
            filled: [30, 4, 6],
            reported: 2,
            reported_in_time: 1,
            rules: vec![("error".into(), "uscc.check_digit".into(), rejected)],
            ..DayReport::default()
        };
        let report = QualityReport {
            rows: 200,
            good_rows: 150,
            keys: 100,
            shared_keys: 1,
            fields: [3, 2, 6],
            days: vec![day(20_780, 10, 1), day(20_781, 10, 3)],
            ..QualityReport::default()
        };
        let (from, to) = (date(20_780), date(20_781));
        let figures = Figures { resource: "enterprise".into(), title: "企业".into(), from, to, switched: Vec::new(), report };
        let text = render(&figures);
        for part in [
            "合格率        75.00 %   rows whose newest version is good (150 of 200)",
            "唯一性        99.00 %",
            "及时率        90.00 %   changes normalised in time (18 of 20)",
            "必填项完整率  100.00 %  mandatory fields filled (60 of 60)",
            "条件项完整率  20.00 %",
            "报送及时率    50.00 %",
            "uscc.check_digit            4        16.67 %   统一社会信用代码校验码不符",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let csv = csv(&[figures]);
        assert!(csv.contains("enterprise,2026-11-24,error:uscc.check_digit,3,13,0.230769\n"), "{csv}");
        assert!(csv.contains("enterprise,,pass_rate,150,200,0.750000\n"), "{csv}");
    }
}
