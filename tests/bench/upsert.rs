//! 100,000 upserts, every one an update of a row that is there, into PostgreSQL and MariaDB: the whole deliverer from the embedded log,
//! from when it has taken the subscription over until everything is durable, and beside it what is written best by hand, on a connection
//! that is there, in one transaction and with nothing remembered: COPY in binary into a temporary table and one MERGE; LOAD DATA into one
//! and one upsert.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use guitong_schemas::contract::{Secret, SinkConfig};
use guitong_schemas::position::Version;
use guitong_tests::exchange::credit_code;
use guitong_tests::servers::mariadb::Mariadb;
use guitong_tests::servers::postgres::{PASSWORD, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlPool, PgPool};
use tempfile::TempDir;

use crate::backlog::{Backlog, name};
use crate::rounds::{Bar, Reference, Rounds, median};
use crate::{Failure, Outcome, load};

const ROWS: u64 = 100_000;
const OURS: Bar = Bar { name: "ours", ratio: 0.9 };
const COPY: Reference = Reference { name: "COPY + MERGE by hand", measured: 76_000.0 };
const LOAD: Reference = Reference { name: "LOAD DATA + upsert by hand", measured: 76_000.0 };

/// The same columns as ours, version and epoch among them, and in PostgreSQL the same room in its pages.
const BY_HAND: &str =
    "CREATE TABLE by_hand (uscc varchar(40) PRIMARY KEY, name text, legal_rep_name text, version VERSION, epoch bigint)";
const STAGE: &str =
    "CREATE TEMPORARY TABLE stage (uscc varchar(40), name text, legal_rep_name text, version VERSION, epoch bigint)";
/// Of a table in MariaDB.
const CHARACTERS: &str = "CHARACTER SET utf8mb4";

pub(crate) async fn run(runs: usize) -> Outcome {
    let (postgres, mariadb) = (load::database().await?, Mariadb::start().await?);
    postgres.create_role("office", "").await?;
    postgres.create_database("ours").await?;
    let ours = postgres.admin_of("ours").await?;
    ours.execute("GRANT CREATE ON SCHEMA public TO office").await?;
    mariadb.create_user("office", "ours", "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP").await?;
    let to_postgres = of_postgres(&postgres);
    let to_mariadb = SinkConfig::Mysql { url: Secret::new(mariadb.url("office", "ours")), table: "enterprise".into() };
    let (pg, maria) = (postgres.admin().await?, mariadb.admin().await?);
    pg.execute(AssertSqlSafe(format!("{} WITH (fillfactor = 80)", BY_HAND.replace("VERSION", "bytea")))).await?;
    let by_hand = BY_HAND.replace("VERSION", "varbinary(40)").replacen("by_hand", "ours.by_hand", 1);
    maria.execute(AssertSqlSafe(format!("{by_hand} {CHARACTERS}"))).await?;

    let mut backlog = Backlog::new().await?;
    let mut rounds = [Rounds::new("upserts into PostgreSQL", "rows"), Rounds::new("upserts into MariaDB", "rows")];
    let mut takeovers = [const { Vec::new() }; 2];
    // The first time the rows are made, which does not count.
    for run in 0..=runs {
        backlog.fill(ROWS).await?;
        let given = run as u64 * ROWS;
        let into_postgres = backlog.deliver("postgres", to_postgres.clone()).await?;
        let copied = copy(&pg, given).await?;
        let into_mariadb = backlog.deliver("mariadb", to_mariadb.clone()).await?;
        let loaded = load_data(&maria, given).await?;
        let times = [
            (OURS.name, 0, into_postgres.took - into_postgres.takeover),
            (COPY.name, 0, copied),
            (OURS.name, 1, into_mariadb.took - into_mariadb.takeover),
            (LOAD.name, 1, loaded),
        ];
        for (name, server, took) in times.into_iter().filter(|_| run > 0) {
            rounds.get_mut(server).into_iter().for_each(|rounds| rounds.add(name, ROWS, took));
        }
        for (all, delivered) in takeovers.iter_mut().zip([into_postgres, into_mariadb]).filter(|_| run > 0) {
            all.push(delivered.takeover.as_secs_f64() * 1e3);
        }
    }
    assert_upserted(&ours, runs as u64 * ROWS).await?;
    let [postgres, mariadb] = rounds;
    let verdict = postgres.finish(COPY, &[OURS]).and(mariadb.finish(LOAD, &[OURS]));
    let [postgres, mariadb] = takeovers.map(|mut all| median(&mut all));
    println!("  before that a subscription of {ROWS} rows was taken over in {postgres:.0} ms and {mariadb:.0} ms");
    Ok(verdict)
}

fn of_postgres(server: &Postgres) -> SinkConfig {
    let url = Secret::new(server.url_of("office", PASSWORD, "ours"));
    SinkConfig::Postgres { url, schema: "public".into(), table: "enterprise".into() }
}

/// Every row is there in its last version.
async fn assert_upserted(ours: &PgPool, given: u64) -> Result<(), Failure> {
    let last = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM enterprise WHERE name LIKE '%公司' || $1");
    let last = last.bind(given.to_string()).fetch_one(ours).await?;
    if last == i64::try_from(ROWS)? { Ok(()) } else { Err(format!("{last} rows of {ROWS} are in their last version").into()) }
}

async fn copy(pool: &PgPool, given: u64) -> Result<Duration, Failure> {
    let mut connection = pool.acquire().await?.detach();
    let begun = Instant::now();
    let stage = STAGE.replace("VERSION", "bytea");
    connection.execute(AssertSqlSafe(format!("BEGIN; {stage} ON COMMIT DROP"))).await?;
    let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for number in 0..ROWS {
        bytes.extend(5_i16.to_be_bytes());
        let (uscc, name) = (credit_code(u32::try_from(number)?), name(number, given));
        let fields: [&[u8]; 5] =
            [uscc.as_bytes(), name.as_bytes(), "韦小明".as_bytes(), &[7; Version::LEN], &i64::try_from(given)?.to_be_bytes()];
        for field in fields {
            bytes.extend(i32::try_from(field.len())?.to_be_bytes());
            bytes.extend(field);
        }
    }
    bytes.extend((-1_i16).to_be_bytes());
    let mut copy = connection.copy_in_raw("COPY stage FROM STDIN (FORMAT binary)").await?;
    copy.send(bytes).await?;
    copy.finish().await?;
    let merge = "MERGE INTO by_hand t USING stage s ON t.uscc = s.uscc
        WHEN MATCHED AND (t.version, t.epoch) < (s.version, s.epoch) THEN
            UPDATE SET name = s.name, legal_rep_name = s.legal_rep_name, version = s.version, epoch = s.epoch
        WHEN NOT MATCHED THEN INSERT VALUES (s.uscc, s.name, s.legal_rep_name, s.version, s.epoch); COMMIT";
    connection.execute(sqlx::raw_sql(merge)).await?;
    let took = begun.elapsed();
    connection.close().await?;
    Ok(took)
}

async fn load_data(pool: &MySqlPool, given: u64) -> Result<Duration, Failure> {
    let mut connection = pool.acquire().await?.detach();
    connection.execute("USE ours").await?;
    let folder = TempDir::new()?;
    // The server reads the file as another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let file = folder.path().join("rows");
    let begun = Instant::now();
    let mut text = String::new();
    for number in 0..ROWS {
        let (uscc, name, version) = (credit_code(u32::try_from(number)?), name(number, given), "7".repeat(Version::LEN));
        writeln!(text, "{uscc}\t{name}\t韦小明\t{version}\t{given}")?;
    }
    std::fs::write(&file, text)?;
    let stage = STAGE.replace("VERSION", "varbinary(40)");
    let sql = format!(
        "BEGIN; {stage} {CHARACTERS};
         LOAD DATA INFILE '{}' INTO TABLE stage CHARACTER SET utf8mb4;
         INSERT INTO by_hand SELECT * FROM stage ON DUPLICATE KEY UPDATE name = VALUES(name),
            legal_rep_name = VALUES(legal_rep_name), epoch = VALUES(epoch), version = VALUES(version);
         COMMIT",
        file.display()
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    let took = begun.elapsed();
    connection.close().await?;
    Ok(took)
}
