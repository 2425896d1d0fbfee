//! Measures ours beside a reference, in one run and alternating, and prints both with their ratio.
//!
//! `cargo run --release -p guitong-tests --bin bench -- codec | normalise | checks | log | pg-stream | pg-snapshot | connector | latency | sink | subscriptions | memory | start | pull | files`
//!
//! Ends with 0 when what it printed counts, and with 1 when a reference ran so slowly that it does not (`void`). `latency`,
//! `subscriptions`, `memory`, `start` and `pull` start the released binary that lies beside this one: `cargo build --release` first.

mod allocations;
mod backlog;
mod checks;
mod clerks;
mod codec;
mod connector;
mod department;
mod files;
mod latency;
mod load;
mod log;
mod machine;
mod memory;
mod normalise;
mod pull;
mod register;
mod rounds;
mod sink;
mod snapshot;
mod start;
mod stream;
mod subscriptions;
mod transaction;
mod upsert;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::rounds::Verdict;

#[derive(Debug, Parser)]
#[command(about = "Measures ours beside a reference, alternating in one run")]
struct Arguments {
    #[arg(value_enum)]
    what: What,
    /// Alternating runs; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Rows of `pg-snapshot`
    #[arg(long, default_value_t = 5_000_000)]
    rows: u64,
    /// Leave out what needs Apache Kafka
    #[arg(long)]
    without_kafka: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Encoding and decoding: ours, `apache-avro`
    Codec,
    /// The transform alone, raw bytes to record bytes: ours, `apache-avro` values
    Normalise,
    /// Each check of the standard alone, on values as departments write them
    Checks,
    /// Both logs, writing and reading: ours, plain SQLite and plain librdkafka
    Log,
    /// A backlog of a million rows: `pg_recvlogical` to /dev/null; ours dropped after encoding, into the embedded log, into Kafka.
    /// Then one transaction of half a million rows, sent at its commit and before it
    PgStream,
    /// A first load: `COPY` in binary to /dev/null; ours dropped after encoding by one worker and by two, into the embedded log, into Kafka
    PgSnapshot,
    /// Commit to readable record at 1,000 commits a second, the connector alone, on both logs
    Connector,
    /// Commit to subscriber's row at 1,000 commits a second, on both logs
    Latency,
    /// A backlog to one local endpoint, in batches and one by one: ours, a plain HTTP client. Then 100,000 upserts into PostgreSQL and
    /// MariaDB: ours, what is written best by hand
    Sink,
    /// 1,000 subscriptions on ten PostgreSQL databases: memory, connections, and times with one of them silent
    Subscriptions,
    /// Peak memory in a transaction of 1 GB: one process on the embedded log, one per role on Kafka
    Memory,
    /// To ready with 100 systems, 500 resources and 1,000 subscriptions declared
    Start,
    /// What a subscriber pulls over HTTP: changes in pages, single records
    Pull,
    /// Files of each format: ours, the `parquet` crate with columns that are there already
    Files,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<Verdict, Failure>;

fn main() -> Result<ExitCode, Failure> {
    // Two TLS providers are in the dependency tree; rustls refuses to choose between them.
    let _ = rustls::crypto::ring::default_provider().install_default();
    guitong_schemas::avro::set_name_validators();
    let Arguments { what, runs, rows, without_kafka } = Arguments::parse();
    machine::describe();
    let runtime = tokio::runtime::Runtime::new()?;
    let verdict = match what {
        What::Codec => codec::run(runs),
        What::Normalise => runtime.block_on(normalise::run(runs, !without_kafka)),
        What::Checks => checks::run(runs),
        What::Log => runtime.block_on(log::run(runs, !without_kafka)),
        What::PgStream => runtime.block_on(stream::run(runs, !without_kafka)),
        What::PgSnapshot => runtime.block_on(snapshot::run(runs, rows, !without_kafka)),
        What::Connector => runtime.block_on(connector::run(runs, !without_kafka)),
        What::Latency => runtime.block_on(latency::run(runs, !without_kafka)),
        What::Sink => {
            let webhook = runtime.block_on(sink::run(runs))?;
            runtime.block_on(upsert::run(runs)).map(|upsert| webhook.and(upsert))
        }
        What::Subscriptions => runtime.block_on(subscriptions::run(runs)),
        What::Start => runtime.block_on(start::run(runs)),
        What::Pull => runtime.block_on(pull::run(runs)),
        What::Files => files::run(runs),
        What::Memory => runtime.block_on(memory::run(!without_kafka)),
    }?;
    println!("load at the end {}", machine::load());
    Ok(match verdict {
        Verdict::Valid => ExitCode::SUCCESS,
        Verdict::Void => ExitCode::FAILURE,
    })
}
