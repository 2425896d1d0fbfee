//! What a figure was measured on, and what a process used of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ticks a second in which Linux counts a process's CPU time for user space, on every architecture.
const TICKS: f64 = 100.0;

/// Prints processor, cores, kernel, version and date, and how busy the machine is.
pub(crate) fn describe() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |rest| rest.trim_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    println!(
        "{processor}, {cores} cores, Linux {}, guitong {}, {}, load {}",
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        load()
    );
}

/// Processes that wanted a core in the last minute, on average.
pub(crate) fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned()
}

/// CPU seconds that a process has used, all its threads together; `self` is this one.
pub(crate) fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    // The second field is a name in brackets that may hold anything; user and system time are the 14th and 15th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// CPU time that the calling thread has used. What runs beside it on a busy machine does not count.
pub(crate) fn thread_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0))
}

/// A line of `/proc/<pid>/status` that counts KiB (`VmHWM`: the peak of resident memory, `VmRSS`: what is resident now), in MiB.
pub(crate) fn memory_mib(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    value.and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}
