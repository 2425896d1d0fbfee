//! The exact SQL that lets the connector's role read, and the SQL that removes every trace.

use guitong_schemas::contract::system::{PostgresConfig, System};
use guitong_schemas::table::TableName;

use super::catalogue::{ColumnFacts, TableFacts};
use super::config::{quote_literal, quote_name};
use super::setup::COLUMN_LISTS;

/// What a database administrator runs once, in order: the least that the connector needs. The slot is made by the connector.
///
/// `role` is the user of the connection URL, `server_version` is `server_version_num`. Lines that begin with `--` are hints.
#[must_use]
pub fn prepare_sql(
    system: &System,
    config: &PostgresConfig,
    role: &str,
    server_version: i32,
    tables: &[TableFacts],
) -> Vec<String> {
    let mut sql = vec![format!("ALTER ROLE {} LOGIN REPLICATION", quote_name(role))];
    sql.extend(grants(system, role, tables, |_| true));
    for table in tables {
        if table.key.is_empty() && table.identity != b'f' {
            sql.push(format!("-- {} has no primary key; a row is then known by its whole content", table.name));
            sql.push(format!("ALTER TABLE {} REPLICA IDENTITY FULL", quoted(&table.name)));
        }
    }
    let all: Vec<&TableFacts> = tables.iter().collect();
    sql.push(create_publication(system, config, server_version, &all));
    if config.failover {
        sql.extend(STANDBYS.map(str::to_owned));
    }
    if config.primary_url.is_some() {
        sql.push("-- so that a slot on the standby is there at once, and not after up to 15 s".to_owned());
        sql.push(format!("GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {}", quote_name(role)));
        sql.push("-- on the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();".to_owned());
    }
    sql
}

/// What lets a standby take over with the slot (PostgreSQL documentation, "Logical Replication Failover"). These are settings of two
/// servers under names that only their administrator knows, so they are hints.
const STANDBYS: [&str; 5] = [
    "-- so that a standby keeps a copy of the slot, with the physical slot `standby_1` by which it follows the primary:",
    "-- on the standby: ALTER SYSTEM SET sync_replication_slots = on; ALTER SYSTEM SET hot_standby_feedback = on;",
    "--   ALTER SYSTEM SET primary_slot_name = 'standby_1'; and `dbname=postgres` in its primary_conninfo",
    "-- on the primary: ALTER SYSTEM SET synchronized_standby_slots = 'standby_1'; no change leaves it before the standby has it",
    "-- on both: SELECT pg_reload_conf();",
];

/// What removes the slot, the publication and the grants again.
#[must_use]
pub fn unprepare_sql(config: &PostgresConfig, role: &str, tables: &[TableFacts]) -> Vec<String> {
    let mut sql = vec![
        format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}",
            quote_literal(&config.slot)
        ),
        format!("DROP PUBLICATION IF EXISTS {}", quote_name(&config.publication)),
    ];
    if config.primary_url.is_some() {
        sql.push(format!("-- on the standby: SELECT pg_drop_replication_slot({})", quote_literal(&config.slot)));
        sql.push(format!("REVOKE EXECUTE ON FUNCTION pg_log_standby_snapshot() FROM {}", quote_name(role)));
    }
    let mut schemas = Vec::new();
    for table in tables {
        sql.push(format!("REVOKE SELECT ON {} FROM {}", quoted(&table.name), quote_name(role)));
        if !schemas.contains(&&table.name.schema) {
            schemas.push(&table.name.schema);
        }
    }
    sql.extend(
        schemas.into_iter().map(|schema| format!("REVOKE USAGE ON SCHEMA {} FROM {}", quote_name(schema), quote_name(role))),
    );
    sql
}

/// Grants that the role lacks for reading the tables.
pub(crate) fn missing_grants(system: &System, role: &str, tables: &[TableFacts]) -> Vec<String> {
    let lacking: Vec<TableFacts> = tables.iter().filter(|table| !readable(system, table)).cloned().collect();
    grants(system, role, &lacking, |table| !table.schema_usage)
}

/// The role may read every column that is published.
pub(crate) fn readable(system: &System, table: &TableFacts) -> bool {
    table.schema_usage && kept(system, table).all(|column| column.readable)
}

fn grants(system: &System, role: &str, tables: &[TableFacts], needs_schema: impl Fn(&TableFacts) -> bool) -> Vec<String> {
    let role = quote_name(role);
    let mut sql: Vec<String> = Vec::new();
    for table in tables {
        let usage = format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_name(&table.name.schema));
        if needs_schema(table) && !sql.contains(&usage) {
            sql.push(usage);
        }
        let columns = if cuts(system, table) { format!(" ({})", column_names(system, table)) } else { String::new() };
        sql.push(format!("GRANT SELECT{columns} ON {} TO {role}", quoted(&table.name)));
    }
    sql
}

pub(crate) fn create_publication(
    system: &System,
    config: &PostgresConfig,
    server_version: i32,
    tables: &[&TableFacts],
) -> String {
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
        quote_name(&config.publication),
        publication_tables(system, server_version, tables)
    )
}

pub(crate) fn add_to_publication(
    system: &System,
    config: &PostgresConfig,
    server_version: i32,
    tables: &[&TableFacts],
) -> String {
    format!(
        "ALTER PUBLICATION {} ADD TABLE {}",
        quote_name(&config.publication),
        publication_tables(system, server_version, tables)
    )
}

fn publication_tables(system: &System, server_version: i32, tables: &[&TableFacts]) -> String {
    let one = |table: &&TableFacts| {
        // A list must hold the whole replica identity, so under FULL the columns are cut by the connector.
        let listed = server_version >= COLUMN_LISTS && table.identity != b'f' && cuts(system, table);
        let columns = if listed { format!(" ({})", column_names(system, table)) } else { String::new() };
        // Children by inheritance are tables of their own.
        format!("{}{}{columns}", if table.partitioned { "" } else { "ONLY " }, quoted(&table.name))
    };
    tables.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) fn quoted(table: &TableName) -> String {
    format!("{}.{}", quote_name(&table.schema), quote_name(&table.name))
}

fn is_cut(system: &System, table: &TableFacts, column: &str) -> bool {
    system.exclude_columns.iter().any(|(of, name)| *of == table.name && name == column)
}

fn cuts(system: &System, table: &TableFacts) -> bool {
    table.columns.iter().any(|column| is_cut(system, table, &column.name))
}

pub(crate) fn kept<'a>(system: &'a System, table: &'a TableFacts) -> impl Iterator<Item = &'a ColumnFacts> {
    table.columns.iter().filter(|column| !column.generated && !is_cut(system, table, &column.name))
}

fn column_names(system: &System, table: &TableFacts) -> String {
    kept(system, table).map(|column| quote_name(&column.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::relation::tests::{facts, system};
    use super::*;

    #[test]
    fn statements_are_the_least_that_is_needed() {
        let mut system = system();
        let table = facts();
        system.exclude_columns.push((table.name.clone(), "电话".into()));
        let guitong_schemas::contract::SourceConfig::Postgres(config) = system.source.clone() else { panic!("not PostgreSQL") };
        let sql = prepare_sql(&system, &config, "reader", 150_000, std::slice::from_ref(&table));
        assert_eq!(
            sql,
            [
                r#"ALTER ROLE "reader" LOGIN REPLICATION"#,
                r#"GRANT USAGE ON SCHEMA "public" TO "reader""#,
                r#"GRANT SELECT ("区划", "编号") ON "public"."企业" TO "reader""#,
                r#"CREATE PUBLICATION "exchange_register" FOR TABLE ONLY "public"."企业" ("区划", "编号") WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"#,
            ]
        );
        let config = PostgresConfig { failover: true, ..config };
        let standbys = prepare_sql(&system, &config, "reader", 170_000, std::slice::from_ref(&table));
        assert_eq!(standbys[..4], sql);
        assert!(standbys[4..].iter().all(|line| line.starts_with("--")), "settings of other servers are hints: {standbys:?}");
        let old = prepare_sql(&system, &config, "reader", 140_000, &[table]);
        assert!(old[3].contains(r#"ONLY "public"."企业" WITH"#), "{}", old[3]);
    }
}
