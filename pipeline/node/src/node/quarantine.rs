//! Questions about quarantine, answered by the normalisers that run here.

use std::collections::BTreeMap;

use guitong_normalise::{Filter, HandleError, NormaliserHandle, QuarantineItem};
use guitong_schemas::contract::Resource;
use serde_json::{Value, json};

use super::Shared;
use crate::exit::Failure;

/// Entries that one question to a normaliser answers.
const PAGE: usize = 500;

fn failed(error: HandleError) -> Failure {
    Failure::unreachable(error.to_string())
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

    /// Open entries, oldest first of each resource.
    pub(crate) async fn quarantine(&self, resource: Option<&str>, limit: usize) -> Result<Vec<Value>, Failure> {
        let mut out = Vec::new();
        for (resource, handle) in self.normalisers(resource).await? {
            let room = limit.saturating_sub(out.len());
            let list = handle.list(Filter::default(), None, room.min(PAGE)).await.map_err(failed)?;
            out.extend(list.items.iter().map(|item| document(&resource, item)));
        }
        Ok(out)
    }

    pub(crate) async fn quarantined(&self, resource: &str, id: &str) -> Result<Value, Failure> {
        let (resource, handle) = self.normaliser(resource).await?;
        let item = handle.show(id.to_owned()).await.map_err(failed)?;
        let unknown = || Failure::no(format!("{} has no open entry {id}", resource.name));
        Ok(document(&resource, &item.ok_or_else(unknown)?))
    }

    pub(crate) async fn replay(&self, resource: &str, ids: Vec<String>) -> Result<String, Failure> {
        let (_, handle) = self.normaliser(resource).await?;
        let report = handle.replay(Filter { ids, ..Filter::default() }).await.map_err(failed)?;
        Ok(format!("{} tried, {} released, {} stay with their reasons", report.tried, report.released, report.kept))
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

fn document(resource: &Resource, item: &QuarantineItem) -> Value {
    let reason = |rejection: &guitong_normalise::Rejection| {
        json!({
            "rule": rejection.rule, "field": rejection.field, "value": rejection.value, "zh": rejection.zh, "en": rejection.en,
        })
    };
    let time = jiff::Timestamp::from_microsecond(item.at_us).map(|time| time.to_string()).unwrap_or_default();
    json!({
        "resource": resource.name.as_str(),
        "title": resource.title,
        "table": resource.table.to_string(),
        "id": item.id,
        "key": item.key,
        "version": item.version,
        "time": time,
        "topic": item.topic,
        "offset": item.offset,
        "held_back": item.held_back,
        "reasons": item.rejections.iter().map(reason).collect::<Vec<_>>(),
    })
}
