//! Making and checking a subscriber's table.

use guitong_govern::ColumnKind;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::errors::sink_error;
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::{Layout, join, misfit, quote};
use crate::sql::{EPOCH, KEY, VERSION};

/// The schema of the subscription's table and of the exchange's own beside it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) schema: String,
}

impl Place {
    pub(crate) fn qualified(&self, name: &str) -> String {
        format!("{}.{}", quote(&self.schema), quote(name))
    }
}

pub(crate) async fn run(connection: &mut PgConnection, sql: String) -> Result<u64, SinkError> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map_err(sink_error)?;
    Ok(done.rows_affected())
}

pub(crate) async fn exists(connection: &mut PgConnection, place: &Place, name: &str) -> Result<bool, SinkError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'f', 'm'))";
    sqlx::query_scalar(sql).bind(&place.schema).bind(name).fetch_one(connection).await.map_err(sink_error)
}

/// Whether somebody has put triggers on it.
pub(crate) async fn has_triggers(connection: &mut PgConnection, place: &Place, name: &str) -> Result<bool, SinkError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND NOT t.tgisinternal)";
    sqlx::query_scalar(sql).bind(&place.schema).bind(name).fetch_one(connection).await.map_err(sink_error)
}

/// The exchange's own tables. `deleted_us`: microseconds since 1970-01-01T00:00Z.
pub(crate) async fn make_own_tables(connection: &mut PgConnection, place: &Place) -> Result<(), SinkError> {
    let columns = [
        (
            "guitong_subscriptions",
            "subscription text PRIMARY KEY, table_name text NOT NULL, made boolean NOT NULL, log_id text NOT NULL,
             topic text NOT NULL, epoch bigint NOT NULL, sweep_epoch bigint, grant_fingerprint bytea NOT NULL, shape text NOT NULL,
             entries text",
        ),
        (
            "guitong_offsets",
            "subscription text NOT NULL, log_id text NOT NULL, topic text NOT NULL, partition bigint NOT NULL,
             next_offset bigint NOT NULL, refill_to bigint NOT NULL, epoch bigint NOT NULL,
             batch_count bigint NOT NULL, batch_digest text NOT NULL, PRIMARY KEY (subscription, topic, partition)",
        ),
        (
            "guitong_deleted",
            "subscription text NOT NULL, row_key bytea NOT NULL, version bytea NOT NULL, epoch bigint NOT NULL,
             deleted_us bigint NOT NULL, PRIMARY KEY (subscription, row_key)",
        ),
    ];
    for (name, columns) in columns {
        // `IF NOT EXISTS` asks for the right to create even where there is nothing to create.
        if !exists(connection, place, name).await? {
            run(connection, format!("CREATE TABLE {} ({columns})", place.qualified(name))).await?;
        }
    }
    Ok(())
}

/// Makes the table, with the Chinese titles of resource and fields as comments.
pub(crate) async fn create(connection: &mut PgConnection, layout: &Layout, plan: &SinkPlan) -> Result<(), SinkError> {
    run(connection, creation(layout)).await?;
    run(connection, format!("COMMENT ON TABLE {} IS {}", layout.table, literal(&plan.title))).await?;
    for column in &layout.columns {
        let comment = format!("COMMENT ON COLUMN {}.{} IS {}", layout.table, quote(&column.name), literal(&column.title));
        run(connection, comment).await?;
    }
    Ok(())
}

fn creation(layout: &Layout) -> String {
    let columns = join(needed(layout).iter().map(Needed::definition), ", ");
    // Room for a row's next version beside it, so that an update does not go through the indexes as well (heap-only tuples).
    format!("CREATE TABLE {} ({columns}, PRIMARY KEY ({})) WITH (fillfactor = 80)", layout.table, layout.quoted_key())
}

/// The error of a table of the department's that is not there.
pub(crate) fn absent(layout: &Layout, plan: &SinkPlan) -> SinkError {
    let problem = "it is not there, and a table that the sink's `columns` describe is the department's own".to_owned();
    misfit(&layout.table, &plan.subscription, &[problem], &layout.remedy(&creation(layout)))
}

/// A quoted text constant, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A column that is written, and its type in a table that the exchange makes.
pub(crate) struct Needed<'l> {
    pub(crate) name: &'l str,
    pub(crate) kind: Kind,
    not_null: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Granted(ColumnKind),
    Bytes,
    Epoch,
    Boolean,
}

impl Kind {
    pub(crate) fn sql(self) -> String {
        match self {
            Self::Granted(ColumnKind::Text) => "text".to_owned(),
            Self::Granted(ColumnKind::Int) | Self::Epoch => "bigint".to_owned(),
            Self::Granted(ColumnKind::Date) => "date".to_owned(),
            Self::Granted(ColumnKind::Time) => "timestamp with time zone".to_owned(),
            Self::Granted(ColumnKind::Decimal { precision, scale }) => format!("numeric({precision},{scale})"),
            Self::Granted(ColumnKind::TextList) => "text[]".to_owned(),
            Self::Granted(ColumnKind::Steps) => "jsonb".to_owned(),
            Self::Bytes => "bytea".to_owned(),
            Self::Boolean => "boolean".to_owned(),
        }
    }

    /// Whether a column of this type (as `format_type` writes it) takes every value unchanged or refuses it; none may alter one.
    fn is_taken_by(self, found: &str) -> bool {
        match self {
            Self::Granted(ColumnKind::Text) => found == "text" || found == "citext" || found.starts_with("character"),
            Self::Granted(ColumnKind::Int) => ["bigint", "integer", "smallint", "numeric"].contains(&found),
            Self::Granted(ColumnKind::Time) => {
                found.starts_with("timestamp") && found.ends_with("with time zone") && !found.contains('(')
            }
            Self::Granted(ColumnKind::Decimal { scale, .. }) => match found.strip_prefix("numeric(") {
                None => found == "numeric",
                Some(rest) => rest
                    .trim_end_matches(')')
                    .split_once(',')
                    .is_some_and(|(_, has)| has.parse::<u32>().is_ok_and(|has| has >= scale)),
            },
            Self::Granted(ColumnKind::TextList) => ["text[]", "character varying[]"].contains(&found),
            Self::Granted(ColumnKind::Steps) => ["jsonb", "json"].contains(&found),
            Self::Granted(ColumnKind::Date) | Self::Bytes | Self::Epoch | Self::Boolean => found == self.sql(),
        }
    }
}

impl Needed<'_> {
    fn definition(&self) -> String {
        format!("{} {}{}", quote(self.name), self.kind.sql(), if self.not_null { " NOT NULL" } else { "" })
    }
}

/// Every column of the table.
fn needed(layout: &Layout) -> Vec<Needed<'_>> {
    let instant = |name| Needed { name, kind: Kind::Granted(ColumnKind::Time), not_null: false };
    let stays = |column: &Needed<'_>| !layout.foreign || ![VERSION, EPOCH].contains(&column.name);
    written(layout).into_iter().filter(stays).chain(layout.instants.iter().copied().map(instant)).collect()
}

/// In the order of [`Layout::written`].
pub(crate) fn written(layout: &Layout) -> Vec<Needed<'_>> {
    let key = layout.hashed.then_some(Needed { name: KEY, kind: Kind::Bytes, not_null: true });
    let columns = layout.columns.iter().map(|column| Needed {
        name: &column.name,
        kind: Kind::Granted(column.kind),
        not_null: layout.is_key(&column.name),
    });
    let own = [(VERSION, Kind::Bytes), (EPOCH, Kind::Epoch)];
    let own = own.map(|(name, kind)| Needed { name, kind, not_null: layout.is_key(name) });
    key.into_iter().chain(columns).chain(own).collect()
}

/// A column of the table as it is.
pub(crate) struct Found {
    pub(crate) name: String,
    kind: String,
    not_null: bool,
    filled: bool,
}

pub(crate) async fn found(connection: &mut PgConnection, place: &Place, layout: &Layout) -> Result<Vec<Found>, SinkError> {
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = sqlx::query(sql).bind(&place.schema).bind(&layout.name).fetch_all(connection).await.map_err(sink_error)?;
    let found = rows.iter().map(|row| {
        Ok(Found { name: row.try_get(0)?, kind: row.try_get(1)?, not_null: row.try_get(2)?, filled: row.try_get(3)? })
    });
    found.collect::<Result<_, _>>().map_err(sink_error)
}

/// Checks that the table takes what will be written; adds missing columns to a table that the exchange made.
pub(crate) async fn fit(
    connection: &mut PgConnection,
    place: &Place,
    layout: &Layout,
    plan: &SinkPlan,
    made: bool,
) -> Result<(), SinkError> {
    let found = found(connection, place, layout).await?;
    let needed = needed(layout);
    let (mut problems, mut additions) = (Vec::new(), Vec::new());
    for column in &needed {
        match found.iter().find(|other| other.name == column.name) {
            None if made && !column.not_null => additions.push(column.definition()),
            None => problems.push(format!(
                "column {} is missing, of type {}: ALTER TABLE {} ADD COLUMN {}",
                column.name,
                column.kind.sql(),
                layout.table,
                column.definition()
            )),
            Some(other) if other.not_null && layout.soft && !layout.is_key(column.name) => problems.push(format!(
                "column {} is NOT NULL, and a row that leaves the grant stays without its values: make it one that may be null",
                column.name
            )),
            Some(other) if column.kind.is_taken_by(&other.kind) => {}
            Some(other) => {
                problems.push(format!("column {} is {}, and has to be {}", column.name, other.kind, column.kind.sql()))
            }
        }
    }
    let ours = |other: &Found| needed.iter().any(|column| column.name == other.name);
    for other in found.iter().filter(|other| !ours(other) && other.not_null && !other.filled) {
        problems.push(format!("column {} is NOT NULL without a default, and the subscription does not fill it", other.name));
    }
    if !is_keyed(connection, place, layout).await? {
        problems.push(format!("it has no primary key or unique index of just ({})", layout.key.join(", ")));
    }
    if !problems.is_empty() {
        let help = layout.remedy(&creation(layout));
        return Err(misfit(&format!("{}.{}", place.schema, layout.name), &plan.subscription, &problems, &help));
    }
    for definition in additions {
        run(connection, format!("ALTER TABLE {} ADD COLUMN {definition}", layout.table)).await?;
    }
    Ok(())
}

/// Whether a unique index that is neither partial, deferrable nor of expressions has just the key's columns.
async fn is_keyed(connection: &mut PgConnection, place: &Place, layout: &Layout) -> Result<bool, SinkError> {
    let sql = "SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\")
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) AS k(attnum)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
        WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
        GROUP BY i.indexrelid";
    let indexes = sqlx::query_scalar::<_, Vec<String>>(sql).bind(&place.schema).bind(&layout.name);
    let indexes = indexes.fetch_all(connection).await.map_err(sink_error)?;
    let mut key = layout.key.clone();
    key.sort();
    Ok(indexes.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_takes_values_unchanged_or_is_refused() {
        let decimal = Kind::Granted(ColumnKind::Decimal { precision: 18, scale: 6 });
        for (kind, found, taken) in [
            (Kind::Granted(ColumnKind::Text), "character varying(200)", true),
            (Kind::Granted(ColumnKind::Text), "bigint", false),
            (decimal, "numeric", true),
            (decimal, "numeric(24,6)", true),
            (decimal, "numeric(24,2)", false),
            (decimal, "double precision", false),
            (Kind::Granted(ColumnKind::Time), "timestamp with time zone", true),
            (Kind::Granted(ColumnKind::Time), "timestamp without time zone", false),
            (Kind::Granted(ColumnKind::Date), "date", true),
            (Kind::Bytes, "bytea", true),
        ] {
            assert_eq!(kind.is_taken_by(found), taken, "{kind:?} {found}");
        }
    }

    #[test]
    fn constants_cannot_end_their_quotes() {
        assert_eq!(literal("企业'\\"), "E'企业''\\\\'");
    }
}
