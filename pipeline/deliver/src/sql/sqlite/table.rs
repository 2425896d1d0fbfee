//! Making and checking a subscriber's table.

use guitong_govern::ColumnKind;
use guitong_schemas::delivered::DELIVERING;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::errors::sink_error;
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::{Layout, join, misfit, quote};
use crate::sql::{EPOCH, KEY, VERSION};

/// Makes the exchange's own tables where there are none, [`DELIVERING`] among them, and reads the subscription's row. `deleted_us`:
/// microseconds since 1970-01-01T00:00Z.
pub(crate) const STORED: &str = "
CREATE TABLE IF NOT EXISTS guitong_delivering (tbl TEXT NOT NULL, exchange TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS guitong_subscriptions (
    subscription TEXT PRIMARY KEY, table_name TEXT NOT NULL, made INTEGER NOT NULL, log_id TEXT NOT NULL, topic TEXT NOT NULL,
    epoch INTEGER NOT NULL, sweep_epoch INTEGER, grant_fingerprint BLOB NOT NULL, shape TEXT NOT NULL, entries TEXT);
CREATE TABLE IF NOT EXISTS guitong_offsets (
    subscription TEXT NOT NULL, log_id TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, refill_to INTEGER NOT NULL, epoch INTEGER NOT NULL,
    batch_count INTEGER NOT NULL, batch_digest TEXT NOT NULL, PRIMARY KEY (subscription, topic, partition));
CREATE TABLE IF NOT EXISTS guitong_deleted (
    subscription TEXT NOT NULL, row_key BLOB NOT NULL, version BLOB NOT NULL, epoch INTEGER NOT NULL,
    deleted_us INTEGER NOT NULL, PRIMARY KEY (subscription, row_key)) WITHOUT ROWID;
SELECT table_name, made, log_id, topic, epoch, sweep_epoch, grant_fingerprint, shape, entries
    FROM guitong_subscriptions WHERE subscription = $1;
";

/// What says in a transaction that the exchange writes the table and those beside it; [`UNMARK`] comes before its end.
pub(crate) fn mark(exchange: &str, layout: &Layout) -> String {
    let beside = layout.beside();
    let tables = std::iter::once(layout).chain(&beside);
    let rows = join(tables.map(|layout| format!("({}, {})", literal(&layout.name), literal(exchange))), ", ");
    format!("INSERT INTO {DELIVERING} (tbl, exchange) VALUES {rows}")
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) const UNMARK: &str = "DELETE FROM guitong_delivering";

pub(crate) async fn run(connection: &mut SqliteConnection, sql: String) -> Result<u64, SinkError> {
    let done = sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map_err(sink_error)?;
    Ok(done.rows_affected())
}

pub(crate) async fn create(connection: &mut SqliteConnection, layout: &Layout) -> Result<(), SinkError> {
    run(connection, creation(layout)).await?;
    Ok(())
}

fn creation(layout: &Layout) -> String {
    let columns = join(needed(layout).iter().map(Needed::definition), ", ");
    format!("CREATE TABLE {} ({columns}, PRIMARY KEY ({}))", layout.table, layout.quoted_key())
}

/// The error of a table of the department's that is not there.
pub(crate) fn absent(layout: &Layout, plan: &SinkPlan) -> SinkError {
    let problem = "it is not there, and a table that the sink's `columns` describe is the department's own".to_owned();
    misfit(&layout.table, &plan.subscription, &[problem], &layout.remedy(&creation(layout)))
}

/// A column that the table needs.
struct Needed<'l> {
    name: &'l str,
    affinity: &'static str,
    not_null: bool,
}

impl Needed<'_> {
    fn definition(&self) -> String {
        format!("{} {}{}", quote(self.name), self.affinity, if self.not_null { " NOT NULL" } else { "" })
    }
}

/// Every column of the table.
fn needed(layout: &Layout) -> Vec<Needed<'_>> {
    let key = layout.hashed.then_some(Needed { name: KEY, affinity: "BLOB", not_null: true });
    let columns = layout.columns.iter().map(|column| Needed {
        name: &column.name,
        affinity: affinity(column.kind),
        not_null: layout.is_key(&column.name),
    });
    let own = [(VERSION, "BLOB"), (EPOCH, "INTEGER")].into_iter().filter(|_| !layout.foreign);
    let own = own.map(|(name, affinity)| Needed { name, affinity, not_null: layout.is_key(name) });
    let instants = layout.instants.iter().map(|&name| Needed { name, affinity: affinity(ColumnKind::Time), not_null: false });
    key.into_iter().chain(columns).chain(own).chain(instants).collect()
}

/// Dates, instants and decimals are text: SQLite has no exact type for them.
fn affinity(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Int => "INTEGER",
        _ => "TEXT",
    }
}

/// Affinity of a declared type (SQLite, "Determination Of Column Affinity").
fn affinity_of(declared: &str) -> &'static str {
    let declared = declared.to_ascii_uppercase();
    let has = |part: &str| declared.contains(part);
    if has("INT") {
        "INTEGER"
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        "TEXT"
    } else if has("BLOB") || declared.is_empty() {
        "BLOB"
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        "REAL"
    } else {
        "NUMERIC"
    }
}

/// A column of the table as it is.
pub(crate) struct Found {
    pub(crate) name: String,
    declared: String,
    not_null: bool,
    has_default: bool,
    in_primary_key: bool,
}

/// The columns of the table or view; none where there is none.
pub(crate) async fn found(connection: &mut SqliteConnection, name: &str) -> Result<Vec<Found>, SinkError> {
    let rows = sqlx::query("SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk > 0 FROM pragma_table_info($1)");
    let rows = rows.bind(name.to_owned()).fetch_all(connection).await.map_err(sink_error)?;
    let found = rows.iter().map(|row| {
        Ok(Found {
            name: row.try_get(0)?,
            declared: row.try_get(1)?,
            not_null: row.try_get(2)?,
            has_default: row.try_get(3)?,
            in_primary_key: row.try_get(4)?,
        })
    });
    found.collect::<Result<_, _>>().map_err(sink_error)
}

/// Checks that the table, whose columns were `found`, takes what will be written; adds missing columns to a table that the
/// exchange made.
pub(crate) async fn fit(
    connection: &mut SqliteConnection,
    found: &[Found],
    layout: &Layout,
    plan: &SinkPlan,
    made: bool,
) -> Result<(), SinkError> {
    let needed = needed(layout);
    let (mut problems, mut additions) = (Vec::new(), Vec::new());
    for column in &needed {
        match found.iter().find(|other| other.name.eq_ignore_ascii_case(column.name)) {
            None if made && !column.not_null => additions.push(column.definition()),
            None => problems.push(format!(
                "column {} is missing, of type {}: ALTER TABLE {} ADD COLUMN {}",
                column.name,
                column.affinity,
                layout.table,
                column.definition()
            )),
            Some(other) if other.not_null && layout.soft && !layout.is_key(column.name) => problems.push(format!(
                "column {} is NOT NULL, and a row that leaves the grant stays without its values: make it one that may be null",
                column.name
            )),
            // An untyped column stores what it is given.
            Some(other) if [column.affinity, "BLOB"].contains(&affinity_of(&other.declared)) => {}
            Some(other) => {
                problems.push(format!("column {} is {}, and has to be {}", column.name, other.declared, column.affinity))
            }
        }
    }
    let ours = |other: &Found| needed.iter().any(|column| column.name.eq_ignore_ascii_case(&other.name));
    for other in found.iter().filter(|other| !ours(other) && other.not_null && !other.has_default) {
        problems.push(format!("column {} is NOT NULL without a default, and the subscription does not fill it", other.name));
    }
    if !is_keyed(connection, found, layout).await? {
        problems.push(format!("it has no primary key or unique index of just ({})", layout.key.join(", ")));
    }
    if !problems.is_empty() {
        return Err(misfit(&layout.name, &plan.subscription, &problems, &layout.remedy(&creation(layout))));
    }
    for definition in additions {
        run(connection, format!("ALTER TABLE {} ADD COLUMN {definition}", layout.table)).await?;
    }
    Ok(())
}

/// Whether a primary key or an unconditional unique index has just the key's columns.
async fn is_keyed(connection: &mut SqliteConnection, found: &[Found], layout: &Layout) -> Result<bool, SinkError> {
    let sorted = |names: &mut dyn Iterator<Item = &str>| {
        let mut names: Vec<_> = names.map(str::to_ascii_lowercase).collect();
        names.sort();
        names
    };
    let key = sorted(&mut layout.key.iter().map(String::as_str));
    if sorted(&mut found.iter().filter(|column| column.in_primary_key).map(|column| &*column.name)) == key {
        return Ok(true);
    }
    let unique = sqlx::query_scalar::<_, String>("SELECT name FROM pragma_index_list($1) WHERE \"unique\" = 1 AND partial = 0");
    for index in unique.bind(layout.name.clone()).fetch_all(&mut *connection).await.map_err(sink_error)? {
        let columns = sqlx::query_scalar::<_, Option<String>>("SELECT name FROM pragma_index_info($1)");
        let columns = columns.bind(index).fetch_all(&mut *connection).await.map_err(sink_error)?;
        // A column without a name is an expression.
        if sorted(&mut columns.iter().map(|column| column.as_deref().unwrap_or_default())) == key {
            return Ok(true);
        }
    }
    Ok(false)
}
