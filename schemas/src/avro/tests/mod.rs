//! The plans against `apache-avro`, against each other, and against what Debezium publishes.

mod forms;
mod golden;
mod random;

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Oracle;
use serde_json::{Value as Json, json};

use super::*;
use crate::change::{Before, Change, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use crate::position::Version;
use crate::table::{Column, ColumnType, Table, TableName};

const CONTEXT: TableContext<'_> =
    TableContext { prefix: "gx", name: "gx", database: "gx", kind: schema::SourceKind::Postgres, form: &EventForm::DEFAULT };

fn column(name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column { name: name.to_owned(), kind, nullable, default: None }
}

/// A cell of a row that is to be encoded.
#[derive(Debug, Clone)]
enum Given {
    Null,
    Absent,
    Text(Vec<u8>),
}

fn row<'a>(cells: impl IntoIterator<Item = &'a Given>) -> RowImage {
    let mut builder = RowBuilder::default();
    for cell in cells {
        match cell {
            Given::Null => builder.null(),
            Given::Absent => builder.absent(),
            Given::Text(text) => builder.text(text).unwrap(),
        }
    }
    builder.finish()
}

fn texts(cells: &[Option<&str>]) -> RowImage {
    let cells: Vec<Given> = cells.iter().map(|cell| cell.map_or(Given::Null, |text| Given::Text(text.into()))).collect();
    row(&cells)
}

fn change(table: &Arc<Table>, operation: Operation, before: Before, after: Option<RowImage>) -> Change {
    Change {
        table: Arc::clone(table),
        operation,
        version: Version::default(),
        before,
        after,
        origin: Origin {
            ts_us: 1_795_415_839_442_826,
            snapshot: SnapshotMark::Streamed,
            place: Place::Postgres { xid: Some(7), lsn: 2_034_520_432, last_commit_lsn: Some(2_034_520_000), order: None },
        },
    }
}

fn encode(plan: &EncodePlan, change: &Change) -> Result<(Vec<u8>, Marks), EncodeError> {
    let (mut out, mut marks) = (vec![], Marks::default());
    plan.value(change, Stamp { schema_id: 9, processed_us: 1_795_415_839_823_621 }, &mut out, &mut marks)?;
    Ok((out, marks))
}

/// What `apache-avro` reads, in the form of the dumps: logical types off, bytes as `{"$hex": ..}`.
fn oracle(schema: &str, framed: &[u8]) -> Json {
    set_name_validators();
    let plain = schema.replace(r#","logicalType":"decimal""#, "");
    let schema = Schema::parse_str(&plain).unwrap_or_else(|error| panic!("{error}: {schema}"));
    let (_, mut body) = frame::read(framed).unwrap();
    let value = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut body).unwrap();
    assert!(body.is_empty(), "{} bytes are left", body.len());
    of_oracle(&value)
}

fn hex_json(bytes: &[u8]) -> Json {
    json!({"$hex": hex::encode(bytes)})
}

fn float_json(value: f64) -> Json {
    match value {
        value if value.is_nan() => json!({"$float": "NaN"}),
        f64::INFINITY => json!({"$float": "Infinity"}),
        f64::NEG_INFINITY => json!({"$float": "-Infinity"}),
        value => json!(value),
    }
}

fn of_oracle(value: &Oracle) -> Json {
    match value {
        Oracle::Null => Json::Null,
        Oracle::Boolean(flag) => json!(flag),
        Oracle::Int(number) => json!(number),
        Oracle::Long(number) => json!(number),
        Oracle::Float(number) => float_json((*number).into()),
        Oracle::Double(number) => float_json(*number),
        Oracle::String(text) => json!(text),
        Oracle::Bytes(bytes) => hex_json(bytes),
        Oracle::Union(_, inner) => of_oracle(inner),
        Oracle::Array(items) => items.iter().map(of_oracle).collect(),
        Oracle::Record(fields) => Json::Object(fields.iter().map(|(name, value)| (name.clone(), of_oracle(value))).collect()),
        other => panic!("{other:?}"),
    }
}

/// What our decode plan reads, in the same form.
fn of_plan(fields: &[decode::Field], values: &[Value<'_>]) -> Json {
    let named = fields.iter().zip(values);
    Json::Object(named.map(|(field, value)| (field.name.to_string(), of_value(&field.semantic, value))).collect())
}

fn of_value(semantic: &decode::Semantic, value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::Float(number) => float_json((*number).into()),
        Value::Double(number) => float_json(*number),
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => hex_json(bytes),
        Value::Decimal { unscaled, scale } if *semantic == decode::Semantic::VariableDecimal => {
            json!({"scale": scale, "value": hex_json(unscaled)})
        }
        Value::Decimal { unscaled, .. } => hex_json(unscaled),
        Value::List(items) => items.iter().map(|item| of_value(&decode::Semantic::Plain, item)).collect(),
        Value::Record(values) if *semantic == decode::Semantic::Point => match values.as_slice() {
            [x, y, wkb, srid] => {
                let of = |value| of_value(&decode::Semantic::Plain, value);
                json!({"x": of(x), "y": of(y), "wkb": of(wkb), "srid": of(srid)})
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn enterprise() -> Arc<Table> {
    Arc::new(Table {
        name: TableName::new("public", "企业登记"),
        columns: vec![
            column("统一社会信用代码", ColumnType::Text, false),
            column("注册资本", ColumnType::Decimal { precision: 18, scale: 2 }, true),
            Column { default: Some("1".to_owned()), ..column("经营状态", ColumnType::Int16, true) },
            column("备注", ColumnType::Text, false),
        ],
        key: vec![0],
    })
}

#[test]
fn absent_and_lossy_columns_are_named_and_filled() {
    let table = enterprise();
    let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
    assert_eq!(&**plan.topic(), "gx.public._u4f01_u4e1a_u767b_u8bb0");
    let after = row(&[Given::Text(b"91450100MA5N000001".into()), Given::Text(b"NaN".into()), Given::Null, Given::Absent]);
    let (bytes, marks) = encode(&plan, &change(&table, Operation::Update, Before::None, Some(after.clone()))).unwrap();
    assert_eq!(marks, Marks { absent: vec![3], lossy: vec![1], ..Marks::default() });
    let wanted = json!({
        "统一社会信用代码": "91450100MA5N000001", "注册资本": null, "经营状态": null, "备注": "__debezium_unavailable_value"
    });
    assert_eq!(oracle(plan.value_schema().unwrap(), &bytes)["after"], wanted);
    let decoder = DecodePlan::compile(plan.value_schema().unwrap()).unwrap();
    let (id, body) = frame::read(&bytes).unwrap();
    let envelope = decoder.envelope(body).unwrap();
    assert_eq!((id, envelope.operation, &envelope.before, envelope.snapshot), (9, Operation::Update, &None, "false"));
    assert_eq!(envelope.source_ts_us, Some(1_795_415_839_442_826));
    assert_eq!(of_plan(decoder.fields(), &envelope.after.unwrap()), wanted);
    let mut key = vec![];
    plan.key(&after, 3, &mut key).unwrap();
    let keys = DecodePlan::compile(plan.key_schema().unwrap()).unwrap();
    assert_eq!(keys.record(frame::read(&key).unwrap().1).unwrap(), vec![Value::Text("91450100MA5N000001")]);
    assert_eq!(oracle(plan.key_schema().unwrap(), &key), json!({"统一社会信用代码": "91450100MA5N000001"}));
}

#[test]
fn fillers_of_a_key_only_before_are_named_where_they_look_like_data() {
    let table = enterprise();
    let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
    let before = Before::Key(texts(&[Some("91450100MA5N000001"), None, None, None]));
    let (bytes, marks) = encode(&plan, &change(&table, Operation::Delete, before, None)).unwrap();
    assert_eq!(marks, Marks { absent: vec![3], ..Marks::default() });
    assert_eq!(
        oracle(plan.value_schema().unwrap(), &bytes)["before"],
        json!({"统一社会信用代码": "91450100MA5N000001", "注册资本": null, "经营状态": null, "备注": ""})
    );
}

#[test]
fn errors_name_the_column_and_the_place_and_never_the_value() {
    let table = enterprise();
    let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
    let bad = |cells: &[Option<&str>]| {
        encode(&plan, &change(&table, Operation::Create, Before::None, Some(texts(cells)))).unwrap_err().to_string()
    };
    let message = bad(&[Some("a"), Some("12x4.50"), None, Some("b")]);
    assert!(message.contains("column 注册资本") && message.contains("byte 2 of 7") && !message.contains("12x4"), "{message}");
    assert!(bad(&[Some("a"), None, Some("40000"), Some("b")]).contains("range"));
    assert!(bad(&[Some("a"), None, None, None]).contains("NOT NULL"));
    assert!(bad(&[Some("a")]).contains("fewer columns"));
    assert!(bad(&[Some("a"), None, None, Some("b"), None]).contains("more columns"));
    let mut out = b"kept".to_vec();
    assert!(plan.key(&texts(&[None, None, None, None]), 1, &mut out).is_err());
    assert_eq!(out, b"kept");
}

#[test]
fn two_columns_never_share_a_field() {
    let columns = vec![column("a b", ColumnType::Int32, true), column("a_u0020b", ColumnType::Int32, true)];
    let table = Table { name: TableName::new("public", "t"), columns, key: vec![] };
    assert!(EncodePlan::compile(&table, &CONTEXT).is_ok());
    let columns = vec![column("a", ColumnType::Int32, true), column("a", ColumnType::Int32, true)];
    let table = Table { name: TableName::new("public", "t"), columns, key: vec![] };
    assert!(matches!(EncodePlan::compile(&table, &CONTEXT), Err(SchemaError::Collision { .. })));
    let long = Table { name: TableName::new("public", "企".repeat(50)), columns: vec![], key: vec![] };
    assert!(matches!(EncodePlan::compile(&long, &CONTEXT), Err(SchemaError::TopicTooLong { .. })));
}

#[test]
fn what_is_no_whole_value_is_null_and_lossy() {
    let cases = [
        (ColumnType::Timestamp { precision: 6 }, "294276-12-31 23:59:59", Json::Null),
        (ColumnType::VariableDecimal, "Infinity", Json::Null),
        (ColumnType::Array(Box::new(ColumnType::Decimal { precision: 5, scale: 1 })), "{1.5,NaN}", json!([{"$hex": "0f"}, null])),
        (ColumnType::Array(Box::new(ColumnType::Decimal { precision: 5, scale: 1 })), "{{1.5,NaN}}", Json::Null),
    ];
    for (kind, text, wanted) in cases {
        let table = Arc::new(Table { name: TableName::new("public", "t"), columns: vec![column("c", kind, true)], key: vec![] });
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let (bytes, marks) = encode(&plan, &change(&table, Operation::Create, Before::None, Some(texts(&[Some(text)])))).unwrap();
        assert_eq!(marks.lossy, vec![0], "{text}");
        assert_eq!(oracle(plan.value_schema().unwrap(), &bytes)["after"]["c"], wanted, "{text}");
    }
}

/// Elements in row-major order and dimensions, from which the value can be made again; in `before` and `after`, in Avro and in JSON.
#[test]
fn arrays_of_more_dimensions_are_their_elements_and_their_dimensions() {
    let array = |of| ColumnType::Array(Box::new(of));
    let cases = [
        (ColumnType::Int32, "{{1,2},{3,4}}", json!([1, 2, 3, 4]), "[1:2][1:2]"),
        (ColumnType::Int32, "{{{1,2,3}},{{NULL,5,6}}}", json!([1, 2, 3, null, 5, 6]), "[1:2][1:1][1:3]"),
        (ColumnType::Int32, "[2:3]={1,2}", json!([1, 2]), "[2:3]"),
        (ColumnType::Int32, "[0:1][-1:0]={{1,2},{3,4}}", json!([1, 2, 3, 4]), "[0:1][-1:0]"),
        (
            ColumnType::Text,
            r#"{{"a,b","}{"},{"\"","\\"},{NULL,"NULL"}}"#,
            json!(["a,b", "}{", "\"", "\\", null, "NULL"]),
            "[1:3][1:2]",
        ),
        (ColumnType::Bool, "{{t,f}}", json!([true, false]), "[1:1][1:2]"),
    ];
    for (kind, text, wanted, dimensions) in cases {
        let table =
            Arc::new(Table { name: TableName::new("public", "t"), columns: vec![column("c", array(kind), true)], key: vec![] });
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let row = || texts(&[Some(text)]);
        let (bytes, marks) = encode(&plan, &change(&table, Operation::Update, Before::Full(row()), Some(row()))).unwrap();
        let told = vec![(0, dimensions.to_owned())];
        assert_eq!(marks, Marks { shaped: told.clone(), shaped_before: told.clone(), ..Marks::default() }, "{text}");
        let value = oracle(plan.value_schema().unwrap(), &bytes);
        assert_eq!((&value["after"]["c"], &value["before"]["c"]), (&wanted, &wanted), "{text}");
        let (_, marks) = encode(&plan, &change(&table, Operation::Delete, Before::Full(row()), None)).unwrap();
        assert_eq!(marks, Marks { shaped: told, ..Marks::default() }, "{text}");
    }
    for flat in ["{}", "{1,2}", "{NULL}"] {
        let table = Arc::new(Table {
            name: TableName::new("public", "t"),
            columns: vec![column("c", array(ColumnType::Int32), true)],
            key: vec![],
        });
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let (_, marks) = encode(&plan, &change(&table, Operation::Create, Before::None, Some(texts(&[Some(flat)])))).unwrap();
        assert_eq!(marks, Marks::default(), "{flat}");
    }
}

/// Two keys that differ in their dimensions alone would be one.
#[test]
fn an_array_of_more_dimensions_is_no_key() {
    let kind = ColumnType::Array(Box::new(ColumnType::Int32));
    let table = Arc::new(Table { name: TableName::new("public", "t"), columns: vec![column("c", kind, false)], key: vec![0] });
    let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
    let mut out = Vec::new();
    assert!(plan.key(&texts(&[Some("{1,2}")]), 1, &mut out).is_ok());
    assert!(plan.key(&texts(&[Some("{{1},{2}}")]), 1, &mut out).is_err());
}

#[test]
fn keys_as_json_are_what_a_json_converter_writes() {
    let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
    let columns = [
        ("编号", ColumnType::Text, "甲\"1"),
        ("n", ColumnType::Int64, "-7"),
        ("b", ColumnType::Bool, "t"),
        ("d", decimal, "1.23"),
        ("v", ColumnType::VariableDecimal, "1.5"),
        ("y", ColumnType::Bytes, "\\x0100"),
        ("t", ColumnType::ZonedTimestamp { precision: 0 }, "2024-01-01 08:00:00+08"),
    ];
    let table = Table {
        name: TableName::new("public", "t"),
        columns: columns.iter().map(|(name, kind, _)| column(name, kind.clone(), false)).collect(),
        key: (0..columns.len()).collect(),
    };
    let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
    let mut out = vec![];
    assert!(plan.key_json(&texts(&columns.each_ref().map(|(_, _, text)| Some(*text))), &mut out));
    let wanted =
        r#"{"编号":"甲\"1","n":-7,"b":true,"d":"ew==","v":{"scale":1,"value":"Dw=="},"y":"AQA=","t":"2024-01-01T00:00:00Z"}"#;
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
    let mut out = vec![];
    assert!(!plan.key_json(&texts(&[None; 7]), &mut out) && out.is_empty());
}

#[test]
fn change_log_sources_have_a_block_of_their_own() {
    let table = enterprise();
    let context =
        TableContext { kind: schema::SourceKind::Changelog, prefix: "raw.licence-office", name: "licence-office", ..CONTEXT };
    let plan = EncodePlan::compile(&table, &context).unwrap();
    let mut change = change(&table, Operation::Read, Before::None, Some(texts(&[Some("a"), None, None, Some("b")])));
    change.origin.place = Place::Changelog { change_id: 77 };
    change.origin.snapshot = SnapshotMark::LastInTable;
    let (bytes, _) = encode(&plan, &change).unwrap();
    let source = &oracle(plan.value_schema().unwrap(), &bytes)["source"];
    assert_eq!(source["change_id"], json!(77));
    assert_eq!(source["snapshot"], json!("last_in_data_collection"));
    assert_eq!(source["name"], json!("licence-office"));
    assert!(plan.value_schema().unwrap().contains(r#""namespace":"raw.licence_u002doffice.public._u4f01_u4e1a_u767b_u8bb0""#));
}

#[test]
fn entity_records_are_written_and_read() {
    let schema = r#"{"type":"record","name":"Entity","namespace":"cn.guitong","fields":[
        {"name":"uscc","type":"string"},
        {"name":"capital","type":["null",{"type":"bytes","logicalType":"decimal","precision":20,"scale":6}],"default":null},
        {"name":"established","type":["null",{"type":"int","logicalType":"date"}],"default":null},
        {"name":"state","type":{"type":"enum","name":"State","symbols":["OPEN","SHUT"]}},
        {"name":"industries","type":{"type":"array","items":"string"}}]}"#;
    let encoder = RecordEncoder::compile(schema).unwrap();
    let values = vec![
        Value::Text("91450100MA5N000001"),
        Value::Decimal { unscaled: &[0x0f, 0x42, 0x40], scale: 6 },
        Value::Int(16_587),
        Value::Text("SHUT"),
        Value::List(vec![Value::Text("F51"), Value::Text("F52")]),
    ];
    let mut out = vec![];
    encoder.encode(&values, 4, &mut out).unwrap();
    let read = oracle_record(schema, &out);
    assert_eq!(read.len(), 5);
    let decoder = DecodePlan::compile(schema).unwrap();
    assert_eq!(decoder.record(frame::read(&out).unwrap().1).unwrap(), values);
    assert_eq!(decoder.fields()[2].semantic, decode::Semantic::Date);
    let mut spans = vec![];
    decoder.spans(frame::read(&out).unwrap().1, &mut spans).unwrap();
    assert_eq!(&out[frame::LEN..][spans[0].clone()][1..], b"91450100MA5N000001");
    let mut wrong = values.clone();
    wrong[0] = Value::Null;
    let error = encoder.encode(&wrong, 4, &mut out).unwrap_err().to_string();
    assert!(error.contains("cn.guitong.Entity.uscc"), "{error}");
}

fn oracle_record(schema: &str, framed: &[u8]) -> Vec<(String, Oracle)> {
    set_name_validators();
    let schema = Schema::parse_str(schema).unwrap();
    let (_, mut body) = frame::read(framed).unwrap();
    match GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut body).unwrap() {
        Oracle::Record(fields) => fields,
        other => panic!("{other:?}"),
    }
}
