//! Delivered rows in Avro: schemas, and files.

mod container;

use guitong_govern::{Column, ColumnKind};
use serde_json::{Value, json};

pub(crate) use self::container::Container;
use crate::sink::SinkPlan;

/// Namespace of the schemas.
pub(crate) const NAMESPACE: &str = "cn.guitong.delivered";

/// What of a subscription's name a schema's can hold.
pub(crate) fn record_name(plan: &SinkPlan) -> String {
    plan.subscription.replace('-', "_")
}

/// A record of `first` and what is granted, each of which may be missing.
pub(crate) fn record(plan: &SinkPlan, first: Vec<Value>) -> Value {
    let columns = plan.columns.iter().map(column);
    let fields: Vec<_> = first.into_iter().chain(columns).collect();
    json!({ "type": "record", "name": record_name(plan), "namespace": NAMESPACE, "doc": plan.title, "fields": fields })
}

fn column(column: &Column) -> Value {
    field(&column.name, kind(column.kind), &column.title)
}

/// A field that may be missing.
pub(crate) fn field(name: &str, kind: Value, title: &str) -> Value {
    json!({ "name": name, "type": ["null", kind], "default": null, "doc": title })
}

/// As the standard has them.
pub(crate) fn kind(kind: ColumnKind) -> Value {
    match kind {
        ColumnKind::Text => json!("string"),
        ColumnKind::Int => json!("long"),
        ColumnKind::Date => json!({ "type": "int", "logicalType": "date" }),
        ColumnKind::Time => json!({ "type": "long", "logicalType": "timestamp-micros" }),
        ColumnKind::Decimal { precision, scale } => {
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
        }
        ColumnKind::TextList => json!({ "type": "array", "items": "string" }),
        ColumnKind::Steps => json!({ "type": "array", "items": steps() }),
    }
}

fn steps() -> Value {
    let (text, time) = (json!("string"), kind(ColumnKind::Time));
    let of = [("name", &text), ("handler", &text), ("started", &time), ("ended", &time), ("action", &text), ("opinion", &text)];
    let fields = of.map(|(name, kind)| json!({ "name": name, "type": ["null", kind], "default": null }));
    json!({ "type": "record", "name": "Step", "fields": fields })
}

#[cfg(test)]
mod tests {
    use guitong_schemas::avro::RecordEncoder;
    use guitong_schemas::standard::{StandardValue, Step, avro_values};

    use super::*;

    #[test]
    fn every_kind_of_value_has_a_place_in_its_schema_and_may_be_missing() {
        let step = Step { name: Some("受理".to_owned()), started: Some(7), ..Step::default() };
        for (of, value) in [
            (ColumnKind::Text, StandardValue::Text("南宁".into())),
            (ColumnKind::Int, StandardValue::Int(-3)),
            (ColumnKind::Date, StandardValue::Date(20_000)),
            (ColumnKind::Time, StandardValue::Time(-5)),
            (ColumnKind::Decimal { precision: 18, scale: 2 }, StandardValue::Decimal { unscaled: -1, scale: 2 }),
            (ColumnKind::TextList, StandardValue::TextList(vec!["1".into(), "2".into()])),
            (ColumnKind::Steps, StandardValue::Steps(vec![step])),
        ] {
            let schema = json!({ "type": "record", "name": "r", "fields": [field("f", kind(of), "名")] });
            let encoder = RecordEncoder::compile(&schema.to_string()).unwrap();
            for value in [value, StandardValue::Null] {
                let mut numbers = Vec::new();
                encoder.write(&avro_values(std::slice::from_ref(&value), &mut numbers), &mut Vec::new()).unwrap();
            }
        }
    }
}
