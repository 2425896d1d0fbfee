//! Replica identity: what the stream says of a row before its change (PostgreSQL documentation, "Publication", `REPLICA IDENTITY`).

use guitong_schemas::contract::system::System;

use super::catalogue::TableFacts;
use super::fault::Faults;
use super::prepare;
use crate::source::SourceError;

/// Tables that are named where many are alike.
const NAMED: usize = 10;

/// Every change of a table has to say which row it is of. What would be refused once the table is published is refused before; a table
/// that is published already is taken as it is.
pub(crate) fn check(table: &TableFacts, published: bool, faults: &Faults) -> Result<(), SourceError> {
    if Known::of(table) != Known::Nothing || published {
        return Ok(());
    }
    let quoted = prepare::quoted(&table.name);
    Err(match table.identity {
        b'n' => faults.setup(
            format!("table {} has REPLICA IDENTITY NOTHING: updates and deletes would not say which row", table.name),
            format!("run `ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT` (with a primary key) or `... REPLICA IDENTITY FULL`"),
        ),
        _ => faults.setup(
            format!(
                "table {} has no primary key: once published, PostgreSQL would refuse its updates and deletes",
                table.name
            ),
            format!(
                "run `ALTER TABLE {quoted} REPLICA IDENTITY FULL` (and declare its key under [keys] if it has one), add a primary \
                 key, or take the table out of `tables`"
            ),
        ),
    })
}

/// Says at start what updates and deletes of the tables will hold.
pub(crate) fn tell(system: &System, tables: &[TableFacts]) {
    for known in [Known::Key, Known::Index, Known::Row] {
        if let Some(tables) = named(known, tables) {
            tracing::info!(system = %system.name, tables, "{}", known.meaning());
        }
    }
    if let Some(tables) = named(Known::Nothing, tables) {
        tracing::warn!(system = %system.name, tables, "{}", Known::Nothing.meaning());
    }
}

/// What is known of a row before its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Key,
    Index,
    Row,
    Nothing,
}

impl Known {
    fn of(table: &TableFacts) -> Self {
        match table.identity {
            b'f' => Self::Row,
            b'i' if !table.key.is_empty() => Self::Index,
            b'd' if !table.key.is_empty() => Self::Key,
            _ => Self::Nothing,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Key => {
                "replica identity is the primary key: deletes, and updates that change it, say the key before and nothing else; \
                 a long value that an update leaves alone is not sent"
            }
            Self::Index => {
                "replica identity is an index: deletes, and updates that change its columns, say these before and nothing else; \
                 a long value that an update leaves alone is not sent"
            }
            Self::Row => {
                "replica identity is the full row: updates and deletes say the whole row before, at the price of more WAL"
            }
            Self::Nothing => "no replica identity: inserts arrive, and the server refuses updates and deletes",
        }
    }
}

fn named(known: Known, tables: &[TableFacts]) -> Option<String> {
    let names: Vec<String> =
        tables.iter().filter(|table| Known::of(table) == known).map(|table| table.name.to_string()).collect();
    let first = names.get(..NAMED).unwrap_or(&names).join(", ");
    match names.len() {
        0 => None,
        count if count > NAMED => Some(format!("{first} and {} more", count - NAMED)),
        _ => Some(first),
    }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::table::TableName;

    use super::*;

    fn table(name: &str, identity: u8, key: &[&str]) -> TableFacts {
        TableFacts {
            oid: 1,
            name: TableName::new("public", name),
            partitioned: false,
            identity,
            columns: Vec::new(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            rows: 0,
            bytes: 0,
            schema_usage: true,
        }
    }

    #[test]
    fn tables_are_named_by_what_is_known_of_their_rows() {
        let mut tables = vec![
            table("a", b'd', &["id"]),
            table("b", b'f', &[]),
            table("c", b'i', &["code"]),
            table("d", b'd', &[]),
            table("e", b'n', &["id"]),
            table("企业", b'f', &["id"]),
        ];
        let told = |known, tables: &[TableFacts]| named(known, tables).unwrap_or_default();
        assert_eq!(told(Known::Key, &tables), "public.a");
        assert_eq!(told(Known::Row, &tables), "public.b, public.企业");
        assert_eq!(told(Known::Index, &tables), "public.c");
        assert_eq!(told(Known::Nothing, &tables), "public.d, public.e");
        tables.extend((0..NAMED).map(|number| table(&format!("t{number}"), b'd', &["id"])));
        assert!(told(Known::Key, &tables).ends_with("public.t8 and 1 more"), "{}", told(Known::Key, &tables));
        let faults = Faults::new("");
        assert!(check(&tables[3], true, &faults).is_ok() && check(&tables[3], false, &faults).is_err());
    }
}
