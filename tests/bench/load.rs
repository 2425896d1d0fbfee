//! What the benches stand on: servers as an operator would run them, the register table in a database, and the programs beside this one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use guitong_tests::servers::kafka::{self, Kafka};
use guitong_tests::servers::postgres::{Options, Postgres};

use crate::Failure;

/// The twelve columns of [`crate::register::table`].
const REGISTER: &str = "CREATE TABLE register (id bigint PRIMARY KEY, uscc char(18), name varchar(120), legal_person varchar(60), \
     capital numeric(18,2), est_date date, status smallint, region char(6), industry char(4), phone varchar(20), \
     updated_at timestamptz, remark text)";

/// Writes the rows whose numbers follow as `n`.
const ROWS: &str = "INSERT INTO register SELECT n, '91450103PDY' || lpad(n::text, 7, '0'), '南宁测试商贸' || n || '号有限公司', '韦小明', \
     100.5 + n % 5000, date '2000-01-01' + n::int % 9000, n % 5, '450103', 'F521', '160' || lpad(n::text, 8, '0'), now(), \
     CASE WHEN n % 3 = 0 THEN '年报已公示' END";

/// Rows of one transaction of a backlog.
pub(crate) const TRANSACTION: u64 = 500;

/// A Kafka broker with the JVM's full compiler.
pub(crate) async fn broker() -> Result<Kafka, Failure> {
    Ok(Kafka::start_with(kafka::Options { fast: true, ..kafka::Options::default() }).await?)
}

/// A server whose commits are durable, with room in its log for the backlogs.
pub(crate) async fn database() -> Result<Postgres, Failure> {
    let settings = [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("shared_buffers", "512MB"),
        ("max_wal_size", "8GB"),
        ("max_replication_slots", "20"),
        ("max_wal_senders", "20"),
    ];
    let options = settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value));
    Ok(Postgres::start_with(options).await?)
}

/// Makes the table, a publication `name` of it, and a slot `name` before the first row; then commits `rows` rows, 500 a transaction.
pub(crate) async fn backlog(server: &Postgres, name: &str, rows: u64) -> Result<(), Failure> {
    server.execute(REGISTER).await?;
    server.execute(&format!("CREATE PUBLICATION \"{name}\" FOR TABLE register")).await?;
    server.execute(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await?;
    let begun = Instant::now();
    server
        .execute(&format!(
            "DO $$ BEGIN FOR block IN 0..{} LOOP
               {ROWS} FROM generate_series(block::bigint * {TRANSACTION} + 1, (block::bigint + 1) * {TRANSACTION}) n;
               COMMIT;
             END LOOP; END $$",
            rows / TRANSACTION - 1
        ))
        .await?;
    server.execute("CHECKPOINT").await?;
    println!("backlog of {rows} rows in transactions of {TRANSACTION}, made in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The statement that writes these rows, the last one included.
pub(crate) fn rows(first: u64, last: u64) -> String {
    format!("{ROWS} FROM generate_series({first}, {last}) n")
}

/// Makes the table with so many rows, analysed, and a publication `name` of it.
pub(crate) async fn table(server: &Postgres, name: &str, rows: u64) -> Result<(), Failure> {
    server.execute(REGISTER).await?;
    server.execute(&self::rows(1, rows)).await?;
    server.execute(&format!("CREATE PUBLICATION \"{name}\" FOR TABLE register")).await?;
    server.execute("VACUUM ANALYZE register").await?;
    server.execute("CHECKPOINT").await?;
    Ok(())
}

/// A program of the PostgreSQL server's release.
pub(crate) fn postgres_program(name: &str) -> Result<PathBuf, Failure> {
    Ok(guitong_tests::servers::postgres::programs()?.join(name))
}

/// Asks again until `found` gives something.
pub(crate) async fn until<T>(limit: Duration, what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> Result<T, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = found().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not in {limit:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
