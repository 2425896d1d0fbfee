//! What a log counts about its writing.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

/// Made once for each log; clones count the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Durable commits; each holds the batches that waited for it.
    pub transactions: IntCounter,
    /// Batches by how they ended: `committed`, `refused`, `unknown`.
    pub batches: IntCounterVec,
    pub records: IntCounter,
    /// Bytes of keys, values and headers that were committed.
    pub bytes: IntCounter,
    /// Seconds of one durable commit, from its first statement to the disk's answer.
    pub commit_seconds: Histogram,
}

impl Metrics {
    /// Counters that nobody scrapes yet.
    ///
    /// # Errors
    /// When a name is no metric's name, which none here is.
    pub fn new() -> Result<Self, prometheus::Error> {
        // From half a millisecond to eight seconds.
        let buckets = prometheus::exponential_buckets(0.0005, 2.0, 15)?;
        let seconds =
            HistogramOpts::new("guitong_log_commit_seconds", "Seconds of one durable commit of the log").buckets(buckets);
        Ok(Self {
            transactions: IntCounter::new("guitong_log_transactions_total", "Durable commits of the log")?,
            batches: IntCounterVec::new(
                Opts::new("guitong_log_batches_total", "Batches appended, by how they ended"),
                &["outcome"],
            )?,
            records: IntCounter::new("guitong_log_records_total", "Records committed to the log")?,
            bytes: IntCounter::new("guitong_log_bytes_total", "Bytes of keys, values and headers committed to the log")?,
            commit_seconds: Histogram::with_opts(seconds)?,
        })
    }

    /// Counters in `registry`.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::new()?;
        registry.register(Box::new(metrics.transactions.clone()))?;
        registry.register(Box::new(metrics.batches.clone()))?;
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        Ok(metrics)
    }

    /// Counts how a batch ended.
    pub(crate) fn ended(&self, outcome: Result<(usize, usize), &crate::contract::AppendError>) {
        let word = match outcome {
            Ok((records, bytes)) => {
                self.records.inc_by(records as u64);
                self.bytes.inc_by(bytes as u64);
                "committed"
            }
            Err(crate::contract::AppendError::Refused(_)) => "refused",
            Err(crate::contract::AppendError::Unknown(_)) => "unknown",
        };
        self.batches.with_label_values(&[word]).inc();
    }
}
