//! What every subscriber holds against what it is granted, by plain SQL in SQLite: nothing of the pipeline is called here.

use std::path::{Path, PathBuf};

use guitong_schemas::contract::{Directory, SinkConfig, SourceConfig};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};

use super::DemoError;
use super::files::{EXPECTED, Expected};

/// One subscriber's table against its grant.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    pub subscription: String,
    pub expected: u64,
    pub held: u64,
    /// Rows that the grant gives and the subscriber's table has not.
    pub missing: u64,
    /// Rows that the subscriber's table has and the grant does not give.
    pub foreign: u64,
    /// One row of either, to begin looking with.
    pub sample: Option<String>,
    /// Cells that hold a value.
    pub cells: u64,
}

impl Comparison {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.missing == 0 && self.foreign == 0 && self.expected == self.held
    }
}

/// Compares every subscription of the quick start.
///
/// # Errors
/// When a database cannot be read.
pub async fn compare(directory: &Directory) -> Result<Vec<Comparison>, DemoError> {
    let mut out = Vec::with_capacity(EXPECTED.len());
    for expected in EXPECTED {
        out.push(Bench::open(directory, expected).await?.compare().await?);
    }
    Ok(out)
}

/// Rows that all subscriptions together are granted.
pub(super) async fn granted(directory: &Directory) -> Result<u64, DemoError> {
    let mut total = 0;
    for expected in EXPECTED {
        total += Bench::open(directory, expected).await?.count("SELECT count(*) FROM expected").await?;
    }
    Ok(total)
}

/// Rows that all subscribers together hold. Before its first batch a subscriber has no table, and before the first of its department no file.
pub(super) async fn held(directory: &Directory) -> Result<u64, DemoError> {
    let mut total: u64 = 0;
    for subscription in directory.subscriptions.values() {
        let SinkConfig::Sqlite { path, table } = &subscription.sink else { continue };
        let options = SqliteConnectOptions::new().filename(directory.root.join(path)).read_only(true).disable_statement_logging();
        let Ok(mut connection) = options.connect().await else { continue };
        let sql = format!("SELECT count(*) FROM {}", quote(table));
        if let Ok(row) = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await {
            total += u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        }
    }
    Ok(total)
}

/// A connection with the department's database attached as `department`, and the expected rows in the temporary table `expected`.
struct Bench {
    connection: SqliteConnection,
    subscription: &'static str,
    sink: PathBuf,
    table: String,
    columns: Vec<String>,
}

impl Bench {
    async fn open(directory: &Directory, expected: &Expected) -> Result<Self, DemoError> {
        let missing = || DemoError::Directory(format!("{} is not the quick start's subscription", expected.subscription));
        let subscription = directory.subscriptions.get(expected.subscription).ok_or_else(missing)?;
        let resource = directory.resources.get(&subscription.resource).ok_or_else(missing)?;
        let system = directory.systems.get(&resource.system).ok_or_else(missing)?;
        let (SourceConfig::Sqlite(source), SinkConfig::Sqlite { path, table }) = (&system.source, &subscription.sink) else {
            return Err(missing());
        };
        let mut connection = SqliteConnectOptions::new().disable_statement_logging().connect().await?;
        attach(&mut connection, &directory.root.join(&source.path), "department").await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(expected.view)).execute(&mut connection).await?;
        let fill = format!("CREATE TEMP TABLE expected AS {}", expected.query);
        sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut connection).await?;
        let columns = sqlx::query("SELECT name FROM pragma_table_info('expected')").fetch_all(&mut connection).await?;
        let columns = columns.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        let (sink, table) = (directory.root.join(path), format!("subscriber.{}", quote(table)));
        Ok(Self { connection, subscription: expected.subscription, sink, table, columns })
    }

    async fn compare(mut self) -> Result<Comparison, DemoError> {
        attach(&mut self.connection, &self.sink, "subscriber").await?;
        let as_text: Vec<String> = self.columns.iter().map(|name| format!("CAST({0} AS TEXT) AS {0}", quote(name))).collect();
        let as_text = as_text.join(", ");
        let granted = format!("SELECT {as_text} FROM expected");
        let holds = format!("SELECT {as_text} FROM {}", self.table);
        let filled: Vec<String> = self.columns.iter().map(|name| format!("count({})", quote(name))).collect();
        let expected = self.count("SELECT count(*) FROM expected").await?;
        let held = self.count(&format!("SELECT count(*) FROM {}", self.table)).await?;
        let missing = self.count(&format!("SELECT count(*) FROM ({granted} EXCEPT {holds})")).await?;
        let foreign = self.count(&format!("SELECT count(*) FROM ({holds} EXCEPT {granted})")).await?;
        let cells = self.count(&format!("SELECT {} FROM {}", filled.join(" + "), self.table)).await?;
        let sample = match (missing, foreign) {
            (0, 0) => None,
            _ => Some(self.sample(&granted, &holds).await?),
        };
        Ok(Comparison { subscription: self.subscription.to_owned(), expected, held, missing, foreign, sample, cells })
    }

    async fn count(&mut self, sql: &str) -> Result<u64, DemoError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.connection).await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0))
    }

    async fn sample(&mut self, granted: &str, holds: &str) -> Result<String, DemoError> {
        let mut parts = Vec::new();
        for (title, left, right) in [("granted", granted, holds), ("held", holds, granted)] {
            let sql = format!("SELECT * FROM ({left} EXCEPT {right}) ORDER BY 1 LIMIT 1");
            if let Some(row) = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_optional(&mut self.connection).await? {
                let cells = (0..self.columns.len()).map(|at| row.try_get::<Option<String>, _>(at));
                let cells = cells.collect::<Result<Vec<_>, _>>()?;
                let cells: Vec<String> = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "NULL".to_owned())).collect();
                parts.push(format!("{title}: {}", cells.join(" | ")));
            }
        }
        Ok(parts.join("\n"))
    }
}

async fn attach(connection: &mut SqliteConnection, path: &Path, name: &str) -> Result<(), DemoError> {
    if !path.exists() {
        return Err(DemoError::Database(sqlx::Error::Configuration(format!("{} does not exist", path.display()).into())));
    }
    let sql = format!("ATTACH DATABASE ?1 AS {name}");
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(path.display().to_string()).execute(connection).await?;
    Ok(())
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
