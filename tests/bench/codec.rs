//! The codec alone: wire tuple to Avro bytes and back, beside `apache-avro`, on one core.
//!
//! The reference is the fastest that the library has: typed structs through serde. Its value trees are several times slower.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use guitong_schemas::avro::{DecodePlan, EncodePlan, Marks, Stamp, frame};

use crate::register::Event;
use crate::rounds::{Reference, Rounds, timed};
use crate::{Outcome, register};

/// Rows of one run of ours; the reference does fewer, since rates are compared.
const ROWS: u32 = 200_000;
const REFERENCE_ROWS: usize = 20_000;

/// What `apache-avro` reached here in CPU time while the machine was busy, below which an idle one will not fall. Its value trees, which this
/// bench compared with before, reach 190,000 and 290,000.
const ENCODE: Reference = Reference { name: "apache-avro, struct to bytes (reference)", measured: 470_000.0 };
const DECODE: Reference = Reference { name: "apache-avro, bytes to struct (reference)", measured: 600_000.0 };

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
    let writer = GenericDatumWriter::builder(&parsed).build()?;
    let events: Vec<Event> = values
        .iter()
        .take(REFERENCE_ROWS)
        .map(|value| reader.read_deser(&mut value.get(frame::LEN..).unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    for (event, value) in events.iter().zip(&values) {
        if writer.write_ser_to_vec(event)? != value.get(frame::LEN..).unwrap_or_default() {
            return Err("the reference writes other bytes".into());
        }
    }

    let (mut out, mut marks, mut spans) = (Vec::with_capacity(1 << 20), Marks::default(), Vec::new());
    let mut encoding = Rounds::new("encode", "events");
    let mut decoding = Rounds::new("decode", "events");
    let mut failed = 0_u64;
    for _ in 0..runs {
        let (done, took) = timed(|| {
            for change in &changes {
                out.clear();
                failed += u64::from(plan.value(change, Stamp { schema_id: 1, processed_us: 1 }, &mut out, &mut marks).is_err());
                std::hint::black_box(&out);
            }
            u64::from(ROWS)
        });
        encoding.add("own plan, pgoutput text to bytes", done, took);
        let (done, took) = timed(|| {
            for event in &events {
                out.clear();
                failed += u64::from(writer.write_ser(&mut out, event).is_err());
                std::hint::black_box(&out);
            }
            events.len() as u64
        });
        encoding.add(ENCODE.name, done, took);

        let (done, took) = timed(|| {
            for value in &values {
                let datum = value.get(frame::LEN..).unwrap_or_default();
                failed += u64::from(std::hint::black_box(decode.spans(datum, &mut spans)).is_err());
            }
            u64::from(ROWS)
        });
        decoding.add("own plan, slices of `after`", done, took);
        let (done, took) = timed(|| {
            for value in &values {
                let datum = value.get(frame::LEN..).unwrap_or_default();
                failed += u64::from(std::hint::black_box(decode.envelope(datum)).is_err());
            }
            u64::from(ROWS)
        });
        decoding.add("own plan, borrowed values", done, took);
        let (done, took) = timed(|| {
            for value in values.iter().take(REFERENCE_ROWS) {
                let mut datum = value.get(frame::LEN..).unwrap_or_default();
                failed += u64::from(std::hint::black_box(reader.read_deser::<Event>(&mut datum)).is_err());
            }
            REFERENCE_ROWS as u64
        });
        decoding.add(DECODE.name, done, took);
    }
    if failed > 0 {
        return Err(format!("{failed} events did not encode or decode").into());
    }
    Ok(encoding.finish(ENCODE, &[]).and(decoding.finish(DECODE, &[])))
}
