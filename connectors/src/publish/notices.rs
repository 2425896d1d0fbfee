//! What a source tells beside changes of rows, as records: logical messages, and where transactions begin and end.

use std::sync::Arc;

use bytes::Bytes;
use guitong_log::registry::{Compatibility, SchemaRegistry};
use guitong_log::{ExchangeLog, Headers, NewRecord, Retention, TopicSpec};
use guitong_schemas::avro::{NoticePlan, Stamp, TableContext};
use guitong_schemas::change::Notice;

use super::draft::RECORD_OVERHEAD;
use super::{PublishError, PublishSettings};

/// The topics of a system's notices, made when first needed.
#[derive(Debug)]
pub(super) struct Notices {
    log: Arc<dyn ExchangeLog>,
    registry: Arc<dyn SchemaRegistry>,
    plan: NoticePlan,
    /// Topics that are ready, with the ids of their keys' and values' schemas.
    ready: Vec<(Arc<str>, (u32, u32))>,
}

impl Notices {
    pub(super) fn new(log: Arc<dyn ExchangeLog>, registry: Arc<dyn SchemaRegistry>, settings: &PublishSettings) -> Self {
        let prefix = settings.form.prefix(&settings.system);
        let context = TableContext {
            prefix: &prefix,
            name: settings.form.logical_name(&settings.system),
            database: &settings.database,
            kind: settings.kind,
            form: &settings.form,
        };
        Self { log, registry, plan: NoticePlan::compile(&context), ready: Vec::new() }
    }

    /// The records of `notices`, in their order.
    pub(super) async fn records(
        &mut self,
        notices: &[Notice],
        now_us: i64,
        settings: &PublishSettings,
    ) -> Result<Vec<NewRecord>, PublishError> {
        let mut records = Vec::with_capacity(notices.len());
        for notice in notices {
            let (topic, (key_id, value_id)) = self.topic(notice, settings).await?;
            let stamp = Stamp { schema_id: value_id, processed_us: now_us };
            let (mut key, mut value) = (Vec::new(), Vec::new());
            self.plan.key(notice, key_id, &mut key);
            self.plan.value(notice, true, stamp, &mut value);
            let too_large = key.len() + value.len() + RECORD_OVERHEAD > settings.max_record;
            let mut headers = Headers::new();
            if let Notice::Message { prefix, version, .. } = notice {
                headers.push(("guitong-version".into(), Bytes::from(version.to_string())));
                if too_large {
                    tracing::warn!(system = %settings.system, prefix, %version, "a message over the limit was left out");
                    value.clear();
                    self.plan.value(notice, false, stamp, &mut value);
                    headers.push(("guitong-too-large".into(), Bytes::from_static(b"content")));
                }
            }
            let (key, value) = (Bytes::from(key), Bytes::from(value));
            records.push(NewRecord {
                topic,
                partition: Some(0),
                key: Some(key),
                value: Some(value),
                headers,
                timestamp_ms: now_us.div_euclid(1000),
            });
        }
        Ok(records)
    }

    async fn topic(&mut self, notice: &Notice, settings: &PublishSettings) -> Result<(Arc<str>, (u32, u32)), PublishError> {
        let topic = self.plan.topic(notice);
        if let Some((name, ids)) = self.ready.iter().find(|(name, _)| *name == topic.name) {
            return Ok((Arc::clone(name), *ids));
        }
        let retention = Retention::Expire { age: Some(settings.trace), bytes: None };
        self.log.ensure_topic(&TopicSpec { name: Arc::clone(&topic.name), partitions: 1, retention }).await?;
        let register = async |part: &str, schema: &Option<String>| match schema {
            Some(schema) => self.registry.register_with(&format!("{}-{part}", topic.name), schema, Compatibility::None).await,
            // JSON has no schema, and so no id.
            None => Ok(0),
        };
        let ids = (register("key", &topic.key_schema).await?, register("value", &topic.value_schema).await?);
        self.ready.push((Arc::clone(&topic.name), ids));
        Ok((Arc::clone(&topic.name), ids))
    }
}
