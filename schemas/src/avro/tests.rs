//! The plans against `apache-avro` and against each other.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Oracle;

use super::*;
use crate::change::{Before, Change, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use crate::position::Version;
use crate::table::{Column, ColumnType, Table, TableName};

const CONTEXT: TableContext<'_> =
    TableContext { prefix: "raw.licensing", name: "licensing", database: "djk", kind: schema::SourceKind::Postgres };

fn column(name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column { name: name.to_owned(), kind, nullable, default: None }
}

fn enterprise() -> Arc<Table> {
    Arc::new(Table {
        name: TableName::new("public", "企业登记"),
        columns: vec![
            column("统一社会信用代码", ColumnType::Text, false),
            column("注册资本", ColumnType::Decimal { precision: 18, scale: 2 }, true),
            column("成立日期", ColumnType::Date, true),
            Column { default: Some("1".to_owned()), ..column("经营状态", ColumnType::Int16, true) },
            column("备注", ColumnType::Text, true),
        ],
        key: vec![0],
    })
}

fn row(cells: &[Option<&str>]) -> RowImage {
    let mut builder = RowBuilder::default();
    for cell in cells {
        match cell {
            None => builder.null(),
            Some("\u{0}absent") => builder.absent(),
            Some(text) => builder.text(text.as_bytes()).unwrap(),
        }
    }
    builder.finish()
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
            place: Place::Postgres { xid: Some(7), lsn: 2_034_520_432, last_commit_lsn: Some(2_034_520_000) },
        },
    }
}

fn oracle(schema: &str, framed: &[u8]) -> Oracle {
    set_name_validators();
    let schema = Schema::parse_str(schema).unwrap_or_else(|error| panic!("{error}: {schema}"));
    let (_, mut body) = frame::read(framed).unwrap();
    let value = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut body).unwrap();
    assert!(body.is_empty(), "{} bytes are left", body.len());
    value
}

fn encode(plan: &EncodePlan, change: &Change) -> (Vec<u8>, Marks) {
    let (mut out, mut marks) = (vec![], Marks::default());
    plan.value(change, Stamp { schema_id: 9, processed_us: 1 }, &mut out, &mut marks).unwrap();
    (out, marks)
}

#[test]
fn an_enterprise_is_read_back_by_the_oracle_and_by_the_decode_plan() {
    let table = enterprise();
    let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
    assert_eq!(&**plan.topic(), "raw.licensing.public._u4f01_u4e1a_u767b_u8bb0");
    let after = row(&[Some("91450100MA5N000001"), Some("-1000000.00"), Some("2015-06-01"), None, Some("\u{0}absent")]);
    let (bytes, marks) = encode(&plan, &change(&table, Operation::Update, Before::None, Some(after.clone())));
    assert_eq!(marks, Marks { absent: vec![4], lossy: vec![] });
    let Oracle::Record(fields) = oracle(plan.value_schema(), &bytes) else { panic!() };
    assert_eq!(fields[4].1, Oracle::String("u".to_owned()));
    let decoder = DecodePlan::compile(plan.value_schema()).unwrap();
    let (id, body) = frame::read(&bytes).unwrap();
    assert_eq!(id, 9);
    let envelope = decoder.envelope(body).unwrap();
    assert_eq!((envelope.operation, envelope.before, envelope.snapshot), (Operation::Update, None, "false"));
    assert_eq!(envelope.source_ts_us, Some(1_795_415_839_442_826));
    assert_eq!(
        envelope.after.unwrap(),
        vec![
            Value::Text("91450100MA5N000001"),
            Value::Decimal { unscaled: &[0xfa, 0x0a, 0x1f, 0x00], scale: 2 },
            Value::Int(16_587),
            Value::Null,
            Value::Text("__debezium_unavailable_value"),
        ]
    );
    let mut key = vec![];
    plan.key(&after, 3, &mut key).unwrap();
    let keys = DecodePlan::compile(plan.key_schema().unwrap()).unwrap();
    assert_eq!(keys.record(frame::read(&key).unwrap().1).unwrap(), vec![Value::Text("91450100MA5N000001")]);
    assert_eq!(
        oracle(plan.key_schema().unwrap(), &key),
        Oracle::Record(vec![("统一社会信用代码".to_owned(), Oracle::String("91450100MA5N000001".to_owned()))])
    );
}
