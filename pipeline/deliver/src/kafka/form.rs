//! Rows as a topic has them: keys and values in Avro by a registry's schemas, or in JSON.

use bytes::Bytes;
use guitong_govern::{Column, KeyForm, Row, RowKey};
use guitong_log::registry::{Compatibility, RegistryError, SchemaRegistry};
use guitong_schemas::avro::{RecordEncoder, Value};
use guitong_schemas::standard::avro_values;
use serde_json::json;

use crate::avro::{NAMESPACE, field, record, record_name};
use crate::event::{cells_of, key_names, key_of, object};
use crate::sink::{KEY, SinkError, SinkErrorKind, SinkPlan};

/// A format, ready for a subscription's rows.
#[derive(Debug)]
pub(super) enum Form {
    /// By the names of the key's parts.
    Json(Vec<String>),
    Avro(Box<AvroForm>),
}

#[derive(Debug)]
pub(super) struct AvroForm {
    key: Written,
    value: Written,
    /// The key stands before the columns, none of which shows it.
    is_hashed: bool,
}

/// A registered schema.
#[derive(Debug)]
struct Written {
    id: u32,
    encoder: RecordEncoder,
}

impl Form {
    pub(super) fn json(plan: &SinkPlan) -> Self {
        Self::Json(key_names(&plan.key, &plan.columns))
    }

    /// Registers the schemas where they are new. A value's fields may all be missing, so that one which is granted or granted no longer
    /// is compatible with every earlier version; a key of another form is another key.
    pub(super) async fn avro(registry: &dyn SchemaRegistry, plan: &SinkPlan, topic: &str) -> Result<Self, SinkError> {
        let is_hashed = plan.key == KeyForm::Hashed;
        let key = Written::register(registry, &format!("{topic}-key"), key_schema(plan), Compatibility::None).await?;
        let key_field = is_hashed.then(|| field(KEY, json!("string"), ""));
        let value = record(plan, key_field.into_iter().collect());
        let value = Written::register(registry, &format!("{topic}-value"), value, Compatibility::FullTransitive).await?;
        Ok(Self::Avro(Box::new(AvroForm { key, value, is_hashed })))
    }

    /// What keys' bytes depend on beside the key itself.
    pub(super) fn of_keys(&self) -> Vec<String> {
        match self {
            Self::Json(names) => std::iter::once("json").chain(names.iter().map(String::as_str)).map(str::to_owned).collect(),
            Self::Avro(avro) => vec!["avro".to_owned(), avro.key.id.to_string()],
        }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Avro(_) => "application/avro",
        }
    }

    pub(super) fn key(&self, row: &RowKey<'_>) -> Result<Bytes, SinkError> {
        match self {
            Self::Json(names) => Ok(object(key_of(row, names).into_iter()).into()),
            Self::Avro(avro) => {
                let texts = match row.clear.as_slice() {
                    [] => vec![hex::encode(&row.id)],
                    parts => parts.iter().map(ToString::to_string).collect(),
                };
                avro.key.encode(&texts.iter().map(|text| Value::Text(text)).collect::<Vec<_>>())
            }
        }
    }

    pub(super) fn value(&self, row: &Row<'_>, columns: &[Column]) -> Result<Bytes, SinkError> {
        match self {
            Self::Json(names) => {
                Ok(object(key_of(&row.key, names).into_iter().chain(cells_of(columns, &row.cells, names))).into())
            }
            Self::Avro(avro) => {
                let (mut numbers, hash) = (Vec::new(), hex::encode(&row.key.id));
                let mut fields = avro_values(&row.cells, &mut numbers);
                if avro.is_hashed {
                    fields.insert(0, Value::Text(&hash));
                }
                avro.value.encode(&fields)
            }
        }
    }
}

impl Written {
    async fn register(
        registry: &dyn SchemaRegistry,
        subject: &str,
        schema: serde_json::Value,
        level: Compatibility,
    ) -> Result<Self, SinkError> {
        let schema = schema.to_string();
        let id = registry.register_with(subject, &schema, level).await.map_err(refused)?;
        let encoder = RecordEncoder::compile(&schema)
            .map_err(|error| SinkError::new(SinkErrorKind::Shape, format!("the schema of subject {subject}: {error}")))?;
        Ok(Self { id, encoder })
    }

    fn encode(&self, fields: &[Value<'_>]) -> Result<Bytes, SinkError> {
        let mut out = Vec::new();
        let encoded = self.encoder.encode(fields, self.id, &mut out);
        encoded.map_err(|error| SinkError::new(SinkErrorKind::Data, error.to_string()))?;
        Ok(out.into())
    }
}

fn refused(error: RegistryError) -> SinkError {
    let kind = match &error {
        error if error.is_transient() => SinkErrorKind::Unreachable,
        RegistryError::Answer { code: 401 | 403, .. } => SinkErrorKind::Denied,
        _ => SinkErrorKind::Shape,
    };
    let advice = match &error {
        RegistryError::Incompatible { .. } => {
            "; name another `topic`, or delete the subject's earlier versions once nobody reads records of them"
        }
        _ => "",
    };
    SinkError::new(kind, format!("{error}{advice}"))
}

/// Only what decides the key's bytes: a schema with other words would have another id, and its keys other bytes.
fn key_schema(plan: &SinkPlan) -> serde_json::Value {
    let names = key_names(&plan.key, &plan.columns);
    let fields: Vec<_> = names.into_iter().map(|name| json!({ "name": name, "type": "string" })).collect();
    json!({ "type": "record", "name": format!("{}_key", record_name(plan)), "namespace": NAMESPACE, "fields": fields })
}
