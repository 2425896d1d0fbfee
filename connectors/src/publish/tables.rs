//! Tables that are published: their plans, topics and registered schemas.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guitong_log::registry::{Compatibility, SchemaRegistry};
use guitong_log::{ExchangeLog, OwnedLog, Retention, TopicSpec, loaded};
use guitong_schemas::avro::form::{DeleteLeaves, Truncates};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{DecodePlan, EncodePlan, TableContext};
use guitong_schemas::table::{ColumnType, Table, TableName};

use super::held::HeldKeys;
use super::{PublishError, PublishSettings};

/// Versions of one table that are held ready: while its columns change, a snapshot and the stream can be of different versions.
const VERSIONS: usize = 4;

/// A version of a table, ready to be published.
#[derive(Debug)]
pub(super) struct Published {
    table: Arc<Table>,
    pub(super) plan: EncodePlan,
    /// Ids of the schemas, which JSON has none of.
    pub(super) key_id: u32,
    pub(super) value_id: u32,
    /// Reads the keys that the topic holds, where they are Avro.
    pub(super) key_plan: Option<DecodePlan>,
    /// Whether the topic keeps the last value of each key for ever.
    compacted: bool,
    cells: Option<Cells>,
}

/// Keyed state of the table's rows, in a map named as the topic: the columns that a change may leave out.
#[derive(Debug, Clone)]
struct Cells {
    /// Whether the map has an entry. Most tables have only short rows, of which nothing need be kept.
    any: Arc<AtomicBool>,
}

impl Published {
    pub(super) fn topic(&self) -> &Arc<str> {
        self.plan.topic()
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.plan.has_key()
    }

    pub(super) fn is_compacted(&self) -> bool {
        self.compacted
    }

    pub(super) fn keeps_cells(&self) -> bool {
        self.cells.is_some()
    }

    /// Whether columns of any row may be kept.
    pub(super) fn has_cells(&self) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.any.load(Ordering::Relaxed))
    }

    pub(super) fn note_cells(&self) {
        if let Some(cells) = &self.cells {
            cells.any.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether PostgreSQL may store the type out of line, and so leave it out of an update.
pub(super) fn may_be_absent(kind: &ColumnType) -> bool {
    matches!(
        kind,
        ColumnType::Text
            | ColumnType::Other
            | ColumnType::Bytes
            | ColumnType::Json
            | ColumnType::Xml
            | ColumnType::Decimal { .. }
            | ColumnType::VariableDecimal
            | ColumnType::Hstore
            | ColumnType::Ltree
            | ColumnType::TsVector
            | ColumnType::Array(_)
            | ColumnType::Bit { .. }
    )
}

#[derive(Debug)]
pub(super) struct Tables {
    log: Arc<dyn ExchangeLog>,
    registry: Arc<dyn SchemaRegistry>,
    versions: HashMap<TableName, Vec<Arc<Published>>>,
    /// Changes mostly come in runs of one table.
    last: Option<(Arc<Table>, Arc<Published>)>,
    /// The topic that tells which tables are read is there.
    tells_loaded: bool,
}

impl Tables {
    pub(super) fn new(log: Arc<dyn ExchangeLog>, registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { log, registry, versions: HashMap::new(), last: None, tells_loaded: false }
    }

    pub(super) async fn resolve(
        &mut self,
        table: &Arc<Table>,
        settings: &PublishSettings,
        owned: &dyn OwnedLog,
    ) -> Result<Arc<Published>, PublishError> {
        if let Some(known) = self.known(table) {
            return Ok(known);
        }
        let published = Arc::new(self.prepare(table, settings, owned).await?);
        let versions = self.versions.entry(table.name.clone()).or_default();
        if versions.len() == VERSIONS {
            versions.remove(0);
        }
        versions.push(Arc::clone(&published));
        self.last = Some((Arc::clone(table), Arc::clone(&published)));
        Ok(published)
    }

    /// The table, where it was published before.
    pub(super) fn known(&mut self, table: &Arc<Table>) -> Option<Arc<Published>> {
        if let Some((of, published)) = &self.last
            && Arc::ptr_eq(of, table)
        {
            return Some(Arc::clone(published));
        }
        let versions = self.versions.get(&table.name)?;
        let known = versions.iter().find(|known| Arc::ptr_eq(&known.table, table) || known.table == *table)?;
        self.last = Some((Arc::clone(table), Arc::clone(known)));
        Some(Arc::clone(known))
    }

    async fn prepare(
        &self,
        table: &Arc<Table>,
        settings: &PublishSettings,
        owned: &dyn OwnedLog,
    ) -> Result<Published, PublishError> {
        let prefix = settings.form.prefix(&settings.system);
        let context = TableContext {
            prefix: &prefix,
            name: settings.form.logical_name(&settings.system),
            database: &settings.database,
            kind: settings.kind,
            form: &settings.form,
        };
        let plan = EncodePlan::compile(table, &context)?;
        let holder =
            self.versions.values().flatten().find(|known| known.topic() == plan.topic() && known.table.name != table.name);
        if let Some(holder) = holder {
            let (one, other) = (holder.table.name.to_string(), table.name.to_string());
            return Err(PublishError::OneTopic { one, other, topic: Arc::clone(plan.topic()) });
        }
        // A trigger writes whole rows.
        let leaves_out = settings.kind == SourceKind::Postgres && table.columns.iter().any(|column| may_be_absent(&column.kind));
        let keyed = plan.has_key();
        let whole = !leaves_out || settings.complete;
        // A truncate that is one event has no key, which a compacted topic cannot hold.
        let compacted = keyed && whole && settings.form.truncates != Truncates::Event;
        let cells =
            if keyed && leaves_out && settings.complete { Some(self.cells(table, plan.topic(), owned).await?) } else { None };
        let retention = if compacted {
            Retention::Compact { after: settings.trace, tombstones: settings.trace }
        } else {
            Retention::Expire { age: Some(settings.trace), bytes: None }
        };
        if keyed && !whole {
            tracing::warn!(
                system = %settings.system, table = %table.name,
                "updates may leave out unchanged large values, so the topic expires; a rebuild restores only what changed since \
                 (`complete = true` keeps whole rows)"
            );
        }
        self.log.ensure_topic(&TopicSpec { name: Arc::clone(plan.topic()), partitions: 1, retention }).await?;
        let key_id = self.register(plan.topic(), "key", plan.key_schema()).await?;
        let value_id = self.register(plan.topic(), "value", plan.value_schema()).await?;
        let key_plan = plan.key_schema().map(DecodePlan::compile).transpose().map_err(PublishError::KeySchema)?;
        Ok(Published { table: Arc::clone(table), plan, key_id, value_id, key_plan, compacted, cells })
    }

    /// The versions of a table share what is known of its map.
    async fn cells(&self, table: &Table, topic: &Arc<str>, owned: &dyn OwnedLog) -> Result<Cells, PublishError> {
        let versions = self.versions.get(&table.name).map(Vec::as_slice).unwrap_or_default();
        if let Some(cells) = versions.iter().find_map(|version| version.cells.clone()) {
            return Ok(cells);
        }
        let any = !owned.scan(topic, &[], None, 1).await?.is_empty();
        Ok(Cells { any: Arc::new(any.into()) })
    }

    /// Makes the topic that tells which tables are read to their end.
    pub(super) async fn ensure_loaded(&mut self, system: &str) -> Result<(), PublishError> {
        if !self.tells_loaded {
            self.log.ensure_topic(&loaded::spec(system)).await?;
            self.tells_loaded = true;
        }
        Ok(())
    }

    /// The keys that the table's topic holds.
    pub(super) fn held(&self, table: &Published, settings: &PublishSettings) -> HeldKeys {
        let registry = (settings.form.delete_leaves() == DeleteLeaves::Event).then(|| Arc::clone(&self.registry));
        HeldKeys::new(Arc::clone(&self.log), Arc::clone(table.topic()), registry)
    }

    /// Raw subjects follow the source, whatever it does to its columns. What has no schema has no id either.
    async fn register(&self, topic: &str, part: &str, schema: Option<&str>) -> Result<u32, PublishError> {
        let Some(schema) = schema else { return Ok(0) };
        Ok(self.registry.register_with(&format!("{topic}-{part}"), schema, Compatibility::None).await?)
    }
}
