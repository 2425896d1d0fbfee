//! The `guitong` binary: parses the command line, runs one command, and turns its end into an exit code.

use std::process::ExitCode;

use clap::Parser;
use guitong::cli::Cli;

fn main() -> ExitCode {
    // Two TLS providers are in the dependency tree; rustls refuses to choose between them.
    let _ = rustls::crypto::ring::default_provider().install_default();
    guitong_schemas::avro::set_name_validators();

    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("guitong: the system gave no threads: {error}");
            return ExitCode::from(guitong::exit::UNREACHABLE);
        }
    };
    let code = runtime.block_on(guitong::cli::execute(cli));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(code)
}
