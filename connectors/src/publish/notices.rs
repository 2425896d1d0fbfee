//! What a source tells beside changes of rows, as records: logical messages, the outbox events among them, and where transactions
//! begin and end.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::registry::{Compatibility, SchemaRegistry};
use guitong_log::{ExchangeLog, Headers, NewRecord, Retention, TopicSpec};
use guitong_schemas::avro::{NoticePlan, Stamp, TableContext, event_topic};
use guitong_schemas::change::Notice;
use guitong_schemas::position::Version;

use super::draft::RECORD_OVERHEAD;
use super::outbox::{Event, MOST_TOPICS, NoEvent};
use super::{PublishError, PublishSettings, Totals};

/// The topics of a system's notices, made when first needed.
#[derive(Debug)]
pub(super) struct Notices {
    log: Arc<dyn ExchangeLog>,
    registry: Arc<dyn SchemaRegistry>,
    plan: NoticePlan,
    /// What the system's topics begin with.
    prefix: String,
    /// Topics that are ready, with the ids of their keys' and values' schemas.
    ready: Vec<(Arc<str>, (u32, u32))>,
    /// Topics of outbox events that are ready.
    outbox: HashSet<Arc<str>>,
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
        let plan = NoticePlan::compile(&context);
        Self { log, registry, plan, prefix, ready: Vec::new(), outbox: HashSet::new() }
    }

    /// The records of `notices`, in their order.
    pub(super) async fn records(
        &mut self,
        notices: &[Notice],
        now_us: i64,
        settings: &PublishSettings,
        totals: &mut Totals,
    ) -> Result<Vec<NewRecord>, PublishError> {
        let mut records = Vec::with_capacity(notices.len());
        for notice in notices {
            let problem = match self.outbox_event(notice, now_us, settings).await? {
                Some(Ok(event)) => {
                    records.push(event);
                    continue;
                }
                Some(Err(problem)) => Some(problem),
                None => None,
            };
            totals.outbox_errors += u64::from(problem.is_some());
            records.push(self.record(notice, problem, now_us, settings).await?);
        }
        Ok(records)
    }

    /// A notice as it is. `problem`: why it is not the outbox event that it should be.
    async fn record(
        &mut self,
        notice: &Notice,
        problem: Option<NoEvent>,
        now_us: i64,
        settings: &PublishSettings,
    ) -> Result<NewRecord, PublishError> {
        let (topic, (key_id, value_id)) = self.topic(notice, settings).await?;
        let stamp = Stamp { schema_id: value_id, processed_us: now_us };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        self.plan.key(notice, key_id, &mut key);
        self.plan.value(notice, true, stamp, &mut value);
        let too_large = key.len() + value.len() + RECORD_OVERHEAD > settings.max_record;
        let mut headers = Headers::new();
        if let Notice::Message { prefix, version, .. } = notice {
            headers.push(("guitong-version".into(), Bytes::from(version.to_string())));
            if let Some(problem) = problem {
                tracing::warn!(system = %settings.system, prefix, %version, %problem, "a message does not read as an outbox event");
                headers.push(("guitong-outbox-error".into(), Bytes::from(problem.to_string())));
            }
            if too_large {
                tracing::warn!(system = %settings.system, prefix, %version, "a message over the limit was left out");
                value.clear();
                self.plan.value(notice, false, stamp, &mut value);
                headers.push(("guitong-too-large".into(), Bytes::from_static(b"content")));
            }
        }
        Ok(new_record(topic, Some(Bytes::from(key)), Some(Bytes::from(value)), headers, now_us))
    }

    /// The record of a message that is declared an outbox event, or why it is none; `None` for other notices.
    async fn outbox_event(
        &mut self,
        notice: &Notice,
        now_us: i64,
        settings: &PublishSettings,
    ) -> Result<Option<Result<NewRecord, NoEvent>>, PublishError> {
        let Notice::Message { prefix, content, version, .. } = notice else { return Ok(None) };
        if !settings.form.outbox.as_ref().is_some_and(|outbox| outbox.takes(prefix)) {
            return Ok(None);
        }
        let record = match self.routed(content, version, now_us, settings.max_record) {
            Ok(record) => record,
            Err(problem) => return Ok(Some(Err(problem))),
        };
        if !self.outbox.contains(&record.topic) {
            if self.outbox.len() >= MOST_TOPICS {
                return Ok(Some(Err(NoEvent::ManyTopics)));
            }
            self.ensure(&record.topic, settings).await?;
            self.outbox.insert(Arc::clone(&record.topic));
        }
        Ok(Some(Ok(record)))
    }

    /// The record that a message's content asks for.
    fn routed(&self, content: &[u8], version: &Version, now_us: i64, max_record: usize) -> Result<NewRecord, NoEvent> {
        let Event { kind, key, value, mut headers } = Event::read(content)?;
        let topic = event_topic(&self.prefix, &kind).ok_or(NoEvent::LongTopic)?;
        headers.push(("guitong-version".into(), Bytes::from(version.to_string())));
        let record = new_record(topic.into(), Some(key), value, headers, now_us);
        match record.size() + RECORD_OVERHEAD {
            size if size > max_record => Err(NoEvent::TooLarge { size, limit: max_record }),
            _ => Ok(record),
        }
    }

    async fn topic(&mut self, notice: &Notice, settings: &PublishSettings) -> Result<(Arc<str>, (u32, u32)), PublishError> {
        let topic = self.plan.topic(notice);
        if let Some((name, ids)) = self.ready.iter().find(|(name, _)| *name == topic.name) {
            return Ok((Arc::clone(name), *ids));
        }
        self.ensure(&topic.name, settings).await?;
        let register = async |part: &str, schema: &Option<String>| match schema {
            Some(schema) => self.registry.register_with(&format!("{}-{part}", topic.name), schema, Compatibility::None).await,
            // JSON has no schema, and so no id.
            None => Ok(0),
        };
        let ids = (register("key", &topic.key_schema).await?, register("value", &topic.value_schema).await?);
        self.ready.push((Arc::clone(&topic.name), ids));
        Ok((Arc::clone(&topic.name), ids))
    }

    async fn ensure(&self, topic: &Arc<str>, settings: &PublishSettings) -> Result<(), PublishError> {
        let retention = Retention::Expire { age: Some(settings.trace), bytes: None };
        Ok(self.log.ensure_topic(&TopicSpec { name: Arc::clone(topic), partitions: 1, retention }).await?)
    }
}

fn new_record(topic: Arc<str>, key: Option<Bytes>, value: Option<Bytes>, headers: Headers, now_us: i64) -> NewRecord {
    NewRecord { topic, partition: Some(0), key, value, headers, timestamp_ms: now_us.div_euclid(1000) }
}
