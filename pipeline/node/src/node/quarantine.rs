//! Questions about resources: their quarantine, their pause, their figures. Answered by the normalisers that run here. Those about
//! subscriptions are in `subscription`.

mod misspelt;

use std::collections::BTreeMap;

use guitong_normalise::{
    Filter, HandleError, NormaliserHandle, QualityReport, QuarantineItem, RebuildReport, RebuildStatus, Rejection, Surrender,
};
use guitong_schemas::contract::Resource;
use guitong_schemas::standard::{Entity, Rule};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{About, Shared};
use crate::exit::Failure;

/// Entries that one question to a normaliser answers.
const PAGE: usize = 500;

/// What a command asks of the node that runs a resource.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub(crate) enum Question {
    /// Open entries, oldest first of each resource.
    List {
        resource: Option<String>,
        filter: Filter,
        after: Option<String>,
        limit: usize,
    },
    Show {
        resource: String,
        id: String,
    },
    Replay {
        resource: String,
        filter: Filter,
    },
    Drop {
        resource: String,
        filter: Filter,
        surrender: Surrender,
    },
    /// Lets a resource that paused go on.
    Resume {
        resource: String,
    },
    /// Makes every record of a resource again; answered with [`Rebuilding`].
    Rebuild {
        resource: String,
    },
    /// How far that is.
    Rebuilding {
        resource: String,
    },
    Subscription {
        about: About,
    },
    /// Whether the record of what was delivered is whole; answered with [`guitong_deliver::Audited`] of each subscription.
    Audit {
        subscription: Option<String>,
    },
    /// Figures of the days `from` to `to`; of the last thirty on the exchange's clock unless they are named.
    Quality {
        resource: Option<String>,
        from: Option<Date>,
        to: Option<Date>,
    },
}

/// A rebuild of one resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rebuilding {
    /// Mapping revision of the one that was just asked for.
    pub(crate) revision: Option<u32>,
    pub(crate) now: Option<RebuildStatus>,
    /// What the last one came to.
    pub(crate) last: Option<RebuildReport>,
}

/// A page of open entries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Value>,
    /// There are more, of the last entry's resource or of one after it.
    pub(crate) more: bool,
}

/// The figures of one resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) resource: String,
    pub(crate) title: String,
    pub(crate) from: Date,
    pub(crate) to: Date,
    /// Rules that weigh otherwise here.
    pub(crate) switched: Vec<String>,
    #[serde(flatten)]
    pub(crate) report: QualityReport,
}

/// Days since 1970-01-01.
fn number(date: Date) -> i32 {
    jiff::civil::date(1970, 1, 1).until(date).map_or(0, |span| span.get_days())
}

fn failed(error: HandleError) -> Failure {
    match error {
        HandleError::Busy | HandleError::Rebuilding(_) | HandleError::Grouped => Failure::no(error.to_string()),
        error => Failure::unreachable(error.to_string()),
    }
}

pub(super) fn told<T: Serialize>(answer: T) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|error| Failure::unreachable(error.to_string()))
}

impl Shared {
    async fn normalisers(&self, only: Option<&str>) -> Result<Vec<(Resource, NormaliserHandle)>, Failure> {
        let state = self.state.read().await;
        let all = state.parts.values().filter_map(super::Part::normaliser);
        let chosen = all.filter(|(resource, _)| only.is_none_or(|name| resource.name.as_str() == name));
        let chosen: Vec<_> = chosen.map(|(resource, handle)| (resource.clone(), handle.clone())).collect();
        match only {
            Some(name) if chosen.is_empty() => Err(Failure::usage(format!("no resource `{name}` runs on this node"))),
            _ => Ok(chosen),
        }
    }

    async fn normaliser(&self, name: &str) -> Result<(Resource, NormaliserHandle), Failure> {
        let mut found = self.normalisers(Some(name)).await?;
        found.pop().ok_or_else(|| Failure::usage(format!("no resource `{name}` runs on this node")))
    }

    pub(crate) async fn answer(&self, question: Question) -> Result<Value, Failure> {
        match question {
            Question::List { resource, filter, after, limit } => {
                let is_first = after.is_none();
                let page = self.quarantine(resource.as_deref(), &filter, after, limit).await?;
                if is_first && page.entries.is_empty() {
                    self.check_names(resource.as_deref(), &filter).await?;
                }
                told(page)
            }
            Question::Show { resource, id } => self.quarantined(&resource, &id).await,
            Question::Replay { resource, filter } => {
                let (_, handle) = self.normaliser(&resource).await?;
                let report = handle.replay(filter.clone()).await.map_err(failed)?;
                if report.tried == 0 {
                    self.check_names(Some(&resource), &filter).await?;
                }
                told(report)
            }
            Question::Drop { resource, filter, surrender } => {
                let (_, handle) = self.normaliser(&resource).await?;
                let report = handle.surrender(filter.clone(), surrender).await.map_err(failed)?;
                if report.dropped == 0 {
                    self.check_names(Some(&resource), &filter).await?;
                }
                told(report)
            }
            Question::Resume { resource } => {
                let (_, handle) = self.normaliser(&resource).await?;
                told(handle.resume().await.map_err(failed)?)
            }
            Question::Rebuild { resource } => {
                let (_, handle) = self.normaliser(&resource).await?;
                let revision = handle.rebuild().await.map_err(failed)?;
                let status = handle.status().borrow().clone();
                told(Rebuilding { revision: Some(revision), now: status.rebuild, last: status.rebuilt })
            }
            Question::Subscription { about } => self.subscription(about).await,
            Question::Audit { subscription } => told(self.audited(subscription.as_deref()).await?),
            Question::Rebuilding { resource } => {
                let (_, handle) = self.normaliser(&resource).await?;
                let status = handle.status().borrow().clone();
                told(Rebuilding { revision: None, now: status.rebuild, last: status.rebuilt })
            }
            Question::Quality { resource, from, to } => {
                let zone = self.state.read().await.directory.exchange.time_zone.clone();
                let to = to.unwrap_or_else(|| jiff::Timestamp::now().to_zoned(zone).date());
                let from = from.unwrap_or_else(|| to.saturating_sub(jiff::Span::new().days(29)));
                if from > to {
                    return Err(Failure::usage(format!("the first day {from} is after the last day {to}")));
                }
                let mut figures = Vec::new();
                for (resource, handle) in self.normalisers(resource.as_deref()).await? {
                    let report = handle.quality(number(from), number(to)).await.map_err(failed)?;
                    let switched = resource.rules.iter().map(ToString::to_string).collect();
                    let (name, title) = (resource.name.to_string(), resource.title);
                    figures.push(Figures { resource: name, title, from, to, switched, report });
                }
                told(figures)
            }
        }
    }

    /// Says so where what a filter names exists nowhere, and so could match nothing.
    async fn check_names(&self, only: Option<&str>, filter: &Filter) -> Result<(), Failure> {
        let state = self.state.read().await;
        let all = state.parts.values().filter_map(super::Part::normaliser).map(|(resource, _)| resource);
        let meant = all.filter(|resource| only.is_none_or(|name| resource.name.as_str() == name));
        let standard = &state.directory.standard;
        let meant: Vec<_> = meant.filter_map(|resource| Some((resource, standard.entity(&resource.entity)?.clone()))).collect();
        misspelt::check(filter, &meant)
    }

    async fn quarantine(
        &self,
        resource: Option<&str>,
        filter: &Filter,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page, Failure> {
        let mut page = Page { entries: Vec::new(), more: false };
        for (resource, handle) in self.normalisers(resource).await? {
            let place = self.place(&resource).await;
            let mut after = after.clone();
            loop {
                let room = limit.saturating_sub(page.entries.len());
                if room == 0 {
                    // One entry behind the last one says that there are more.
                    page.more |= !handle.list(filter.clone(), after, 1).await.map_err(failed)?.items.is_empty();
                    break;
                }
                let list = handle.list(filter.clone(), after, room.min(PAGE)).await.map_err(failed)?;
                page.entries.extend(list.items.iter().map(|item| place.document(item)));
                after = list.next;
                if after.is_none() {
                    break;
                }
            }
            if page.more {
                break;
            }
        }
        Ok(page)
    }

    async fn quarantined(&self, resource: &str, id: &str) -> Result<Value, Failure> {
        let (resource, handle) = self.normaliser(resource).await?;
        let item = handle.show(id.to_owned()).await.map_err(failed)?;
        let unknown = || {
            Failure::no(format!("{} has no open entry {id}", resource.name)).help("guitong quarantine list shows those there are")
        };
        Ok(self.place(&resource).await.document(&item.ok_or_else(unknown)?))
    }

    async fn place(&self, resource: &Resource) -> Place {
        let state = self.state.read().await;
        let system = state.directory.systems.get(&resource.system).map(|system| system.title.clone());
        let subscribers = state.directory.subscriptions.values().filter(|it| it.resource == resource.name).count();
        Place {
            resource: resource.clone(),
            system: system.unwrap_or_default(),
            subscribers,
            entity: state.directory.standard.entity(&resource.entity).cloned(),
            zone: state.directory.exchange.time_zone.clone(),
        }
    }

    /// Open entries by reason: rule, Chinese, English, count; the most frequent first.
    pub(crate) async fn rejections(&self) -> Result<Vec<(String, String, String, u64)>, Failure> {
        let mut counts: BTreeMap<(String, String), (String, String, u64)> = BTreeMap::new();
        for (_, handle) in self.normalisers(None).await? {
            let mut after = None;
            loop {
                let page = handle.list(Filter::default(), after, PAGE).await.map_err(failed)?;
                for rejection in page.items.iter().flat_map(|item| &item.rejections) {
                    let entry = counts.entry((rejection.rule.clone(), rejection.field.clone()));
                    entry.or_insert_with(|| (rejection.zh.clone(), rejection.en.clone(), 0)).2 += 1;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let mut reasons: Vec<_> = counts.into_iter().map(|((rule, _), (zh, en, count))| (rule, zh, en, count)).collect();
        reasons.sort_by_key(|(_, _, _, count)| std::cmp::Reverse(*count));
        Ok(reasons)
    }
}

/// What is said of entries beside what they hold themselves.
struct Place {
    resource: Resource,
    /// Title of the system.
    system: String,
    subscribers: usize,
    entity: Option<std::sync::Arc<Entity>>,
    zone: TimeZone,
}

impl Place {
    fn document(&self, item: &QuarantineItem) -> Value {
        let time = jiff::Timestamp::from_microsecond(item.at_us).unwrap_or_default();
        let local = time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string();
        json!({
            "resource": self.resource.name.as_str(),
            "title": self.resource.title,
            "system": self.resource.system.as_str(),
            "system_title": self.system,
            "table": self.resource.table.to_string(),
            "id": item.id,
            "key": item.key,
            "version": item.version,
            "time": time.to_string(),
            "local_time": local,
            "topic": item.topic,
            "offset": item.offset,
            "held_back": item.held_back,
            "subscribers": self.subscribers,
            "reasons": item.rejections.iter().map(|rejection| self.reason(rejection)).collect::<Vec<_>>(),
        })
    }

    fn reason(&self, rejection: &Rejection) -> Value {
        let field = self.entity.as_ref().and_then(|entity| entity.field(&rejection.field));
        let grade = field.map(|field| match field.grade_person {
            Some(person) if person != field.grade => format!("{}/{}", field.grade.as_str(), person.as_str()),
            _ => field.grade.as_str().to_owned(),
        });
        json!({
            "rule": rejection.rule,
            "field": rejection.field,
            "value": rejection.value,
            "zh": rejection.zh,
            "en": rejection.en,
            "standard": Rule::from_code(&rejection.rule).and_then(Rule::standard),
            "grade": grade,
        })
    }
}
