//! What delivery counts and measures.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::shared::Counted;
use crate::sink::SinkErrorKind;

/// Seconds from the commit at the source to the row at the subscriber: from well under the budget's median to an outage.
const LATENCY: &[f64] = &[0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.12, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0];
const BATCH: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// Made once; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    events: IntCounterVec,
    bytes: IntCounterVec,
    read: IntCounterVec,
    errors: IntCounterVec,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    latency: HistogramVec,
    batch: HistogramVec,
    parked: IntGaugeVec,
    parked_oldest: GaugeVec,
}

impl Metrics {
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str, help: &str| Opts::new(format!("guitong_deliver_{name}"), help);
        let subscription = &["subscription"];
        let latency = HistogramOpts::from(name("latency_seconds", "From the commit at the source to the row at the subscriber."));
        let batch = HistogramOpts::from(name("batch_records", "Records in one batch to a sink."));
        let metrics = Self {
            events: IntCounterVec::new(
                name(
                    "events_total",
                    "Records by what became of them: upsert, delete, unchanged (not delivered), parked, superseded (parked until a \
                     later change of the row came), unjudged.",
                ),
                &["subscription", "what"],
            )?,
            bytes: IntCounterVec::new(name("bytes_total", "Bytes of standard records read for a subscription."), subscription)?,
            read: IntCounterVec::new(
                name(
                    "read_records_total",
                    "Records by where they came from: log (read by this subscription, for others, too), shared (read by another one).",
                ),
                &["subscription", "from"],
            )?,
            errors: IntCounterVec::new(name("errors_total", "Failed attempts by kind."), &["subscription", "kind"])?,
            lag_records: IntGaugeVec::new(
                name("lag_records", "Records between the sink's offset and the log's end."),
                subscription,
            )?,
            lag_seconds: GaugeVec::new(
                name("lag_seconds", "Age of the newest delivered change while there are more; 0 when there are none."),
                subscription,
            )?,
            latency: HistogramVec::new(latency.buckets(LATENCY.to_vec()), subscription)?,
            batch: HistogramVec::new(batch.buckets(BATCH.to_vec()), subscription)?,
            parked: IntGaugeVec::new(name("parked_records", "Records set aside."), subscription)?,
            parked_oldest: GaugeVec::new(
                name("parked_oldest_seconds", "Since when the oldest of the records set aside is so; 0 where there is none."),
                subscription,
            )?,
        };
        registry.register(Box::new(metrics.events.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.read.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.lag_records.clone()))?;
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.batch.clone()))?;
        registry.register(Box::new(metrics.parked.clone()))?;
        registry.register(Box::new(metrics.parked_oldest.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn of(&self, subscription: &str) -> SubscriptionMetrics {
        let events = |what: &str| self.events.with_label_values(&[subscription, what]);
        let read = |from: &str| self.read.with_label_values(&[subscription, from]);
        SubscriptionMetrics {
            upserts: events("upsert"),
            deletes: events("delete"),
            parked: events("parked"),
            superseded: events("superseded"),
            aside: self.parked.with_label_values(&[subscription]),
            aside_oldest: self.parked_oldest.with_label_values(&[subscription]),
            unchanged: events("unchanged"),
            unjudged: events("unjudged"),
            bytes: self.bytes.with_label_values(&[subscription]),
            read: Counted { log: read("log"), shared: read("shared") },
            errors: self.errors.clone(),
            lag_records: self.lag_records.with_label_values(&[subscription]),
            lag_seconds: self.lag_seconds.with_label_values(&[subscription]),
            latency: self.latency.with_label_values(&[subscription]),
            batch: self.batch.with_label_values(&[subscription]),
            subscription: subscription.to_owned(),
        }
    }
}

/// The metrics of one subscription.
#[derive(Debug)]
pub(crate) struct SubscriptionMetrics {
    pub(crate) upserts: IntCounter,
    pub(crate) deletes: IntCounter,
    pub(crate) parked: IntCounter,
    pub(crate) superseded: IntCounter,
    pub(crate) aside: IntGauge,
    pub(crate) aside_oldest: Gauge,
    pub(crate) unchanged: IntCounter,
    pub(crate) unjudged: IntCounter,
    pub(crate) bytes: IntCounter,
    pub(crate) read: Counted,
    errors: IntCounterVec,
    pub(crate) lag_records: IntGauge,
    pub(crate) lag_seconds: Gauge,
    pub(crate) latency: Histogram,
    pub(crate) batch: Histogram,
    subscription: String,
}

impl SubscriptionMetrics {
    pub(crate) fn sink_error(&self, kind: SinkErrorKind) {
        self.errors.with_label_values(&[self.subscription.as_str(), kind.as_str()]).inc();
    }

    pub(crate) fn log_error(&self) {
        self.errors.with_label_values(&[self.subscription.as_str(), "log"]).inc();
    }
}
