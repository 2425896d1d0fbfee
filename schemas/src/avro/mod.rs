//! Avro on the wire: the schema of a table in Debezium's form, compiled plans that turn row images into bytes and bytes into
//! borrowed values, the Confluent frame, and schema compatibility. Rows can be written as JSON text as well; nothing reads that.
//!
//! Invariants: a plan writes exactly what its schema says (`apache-avro` decodes it to the same values); a snapshot row and a
//! streamed row with the same cells give the same bytes; decoding bytes from outside ends in a value or an error, and allocates
//! no more than the input's length allows.

pub mod compat;
pub mod decode;
pub mod encode;
pub mod form;
pub mod frame;
pub mod names;
pub mod record;
pub mod schema;
#[cfg(test)]
mod tests;
mod validators;
mod varint;

pub use decode::{DecodeError, DecodePlan, Value};
pub use encode::{EncodeError, EncodePlan, Marks, NoticePlan, Stamp};
pub use form::EventForm;
pub use names::{event_topic, field_name, topic_name};
pub use record::RecordEncoder;
pub use schema::{SchemaError, TableContext};
pub use validators::set_name_validators;
