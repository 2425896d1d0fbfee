//! The first rows of a table, as a first load would read them. No slot and no publication is needed, and nothing is written.

use std::sync::Arc;

use guitong_schemas::change::{Before, Change, Operation, Origin, Place, SnapshotMark};
use guitong_schemas::contract::system::{PostgresConfig, System};
use guitong_schemas::position::Version;
use guitong_schemas::table::TableName;

use super::catalogue;
use super::config::{quote_literal, quote_name};
use super::copy::CopyRows;
use super::fault::Faults;
use super::prepare;
use super::ranges;
use super::relation::{Relation, message_of};
use super::start::primary;
use super::types::Types;
use super::wire::{Login, Purpose};
use crate::source::{SampleBudget, SourceError, Wanted, missing};

/// At most `budget` of the table's rows, in the order in which they lie; of those only that the system's first load reads.
///
/// # Errors
/// [`SourceError::Setup`] where the table or a column does not exist or may not be read, [`SourceError::Unavailable`] where the server cannot be reached.
pub async fn sample(
    system: &System,
    config: &PostgresConfig,
    table: &TableName,
    budget: SampleBudget,
    wanted: &[Wanted],
) -> Result<Vec<Change>, SourceError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let faults = Faults::of(system);
    let address = primary(system, config, &faults)?;
    let mut connection = address.connect(&faults).await?;
    let mut types = Types::default();
    let asked = async {
        let tables = catalogue::selected(&mut connection, system).await?;
        let facts = tables.into_iter().find(|facts| facts.name == *table);
        if let Some(facts) = &facts {
            let oids: Vec<u32> = facts.columns.iter().map(|column| column.type_oid).collect();
            catalogue::learn_types(&mut connection, &mut types, &oids).await?;
        }
        Ok::<_, sqlx::Error>(facts)
    };
    let facts = asked.await.map_err(|error| faults.query("reading the catalogue", &error))?;
    let Some(facts) = facts else {
        let help = "names are compared as PostgreSQL stores them, so unquoted ones are in lower case";
        return Err(faults.setup(format!("there is no table {table}"), help));
    };
    if !prepare::readable(system, &facts) {
        let grants = prepare::missing_grants(system, &address.user, std::slice::from_ref(&facts));
        let help = format!("run as the table's owner:\n    {}", grants.join(";\n    "));
        return Err(faults.setup(format!("role {} may not read {table}", address.user), help));
    }
    let relation = Relation::new(message_of(&facts, None), Some(&facts), &types, system);
    if let Some(column) = missing(&relation.table, wanted) {
        return Err(
            faults.setup(format!("table {table} has no column `{column}`"), "names are compared as PostgreSQL stores them")
        );
    }
    let filter = filter(system.snapshot.filter(table), wanted);
    let query = ranges::select(&relation.table, facts.partitioned, filter.as_deref(), false);
    let form = relation.form();
    let statements = {
        let (rows, form) = (budget.rows, form.clause());
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; COPY ({query} LIMIT {rows}) TO STDOUT{form}; COMMIT")
    };
    let mut reader = Login::open(&address, Purpose::Read, &faults).await?.reader();
    reader.copy(&statements).await?;
    let now_us = jiff::Timestamp::now().as_microsecond();
    let (mut images, mut changes, mut bytes) = (CopyRows::new(form), Vec::new(), 0);
    // What is over the budget is read past, as the server sends it anyway.
    while let Some(message) = reader.row().await? {
        if bytes >= budget.bytes {
            continue;
        }
        let row = images.row(&message).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
        let Some(row) = row else { continue };
        bytes += row.0.len();
        changes.push(Change {
            table: Arc::clone(&relation.table),
            operation: Operation::Read,
            version: Version { epoch: 1, index: u32::try_from(changes.len()).unwrap_or(u32::MAX), ..Version::default() },
            before: Before::None,
            after: Some(row),
            origin: Origin {
                ts_us: now_us,
                snapshot: SnapshotMark::Inside,
                place: Place::Postgres { xid: None, lsn: 0, last_commit_lsn: None, order: None },
            },
        });
    }
    Ok(changes)
}

/// The system's own filter with what is wanted. As text a value compares whatever the column's type is.
fn filter(own: Option<&str>, wanted: &[Wanted]) -> Option<String> {
    let own = own.map(|own| format!("(\n{own}\n)"));
    let wanted = wanted.iter().map(|Wanted { column, values }| {
        // No value of PostgreSQL holds the character 0.
        let values = values.iter().filter(|value| !value.contains('\0')).map(|value| quote_literal(value));
        format!("trim({}::text) = ANY (ARRAY[{}]::text[])", quote_name(column), values.collect::<Vec<_>>().join(", "))
    });
    let all: Vec<String> = own.into_iter().chain(wanted).collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}
