//! A thousand subscriptions on ten PostgreSQL databases, through the released binary on the embedded log: what the process takes, how
//! many connections it holds, and the time from commit at the source to commit at the subscriber, with all ten databases answering and
//! with one of them silent, in turns.
//!
//! Source and subscribers are databases of one server, which keeps the time of each commit: one clock, and nothing is asked while it
//! runs. The silent database is behind a proxy that keeps its connections open and lets nothing through.

use std::collections::HashMap;
use std::time::Duration;

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, RESOURCE, credit_code};
use guitong_tests::servers::postgres::{Options, PASSWORD, Postgres};
use guitong_tests::servers::proxy::{Mode, Proxy};
use sqlx::{AssertSqlSafe, Executor as _, PgPool};

use crate::load::until;
use crate::rounds::{Verdict, grouped, median};
use crate::{Failure, Outcome, department, machine};

const SINKS: usize = 10;
const RESOURCES: usize = 10;
/// Of each resource on each sink.
const EACH: usize = 10;
const SUBSCRIPTIONS: usize = SINKS * RESOURCES * EACH;
/// Changes of one run, each of the next resource, and so delivered to a tenth of the subscriptions.
const CHANGES: u32 = 100;
const PACE: Duration = Duration::from_millis(200);
const SOURCE: &str = "registry";
/// A first start on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
const MEMORY_BAR_MIB: f64 = 100.0;
/// By how much a silent sink may worsen the others' p99.
const CHANGE_BAR: f64 = 0.25;

struct Office {
    server: Postgres,
    source: PgPool,
    sinks: Vec<PgPool>,
    /// Before the last sink.
    proxy: Proxy,
    exchange: Exchange,
    next: u32,
}

pub(crate) async fn run(runs: usize) -> Outcome {
    let mut office = Office::new().await?;
    let node = office.exchange.start()?;
    office.change(RESOURCES as u32, Duration::ZERO).await?;
    office.delivered(1, SINKS).await?;
    println!("{SUBSCRIPTIONS} subscriptions on {SINKS} databases have their first row");
    // The first does not count: statements are prepared, connections opened.
    office.measure().await?;
    let (mut well, mut ill) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (mode, times) in [(Mode::Pass, &mut well), (Mode::Hold, &mut ill)] {
            office.proxy.set(mode);
            times.push(office.measure().await?);
            office.proxy.set(Mode::Pass);
            office.delivered(office.next as usize / RESOURCES, SINKS).await?;
        }
    }
    let connections = office.connections().await?;
    let memory = ["VmHWM", "VmRSS"].map(|line| machine::memory_mib(node.pid(), line));
    node.terminate()?;
    report(&mut well, &mut ill);
    let met = |met: bool| if met { "met" } else { "NOT met" };
    println!(
        "  memory: peak {:.0} MiB, resident {:.0} MiB; bar {MEMORY_BAR_MIB:.0}: {}",
        memory[0],
        memory[1],
        met(memory[0] < MEMORY_BAR_MIB)
    );
    println!("  connections: at most {connections} to each database");
    Ok(Verdict::Valid)
}

/// Median and 99th percentile of one run in milliseconds.
type Times = (f64, f64);

fn report(well: &mut [Times], ill: &mut [Times]) {
    let of = |times: &[Times], part: fn(&Times) -> f64| median(&mut times.iter().map(part).collect::<Vec<_>>());
    println!(
        "commit to commit, {} deliveries a run ({} alternating runs, medians)",
        grouped(f64::from(CHANGES) * 90.0),
        well.len()
    );
    for (what, times) in [("all sinks answer", &*well), ("one is silent, the other nine", &*ill)] {
        println!("  {what:<30} p50 {:.1} ms, p99 {:.1} ms", of(times, |times| times.0), of(times, |times| times.1));
    }
    let change = of(ill, |times| times.1) / of(well, |times| times.1) - 1.0;
    let met = if change < CHANGE_BAR { "met" } else { "NOT met" };
    println!("  the others' p99 changes by {:+.0} %; bar +{:.0} %: {met}", change * 100.0, CHANGE_BAR * 100.0);
}

impl Office {
    async fn new() -> Result<Self, Failure> {
        let settings = [
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("track_commit_timestamp", "on"),
            ("shared_buffers", "256MB"),
            ("max_connections", "200"),
        ];
        let options = settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value));
        let server = Postgres::start_with(options).await?;
        department::role(&server).await?;
        server.create_database(SOURCE).await?;
        let source = server.admin_of(SOURCE).await?;
        for resource in 0..RESOURCES {
            let sql =
                format!("{}; GRANT SELECT ON qy{resource} TO guitong", COMPANIES.replacen("qy", &format!("qy{resource}"), 1));
            source.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
        }
        source.execute("CREATE PUBLICATION companies FOR ALL TABLES").await?;
        let mut sinks = Vec::new();
        for sink in 0..SINKS {
            server.create_database(&format!("sink{sink}")).await?;
            let pool = server.admin_of(&format!("sink{sink}")).await?;
            pool.execute("GRANT CREATE ON SCHEMA public TO guitong").await?;
            sinks.push(pool);
        }
        let (listener, _) = Proxy::bind().await?;
        let proxy = Proxy::start(listener, server.port())?;
        let exchange = declare(&server, &proxy)?;
        Ok(Self { server, source, sinks, proxy, exchange, next: 0 })
    }

    /// So many more rows at the source, one after the other.
    async fn change(&mut self, changes: u32, pace: Duration) -> Result<(), Failure> {
        let mut pace = tokio::time::interval(pace.max(Duration::from_millis(1)));
        for number in self.next..self.next + changes {
            pace.tick().await;
            let sql = format!("INSERT INTO qy{} VALUES ($1, $2, '南宁甲有限公司', '韦小明')", number as usize % RESOURCES);
            let insert = sqlx::query(AssertSqlSafe(sql)).bind(i64::from(number)).bind(credit_code(number));
            insert.execute(&self.source).await?;
        }
        self.next += changes;
        Ok(())
    }

    /// Waits until each table of the first `sinks` databases has so many rows.
    async fn delivered(&self, rows: usize, sinks: usize) -> Result<(), Failure> {
        let tables =
            tables().map(|table| format!("SELECT count(*) AS rows FROM {table}")).collect::<Vec<_>>().join(" UNION ALL ");
        let least = format!("SELECT min(rows) FROM ({tables}) AS counts");
        for (at, pool) in self.sinks.iter().take(sinks).enumerate() {
            let what = format!("{rows} rows in each table of sink{at}");
            let waited = until(LIMIT, &what, async || {
                // Before the first row there is no table.
                let least = sqlx::query_scalar::<_, i64>(AssertSqlSafe(least.as_str())).fetch_one(pool).await;
                least.is_ok_and(|least| least >= rows as i64).then_some(())
            });
            waited.await?;
        }
        Ok(())
    }

    /// Times of the sinks that always answer.
    async fn measure(&mut self) -> Result<Times, Failure> {
        let first = self.next;
        self.change(CHANGES, PACE).await?;
        self.delivered(self.next as usize / RESOURCES, SINKS - 1).await?;
        let numbers = first..self.next;
        let codes: Vec<String> = numbers.map(credit_code).collect();
        let sent = times(&self.source, (0..RESOURCES).map(|resource| format!("qy{resource}")), "tyshxydm", &codes).await?;
        let sent: HashMap<String, i64> = sent.into_iter().collect();
        let mut took = Vec::new();
        for pool in self.sinks.iter().take(SINKS - 1) {
            for (code, at) in times(pool, tables(), "uscc", &codes).await? {
                took.push((at - sent.get(&code).ok_or("a row that was not sent")?) as f64 / 1e3);
            }
        }
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        Ok((at(0.5), at(0.99)))
    }

    /// The most connections of the node to one database.
    async fn connections(&self) -> Result<i64, Failure> {
        let sql = "SELECT max(connections) FROM (SELECT count(*) AS connections FROM pg_stat_activity
            WHERE datname LIKE 'sink%' AND usename = 'guitong' GROUP BY datname) AS counts";
        let most = sqlx::query_scalar::<_, Option<i64>>(sql).fetch_one(&self.server.admin().await?).await?;
        Ok(most.unwrap_or_default())
    }
}

fn tables() -> impl Iterator<Item = String> {
    (0..RESOURCES).flat_map(|resource| (0..EACH).map(move |each| format!("r{resource}_{each}")))
}

/// When the rows of these codes were committed, microseconds.
async fn times(
    pool: &PgPool,
    tables: impl Iterator<Item = String>,
    code: &str,
    codes: &[String],
) -> Result<Vec<(String, i64)>, Failure> {
    let of = |table: String| {
        format!(
            "SELECT {code}::text, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM {table} WHERE {code} = ANY ($1)"
        )
    };
    let sql = tables.map(of).collect::<Vec<_>>().join(" UNION ALL ");
    Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(codes).fetch_all(pool).await?)
}

/// Writes the exchange directory.
fn declare(server: &Postgres, proxy: &Proxy) -> Result<Exchange, Failure> {
    let url = |sink: usize| {
        let url = server.url_of("guitong", PASSWORD, &format!("sink{sink}"));
        let (own, before) = (format!(":{}/", server.port()), format!(":{}/", proxy.address().port()));
        if sink + 1 == SINKS { url.replace(&own, &before) } else { url }
    };
    let sink = |sink: usize, table: &str| format!("kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.{table}\"\n", url(sink));
    let exchange = Exchange::write(&Layout {
        source: format!(
            "kind = \"postgres\"\nurl = \"{}\"\nslot = \"{SOURCE}\"\npublication = \"companies\"\n",
            server.url_of("guitong", PASSWORD, SOURCE)
        ),
        schema: "public",
        log: String::new(),
        sink: sink(0, "r0_0"),
    })?;
    let root = exchange.path();
    for file in ["resources/enterprise.toml", "subscriptions/credit-enterprise.toml"] {
        std::fs::remove_file(root.join(file))?;
    }
    let system = root.join("systems/licensing.toml");
    let text = std::fs::read_to_string(&system)?.replace("public.qy\"", "public.qy*\"");
    std::fs::write(system, text)?;
    for resource in 0..RESOURCES {
        let code = format!("3450010102/{:06}", resource + 1);
        let text = RESOURCE.replace("3450010102/000001", &code).replace("SCHEMA.qy", &format!("public.qy{resource}"));
        std::fs::write(root.join(format!("resources/r{resource}.toml")), text)?;
        for (number, each) in (0..SINKS).flat_map(|sink| (0..EACH).map(move |each| (sink, each))) {
            let text = format!(
                "subscriber = \"credit\"\nresource = \"{code}\"\npurpose = \"信用主体建档\"\n\
                 fields = [\"uscc\", \"name\", \"legal_rep_name\"]\n\n[sink]\n{}",
                sink(number, &format!("r{resource}_{each}"))
            );
            std::fs::write(root.join(format!("subscriptions/r{resource}-s{number}-{each}.toml")), text)?;
        }
    }
    Ok(exchange)
}
