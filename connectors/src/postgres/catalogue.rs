//! What the catalogue of the department's database says: tables, columns, keys, types.

use std::collections::{BTreeMap, HashSet};

use guitong_schemas::contract::system::System;
use guitong_schemas::table::TableName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::types::{TypeFacts, Types};

/// A table with what decides how it is read and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    pub oid: u32,
    pub name: TableName,
    /// A partitioned table: published and read through its root.
    pub partitioned: bool,
    /// `relreplident`: `d` default, `n` nothing, `f` full, `i` index.
    pub identity: u8,
    pub columns: Vec<ColumnFacts>,
    /// Columns of the identity index, or of the primary key where the identity is not an index, in the index's order.
    pub key: Vec<String>,
    /// Rows as the server estimates them.
    pub rows: u64,
    /// Bytes of its pages.
    pub bytes: u64,
    /// The current role may use the schema.
    pub schema_usage: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFacts {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    pub not_null: bool,
    /// Its value is made by the server from other columns; published only from PostgreSQL 18 on and where asked for.
    pub generated: bool,
    pub default: Option<DefaultFacts>,
    /// The current role may read it.
    pub readable: bool,
}

/// A column's default, as far as it can be told without evaluating it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultFacts {
    /// In the text form of the column's type.
    Constant(String),
    /// The result of one function, such as `now()` or `nextval(...)`.
    Function,
}

impl TableFacts {
    pub(crate) fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Which tables to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    All,
    Oid(u32),
}

/// Tables of users; partitions are left out where a table above them is in the list.
pub(crate) async fn tables(connection: &mut PgConnection, which: Which) -> Result<Vec<TableFacts>, sqlx::Error> {
    let condition = match which {
        Which::All => "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'",
        Which::Oid(_) => "c.oid = $1::oid",
    };
    let sql = format!(
        "SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'p' AS partitioned, \
         c.relreplident::text AS identity, greatest(c.reltuples, 0)::int8 AS rows, c.relpages::int8 * 8192 AS bytes, \
         has_schema_privilege(n.oid, 'USAGE') AS schema_usage, \
         (SELECT array_agg(a.attname::text ORDER BY k.at) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at) \
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum WHERE k.at <= i.indnkeyatts) AS key \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_index i ON i.indrelid = c.oid \
            AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND {condition} ORDER BY n.nspname, c.relname"
    );
    let query = sqlx::query(AssertSqlSafe(sql));
    let rows = match which {
        Which::All => query.fetch_all(&mut *connection).await?,
        Which::Oid(oid) => query.bind(i64::from(oid)).fetch_all(&mut *connection).await?,
    };
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        // The functions that ask for rights look at what is now and not at what the query sees: what has just gone has none.
        let Some(schema_usage) = row.try_get("schema_usage")? else { continue };
        found.push(TableFacts {
            oid: oid(row.try_get("oid")?),
            name: TableName::new(row.try_get::<String, _>("schema")?, row.try_get::<String, _>("name")?),
            partitioned: row.try_get("partitioned")?,
            identity: row.try_get::<String, _>("identity")?.bytes().next().unwrap_or(b'd'),
            columns: Vec::new(),
            key: row.try_get::<Option<Vec<String>>, _>("key")?.unwrap_or_default(),
            rows: row.try_get::<i64, _>("rows")?.unsigned_abs(),
            bytes: row.try_get::<i64, _>("bytes")?.unsigned_abs(),
            schema_usage,
        });
    }
    columns(connection, &mut found).await?;
    Ok(found)
}

async fn columns(connection: &mut PgConnection, tables: &mut [TableFacts]) -> Result<(), sqlx::Error> {
    let oids: Vec<i64> = tables.iter().map(|table| i64::from(table.oid)).collect();
    let rows = sqlx::query(
        "SELECT a.attrelid::int8 AS relation, a.attname::text AS name, a.atttypid::int8 AS type_oid, a.atttypmod AS modifier, \
         a.attnotnull AS not_null, a.attgenerated <> '' AS generated, \
         CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default_expression, \
         has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS readable \
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid::int8 = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum",
    )
    .bind(&oids)
    .fetch_all(connection)
    .await?;
    let mut by_relation: BTreeMap<u32, Vec<ColumnFacts>> = BTreeMap::new();
    for row in rows {
        let Some(readable) = row.try_get("readable")? else { continue };
        let expression: Option<String> = row.try_get("default_expression")?;
        by_relation.entry(oid(row.try_get("relation")?)).or_default().push(ColumnFacts {
            name: row.try_get("name")?,
            type_oid: oid(row.try_get("type_oid")?),
            type_modifier: row.try_get("modifier")?,
            not_null: row.try_get("not_null")?,
            generated: row.try_get("generated")?,
            default: expression.as_deref().and_then(default),
            readable,
        });
    }
    for table in tables {
        table.columns = by_relation.remove(&table.oid).unwrap_or_default();
    }
    Ok(())
}

/// The tables that the system's patterns name.
pub(crate) async fn selected(connection: &mut PgConnection, system: &System) -> Result<Vec<TableFacts>, sqlx::Error> {
    roots(connection, |table| system.tails(&table.name)).await
}

/// Tables that are wanted. A partition goes with its root where the root is wanted too.
pub(crate) async fn roots(
    connection: &mut PgConnection,
    wanted: impl Fn(&TableFacts) -> bool,
) -> Result<Vec<TableFacts>, sqlx::Error> {
    let mut all = tables(connection, Which::All).await?;
    all.retain(wanted);
    let parents: Vec<(i64, i64)> =
        sqlx::query_as("SELECT inhrelid::int8, inhparent::int8 FROM pg_inherits").fetch_all(connection).await?;
    let roots: HashSet<u32> = all.iter().filter(|table| table.partitioned).map(|table| table.oid).collect();
    let under_root = |start: u32| {
        let mut at = start;
        while let Some((_, parent)) = parents.iter().find(|(child, _)| oid(*child) == at) {
            at = oid(*parent);
            if roots.contains(&at) {
                return true;
            }
        }
        false
    };
    all.retain(|table| !under_root(table.oid));
    Ok(all)
}

/// Asks for what `types` lacks to resolve `oids`.
pub(crate) async fn learn_types(connection: &mut PgConnection, types: &mut Types, oids: &[u32]) -> Result<(), sqlx::Error> {
    loop {
        let missing: Vec<i64> = oids.iter().filter_map(|&oid| types.missing(oid)).map(i64::from).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(
            "SELECT t.oid::int8 AS oid, t.typname::text AS name, t.typtype::text AS kind, t.typbasetype::int8 AS base, \
             t.typtypmod AS modifier, t.typelem::int8 AS element, t.typcategory = 'A' AND t.typlen = -1 AS is_array, \
             (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) AS labels \
             FROM pg_type t WHERE t.oid::int8 = ANY($1)",
        )
        .bind(&missing)
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            let facts = match row.try_get::<String, _>("kind")?.as_str() {
                "e" => TypeFacts::Enum { labels: row.try_get::<Option<Vec<String>>, _>("labels")?.unwrap_or_default() },
                "d" => TypeFacts::Domain { base: oid(row.try_get("base")?), modifier: row.try_get("modifier")? },
                _ if row.try_get("is_array")? => TypeFacts::Array { element: oid(row.try_get("element")?) },
                _ => TypeFacts::Named(row.try_get("name")?),
            };
            types.learn(oid(row.try_get("oid")?), facts);
        }
        // A type that is gone by now is passed as text, and must not be asked for again.
        for asked in missing.into_iter().map(oid) {
            if types.missing(asked) == Some(asked) {
                types.learn(asked, TypeFacts::Named(String::new()));
            }
        }
    }
}

fn oid(wide: i64) -> u32 {
    u32::try_from(wide).unwrap_or(0)
}

fn default(expression: &str) -> Option<DefaultFacts> {
    constant(expression).map(DefaultFacts::Constant).or_else(|| is_function(expression).then_some(DefaultFacts::Function))
}

/// Whether the expression is one function, with or without arguments, and nothing else around it.
fn is_function(expression: &str) -> bool {
    if matches!(expression, "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "CURRENT_TIME" | "LOCALTIMESTAMP" | "LOCALTIME") {
        return true;
    }
    let name = expression.split('(').next().unwrap_or_default();
    let named = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '"'));
    named && expression.len() > name.len() && expression.ends_with(')')
}

/// The value of a default that is a constant, as `pg_get_expr` prints it, in the text form of its type; `None` for
/// expressions and for NULL.
fn constant(expression: &str) -> Option<String> {
    let mut text = expression.trim();
    while let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).filter(|inner| !inner.contains(')')) {
        text = inner.trim();
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        let mut value = String::new();
        let mut rest = quoted;
        loop {
            let (head, tail) = rest.split_once('\'')?;
            value.push_str(head);
            match tail.strip_prefix('\'') {
                Some(more) => {
                    value.push('\'');
                    rest = more;
                }
                None => return is_cast(tail).then_some(value),
            }
        }
    }
    match text {
        "true" => return Some("t".to_owned()),
        "false" => return Some("f".to_owned()),
        _ => {}
    }
    let (number, cast) = text.split_once("::").map_or((text, ""), |(number, _)| (number, text.get(number.len()..).unwrap_or("")));
    let number = number.trim().trim_start_matches('(').trim_end_matches(')');
    let digits = number.strip_prefix('-').unwrap_or(number);
    let numeric = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    (numeric && is_cast(cast)).then(|| number.to_owned())
}

/// Nothing, or casts to named types alone: `::character varying`, `::numeric(10,2)`, `::"企业状态"`.
fn is_cast(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text.strip_prefix("::").is_some_and(|name| !name.contains(['\'', '+', '|', ':']) && !name.ends_with("()"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_from_other_expressions() {
        for expression in ["now()", "CURRENT_TIMESTAMP", "nextval('t_id_seq'::regclass)", "upper('q'::text)", "gen_random_uuid()"]
        {
            assert_eq!(default(expression), Some(DefaultFacts::Function), "{expression}");
        }
        for expression in ["(1 + 2)", "('a'::text || 'b'::text)", "NULL::character varying"] {
            assert_eq!(default(expression), None, "{expression}");
        }
    }

    #[test]
    fn constants_are_told_from_expressions() {
        for (expression, wanted) in [
            ("'在营'::character varying", Some("在营")),
            ("'it''s'::text", Some("it's")),
            ("'{}'::jsonb", Some("{}")),
            ("'-1'::integer", Some("-1")),
            ("(-1)", Some("-1")),
            ("0", Some("0")),
            ("0.00", Some("0.00")),
            ("(0)::numeric", Some("0")),
            ("true", Some("t")),
            ("'active'::\"企业状态\"", Some("active")),
            ("now()", None),
            ("CURRENT_TIMESTAMP", None),
            ("nextval('t_id_seq'::regclass)", None),
            ("upper('q'::text)", None),
            ("('a'::text || 'b'::text)", None),
            ("NULL::character varying", None),
            ("gen_random_uuid()", None),
            ("(1 + 2)", None),
            ("'2020-01-01'::date + 1", None),
            (".", None),
        ] {
            assert_eq!(constant(expression).as_deref(), wanted, "{expression}");
        }
    }
}
