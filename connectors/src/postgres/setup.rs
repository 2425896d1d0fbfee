//! Is the department's database set up for this connector? What is missing is named with the SQL that mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use guitong_schemas::avro::topic_name;
use guitong_schemas::contract::system::{Origins, PostgresConfig, System};
use guitong_schemas::table::TableName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::catalogue::TableFacts;
use super::config::{quote_literal, quote_name};
use super::fault::Faults;
use super::identity;
use super::prepare;
use super::relation::Listed;
use crate::source::SourceError;

/// The first major with what the connector relies on (`messages` of pgoutput, `pg_snapshot` functions under their present names).
const OLDEST: i32 = 140_000;
/// Column lists of publications.
pub(crate) const COLUMN_LISTS: i32 = 150_000;
/// The version from which on a publication may send generated columns, and lists those that it sends.
const GENERATED_COLUMNS: i32 = 180_000;
/// The option `origin` of pgoutput.
const ORIGINS: i32 = 160_000;
/// Slots of which standbys keep a copy.
const FAILOVER_SLOTS: i32 = 170_000;
/// Slots of standbys themselves.
const STANDBY_SLOTS: i32 = 160_000;

/// What the server says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// Such as 150018.
    pub(crate) version: i32,
    wal_level: String,
    standby: bool,
    replication: bool,
    role: String,
    /// Functions that the role may not call and has to, as `name(types)`.
    closed: Vec<String>,
    /// `wal_sender_timeout`; `None` where the server waits for ever.
    pub(crate) sender_timeout: Option<Duration>,
}

impl Server {
    pub(crate) async fn ask(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(
            "SELECT current_setting('server_version_num')::int4 AS version, current_setting('wal_level') AS wal_level, \
             pg_is_in_recovery() AS standby, r.rolreplication OR r.rolsuper AS replication, current_user::text AS role, \
             (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout') AS sender_timeout, \
             ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace \
               AND (p.proname = 'pg_create_logical_replication_slot' \
                 OR p.proname = 'pg_logical_emit_message' AND p.proargtypes[2] = 'text'::regtype) \
               AND NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1) AS closed \
             FROM pg_roles r WHERE r.rolname = current_user",
        )
        .fetch_one(connection)
        .await?;
        let timeout: Option<i64> = row.try_get("sender_timeout")?;
        Ok(Self {
            version: row.try_get("version")?,
            wal_level: row.try_get("wal_level")?,
            standby: row.try_get("standby")?,
            replication: row.try_get("replication")?,
            role: row.try_get("role")?,
            closed: row.try_get("closed")?,
            sender_timeout: timeout.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.unsigned_abs())),
        })
    }

    /// `failover`: the connection URL may lead to a standby that has not taken over yet.
    pub(crate) fn check(&self, place: &str, failover: bool, faults: &Faults) -> Result<(), SourceError> {
        check_version(self.version, faults)?;
        if self.standby && failover {
            return Err(faults.unavailable(format!(
                "the server at {place} is a standby: changes are read once it takes over, or url leads to the primary again"
            )));
        }
        if self.standby {
            return Err(faults.setup(
                format!("the server at {place} is a standby"),
                "write the primary's address in url, or in primary_url where the standby is to decode (PostgreSQL 16): watermarks \
                 need a server that can be written to",
            ));
        }
        self.check_log(place, faults)?;
        if !self.closed.is_empty() {
            let functions = self.closed.join(", ");
            return Err(faults.setup(
                format!("role {} may not call {functions}", quote_name(&self.role)),
                format!("run `GRANT EXECUTE ON FUNCTION {functions} TO {}`", quote_name(&self.role)),
            ));
        }
        Ok(())
    }

    /// A standby that is to decode.
    pub(crate) fn check_standby(&self, place: &str, faults: &Faults) -> Result<(), SourceError> {
        if self.version < STANDBY_SLOTS {
            return Err(faults.setup(
                format!("primary_url needs PostgreSQL 16, the server at {place} is {}", self.version / 10_000),
                "write the primary's address in url and take primary_url out, or upgrade the servers",
            ));
        }
        if !self.standby {
            return Err(faults.setup(
                format!("the server at {place} is no standby"),
                "take primary_url out of the system's file; where the standby took over, its slot goes on",
            ));
        }
        self.check_log(place, faults)
    }

    fn check_log(&self, place: &str, faults: &Faults) -> Result<(), SourceError> {
        if self.wal_level != "logical" {
            return Err(faults.setup(
                format!("the server at {place} has wal_level = {}, which leaves row changes out of its log", self.wal_level),
                "run `ALTER SYSTEM SET wal_level = 'logical'` as a superuser and restart PostgreSQL",
            ));
        }
        if !self.replication {
            return Err(faults.setup(
                format!("role {} may not replicate", quote_name(&self.role)),
                format!("run `ALTER ROLE {} REPLICATION`", quote_name(&self.role)),
            ));
        }
        Ok(())
    }
}

/// Whether the server can tell changes by their origin, where that is wanted.
pub(crate) fn check_origin(version: i32, config: &PostgresConfig, faults: &Faults) -> Result<(), SourceError> {
    if config.origin == Origins::Any || version >= ORIGINS {
        return Ok(());
    }
    Err(faults.setup(
        format!("origin = \"none\" needs PostgreSQL 16, the server is {}", version / 10_000),
        "take `origin` out of the system's file, or upgrade the server",
    ))
}

/// Whether standbys can keep a copy of the slot, where that is wanted.
pub(crate) fn check_failover(version: i32, config: &PostgresConfig, faults: &Faults) -> Result<(), SourceError> {
    if !config.failover || version >= FAILOVER_SLOTS {
        return Ok(());
    }
    Err(faults.setup(
        format!("failover = true needs PostgreSQL 17, the server is {}", version / 10_000),
        "take `failover` out of the system's file, or upgrade the server; without it the tables are read again after a standby took over",
    ))
}

fn check_version(version: i32, faults: &Faults) -> Result<(), SourceError> {
    if version >= OLDEST {
        return Ok(());
    }
    Err(faults.setup(
        format!("the server is PostgreSQL {}, this connector needs 14 or newer", version / 10_000),
        "upgrade the server; majors below 14 get no security fixes any more",
    ))
}

/// The system's patterns name a table.
pub(crate) fn check_any(system: &System, tables: &[TableFacts], faults: &Faults) -> Result<(), SourceError> {
    if !tables.is_empty() {
        return Ok(());
    }
    let patterns: Vec<String> = system.tables.iter().map(|pattern| format!("{}.{}", pattern.schema, pattern.name)).collect();
    Err(faults.setup(
        format!("no table matches {}", patterns.join(", ")),
        "check `tables` of the system and the database in url; names are compared as PostgreSQL stores them, so unquoted \
         ones are in lower case",
    ))
}

/// Every selected table can be identified row by row, read, and keeps what is excluded out of its key. `published` are the tables that
/// the publication holds already: what it would break is broken, so a table without identity is only named.
pub(crate) fn check_tables(
    system: &System,
    (config, published): (&PostgresConfig, &BTreeSet<TableName>),
    role: &str,
    tables: &[TableFacts],
    faults: &Faults,
) -> Result<(), SourceError> {
    check_any(system, tables, faults)?;
    check_topics(system, tables, faults)?;
    for table in tables {
        identity::check(table, published.contains(&table.name), faults)?;
        check_declared_key(system, table, faults)?;
        let cut = system.exclude_columns.iter().filter(|(of, _)| *of == table.name);
        for (_, column) in cut {
            if table.key.contains(column) {
                return Err(faults.setup(
                    format!("column {column} of {} is excluded and part of its key", table.name),
                    "take it out of exclude_columns, or give the table another replica identity index",
                ));
            }
        }
    }
    let lacking = prepare::missing_grants(system, role, tables);
    if lacking.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        tables.iter().filter(|table| !prepare::readable(system, table)).map(|t| t.name.to_string()).collect();
    Err(faults.setup(
        format!("role {} may not read {} (slot {})", quote_name(role), names.join(", "), config.slot),
        format!("run as the tables' owner:\n    {};", lacking.join(";\n    ")),
    ))
}

/// Debezium's names can be the same for two tables.
fn check_topics(system: &System, tables: &[TableFacts], faults: &Faults) -> Result<(), SourceError> {
    let prefix = system.form.prefix(system.name.as_str());
    let mut topics: BTreeMap<String, &TableName> = BTreeMap::new();
    for table in tables {
        let topic = topic_name(&prefix, &table.name, system.form.names);
        if let Some(other) = topics.insert(topic.clone(), &table.name) {
            return Err(faults.setup(
                format!("{other} and {} would both be published as {topic}", table.name),
                "take one out of `tables`, or leave `names` at its default, which gives every table a topic of its own",
            ));
        }
    }
    Ok(())
}

/// A declared key has to be in every before image, or a delete would not say which row it ends.
fn check_declared_key(system: &System, table: &TableFacts, faults: &Faults) -> Result<(), SourceError> {
    let Some((_, key)) = system.keys.iter().find(|(of, _)| *of == table.name) else { return Ok(()) };
    let is_cut = |column: &String| system.exclude_columns.iter().any(|(of, name)| *of == table.name && name == column);
    if let Some(column) = key.iter().find(|column| table.column(column).is_none() || is_cut(column)) {
        return Err(faults
            .setup(format!("key column {column} of {} does not exist or is excluded", table.name), "mend [keys] of the system"));
    }
    let same = key.len() == table.key.len() && key.iter().all(|column| table.key.contains(column));
    if same || table.identity == b'f' {
        return Ok(());
    }
    Err(faults.setup(
        format!("the declared key of {} is not its replica identity, so deletes would not carry it", table.name),
        format!(
            "run `ALTER TABLE {} REPLICA IDENTITY FULL`, or use the identity's columns as the key",
            prepare::quoted(&table.name)
        ),
    ))
}

/// Columns of each published table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publication {
    /// `None` for servers without column lists.
    pub(crate) columns: Option<BTreeMap<TableName, Vec<String>>>,
    /// Generated columns among them are sent.
    generated: bool,
    /// Another one has another, also where it has the name of one that was dropped.
    oid: i64,
}

impl Publication {
    /// What the stream is asked for: of what the same, it sends the same.
    pub(crate) fn asked(&self, config: &PostgresConfig) -> String {
        let origin = if config.origin == Origins::None { "none" } else { "any" };
        format!("{} {origin}", self.oid)
    }

    pub(crate) fn columns_of(&self, table: &TableName) -> Option<Listed<'_>> {
        let columns = self.columns.as_ref()?.get(table).map(Vec::as_slice).unwrap_or_default();
        Some(Listed { columns, generated: self.generated })
    }
}

/// The tables that the publication holds; none where it is missing.
pub(crate) async fn published_tables(
    connection: &mut PgConnection,
    server: &Server,
    config: &PostgresConfig,
    faults: &Faults,
) -> Result<BTreeSet<TableName>, SourceError> {
    let listed = published(connection, server, &config.publication).await;
    Ok(listed.map_err(|error| faults.query("reading the publication", &error))?.into_keys().collect())
}

/// Makes the publication where it is missing, and checks that it holds every selected table with all its changes.
pub(crate) async fn publication(
    connection: &mut PgConnection,
    server: &Server,
    system: &System,
    config: &PostgresConfig,
    tables: &[TableFacts],
    faults: &Faults,
) -> Result<Publication, SourceError> {
    let name = &config.publication;
    let failed = |error| faults.query("reading the publication", &error);
    let facts = sqlx::query(
        "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AS whole FROM pg_publication WHERE pubname = $1",
    )
    .bind(name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    match facts {
        None => make_publication(connection, server, system, config, tables, faults).await?,
        Some(row) if !row.try_get::<bool, _>("whole").map_err(failed)? => {
            return Err(faults.setup(
                format!("publication {} leaves out some kinds of changes", quote_name(name)),
                format!("run `ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')`", quote_name(name)),
            ));
        }
        Some(_) => {}
    }
    let listed = published(connection, server, name).await.map_err(failed)?;
    let absent: Vec<&TableFacts> = tables.iter().filter(|table| !listed.contains_key(&table.name)).collect();
    if !absent.is_empty() {
        let names: Vec<String> = absent.iter().map(|table| table.name.to_string()).collect();
        let add = prepare::add_to_publication(system, config, server.version, &absent);
        return Err(faults.setup(
            format!("publication {} lacks {}", quote_name(name), names.join(", ")),
            format!("run as the tables' owner: {add}"),
        ));
    }
    if let Some((table, _)) =
        listed.iter().find(|(name, entry)| entry.filtered && tables.iter().any(|table| table.name == **name))
    {
        return Err(faults.setup(
            format!("publication {} has a row filter on {table}: rows that it hides would never arrive", quote_name(name)),
            "set the table again without WHERE; which rows a department may have is decided by subscriptions",
        ));
    }
    let columns =
        (server.version >= COLUMN_LISTS).then(|| listed.into_iter().map(|(table, entry)| (table, entry.columns)).collect());
    let oid = sqlx::query_scalar("SELECT oid::int8 FROM pg_publication WHERE pubname = $1").bind(name);
    let oid: i64 = oid.fetch_one(connection).await.map_err(failed)?;
    Ok(Publication { columns, generated: server.version >= GENERATED_COLUMNS, oid })
}

struct Published {
    columns: Vec<String>,
    filtered: bool,
}

async fn published(
    connection: &mut PgConnection,
    server: &Server,
    name: &str,
) -> Result<BTreeMap<TableName, Published>, sqlx::Error> {
    let extra = if server.version >= COLUMN_LISTS {
        "attnames::text[] AS columns, rowfilter IS NOT NULL AS filtered"
    } else {
        "NULL::text[] AS columns, false AS filtered"
    };
    let sql = format!(
        "SELECT schemaname::text AS schema, tablename::text AS name, {extra} FROM pg_publication_tables WHERE pubname = {}",
        quote_literal(name)
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            let table = TableName::new(row.try_get::<String, _>("schema")?, row.try_get::<String, _>("name")?);
            let columns = row.try_get::<Option<Vec<String>>, _>("columns")?.unwrap_or_default();
            Ok((table, Published { columns, filtered: row.try_get("filtered")? }))
        })
        .collect()
}

async fn make_publication(
    connection: &mut PgConnection,
    server: &Server,
    system: &System,
    config: &PostgresConfig,
    tables: &[TableFacts],
    faults: &Faults,
) -> Result<(), SourceError> {
    let all: Vec<&TableFacts> = tables.iter().collect();
    let sql = prepare::create_publication(system, config, server.version, &all);
    match sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(connection).await {
        Ok(_) => {
            tracing::info!(system = %system.name, publication = %config.publication, "made the publication");
            Ok(())
        }
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => Err(faults.setup(
            format!(
                "publication {} does not exist and role {} may not make it ({})",
                quote_name(&config.publication),
                quote_name(&server.role),
                error.message()
            ),
            format!("run as the tables' owner: {sql}"),
        )),
        Err(error) => Err(faults.query("making the publication", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::relation::tests::{facts, system};
    use super::*;

    fn check(system: &System, table: &TableFacts) -> Result<(), SourceError> {
        let guitong_schemas::contract::SourceConfig::Postgres(config) = &system.source else { panic!("not PostgreSQL") };
        check_tables(system, (config, &BTreeSet::new()), "reader", std::slice::from_ref(table), &Faults::of(system))
    }

    #[test]
    fn old_servers_are_refused() {
        let faults = Faults::new("register");
        assert!(check_version(140_000, &faults).is_ok());
        let error = check_version(130_011, &faults).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 13") && error.contains("14 or newer"), "{error}");
    }

    #[test]
    fn tables_without_identity_are_refused_before_they_are_published() {
        let system = system();
        let mut table = facts();
        assert!(check(&system, &table).is_ok());
        table.key.clear();
        let error = check(&system, &table).unwrap_err().to_string();
        assert!(error.contains("ALTER TABLE \"public\".\"企业\" REPLICA IDENTITY FULL"), "{error}");
        table.identity = b'f';
        assert!(check(&system, &table).is_ok());
        table.identity = b'n';
        assert!(check(&system, &table).unwrap_err().to_string().contains("REPLICA IDENTITY NOTHING"));
    }

    #[test]
    fn a_table_without_identity_that_is_published_already_is_taken() {
        let system = system();
        let guitong_schemas::contract::SourceConfig::Postgres(config) = &system.source else { panic!("not PostgreSQL") };
        let table = TableFacts { key: vec![], ..facts() };
        let published = BTreeSet::from([table.name.clone()]);
        assert!(check_tables(&system, (config, &published), "reader", &[table], &Faults::of(&system)).is_ok());
    }

    #[test]
    fn two_tables_in_one_topic_are_refused() {
        let mut system = system();
        let tables = [facts(), TableFacts { name: TableName::new("public", "登记"), ..facts() }];
        let check = |system: &System| check_topics(system, &tables, &Faults::of(system));
        assert!(check(&system).is_ok());
        system.form.names = guitong_schemas::avro::form::Names::Debezium;
        assert!(check(&system).unwrap_err().to_string().contains("raw.register.public.__"));
    }

    #[test]
    fn an_excluded_key_column_is_refused() {
        let mut system = system();
        let table = facts();
        system.exclude_columns.push((table.name.clone(), "编号".into()));
        assert!(check(&system, &table).unwrap_err().to_string().contains("part of its key"));
    }

    #[test]
    fn missing_grants_come_with_the_statement() {
        let mut table = facts();
        table.columns[2].readable = false;
        let error = check(&system(), &table).unwrap_err().to_string();
        assert!(error.contains("GRANT SELECT ON \"public\".\"企业\" TO \"reader\""), "{error}");
        let mut system = system();
        system.exclude_columns.push((table.name.clone(), "电话".into()));
        assert!(check(&system, &table).is_ok(), "what is excluded need not be readable");
    }
}
