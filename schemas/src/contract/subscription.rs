//! `subscriptions/<name>.toml`: one department's approved use of one resource.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Name, Secret};

#[derive(Debug, Clone)]
pub struct Subscription {
    pub name: Name,
    pub subscriber: Name,
    pub resource: Name,
    pub purpose: String,
    pub approval: Option<Approval>,
    /// Granted fields of the entity, in the order of the entity.
    pub fields: Vec<String>,
    /// CEL over the entity's fields by their names; only rows for which it is true are delivered.
    pub condition: Option<String>,
    /// Masks by field; a granted field of grade G2 or G3 without one gets the default mask of its grade.
    pub masks: BTreeMap<String, Mask>,
    pub sink: SinkConfig,
    /// Keys the HMAC of `guitong_key`.
    pub secret: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub number: String,
    /// First day, in the exchange's time zone.
    pub from: Option<jiff::civil::Date>,
    /// Last day, inclusive, in the exchange's time zone.
    pub until: jiff::civil::Date,
}

/// How a value is made less telling. Chinese samples: name 张*, identifier `450102********9997`, phone `160****0001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Shown as it is: an explicit grant of the clear value.
    None,
    Name,
    Identifier,
    Phone,
    Card,
    /// To the county.
    Address,
    /// A date to its year.
    Year,
    /// Keyed hash, the same for the same value within one subscription.
    Hash,
    /// Always null.
    Drop,
}

#[derive(Debug, Clone)]
pub enum SinkConfig {
    Postgres { url: Secret, schema: String, table: String },
    Sqlite { path: PathBuf, table: String },
}
