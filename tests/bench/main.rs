//! Measures ours beside a reference, in one run and alternating, and prints both with their ratio.
//!
//! `cargo run --release -p guitong-tests --bin bench -- codec | log | pg-stream | latency | memory`

mod codec;
mod register;
mod rounds;

use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
#[command(about = "Measures ours beside a reference, alternating in one run")]
struct Arguments {
    #[arg(value_enum)]
    what: What,
    /// Alternating runs; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Encoding and decoding: ours, `apache-avro`
    Codec,
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome {
    // Two TLS providers are in the dependency tree; rustls refuses to choose between them.
    let _ = rustls::crypto::ring::default_provider().install_default();
    guitong_schemas::avro::set_name_validators();
    let arguments = Arguments::parse();
    match arguments.what {
        What::Codec => codec::run(arguments.runs),
    }
}
