//! Records that were made by another version of the entity are seen as ones of the version in force: a row that is as it was stays as
//! it was, and what it gave is not published anew.

use std::collections::BTreeSet;

use bytes::Bytes;
use guitong_log::OwnedLog;
use guitong_log::registry::RegistryError;
use guitong_schemas::avro::frame;
use guitong_schemas::standard::Written;

use super::worker::Worker;
use crate::error::SessionError;
use crate::keyed::entity::EntityState;
use crate::keyed::overlay::Overlay;
use crate::transform::encode::encode;

impl Worker {
    /// Loads who claims the entity keys, with their records.
    pub(crate) async fn load_entities(
        &mut self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        keys: Vec<Bytes>,
    ) -> Result<(), SessionError> {
        overlay.entities.load(owner, keys).await?;
        self.see_in_force(overlay.entities.seen().collect()).await
    }

    /// Has records of other versions be ones of the version in force.
    pub(crate) async fn see_in_force(&mut self, mut states: Vec<&mut EntityState>) -> Result<(), SessionError> {
        let in_force = self.names.value_schema;
        let schemas = states.iter().flat_map(|state| state.claims()).filter_map(|claim| Some(frame::read(&claim.record).ok()?.0));
        let others: BTreeSet<u32> = schemas.filter(|schema| *schema != in_force).collect();
        if others.is_empty() {
            return Ok(());
        }
        for schema in others {
            if !self.versions.contains_key(&schema) {
                let version = match self.registry.schema(schema).await {
                    Ok(json) => Written::compile(&self.mapping.entity, &json).ok(),
                    // The record stays as it is, and is published anew with the row's next change.
                    Err(RegistryError::NoSchema { .. }) => None,
                    Err(error) => return Err(SessionError::Transient(error.to_string())),
                };
                self.versions.insert(schema, version);
            }
        }
        for claim in states.iter_mut().flat_map(|state| state.claims_mut()) {
            if let Some(record) = self.in_force(&claim.record) {
                claim.record = record;
            }
        }
        Ok(())
    }

    /// A record of another version as one of the version in force.
    fn in_force(&self, record: &[u8]) -> Option<Bytes> {
        let (schema, body) = frame::read(record).ok()?;
        let version = self.versions.get(&schema)?.as_ref()?;
        let values = version.read(&self.mapping.entity, body).ok()?;
        let mut out = Vec::with_capacity(record.len() + 16);
        encode(&self.mapping, &values, self.names.value_schema, &mut out).ok()?;
        Some(out.into())
    }
}
