//! What every [`ExchangeLog`] must do, in one suite for all of them.
//!
//! To plug a log in: implement [`LogUnderTest`] in `tests/tests/log_<name>.rs` and call there
//! ```text
//! guitong_tests::log_conformance!(MyLog, MyLog::fresh().await);
//! ```
//! which makes one `#[tokio::test]` of each check. The expression gives a fixture over an empty log; each check evaluates
//! it once. Checks that kill a process run the test binary again, with [`LogUnderTest::child`] in its environment; the macro's test
//! `child` does there what the check wants. Random checks print their seed; `GUITONG_SEED` replays one. Fixtures of one server
//! keep apart by [`LogUnderTest::topic`] and by the exchange name under which owners live.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "checks run in tests only and fail by panicking")]

mod basics;
mod build;
mod kill;
mod owners;
mod reading;
mod retention;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use guitong_log::ExchangeLog;

pub use self::basics::*;
pub use self::build::{everything, noise};
pub use self::kill::*;
pub use self::owners::*;
pub use self::reading::*;
pub use self::retention::*;
pub use self::state::*;

/// One log of its own, empty at first, that can be closed and opened again.
#[async_trait]
pub trait LogUnderTest: fmt::Debug + Send + Sync {
    /// Opens the log. Called again only after [`LogUnderTest::close`] or when the process that had it is dead.
    async fn open(&self) -> Arc<dyn ExchangeLog>;

    /// Ends what `open` gave, cleanly, so that it can be opened again.
    async fn close(&self);

    /// The name a topic has in this log; servers that several fixtures share need different ones.
    fn topic(&self, name: &str) -> Arc<str>;

    /// Times that a process is killed; fewer where each costs seconds.
    const KILLS: usize = 12;

    /// What another process needs to know to open this log.
    fn child(&self) -> String;

    /// Opens, in another process, the log that [`LogUnderTest::child`] described.
    async fn open_in_child(described: &str) -> Arc<dyn ExchangeLog>
    where
        Self: Sized;

    /// Durable commits that the open log has made so far ([`guitong_log::metrics::Metrics::transactions`]).
    fn transactions(&self) -> u64;

    /// Deletes what is kept beside the log and can be made again from it (local copies of keyed state); called when it is closed.
    async fn forget_local_copies(&self) {}

    /// Age at which tombstones may go, for logs that count it from their own cleaning and not from the record's time.
    fn tombstones(&self) -> Duration {
        Duration::from_secs(86_400)
    }

    /// How long to wait for what the log does by itself after [`ExchangeLog::maintain`].
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

/// One test of each check, for the log that the expression makes.
#[macro_export]
macro_rules! log_conformance {
    ($log:ty, $fixture:expr) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn child() {
            if let Ok(described) = std::env::var($crate::log_conformance::CHILD) {
                let log = <$log as $crate::log_conformance::LogUnderTest>::open_in_child(&described).await;
                $crate::log_conformance::commit_until_killed(log).await;
            }
        }

        $crate::log_conformance!(@tests $fixture;
            a_batch_is_read_as_it_was_appended,
            order_in_a_partition_is_the_order_of_appends,
            offsets_and_position_resume_after_a_restart,
            an_older_holder_is_fenced_and_writes_nothing,
            a_waiting_reader_wakes_on_an_append,
            a_killed_process_leaves_whole_batches,
            a_thousand_owners_share_the_disk_syncs,
            an_append_without_an_answer_is_neither_lost_nor_doubled,
            random_interleavings_keep_every_promise,
            reading_begins_at_the_earliest_the_latest_or_a_time,
            byte_budgets_hold,
            offsets_that_the_log_does_not_hold_are_a_gap,
            a_record_of_16_mib_passes_and_a_larger_one_is_refused,
            keys_land_where_java_puts_them,
            readers_never_see_an_uncommitted_record,
            keyed_state_is_that_of_the_committed_batches,
            state_is_there_with_the_answer_to_its_commit,
            records_leave_by_age,
            records_leave_by_bytes,
            compaction_keeps_the_last_value_of_each_key,
            deletes_that_may_be_gone_are_told_of,
        );
    };
    (@tests $fixture:expr; $($check:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let fixture = $fixture;
                $crate::log_conformance::$check(&fixture).await;
            }
        )*
    };
}
