//! Tables that are published: their plans, topics and registered schemas.

use std::collections::HashMap;
use std::sync::Arc;

use guitong_log::registry::{Compatibility, SchemaRegistry};
use guitong_log::{ExchangeLog, Retention, TopicSpec};
use guitong_schemas::avro::{EncodePlan, TableContext};
use guitong_schemas::table::{ColumnType, Table, TableName};

use super::{PublishError, PublishSettings};

/// Versions of one table that are held ready: while its columns change, a snapshot and the stream can be of different versions.
const VERSIONS: usize = 4;

/// A version of a table, ready to be published.
#[derive(Debug)]
pub(super) struct Published {
    table: Arc<Table>,
    pub(super) plan: EncodePlan,
    pub(super) key_id: Option<u32>,
    pub(super) value_id: u32,
    keeps: Keeps,
}

/// What keyed state holds of the table's rows. The map is named as the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Nothing,
    Keys,
    /// Keys, and the columns that a change may leave out.
    Cells,
}

impl Published {
    pub(super) fn topic(&self) -> &Arc<str> {
        self.plan.topic()
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.key_id.is_some()
    }

    pub(super) fn keeps_keys(&self) -> bool {
        self.keeps != Keeps::Nothing
    }

    pub(super) fn keeps_cells(&self) -> bool {
        self.keeps == Keeps::Cells
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
    known: HashMap<TableName, Vec<Arc<Published>>>,
    /// Changes mostly come in runs of one table.
    last: Option<(Arc<Table>, Arc<Published>)>,
}

impl Tables {
    pub(super) fn new(log: Arc<dyn ExchangeLog>, registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { log, registry, known: HashMap::new(), last: None }
    }

    pub(super) async fn resolve(
        &mut self,
        table: &Arc<Table>,
        settings: &PublishSettings,
    ) -> Result<Arc<Published>, PublishError> {
        if let Some((of, published)) = &self.last
            && Arc::ptr_eq(of, table)
        {
            return Ok(Arc::clone(published));
        }
        let versions = self.known.get(&table.name).map(Vec::as_slice).unwrap_or_default();
        let published = match versions.iter().find(|known| Arc::ptr_eq(&known.table, table) || known.table == *table) {
            Some(known) => Arc::clone(known),
            None => {
                let published = Arc::new(self.prepare(table, settings).await?);
                let versions = self.known.entry(table.name.clone()).or_default();
                if versions.len() == VERSIONS {
                    versions.remove(0);
                }
                versions.push(Arc::clone(&published));
                published
            }
        };
        self.last = Some((Arc::clone(table), Arc::clone(&published)));
        Ok(published)
    }

    async fn prepare(&self, table: &Arc<Table>, settings: &PublishSettings) -> Result<Published, PublishError> {
        let prefix = settings.form.prefix(&settings.system);
        let context = TableContext {
            prefix: &prefix,
            name: settings.form.logical_name(&settings.system),
            database: &settings.database,
            kind: settings.kind,
            form: &settings.form,
        };
        let plan = EncodePlan::compile(table, &context)?;
        let holder = self.known.values().flatten().find(|known| known.topic() == plan.topic() && known.table.name != table.name);
        if let Some(holder) = holder {
            let (one, other) = (holder.table.name.to_string(), table.name.to_string());
            return Err(PublishError::OneTopic { one, other, topic: Arc::clone(plan.topic()) });
        }
        let leaves_out = settings.keeps_keys && table.columns.iter().any(|column| may_be_absent(&column.kind));
        let keyed = plan.key_schema().is_some();
        let keeps = match (keyed && settings.keeps_keys, leaves_out && settings.complete) {
            (false, _) => Keeps::Nothing,
            (true, false) => Keeps::Keys,
            (true, true) => Keeps::Cells,
        };
        let whole = !leaves_out || settings.complete;
        let retention = if keyed && whole {
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
        let key_id = match plan.key_schema() {
            Some(schema) => Some(self.register(&format!("{}-key", plan.topic()), schema).await?),
            None => None,
        };
        let value_id = self.register(&format!("{}-value", plan.topic()), plan.value_schema()).await?;
        Ok(Published { table: Arc::clone(table), plan, key_id, value_id, keeps })
    }

    /// Raw subjects follow the source, whatever it does to its columns.
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, PublishError> {
        Ok(self.registry.register_with(subject, schema, Compatibility::None).await?)
    }
}
