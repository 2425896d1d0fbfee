//! The same SQL through our connector: a database of its own, the script, and what stands in the raw topics afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_connectors::metrics::Metrics;
use guitong_connectors::registration::{self, Parts};
use guitong_connectors::run::{Connector, ConnectorState, ConnectorStatus};
use guitong_connectors::source::Phase;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{ExchangeLog, ReadBudget, TopicPartition};
use guitong_schemas::table::TableName;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::avro::Decoder;
use super::dump::{Dump, Message, Topic};
use super::statements::{is_sleep, statements};
use super::{Failure, exchange, text};
use crate::servers::postgres::{ADMIN, PASSWORD, Postgres};

/// The connector does its part of any step of the script in less.
const LIMIT: Duration = Duration::from_secs(60);

/// What our connector published, and what the rules ask of the database.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) facts: Facts,
}

/// What the catalogue says after the script, and which topic is whose.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// `schema.table` by topic.
    pub(super) tables: exchange::Tables,
    /// `schema.table` of partitions, with their roots.
    pub(super) partitions: BTreeMap<String, String>,
    /// `schema.table` with the columns of its identity index, where it has another primary key too.
    pub(super) identities: BTreeMap<String, Vec<String>>,
    /// `schema.table` with its columns of type `name`.
    pub(super) names: BTreeMap<String, Vec<String>>,
    /// `schema.table` with its columns of geometric types that the peer does not know.
    pub(super) geometric: BTreeMap<String, Vec<String>>,
    /// `schema.table` with its generated columns.
    pub(super) generated: BTreeMap<String, Vec<String>>,
    /// `schema.table` with its nullable columns that have a default.
    pub(super) defaulted: BTreeMap<String, Vec<String>>,
}

impl Facts {
    /// The table of a topic.
    pub(super) fn table(&self, topic: &str) -> Option<&String> {
        self.tables.get(topic)
    }

    /// What `of` says of the table of a topic.
    pub(super) fn columns<'a>(&self, topic: &str, of: &'a BTreeMap<String, Vec<String>>) -> Option<&'a Vec<String>> {
        of.get(self.table(topic)?)
    }
}

/// Runs `setup.sql` and `stream.sql` of `dir` in a new server, as `dump` was made.
pub(super) async fn run(dir: &Path, dump: &Dump) -> Result<Run, Failure> {
    let script = |name: &str| std::fs::read_to_string(dir.join(name)).map_err(|error| Failure::new(format!("{name}: {error}")));
    let (setup, stream) = (script("setup.sql")?, script("stream.sql")?);
    let database = dump.config("database.dbname").unwrap_or("gx");
    let server = Postgres::start().await.map_err(Failure::new)?;
    server.create_database(database).await.map_err(Failure::new)?;
    let admin = server.admin_of(database).await.map_err(Failure::new)?;
    let url = server.url_of(ADMIN, PASSWORD, database);
    let mut client = PgConnection::connect(&url).await.map_err(Failure::new)?;
    // What the database's own zone is must not matter.
    execute(&mut client, &format!("ALTER DATABASE \"{database}\" SET timezone = 'Asia/Shanghai'")).await?;
    for statement in statements(&setup) {
        execute(&mut client, &statement).await?;
    }
    let publication = format!("CREATE PUBLICATION {} FOR ALL TABLES WITH (publish_via_partition_root)", exchange::SLOT);
    execute(&mut client, &publication).await?;

    let home = tempfile::tempdir().map_err(Failure::new)?;
    let tables = exchange::tables(dump, &catalogue(&admin).await?)?;
    let (directory, system) = exchange::write(home.path(), dump, &url, &tables)?;
    let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await;
    let log = log.map_err(Failure::new)?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(BuiltinRegistry::open(&log).await.map_err(Failure::new)?);
    let metrics = Metrics::register(&prometheus::Registry::new()).map_err(Failure::new)?;
    let Parts { settings, source, .. } = registration::of(&system, &directory.exchange, &metrics);
    let shared = Arc::new(log.clone());
    let connector = Connector::new(settings, shared, Arc::clone(&registry), source, metrics.of(system.name.as_str()));
    let (status, stop) = (connector.status(), CancellationToken::new());
    let task = tokio::spawn(connector.run(stop.clone()));

    streaming(status).await?;
    for statement in statements(&stream) {
        // The script waits by the clock, as its peer reads the catalogue late; here the connector itself says how far it is.
        if is_sleep(&statement) {
            caught_up(&admin).await?;
        } else {
            execute(&mut client, &statement).await?;
        }
    }
    caught_up(&admin).await?;
    stop.cancel();
    task.await.map_err(Failure::new)?.map_err(Failure::new)?;
    let topics = read(&log, registry, dump).await?;
    log.close().await;
    Ok(Run { topics, facts: facts(&admin, tables).await? })
}

async fn execute(client: &mut PgConnection, statement: &str) -> Result<(), Failure> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(client).await;
    let short: String = statement.chars().take(80).collect();
    done.map(|_| ()).map_err(|error| Failure::new(format!("{short}: {error}")))
}

async fn streaming(mut status: watch::Receiver<ConnectorStatus>) -> Result<(), Failure> {
    let reached = status.wait_for(|status| {
        matches!(status.state, ConnectorState::Failed { .. } | ConnectorState::Retrying { .. })
            || status.state == ConnectorState::Running && status.source.phase == Phase::Streaming
    });
    match tokio::time::timeout(LIMIT, reached).await {
        Ok(Ok(seen)) => match &seen.state {
            ConnectorState::Failed { error, .. } | ConnectorState::Retrying { error, .. } => Err(Failure::new(error)),
            _ => Ok(()),
        },
        Ok(Err(_)) => Err(Failure::new("the connector ended before it streamed")),
        Err(_) => Err(Failure::new("the connector does not come to stream")),
    }
}

/// Waits until everything that is in the server's log now is published and confirmed.
async fn caught_up(admin: &PgPool) -> Result<(), Failure> {
    let end: String =
        sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text").fetch_one(admin).await.map_err(Failure::new)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let confirmed: Option<bool> =
            sqlx::query_scalar("SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = $2")
                .bind(&end)
                .bind(exchange::SLOT)
                .fetch_one(admin)
                .await
                .map_err(Failure::new)?;
        if confirmed == Some(true) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("{end} is not confirmed in {LIMIT:?}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn catalogue(admin: &PgPool) -> Result<Vec<TableName>, Failure> {
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(admin)
    .await
    .map_err(Failure::new)?;
    Ok(tables.iter().map(|(schema, name)| TableName::new(schema, name)).collect())
}

/// Everything in the topics of the dump, and in those of notices where there are any.
async fn read(log: &EmbeddedLog, registry: Arc<dyn SchemaRegistry>, dump: &Dump) -> Result<BTreeMap<String, Topic>, Failure> {
    let mut decoder = Decoder::new(registry);
    let prefix = dump.config("topic.prefix").unwrap_or_default();
    let notices = ["message", "transaction"].map(|name| format!("{prefix}.{name}"));
    let names: BTreeSet<String> = dump.topics.keys().cloned().chain(notices).collect();
    let mut topics = BTreeMap::new();
    for name in names {
        if log.partitions(&name).await.map_err(Failure::new)?.is_some() {
            let topic = read_topic(log, &name, &mut decoder, dump.is_json()).await?;
            topics.insert(name, topic);
        }
    }
    Ok(topics)
}

async fn read_topic(log: &EmbeddedLog, name: &str, decoder: &mut Decoder, is_json: bool) -> Result<Topic, Failure> {
    let mut topic = Topic::default();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let at = TopicPartition::new(name, 0);
    let bounds = log.bounds(&at).await.map_err(Failure::new)?;
    let mut reader = log.reader(vec![(at, bounds.earliest)]).await.map_err(Failure::new)?;
    let mut next = bounds.earliest;
    while next < bounds.end {
        let batch = reader.read(ReadBudget { bytes: 4 << 20, wait: LIMIT }).await.map_err(Failure::new)?;
        for record in batch.records {
            let mut message = Message::default();
            let parts = [
                (&record.key, &mut message.key, &mut message.key_schema, &mut keys),
                (&record.value, &mut message.value, &mut message.value_schema, &mut values),
            ];
            for (bytes, value, schema, used) in parts {
                let Some(bytes) = bytes else { continue };
                if is_json {
                    *value = text::read(std::str::from_utf8(bytes).map_err(Failure::new)?)?;
                } else {
                    let (index, read) = decoder.read(bytes, used).await?;
                    (*schema, *value) = (Some(index), read);
                }
            }
            message.wrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            message.headers = record.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            topic.messages.push(message);
        }
        next = batch.next.first().map_or(bounds.end, |(_, next)| *next);
    }
    topic.key_schemas = keys.into_iter().map(|(_, schema)| schema).collect();
    topic.value_schemas = values.into_iter().map(|(_, schema)| schema).collect();
    Ok(topic)
}

async fn facts(admin: &PgPool, tables: exchange::Tables) -> Result<Facts, Failure> {
    let columns = async |sql: &'static str| {
        let rows: Result<Vec<(String, Vec<String>)>, _> = sqlx::query_as(sql).fetch_all(admin).await;
        rows.map(|rows| rows.into_iter().collect::<BTreeMap<_, _>>()).map_err(Failure::new)
    };
    let partitions: Vec<(String, String)> = sqlx::query_as(
        "SELECT n.nspname || '.' || c.relname, rn.nspname || '.' || r.relname FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class r ON r.oid = pg_partition_root(c.oid) \
         JOIN pg_namespace rn ON rn.oid = r.relnamespace WHERE c.relispartition",
    )
    .fetch_all(admin)
    .await
    .map_err(Failure::new)?;
    Ok(Facts {
        tables,
        partitions: partitions.into_iter().collect(),
        identities: columns(
            "SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text ORDER BY k.at) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident \
             CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at) \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
             WHERE c.relreplident = 'i' AND NOT i.indisprimary \
             AND EXISTS (SELECT FROM pg_index p WHERE p.indrelid = c.oid AND p.indisprimary) GROUP BY 1",
        )
        .await?,
        names: columns(
            "SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE a.atttypid = 'name'::regtype AND a.attnum > 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
             GROUP BY 1",
        )
        .await?,
        geometric: columns(
            "SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE a.atttypid IN ('box'::regtype, 'circle'::regtype, 'lseg'::regtype, 'path'::regtype, 'polygon'::regtype, \
             'line'::regtype) AND n.nspname NOT IN ('pg_catalog', 'information_schema') GROUP BY 1",
        )
        .await?,
        generated: columns(
            "SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE a.attgenerated <> '' AND n.nspname NOT IN ('pg_catalog', 'information_schema') GROUP BY 1",
        )
        .await?,
        defaulted: columns(
            "SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE a.atthasdef AND NOT a.attnotnull AND a.attgenerated = '' \
             AND n.nspname NOT IN ('pg_catalog', 'information_schema') GROUP BY 1",
        )
        .await?,
    })
}
