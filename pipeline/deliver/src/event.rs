//! Changes as CloudEvents 1.0.2, data in JSON.

use guitong_govern::{Column, KeyForm, RowKey};
use guitong_schemas::standard::StandardValue;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::json::value;
use crate::sink::{KEY, SinkPlan};

/// What all events of one subscription share.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) subscription: String,
    /// Name of the resource.
    pub(crate) resource: String,
    /// The log that counts the generations.
    pub(crate) log: String,
}

impl Origin {
    pub(crate) fn new(plan: &SinkPlan) -> Self {
        let resource = plan.topic.strip_prefix("std.").unwrap_or(&plan.topic).to_owned();
        Self { subscription: plan.subscription.to_string(), resource, log: plan.log.to_string() }
    }
}

/// One change of a subscriber's row, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// The same whenever the same change is sent again: what a receiver knows it by.
    pub(crate) id: String,
    pub(crate) deleted: bool,
    /// It was sent before, and is sent again since a person asked for it.
    pub(crate) replayed: bool,
    /// The row's key as the subscriber knows it.
    subject: String,
    /// When it happened at the source.
    time: Option<String>,
    /// Sorts as versions do: of two events of one subject the greater one is the newer.
    sequence: String,
    /// JSON: of a batch of events the text is a fraction of what a tree of it would be.
    pub(crate) data: String,
}

/// What makes an event the same as another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'i> {
    pub(crate) origin: &'i Origin,
    /// How often everything was delivered again: what is sent again by intention is another event.
    pub(crate) generation: u64,
    pub(crate) row: &'i [u8],
    pub(crate) version: &'i [u8],
    pub(crate) deleted: bool,
}

impl Identity<'_> {
    fn id(&self) -> String {
        let (generation, deleted) = (self.generation.to_be_bytes(), [u8::from(self.deleted)]);
        let Origin { subscription, log, .. } = self.origin;
        let parts: [&[u8]; 6] = [subscription.as_bytes(), log.as_bytes(), &generation, self.row, self.version, &deleted];
        format!("evt_{}", short(parts.into_iter()))
    }
}

/// Half of SHA-256 over parts, each behind its length, in hexadecimal.
pub(crate) fn short<'p>(parts: impl Iterator<Item = &'p [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize().get(..16).unwrap_or_default())
}

impl Event {
    /// `key`: names and values of the row's key.
    pub(crate) fn deletion(identity: Identity<'_>, key: Vec<(String, Value)>, time_us: Option<i64>) -> Self {
        Self::new(identity, &key, std::iter::empty(), time_us)
    }

    /// `cells`: the other fields.
    pub(crate) fn upsert(
        identity: Identity<'_>,
        key: Vec<(String, Value)>,
        cells: impl Iterator<Item = (String, Value)>,
        time_us: Option<i64>,
    ) -> Self {
        Self::new(identity, &key, cells, time_us)
    }

    /// Without any data.
    pub(crate) fn bare(identity: Identity<'_>, time_us: Option<i64>) -> Self {
        Self::new(identity, &[], std::iter::empty(), time_us)
    }

    fn new(
        identity: Identity<'_>,
        key: &[(String, Value)],
        cells: impl Iterator<Item = (String, Value)>,
        time_us: Option<i64>,
    ) -> Self {
        let parts: Vec<&str> = key.iter().filter_map(|(_, value)| value.as_str()).collect();
        Self {
            id: identity.id(),
            deleted: identity.deleted,
            replayed: false,
            subject: parts.join("/"),
            time: time_us.map(|us| StandardValue::Time(us).to_string()),
            sequence: hex::encode(identity.version),
            data: object(key.iter().cloned().chain(cells)),
        }
    }

    /// The context attributes but `datacontenttype`.
    pub(crate) fn attributes(&self, origin: &Origin) -> Vec<(&'static str, String)> {
        let what = if self.deleted { "delete" } else { "upsert" };
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", self.id.clone()),
            ("source", format!("/subscriptions/{}", origin.subscription)),
            ("type", format!("cn.guitong.{}.{what}", origin.resource)),
            ("sequence", self.sequence.clone()),
        ];
        if !self.subject.is_empty() {
            attributes.push(("subject", self.subject.clone()));
        }
        attributes.extend(self.time.clone().map(|time| ("time", time)));
        attributes.extend(self.replayed.then(|| ("replayed", "true".to_owned())));
        attributes
    }
}

/// A JSON object of these fields.
pub(crate) fn object(fields: impl Iterator<Item = (String, Value)>) -> String {
    Value::Object(fields.collect::<Map<_, _>>()).to_string()
}

/// What the parts of a row's key are called.
pub(crate) fn key_names(key: &KeyForm, columns: &[Column]) -> Vec<String> {
    match key {
        KeyForm::Hashed => vec![KEY.to_owned()],
        KeyForm::Clear(places) => places.iter().filter_map(|&at| columns.get(at)).map(|column| column.name.clone()).collect(),
    }
}

/// Names and values of a row's key.
pub(crate) fn key_of(row: &RowKey<'_>, names: &[String]) -> Vec<(String, Value)> {
    match row.clear.as_slice() {
        [] => names.iter().map(|name| (name.clone(), json!(hex::encode(&row.id)))).take(1).collect(),
        parts => names.iter().cloned().zip(parts.iter().map(value)).collect(),
    }
}

/// The granted fields that are not of the key.
pub(crate) fn cells_of<'c>(
    columns: &'c [Column],
    cells: &'c [StandardValue<'_>],
    key: &'c [String],
) -> impl Iterator<Item = (String, Value)> + 'c {
    let all = columns.iter().zip(cells).filter(|(column, _)| !key.contains(&column.name));
    all.map(|(column, cell)| (column.name.clone(), value(cell)))
}
