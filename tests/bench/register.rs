//! The bench table: a business register of twelve columns, as the measurements of other tools used it.

use apache_avro::Decimal;
use bytes::Bytes;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EventForm, TableContext};
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, SnapshotMark};
use guitong_schemas::position::Version;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(crate) const CONTEXT: TableContext<'static> = TableContext {
    prefix: "raw.licensing",
    name: "licensing",
    database: "department",
    kind: SourceKind::Postgres,
    form: &EventForm::DEFAULT,
};

pub(crate) fn table() -> Table {
    let column = |name: &str, kind, nullable| Column { name: name.to_owned(), kind, nullable, default: None };
    Table {
        name: TableName::new("public", "register"),
        columns: vec![
            column("id", ColumnType::Int64, false),
            column("uscc", ColumnType::Text, true),
            column("name", ColumnType::Text, true),
            column("legal_person", ColumnType::Text, true),
            column("capital", ColumnType::Decimal { precision: 18, scale: 2 }, true),
            column("est_date", ColumnType::Date, true),
            column("status", ColumnType::Int16, true),
            column("region", ColumnType::Text, true),
            column("industry", ColumnType::Text, true),
            column("phone", ColumnType::Text, true),
            column("updated_at", ColumnType::ZonedTimestamp { precision: 6 }, true),
            column("remark", ColumnType::Text, true),
        ],
        key: vec![0],
    }
}

/// An insert of row `number`, as the wire brings it: text, or for numbers and times the server's binary form.
pub(crate) fn insert(table: &Arc<Table>, number: u32) -> Change {
    let mut row = RowBuilder::default();
    for value in cells(number) {
        match value {
            Some(text) => row.text(text.as_bytes()).unwrap_or_default(),
            None => row.null(),
        }
    }
    let lsn = u64::from(number) * 300;
    Change {
        table: Arc::clone(table),
        operation: Operation::Create,
        version: Version { epoch: 1, commit: lsn, change: lsn, ..Version::default() },
        before: Before::None,
        after: Some(row.finish()),
        origin: Origin {
            ts_us: 1_790_000_000_000_000 + i64::from(number),
            snapshot: SnapshotMark::Streamed,
            place: Place::Postgres { xid: Some(u64::from(number / 500)), lsn, last_commit_lsn: Some(lsn), order: None },
        },
    }
}

fn cells(number: u32) -> [Option<String>; 12] {
    [
        Some(number.to_string()),
        Some(format!("91450103PDY{number:07}")),
        Some(format!("南宁测试商贸{number}号有限公司")),
        Some("韦小明".to_owned()),
        Some(format!("{}.50", 100 + number % 5000)),
        Some(format!("20{:02}-{:02}-{:02}", number % 26, 1 + number % 12, 1 + number % 28)),
        Some((number % 5).to_string()),
        Some("450103".to_owned()),
        Some("F521".to_owned()),
        Some(format!("160{number:08}")),
        Some(format!("2026-11-23 09:{:02}:{:02}.123456+08", number / 60 % 60, number % 60)),
        number.is_multiple_of(3).then(|| "年报已公示".to_owned()),
    ]
}

/// Encoded values of the first `count` rows under schema id 1.
pub(crate) fn encoded(count: u32) -> Result<(String, Vec<Bytes>), Box<dyn std::error::Error + Send + Sync>> {
    use guitong_schemas::avro::{EncodePlan, Marks, Stamp};
    let table = Arc::new(table());
    let plan = EncodePlan::compile(&table, &CONTEXT)?;
    let (mut out, mut marks) = (Vec::new(), Marks::default());
    let mut values = Vec::with_capacity(count as usize);
    for number in 0..count {
        out.clear();
        plan.value(&insert(&table, number), Stamp { schema_id: 1, processed_us: 1 }, &mut out, &mut marks)?;
        values.push(Bytes::copy_from_slice(&out));
    }
    Ok((plan.value_schema().unwrap_or_default().to_owned(), values))
}

/// An event of the table as a program that uses serde would hold it; `apache-avro` wants the records' own names.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Envelope")]
pub(crate) struct Event {
    before: Option<Row>,
    after: Option<Row>,
    source: Source,
    transaction: Option<Transaction>,
    op: String,
    ts_ms: Option<i64>,
    ts_us: Option<i64>,
    ts_ns: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Value")]
struct Row {
    id: i64,
    uscc: Option<String>,
    name: Option<String>,
    legal_person: Option<String>,
    capital: Option<Decimal>,
    est_date: Option<i32>,
    status: Option<i32>,
    region: Option<String>,
    industry: Option<String>,
    phone: Option<String>,
    updated_at: Option<String>,
    remark: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Source {
    version: String,
    connector: String,
    name: String,
    ts_ms: i64,
    snapshot: Option<String>,
    db: String,
    sequence: Option<String>,
    ts_us: Option<i64>,
    ts_ns: Option<i64>,
    schema: String,
    table: String,
    #[serde(rename = "txId")]
    transaction: Option<i64>,
    lsn: Option<i64>,
    xmin: Option<i64>,
    origin: Option<String>,
    origin_lsn: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "block")]
struct Transaction {
    id: String,
    total_order: i64,
    data_collection_order: i64,
}
