//! What people are told of a column that is not as the mapping reads it: once in the log, as long as it lasts in the status, and
//! with every row that it keeps in quarantine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use guitong_schemas::avro::decode::Kind;
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::contract::{Name, Resource, Subscription};
use guitong_schemas::standard::{Entity, EntityField, Rule};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::sync::watch;

use super::{Away, Deviation, Drift};
use crate::mapping::Affected;
use crate::mapping::view::{ColumnView, TableView};
use crate::quarantine::Rejection;

/// Stands for the resource's condition among fields, none of which is named so.
const WHERE: &str = "where";

/// The subscriptions of the directory in force.
pub type Subscriptions = watch::Receiver<Arc<BTreeMap<Name, Arc<Subscription>>>>;

/// What happened to one column, whom it touches, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnChange {
    pub table: String,
    pub column: String,
    #[serde(flatten)]
    pub what: What,
    /// Of the first event that has it so.
    pub version: String,
    /// When that was committed at the source, RFC 3339.
    pub time: String,
    /// Fields of the entity that read the column, and `where` if the resource's condition does.
    pub fields: Vec<String>,
    /// Subscriptions that have one of these fields, or judge by one; all where the resource does.
    pub subscriptions: Vec<String>,
    #[serde(skip)]
    resource: Name,
    #[serde(skip)]
    policy: OnChange,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum What {
    /// The table no longer has it; perhaps it has another name now.
    Gone {
        #[serde(skip_serializing_if = "Option::is_none")]
        perhaps: Option<String>,
    },
    /// No event has had it.
    Missing,
    Retyped {
        from: String,
        to: String,
    },
}

/// What is told beside the column itself.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) resource: Arc<Resource>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) time_zone: TimeZone,
}

impl Surroundings {
    pub(super) fn change(
        &self,
        view: &TableView,
        column: &ColumnView,
        was: Option<Kind>,
        away: &Away,
        entity: &Entity,
    ) -> ColumnChange {
        let mut fields: Vec<String> = readers(column, entity).map(|field| field.name.clone()).collect();
        fields.extend(column.judges.then(|| WHERE.to_owned()));
        let what = match (was, away.kind) {
            (Some(was), Some(is)) => What::Retyped { from: was.to_string(), to: is.to_string() },
            (None, _) => What::Missing,
            (Some(_), None) => What::Gone { perhaps: away.perhaps.clone() },
        };
        let time = Timestamp::from_microsecond(away.at_us).unwrap_or_default().to_zoned(self.time_zone.clone());
        ColumnChange {
            table: view.table.clone(),
            column: column.name.clone(),
            what,
            version: away.version.to_string(),
            time: time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            subscriptions: self.touched(&fields),
            fields,
            resource: self.resource.name.clone(),
            policy: self.resource.on_change,
        }
    }

    /// Names of the resource's subscriptions to which one of the fields matters.
    fn touched(&self, fields: &[String]) -> Vec<String> {
        let judges = |condition: &str, field: &str| {
            condition.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == field)
        };
        let touches = |subscription: &&Arc<Subscription>| {
            let condition = subscription.condition.as_deref().unwrap_or_default();
            fields.iter().any(|field| field == WHERE || subscription.fields.contains(field) || judges(condition, field))
        };
        let all = self.subscriptions.borrow();
        let own = all.values().filter(|subscription| subscription.resource == self.resource.name);
        own.filter(touches).map(|subscription| subscription.name.to_string()).collect()
    }

    /// The fields that a deviation touches, with what is said of rows that it keeps out.
    pub(crate) fn affected(&self, drift: &Drift, view: &TableView, deviation: &Deviation, entity: &Entity) -> Vec<Affected> {
        let Some((change, column)) = drift.change(deviation, view, self, entity).zip(view.columns.get(deviation.column)) else {
            return Vec::new();
        };
        let rule = match change.what {
            What::Gone { .. } | What::Missing => Rule::ColumnGone,
            What::Retyped { .. } => Rule::ColumnRetyped,
        };
        let affected = |field: Option<&EntityField>| {
            let (zh, en) = field.map_or(("条件", WHERE), |field| (field.title_zh.as_str(), field.name.as_str()));
            let (zh, en) = (format!("{zh}：{}", change.chinese()), format!("{en}: {change}"));
            let name = field.map_or_else(String::new, |field| field.name.clone());
            let rejection = Rejection { rule: rule.code().to_owned(), field: name, value: None, zh, en };
            Affected { field: field.map(EntityField::index), rule, rejection }
        };
        let condition = column.judges.then(|| affected(None));
        readers(column, entity).map(|field| affected(Some(field))).chain(condition).collect()
    }
}

fn readers<'e>(column: &'e ColumnView, entity: &'e Entity) -> impl Iterator<Item = &'e EntityField> {
    column.fields.iter().filter_map(|index| entity.fields.get(*index))
}

fn listed(names: &[String], none: &str) -> String {
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

impl fmt::Display for ColumnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, version, time, resource, .. } = self;
        match &self.what {
            What::Gone { .. } => write!(f, "column `{column}` of {table} is gone")?,
            What::Missing => write!(f, "{table} has no column `{column}`")?,
            What::Retyped { from, to } => write!(f, "column `{column}` of {table} was {from} and is {to}")?,
        }
        let since = if self.what == What::Missing { "at" } else { "since" };
        write!(f, " {since} version {version} ({time})")?;
        if let What::Gone { perhaps: Some(name) } = &self.what {
            write!(f, ", perhaps renamed to `{name}`")?;
        }
        let (fields, subscriptions) = (self.fields.join(", "), listed(&self.subscriptions, "none"));
        write!(f, "; fields: {fields}; subscriptions: {subscriptions}; ")?;
        let mend = format!("change the mapping in resources/{resource}.toml");
        let either = match &self.what {
            What::Retyped { .. } => format!("{mend}, or raise `revision` in it to take the new type as it is"),
            What::Gone { .. } | What::Missing => format!("{mend}, or bring the column back"),
        };
        match (self.policy, &self.what) {
            (OnChange::Pause, _) => write!(f, "the resource waits before that change: {either}"),
            (OnChange::Continue, What::Retyped { .. }) => write!(f, "its values are read as they come, and marked: {either}"),
            (OnChange::Continue, _) => {
                write!(f, "the fields are empty from there on, and a row that must have one is quarantined: {either}")
            }
            (OnChange::Quarantine, _) => {
                write!(f, "rows changed since are in quarantine, their last good versions stay: {either}; ")?;
                write!(f, "then guitong quarantine replay {resource}")
            }
        }
    }
}

impl ColumnChange {
    /// As [`fmt::Display`] says it, in Chinese.
    #[must_use]
    pub fn chinese(&self) -> String {
        let Self { table, column, version, time, resource, .. } = self;
        let what = match &self.what {
            What::Gone { perhaps: Some(name) } => format!("已不存在，可能改名为“{name}”"),
            What::Gone { perhaps: None } => "已不存在".to_owned(),
            What::Missing => "不存在".to_owned(),
            What::Retyped { from, to } => format!("类型由 {from} 变为 {to}"),
        };
        let (fields, subscriptions) = (self.fields.join("、"), listed(&self.subscriptions, "无"));
        format!(
            "{table} 的列“{column}”自版本 {version}（{time}）起{what}；涉及字段：{fields}；涉及订阅：{subscriptions}；请修改 \
             resources/{resource}.toml 中的映射，或恢复该列"
        )
    }
}
