//! What a table holds, in a connection of its own: a comparison takes longer than a batch.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use guitong_govern::ColumnKind;
use guitong_schemas::standard::StandardValue;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, MySqlPool};

use super::errors::sink_error;
use super::write::text_of_time;
use super::{PARTITIONS, STORED, table};
use crate::json;
use crate::sink::holdings::{HeldRow, Holdings, Look, Print, RangeSum, Slice, TextOf};
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::Layout;
use crate::sql::prints::{self, Dialect, Prints};
use crate::sql::stored::{Stored, StoredOffset, settled};
use crate::sql::unsigned;

/// The snapshot is of this statement, not of the first one that reads.
const BEGIN: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;
    START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Digits behind the point under which every number is written.
const SCALE: usize = 30;

#[derive(Debug)]
pub(super) struct MysqlHoldings {
    pub(super) pool: MySqlPool,
    pub(super) plan: SinkPlan,
    pub(super) layout: Layout,
}

#[async_trait]
impl Holdings for MysqlHoldings {
    async fn look(&self) -> Result<Option<Box<dyn Look>>, SinkError> {
        let mut connection = self.pool.acquire().await.map_err(sink_error)?.detach();
        for name in ["guitong_subscriptions", "guitong_offsets", &self.layout.name] {
            if table::found(&mut connection, name).await?.is_empty() {
                return Ok(None);
            }
        }
        let version = sqlx::query_scalar::<_, String>("SELECT CONVERT(VERSION() USING utf8mb4)");
        let version = version.fetch_one(&mut connection).await.map_err(sink_error)?;
        connection.execute(BEGIN).await.map_err(sink_error)?;
        let stored = sqlx::query_as::<_, Stored>(STORED).bind(&*self.plan.subscription);
        let stored = stored.fetch_optional(&mut connection).await.map_err(sink_error)?;
        let offsets = sqlx::query_as::<_, StoredOffset>(PARTITIONS).bind(&*self.plan.subscription).bind(&*self.plan.topic);
        let offsets = offsets.fetch_all(&mut connection).await.map_err(sink_error)?;
        let Some(positions) = settled(stored.as_ref(), &offsets, &self.plan, &self.layout)? else { return Ok(None) };
        let keeps_json = version.contains("MariaDB");
        let holds = prints::holds(&self.layout, stored.is_some_and(|stored| stored.made));
        let prints = Prints::new(Words { keeps_json }, &self.layout, &holds);
        let text_of = if keeps_json { text_of } else { text_but_of_json };
        Ok(Some(Box::new(MysqlLook { connection, prints, positions, text_of })))
    }
}

#[derive(Debug)]
struct MysqlLook {
    connection: MySqlConnection,
    prints: Prints<Words>,
    positions: BTreeMap<u32, u64>,
    text_of: TextOf,
}

#[async_trait]
impl Look for MysqlLook {
    fn positions(&self) -> &BTreeMap<u32, u64> {
        &self.positions
    }

    fn text_of(&self) -> TextOf {
        self.text_of
    }

    async fn count(&mut self) -> Result<u64, SinkError> {
        let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(self.prints.count.as_str()));
        count.fetch_one(&mut self.connection).await.map(unsigned).map_err(sink_error)
    }

    async fn ranges(&mut self, slice: Slice, shift: u32) -> Result<Vec<RangeSum>, SinkError> {
        let ranges = sqlx::query_as::<_, (i64, i64, i64)>(AssertSqlSafe(self.prints.ranges(slice, shift))).persistent(false);
        ranges.fetch(&mut self.connection).map_ok(prints::range).try_collect().await.map_err(sink_error)
    }

    async fn prints(&mut self, ranges: &[u64], shift: u32) -> Result<Vec<Print>, SinkError> {
        let rows = sqlx::query_as::<_, (i64, i64)>(AssertSqlSafe(self.prints.prints(ranges, shift))).persistent(false);
        rows.fetch(&mut self.connection).map_ok(prints::print).try_collect().await.map_err(sink_error)
    }

    async fn rows(&mut self, keys: &[u64], take: &mut (dyn FnMut(HeldRow) + Send)) -> Result<(), SinkError> {
        let Self { connection, prints, .. } = self;
        let rows = sqlx::query(AssertSqlSafe(prints.rows(keys))).persistent(false);
        let mut rows = rows.fetch(connection);
        while let Some(row) = rows.try_next().await.map_err(sink_error)? {
            take(prints.row(&row).map_err(sink_error)?);
        }
        Ok(())
    }

    async fn end(self: Box<Self>) {
        // A server that is gone has let go of it already.
        self.connection.close().await.ok();
    }
}

#[derive(Debug)]
struct Words {
    /// JSON stays the text that was written. MySQL writes it anew in an order of its own, so there it is not compared.
    keeps_json: bool,
}

impl Dialect for Words {
    fn text(&self, kind: ColumnKind, column: &str) -> String {
        match kind {
            ColumnKind::TextList | ColumnKind::Steps if !self.keeps_json => format!("LEFT(CONVERT({column} USING utf8mb4), 0)"),
            ColumnKind::Text | ColumnKind::TextList | ColumnKind::Steps => format!("CONVERT({column} USING utf8mb4)"),
            ColumnKind::Int | ColumnKind::Decimal { .. } => format!("CAST(CAST({column} AS DECIMAL(65, {SCALE})) AS CHAR)"),
            ColumnKind::Date | ColumnKind::Time => format!("CAST({column} AS CHAR)"),
        }
    }

    fn hex(&self, column: &str) -> String {
        format!("LOWER(HEX({column}))")
    }

    fn number(&self, texts: &[String]) -> String {
        let parts: Vec<String> =
            texts.iter().map(|text| format!("COALESCE(CONCAT(CHAR_LENGTH({text}), ':', {text}), '-')")).collect();
        self.signed(&format!("CONV(LEFT(SHA2(CONCAT({}), 256), 15), 16, 10)", parts.join(", ")))
    }

    fn signed(&self, number: &str) -> String {
        format!("CAST({number} AS SIGNED)")
    }
}

/// As [`Words`] makes it of the column.
fn text_of(kind: ColumnKind, cell: &StandardValue<'_>) -> String {
    match (kind, cell) {
        (_, StandardValue::TextList(items)) => json::texts(items).to_string(),
        (_, StandardValue::Steps(steps)) => json::steps(steps).to_string(),
        (ColumnKind::Time, cell) => {
            let text = text_of_time(cell);
            if text.contains('.') { text } else { format!("{text}.000000") }
        }
        (_, StandardValue::Time(_)) => text_of_time(cell),
        (ColumnKind::Int | ColumnKind::Decimal { .. }, cell) => {
            let text = cell.to_string();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            format!("{whole}.{fraction:0<SCALE$}")
        }
        (_, cell) => cell.to_string(),
    }
}

fn text_but_of_json(kind: ColumnKind, cell: &StandardValue<'_>) -> String {
    match kind {
        ColumnKind::TextList | ColumnKind::Steps => String::new(),
        _ => text_of(kind, cell),
    }
}
