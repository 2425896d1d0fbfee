//! What a subscriber pulls through the binary, over one connection on loopback: every change from the first in pages, and single
//! records by their keys. There is no reference: the bars are absolute.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, credit_code};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::load::until;
use crate::rounds::{Verdict, grouped, median};
use crate::{Failure, Outcome, machine};

const NAME: &str = "credit-enterprise";
const ROWS: u32 = 200_000;
/// Records asked for one by one in a run.
const RECORDS: u32 = 5_000;
/// Changes a second.
const EVENTS_BAR: f64 = 100_000.0;
/// Of one record, 99th percentile.
const RECORD_BAR: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) async fn run(runs: usize) -> Outcome {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"pull\"\n".to_owned(),
    })?;
    fill(&exchange).await?;
    let node = exchange.start()?;
    let begun = Instant::now();
    exchange.get("/readyz", LIMIT).await?;
    until(LIMIT, "every row in the outbox", async || {
        let status = exchange.status(LIMIT).await.ok()?;
        let subscription = status["subscriptions"].get(0)?;
        let whole = subscription["delivered"].as_u64() >= Some(ROWS.into()) && subscription["state"] == "live";
        whole.then_some(())
    })
    .await?;
    println!("{} rows in the outbox after {:.1} s", grouped(f64::from(ROWS)), begun.elapsed().as_secs_f64());
    let issued = exchange.command(&["subscription", "token", NAME])?;
    let pull = Pull { http: reqwest::Client::new(), url: exchange.url(&format!("/v1/subscriptions/{NAME}")), token: issued.out };

    let (mut rates, mut middles, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..runs {
        rates.push(pull.everything().await?);
        let (p50, p99) = pull.records(&mut random).await?;
        middles.push(p50);
        tails.push(p99);
    }
    let (rate, p50, p99) = (median(&mut rates), median(&mut middles), median(&mut tails));
    let met = |met: bool| if met { "met" } else { "NOT met" };
    let ends = |values: &[f64]| (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
    let (least, most) = ends(&rates);
    println!(
        "  changes in pages ({runs} runs, medians) {}/s ({} to {}); bar {}/s: {}",
        grouped(rate),
        grouped(least),
        grouped(most),
        grouped(EVENTS_BAR),
        met(rate >= EVENTS_BAR)
    );
    let (least, most) = ends(&tails);
    println!(
        "  one record p50 {p50:.2} ms, p99 {p99:.2} ms ({least:.2} to {most:.2}); bar p99 {} ms: {}",
        RECORD_BAR.as_millis(),
        met(p99 < RECORD_BAR.as_secs_f64() * 1e3)
    );
    println!("  peak {:.0} MiB", machine::memory_mib(node.pid(), "VmHWM"));
    node.terminate()?;
    Ok(Verdict::Valid)
}

/// A department with all its companies, prepared for the connector.
async fn fill(exchange: &Exchange) -> Result<(), Failure> {
    let file = exchange.path().join("department.db");
    let mut department = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true).connect().await?;
    let mut sql = format!("PRAGMA journal_mode = WAL; {COMPANIES}; BEGIN;");
    for number in 0..ROWS {
        let code = credit_code(number);
        write!(sql, "INSERT INTO qy VALUES ({number}, '{code}', '南宁测试商贸{number}号有限公司', '韦小明');")?;
    }
    sql.push_str("COMMIT;");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut department).await?;
    department.close().await?;
    let prepared = exchange.command(&["system", "prepare", "licensing", "--apply"])?;
    if prepared.code == Some(0) { Ok(()) } else { Err(prepared.err.into()) }
}

struct Pull {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Pull {
    fn get(&self, rest: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}/{rest}", self.url)).bearer_auth(self.token.trim())
    }

    /// Changes a second from the first to the last.
    async fn everything(&self) -> Result<f64, Failure> {
        let (begun, mut count, mut after) = (Instant::now(), 0_u32, String::new());
        loop {
            let request = self.get(&format!("events?limit=10000{after}")).header("accept", "application/x-ndjson");
            let response = request.send().await?.error_for_status()?;
            let next = response.headers().get("guitong-next").ok_or("no cursor")?.to_str()?.to_owned();
            let lines = response.bytes().await?.iter().filter(|byte| **byte == b'\n').count();
            if lines == 0 {
                break;
            }
            count += u32::try_from(lines)?;
            after = format!("&after={next}");
        }
        if count < ROWS {
            return Err(format!("{count} changes, not {ROWS}").into());
        }
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    }

    /// Median and 99th percentile in milliseconds, one request after the other. Paced below what a subscription may ask.
    async fn records(&self, random: &mut StdRng) -> Result<(f64, f64), Failure> {
        let mut pace = tokio::time::interval(Duration::from_micros(2_500));
        let mut times = Vec::with_capacity(RECORDS as usize);
        for _ in 0..RECORDS {
            pace.tick().await;
            let code = credit_code(random.random_range(0..ROWS));
            let begun = Instant::now();
            let body = self.get(&format!("records/{code}")).send().await?.error_for_status()?.bytes().await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            if !body.windows(code.len()).any(|part| part == code.as_bytes()) {
                return Err("another record".into());
            }
        }
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        Ok((at(0.5), at(0.99)))
    }
}
