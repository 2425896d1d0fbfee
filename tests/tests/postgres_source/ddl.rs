//! Tables that are altered while they are written: each row is decoded by the columns it was written with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use guitong_connectors::source::{Phase, Source};
use guitong_schemas::change::Change;
use guitong_schemas::table::ColumnType;
use guitong_tests::servers::postgres::Postgres;
use sqlx::postgres::PgPool;

use super::harness::*;

/// One shape of the table: the statement that makes it, and a row of defaults as it then is. With each statement the default of `g`
/// becomes the number of the shape, so that every row says which one it was written in.
struct Shape {
    ddl: &'static str,
    /// Columns after `id` and `g`, with the text of their defaults.
    columns: &'static [(&'static str, &'static str)],
}

const SHAPES: [Shape; 9] = [
    Shape {
        ddl: "CREATE TYPE state AS ENUM ('new', 'old');
              CREATE TABLE t (id int PRIMARY KEY, g int DEFAULT 0, name text DEFAULT 'a', amount int DEFAULT 7, kind state DEFAULT 'new')",
        columns: &[("name", "a"), ("amount", "7"), ("kind", "new")],
    },
    Shape {
        ddl: "ALTER TABLE t ADD \"备注\" text NOT NULL DEFAULT '无'",
        columns: &[("name", "a"), ("amount", "7"), ("kind", "new"), ("备注", "无")],
    },
    Shape { ddl: "ALTER TABLE t DROP name", columns: &[("amount", "7"), ("kind", "new"), ("备注", "无")] },
    Shape {
        ddl: "ALTER TABLE t RENAME amount TO total",
        columns: &[("total", "7"), ("kind", "new"), ("备注", "无")],
    },
    Shape {
        ddl: "ALTER TABLE t ALTER total TYPE numeric(10, 2)",
        columns: &[("total", "7.00"), ("kind", "new"), ("备注", "无")],
    },
    Shape {
        ddl: "ALTER TABLE t ALTER kind TYPE text, ALTER kind SET DEFAULT 'none'; DROP TYPE state",
        columns: &[("total", "7.00"), ("kind", "none"), ("备注", "无")],
    },
    Shape {
        ddl: "ALTER TABLE t ADD name varchar(9) DEFAULT 'again', DROP \"备注\"",
        columns: &[("total", "7.00"), ("kind", "none"), ("name", "again")],
    },
    Shape {
        ddl: "ALTER TABLE t RENAME name TO swap; ALTER TABLE t RENAME kind TO name; ALTER TABLE t RENAME swap TO kind",
        columns: &[("total", "7.00"), ("name", "none"), ("kind", "again")],
    },
    Shape {
        ddl: "ALTER TABLE t ALTER total DROP DEFAULT, ALTER total TYPE timestamp USING '2026-11-23 09:39:29',
              ALTER total SET DEFAULT '2026-11-23 09:39:29.5'",
        columns: &[("total", "2026-11-23 09:39:29.5"), ("name", "none"), ("kind", "again")],
    },
];

/// Inserts rows of defaults and brings older ones up to the shape of the moment, each alone.
async fn clerk(pool: PgPool, next: Arc<AtomicI32>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let id = next.fetch_add(1, Ordering::Relaxed);
        sqlx::query("INSERT INTO t (id) VALUES ($1)").bind(id).persistent(false).execute(&pool).await.unwrap();
        sqlx::query("UPDATE t SET g = DEFAULT WHERE id = $1 / 2").bind(id).persistent(false).execute(&pool).await.unwrap();
    }
}

/// Columns and, of a new row, values are those of the shape that the row says.
fn check(change: &Change) -> usize {
    let text = line(change);
    let fields: Vec<&str> = text.split(['[', ']']).nth(1).unwrap().split(',').collect();
    let g: usize = fields[1].parse().unwrap();
    let shape = &SHAPES[g];
    let names: Vec<&str> = change.table.columns.iter().skip(2).map(|column| column.name.as_str()).collect();
    assert_eq!(names, shape.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "shape {g}: {text}");
    if text.starts_with("c t") {
        assert_eq!(fields[2..], shape.columns.iter().map(|(_, value)| *value).collect::<Vec<_>>(), "shape {g}: {text}");
    }
    let kind = |name: &str| change.table.column(name).unwrap().1.kind.clone();
    match g {
        3 => assert_eq!(kind("total"), ColumnType::Int32),
        4..8 => assert_eq!(kind("total"), ColumnType::Decimal { precision: 10, scale: 2 }),
        8 => assert_eq!(kind("total"), ColumnType::Timestamp { precision: 6 }),
        _ => assert_eq!(kind("amount"), ColumnType::Int32),
    }
    g
}

/// Alters the table under load; the connector reads at once, or when all is over and the catalogue knows only the last shape.
async fn altered(at_once: bool) {
    let server = Postgres::start().await.unwrap();
    server.execute(SHAPES[0].ddl).await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    session.load().await;
    let (next, stop) = (Arc::new(AtomicI32::new(1)), Arc::new(AtomicBool::new(false)));
    let pool = server.admin().await.unwrap();
    let clerks: Vec<_> = (0..3).map(|_| tokio::spawn(clerk(pool.clone(), Arc::clone(&next), Arc::clone(&stop)))).collect();
    let mut all: Vec<Change> = Vec::new();
    for (number, shape) in SHAPES.iter().enumerate().skip(1) {
        // Some rows of the shape before.
        let written = next.load(Ordering::Relaxed);
        while next.load(Ordering::Relaxed) < written + 30 {
            if at_once {
                all.extend(session.step().await.unwrap());
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let ddl = format!("BEGIN; {}; ALTER TABLE t ALTER g SET DEFAULT {number}; COMMIT", shape.ddl);
        server.execute(&ddl).await.unwrap();
    }
    let written = next.load(Ordering::Relaxed);
    while next.load(Ordering::Relaxed) < written + 30 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for clerk in clerks {
        clerk.await.unwrap();
    }
    server.execute("INSERT INTO t (id) VALUES (0)").await.unwrap();
    all.extend(session.until(|more| more.last().is_some_and(|last| line(last).starts_with("c t [0,"))).await);
    assert_rising(&all);
    let mut met = [0; SHAPES.len()];
    all.iter().for_each(|change| met[check(change)] += 1);
    assert!(met.iter().all(|rows| *rows > 0), "rows of each shape: {met:?}");
    let created = all.iter().filter(|change| line(change).starts_with("c t")).count();
    assert_eq!(i32::try_from(created), Ok(next.load(Ordering::Relaxed)), "each row once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_altered_under_load_is_decoded_as_it_was_written() {
    altered(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_that_lags_decodes_columns_that_are_gone() {
    altered(false).await;
}

/// A chunk that was read before the table was altered does not come after rows of its new shape.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_altered_while_it_is_first_read_never_changes_back() {
    const ROWS: usize = 20_000;
    const TIMES: usize = 12;
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, pad text)").await.unwrap();
    server.execute(&format!("INSERT INTO t SELECT n, repeat('p', 200) FROM generate_series(1, {ROWS}) n")).await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.snapshot.workers = 2;
    let mut session = exchange.connect(&system).await.unwrap();
    let pool = server.admin().await.unwrap();
    // As many times as rows were handed out: while the next ones are read.
    let (handed, mut due) = tokio::sync::watch::channel(());
    let altering = tokio::spawn(async move {
        for number in 1..=TIMES {
            due.changed().await.unwrap();
            let sql = format!("ALTER TABLE t ADD c{number} int DEFAULT {number}; INSERT INTO t (id) VALUES (-{number})");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        }
    });
    let (mut all, mut again) = (Vec::new(), 0);
    let last = format!("c t [-{TIMES},");
    while session.source.status().phase != Phase::Streaming || !all.iter().any(|change| line(change).starts_with(&last)) {
        match session.step().await {
            Ok(changes) => {
                all.extend(changes);
                handed.send(()).ok();
            }
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                again += 1;
                drop(session);
                session = exchange.reconnect(&system).await;
            }
        }
    }
    altering.await.unwrap();
    println!("{again} sessions met an altered table");
    let shapes: Vec<usize> = all.iter().map(|change| change.table.columns.len()).collect();
    assert!(
        shapes.is_sorted(),
        "the table changed back: {:?}",
        shapes.chunk_by(|a, b| a == b).map(|run| run[0]).collect::<Vec<_>>()
    );
    let mut mirror = Mirror::default();
    mirror.apply(&all);
    assert_eq!(mirror.table("t").len(), ROWS + TIMES);
}
