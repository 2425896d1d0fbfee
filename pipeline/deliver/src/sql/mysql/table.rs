//! Making and checking a subscriber's table.

use guitong_govern::ColumnKind;
use guitong_schemas::position::Version;
use sqlx::{AssertSqlSafe, MySqlConnection, Row as _};

use super::errors::sink_error;
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::{Layout, join, misfit, quote};
use crate::sql::{EPOCH, KEY, VERSION};

/// Bytes that the columns of an index may have together (InnoDB), and those of one character at most.
const INDEX_BYTES: usize = 3072;
const CHARACTER_BYTES: usize = 4;
/// Characters of a text that is part of a key, unless there are so many of them that an index holds less.
const KEY_CHARACTERS: usize = 255;
/// Bytes of a hashed key at most.
const HASH_BYTES: usize = 64;

/// Texts compare byte by byte: keys that differ in case are two keys.
const TEXTS: &str = "ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// The exchange's own tables. `deleted_us`: microseconds since 1970-01-01T00:00Z.
const OWN: [(&str, &str); 3] = [
    (
        "guitong_subscriptions",
        "subscription VARCHAR(190) PRIMARY KEY, table_name VARCHAR(255) NOT NULL, made BOOLEAN NOT NULL,
         log_id VARCHAR(255) NOT NULL, topic VARCHAR(255) NOT NULL, epoch BIGINT NOT NULL, sweep_epoch BIGINT,
         grant_fingerprint VARBINARY(64) NOT NULL, shape LONGTEXT NOT NULL, entries LONGTEXT",
    ),
    (
        "guitong_offsets",
        "subscription VARCHAR(190) NOT NULL, log_id VARCHAR(255) NOT NULL, topic VARCHAR(255) NOT NULL,
         \"partition\" BIGINT NOT NULL, next_offset BIGINT NOT NULL, refill_to BIGINT NOT NULL, epoch BIGINT NOT NULL,
         batch_count BIGINT NOT NULL, batch_digest VARCHAR(255) NOT NULL, PRIMARY KEY (subscription, topic, \"partition\")",
    ),
    (
        "guitong_deleted",
        "subscription VARCHAR(190) NOT NULL, row_key VARBINARY(2300) NOT NULL, version VARBINARY(64) NOT NULL,
         epoch BIGINT NOT NULL, deleted_us BIGINT NOT NULL, PRIMARY KEY (subscription, row_key)",
    ),
];

pub(crate) async fn run(connection: &mut MySqlConnection, sql: String) -> Result<u64, SinkError> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map_err(sink_error)?;
    Ok(done.rows_affected())
}

pub(crate) async fn make_own_tables(connection: &mut MySqlConnection) -> Result<(), SinkError> {
    for (name, columns) in OWN {
        // `IF NOT EXISTS` asks for the right to create even where there is nothing to create.
        if found(connection, name).await?.is_empty() {
            run(connection, format!("CREATE TABLE IF NOT EXISTS {name} ({columns}) {TEXTS}")).await?;
        }
    }
    Ok(())
}

/// Makes the table, with the Chinese titles of resource and fields as comments.
pub(crate) async fn create(connection: &mut MySqlConnection, layout: &Layout, plan: &SinkPlan) -> Result<(), SinkError> {
    run(connection, format!("{} COMMENT={}", creation("CREATE TABLE IF NOT EXISTS", layout), literal(&plan.title))).await?;
    Ok(())
}

fn creation(create: &str, layout: &Layout) -> String {
    let columns = join(needed(layout).iter().map(Needed::definition), ", ");
    format!("{create} {} ({columns}, PRIMARY KEY ({})) {TEXTS}", layout.table, layout.quoted_key())
}

/// The error of a table of the department's that is not there.
pub(crate) fn absent(layout: &Layout, plan: &SinkPlan) -> SinkError {
    let problem = "it is not there, and a table that the sink's `columns` describe is the department's own".to_owned();
    misfit(&layout.table, &plan.subscription, &[problem], &layout.remedy(&creation("CREATE TABLE", layout)))
}

/// A quoted text constant; the session takes no backslash for more than itself.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A column that is written, and its type in a table that the exchange makes.
struct Needed<'l> {
    name: &'l str,
    title: &'l str,
    kind: Kind,
    in_key: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Granted(ColumnKind),
    /// Text of so many characters that is part of the key.
    KeyText(usize),
    Bytes,
    Epoch,
}

impl Kind {
    fn sql(self) -> String {
        match self {
            Self::Granted(ColumnKind::Text) => "LONGTEXT".to_owned(),
            Self::KeyText(characters) => format!("VARCHAR({characters})"),
            Self::Granted(ColumnKind::Int) | Self::Epoch => "BIGINT".to_owned(),
            Self::Granted(ColumnKind::Date) => "DATE".to_owned(),
            Self::Granted(ColumnKind::Time) => "DATETIME(6)".to_owned(),
            Self::Granted(ColumnKind::Decimal { precision, scale }) => format!("DECIMAL({precision},{scale})"),
            Self::Granted(ColumnKind::TextList | ColumnKind::Steps) => "JSON".to_owned(),
            Self::Bytes => format!("VARBINARY({HASH_BYTES})"),
        }
    }

    /// Whether a column takes every value unchanged or refuses it; none may alter one. `CHAR` and `BINARY` would: they fill up.
    fn is_taken_by(self, found: &Found, in_key: bool) -> bool {
        let is = |kinds: &[&str]| kinds.contains(&found.kind.as_str());
        match self {
            // Where texts compare without regard to case, two keys would be one.
            Self::Granted(ColumnKind::Text) | Self::KeyText(_) => {
                is(&["varchar", "tinytext", "text", "mediumtext", "longtext"])
                    && (!in_key || found.collation.as_ref().is_some_and(|collation| collation.ends_with("_bin")))
            }
            Self::Granted(ColumnKind::Int) => is(&["bigint", "int", "mediumint", "smallint", "tinyint", "decimal"]),
            Self::Epoch => is(&["bigint"]),
            Self::Granted(ColumnKind::Date) => is(&["date"]),
            Self::Granted(ColumnKind::Time) => is(&["datetime", "timestamp"]) && found.fraction == Some(6),
            Self::Granted(ColumnKind::Decimal { scale, .. }) => {
                is(&["decimal"]) && found.scale.is_some_and(|has| has >= u64::from(scale))
            }
            Self::Granted(ColumnKind::TextList | ColumnKind::Steps) => is(&["json", "longtext", "mediumtext"]),
            Self::Bytes => is(&["varbinary"]) && found.length.is_some_and(|length| length >= Version::LEN as u64),
        }
    }
}

impl Needed<'_> {
    fn definition(&self) -> String {
        let null = if self.in_key { " NOT NULL" } else { "" };
        let comment = match (self.title, self.kind) {
            ("", _) => String::new(),
            // The type does not say of which clock it is.
            (title, Kind::Granted(ColumnKind::Time)) => format!(" COMMENT {}", literal(&format!("{title}（北京时间）"))),
            (title, _) => format!(" COMMENT {}", literal(title)),
        };
        format!("{} {}{null}{comment}", quote(self.name), self.kind.sql())
    }
}

/// Every column of the table.
fn needed(layout: &Layout) -> Vec<Needed<'_>> {
    // In the key of a history the version stands beside the texts.
    let texts = layout.key.iter().filter(|name| *name != VERSION).count();
    let characters = KEY_CHARACTERS.min((INDEX_BYTES - HASH_BYTES) / CHARACTER_BYTES / texts.max(1));
    let key = layout.hashed.then_some(Needed { name: KEY, title: "", kind: Kind::Bytes, in_key: true });
    let columns = layout.columns.iter().map(|column| {
        let in_key = layout.is_key(&column.name);
        let kind = match column.kind {
            ColumnKind::Text if in_key => Kind::KeyText(characters),
            kind => Kind::Granted(kind),
        };
        Needed { name: &column.name, title: &column.title, kind, in_key }
    });
    let own = [(VERSION, Kind::Bytes), (EPOCH, Kind::Epoch)].into_iter().filter(|_| !layout.foreign);
    let own = own.map(|(name, kind)| Needed { name, title: "", kind, in_key: layout.is_key(name) });
    let kind = Kind::Granted(ColumnKind::Time);
    let instants = layout.instants.iter().map(|&name| Needed { name, title: "", kind, in_key: false });
    key.into_iter().chain(columns).chain(own).chain(instants).collect()
}

/// A column of the table as it is.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// As `information_schema` names it, in small letters: `varchar`.
    kind: String,
    /// With length, scale and the like: `varchar(20)`.
    declared: String,
    not_null: bool,
    /// Has a default, counts up, or is computed.
    filled: bool,
    length: Option<u64>,
    scale: Option<u64>,
    /// Digits of a second's fraction.
    fraction: Option<u64>,
    collation: Option<String>,
}

/// The columns of the table or view in the session's database; none where there is none.
pub(crate) async fn found(connection: &mut MySqlConnection, name: &str) -> Result<Vec<Found>, SinkError> {
    // What both servers give as texts of several sorts and numbers of several widths is made one.
    let sql = "SELECT CONVERT(column_name USING utf8mb4), LOWER(CONVERT(data_type USING utf8mb4)),
            CONVERT(column_type USING utf8mb4), is_nullable = 'NO', column_default IS NOT NULL OR extra <> '',
            CAST(character_maximum_length AS UNSIGNED), CAST(numeric_scale AS UNSIGNED), CAST(datetime_precision AS UNSIGNED),
            CONVERT(collation_name USING utf8mb4)
        FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position";
    let rows = sqlx::query(sql).bind(name).fetch_all(connection).await.map_err(sink_error)?;
    let found = rows.iter().map(|row| {
        Ok(Found {
            name: row.try_get(0)?,
            kind: row.try_get(1)?,
            declared: row.try_get(2)?,
            not_null: row.try_get(3)?,
            filled: row.try_get(4)?,
            length: row.try_get(5)?,
            scale: row.try_get(6)?,
            fraction: row.try_get(7)?,
            collation: row.try_get(8)?,
        })
    });
    found.collect::<Result<_, _>>().map_err(sink_error)
}

/// Checks that the table, whose columns were `found`, takes what will be written; adds missing columns to a table that the
/// exchange made.
pub(crate) async fn fit(
    connection: &mut MySqlConnection,
    found: &[Found],
    layout: &Layout,
    plan: &SinkPlan,
    made: bool,
) -> Result<(), SinkError> {
    let needed = needed(layout);
    let (mut problems, mut additions) = (Vec::new(), Vec::new());
    for column in &needed {
        match found.iter().find(|other| same(&other.name, column.name)) {
            None if made && !column.in_key => additions.push(format!("ADD COLUMN {}", column.definition())),
            None => {
                let add = format!("ALTER TABLE {} ADD COLUMN {}", layout.table, column.definition());
                problems.push(format!("column {} is missing, of type {}: {add}", column.name, column.kind.sql()));
            }
            Some(other) if other.not_null && layout.soft && !column.in_key => problems.push(format!(
                "column {} is NOT NULL, and a row that leaves the grant stays without its values: make it one that may be null",
                column.name
            )),
            Some(other) if column.kind.is_taken_by(other, column.in_key) => {}
            Some(other) => {
                let collation = other.collation.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
                let exactly = if column.in_key { " of a collation that ends with _bin, since it is of the key" } else { "" };
                problems.push(format!(
                    "column {} is {}{collation}, and has to be {}{exactly}",
                    column.name,
                    other.declared,
                    column.kind.sql()
                ));
            }
        }
    }
    let ours = |other: &Found| needed.iter().any(|column| same(column.name, &other.name));
    for other in found.iter().filter(|other| !ours(other) && other.not_null && !other.filled) {
        problems.push(format!("column {} is NOT NULL without a default, and the subscription does not fill it", other.name));
    }
    problems.extend(key_problems(connection, layout).await?);
    if !problems.is_empty() {
        let help = layout.remedy(&creation("CREATE TABLE", layout));
        return Err(misfit(&layout.name, &plan.subscription, &problems, &help));
    }
    if !additions.is_empty() {
        run(connection, format!("ALTER TABLE {} {}", layout.table, additions.join(", "))).await?;
    }
    Ok(())
}

/// Column names are the same without regard to case.
pub(crate) fn same(left: &str, right: &str) -> bool {
    left.to_lowercase() == right.to_lowercase()
}

/// A unique index must have just the key's columns, and no other may be there: the server's upsert overwrites whichever row any
/// of them finds.
async fn key_problems(connection: &mut MySqlConnection, layout: &Layout) -> Result<Vec<String>, SinkError> {
    let sql = "SELECT CONVERT(index_name USING utf8mb4), CONVERT(column_name USING utf8mb4), sub_part IS NOT NULL
        FROM information_schema.statistics
        WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 ORDER BY index_name, seq_in_index";
    let rows = sqlx::query_as::<_, (String, Option<String>, bool)>(sql).bind(&layout.name);
    let rows = rows.fetch_all(connection).await.map_err(sink_error)?;
    let sorted = |names: &mut dyn Iterator<Item = &str>| {
        let mut names: Vec<_> = names.map(str::to_lowercase).collect();
        names.sort();
        names
    };
    let key = sorted(&mut layout.key.iter().map(String::as_str));
    let (mut keyed, mut problems) = (false, Vec::new());
    for index in rows.chunk_by(|left, right| left.0 == right.0) {
        // A column without a name is an expression; of one with `sub_part` only the beginning counts.
        let whole = index.iter().all(|(_, column, part)| column.is_some() && !part);
        if whole && sorted(&mut index.iter().filter_map(|(_, column, _)| column.as_deref())) == key {
            keyed = true;
        } else if let Some((index, ..)) = index.first() {
            problems
                .push(format!("unique index {index} is not of just ({}): a row could overwrite another", layout.key.join(", ")));
        }
    }
    if !keyed {
        problems.push(format!("it has no primary key or unique index of just ({})", layout.key.join(", ")));
    }
    Ok(problems)
}
