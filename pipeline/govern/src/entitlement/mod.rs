//! Entitlement: the one function that every delivered byte passes.
//!
//! A record goes in with all that the exchange knows; what comes out holds only what the subscription grants, or a key to
//! delete. Everything is refused unless it is granted: a field that is not listed, a row whose condition is false or cannot be
//! judged, a day outside the approval, a resource that is not shared. Where a part of the entity's key is masked or not granted,
//! rows and deletes alike carry `guitong_key`, a keyed hash, in its place.

mod grant;
mod standing;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::contract::{Name, Resource, Subscription};
use guitong_schemas::standard::{Clock, Entity, StandardValue, Zone};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use grant::{Column, ColumnKind, KeyForm};
use grant::{Grant, MasksByGrade, Source};
use standing::Validity;
pub use standing::{Refusal, Standing, Stop};

use crate::condition::{Condition, ConditionError, EvaluationError};
use crate::key::{HashKey, canonical};
use crate::mask::Masking;

/// A subscription that cannot be compiled.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EntitlementError {
    #[error("subscription {subscription}: `{field}` is no field of {entity}")]
    UnknownField { subscription: Name, field: String, entity: String },
    #[error("subscription {subscription}: a mask is declared for `{field}`, which is not among its fields")]
    MaskOfUngranted { subscription: Name, field: String },
    #[error("subscription {subscription}: {error}")]
    Condition { subscription: Name, error: ConditionError },
    #[error("subscription {subscription} needs a `secret`: its rows are keyed by a keyed hash, since {why}")]
    NoSecret { subscription: Name, why: &'static str },
    #[error("subscription {subscription}: the dates of its approval are beyond the calendar")]
    Dates { subscription: Name },
}

/// One standard record, whole, as the exchange log has it.
#[derive(Debug, Clone, Copy)]
pub struct Record<'r, 'a> {
    /// The entity's key, in its order.
    pub key: &'r [StandardValue<'a>],
    /// The entity's fields in its order; `None` for a delete.
    pub fields: Option<&'r [StandardValue<'a>]>,
    /// When it happened at the source, microseconds since 1970-01-01T00:00Z: the age of a child is taken at this time.
    pub source_us: i64,
}

/// What a subscriber receives of one record.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision<'a> {
    Deliver(Row<'a>),
    /// Goes only to a subscriber that holds the key.
    Delete(RowKey<'a>, Gone),
    Stopped(Stop),
}

/// Why a row is not, or no longer, the subscriber's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Deleted,
    /// The row does not fulfil the condition.
    NotGranted,
    /// Whether it does could not be told.
    Unjudged(EvaluationError),
}

/// A row, cut to what is granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<'a> {
    pub key: RowKey<'a>,
    /// In the order of [`Entitlement::columns`].
    pub cells: Vec<StandardValue<'a>>,
}

/// The key a subscriber's row is known by.
#[derive(Debug, Clone, PartialEq)]
pub struct RowKey<'a> {
    /// Identity: `guitong_key` where the key is hashed, else the canonical form of the key.
    pub id: Vec<u8>,
    /// Values of the key's columns, in the key's order; empty where the key is hashed.
    pub clear: Vec<StandardValue<'a>>,
}

/// A subscription's grant, compiled.
pub struct Entitlement {
    subscription: Name,
    entity: Arc<Entity>,
    validity: Validity,
    columns: Vec<Column>,
    masks: Vec<Option<MasksByGrade>>,
    key: KeyForm,
    condition: Option<Condition>,
    hash: Option<HashKey>,
    zone: Zone,
    /// For each field of the entity whether [`Entitlement::decide`] looks at it.
    reads: Arc<[bool]>,
    fingerprint: [u8; 32],
}

impl fmt::Debug for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entitlement")
            .field("subscription", &self.subscription)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl Entitlement {
    /// Compiles what `subscription` may have of `resource`, whose records are of `entity`. Days are those of `zone`.
    ///
    /// # Errors
    /// [`EntitlementError`] names the subscription and what is wrong with it.
    pub fn compile(
        subscription: &Subscription,
        resource: &Resource,
        entity: &Arc<Entity>,
        zone: &TimeZone,
    ) -> Result<Self, EntitlementError> {
        let name = || subscription.name.clone();
        let grant = Grant::compile(subscription, entity)?;
        let condition = match &subscription.condition {
            None => None,
            Some(source) => {
                let fields = entity.fields.iter().map(|field| Box::from(field.name.as_str())).collect();
                let compiled = Condition::compile(source, &entity.name, fields);
                Some(compiled.map_err(|error| EntitlementError::Condition { subscription: name(), error })?)
            }
        };
        let hash = subscription.secret.as_ref().map(|secret| HashKey::new(secret.reveal()));
        if hash.is_none() && grant.needs_secret() {
            let why = match grant.key {
                KeyForm::Hashed => "a part of the entity's key is masked or not granted",
                KeyForm::Clear(_) => "a field is masked by `hash`",
            };
            return Err(EntitlementError::NoSecret { subscription: name(), why });
        }
        let validity = Validity::compile(subscription, resource, zone);
        let validity = validity.ok_or_else(|| EntitlementError::Dates { subscription: name() })?;
        let mut compiled = Self {
            subscription: name(),
            entity: Arc::clone(entity),
            validity,
            columns: grant.columns,
            masks: grant.masks,
            key: grant.key,
            condition,
            hash,
            zone: Zone::new(zone.clone()),
            reads: Arc::default(),
            fingerprint: [0; 32],
        };
        compiled.reads = compiled.take_reads();
        compiled.fingerprint = compiled.take_fingerprint(resource);
        Ok(compiled)
    }

    /// What the subscriber receives, column by column.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    #[must_use]
    pub fn key(&self) -> &KeyForm {
        &self.key
    }

    #[must_use]
    pub fn entity(&self) -> &Arc<Entity> {
        &self.entity
    }

    /// For each field of the entity whether [`Entitlement::decide`] looks at it: what it decides is the same where the others are null.
    #[must_use]
    pub fn reads(&self) -> Arc<[bool]> {
        Arc::clone(&self.reads)
    }

    /// Changes whenever something else would be delivered of the same record: fields, masks and what they ask, condition, key or secret.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether the subscription may be served at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        self.validity.at(now)
    }

    /// What the subscriber receives of `record` at `now`.
    #[must_use]
    pub fn decide<'a>(&self, now: Timestamp, record: Record<'_, 'a>) -> Decision<'a> {
        if let Standing::Stopped(stop) = self.validity.at(now) {
            return Decision::Stopped(stop);
        }
        let key = self.row_key(record.key);
        let Some(fields) = record.fields else { return Decision::Delete(key, Gone::Deleted) };
        match self.condition.as_ref().map(|condition| condition.holds(fields)) {
            Some(Ok(false)) => return Decision::Delete(key, Gone::NotGranted),
            Some(Err(error)) => return Decision::Delete(key, Gone::Unjudged(error)),
            None | Some(Ok(true)) => {}
        }
        let cells = self.project(record.key, fields, record.source_us);
        Decision::Deliver(Row { key, cells })
    }

    fn row_key<'a>(&self, key: &[StandardValue<'a>]) -> RowKey<'a> {
        let canonical = canonical(key);
        match (&self.key, &self.hash) {
            (KeyForm::Clear(_), _) => RowKey { id: canonical, clear: key.to_vec() },
            // A hashed key without a secret is an error of `compile`.
            (KeyForm::Hashed, hash) => {
                let id = hash.as_ref().map(|hash| hash.key(&canonical).to_vec()).unwrap_or_default();
                RowKey { id, clear: Vec::new() }
            }
        }
    }

    fn project<'a>(&self, key: &[StandardValue<'a>], fields: &[StandardValue<'a>], source_us: i64) -> Vec<StandardValue<'a>> {
        let clock = Clock::at(source_us, &self.zone);
        let is_division = |name: &str| self.entity.is_division_name(name);
        let masking = Masking { hash: self.hash.as_ref(), is_division: &is_division };
        let cell = |column: &Column| match column.source {
            Source::KeyPart(at) => key.get(at).cloned().unwrap_or_default(),
            Source::Field(at) => {
                let (Some(Some(masks)), Some(value)) = (self.masks.get(at), fields.get(at)) else { return StandardValue::Null };
                let grade = self.entity.grade(at, fields, &clock);
                masking.apply(masks.get(grade as usize).copied().unwrap_or(Mask::Drop), value)
            }
        };
        self.columns.iter().map(cell).collect()
    }

    fn take_reads(&self) -> Arc<[bool]> {
        let granted = self.columns.iter().filter_map(|column| match column.source {
            Source::Field(at) => Some(at),
            Source::KeyPart(_) => None,
        });
        let asked = self.condition.as_ref().map(Condition::asks).unwrap_or_default().iter().copied();
        let read: BTreeSet<usize> = granted.chain(asked).chain(self.entity.graded_by()).collect();
        (0..self.entity.fields.len()).map(|at| read.contains(&at)).collect()
    }

    fn take_fingerprint(&self, resource: &Resource) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut put = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        put(resource.name.as_str());
        put(&self.entity.name);
        for column in &self.columns {
            put(&column.name);
            put(&format!("{:?}", column.kind));
            put(&column.masks);
        }
        put(&format!("{:?}", self.key));
        put(self.condition.as_ref().map_or("", Condition::source));
        // A keyed hash says whether the secret changed and nothing else about it.
        put(&self.hash.as_ref().map(|hash| hex::encode(hash.value(b"fingerprint"))).unwrap_or_default());
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests;
