//! Metrics of the connectors, labelled by system.

use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

/// Metrics of all connectors of a node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    events: IntCounterVec,
    bytes: IntCounterVec,
    lossy: IntCounterVec,
    too_large: IntCounterVec,
    outbox_errors: IntCounterVec,
    errors: IntCounterVec,
    lag_seconds: GaugeVec,
    lag_bytes: GaugeVec,
    retained_bytes: GaugeVec,
    batch_seconds: HistogramVec,
    busy_seconds: CounterVec,
    postgres: crate::postgres::Metrics,
}

impl Metrics {
    /// # Errors
    /// [`prometheus::Error`] where `registry` has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let system = &["system"];
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<GaugeVec, prometheus::Error> {
            let gauge = GaugeVec::new(Opts::new(name, help), system)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let batch_seconds = HistogramVec::new(
            HistogramOpts::new("guitong_connect_batch_seconds", "Time from a batch being read to its commit in the log")
                .buckets(buckets),
            system,
        )?;
        registry.register(Box::new(batch_seconds.clone()))?;
        let busy_seconds = CounterVec::new(
            Opts::new("guitong_connect_publish_seconds_total", "Time spent encoding and committing batches"),
            system,
        )?;
        registry.register(Box::new(busy_seconds.clone()))?;
        Ok(Self {
            events: counter("guitong_connect_events_total", "Changes published", system)?,
            bytes: counter("guitong_connect_bytes_total", "Encoded bytes published", system)?,
            lossy: counter("guitong_connect_lossy_total", "Changes with a value that the Avro type could not hold", system)?,
            too_large: counter("guitong_connect_too_large_total", "Changes with a value over the record limit", system)?,
            outbox_errors: counter(
                "guitong_connect_outbox_errors_total",
                "Messages declared as outbox events that do not read as ones",
                system,
            )?,
            errors: counter(
                "guitong_connect_errors_total",
                "Failures of a connector, by whether it tries again",
                &["system", "kind"],
            )?,
            lag_seconds: gauge(
                "guitong_connect_lag_seconds",
                "Age of the newest published change when it was published, 0 when caught up",
            )?,
            lag_bytes: gauge("guitong_connect_lag_bytes", "Bytes of the source's log that were not read yet")?,
            retained_bytes: gauge(
                "guitong_connect_retained_bytes",
                "Bytes of log that the department's server keeps for this connector",
            )?,
            batch_seconds,
            busy_seconds,
            postgres: crate::postgres::Metrics::register(registry)?,
        })
    }

    /// Those that only PostgreSQL sources have.
    #[must_use]
    pub fn postgres(&self) -> &crate::postgres::Metrics {
        &self.postgres
    }

    /// Metrics of one system.
    #[must_use]
    pub fn of(&self, system: &str) -> SystemMetrics {
        let label = &[system];
        SystemMetrics {
            events: self.events.with_label_values(label),
            bytes: self.bytes.with_label_values(label),
            lossy: self.lossy.with_label_values(label),
            too_large: self.too_large.with_label_values(label),
            outbox_errors: self.outbox_errors.with_label_values(label),
            retried: self.errors.with_label_values(&[system, "retried"]),
            stopped: self.errors.with_label_values(&[system, "stopped"]),
            lag_seconds: self.lag_seconds.with_label_values(label),
            lag_bytes: self.lag_bytes.with_label_values(label),
            retained_bytes: self.retained_bytes.with_label_values(label),
            batch_seconds: self.batch_seconds.with_label_values(label),
            busy_seconds: self.busy_seconds.with_label_values(label),
        }
    }
}

#[derive(Debug, Clone)]
pub struct SystemMetrics {
    pub(crate) events: IntCounter,
    pub(crate) bytes: IntCounter,
    pub(crate) lossy: IntCounter,
    pub(crate) too_large: IntCounter,
    pub(crate) outbox_errors: IntCounter,
    pub(crate) retried: IntCounter,
    pub(crate) stopped: IntCounter,
    pub(crate) lag_seconds: Gauge,
    pub(crate) lag_bytes: Gauge,
    pub(crate) retained_bytes: Gauge,
    pub(crate) batch_seconds: Histogram,
    pub(crate) busy_seconds: Counter,
}
