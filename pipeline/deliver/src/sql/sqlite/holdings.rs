//! What a table holds. SQLite runs in this process and has no SHA-256 of its own: rows are read where others send their numbers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use guitong_govern::ColumnKind;
use guitong_schemas::standard::StandardValue;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::errors::sink_error;
use super::opening::SqliteFile;
use super::table;
use crate::json;
use crate::sink::holdings::{HeldRow, Holdings, Look, Print, RangeSum, Slice, TextOf, number};
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::{Layout, join, quote};
use crate::sql::stored::{Stored, StoredOffset, settled};
use crate::sql::{EPOCH, KEY, VERSION, prints, unsigned};

const STORED: &str = "SELECT table_name, made, log_id, topic, epoch, sweep_epoch, grant_fingerprint, shape, entries
    FROM guitong_subscriptions WHERE subscription = $1";
const PARTITIONS: &str = "SELECT partition, next_offset, refill_to FROM guitong_offsets WHERE subscription = $1 AND topic = $2";

#[derive(Debug)]
pub(super) struct SqliteHoldings {
    pub(super) file: Arc<SqliteFile>,
    pub(super) plan: SinkPlan,
    pub(super) layout: Layout,
}

#[async_trait]
impl Holdings for SqliteHoldings {
    async fn look(&self) -> Result<Option<Box<dyn Look>>, SinkError> {
        // The file's one connection is for those who write.
        let options = (*self.file.pool.connect_options()).clone().create_if_missing(false).pragma("query_only", "ON");
        let mut connection = options.connect().await.map_err(sink_error)?;
        sqlx::query("BEGIN").execute(&mut connection).await.map_err(sink_error)?;
        for name in ["guitong_subscriptions", &self.layout.name] {
            if table::found(&mut connection, name).await?.is_empty() {
                return Ok(None);
            }
        }
        let subscription = || self.plan.subscription.to_string();
        let stored = sqlx::query_as::<_, Stored>(STORED).bind(subscription());
        let stored = stored.fetch_optional(&mut connection).await.map_err(sink_error)?;
        let offsets = sqlx::query_as::<_, StoredOffset>(PARTITIONS).bind(subscription()).bind(self.plan.topic.to_string());
        let offsets = offsets.fetch_all(&mut connection).await.map_err(sink_error)?;
        let Some(positions) = settled(stored.as_ref(), &offsets, &self.plan, &self.layout)? else { return Ok(None) };
        let holds = prints::holds(&self.layout, stored.is_some_and(|stored| stored.made));
        Ok(Some(Box::new(SqliteLook::new(connection, &self.layout, &holds, positions))))
    }
}

#[derive(Debug)]
struct SqliteLook {
    connection: SqliteConnection,
    count: String,
    rows: String,
    hashed: bool,
    keys: usize,
    cells: usize,
    positions: BTreeMap<u32, u64>,
}

impl SqliteLook {
    fn new(connection: SqliteConnection, layout: &Layout, holds: &str, positions: BTreeMap<u32, u64>) -> Self {
        // Whatever somebody put there is read as bytes.
        let bytes = |name: &String| format!("CAST({} AS BLOB)", quote(name));
        let key: Vec<String> = match layout.hashed {
            true => vec![format!("CAST(lower(hex({KEY})) AS BLOB)")],
            false => layout.key.iter().map(bytes).collect(),
        };
        let cells: Vec<String> = layout.columns.iter().map(|column| bytes(&column.name)).collect();
        let texts = join(key.iter().chain(&cells).cloned(), ", ");
        let rows = format!("FROM {} WHERE {holds}", layout.table);
        Self {
            count: format!("SELECT count(*) {rows}"),
            rows: format!("SELECT CAST({VERSION} AS BLOB), {EPOCH}, {texts} {rows}"),
            hashed: layout.hashed,
            keys: key.len(),
            cells: cells.len(),
            connection,
            positions,
        }
    }

    /// Reads every row of the table, one after the other.
    async fn each(&mut self, mut take: impl FnMut(HeldRow) + Send) -> Result<(), SinkError> {
        let shape = (self.hashed, self.keys, self.cells);
        let mut rows = sqlx::query(AssertSqlSafe(self.rows.as_str())).fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await.map_err(sink_error)? {
            take(held(&row, shape).map_err(sink_error)?);
        }
        Ok(())
    }
}

/// `shape`: whether the key is hashed, how many columns it has, how many are granted.
fn held(row: &SqliteRow, (hashed, keys, cells): (bool, usize, usize)) -> Result<HeldRow, sqlx::Error> {
    const FIRST: usize = 2;
    let text = |at: usize| {
        let bytes: Option<Vec<u8>> = row.try_get(at)?;
        Ok::<_, sqlx::Error>(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let key: Vec<_> = (FIRST..FIRST + keys).map(text).collect::<Result<_, _>>()?;
    let cells: Vec<_> = (FIRST + keys..FIRST + keys + cells).map(text).collect::<Result<_, _>>()?;
    let own = key.iter().filter(|_| hashed);
    let print = Print { key: number(key.iter().map(Option::as_deref)), content: number(own.chain(&cells).map(Option::as_deref)) };
    let key = key.into_iter().map(Option::unwrap_or_default).collect();
    Ok(HeldRow { print, key, version: row.try_get(0)?, epoch: row.try_get(1)?, cells })
}

#[async_trait]
impl Look for SqliteLook {
    fn positions(&self) -> &BTreeMap<u32, u64> {
        &self.positions
    }

    fn text_of(&self) -> TextOf {
        text_of
    }

    async fn count(&mut self) -> Result<u64, SinkError> {
        let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(self.count.as_str()));
        count.fetch_one(&mut self.connection).await.map(unsigned).map_err(sink_error)
    }

    async fn ranges(&mut self, slice: Slice, shift: u32) -> Result<Vec<RangeSum>, SinkError> {
        let mut ranges: HashMap<u64, (u64, u64)> = HashMap::new();
        self.each(|row| {
            if slice.contains(row.print.key) {
                let (rows, content) = ranges.entry(row.print.key >> shift).or_default();
                *rows += 1;
                *content ^= row.print.content;
            }
        })
        .await?;
        Ok(ranges.into_iter().map(|(range, (rows, content))| RangeSum { range, rows, content }).collect())
    }

    async fn prints(&mut self, ranges: &[u64], shift: u32) -> Result<Vec<Print>, SinkError> {
        let ranges: HashSet<u64> = ranges.iter().copied().collect();
        let mut prints = Vec::new();
        self.each(|row| prints.extend(ranges.contains(&(row.print.key >> shift)).then_some(row.print))).await?;
        Ok(prints)
    }

    async fn rows(&mut self, keys: &[u64], take: &mut (dyn FnMut(HeldRow) + Send)) -> Result<(), SinkError> {
        let keys: HashSet<u64> = keys.iter().copied().collect();
        self.each(|row| {
            if keys.contains(&row.print.key) {
                take(row);
            }
        })
        .await
    }

    async fn end(self: Box<Self>) {
        // There is nothing that could be lost.
        self.connection.close().await.ok();
    }
}

/// As it is written ([`super::write`]).
fn text_of(_: ColumnKind, cell: &StandardValue<'_>) -> String {
    match cell {
        StandardValue::TextList(items) => json::texts(items).to_string(),
        StandardValue::Steps(steps) => json::steps(steps).to_string(),
        other => other.to_string(),
    }
}
