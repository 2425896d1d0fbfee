//! Schema registries: one contract, a client for any Confluent-compatible one and one built into the embedded log.

mod builtin;
mod client;
mod code;
pub mod http;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
pub use builtin::BuiltinRegistry;
pub use client::RegistryClient;
pub use guitong_schemas::avro::compat::Compatibility;
use thiserror::Error;

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Confluent's 409.
    #[error("subject {subject}: the schema is not compatible with an earlier version: {detail}")]
    Incompatible { subject: String, detail: String },
    /// Confluent's 42201.
    #[error("subject {subject}: the registry does not accept the schema: {detail}")]
    Invalid { subject: String, detail: String },
    /// Confluent's 40403.
    #[error("no schema has the id {id}")]
    NoSchema { id: u32 },
    #[error("the schema registry is not reachable: {detail}")]
    Unavailable { detail: String },
    /// Any other answer of the registry, with its code.
    #[error("the schema registry answered {code}: {detail}")]
    Answer { code: u32, detail: String },
}

impl RegistryError {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Subjects, their versions, and schemas by id. Answers that never change are cached by the implementations.
#[async_trait]
pub trait SchemaRegistry: fmt::Debug + Send + Sync {
    /// Id of `schema` (Avro JSON) under `subject`; registers it where it is new.
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError>;

    /// Avro JSON of the schema with this id.
    async fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError>;

    async fn set_compatibility(&self, subject: &str, level: Compatibility) -> Result<(), RegistryError>;

    /// As [`SchemaRegistry::register`], under a subject that keeps `level` from its first version on.
    async fn register_with(&self, subject: &str, schema: &str, level: Compatibility) -> Result<u32, RegistryError> {
        match self.set_compatibility(subject, level).await {
            // Apicurio knows a subject only once it has a version, and the first one is compatible with everything.
            Err(RegistryError::Answer { code: code::NO_SUBJECT, .. }) => {
                let id = self.register(subject, schema).await?;
                self.set_compatibility(subject, level).await?;
                Ok(id)
            }
            Err(error) => Err(error),
            Ok(()) => self.register(subject, schema).await,
        }
    }
}
