//! Error codes of Confluent's registry (Schema Registry API Reference, "Errors"). The first three digits are the HTTP status.

pub(crate) const INCOMPATIBLE: u32 = 409;
pub(crate) const NO_SUBJECT: u32 = 40_401;
pub(crate) const NO_VERSION: u32 = 40_402;
pub(crate) const NO_SCHEMA: u32 = 40_403;
pub(crate) const SUBJECT_SOFT_DELETED: u32 = 40_404;
pub(crate) const SUBJECT_NOT_SOFT_DELETED: u32 = 40_405;
pub(crate) const VERSION_SOFT_DELETED: u32 = 40_406;
pub(crate) const VERSION_NOT_SOFT_DELETED: u32 = 40_407;
pub(crate) const NO_LEVEL: u32 = 40_408;
pub(crate) const INVALID_SCHEMA: u32 = 42_201;
pub(crate) const INVALID_VERSION: u32 = 42_202;
pub(crate) const INVALID_LEVEL: u32 = 42_203;
pub(crate) const INVALID_SUBJECT: u32 = 42_208;
pub(crate) const STORE: u32 = 50_001;
