//! Records of the log as a dump has them, read by `apache-avro`, which is not ours.

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use guitong_log::registry::SchemaRegistry;
use guitong_schemas::avro::frame;
use serde_json::{Value as Json, json};

use super::Failure;

/// Schemas that were met, by id.
#[derive(Debug)]
pub struct Decoder {
    registry: Arc<dyn SchemaRegistry>,
    known: HashMap<u32, (Json, Schema)>,
}

impl Decoder {
    #[must_use]
    pub fn new(registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { registry, known: HashMap::new() }
    }

    /// The value, and where its schema stands in `used`, which holds the schemas met so far in their order.
    ///
    /// # Errors
    /// When the schema is not known, or the bytes are no value of it.
    pub async fn read(&mut self, framed: &[u8], used: &mut Vec<(u32, Json)>) -> Result<(usize, Json), Failure> {
        let (id, mut body) = frame::read(framed).map_err(Failure::new)?;
        if !self.known.contains_key(&id) {
            let text = self.registry.schema(id).await.map_err(Failure::new)?;
            let json: Json = serde_json::from_str(&text).map_err(Failure::new)?;
            let plain = without_logical_types(json.clone());
            let schema = Schema::parse(&plain).map_err(|error| Failure::new(format!("schema {id}: {error}")))?;
            self.known.insert(id, (json, schema));
        }
        let (json, schema) = self.known.get(&id).ok_or_else(|| Failure::new("no schema"))?;
        let index = used.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            used.push((id, json.clone()));
            used.len() - 1
        });
        let reader = GenericDatumReader::builder(schema).build().map_err(Failure::new)?;
        let value = reader.read_value(&mut body).map_err(|error| Failure::new(format!("a value of schema {id}: {error}")))?;
        if !body.is_empty() {
            return Err(Failure::new(format!("{} bytes follow a value of schema {id}", body.len())));
        }
        Ok((index, plain(&value)?))
    }
}

fn without_logical_types(schema: Json) -> Json {
    match schema {
        Json::Object(attributes) => Json::Object(
            attributes
                .into_iter()
                .filter(|(name, _)| name != "logicalType")
                .map(|(name, value)| if name == "default" { (name, value) } else { (name, without_logical_types(value)) })
                .collect(),
        ),
        Json::Array(items) => Json::Array(items.into_iter().map(without_logical_types).collect()),
        other => other,
    }
}

fn plain(value: &Avro) -> Result<Json, Failure> {
    Ok(match value {
        Avro::Null => Json::Null,
        Avro::Boolean(flag) => json!(flag),
        Avro::Int(number) => json!(number),
        Avro::Long(number) => json!(number),
        Avro::Float(number) => float(f64::from(*number))?,
        Avro::Double(number) => float(*number)?,
        Avro::String(text) => json!(text),
        Avro::Bytes(bytes) => json!({"$hex": hex::encode(bytes)}),
        Avro::Union(_, inner) => plain(inner)?,
        Avro::Array(items) => Json::Array(items.iter().map(plain).collect::<Result<_, _>>()?),
        Avro::Record(fields) => {
            let fields = fields.iter().map(|(name, value)| Ok((name.clone(), plain(value)?)));
            Json::Object(fields.collect::<Result<_, Failure>>()?)
        }
        other => return Err(Failure::new(format!("a dump has no form for {other:?}"))),
    })
}

/// The number as the JSON reader gives it for the same digits, since it is not exact to the last bit.
fn float(value: f64) -> Result<Json, Failure> {
    match value {
        value if value.is_nan() => Ok(json!({"$float": "NaN"})),
        f64::INFINITY => Ok(json!({"$float": "Infinity"})),
        f64::NEG_INFINITY => Ok(json!({"$float": "-Infinity"})),
        value => serde_json::from_str(&json!(value).to_string()).map_err(Failure::new),
    }
}
