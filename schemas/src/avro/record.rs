//! Writes flat records (entity records and their keys) by a compiled schema.

use std::sync::Arc;

use thiserror::Error;

use super::decode::{Field, Node, PlanError, Record, Value, parse};
use super::frame;
use super::varint::{write_bytes, write_long};

#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("{record} has {fields} fields, {values} values were given")]
    Count { record: String, fields: usize, values: usize },
    #[error("{record}.{field}: {problem}")]
    Field { record: String, field: String, problem: &'static str },
}

/// Compiled from an entity's schema.
#[derive(Debug)]
pub struct RecordEncoder {
    record: Arc<Record>,
}

impl RecordEncoder {
    /// # Errors
    /// [`PlanError`] where `schema` is no Avro record, or has a type that contains itself.
    pub fn compile(schema: &str) -> Result<Self, PlanError> {
        parse(schema).map(|record| Self { record })
    }

    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.record.fields
    }

    /// Appends the framed record to `out`: one value for each field, in the schema's order. An enum takes its symbol as text.
    ///
    /// # Errors
    /// [`RecordError`] where a value does not go with its field; `out` is then as it was.
    pub fn encode(&self, values: &[Value<'_>], schema_id: u32, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let start = out.len();
        frame::write(schema_id, out);
        self.write(values, out).inspect_err(|_| out.truncate(start))
    }

    /// Appends the record without a frame, as container files hold it.
    ///
    /// # Errors
    /// [`RecordError`] where a value does not go with its field; `out` then holds a part of the record.
    pub fn write(&self, values: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let fields = &self.record.fields;
        if fields.len() != values.len() {
            return Err(RecordError::Count { record: self.record.name.clone(), fields: fields.len(), values: values.len() });
        }
        for (field, value) in fields.iter().zip(values) {
            write_value(&field.node, value, out).map_err(|problem| RecordError::Field {
                record: self.record.name.clone(),
                field: field.name.to_string(),
                problem,
            })?;
        }
        Ok(())
    }
}

fn write_value(node: &Node, value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match (node, value) {
        (Node::Union(branches), value) => {
            let (index, branch) = branches
                .iter()
                .enumerate()
                .find(|(_, branch)| takes(branch, value))
                .ok_or("no branch of the union takes the value")?;
            write_long(out, index as i64);
            return write_value(branch, value, out);
        }
        (Node::Null, Value::Null) => {}
        (Node::Bool, Value::Bool(flag)) => out.push((*flag).into()),
        (Node::Int, Value::Int(number)) => write_long(out, i32::try_from(*number).map_err(|_| "a number beyond 32 bits")?.into()),
        (Node::Long, Value::Int(number)) => write_long(out, *number),
        (Node::Float, Value::Float(number)) => out.extend_from_slice(&number.to_le_bytes()),
        (Node::Double, Value::Double(number)) => out.extend_from_slice(&number.to_le_bytes()),
        (Node::Text, Value::Text(text)) => write_bytes(out, text.as_bytes()),
        (Node::Bytes, Value::Bytes(bytes)) => write_bytes(out, bytes),
        (Node::Fixed(size), Value::Bytes(bytes)) if bytes.len() == *size => out.extend_from_slice(bytes),
        (Node::Enum(symbols), Value::Text(text)) => {
            let index = symbols.iter().position(|symbol| symbol == text).ok_or("no symbol of the enum")?;
            write_long(out, index as i64);
        }
        (Node::Decimal { scale }, Value::Decimal { unscaled, scale: given }) if scale == given => write_bytes(out, unscaled),
        (Node::VariableDecimal, Value::Decimal { unscaled, scale }) => {
            write_long(out, (*scale).into());
            write_bytes(out, unscaled);
        }
        (Node::Array(items), Value::List(list)) => {
            if !list.is_empty() {
                write_long(out, list.len() as i64);
            }
            list.iter().try_for_each(|item| write_value(items, item, out))?;
            write_long(out, 0);
        }
        (Node::Map(of), Value::Map(entries)) => {
            if !entries.is_empty() {
                write_long(out, entries.len() as i64);
            }
            for (name, value) in entries {
                write_bytes(out, name.as_bytes());
                write_value(of, value, out)?;
            }
            write_long(out, 0);
        }
        (Node::Record(record), Value::Record(values)) if record.fields.len() == values.len() => {
            record.fields.iter().zip(values).try_for_each(|(field, value)| write_value(&field.node, value, out))?;
        }
        (_, Value::Null) => return Err("null in a field that takes none"),
        _ => return Err("a value of another type"),
    }
    Ok(())
}

/// Whether a union's branch is the one for `value`.
fn takes(node: &Node, value: &Value<'_>) -> bool {
    match (node, value) {
        (Node::Null, Value::Null)
        | (Node::Bool, Value::Bool(_))
        | (Node::Long, Value::Int(_))
        | (Node::Float, Value::Float(_))
        | (Node::Double, Value::Double(_))
        | (Node::Text, Value::Text(_))
        | (Node::Bytes, Value::Bytes(_))
        | (Node::VariableDecimal, Value::Decimal { .. })
        | (Node::Array(_), Value::List(_))
        | (Node::Map(_), Value::Map(_)) => true,
        (Node::Int, Value::Int(number)) => i32::try_from(*number).is_ok(),
        (Node::Enum(symbols), Value::Text(text)) => symbols.iter().any(|symbol| symbol == text),
        (Node::Fixed(size), Value::Bytes(bytes)) => bytes.len() == *size,
        (Node::Decimal { scale }, Value::Decimal { scale: given, .. }) => scale == given,
        (Node::Record(record), Value::Record(values)) => record.fields.len() == values.len(),
        _ => false,
    }
}
