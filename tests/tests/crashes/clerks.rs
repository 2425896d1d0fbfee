//! Clerks who write into a department's tables, and an administrator among them who changes the tables' columns meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::Mutex;

use crate::replay::Row;

/// Keys are of these numbers.
pub(crate) const KEYS: u32 = 1_500;

/// Tables and the columns of their keys; `big` is stored out of line, so that updates of other columns do not send it.
pub(crate) const TABLES: [(&str, &str); 2] = [("people", "id"), ("parcels", "district, number")];

pub(crate) fn make() -> String {
    let mut sql = "CREATE TABLE people (id int PRIMARY KEY, n int, big text);
        CREATE TABLE parcels (district text, number int, n int, big text, PRIMARY KEY (district, number));
        ALTER TABLE people ALTER big SET STORAGE EXTERNAL; ALTER TABLE parcels ALTER big SET STORAGE EXTERNAL;"
        .to_owned();
    for (table, _) in TABLES {
        let rows: Vec<String> =
            (0..KEYS).map(|at| format!("({}, {at}, repeat('x', {}))", key(table, at), at % 150 * 20)).collect();
        write!(sql, "INSERT INTO {table} VALUES {}; ANALYZE {table};", rows.join(", ")).unwrap();
    }
    sql
}

fn key(table: &str, number: u32) -> String {
    if table == "people" { number.to_string() } else { format!("'{}区', {number}", ["南", "北", "西"][number as usize % 3]) }
}

/// A column that came after the table was made.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    /// The name it came with; no name is given twice.
    first_name: String,
    /// Place in [`KINDS`].
    kind: usize,
}

/// Types that a column has one after the other; a value has the same text in each.
const KINDS: [&str; 3] = ["int", "bigint", "text"];

/// The columns of one table beside those that it was made with.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    present: Vec<Column>,
    first_names: BTreeMap<String, String>,
    /// What rows have, by the column's first name, that were there before it.
    defaults: BTreeMap<String, Option<String>>,
}

impl Columns {
    pub(crate) fn first_name(&self, name: &str) -> String {
        self.first_names.get(name).map_or_else(|| name.to_owned(), Clone::clone)
    }

    /// The table's rows as they are.
    pub(crate) async fn rows(&self, pool: &PgPool, (table, key): (&str, &str)) -> Vec<Row> {
        let fixed = key.split(", ").chain(["n", "big"]).map(|name| (name.to_owned(), name.to_owned()));
        let present = self.present.iter().map(|column| (column.name.clone(), column.first_name.clone()));
        let (names, first_names): (Vec<String>, Vec<String>) = fixed.chain(present).unzip();
        let values: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
        let sql = format!("SELECT ARRAY[{}] FROM {table}", values.join(", "));
        let rows: Vec<Vec<Option<String>>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
        rows.into_iter().map(|row| first_names.iter().cloned().zip(row).collect()).collect()
    }

    /// The replayed row with the present columns and no others.
    pub(crate) fn as_present(&self, mut row: Row) -> Row {
        for (name, default) in &self.defaults {
            if self.present.iter().any(|column| column.first_name == *name) {
                row.entry(name.clone()).or_insert_with(|| default.clone());
            } else {
                row.remove(name);
            }
        }
        row
    }

    /// A change of the columns: its SQL, and the columns after it.
    fn change(&self, random: &mut StdRng, table: &str) -> (String, Vec<Column>) {
        let (new, mut after) = (format!("c{}", self.first_names.len()), self.present.clone());
        let at = random.random_range(0..after.len().max(1));
        let what = match (random.random_range(0..4), after.get_mut(at)) {
            (1, Some(column)) => {
                let sql = format!("RENAME {} TO {new}", column.name);
                column.name = new;
                sql
            }
            (2, Some(column)) if column.kind + 1 < KINDS.len() => {
                column.kind += 1;
                format!("ALTER {} TYPE {}", column.name, KINDS[column.kind])
            }
            (3, Some(_)) => format!("DROP {}", after.swap_remove(at).name),
            _ => {
                let kind = random.random_range(0..KINDS.len());
                let default =
                    if random.random_bool(0.5) { format!("DEFAULT '{}'", random.random::<i16>()) } else { String::new() };
                after.push(Column { name: new.clone(), first_name: new.clone(), kind });
                format!("ADD {new} {} {default}", KINDS[kind])
            }
        };
        (format!("ALTER TABLE {table} {what}"), after)
    }

    /// The change was committed.
    fn take(&mut self, sql: &str, after: Vec<Column>) {
        for column in &after {
            if !self.first_names.contains_key(&column.name) {
                let default = sql.split_once("DEFAULT '").map(|(_, value)| value.trim_end_matches('\'').to_owned());
                self.defaults.entry(column.first_name.clone()).or_insert(default);
                self.first_names.insert(column.name.clone(), column.first_name.clone());
            }
        }
        self.present = after;
    }
}

/// The columns of all tables, locked while they are being changed.
pub(crate) type Shapes = Arc<[Mutex<Columns>; TABLES.len()]>;

/// A random statement on a table.
fn statement(random: &mut StdRng, (table, columns): (&str, &str), present: &[Column]) -> String {
    let (from, to) = (key(table, random.random_range(0..KEYS)), key(table, random.random_range(0..KEYS)));
    let n = random.random::<i32>();
    let more: Vec<&Column> = present.iter().filter(|_| random.random_bool(0.7)).collect();
    match random.random_range(0..100) {
        0..25 => {
            let names: String = more.iter().map(|column| format!(", {}", column.name)).collect();
            let values = ", '7'".repeat(more.len());
            let big = random.random_range(0..3_000);
            format!(
                "INSERT INTO {table} ({columns}, n, big{names}) VALUES ({from}, {n}, repeat('b', {big}){values}) ON CONFLICT DO NOTHING"
            )
        }
        25..50 => {
            let sets: String = more.iter().map(|column| format!(", {} = '{}'", column.name, n % 1_000)).collect();
            format!("UPDATE {table} SET n = {n}{sets} WHERE ({columns}) = ({from})")
        }
        50..58 => {
            format!("UPDATE {table} SET big = repeat('{}', {}) WHERE ({columns}) = ({from})", n % 10, n.unsigned_abs() % 3_000)
        }
        58..68 => format!("UPDATE {table} SET ({columns}) = ROW({to}) WHERE ({columns}) = ({from})"),
        68..86 => format!("DELETE FROM {table} WHERE ({columns}) = ({from})"),
        86..94 => format!("SAVEPOINT s; DELETE FROM {table} WHERE ({columns}) IN (({from}), ({to})); ROLLBACK TO s"),
        94..97 => format!("SAVEPOINT s; UPDATE {table} SET n = {n} WHERE ({columns}) = ({from}); RELEASE s"),
        // Beyond what the server keeps in memory of a transaction.
        97..99 => format!("UPDATE {table} SET n = n, big = big || 'y' WHERE n % 12 = {}", n % 12),
        _ if n % 50 == 0 => format!("TRUNCATE {table}; INSERT INTO {table} ({columns}, n) VALUES ({from}, {n})"),
        _ => format!("DELETE FROM {table} WHERE n % 20 = {}", n % 20),
    }
}

/// Time between two changes of columns: each breaks off the reading of a table.
fn pause(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(500..6_000))
}

/// Writes until it is told to stop and has changed columns; how often it has. Transactions that another clerk or the administrator was in the way of are gone.
pub(crate) async fn write(pool: PgPool, seed: u64, shapes: Shapes, stop: Arc<AtomicBool>) -> u32 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = pool.acquire().await.unwrap();
    let (mut changes, mut next_change) = (0, Instant::now() + pause(&mut random));
    while !stop.load(Ordering::Relaxed) || changes == 0 {
        let at = random.random_range(0..TABLES.len());
        let columns = shapes[at].lock().await;
        let mut statements: Vec<String> =
            (0..random.random_range(1..6)).map(|_| statement(&mut random, TABLES[at], &columns.present)).collect();
        let commits = random.random_range(0..10) > 0;
        let change = (Instant::now() >= next_change).then(|| columns.change(&mut random, TABLES[at].0));
        if let Some((sql, after)) = &change {
            next_change = Instant::now() + pause(&mut random);
            statements.push(sql.clone());
            statements.push(statement(&mut random, TABLES[at], after));
        }
        let sql = format!("BEGIN; {}; {}", statements.join("; "), if commits { "COMMIT" } else { "ROLLBACK" });
        // Held over a change of the columns alone: clerks are not to wait for each other.
        let mut held = change.is_some().then_some(columns);
        let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *connection).await;
        match (done, change, &mut held) {
            (Ok(_), Some((sql, after)), Some(columns)) if commits => {
                columns.take(&sql, after);
                changes += 1;
            }
            (Ok(_), ..) => {}
            (Err(error), ..) => {
                let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
                // A key that is taken, a deadlock, a column that is gone.
                assert!(["23505", "40P01", "42703"].contains(&code.as_deref().unwrap_or_default()), "{error}: {sql}");
                connection.execute("ROLLBACK").await.unwrap();
            }
        }
        drop(held);
        // Leaves the machine to the node.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
    }
    changes
}
