//! What a table holds, in a connection of its own: a comparison takes longer than a batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use guitong_govern::ColumnKind;
use guitong_schemas::standard::StandardValue;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use super::Own;
use super::errors::sink_error;
use super::table::{self, Place};
use crate::json;
use crate::sink::holdings::{HeldRow, Holdings, Look, Print, RangeSum, Slice, TextOf};
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::Layout;
use crate::sql::prints::{self, Dialect, Prints};
use crate::sql::stored::{Stored, StoredOffset, settled};
use crate::sql::unsigned;

/// A comparison reads the whole table, whatever a batch prefers.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = on; SET LOCAL datestyle = 'ISO'";

#[derive(Debug)]
pub(super) struct PostgresHoldings {
    pub(super) pool: PgPool,
    pub(super) place: Place,
    pub(super) plan: SinkPlan,
    pub(super) layout: Arc<Layout>,
}

#[async_trait]
impl Holdings for PostgresHoldings {
    async fn look(&self) -> Result<Option<Box<dyn Look>>, SinkError> {
        let mut connection = self.pool.acquire().await.map_err(sink_error)?.detach();
        connection.execute(BEGIN).await.map_err(sink_error)?;
        for name in ["guitong_subscriptions", &self.layout.name] {
            if !table::exists(&mut connection, &self.place, name).await? {
                return Ok(None);
            }
        }
        let own = Own { place: &self.place };
        let stored = sqlx::query_as::<_, Stored>(AssertSqlSafe(own.stored())).bind(&*self.plan.subscription);
        let stored = stored.fetch_optional(&mut connection).await.map_err(sink_error)?;
        let offsets = sqlx::query_as::<_, StoredOffset>(AssertSqlSafe(own.partitions()));
        let offsets = offsets.bind(&*self.plan.subscription).bind(&*self.plan.topic);
        let offsets = offsets.fetch_all(&mut connection).await.map_err(sink_error)?;
        let Some(positions) = settled(stored.as_ref(), &offsets, &self.plan, &self.layout)? else { return Ok(None) };
        let holds = prints::holds(&self.layout, stored.is_some_and(|stored| stored.made));
        let prints = Prints::new(Words, &self.layout, &holds);
        Ok(Some(Box::new(PostgresLook { connection, prints, positions })))
    }
}

#[derive(Debug)]
struct PostgresLook {
    connection: PgConnection,
    prints: Prints<Words>,
    positions: BTreeMap<u32, u64>,
}

#[async_trait]
impl Look for PostgresLook {
    fn positions(&self) -> &BTreeMap<u32, u64> {
        &self.positions
    }

    fn text_of(&self) -> TextOf {
        text_of
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
struct Words;

impl Dialect for Words {
    fn text(&self, kind: ColumnKind, column: &str) -> String {
        match kind {
            ColumnKind::Text | ColumnKind::Date => format!("{column}::text"),
            ColumnKind::Int | ColumnKind::Decimal { .. } => format!("trim_scale({column}::numeric)::text"),
            ColumnKind::Time => format!("trim_scale(extract(epoch FROM {column}) * 1000000)::text"),
            ColumnKind::TextList => format!("array_to_json({column})::text"),
            ColumnKind::Steps => format!("{column}::jsonb::text"),
        }
    }

    fn hex(&self, column: &str) -> String {
        format!("encode({column}, 'hex')")
    }

    fn number(&self, texts: &[String]) -> String {
        let parts: Vec<String> =
            texts.iter().map(|text| format!("coalesce(char_length({text}) || ':' || {text}, '-')")).collect();
        let digits = format!("encode(sha256(convert_to({}, 'UTF8')), 'hex')", parts.join(" || "));
        format!("('x' || substr({digits}, 1, 15))::bit(60)::bigint")
    }

    fn signed(&self, number: &str) -> String {
        number.to_owned()
    }
}

/// As [`Words`] makes it of the column.
fn text_of(kind: ColumnKind, cell: &StandardValue<'_>) -> String {
    match (kind, cell) {
        // Of a column that masks may change, values that none changed are texts too.
        (ColumnKind::Text, cell) => cell.to_string(),
        (_, StandardValue::Time(micros)) => micros.to_string(),
        (_, StandardValue::Decimal { scale: 1.., .. }) => {
            let text = cell.to_string();
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        (_, StandardValue::TextList(items)) => json::texts(items).to_string(),
        (_, StandardValue::Steps(steps)) => jsonb(&json::steps(steps)),
        (_, cell) => cell.to_string(),
    }
}

/// JSON as `jsonb` writes it: keys by length and then by their bytes, a blank behind commas and colons.
fn jsonb(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(jsonb).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| (name.len(), name.as_str()));
            let member = |(name, value): &(&String, &Value)| format!("{}: {}", Value::from(name.as_str()), jsonb(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
