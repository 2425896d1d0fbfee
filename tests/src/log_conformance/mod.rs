//! What every [`ExchangeLog`] must do, in one suite for all of them.
//!
//! To plug a log in: implement [`LogUnderTest`] in `tests/tests/log_<name>.rs` and call there
//! ```ignore
//! guitong_tests::log_conformance!(MyLog::fresh().await);
//! ```
//! which makes one `#[tokio::test]` of each check. The expression gives a fixture over an empty log; each check evaluates
//! it once. Fixtures of one server keep apart by [`LogUnderTest::topic`] and by the exchange name under which owners live.

mod basics;
mod build;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use guitong_log::ExchangeLog;

pub use self::basics::*;

/// One log of its own, empty at first, that can be closed and opened again.
#[async_trait]
pub trait LogUnderTest: fmt::Debug + Send + Sync {
    /// Opens the log. Called again only after [`LogUnderTest::close`] or when the process that had it is dead.
    async fn open(&self) -> Arc<dyn ExchangeLog>;

    /// Ends what `open` gave, cleanly, so that it can be opened again.
    async fn close(&self);

    /// The name a topic has in this log; servers that several fixtures share need different ones.
    fn topic(&self, name: &str) -> Arc<str>;
}

/// One test of each check, for the log that the expression makes.
#[macro_export]
macro_rules! log_conformance {
    ($fixture:expr) => {
        $crate::log_conformance!(@tests $fixture;
            a_batch_is_read_as_it_was_appended,
            order_in_a_partition_is_the_order_of_appends,
            offsets_and_position_resume_after_a_restart,
            an_older_holder_is_fenced_and_writes_nothing,
            a_waiting_reader_wakes_on_an_append,
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
