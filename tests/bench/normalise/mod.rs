//! The transform of normalise alone: framed raw events to framed entity records, on one core, for the quick start's widest
//! resource and the demo's rows of it.
//!
//! The reference does less: it reads the same events into `apache-avro` values and writes the same records from such values,
//! which it finds made; what lies between, mapping and checks, it leaves out. Then the whole stage ([`stage`]).

mod stage;

use std::path::Path;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use guitong_normalise::{Outcome, Trial};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EncodePlan, EventForm, Marks, Stamp, TableContext, frame};
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, SnapshotMark};
use guitong_schemas::contract::load::Purpose;
use guitong_schemas::contract::{Directory, Resource};
use guitong_schemas::position::Version;
use guitong_schemas::standard::{Standard, Zone};
use guitong_schemas::table::{Column, ColumnType, Table};

use crate::rounds::{Reference, Rounds, grouped, timed};
use crate::{Failure, allocations};

/// The resource of the quick start that maps most columns.
const RESOURCE: &str = "service-case";
/// Events of one run; the reference does fewer, since rates are compared.
const EVENTS: u32 = 50_000;
const REFERENCE_EVENTS: usize = 5_000;
/// Events a second of one core.
const BAR: f64 = 300_000.0;
/// Commit time of the events, microseconds: 2026-11-23T00:00:00Z.
const COMMITTED_US: i64 = 1_795_392_000_000_000;

/// What it was measured at.
const REFERENCE: Reference = Reference { name: "apache-avro values, without mapping (reference)", measured: 100_000.0 };

pub(crate) async fn run(runs: usize, with_kafka: bool) -> crate::Outcome {
    let (directory, resource) = resource()?;
    let changes = changes(&resource)?;
    let (schema, values) = encoded(&resource, &changes)?;
    let alone = tokio::task::block_in_place(|| alone(&resource, &schema, &values, runs))?;
    let load = stage::Load { directory: &directory, resource: &resource, changes: &changes };
    Ok(alone.and(stage::run(&load, runs, with_kafka).await?))
}

fn alone(resource: &Resource, schema: &str, values: &[Vec<u8>], runs: usize) -> crate::Outcome {
    let trial = Trial::compile(resource, Standard::builtin(), Zone::shanghai(), schema)?;
    let entity = Standard::builtin().entity(&resource.entity).ok_or("the standard lacks the resource's entity")?;

    let (mut records, mut rejected) = (Vec::with_capacity(values.len()), 0_u64);
    trial.run(values.iter().map(Vec::as_slice), 1, |outcome| match outcome {
        Outcome::Records(made) => records.extend(made.into_iter().map(|made| made.record)),
        Outcome::Rejected(_) | Outcome::Gone => rejected += 1,
    })?;
    if rejected > 0 {
        return Err(format!("{rejected} of the demo's rows are rejected").into());
    }
    let bytes = |lengths: usize| lengths / values.len().max(1);
    println!(
        "{RESOURCE}: {} columns mapped to {} fields, {} bytes an event, {} bytes a record",
        resource.map.len(),
        entity.fields.len(),
        bytes(values.iter().map(Vec::len).sum()),
        bytes(records.iter().map(bytes::Bytes::len).sum())
    );
    let made = allocations::during(|| trial.run(values.iter().map(Vec::as_slice), 1, drop))?;
    println!("{:.2} allocations an event", made as f64 / values.len() as f64);

    let (writers, ours) = (Schema::parse_str(schema)?, Schema::parse_str(&entity.schema_json)?);
    let reader = GenericDatumReader::builder(&writers).build()?;
    let (of_records, writer) = (GenericDatumReader::builder(&ours).build()?, GenericDatumWriter::builder(&ours).build()?);
    let body = |framed: &[u8]| framed.get(frame::LEN..).unwrap_or_default().to_vec();
    let trees: Vec<_> = records
        .iter()
        .take(REFERENCE_EVENTS)
        .map(|record| of_records.read_value(&mut body(record).as_slice()))
        .collect::<Result<_, _>>()?;

    let mut rounds = Rounds::new("normalise, transform alone", "events");
    let (mut failed, mut out) = (0_u64, Vec::with_capacity(1 << 10));
    for _ in 0..runs {
        let (done, took) = timed(|| {
            let outcome = trial.run(values.iter().map(Vec::as_slice), 1, |outcome| drop(std::hint::black_box(outcome)));
            failed += u64::from(outcome.is_err());
            values.len() as u64
        });
        rounds.add(OURS, done, took);
        let (done, took) = timed(|| {
            for (value, tree) in values.iter().zip(&trees) {
                out.clear();
                let mut datum = value.get(frame::LEN..).unwrap_or_default();
                failed += u64::from(std::hint::black_box(reader.read_value(&mut datum)).is_err());
                failed += u64::from(writer.write_value_ref(&mut out, tree).is_err());
                std::hint::black_box(&out);
            }
            trees.len() as u64
        });
        rounds.add(REFERENCE.name, done, took);
    }
    if failed > 0 {
        return Err(format!("{failed} events were not read or written").into());
    }
    let rate = rounds.median(OURS);
    let verdict = rounds.finish(REFERENCE, &[]);
    println!("  bar {} events/s: {}", grouped(BAR), if rate >= BAR { "met" } else { "NOT met" });
    Ok(verdict)
}

const OURS: &str = "raw bytes to record bytes";

fn resource() -> Result<(Directory, Arc<Resource>), Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart");
    let purpose = Purpose::Check { unset_secrets: true };
    let now = jiff::Timestamp::from_microsecond(COMMITTED_US)?;
    let directory = guitong_schemas::contract::load::load(&root, &|_| None, now, purpose);
    let directory = directory.map_err(|problems| problems.render(false))?;
    let found = directory.resources.values().find(|resource| resource.name.as_str() == RESOURCE);
    let found = Arc::clone(found.ok_or("the quick start lacks the resource")?);
    Ok((directory, found))
}

/// Inserts of the demo's rows, as a change log gives them.
fn changes(resource: &Resource) -> Result<Vec<Change>, Failure> {
    let row = |number| guitong::demo::row(&resource.table.name, number).ok_or("the demo has no rows of the resource's table");
    let (columns, _) = row(0)?;
    let of = |(at, name): (usize, &&str)| {
        // The two columns that the department declares as numbers.
        let kind = if matches!(*name, "承诺工作日" | "评价") { ColumnType::Int64 } else { ColumnType::Text };
        Column { name: (*name).to_owned(), kind, nullable: at > 0, default: None }
    };
    let table =
        Arc::new(Table { name: resource.table.clone(), columns: columns.iter().enumerate().map(of).collect(), key: vec![0] });
    let mut changes = Vec::with_capacity(EVENTS as usize);
    for number in 1..=EVENTS {
        let mut image = RowBuilder::default();
        for value in row(number)?.1 {
            match value {
                serde_json::Value::Null => image.null(),
                serde_json::Value::String(text) => image.text(text.as_bytes())?,
                other => image.text(other.to_string().as_bytes())?,
            }
        }
        let place = Place::Changelog { change_id: number.into() };
        changes.push(Change {
            table: Arc::clone(&table),
            operation: Operation::Create,
            version: Version { epoch: 1, commit: number.into(), ..Version::default() },
            before: Before::None,
            after: Some(image.finish()),
            origin: Origin { ts_us: COMMITTED_US, snapshot: SnapshotMark::Streamed, place },
        });
    }
    Ok(changes)
}

/// The writer's schema and the framed events.
fn encoded(resource: &Resource, changes: &[Change]) -> Result<(String, Vec<Vec<u8>>), Failure> {
    let table = &changes.first().ok_or("no changes")?.table;
    let system = resource.system.as_str();
    let prefix = format!("raw.{system}");
    let form = &EventForm::DEFAULT;
    let context = TableContext { prefix: &prefix, name: system, database: "hall", kind: SourceKind::Changelog, form };
    let plan = EncodePlan::compile(table, &context)?;
    let (mut values, mut marks) = (Vec::with_capacity(changes.len()), Marks::default());
    for change in changes {
        let mut out = Vec::new();
        plan.value(change, Stamp { schema_id: 1, processed_us: COMMITTED_US }, &mut out, &mut marks)?;
        values.push(out);
    }
    Ok((plan.value_schema().unwrap_or_default().to_owned(), values))
}
