//! The `guitong` binary: parses the command line, runs one command, and turns its end into an exit code.

use std::process::ExitCode;

use clap::Parser;
use guitong::cli::Cli;

fn main() -> ExitCode {
    bound_allocator();
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

/// Has glibc's allocator give memory back. By default it keeps up to eight arenas for each core, which every library's threads
/// fill a little, and up to 32 MiB of each large buffer's size once such a buffer was freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn bound_allocator() {
    /// Buffers of this many bytes are mapped by themselves and unmapped when they are freed, and as much may stay free at an arena's end.
    const LARGE: libc::c_int = 1 << 20;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let arenas = libc::c_int::try_from(cores).unwrap_or(libc::c_int::MAX);
    for (option, value) in [(libc::M_ARENA_MAX, arenas), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)] {
        // SAFETY: takes two numbers, and is called before there is a second thread. A refusal leaves the default.
        unsafe { libc::mallopt(option, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn bound_allocator() {}
