//! A department's database and a subscriber's, and the exchange directory between them, on one server.

use std::time::Duration;

use guitong_tests::exchange::{COMPANIES, Exchange, Layout};
use guitong_tests::servers::kafka::Kafka;
use guitong_tests::servers::postgres::{PASSWORD, Postgres};
use guitong_tests::servers::registry::Registry;
use sqlx::postgres::PgPool;

use crate::{Failure, load};

const USER: &str = "guitong";

/// Databases of one exchange.
pub(crate) struct Department {
    name: &'static str,
    pub(crate) source: PgPool,
    pub(crate) sink: PgPool,
}

/// The servers that an exchange on Kafka stands on.
pub(crate) struct Cluster {
    broker: Kafka,
    registry: Registry,
}

impl Cluster {
    pub(crate) async fn start() -> Result<Self, Failure> {
        Ok(Self { broker: load::broker().await?, registry: Registry::start().await? })
    }

    /// The sections of `exchange.toml` that lead here.
    pub(crate) fn sections(&self) -> String {
        format!(
            "[log]\nkind = \"kafka\"\nbrokers = [\"{}\"]\nreplication_factor = 1\n\n[registry]\nurl = \"{}\"\n",
            self.broker.bootstrap(),
            self.registry.url()
        )
    }
}

/// The role that exchanges connect as.
pub(crate) async fn role(server: &Postgres) -> Result<(), Failure> {
    Ok(server.create_role(USER, "REPLICATION").await?)
}

impl Department {
    /// Makes the databases `<name>` and `<name>_subscriber`. `more` is run in the first once the companies' table is there.
    pub(crate) async fn make(server: &Postgres, name: &'static str, more: &'static str) -> Result<Self, Failure> {
        server.create_database(name).await?;
        let subscriber = format!("{name}_subscriber");
        server.create_database(&subscriber).await?;
        let (source, sink) = (server.admin_of(name).await?, server.admin_of(&subscriber).await?);
        sqlx::raw_sql(COMPANIES).execute(&source).await?;
        sqlx::raw_sql(more).execute(&source).await?;
        sqlx::raw_sql("GRANT SELECT ON qy TO guitong; CREATE PUBLICATION companies FOR TABLE qy").execute(&source).await?;
        sqlx::raw_sql("GRANT CREATE ON SCHEMA public TO guitong").execute(&sink).await?;
        Ok(Self { name, source, sink })
    }

    /// Writes an exchange directory whose log is as `log` says.
    pub(crate) fn exchange(&self, server: &Postgres, log: &str) -> Result<Exchange, Failure> {
        let (name, subscriber) = (self.name, format!("{}_subscriber", self.name));
        Ok(Exchange::write(&Layout {
            source: format!(
                "kind = \"postgres\"\nurl = \"{}\"\nslot = \"{name}\"\npublication = \"companies\"\n",
                server.url_of(USER, PASSWORD, name)
            ),
            schema: "public",
            log: log.to_owned(),
            sink: format!(
                "kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.enterprise\"\n",
                server.url_of(USER, PASSWORD, &subscriber)
            ),
        })?)
    }

    /// Waits until the subscriber has as many rows.
    pub(crate) async fn delivered(&self, rows: i64, limit: Duration) -> Result<(), Failure> {
        let what = format!("{rows} rows at the subscriber of {}", self.name);
        load::until(limit, &what, async || {
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM enterprise").fetch_one(&self.sink).await;
            count.is_ok_and(|count| count >= rows).then_some(())
        })
        .await
    }
}
