//! Standard records out of their Avro bytes, by the schema they were written with, in the order of the entity.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use foldhash::fast::RandomState;
use guitong_log::Record;
use guitong_log::registry::{RegistryError, SchemaRegistry};
use guitong_schemas::avro::{Value, frame};
use guitong_schemas::position::Version;
use guitong_schemas::standard::{Entity, StandardValue, Written, WrittenError};
use thiserror::Error;

/// Why a record can never be delivered as it is. Holds no data of it.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    #[error("the record has no key")]
    NoKey,
    #[error("the record's header `{0}` is missing or damaged")]
    Header(&'static str),
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
    #[error("the schema registry has no schema {0}")]
    NoSchema(u32),
    #[error("{0}")]
    Value(#[from] WrittenError),
    #[error("the key has {has} parts, not {wanted}")]
    Key { has: usize, wanted: usize },
}

/// A record in the entity's order.
#[derive(Debug)]
pub(crate) struct Decoded<'r> {
    pub(crate) key: Vec<StandardValue<'r>>,
    /// `None` for a delete.
    pub(crate) fields: Option<Vec<StandardValue<'r>>>,
    pub(crate) version: Version,
    /// Commit time at the source, microseconds since 1970-01-01T00:00Z.
    pub(crate) source_us: i64,
    /// The record is as it was.
    pub(crate) unchanged: bool,
}

/// Compiled schemas that all subscriptions of a node share, by entity and text; those that nobody has any more go.
#[derive(Debug, Default)]
pub(crate) struct Plans(Mutex<HashMap<(usize, Arc<str>), Plan>>);

#[derive(Debug)]
struct Plan {
    /// Its place in memory, by which it is looked up, is given to no other as long as this is here.
    _entity: Weak<Entity>,
    written: Weak<Written>,
}

impl Plans {
    /// `None` where the schema is not one of the entity's records.
    fn of(&self, entity: &Arc<Entity>, schema: &Arc<str>) -> Option<Arc<Written>> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::as_ptr(entity).addr(), Arc::clone(schema));
        if let Some(written) = plans.get(&key).and_then(|plan| plan.written.upgrade()) {
            return Some(written);
        }
        let written = Arc::new(Written::compile(entity, schema).ok()?);
        plans.retain(|_, plan| plan.written.strong_count() > 0);
        plans.insert(key, Plan { _entity: Arc::downgrade(entity), written: Arc::downgrade(&written) });
        Some(written)
    }
}

/// Compiled schemas by id. Clones share what is compiled.
#[derive(Debug, Clone)]
pub(crate) struct Schemas {
    registry: Arc<dyn SchemaRegistry>,
    entity: Arc<Entity>,
    plans: Arc<Plans>,
    /// For each field of the entity whether anybody looks at it.
    reads: Arc<[bool]>,
    writers: Arc<HashMap<u32, Option<Arc<Written>>, RandomState>>,
}

impl Schemas {
    /// `reads`: for each field of the entity whether it is to be read; the others are null.
    pub(crate) fn new(registry: Arc<dyn SchemaRegistry>, entity: Arc<Entity>, plans: Arc<Plans>, reads: Arc<[bool]>) -> Self {
        Self { registry, entity, plans, reads, writers: Arc::default() }
    }

    /// Fetches the schemas of `records` that are not known yet. One that the registry does not have makes its records
    /// unreadable, not the whole.
    pub(crate) async fn prepare(&mut self, records: &[Record]) -> Result<(), RegistryError> {
        let framed = records.iter().flat_map(|record| [&record.key, &record.value]).flatten();
        let ids: BTreeSet<u32> = framed.filter_map(|framed| Some(frame::read(framed).ok()?.0)).collect();
        for id in ids {
            if self.writers.contains_key(&id) {
                continue;
            }
            let writer = match self.registry.schema(id).await {
                Ok(schema) => self.plans.of(&self.entity, &schema),
                Err(RegistryError::NoSchema { .. }) => None,
                Err(error) => return Err(error),
            };
            Arc::make_mut(&mut self.writers).insert(id, writer);
        }
        Ok(())
    }

    /// Schemas that the registry did not have are asked for again.
    pub(crate) fn forget_missing(&mut self) {
        Arc::make_mut(&mut self.writers).retain(|_, writer| writer.is_some());
    }

    fn writer<'r>(&'r self, framed: &'r [u8]) -> Result<(&'r Written, &'r [u8]), Unreadable> {
        let (id, body) = frame::read(framed)?;
        let writer = self.writers.get(&id).and_then(Option::as_deref).ok_or(Unreadable::NoSchema(id))?;
        Ok((writer, body))
    }

    pub(crate) fn read_key<'r>(&'r self, record: &'r Record) -> Result<Vec<StandardValue<'r>>, Unreadable> {
        let (writer, body) = self.writer(record.key.as_ref().ok_or(Unreadable::NoKey)?)?;
        let key = writer.as_written(body).map_err(WrittenError::from)?;
        if key.len() != self.entity.key.len() {
            return Err(Unreadable::Key { has: key.len(), wanted: self.entity.key.len() });
        }
        let key = key.into_iter().zip(&self.entity.key).map(|(value, part)| match value {
            Value::Text(text) => Ok(StandardValue::Text(Cow::Borrowed(text))),
            _ => Err(Unreadable::Value(WrittenError::Type(part.name.clone()))),
        });
        key.collect()
    }

    pub(crate) fn read<'r>(&'r self, record: &'r Record) -> Result<Decoded<'r>, Unreadable> {
        self.read_into(Vec::new(), record)
    }

    /// As [`Schemas::read`], into what an earlier record's fields lay in.
    pub(crate) fn read_into<'r>(&'r self, spare: Vec<StandardValue<'r>>, record: &'r Record) -> Result<Decoded<'r>, Unreadable> {
        let key = self.read_key(record)?;
        let fields = record.value.as_ref().map(|framed| {
            let (writer, body) = self.writer(framed)?;
            let reads = |at: usize| self.reads.get(at).copied().unwrap_or_default();
            Ok::<_, Unreadable>(writer.read_some(&self.entity, body, reads, spare)?)
        });
        let fields = fields.transpose()?;
        let text = |name: &'static str| {
            let bytes = record.header(name).ok_or(Unreadable::Header(name))?;
            std::str::from_utf8(bytes).map_err(|_| Unreadable::Header(name))
        };
        let version = text("guitong-version")?.parse().map_err(|_| Unreadable::Header("guitong-version"))?;
        let source_us = match record.header("guitong-source-ts") {
            Some(_) => text("guitong-source-ts")?.parse().map_err(|_| Unreadable::Header("guitong-source-ts"))?,
            None => record.timestamp_ms.saturating_mul(1000),
        };
        let unchanged = record.header("guitong-unchanged").is_some();
        Ok(Decoded { key, fields, version, source_us, unchanged })
    }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::standard::Standard;

    use super::*;

    #[test]
    fn a_schema_is_compiled_once_for_an_entity_and_goes_with_the_last_who_has_it() {
        let (plans, standard) = (Plans::default(), Standard::builtin());
        let (company, person) =
            (standard.entity("LegalEntity").unwrap(), Arc::new(standard.entity("NaturalPerson").unwrap().as_ref().clone()));
        let schema: Arc<str> = company.schema_json.as_str().into();
        let one = plans.of(company, &schema).unwrap();
        assert!(Arc::ptr_eq(&one, &plans.of(company, &schema).unwrap()));
        assert!(plans.of(&person, &schema).is_none_or(|other| !Arc::ptr_eq(&one, &other)), "another entity's");
        assert!(plans.of(company, &"{}".into()).is_none());
        drop(one);
        plans.of(&person, &person.schema_json.as_str().into()).unwrap();
        assert_eq!(plans.0.lock().unwrap().len(), 1);
    }
}
