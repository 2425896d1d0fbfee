//! The codec alone: wire tuple to Avro bytes and back, beside `apache-avro`, on one core.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use guitong_schemas::avro::{DecodePlan, EncodePlan, Marks, Stamp, frame};

use crate::rounds::compare;
use crate::{Outcome, register};

/// Rows of one run of ours; the reference does fewer, since rates are compared.
const ROWS: u32 = 200_000;
const REFERENCE_ROWS: usize = 20_000;

pub(crate) fn run(runs: usize) -> Outcome {
    let table = Arc::new(register::table());
    let changes: Vec<_> = (0..ROWS).map(|number| register::insert(&table, number)).collect();
    let plan = EncodePlan::compile(&table, &register::CONTEXT)?;
    let (schema, values) = register::encoded(ROWS)?;
    let bytes: usize = values.iter().map(bytes::Bytes::len).sum();
    println!("{} bytes an event in a Debezium envelope", bytes / values.len().max(1));

    let parsed = Schema::parse_str(&schema)?;
    let decode = DecodePlan::compile(&schema)?;
    let reader = GenericDatumReader::builder(&parsed).build()?;
    let trees: Vec<_> = values
        .iter()
        .take(REFERENCE_ROWS)
        .map(|value| reader.read_value(&mut value.get(frame::LEN..).unwrap_or_default()))
        .collect::<Result<_, _>>()?;

    let mut out = Vec::with_capacity(1 << 20);
    let mut marks = Marks::default();
    compare(
        "encode",
        "events",
        runs,
        vec![
            (
                "own plan, pgoutput text to bytes",
                Box::new(|| {
                    for change in &changes {
                        out.clear();
                        let written = plan.value(change, Stamp { schema_id: 1, processed_us: 1 }, &mut out, &mut marks);
                        debug_assert!(written.is_ok());
                        std::hint::black_box(&out);
                    }
                    u64::from(ROWS)
                }),
            ),
            (
                "apache-avro, value to bytes (reference)",
                Box::new(|| {
                    for tree in &trees {
                        std::hint::black_box(apache_avro::to_avro_datum(&parsed, tree.clone()).ok());
                    }
                    trees.len() as u64
                }),
            ),
        ],
    );
    let mut spans = Vec::new();
    compare(
        "decode",
        "events",
        runs,
        vec![
            (
                "own plan, slices of the row",
                Box::new(|| {
                    for value in &values {
                        let framed = value.get(frame::LEN..).unwrap_or_default();
                        std::hint::black_box(decode.spans(framed, &mut spans).is_ok());
                    }
                    u64::from(ROWS)
                }),
            ),
            (
                "own plan, borrowed values",
                Box::new(|| {
                    for value in &values {
                        let framed = value.get(frame::LEN..).unwrap_or_default();
                        std::hint::black_box(decode.envelope(framed).is_ok());
                    }
                    u64::from(ROWS)
                }),
            ),
            (
                "apache-avro GenericDatumReader (reference)",
                Box::new(|| {
                    for value in values.iter().take(REFERENCE_ROWS) {
                        std::hint::black_box(reader.read_value(&mut value.get(frame::LEN..).unwrap_or_default()).ok());
                    }
                    REFERENCE_ROWS as u64
                }),
            ),
        ],
    );
    Ok(())
}
