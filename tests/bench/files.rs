//! Files of 12 columns, in CPU time of one thread: changes as the outbox gives them to the bytes of a file, in each format, and beside it
//! the `parquet` crate's own writer of columns, handed the same values as arrays that are there already.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_deliver::files::form::{Form, Noted};
use guitong_deliver::sink::{Mark, SinkPlan};
use guitong_govern::{ColumnKind, Entitlement};
use guitong_log::LogId;
use guitong_schemas::contract::files::{Csv, Encoding, FileFormat, Formulas, Header};
use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::{SinkTable, Subscription};
use guitong_schemas::standard::StandardValue;
use guitong_tests::exchange::{Exchange, Layout, credit_code};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use crate::rounds::{Reference, Rounds, grouped, timed};
use crate::{Failure, Outcome};

const ROWS: u32 = 200_000;
/// Of the reference: about what ours puts into one.
const ROWS_OF_GROUP: usize = 40_000;
/// Rows a second of one core.
const BAR: f64 = 500_000.0;
const PARQUET: &str = "parquet";
const COLUMNS: Reference = Reference { name: "parquet crate, columns that are there (reference)", measured: 2_080_000.0 };

const FIELDS: [&str; 12] = [
    "uscc",
    "name",
    "entity_type",
    "industry",
    "reg_capital",
    "established",
    "approved",
    "status",
    "reg_authority_code",
    "reg_address",
    "reg_address_division",
    "employees",
];

/// The same in Parquet's own words.
const SCHEMA: &str = "message enterprise {
    REQUIRED BYTE_ARRAY guitong_op (STRING);
    REQUIRED INT64 guitong_position;
    OPTIONAL BYTE_ARRAY uscc (STRING);
    OPTIONAL BYTE_ARRAY name (STRING);
    OPTIONAL BYTE_ARRAY entity_type (STRING);
    OPTIONAL BYTE_ARRAY industry (STRING);
    OPTIONAL FIXED_LEN_BYTE_ARRAY (16) reg_capital (DECIMAL(24,6));
    OPTIONAL INT32 established (DATE);
    OPTIONAL INT32 approved (DATE);
    OPTIONAL BYTE_ARRAY status (STRING);
    OPTIONAL BYTE_ARRAY reg_authority_code (STRING);
    OPTIONAL BYTE_ARRAY reg_address (STRING);
    OPTIONAL BYTE_ARRAY reg_address_division (STRING);
    OPTIONAL INT64 employees;
}";

pub(crate) fn run(runs: usize) -> Outcome {
    let plan = plan()?;
    let rows = rows(&plan)?;
    let formats = [
        (PARQUET, FileFormat::Parquet),
        ("avro, deflated", FileFormat::Avro),
        ("csv", FileFormat::Csv(Csv { encoding: Encoding::Utf8, header: Header::Names, formulas: Formulas::Escaped })),
        (
            "csv, GB18030",
            FileFormat::Csv(Csv { encoding: Encoding::Gb18030, header: Header::Names, formulas: Formulas::Escaped }),
        ),
        ("jsonl", FileFormat::JsonLines),
    ];
    let forms = formats.map(|(name, format)| (name, Form::new(format, &plan)));
    let groups: Vec<Vec<Array>> = rows.chunks(ROWS_OF_GROUP).map(|rows| arrays(rows, &plan)).collect();
    let (mut rounds, mut sizes) = (Rounds::new("files", "rows"), BTreeMap::new());
    for _ in 0..runs {
        for (name, form) in &forms {
            let mut written = Ok(0);
            let (done, took) = timed(|| {
                written = write(form, &rows);
                u64::from(ROWS)
            });
            sizes.insert(*name, written?);
            rounds.add(name, done, took);
        }
        let mut written = Ok(0);
        let (done, took) = timed(|| {
            written = write_columns(&groups);
            u64::from(ROWS)
        });
        sizes.insert(COLUMNS.name, written?);
        rounds.add(COLUMNS.name, done, took);
    }
    for (name, bytes) in sizes {
        println!("{name}: {:.1} bytes a row", bytes as f64 / f64::from(ROWS));
    }
    let reached = rounds.median(PARQUET);
    let verdict = rounds.finish(COLUMNS, &[]);
    println!("  parquet, bar {} rows/s a core: {}", grouped(BAR), if reached >= BAR { "met" } else { "NOT met" });
    Ok(verdict)
}

fn plan() -> Result<SinkPlan, Failure> {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"licensing.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })?;
    let directory = load(exchange.path(), &|_| None, jiff::Timestamp::now(), Purpose::Run);
    let directory = directory.map_err(|problems| problems.render(false))?;
    let declared = directory.subscriptions.values().next().ok_or("no subscription")?;
    let subscription = Subscription { fields: FIELDS.map(Into::into).into(), masks: BTreeMap::new(), ..(**declared).clone() };
    let resource = directory.resources.values().next().ok_or("no resource")?;
    let entity = directory.standard.entity("LegalEntity").ok_or("no such entity")?;
    let zone = directory.exchange.time_zone.clone();
    let entitlement = Entitlement::compile(&subscription, resource, entity, &zone)?;
    Ok(SinkPlan {
        exchange: "bench".into(),
        subscription: subscription.name.as_str().into(),
        title: resource.title.clone(),
        log: LogId("bench".into()),
        topic: Arc::from("std.enterprise"),
        columns: entitlement.columns().to_vec(),
        key: entitlement.key().clone(),
        time_zone: zone,
        grant: entitlement.fingerprint(),
        condition: None,
        table: SinkTable::default(),
        mark: Mark::default(),
    })
}

fn rows(plan: &SinkPlan) -> Result<Vec<Noted>, Failure> {
    let row = |number: u32| {
        let cell = |(name, kind): (&str, ColumnKind)| match (name, kind) {
            ("uscc", _) => StandardValue::Text(credit_code(number).into()),
            ("name", _) => StandardValue::Text(format!("南宁第{number}示例有限公司").into()),
            ("reg_address", _) => StandardValue::Text(format!("南宁市青秀区民族大道{}号", number % 5_000).into()),
            ("reg_authority_code", _) => StandardValue::Text("11450000PDY00001X0".into()),
            (_, ColumnKind::Decimal { scale, .. }) => {
                StandardValue::Decimal { unscaled: i128::from(number % 1_000) * 10_i128.pow(10), scale }
            }
            (_, ColumnKind::Date) => StandardValue::Date(10_000 + (number % 7_000) as i32),
            (_, ColumnKind::Int) => StandardValue::Int(i64::from(number % 300)),
            (_, ColumnKind::Text) => StandardValue::Text(format!("45{:04}", number % 90).into()),
            _ => StandardValue::Null,
        };
        let cells = plan.columns.iter().map(|column| cell((&column.name, column.kind))).collect();
        Noted { position: u64::from(number) + 1, deleted: false, key: None, cells }
    };
    let names: Vec<&str> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    if names != FIELDS {
        return Err(format!("the columns are {names:?}").into());
    }
    Ok((0..ROWS).map(row).collect())
}

/// Bytes of the file.
fn write(form: &Form, rows: &[Noted]) -> Result<usize, Failure> {
    let (mut out, mut bytes) = (Vec::new(), 0);
    let mut file = form.begin("bench", &mut out)?;
    for (at, row) in rows.iter().enumerate() {
        file.write(row, &mut out)?;
        // As often as the sink hands bytes on.
        if at % 4_096 == 0 {
            bytes += out.len();
            std::hint::black_box(&out);
            out.clear();
        }
    }
    file.end(&mut out)?;
    Ok(bytes + out.len())
}

/// The values of a column in one row group.
enum Array {
    Text(Vec<ByteArray>, bool),
    Wide(Vec<FixedLenByteArray>),
    Int(Vec<i32>),
    Long(Vec<i64>, bool),
}

fn arrays(rows: &[Noted], plan: &SinkPlan) -> Vec<Array> {
    let mut all = vec![
        Array::Text(rows.iter().map(|_| "upsert".into()).collect(), false),
        Array::Long(rows.iter().map(|row| row.position as i64).collect(), false),
    ];
    for (at, column) in plan.columns.iter().enumerate() {
        let cells = rows.iter().filter_map(|row| row.cells.get(at));
        all.push(match column.kind {
            ColumnKind::Date => {
                Array::Int(cells.map(|cell| if let StandardValue::Date(days) = cell { *days } else { i32::default() }).collect())
            }
            ColumnKind::Int => Array::Long(
                cells.map(|cell| if let StandardValue::Int(number) = cell { *number } else { i64::default() }).collect(),
                true,
            ),
            ColumnKind::Decimal { .. } => Array::Wide(
                cells
                    .map(|cell| if let StandardValue::Decimal { unscaled, .. } = cell { *unscaled } else { i128::default() })
                    .map(|number| number.to_be_bytes().to_vec().into())
                    .collect(),
            ),
            _ => Array::Text(cells.map(|cell| cell.as_text().unwrap_or_default().into()).collect(), true),
        });
    }
    all
}

fn write_columns(groups: &[Vec<Array>]) -> Result<usize, Failure> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let levels = vec![1_i16; ROWS_OF_GROUP];
    for arrays in groups {
        let mut group = writer.next_row_group()?;
        for array in arrays {
            let mut column = group.next_column()?.ok_or("a column too many")?;
            write_column(&mut column, array, &levels)?;
            column.close()?;
        }
        group.close()?;
    }
    Ok(writer.into_inner()?.len())
}

fn write_column(column: &mut SerializedColumnWriter<'_>, array: &Array, levels: &[i16]) -> Result<(), Failure> {
    let levels = |length: usize, optional: bool| levels.get(..length).filter(|_| optional);
    match array {
        Array::Text(values, optional) => {
            column.typed::<ByteArrayType>().write_batch(values, levels(values.len(), *optional), None)?
        }
        Array::Wide(values) => column.typed::<FixedLenByteArrayType>().write_batch(values, levels(values.len(), true), None)?,
        Array::Int(values) => column.typed::<Int32Type>().write_batch(values, levels(values.len(), true), None)?,
        Array::Long(values, optional) => {
            column.typed::<Int64Type>().write_batch(values, levels(values.len(), *optional), None)?
        }
    };
    Ok(())
}
