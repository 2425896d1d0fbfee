//! Runs the SQL of a golden dump through our PostgreSQL connector and compares what it publishes with the dump.
//!
//! `cargo run --release -p guitong-tests --bin conformance -- DIR [--dump FILE]`
//!
//! Prints each difference (topic, message, path, theirs, ours), how many there are, and how often each rule applied that says where
//! ours is right instead. Ends with 1 where there is a difference.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guitong_tests::conformance::{Failure, compare};

#[derive(Debug, Parser)]
#[command(about = "Compares what our connector publishes with a golden dump of Debezium's")]
struct Arguments {
    /// Folder with setup.sql, stream.sql and dump.json
    dir: PathBuf,
    /// The dump, where it is not dump.json of the folder: a file, or its name in the folder
    #[arg(long)]
    dump: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    // Two TLS providers are in the dependency tree; rustls refuses to choose between them.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Arguments { dir, dump } = Arguments::parse();
    let dump = match dump {
        Some(file) if file.exists() => file,
        named => dir.join(named.unwrap_or_else(|| "dump.json".into())),
    };
    let report = compare(&dir, &dump).await?;
    print!("{report}");
    Ok(if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
