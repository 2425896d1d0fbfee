//! Binding the mapping to the writers' schemas of a batch, and what comes of a table that has changed.

use std::sync::Arc;

use guitong_log::registry::RegistryError;
use guitong_log::{Batch, ExchangeLog, OwnedLog, Span, TopicPartition};
use guitong_schemas::avro::{DecodePlan, frame};

use super::arrival::{Arrival, Body};
use super::worker::Worker;
use crate::drift::{Handling, Look};
use crate::error::SessionError;
use crate::mapping::Bound;

/// Records at a topic's end that are looked at first for its newest event.
const TAIL: u64 = 16;
/// Bytes of one read.
const READ: usize = 1 << 20;
/// The resource's own table among those that the mapping reads; those of its joins come after it.
pub(crate) const OWN: usize = 0;

/// What a writer's schema came to.
#[derive(Debug)]
pub(crate) enum Binding {
    Ready(Arc<Bound>),
    /// No change event, or unknown to the registry: events by it are quarantined.
    Unusable,
}

/// How far arrivals can be read.
#[derive(Debug)]
pub(super) enum Fit {
    /// So many of them, at least one.
    Next(usize),
    /// The first has not what the mapping needs.
    Unfit(Unfit),
}

/// Why nothing more of a table may be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub(crate) reason: String,
    /// Its raw topic, and the schema of the newest event there when this was found.
    pub(crate) table: TopicPartition,
    pub(crate) newest: Option<u32>,
}

impl Worker {
    /// Binds the first arrival's schema where it is new; gives how many arrivals are of schemas that are bound. `live`: they
    /// come from the raw topic in its order, so they tell how the table is now; others do where they are as its newest event is.
    pub(super) async fn bind(&mut self, owner: &mut dyn OwnedLog, arrivals: &[Arrival], live: bool) -> Result<Fit, SessionError> {
        for (index, arrival) in arrivals.iter().enumerate() {
            let Body::Framed { schema } = arrival.body else { continue };
            let is_bound = if arrival.is_beside {
                self.is_bound_beside(&arrival.record.at.topic, schema)
            } else {
                self.bindings.contains_key(&schema)
            };
            if is_bound {
                continue;
            }
            if index > 0 {
                return Ok(Fit::Next(index));
            }
            if arrival.is_beside {
                match self.bind_beside(arrival, schema, live).await? {
                    Some(unfit) => return self.unfit(owner, unfit).await,
                    None => continue,
                }
            }
            let Some(bound) = self.read_schema(OWN, schema).await? else {
                self.bindings.insert(schema, Binding::Unusable);
                continue;
            };
            match self.judge(OWN, bound, arrival, schema, live).await? {
                Ok(bound) => {
                    // What was bound before was judged by what was known before.
                    self.bindings.retain(|_, binding| matches!(binding, Binding::Unusable));
                    self.bindings.insert(schema, Binding::Ready(Arc::new(bound)));
                }
                Err(unfit) => return self.unfit(owner, unfit).await,
            }
        }
        Ok(Fit::Next(arrivals.len()))
    }

    /// Remembers what is not as it was, so that it is told of after a restart too.
    async fn unfit(&mut self, owner: &mut dyn OwnedLog, unfit: Unfit) -> Result<Fit, SessionError> {
        let state: Vec<_> = self.drift.take_change().into_iter().collect();
        if !state.is_empty() {
            owner.append(Batch { state, ..Batch::default() }).await?;
        }
        Ok(Fit::Unfit(unfit))
    }

    /// Binds the schema of a row that is made again; such bindings are for one page of rows, since they tell nothing of the table.
    pub(crate) async fn bind_again(&mut self, arrival: &Arrival) -> Result<(), SessionError> {
        let Body::Framed { schema } = arrival.body else { return Ok(()) };
        if self.bindings.contains_key(&schema) {
            return Ok(());
        }
        let binding = match self.read_schema(OWN, schema).await? {
            None => Binding::Unusable,
            Some(bound) => match self.judge(OWN, bound, arrival, schema, false).await? {
                Ok(bound) => Binding::Ready(Arc::new(bound)),
                Err(_) => Binding::Unusable,
            },
        };
        self.bindings.insert(schema, binding);
        Ok(())
    }

    /// What the mapping reads of a table's events by one schema; `None` where they cannot be read at all.
    pub(crate) async fn read_schema(&self, table: usize, schema: u32) -> Result<Option<Bound>, SessionError> {
        let why = match self.registry.schema(schema).await {
            Ok(json) => match self.mapping.bind(table, &json) {
                Ok(bound) => return Ok(Some(bound)),
                Err(error) => error.to_string(),
            },
            Err(error @ RegistryError::NoSchema { .. }) => error.to_string(),
            // Whatever else it answers says nothing about the event.
            Err(error) => return Err(SessionError::Transient(error.to_string())),
        };
        tracing::warn!(schema, why, "events by this schema are quarantined");
        Ok(None)
    }

    /// Holds a table's schema against what is known of its columns; gives the reason where nothing more may be read.
    pub(crate) async fn judge(
        &mut self,
        table: usize,
        mut bound: Bound,
        arrival: &Arrival,
        schema: u32,
        live: bool,
    ) -> Result<Result<Bound, Unfit>, SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let Some(view) = mapping.tables.get(table) else { return Ok(Ok(bound)) };
        if self.drift.is_usual(view, &bound) {
            if live {
                self.drift.note_fitted(view, schema);
            }
            return Ok(Ok(bound));
        }
        let newest = self.newest_schema(&arrival.record.at).await?;
        let present = match newest {
            Some(newest) => self.read_schema(table, newest).await?,
            None => None,
        };
        let tells = live || newest == Some(schema);
        let fitted = match self.drift.fitted(view) {
            Some(fitted) => self.registry.schema(fitted).await.ok().and_then(|json| DecodePlan::compile(&json).ok()),
            None => None,
        };
        let committed_us = bound.plan.envelope(arrival.raw().avro).ok().and_then(|envelope| envelope.source_ts_us);
        let look = Look {
            view,
            schema,
            bound: &bound,
            present: present.as_ref(),
            fitted: fitted.as_ref(),
            policy: self.around.resource.on_change,
            version: arrival.version,
            at_us: committed_us.unwrap_or(arrival.record.timestamp_ms.saturating_mul(1_000)),
        };
        let mut drift = self.drift.clone();
        let (deviations, back) = drift.judge(&look);
        if tells {
            self.drift = drift.clone();
            if deviations.is_empty() {
                self.drift.note_fitted(view, schema);
            }
        }
        // A rebuild waits for nothing, and what it meets was told of.
        let live = live && !self.keeps_gone;
        for column in back.iter().filter(|_| live) {
            tracing::info!(resource = %self.around.resource.name, table = view.table, column, "the column is as the mapping reads it again");
        }
        let gravest = deviations.iter().map(|deviation| deviation.handling).max();
        // An entry that is run again stays where it is; the resource pauses for what comes in.
        if live && gravest == Some(Handling::Pause) {
            let grave = deviations.iter().filter(|deviation| deviation.handling == Handling::Pause);
            let reasons: Vec<_> =
                grave.filter_map(|it| Some(drift.change(it, view, &self.around, &mapping.entity)?.to_string())).collect();
            return Ok(Err(Unfit { reason: reasons.join("\n"), table: arrival.record.at.clone(), newest }));
        }
        for news in deviations.iter().filter(|deviation| live && deviation.is_news) {
            if let Some(change) = drift.change(news, view, &self.around, &mapping.entity) {
                tracing::warn!(resource = %self.around.resource.name, "{change}");
            }
        }
        bound.refuses = gravest.is_some_and(|gravest| gravest >= Handling::Refuse);
        // What can be read of a row that is refused is no reason to refuse it.
        let counted = deviations.iter().filter(|it| !bound.refuses || it.handling >= Handling::Refuse);
        bound.affected = counted.flat_map(|it| self.around.affected(&drift, view, it, &mapping.entity)).collect();
        Ok(Ok(bound))
    }

    /// Whether an event's schema has every column that the mapping reads, as far as it can be read at all.
    pub(crate) async fn is_whole(&self, schema: u32) -> Result<bool, SessionError> {
        Ok(self.read_schema(OWN, schema).await?.is_none_or(|bound| bound.is_whole()))
    }

    /// Whether rows by the arrival's schema go to quarantine for what became of a column.
    pub(super) fn is_set_aside(&self, arrival: &Arrival) -> bool {
        let Body::Framed { schema } = arrival.body else { return false };
        if arrival.is_beside {
            return self.is_set_aside_beside(&arrival.record.at.topic, schema);
        }
        matches!(self.bindings.get(&schema), Some(Binding::Ready(bound)) if bound.refuses)
    }

    /// Whether a pause may be over: the newest event's schema is not `then`.
    pub(super) async fn has_changed(&self, raw: &TopicPartition, then: Option<u32>) -> Result<bool, SessionError> {
        Ok(self.newest_schema(raw).await? != then)
    }

    /// The schema of the newest event in a raw topic: how the table is now.
    pub(crate) async fn newest_schema(&self, at: &TopicPartition) -> Result<Option<u32>, SessionError> {
        newest_schema(&*self.log, at).await
    }
}

/// Looks at ever more records from the end on, since tombstones and what compaction left there tell nothing.
async fn newest_schema(log: &dyn ExchangeLog, at: &TopicPartition) -> Result<Option<u32>, SessionError> {
    let bounds = log.bounds(at).await?;
    let (mut until, mut window) = (bounds.end, TAIL);
    while until > bounds.earliest {
        let from = bounds.end.saturating_sub(window).max(bounds.earliest);
        let (mut span, mut found) = (Span::open(log, at.clone(), from, until).await?, None);
        while let Some(records) = span.read(READ).await? {
            let framed = records.iter().filter_map(|record| frame::read(record.value.as_ref()?).ok());
            found = framed.map(|(schema, _)| schema).last().or(found);
        }
        if found.is_some() {
            return Ok(found);
        }
        (until, window) = (from, window.saturating_mul(16));
    }
    Ok(None)
}
