//! A department's server, as the node's role sees it.

use std::time::{Duration, Instant};

use guitong_schemas::position::Lsn;
use guitong_tests::servers::postgres::{Options, PASSWORD, Postgres};
use sqlx::postgres::PgPool;

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Department {
    pub(crate) server: Postgres,
    pub(crate) pool: PgPool,
}

impl Department {
    /// With tables that these statements make, readable by the node's role.
    pub(crate) async fn with(tables: &str) -> Self {
        // Transactions of more than a few rows are sent before their commit.
        let server = Postgres::start_with(Options::default().set("logical_decoding_work_mem", "64kB")).await.unwrap();
        server.create_role("guitong", "REPLICATION").await.unwrap();
        server.execute(tables).await.unwrap();
        let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guitong; CREATE PUBLICATION test_licensing FOR ALL TABLES";
        server.execute(grant).await.unwrap();
        let pool = server.admin().await.unwrap();
        Self { server, pool }
    }

    /// Lines of the system's file, for a node that comes in at this port.
    pub(crate) fn system(&self, port: u16) -> String {
        let url = self.server.url_of("guitong", PASSWORD, "postgres");
        let url = url.replace(&format!(":{}/", self.server.port()), &format!(":{port}/"));
        format!("kind = \"postgres\"\nurl = \"{url}\"\n")
    }

    async fn lsn(&self, sql: &'static str) -> Option<Lsn> {
        let lsn: Option<Option<String>> = sqlx::query_scalar(sql).fetch_optional(&self.pool).await.unwrap();
        lsn.flatten().map(|lsn| lsn.parse().unwrap())
    }

    /// Where the server's log ends now.
    pub(crate) async fn end(&self) -> Lsn {
        self.lsn("SELECT pg_current_wal_lsn()::text").await.unwrap()
    }

    /// Up to where the server may forget.
    pub(crate) async fn confirmed(&self) -> Option<Lsn> {
        self.lsn("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'test_licensing'").await
    }

    /// Up to where the server has sent changes to whom it sends them now.
    pub(crate) async fn sent(&self) -> Option<Lsn> {
        self.lsn("SELECT sent_lsn::text FROM pg_stat_replication").await
    }

    /// Waits until everything that was committed so far is durable at the node.
    pub(crate) async fn is_confirmed(&self) {
        let (end, deadline) = (self.end().await, Instant::now() + PATIENCE);
        while self.confirmed().await < Some(end) {
            assert!(Instant::now() < deadline, "the slot stands at {:?} before {end}", self.confirmed().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
