//! What a process takes in memory, as the machine counts it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout};
use guitong_tests::servers::postgres::{ADMIN, Options, Postgres};
use sqlx::postgres::PgPool;

/// Of one role.
const BAR: u64 = 100 << 20;
const ROWS: u32 = 20_000;
/// Bytes of each row's long value.
const LONG: u32 = 51_200;

/// The most that a process had, looked at again and again.
struct Peak {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    watch: std::thread::JoinHandle<()>,
}

impl Peak {
    fn of(pid: u32) -> Self {
        let (bytes, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (noted, ended) = (Arc::clone(&bytes), Arc::clone(&stop));
        let watch = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                noted.fetch_max(anonymous(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { bytes, stop, watch }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.join().unwrap();
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Bytes of a process that are in no file: what is mapped of the binary is shared with others.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A connector takes a transaction of a gigabyte, most of it before the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_a_gigabyte_fits_the_budget_of_a_role() {
    // What the server holds of it is compressed, so that it would come to the commit with all of it.
    let server = Postgres::start_with(Options::default().set("logical_decoding_work_mem", "1MB")).await.unwrap();
    server.execute(&format!("{COMPANIES}; ALTER TABLE qy ADD COLUMN bz text")).await.unwrap();
    server.execute("CREATE PUBLICATION test_licensing FOR TABLE qy WITH (publish_via_partition_root = true)").await.unwrap();
    // Keyed state would keep every long value once more; `bench memory` has that.
    let exchange = Exchange::write(&Layout {
        source: format!("kind = \"postgres\"\nurl = \"{}\"\ncomplete = false\n", server.url(ADMIN)),
        schema: "public",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprises\"\n".to_owned(),
    })
    .unwrap();
    let node = exchange.start_with(&["--roles", "connect"]).unwrap();
    let peak = Peak::of(node.pid());
    let pool = server.admin().await.unwrap();
    confirmed(&pool, &exchange).await;
    // Compresses to a hundredth in the server's log, and is sent as it is.
    let insert = format!(
        "INSERT INTO qy SELECT n, n, '公司', '韦小明', repeat(md5(n::text), {}) FROM generate_series(1, {ROWS}) n",
        LONG / 32
    );
    server.execute(&insert).await.unwrap();
    confirmed(&pool, &exchange).await;
    let events = exchange.status(Duration::from_secs(60)).await.unwrap()["systems"][0]["events"].as_u64();
    let (peak, written) = (peak.end(), exchange.path().join("data/exchange.db").metadata().unwrap().len());
    let streamed: i64 = sqlx::query_scalar("SELECT stream_bytes FROM pg_stat_replication_slots").fetch_one(&pool).await.unwrap();
    println!(
        "at most {} MiB; the log has {} MiB, {} MiB of the server's came before the commit",
        peak >> 20,
        written >> 20,
        streamed >> 20
    );
    assert_eq!(events, Some(u64::from(ROWS)));
    assert!(streamed > 0);
    assert!(peak < BAR, "{} MiB", peak >> 20);
}

/// Waits until everything that is in the server's log now is published.
async fn confirmed(pool: &PgPool, exchange: &Exchange) {
    let end: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(pool).await.unwrap();
    let reached = "SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = 'test_licensing'";
    let deadline = Instant::now() + Duration::from_secs(300);
    while sqlx::query_scalar::<_, Option<bool>>(reached).bind(&end).fetch_optional(pool).await.unwrap() != Some(Some(true)) {
        assert!(Instant::now() < deadline, "{:#}", exchange.status(Duration::from_secs(5)).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
